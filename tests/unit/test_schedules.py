"""Schedules against formulas written again in NumPy, their checks, and how they are stored."""

import copy
import doctest
import json
import pickle
import subprocess
import sys
import timeit
import warnings
from dataclasses import FrozenInstanceError, dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pellucid import schedules
from pellucid.schedules import (
    Constant,
    Cosine,
    Exponential,
    InverseSquareRoot,
    Join,
    Linear,
    Piecewise,
    Polynomial,
    Schedule,
    WarmUp,
    WarmUpStableDecay,
    schedule_from_config,
)

COUNTS = np.array([*range(260), 299, 300, 301, 999, 1000, 1001, 4096, 10**5, 10**6])


@dataclass(frozen=True)
class Harmonic(Schedule):
    """A user's own schedule, with every kind of plain data."""

    start: float
    then: Schedule | None = None
    powers: tuple[float, ...] = (1.0,)
    label: str = "harmonic"

    def value(self, count: Any, xp: Any = np) -> Any:
        return self.start / (count + 1) ** self.powers[0]


@dataclass(frozen=True, slots=True)
class Slotted(Schedule):
    start: float

    def value(self, count: Any, xp: Any = np) -> Any:
        return xp.where(count > 0, self.start / count, self.start)


# One row a case: the schedule, and its paper's formula for one count, written independently.


def line(a, b, n):
    return lambda t: a + (b - a) * t / n if t < n else b


def half_cosine(a, b, n):
    return lambda t: b + 0.5 * (a - b) * (1 + np.cos(np.pi * t / n)) if t < n else b


def after(n, early, late):
    return lambda t: early(t) if t < n else late(t - n)


def plateau(peak, warmup, stable, decay):
    """`decay(f)` for the fraction f of the 100 updates after the plateau."""

    def value(t):
        if t < warmup:
            return peak * (t + 1) / warmup
        return peak if t < warmup + stable else decay(min((t - warmup - stable) / 100, 1))

    return value


def inverse_square_root(model, warmup):  # equation 3 as printed, scaled so that its top is `model`
    return lambda t: model * warmup**0.5 * min((t + 1) ** -0.5, (t + 1) * warmup**-1.5)


