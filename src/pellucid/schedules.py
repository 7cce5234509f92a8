"""Schedules: the value of a hyperparameter as a pure function of the completed updates.

A schedule is a frozen dataclass: `schedule(count)` gives a Python float, `schedule.value(counts,
xp)` the same formula on arrays, also under trace. `count` is the number of completed updates, 0
for the first one. A schedule is stored as plain data, and that data is read without any import.
"""

import inspect
import math
import operator
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from importlib import import_module
from itertools import pairwise
from numbers import Real
from types import SimpleNamespace
from typing import Annotated, Any, Literal, NoReturn, Self, final

__all__ = [
    "Constant", "Cosine", "Exponential", "InverseSquareRoot", "Join", "Linear", "Piecewise",
    "Polynomial", "Schedule", "WarmUp", "WarmUpStableDecay", "schedule_from_config",
]  # fmt: skip


class _LazyNumPy:
    """NumPy, imported at its first use: it alone takes as long as `import pellucid` may."""

    def __getattr__(self, name: str) -> Any:
        return getattr(import_module("numpy"), name)

    def __repr__(self) -> str:
        return "numpy"


_numpy: Any = _LazyNumPy()


# The namespace for one count: NumPy's scalars would cost ten times as much.
_scalars = SimpleNamespace(
    where=lambda condition, chosen, otherwise: chosen if condition else otherwise,
    minimum=min,
    maximum=max,
    cos=math.cos,
    exp=math.exp,
    power=math.pow,
    sqrt=math.sqrt,
    floor=math.floor,
)


@dataclass(frozen=True)
class _Kind:
    """What an argument must be: `convert` returns what is kept, or raises for what is refused."""

    convert: Callable[[Any], Any]
    allowed: str
    remedy: str

    def check(self, schedule: "Schedule", name: str) -> None:
        value = getattr(schedule, name)
        try:
            object.__setattr__(schedule, name, self.convert(value))
        except (TypeError, ValueError, OverflowError):
            _refuse(type(schedule).__name__, name, value, self.allowed, self.remedy)

    def __repr__(self) -> str:  # as help() shows the signature of a schedule
        return self.allowed


class Schedule(ABC):
    """A hyperparameter's value as a pure function of the optimizer's completed updates.

    A schedule of your own is a frozen dataclass with one method. Write it with operators and the
    functions of `xp`, so that it also runs inside a compiled training step. Both sides of
    `xp.where` are evaluated: each must be defined for every count from 0.

    >>> @dataclass(frozen=True)
    ... class Harmonic(Schedule):
    ...     start: float
    ...
    ...     def value(self, count, xp):
    ...         return self.start / (count + 1)
    >>> Harmonic(0.1)(3)
    0.025
    """

    def __post_init__(self) -> None:
        for field in fields(self):  # type: ignore[arg-type]  # only a dataclass calls this
            for kind in getattr(field.type, "__metadata__", ()):
                if isinstance(kind, _Kind):
                    kind.check(self, field.name)

    @abstractmethod
    def value(self, count: Any, xp: Any = _numpy) -> Any:
        """The formula on a number or an array of counts (from 0), which it does not check.

        `xp` is an array namespace with NumPy's `where, minimum, maximum, cos, exp, power, sqrt,
        floor`. The result broadcasts against `count`.
        """

    def __call__(self, count: Any) -> float:
        """The value, in float64, for the update that follows `count` completed ones.

        Raises ValueError if `count` is negative or not a number.
        """
        plain = count if type(count) is int and count >= 0 else _plain_count(self, count)
        try:
            return float(self.value(plain, _scalars))
        except (ArithmeticError, ValueError):  # Python raises where arrays have inf or nan
            with _numpy.errstate(all="ignore"):
                return float(self.value(_numpy.float64(plain), _numpy))

    def get_config(self) -> dict[str, Any]:
        """Plain JSON data from which `schedule_from_config` makes an equal schedule."""
        config: dict[str, Any] = {"class": _stored_name(type(self))}
        for name in _arguments(type(self)):
            config[name] = _to_plain(self, name, getattr(self, name))
        return config

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """The schedule that `config` describes; ValueError if it is not of this class."""
        schedule = schedule_from_config(config)
        if not isinstance(schedule, cls):
            remedy = "call schedule_from_config, which takes every schedule"
            _refuse(f"{cls.__name__}.from_config", "config", config, f"of a {cls.__name__}", remedy)
        return schedule

    def __repr__(self) -> str:
        items = ((k, getattr(self, k), default) for k, default in _arguments(type(self)).items())
        shown = ", ".join(f"{k}={v!r}" for k, v, default in items if v != default)
        return f"{type(self).__name__}({shown})"


