"""What is tested on every backend: rules with hyperparameters, and the parameters they update.

A case's values go to the rule and to its float64 reference alike: both have the same names. The
problem is one optimizer's: parameters of many shapes and layouts, updated together.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from unittest import mock

import numpy as np

from reference import REFERENCES
from reference.gradients import awkward_gradients, initial_parameter
from reference.steps import Array, Gradients, Result
from reference.test_references import ACTIVE, INITIAL_ONLY, OPTIONS, OTHER_FORM

STEPS = 50


@dataclass(frozen=True)
class Case:
    """A rule of the catalogue, and all that differs from its defaults."""

    name: str
    rule: str
    values: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.name


def wave(value: float, update: int) -> float:
    """A schedule that stays within a tenth of the value and repeats itself nowhere."""
    return value * (1 + 0.1 * math.cos(update))


def _scheduled(rule: str) -> dict[str, Any]:
    """The values of `ACTIVE`, those that a rule reads at each update as schedules."""
    return {
        name: value if name in INITIAL_ONLY else partial(wave, value)
        for name, value in ACTIVE[rule].items()
    }


def _cases() -> Iterator[Case]:
    for rule in REFERENCES:
        yield Case(f"{rule}-defaults", rule)
        yield Case(f"{rule}-active", rule, ACTIVE[rule])
        yield Case(f"{rule}-scheduled", rule, _scheduled(rule))
    for rule, form in OTHER_FORM.items():
        yield Case(f"{rule}-form", rule, form)
        yield Case(f"{rule}-active-form", rule, {**ACTIVE[rule], **form})
        yield Case(f"{rule}-scheduled-form", rule, {**_scheduled(rule), **form})
    for rule, values in [*OPTIONS, *MORE]:
        active = ACTIVE[rule].items() <= values.items()
        named = {k: v for k, v in values.items() if not (active and k in ACTIVE[rule])}
        texts = [k if v is True or callable(v) else f"{k}={v}" for k, v in named.items()]
        yield Case("-".join([rule, *["active"] * active, *texts]), rule, values)


MORE: list[tuple[str, dict[str, Any]]] = [
    ("Lion", {**ACTIVE["Lion"], "maximize": True}),
    ("RowwiseAdagrad", {**ACTIVE["RowwiseAdagrad"], "maximize": True}),
    ("SGD", {"momentum": lambda update: 0.0, "learning_rate": 0.05}),
    ("Signum", {"momentum": 0.0}),
    ("SGD", {"velocity_of": "step", "momentum": 0.8, "nesterov": True, "learning_rate": 0.05}),
    ("SGD", {"velocity_of": "step", "momentum": 0.8, "maximize": True}),
    ("SGD", {"decoupled_weight_decay": True, "weight_decay": 0.1, "learning_rate": 0.05}),
    ("Adam", {"corrected": "rate", "amsgrad": True, "beta2": 0.7}),
    ("Adam", {**ACTIVE["Adam"], **OTHER_FORM["Adam"], "decoupled_weight_decay": True}),
    ("NAdam", {**ACTIVE["NAdam"], "momentum_decay": 1.0, "decoupled_weight_decay": True}),
    ("RMSprop", {"epsilon_inside": True}),
    ("RMSprop", {**ACTIVE["RMSprop"], "epsilon_inside": True, "centered": True}),
    ("RMSprop", {**ACTIVE["RMSprop"], "velocity_of": "step"}),
    ("RMSprop", {**ACTIVE["RMSprop"], **OTHER_FORM["RMSprop"], "centered": True}),
]
CASES: list[Case] = list(_cases())


def torch_has(case: Case) -> bool:
    """Whether no option of a case is ours alone: then torch's class of the name computes it."""
    return not OTHER_FORM.get(case.rule, {}).keys() & case.values.keys()


# -- the problem -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tensor:
    """One parameter: where it begins, and its gradients."""

    initial: Array
    gradients: Gradients
    layout: Callable[[Array], Array] = np.array  # copies the initial value into some memory


def _transposed(values: Array) -> Array:
    return np.ascontiguousarray(values.T).T


def _gappy(values: Array) -> Array:
    """Every other column of a larger array."""
    base = np.full((values.shape[0], 2 * values.shape[1]), GAP, values.dtype)
    base[:, ::2] = values
    return base[:, ::2]


GAP = 7.25  # what stands between the elements of a gappy array, and must stay
LAYOUTS = {"transposed": _transposed, "gappy": _gappy}
SHAPES: dict[str, tuple[int, ...]] = {
    "scalar": (),
    "empty": (0,),
    "one": (1,),
    "vector": (7,),
    "matrix": (33, 5),
    "cube": (3, 4, 5),
    "transposed": (33, 5),
    "gappy": (6, 4),
    "skipped": (4, 3),
}


