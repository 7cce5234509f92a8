"""The catalogue on Keras's variables, in compiled steps, against the float64 references."""

from __future__ import annotations

import warnings
from typing import Any

import keras
import pytest

import pellucid.keras
import pellucid.numpy
from conformance.cases import (
    CASES,
    STEPS,
    Case,
    Largest,
    assert_exact,
    assert_rounded,
    expected,
    problem,
)
from pellucid import CATALOGUE
from pellucid.keras import stepping as module
from pellucid.keras.host_values import on_host
from reference.steps import Result
from stepper import Stepper

BACKEND = keras.backend.backend()
DTYPES = ["float32"] if BACKEND == "jax" else ["float64", "float32"]


class Run:
    """An optimizer at work on the problem, in one dtype."""

    def __init__(self, case: Case, dtype: str) -> None:
        self.problem, self.dtype = problem(), dtype
        self.variables = [
            keras.Variable(tensor.initial.astype(dtype), dtype=dtype, name=name)
            for name, tensor in self.problem.items()
        ]
        rule = CATALOGUE[case.rule](**case.values)
        self.optimizer = pellucid.keras.Optimizer(rule)
        self.stepper = Stepper(self.optimizer, self.variables)

    def step(self, update: int) -> None:
        grads = [tensor.gradients[update] for tensor in self.problem.values()]
        self.stepper([None if g is None else g.astype(self.dtype) for g in grads])

    def result(self, place: int) -> Result:
        one = self.optimizer.core.parameters[place]
        return on_host(self.variables[place]), {
            full: on_host(slot) for full, slot in one.slots.items()
        }


def _runs() -> list[tuple[Case, str]]:
    """Each case as the backend runs it; where that is by the kernel, some interpreted as well."""
    if BACKEND == "jax":
        return [(case, "interpreted") for case in CASES]
    also = [(case, "interpreted") for case in CASES if case.name.endswith("-active")]
    return [*((case, "fused") for case in CASES), *also]


def _without_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.Stepping, "_fused", lambda self, pairs, extras: None)


@pytest.mark.parametrize(("case", "how"), _runs(), ids=str)
def test_equals_its_reference(case: Case, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if how == "interpreted":
        _without_kernels(monkeypatch)
    runs, largest = [Run(case, dtype) for dtype in DTYPES], Largest()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Gradients do not exist")
        for update in range(STEPS):
            for run in runs:
                run.step(update)
            for place, name in enumerate(runs[0].problem):
                param, slots = runs[0].result(place)
                for what, array in {"param": param, **slots}.items():
                    largest.look(name, what, array)
    for place, (name, tensor) in enumerate(runs[0].problem.items()):
        wanted = expected(case, tensor, clock="optimizer")
        if "float64" in DTYPES:
            assert_exact(runs[0].result(place), wanted, name)
        largest.look(name, "param", tensor.initial)
        assert_rounded(runs[-1].result(place), wanted, largest, name, case.rule)


@pytest.mark.backends("torch", "tensorflow")
def test_the_fused_kernel_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the tests above call fused is."""
    case = CASES[0]

    def interpreted(*_: Any) -> None:
        raise AssertionError("fell back to the interpreter")

    monkeypatch.setattr(module, "traced_update", interpreted)
    run = Run(case, "float32")
    run.step(1)
    run.step(2)