def schedule_from_config(config: Mapping[str, Any]) -> Schedule:
    """The schedule that `config` describes: the inverse of `Schedule.get_config`.

    A class from outside this module must have been imported before. ValueError for an unknown
    class and for unknown, missing or refused arguments.

    >>> schedule_from_config({"class": "Linear", "start": 0.1, "end": 0, "steps": 100})
    Linear(start=0.1, end=0.0, steps=100)
    """
    if not isinstance(config, Mapping) or not isinstance(config.get("class"), str):
        allowed = 'a dictionary with a "class", such as {"class": "Constant", "number": 0.1}'
        _refuse("schedule_from_config", "config", config, allowed, "pass what get_config returned")
    cls = _stored_class(config["class"])
    defaults = _arguments(cls)
    given = {name: value for name, value in config.items() if name != "class"}
    unknown = [name for name in given if name not in defaults]
    missing = [name for name, v in defaults.items() if v is MISSING and name not in given]
    for names, what, remedy in ((unknown, "unknown", "remove"), (missing, "missing", "add")):
        if names:
            raise ValueError(
                f"{cls.__name__}: {what} argument {', '.join(map(repr, names))} in {config!r}; "
                f"the arguments are {', '.join(defaults)}: {remedy} it in the config."
            )
    return cls(**{name: _from_plain(value) for name, value in given.items()})


def _arguments(cls: type[Schedule]) -> dict[str, Any]:
    """The default of each argument, MISSING where it must be given."""
    if not is_dataclass(cls):
        raise TypeError(
            f"{cls.__name__} cannot be stored: a schedule must be a frozen dataclass; put "
            "@dataclass(frozen=True) above the class."
        )
    return {
        f.name: f.default if f.default_factory is MISSING else f.default_factory()
        for f in fields(cls)
        if f.init
    }


def _stored_name(cls: type[Schedule]) -> str:
    ours = cls.__module__ == __name__
    return cls.__qualname__ if ours else f"{cls.__module__}:{cls.__qualname__}"


def _subclasses(cls: type[Any]) -> Iterator[type[Schedule]]:
    for subclass in cls.__subclasses__():
        yield subclass
        yield from _subclasses(subclass)


def _stored_class(name: str) -> type[Schedule]:
    # A class defined again (in a notebook, or by dataclass(slots=True)) replaces the earlier one.
    known = {_stored_name(cls): cls for cls in _subclasses(Schedule) if not inspect.isabstract(cls)}
    if name not in known:
        module, colon, _ = name.partition(":")
        remedy = f"import it first, with `import {module}`" if colon else "correct the name"
        allowed = f"a loaded class, one of {', '.join(sorted(known))}"
        _refuse("schedule_from_config", "class", name, allowed, remedy)
    return known[name]


def _to_plain(schedule: Schedule, name: str, value: Any) -> Any:
    if isinstance(value, Schedule):
        return value.get_config()
    if isinstance(value, tuple):
        return [_to_plain(schedule, name, item) for item in value]
    if value is not None and not isinstance(value, str | int | float):
        allowed = "None, a bool, int, float, str or Schedule or a tuple of them, to be stored"
        _refuse(type(schedule).__name__, name, value, allowed, "convert it in __post_init__")
    return value


def _from_plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return schedule_from_config(value)
    return tuple(map(_from_plain, value)) if isinstance(value, list | tuple) else value


def _refuse(owner: str, name: str, value: Any, allowed: str, remedy: str) -> NoReturn:
    raise ValueError(f"{owner}: {name}={value!r} is not allowed; it must be {allowed}: {remedy}.")


def _plain_count(schedule: Schedule, count: Any) -> int | float:
    try:
        if not isinstance(count, Real):  # a framework's integer scalar
            count = operator.index(count)
        plain: int | float = count if type(count) is int else _real(count)
        if plain >= 0:
            return plain
    except (TypeError, ValueError):
        pass
    allowed = "the number of completed updates, a finite number from 0"
    remedy = "pass 0 for the first update; for arrays or in a compiled step call value(count, xp)"
    _refuse(type(schedule).__name__, "count", count, allowed, remedy)