def missing(update: int) -> bool:
    """Where the parameter ``skipped`` has no gradient: the first, others alone, two in a row."""
    return update % 7 == 0 or update in (15, 16)


def problem(steps: int = STEPS) -> dict[str, Tensor]:
    """Parameters of all shapes; values are exact in float32."""
    made = {}
    for seed, (name, shape) in enumerate(SHAPES.items()):
        gradients: Gradients = awkward_gradients(shape, steps, seed=100 + seed)
        if name == "skipped":
            gradients = [None if missing(u) else grad for u, grad in enumerate(gradients)]
        initial = initial_parameter(shape, seed=100 + seed)
        made[name] = Tensor(initial, gradients, LAYOUTS.get(name, np.array))
    return made


# -- what is expected --------------------------------------------------------------------------


def _optimizers_clock(grads: Gradients, maximize: bool) -> Iterator[tuple[int, int, Array]]:
    """`reference.steps.updates`, but ``step`` is the number of the optimizer's update."""
    for update, grad in enumerate(grads):
        if grad is not None:
            yield update, update + 1, -grad if maximize else grad


def expected(case: Case, tensor: Tensor, clock: str) -> Result:
    """The reference's parameter and slots.

    Args:
        clock: whose updates ``step`` counts: ``"parameter"``, as the references do, or
            ``"optimizer"``: then a skipped update counts, too.
    """
    reference = REFERENCES[case.rule]
    function = getattr(reference, "func", reference)
    module = sys.modules[function.__module__]
    count = {"optimizer": _optimizers_clock, "parameter": module.updates}[clock]
    with mock.patch.object(module, "updates", count):
        return reference(tensor.initial, tensor.gradients, **case.values)


# -- how close ---------------------------------------------------------------------------------

RTOL = 1e-11
"""Float64 against float64: the same formula in another order. Hundreds of roundings of 1e-16, at
worst a momentum whose terms cancel to a thousandth of them."""

ROUNDING = 40 * 2.0**-23
"""Float32 against float64, relative to the largest value that the element had on its way.

50 updates each round what they store by half a unit in the last place, 2**-24: 25 units if all err
in one direction, as small steps on a large parameter do. The rest is for the roundings within an
update. An error of method is larger: 1 - float32(0.999) alone is wrong by 110 units.
"""

CANCELLING: dict[tuple[str, str], str] = {
    ("FTRL", "linear"): "n'^k - n^k cancels where n is large beside the gradient's square; what "
    "is lost is small beside n^k param / learning_rate, so the parameter shows any true error",
}
"""Slots whose float32 value may be far from the float64 one, and why."""


class Largest:
    """The largest absolute value that each element of each array had on its way."""

    def __init__(self) -> None:
        self.seen: dict[tuple[str, str], Array] = {}

    def look(self, name: str, what: str, array: Any) -> None:
        size = np.abs(np.asarray(array, dtype=np.float64))
        before = self.seen.get((name, what))
        self.seen[name, what] = size if before is None else np.maximum(before, size)


def assert_exact(actual: Result, wanted: Result, where: str) -> None:
    """Float64 results equal the reference's to `RTOL` of each element."""
    assert actual[1].keys() == wanted[1].keys(), where
    pairs = {"param": (actual[0], wanted[0])}
    pairs |= {slot: (actual[1][slot], wanted[1][slot]) for slot in wanted[1]}
    for what, (got, want) in pairs.items():
        assert got.dtype == np.float64, f"{where}/{what}"
        assert got.shape == want.shape, f"{where}/{what}"
        np.testing.assert_allclose(got, want, rtol=RTOL, atol=0, err_msg=f"{where}/{what}")


def assert_rounded(
    actual: Result, wanted: Result, largest: Largest, name: str, rule: str
) -> None:
    """Float32 results equal the reference's but for rounding."""
    assert actual[1].keys() == wanted[1].keys(), name
    pairs = {"param": (actual[0], wanted[0])}
    pairs |= {slot: (actual[1][slot], wanted[1][slot]) for slot in wanted[1]}
    for what, (got, want) in pairs.items():
        assert got.dtype == np.float32, f"{name}/{what}"
        assert got.shape == want.shape, f"{name}/{what}"
        if (rule, what) in CANCELLING:
            continue
        allowed = ROUNDING * np.maximum(largest.seen[name, what], np.abs(want))
        excess = np.abs(got - want) - allowed
        assert not np.any(~(excess <= 0)), f"{name}/{what}: {got} is not {want} ± {allowed}"