CASES = [
    (Constant(0.3), lambda t: 0.3),
    (Constant(0), lambda t: 0.0),
    (Linear(0.1, 0.001, 100), line(0.1, 0.001, 100)),
    (Linear(-0.5, 0.9, 7), line(-0.5, 0.9, 7)),
    (Linear(1, 0, 1), line(1.0, 0.0, 1)),
    (Cosine(1e-3, 100), half_cosine(1e-3, 0.0, 100)),
    (Cosine(0.9, 37, end=0.1), half_cosine(0.9, 0.1, 37)),
    (Cosine(0.1, 1000, end=0.9), half_cosine(0.1, 0.9, 1000)),
    (Exponential(0.1, 0.96), lambda t: 0.1 * np.exp(t * np.log(0.96))),
    (Exponential(0.1, 0.5, every=50), lambda t: 0.1 * np.exp(t * np.log(0.5) / 50)),
    (Exponential(0.1, 0.5, 7, staircase=True), lambda t: 0.1 * np.exp((t // 7) * np.log(0.5))),
    (Exponential(0.1, 0.9, end=0.01), lambda t: max(0.1 * np.exp(t * np.log(0.9)), 0.01)),
    (Exponential(0.1, 1.1, 3, end=0.8),
     lambda t: min(0.1 * np.exp(min(t, 999) / 3 * np.log(1.1)), 0.8)),
    (Exponential(-0.1, 0.9, end=-0.02), lambda t: min(-0.1 * np.exp(t * np.log(0.9)), -0.02)),
    (Exponential(-0.1, 1.01, end=-0.2),
     lambda t: max(-0.1 * np.exp(min(t, 999) * np.log(1.01)), -0.2)),
    (Polynomial(0.1, 0.0, 90), line(0.1, 0.0, 90)),
    (Polynomial(0.1, 0.01, 90, power=0.9), lambda t: 0.09 * (1 - min(t, 90) / 90) ** 0.9 + 0.01),
    (Polynomial(0.2, 1, 90, power=3), lambda t: -0.8 * (1 - min(t, 90) / 90) ** 3 + 1),
    (Piecewise((10, 200), (0.1, -0.2, 0.3)), lambda t: 0.1 if t < 10 else -0.2 if t < 200 else 0.3),
    (Piecewise((), (0.7,)), lambda t: 0.7),
    (WarmUp(10, 0.5), after(10, line(0.0, 0.5, 10), lambda t: 0.5)),
    (WarmUp(10, Cosine(0.5, 90, end=0.1), start=0.05),
     after(10, line(0.05, 0.5, 10), half_cosine(0.5, 0.1, 90))),
    (WarmUp(10, InverseSquareRoot(1.0, 20)),
     after(10, line(0.0, 0.05, 10), inverse_square_root(1.0, 20))),
    (WarmUp(5, WarmUp(5, 1.0, start=0.5)),
     after(5, line(0, 0.5, 5), after(5, line(0.5, 1, 5), lambda t: 1.0))),
    (InverseSquareRoot(0.7, 40), inverse_square_root(0.7, 40)),
    (InverseSquareRoot(0.7, 1), inverse_square_root(0.7, 1)),
    (WarmUpStableDecay(0.6, 20, 100, 100), plateau(0.6, 20, 100, lambda f: 0.6 * (1 - f))),
    (WarmUpStableDecay(0.6, 20, 0, 100, end=0.1, shape="cosine"),
     plateau(0.6, 20, 0, lambda f: 0.1 + 0.5 * np.cos(np.pi * f / 2) ** 2)),
    (WarmUpStableDecay(0.6, 0, 30, 100, 0.2, "sqrt"),
     plateau(0.6, 0, 30, lambda f: 0.6 - 0.4 * f**0.5)),
    (Join((Linear(1, 0.5, 10), Constant(0.2), Cosine(0.3, 50)), (20, 60)),
     after(20, line(1, 0.5, 10), after(40, lambda t: 0.2, half_cosine(0.3, 0.0, 50)))),
    (Join((Constant(1), InverseSquareRoot(1.0, 4)), (3,)),
     after(3, lambda t: 1.0, inverse_square_root(1.0, 4))),
    (Join((Constant(1),), ()), lambda t: 1.0),
]  # fmt: skip
SCHEDULES = [schedule for schedule, _ in CASES]
named = pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)


@pytest.mark.parametrize(("schedule", "formula"), CASES, ids=[repr(s) for s in SCHEDULES])
def test_equals_the_formula_of_its_source(schedule, formula):
    expected = [formula(int(count)) for count in COUNTS]
    values = [schedule(int(count)) for count in COUNTS]
    assert all(type(value) is float for value in values)
    np.testing.assert_allclose(values, expected, rtol=1e-9, atol=1e-15)


@named
@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.uint32, np.float64])
def test_arrays_of_counts_equal_single_counts(schedule, dtype):
    with np.errstate(over="ignore"):
        values = np.broadcast_to(schedule.value(COUNTS.astype(dtype), np), COUNTS.shape)
        by_default = np.broadcast_to(schedule.value(COUNTS.astype(dtype)), COUNTS.shape)
    assert values.dtype == np.float64
    np.testing.assert_allclose(values, [schedule(int(c)) for c in COUNTS], rtol=1e-14, atol=1e-17)
    np.testing.assert_array_equal(values, by_default)


ENDS = st.floats(-1e6, 1e6)
STEPS = st.integers(1, 10**7)