def _hold(value: Any, condition: bool) -> Any:
    if not condition:
        raise ValueError
    return value


def _real(value: Any) -> float:
    number = isinstance(value, Real) and not isinstance(value, bool)
    return float(_hold(value, number and math.isfinite(value)))


def _whole(value: Any, minimum: int = 1) -> int:
    number = value if isinstance(value, int) and not isinstance(value, bool) else _real(value)
    return int(_hold(number, number >= minimum and number % 1 == 0))


def _items(value: Any) -> tuple[Any, ...]:
    return tuple(_hold(value, isinstance(value, list | tuple)))


def _increasing(value: Any) -> tuple[int, ...]:
    counts = tuple(map(_whole, _items(value)))
    _hold(counts, all(earlier < later for earlier, later in pairwise(counts)))
    return counts


# The types of the arguments, with what is checked when a schedule is made: one row each.
# fmt: off
_Number = Annotated[float, _Kind(_real, "a finite number", "pass a float such as 0.001")]
_Positive = Annotated[float, _Kind(
    lambda v: _hold(_real(v), v > 0), "a finite number above 0", "pass a float such as 0.5")]
_Limit = Annotated[float | None, _Kind(
    lambda v: v if v is None else _real(v), "a finite number or None", "pass None for no limit")]
_Steps = Annotated[int, _Kind(
    _whole, "a whole number of updates, at least 1", "pass an int such as 1000")]
_StepsOrNone = Annotated[int, _Kind(
    lambda v: _whole(v, minimum=0), "a whole number of updates, at least 0", "pass 0 for none")]
_Flag = Annotated[bool, _Kind(
    lambda v: _hold(v, isinstance(v, bool)), "a bool", "pass True or False")]
_Boundaries = Annotated[tuple[int, ...], _Kind(
    _increasing, "a tuple of strictly increasing whole numbers, at least 1 each",
    "sort the counts and drop doubles and 0")]
_Numbers = Annotated[tuple[float, ...], _Kind(
    lambda v: tuple(map(_real, _items(v))), "a tuple of finite numbers", "pass (0.1, 0.01) or so")]
_Schedules = Annotated[tuple[Schedule, ...], _Kind(
    lambda v: tuple(_hold(item, isinstance(item, Schedule)) for item in _items(v)),
    "a tuple of schedules", "write Constant(0.001) for a number")]
_Next = Annotated[Schedule | float, _Kind(
    lambda v: v if isinstance(v, Schedule) else _real(v),
    "a schedule or a finite number", "pass one such as Cosine(0.001, 1000)")]
_Shape = Annotated[Literal["linear", "cosine", "sqrt"], _Kind(
    lambda v: _hold(v, v in tuple(_REMAINDERS)),
    "'linear', 'cosine' or 'sqrt'", "pass one of them")]
# fmt: on


def _check_length(schedule: Schedule, name: str, boundaries: tuple[int, ...]) -> None:
    items, length = getattr(schedule, name), len(boundaries) + 1
    if len(items) != length:
        allowed = f"one longer than boundaries={boundaries!r}"
        _refuse(type(schedule).__name__, name, items, allowed, f"give {length} {name}")


# What several formulas share.


def _mix(first: Any, second: Any, weight: Any) -> Any:
    """From `first` at weight 0 to `second` at weight 1, exact at both ends."""
    return first * (1 - weight) + second * weight


def _fraction(count: Any, steps: int, xp: Any) -> Any:
    """The part of `steps` that is done, from 0 to 1."""
    return xp.minimum(count, steps) / steps


def _since(count: Any, boundary: int, xp: Any) -> Any:
    """The updates since `boundary`, never negative; unsigned counts are safe."""
    return xp.maximum(count, boundary) - boundary


# The part of a decay that remains, from 1 to 0, when the fraction f of its updates is done.
_REMAINDERS: dict[str, Callable[[Any, Any], Any]] = {
    "linear": lambda f, xp: 1 - f,
    "cosine": lambda f, xp: (1 + xp.cos(math.pi * f)) / 2,
    "sqrt": lambda f, xp: 1 - xp.sqrt(f),
}


