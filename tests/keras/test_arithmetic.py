"""The rules with `keras_arguments` against Keras's own optimizers, step by step.

In float64 (not on JAX, which has none here) both are the same formula in another order, as long as
the hyperparameters are exact in float32: Keras may round them to that. Where they are not, 1 -
beta_2^t and the like err by `COEFFICIENT`, as they do in float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any

import keras
import numpy as np
import pytest

import pellucid.numpy
from conformance.cases import CANCELLING
from pellucid.compose import Pipeline
from pellucid.keras.names import CLASSES, DEFAULTS, keras_arguments, names_of
from pellucid.rules import CATALOGUE
from reference.gradients import awkward_gradients, initial_parameter
from reference.steps import Array

STEPS = 20
SHAPES: dict[str, tuple[int, ...]] = {"vector": (40,), "matrix": (7, 6)}
BACKEND = keras.backend.backend()
DTYPES = ["float32"] if BACKEND == "jax" else ["float64", "float32"]
COEFFICIENT = 4e-5
"""Three times what 1 - beta_2^t is off by, relatively, at t = 1 if 0.999 is a float32: 1.3e-5."""

MOMENTS = {
    "learning_rate": 0.125, "beta_1": 0.8125, "beta_2": 0.90625, "epsilon": 0.125,
    "weight_decay": 0.25,
}  # fmt: skip
ACTIVE: dict[str, dict[str, Any]] = {
    "SGD": {"learning_rate": 0.0625, "momentum": 0.8125, "weight_decay": 0.125},
    "Adam": MOMENTS,
    "AdamW": MOMENTS,
    "NAdam": MOMENTS,
    "Adamax": MOMENTS,
    "RMSprop": {
        "learning_rate": 0.0625, "rho": 0.8125, "momentum": 0.5, "epsilon": 0.125,
        "weight_decay": 0.125,
    },
    "Adagrad": {
        "learning_rate": 0.3125, "initial_accumulator_value": 0.5, "epsilon": 0.125,
        "weight_decay": 0.25,
    },
    "Adadelta": {"learning_rate": 0.75, "rho": 0.8125, "epsilon": 0.015625, "weight_decay": 0.125},
    "FTRL": {
        "learning_rate": 0.3125, "learning_rate_power": -0.375, "initial_accumulator_value": 0.5,
        "l1_regularization_strength": 0.1875, "l2_regularization_strength": 0.3125,
        "l2_shrinkage_regularization_strength": 0.125, "beta": 0.375, "weight_decay": 0.5,
    },
    "Lion": {"learning_rate": 0.015625, "beta_1": 0.6875, "beta_2": 0.8125, "weight_decay": 0.5},
}  # fmt: skip
"""Values at which each argument acts, all exact in float32."""

OPTIONS: list[tuple[str, dict[str, Any]]] = [
    ("SGD", {"momentum": 0.9}),
    ("SGD", {"momentum": 0.9, "nesterov": True}),
    ("SGD", {**ACTIVE["SGD"], "nesterov": True}),
    ("SGD", {"weight_decay": 0.1}),
    ("Adam", {"amsgrad": True}),
    ("Adam", {**MOMENTS, "weight_decay": None}),
    ("Adam", {**MOMENTS, "amsgrad": True}),
    ("AdamW", {**MOMENTS, "amsgrad": True}),
    ("RMSprop", {"momentum": 0.9}),
    ("RMSprop", {"centered": True, "epsilon": 1e-3}),
    ("RMSprop", {**ACTIVE["RMSprop"], "momentum": 0.0}),
    ("RMSprop", {**ACTIVE["RMSprop"], "centered": True}),
]
CASES = [*((rule, {}) for rule in DEFAULTS), *ACTIVE.items(), *OPTIONS]
Run = dict[str, dict[str, Array]]


def wave(value: float) -> Callable[[int], float]:
    """A learning rate that never stands still: it shows whether a velocity contains it."""
    return lambda update: float(np.float32(value * (1 + 0.1 * math.cos(update))))


def gradients(dtype: str) -> Iterator[dict[str, Array]]:
    every = [awkward_gradients(shape, STEPS, seed=7) for shape in SHAPES.values()]
    for some in zip(*every, strict=True):
        yield {name: grad.astype(dtype) for name, grad in zip(SHAPES, some, strict=True)}


def initial(dtype: str) -> dict[str, Array]:
    return {name: initial_parameter(shape, 8).astype(dtype) for name, shape in SHAPES.items()}


def arguments_of(rule: str, given: Mapping[str, Any]) -> dict[str, Any]:
    return {**keras_arguments(CATALOGUE[rule]), **given}


def run_keras(rule: str, given: Mapping[str, Any], dtype: str) -> list[Run]:
    """Parameters and Keras's slots by its names, after each step; not to be written to."""
    return _run_keras(rule, tuple(given.items()), dtype)