@given(ENDS, ENDS, STEPS, st.integers(0, 10**9))
def test_start_and_end_are_exact(start, end, steps, beyond):
    for schedule in (
        Linear(start, end, steps),
        Cosine(start, steps, end),
        Polynomial(start, end, steps, power=2.5),
        *(WarmUpStableDecay(start, 0, 0, steps, end, shape) for shape in schedules._REMAINDERS),
    ):
        assert schedule(0) == start
        assert schedule(steps) == schedule(steps + beyond) == end
        low, high = sorted((start, end))
        slack = 1e-15 * max(-low, high)
        assert low - slack <= schedule(steps // 2) <= high + slack


@given(ENDS, ENDS, STEPS, st.integers(0, 1000))
def test_warm_up_meets_the_next_schedule_exactly(start, peak, steps, count):
    then = Cosine(peak, 500, end=0.25)
    schedule = WarmUp(steps, then, start)
    assert schedule(0) == start
    assert schedule(steps + count) == then(count)


@given(st.integers(1, 10**6), st.integers(0, 10**6), st.integers(1, 10**6))
def test_no_update_of_a_run_has_rate_zero(warmup, stable, decay):
    for shape in schedules._REMAINDERS:
        schedule = WarmUpStableDecay(1.0, warmup, stable, decay, shape=shape)
        assert schedule(0) == 1 / warmup
        assert schedule(warmup - 1) == schedule(warmup + stable) == 1
        assert schedule(warmup + stable + decay - 1) > 0
        assert schedule(warmup + stable + decay) == 0
    assert InverseSquareRoot(1.0, warmup)(0) == 1 / warmup
    assert InverseSquareRoot(1.0, warmup)(warmup - 1) == 1


@given(st.integers(1, 10**6), st.integers(0, 1000))
def test_a_staircase_steps_exactly_at_multiples(every, k):
    schedule = Exponential(1.0, 0.5, every, staircase=True)
    assert schedule(k * every) == schedule(k * every + every - 1) == 0.5**k


def test_piecewise_and_join_change_at_the_boundary():
    piecewise = Piecewise([3, 5], [1, 2, 3])
    assert [piecewise(count) for count in range(7)] == [1, 1, 1, 2, 2, 3, 3]
    join = Join([Constant(9), Linear(0, 3, 3), Constant(7)], [2, 4])
    assert [join(count) for count in range(6)] == [9, 9, 0, 1, 7, 7]


@pytest.mark.parametrize("count", [5, 5.0, np.int32(5), np.uint8(5), np.float32(5), np.array(5)])
def test_takes_every_kind_of_number(count):
    assert Linear(1, 0, 10)(count) == 0.5


BAD_COUNTS = [-1, -0.5, np.int64(-1), True, "3", None, float("nan"), float("inf"), [1], 1j,
              np.array([1, 2]), np.array(-1)]  # fmt: skip


@named
@pytest.mark.parametrize("count", BAD_COUNTS, ids=repr)
def test_refuses_what_is_no_count(schedule, count):
    with pytest.raises(ValueError, match=r"count=.* is not allowed; it must be .* from 0: pass"):
        schedule(count)


@pytest.mark.filterwarnings("error")
def test_overflow_is_infinite_as_in_arrays():
    assert Exponential(1.0, 2.0)(5000) == np.inf
    assert Exponential(1.0, 2.0, end=8.0)(5000) == 8.0


def test_a_side_of_where_that_is_not_taken_may_be_undefined():
    assert Slotted(0.5)(0) == 0.5
    assert Slotted(0.5)(2) == 0.25


NAN, INF = float("nan"), float("inf")
NO_NUMBERS = ["1", None, True, np.True_, NAN, INF, -INF, 1j, [1.0], 10**400]
NO_STEPS = ["1", None, True, NAN, INF, 0, -1, 1.5, [3]]
NO_BOUNDARIES = [5, None, "12", (0, 1), (-1,), (1, 1), (2, 1), (1.5,), (True,), ("1",), {1, 2}]
LINEAR = {"start": 1.0, "end": 0.0, "steps": 10}
WSD = {"peak": 1.0, "warmup": 1, "stable": 1, "decay": 1}
BAD = [
    (Constant, {}, "number", NO_NUMBERS),
    (Linear, LINEAR, "start", NO_NUMBERS),
    (Linear, LINEAR, "end", NO_NUMBERS),
    (Linear, LINEAR, "steps", NO_STEPS),
    (Cosine, {"start": 1.0, "steps": 10}, "start", NO_NUMBERS),
    (Cosine, {"start": 1.0, "steps": 10}, "steps", NO_STEPS),
    (Cosine, {"start": 1.0, "steps": 10}, "end", NO_NUMBERS),
    (Exponential, {"start": 1.0, "rate": 0.9}, "start", NO_NUMBERS),
    (Exponential, {"start": 1.0, "rate": 0.9}, "rate", [*NO_NUMBERS, 0, -0.5]),
    (Exponential, {"start": 1.0, "rate": 0.9}, "every", NO_STEPS),
    (Exponential, {"start": 1.0, "rate": 0.9}, "staircase", [1, 0, None, "yes"]),
    (Exponential, {"start": 1.0, "rate": 0.9}, "end", [x for x in NO_NUMBERS if x is not None]),
    (Polynomial, LINEAR, "start", NO_NUMBERS),
    (Polynomial, LINEAR, "end", NO_NUMBERS),
    (Polynomial, LINEAR, "steps", NO_STEPS),
    (Polynomial, LINEAR, "power", [*NO_NUMBERS, 0, -1]),
    (Piecewise, {"values": (1.0, 2.0)}, "boundaries", NO_BOUNDARIES),
    (Piecewise, {"boundaries": (1,)}, "values",
     [(), (1.0,), (1.0, 2.0, 3.0), 5, "12", (1, NAN), (True, 2)]),
    (WarmUp, {"then": 1.0}, "steps", NO_STEPS),
    (WarmUp, {"steps": 10}, "then", [*NO_NUMBERS, Constant, {"class": "Constant"}]),
    (WarmUp, {"steps": 10, "then": 1.0}, "start", NO_NUMBERS),
    (InverseSquareRoot, {"warmup": 10}, "peak", NO_NUMBERS),
    (InverseSquareRoot, {"peak": 1.0}, "warmup", NO_STEPS),
    (WarmUpStableDecay, WSD, "peak", NO_NUMBERS),
    (WarmUpStableDecay, WSD, "warmup", [x for x in NO_STEPS if x != 0]),
    (WarmUpStableDecay, WSD, "stable", [x for x in NO_STEPS if x != 0]),
    (WarmUpStableDecay, WSD, "decay", NO_STEPS),
    (WarmUpStableDecay, WSD, "end", NO_NUMBERS),
    (WarmUpStableDecay, WSD, "shape", ["exp", "Linear", None, 1, ["linear"], {}]),
    (Join, {"boundaries": (1,)}, "schedules",
     [Constant(1), None, (), (Constant(1),), (Constant(1), 0.5), (Constant, Constant)]),
    (Join, {"schedules": (Constant(1), Constant(2))}, "boundaries", NO_BOUNDARIES),
]  # fmt: skip


@pytest.mark.parametrize(
    ("cls", "good", "name", "value"),
    [(cls, good, name, value) for cls, good, name, values in BAD for value in values],
)
def test_refuses_a_bad_argument_and_says_what_to_do(cls, good, name, value):
    with pytest.raises(ValueError, match=r" is not allowed; it must be .+: \w+ .+\.$") as caught:
        cls(**{**good, name: value})
    assert str(caught.value).startswith(f"{cls.__name__}: {name}={value!r} ")


def test_bad_arguments_are_tried_for_every_argument():
    tried = {(cls, name) for cls, _, name, _ in BAD}
    classes = {type(schedule) for schedule in SCHEDULES}
    assert classes == {getattr(schedules, n) for n in schedules.__all__ if n[0].isupper()} - {
        Schedule
    }
    assert tried == {(cls, name) for cls in classes for name in cls.__dataclass_fields__}


def test_keeps_plain_numbers_and_tuples():
    assert repr(Linear(np.float32(0.5), 1, 1e3)) == "Linear(start=0.5, end=1.0, steps=1000)"
    assert repr(Cosine(0.001, steps=np.int64(100))) == "Cosine(start=0.001, steps=100)"
    assert repr(WarmUp(10, Cosine(0.1, 20, end=0.01))) == (
        "WarmUp(steps=10, then=Cosine(start=0.1, steps=20, end=0.01))"
    )
    piecewise = Piecewise([1, 2], [1, 2, 3])
    assert piecewise == Piecewise((1, 2), (1.0, 2.0, 3.0))
    assert repr(piecewise) == "Piecewise(boundaries=(1, 2), values=(1.0, 2.0, 3.0))"
    assert Join([Constant(1)], []).schedules == (Constant(1),)


@named
def test_is_a_value(schedule):
    for twin in (copy.deepcopy(schedule), pickle.loads(pickle.dumps(schedule)), evaluate(schedule)):
        assert twin == schedule
        assert hash(twin) == hash(schedule)
    assert sum(other == schedule for other in SCHEDULES) == 1
    with pytest.raises(FrozenInstanceError):
        setattr(schedule, next(iter(schedule.__dataclass_fields__)), 1)


def evaluate(schedule):
    return eval(repr(schedule), vars(schedules))


def through_json(schedule):
    config = schedule.get_config()
    stored = json.loads(json.dumps(config, allow_nan=False))
    assert stored == config
    loaded = schedule_from_config(stored)
    assert type(loaded) is type(schedule)
    assert type(schedule).from_config(stored) == Schedule.from_config(stored) == loaded
    assert loaded.get_config() == config
    return loaded


@pytest.mark.parametrize(
    "schedule",
    [
        *SCHEDULES,
        Harmonic(0.1),
        Harmonic(0.1, Cosine(0.1, 5), (0.5, 1.0), "other"),
        Slotted(0.25),
        WarmUp(3, Harmonic(0.1, Slotted(0.5))),
    ],
    ids=repr,
)
def test_comes_back_equal_from_json(schedule):
    assert through_json(schedule) == schedule


SIMPLE = st.one_of(
    st.builds(Constant, ENDS),
    st.builds(Linear, ENDS, ENDS, STEPS),
    st.builds(Cosine, ENDS, STEPS, ENDS),
    st.builds(Exponential, ENDS, st.floats(0.01, 2), STEPS, st.booleans(), st.none() | ENDS),
    st.builds(Polynomial, ENDS, ENDS, STEPS, st.floats(0.01, 9)),
    st.builds(InverseSquareRoot, ENDS, STEPS),
    st.builds(WarmUpStableDecay, ENDS, STEPS, STEPS, STEPS, ENDS,
              st.sampled_from(["linear", "cosine", "sqrt"])),
)  # fmt: skip


def nested(inner):
    pair = st.tuples(inner, inner)
    return st.builds(WarmUp, STEPS, inner | ENDS, ENDS) | st.builds(Join, pair, st.tuples(STEPS))


@given(st.recursive(SIMPLE, nested, max_leaves=4), st.integers(0, 10**7))
def test_any_schedule_comes_back_equal_and_runs_alike(schedule, count):
    loaded = through_json(schedule)
    assert loaded == schedule
    assert loaded(count) == schedule(count) == evaluate(schedule)(count)


def test_a_config_is_plain_and_names_the_class():
    schedule = WarmUp(5, Join((Constant(1), Cosine(0.5, 10)), (3,)))
    assert schedule.get_config() == {
        "class": "WarmUp",
        "steps": 5,
        "then": {
            "class": "Join",
            "schedules": [
                {"class": "Constant", "number": 1.0},
                {"class": "Cosine", "start": 0.5, "steps": 10, "end": 0.0},
            ],
            "boundaries": [3],
        },
        "start": 0.0,
    }
    assert Harmonic(0.1).get_config()["class"] == f"{__name__}:Harmonic"


BAD_CONFIGS = [
    ({"class": "Cosin"}, r"class='Cosin' is not allowed; .*one of Constant, .*correct the name"),
    ({"class": "colorsys:Own"}, r"class='colorsys:Own' .*import it first, with `import colorsys`"),
    ({"class": "Schedule"}, r"class='Schedule' is not allowed"),
    ({"class": "os:system", "command": "true"}, r"class='os:system' is not allowed"),
    ({"class": "Cosine", "start": 1, "step": 2, "steps": 2}, r"Cosine: unknown argument 'step' in"),
    ({"class": "Linear", "start": 1}, r"Linear: missing argument 'end', 'steps' in .* add"),
    ({"class": "Cosine", "start": 1, "steps": 0}, r"Cosine: steps=0 is not allowed"),
    ({"class": "WarmUp", "steps": 1, "then": {"class": "X"}}, r"class='X' is not allowed"),
    ({"start": 1}, r'config=.* with a "class"'),
    ({"class": None}, r'config=.* with a "class"'),
    ([], r'config=\[\] .* with a "class"'),
    (None, r'config=None .* with a "class"'),
]


@pytest.mark.parametrize(("config", "message"), BAD_CONFIGS)
def test_refuses_a_bad_config(config, message):
    loaded = set(sys.modules)
    with pytest.raises(ValueError, match=message):
        schedule_from_config(config)
    assert "colorsys" not in set(sys.modules) - loaded


def test_from_config_of_a_class_refuses_another_class():
    with pytest.raises(ValueError, match=r"Linear\.from_config: .* must be of a Linear"):
        Linear.from_config(Constant(1).get_config())


def test_a_class_defined_again_replaces_the_earlier_one():
    def define(factor):
        @dataclass(frozen=True)
        class Local(Schedule):
            start: float

            def value(self, count, xp):
                return self.start * factor

        return Local

    first, second = define(1), define(2)
    assert type(schedule_from_config(first(1.0).get_config())) is second


def test_own_schedules_that_cannot_be_stored_say_why():
    class Bare(Schedule):
        def value(self, count, xp):
            return 1.0

    assert Bare()(3) == 1.0
    with pytest.raises(TypeError, match=r"Bare cannot be stored: .* @dataclass\(frozen=True\)"):
        Bare().get_config()
    with pytest.raises(ValueError, match=r"Harmonic: start=array.* convert it in __post_init__"):
        Harmonic(np.ones(2)).get_config()


def test_schedule_itself_is_abstract():
    with pytest.raises(TypeError, match="abstract"):
        Schedule()


def test_importing_and_calling_loads_no_numpy():
    code = (
        "import sys; from pellucid.schedules import *; before = 'numpy' in sys.modules; "
        "import pellucid; s = WarmUp(3, Cosine(1, 9)); s(5); repr(s); "
        "assert before == ('numpy' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_call_takes_microseconds():
    schedule = WarmUp(10, Cosine(0.1, 100))
    best = min(timeit.repeat(lambda: schedule(50), number=1000, repeat=5)) / 1000
    assert best < 30e-6  # 2e-6 on an idle machine; NumPy's scalars take 20e-6 there


def test_docstrings_run():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = doctest.testmod(schedules)
    assert result.failed == 0
    documented = [getattr(schedules, name) for name in schedules.__all__]
    assert all(">>> " in item.__doc__ for item in documented)