@final
@dataclass(frozen=True, repr=False)
class Constant(Schedule):
    """The same number at every update.

    `number`: the value.

    >>> Constant(0.1)(1000)
    0.1
    """

    number: _Number

    def value(self, count: Any, xp: Any = _numpy) -> Any:
        return self.number


@final
@dataclass(frozen=True, repr=False)
class Linear(Schedule):
    """A straight line from `start` to `end`, which then stays at `end`.

    `start + (end - start) * min(count / steps, 1)`; `steps` in updates.
    Devlin et al. 2018, arXiv:1810.04805, appendix A.2.

    >>> Linear(1.0, 0.5, steps=100)(50)
    0.75
    """

    start: _Number
    end: _Number
    steps: _Steps

    def value(self, count: Any, xp: Any = _numpy) -> Any:
        return _mix(self.start, self.end, _fraction(count, self.steps, xp))


@final
@dataclass(frozen=True, repr=False)
class Cosine(Schedule):
    """Half a cosine from `start` to `end`, which then stays at `end`.

    `end + (start - end) * (1 + cos(pi * min(count / steps, 1))) / 2`; `steps` in updates.
    Loshchilov & Hutter 2017, arXiv:1608.03983, equation 5, without restarts.

    >>> Cosine(0.001, steps=100)(100)
    0.0
    """

    start: _Number
    steps: _Steps
    end: _Number = 0.0

    def value(self, count: Any, xp: Any = _numpy) -> Any:
        remainder = _REMAINDERS["cosine"](_fraction(count, self.steps, xp), xp)
        return _mix(self.end, self.start, remainder)


@final
@dataclass(frozen=True, repr=False)
class Exponential(Schedule):
    """Multiplied by `rate` in every `every` updates, as far as `end`.

    `start * rate ** (count / every)`, the exponent rounded down with `staircase`. `rate` is above
    0; `every` in updates; `end`, where given, is the lower bound of a falling value and the upper
    bound of a rising one. As optax.exponential_decay, and as Keras's ExponentialDecay.

    >>> Exponential(1.0, rate=0.5, every=10, staircase=True)(29)
    0.25
    """

    start: _Number
    rate: _Positive
    every: _Steps = 1
    staircase: _Flag = False
    end: _Limit = None

    def value(self, count: Any, xp: Any = _numpy) -> Any:
        exponent = count / self.every
        value = self.start * xp.power(self.rate, xp.floor(exponent) if self.staircase else exponent)
        if self.end is None:
            return value
        falls = self.start * (self.rate - 1) <= 0
        return xp.maximum(value, self.end) if falls else xp.minimum(value, self.end)


@final
@dataclass(frozen=True, repr=False)
class Polynomial(Schedule):
    """A power of the remaining part, from `start` to `end`, which then stays at `end`.

    `end + (start - end) * (1 - min(count / steps, 1)) ** power`; `steps` in updates, `power`
    above 0. Chen et al. 2016, arXiv:1606.00915, section 4.1.2 ("poly", power 0.9).

    >>> Polynomial(1.0, 0.0, steps=4, power=2)(2)
    0.25
    """

    start: _Number
    end: _Number
    steps: _Steps
    power: _Positive = 1.0

    def value(self, count: Any, xp: Any = _numpy) -> Any:
        remainder = xp.power(1 - _fraction(count, self.steps, xp), self.power)
        return _mix(self.end, self.start, remainder)


@final
@dataclass(frozen=True, repr=False)
class Piecewise(Schedule):
    """Constant between boundaries, with a new value at each of them.

    `values[i]` for `boundaries[i-1] <= count < boundaries[i]`, in updates: the value changes at
    `count == boundary`, as in torch's MultiStepLR; Keras's PiecewiseConstantDecay changes one
    update later. He et al. 2015, arXiv:1512.03385, section 4.2.

    >>> schedule = Piecewise((100, 200), (0.1, 0.01, 0.001))
    >>> schedule(99), schedule(100)
    (0.1, 0.01)
    """

    boundaries: _Boundaries
    values: _Numbers

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_length(self, "values", self.boundaries)

    def value(self, count: Any, xp: Any = _numpy) -> Any:
        value: Any = self.values[0]
        for boundary, later in zip(self.boundaries, self.values[1:], strict=True):
            value = xp.where(count >= boundary, later, value)
        return value