@cache  # test_against_keras needs the same ones
def _run_keras(rule: str, items: tuple[tuple[str, Any], ...], dtype: str) -> list[Run]:
    given = dict(items)
    before = keras.config.floatx()
    keras.config.set_floatx(dtype)
    try:
        variables = [
            keras.Variable(value, dtype=dtype, name=name) for name, value in initial(dtype).items()
        ]
        kind = getattr(keras.optimizers, CLASSES.get(rule, rule))
        optimizer = kind(**given)
        optimizer.build(variables)
        rate = wave(arguments_of(rule, given)["learning_rate"])
        found = []
        for update, grads in enumerate(gradients(dtype)):
            optimizer.learning_rate = rate(update)
            optimizer.apply([keras.ops.convert_to_tensor(grad) for grad in grads.values()])
            found.append(look_at(optimizer, variables))
        return found
    finally:
        keras.config.set_floatx(before)


def look_at(optimizer: Any, variables: list[Any]) -> Run:
    found: Run = {variable.path: {"param": plain(variable)} for variable in variables}
    for slot in optimizer.variables[2:]:
        owner, _, name = slot.path.rpartition("/")[2].partition("_")
        if owner in found:
            found[owner][name] = plain(slot)
    if hasattr(optimizer, "_u_product"):
        for slots in found.values():
            slots["u_product"] = plain(optimizer._u_product)
    return found


def plain(variable: Any) -> Array:
    return np.array(keras.ops.convert_to_numpy(variable))


def run_ours(rule: str, arguments: Mapping[str, Any], dtype: str) -> list[Run]:
    """The same by the rule, with NumPy's arrays."""
    names = names_of(Pipeline((CATALOGUE[rule](),), (0,)))
    values = {}
    for native, value in arguments.items():
        (full,) = names.canonical(native)
        values[full] = 0.0 if native == "weight_decay" and value is None else value
    values["learning_rate"] = wave(values["learning_rate"])
    params = initial(dtype)
    optimizer = pellucid.numpy.Optimizer(params, CATALOGUE[rule](**values))

    def slots(name: str) -> Any:
        return optimizer.state.get(name, {}).items()

    found = []
    for grads in gradients(dtype):
        optimizer.step(grads)
        found.append({
            name: {
                "param": np.array(param),
                **{names.slots[full]: np.array(one) for full, one in slots(name)},
            }
            for name, param in params.items()
        })  # fmt: skip
    return found


def is_exact(rule: str, arguments: Mapping[str, Any]) -> bool:
    """Whether Keras computes with the numbers themselves; Nadam's own 0.96 it rounds, too."""
    numbers = [value for value in arguments.values() if type(value) is float]
    return rule != "NAdam" and all(float(np.float32(number)) == number for number in numbers)


def assert_same(rule: str, ours: list[Run], theirs: list[Run], exact: bool) -> None:
    """Equal at each step but for rounding, relative to what each element was and moved so far."""
    dtype = str(ours[0]["vector"]["param"].dtype)
    unit = np.finfo(dtype).eps
    method = 1e-12 if exact and dtype == "float64" else COEFFICIENT
    for name in SHAPES:
        largest: dict[str, Array] = {}
        moved: dict[str, Array] = {}
        last = {"param": initial("float64")[name]}
        for update, (mine, wanted) in enumerate(zip(ours, theirs, strict=True)):
            assert mine[name].keys() == wanted[name].keys()
            for what, array in wanted[name].items():
                if (rule, what) in CANCELLING and dtype == "float32":
                    continue
                want, got = array.astype("float64"), mine[name][what].astype("float64")
                assert mine[name][what].dtype == array.dtype == dtype
                size = np.maximum(np.abs(want), np.abs(got))
                largest[what] = np.maximum(largest.get(what, 0.0), size)
                moved[what] = moved.get(what, 0.0) + np.abs(want - last.get(what, 0.0))
                last[what] = want
                allowed = 60 * unit * largest[what] + method * moved[what]
                wrong = ~(np.abs(got - want) <= allowed)
                assert not wrong.any(), f"{name}/{what} after update {update}: {got} is not {want}"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rule", "given"), CASES, ids=str)
def test_equals_keras(rule: str, given: dict[str, Any], dtype: str) -> None:
    arguments = arguments_of(rule, given)
    theirs = run_keras(rule, given, dtype)
    assert_same(rule, run_ours(rule, arguments, dtype), theirs, is_exact(rule, arguments))


def altered(value: Any, choices: tuple[Any, ...]) -> Any:
    return next(one for one in choices if one != value) if choices else value * 1.01


@pytest.mark.parametrize("rule", DEFAULTS)
def test_each_argument_matters(rule: str) -> None:
    """One hundredth more of any number, or any option turned over, is not Keras's."""
    given, dtype = ACTIVE[rule], DTYPES[0]
    arguments = arguments_of(rule, given)
    declared = CATALOGUE[rule].declared.arguments
    names = names_of(Pipeline((CATALOGUE[rule](),), (0,)))
    theirs = run_keras(rule, given, dtype)
    for native, value in arguments.items():
        (full,) = names.canonical(native)
        other = altered(value, getattr(declared[full], "choices", ()))
        if type(value) is float and value == 0.0:  # dampening and the like, which Keras has not
            other = 0.01
        changed = run_ours(rule, {**arguments, native: other}, dtype)
        with pytest.raises(AssertionError, match=r" is not |=="):
            assert_same(rule, changed, theirs, is_exact(rule, arguments))