@final
@dataclass(frozen=True, repr=False)
class WarmUp(Schedule):
    """A straight line from `start` to where another schedule begins, and then that schedule.

    `start + (then(0) - start) * count / steps` for `count < steps`, in updates; afterwards
    `then(count - steps)`. `then` may be a number. With `start=0` the first update has the value 0.
    Goyal et al. 2017, arXiv:1706.02677, section 2.2.

    >>> schedule = WarmUp(10, then=Cosine(1.0, steps=100))
    >>> schedule(5), schedule(10), schedule(60)
    (0.5, 1.0, 0.5)
    """

    steps: _Steps
    then: _Next
    start: _Number = 0.0

    def value(self, count: Any, xp: Any = _numpy) -> Any:
        then: Any = self.then  # before `steps` this is then(0), the end of the line
        if isinstance(then, Schedule):
            then = then.value(_since(count, self.steps, xp), xp)
        return _mix(self.start, then, _fraction(count, self.steps, xp))


@final
@dataclass(frozen=True, repr=False)
class InverseSquareRoot(Schedule):
    """A linear warm-up to `peak`, then a decay with the square root of the update's number.

    `peak * min(step / warmup, sqrt(warmup / step))` with `step = count + 1`: the first update has
    `peak / warmup`, the update number `warmup` has `peak`. `warmup` in updates.
    Vaswani et al. 2017, arXiv:1706.03762, equation 3.

    >>> schedule = InverseSquareRoot(1.0, warmup=100)
    >>> schedule(0), schedule(99), schedule(399)
    (0.01, 1.0, 0.5)
    """

    peak: _Number
    warmup: _Steps

    def value(self, count: Any, xp: Any = _numpy) -> Any:
        step = count + 1
        return self.peak * xp.minimum(step / self.warmup, xp.sqrt(self.warmup / step))


@final
@dataclass(frozen=True, repr=False)
class WarmUpStableDecay(Schedule):
    """A linear warm-up to `peak`, a plateau, and a decay to `end`; all lengths in updates.

    `peak * (count + 1) / warmup` for `count < warmup`; `peak` for the `stable` updates after;
    then `end + (peak - end) * g(f)` where `f = min((count - warmup - stable) / decay, 1)` and `g`
    by `shape` is "linear": `1 - f`, "cosine": `(1 + cos(pi * f)) / 2`, "sqrt": `1 - sqrt(f)`. So
    no update of the three phases has rate 0. `warmup` and `stable` may be 0. Hu et al. 2024,
    arXiv:2404.06395, section 4; "sqrt" is "1-sqrt" of Hägele et al. 2024, arXiv:2405.18392.

    >>> schedule = WarmUpStableDecay(1.0, warmup=10, stable=80, decay=100)
    >>> schedule(0), schedule(9), schedule(90), schedule(140), schedule(190)
    (0.1, 1.0, 1.0, 0.5, 0.0)
    """

    peak: _Number
    warmup: _StepsOrNone
    stable: _StepsOrNone
    decay: _Steps
    end: _Number = 0.0
    shape: _Shape = "linear"

    def value(self, count: Any, xp: Any = _numpy) -> Any:
        rising = xp.minimum((count + 1) / max(self.warmup, 1), 1.0)
        decaying = _since(count, self.warmup + self.stable, xp)
        remainder = _REMAINDERS[self.shape](_fraction(decaying, self.decay, xp), xp)
        return rising * _mix(self.end, self.peak, remainder)


@final
@dataclass(frozen=True, repr=False)
class Join(Schedule):
    """One schedule after another.

    `schedules[i](count - boundaries[i-1])` for `boundaries[i-1] <= count < boundaries[i]`, in
    updates: each later schedule starts at its boundary with count 0. As optax.join_schedules.

    >>> schedule = Join((Constant(1.0), Linear(0.5, 0.0, steps=10)), boundaries=(5,))
    >>> schedule(4), schedule(5), schedule(10)
    (1.0, 0.5, 0.25)
    """

    schedules: _Schedules
    boundaries: _Boundaries

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_length(self, "schedules", self.boundaries)

    def value(self, count: Any, xp: Any = _numpy) -> Any:
        value = self.schedules[0].value(count, xp)
        for boundary, later in zip(self.boundaries, self.schedules[1:], strict=True):
            since = _since(count, boundary, xp)
            value = xp.where(count >= boundary, later.value(since, xp), value)
        return value
