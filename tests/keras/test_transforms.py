"""Each transform in a chain with a rule, in Keras's compiled steps, against the references."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest

import pellucid.keras
import pellucid.numpy
from conformance.cases import RTOL
from conformance.test_transforms_numpy import (
    GRADIENT,
    PARAMETER,
    RATE,
    ROUNDING,
    Tensors,
    descent,
    each,
    gradients,
    initial,
    many_at_once,
)
from pellucid import SGD, Adam, chain, every, route, transforms
from pellucid.keras import optimizer as module
from pellucid.keras.host_values import on_host
from reference.gradients import mild_gradients
from stepper import Stepper

BACKEND = keras.backend.backend()
HOW = {"jax": ["interpreted"], "tensorflow": ["fused"]}.get(BACKEND, ["fused", "interpreted"])
DTYPES = ["float32"] if BACKEND == "jax" else ["float64", "float32"]


@pytest.fixture(params=HOW, autouse=True)
def how(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "interpreted":
        monkeypatch.setattr(module.Optimizer, "_fused", lambda self, pairs, extras: None)
    return str(request.param)


class Run:
    def __init__(self, stage: Any, dtype: str) -> None:
        self.names, self.dtype = list(initial()), dtype
        self.variables = [
            keras.Variable(param.astype(dtype), dtype=dtype, name=name)
            for name, param in initial().items()
        ]
        self.optimizer = pellucid.keras.Optimizer(stage)
        self.stepper = Stepper(self.optimizer, self.variables)

    def step(self, grads: Tensors) -> None:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Gradients do not exist")
            self.stepper(
                [grads[n].astype(self.dtype) if n in grads else None for n in self.names]
            )

    def slot(self, name: str, full: str) -> Any:
        return on_host(self.optimizer.core.parameters[self.names.index(name)].slots[full])


def assert_follows(
    stage: Any, grads: list[Tensors], follow: Callable[[Tensors, Tensors], Tensors]
) -> dict[str, Run]:
    """An optimizer with the stage takes every variable where ``follow`` does."""
    runs = {dtype: Run(stage, dtype) for dtype in DTYPES}
    params = initial()
    largest = {name: np.abs(param) for name, param in params.items()}
    for step in grads:
        for run in runs.values():
            run.step(step)
        params |= follow(params, step)
        for name, param in params.items():
            largest[name] = np.maximum(largest[name], np.abs(param))
    for place, (name, param) in enumerate(params.items()):
        if "float64" in runs:
            wide = on_host(runs["float64"].variables[place])
            np.testing.assert_allclose(wide, param, rtol=RTOL, atol=1e-15, err_msg=name)
        narrow = on_host(runs["float32"].variables[place])
        assert narrow.dtype == np.float32
        error = np.abs(narrow - param)
        assert np.all(error <= ROUNDING * largest[name]), f"{name}: {error}"
    return runs


@pytest.mark.parametrize("name", GRADIENT)
def test_gradient_transform(name: str) -> None:
    stage, transform = GRADIENT[name]
    assert_follows(chain(stage, SGD(RATE)), gradients(mild_gradients), descent(transform))


@pytest.mark.parametrize("name", PARAMETER)
def test_parameter_transform(name: str) -> None:
    stage, transform = PARAMETER[name]
    follow = each(lambda param, grad: transform(param - RATE * grad))
    assert_follows(chain(SGD(RATE), stage), gradients(mild_gradients), follow)


def test_all_at_once() -> None:
    """Two clippings and a centring, decay, averaging and a projection, as one program."""
    stage, follow, averages = many_at_once()
    runs = assert_follows(stage, gradients(mild_gradients), follow)
    for name, average in averages.items():
        held = runs["float32"].slot(name, "average_weights.average")
        np.testing.assert_allclose(held, average, rtol=1e-4, atol=1e-6, err_msg=name)


def numpys(stage: Any, steps: list[Tensors]) -> Tensors:
    """Where NumPy's optimizer of the same stage goes, in float32."""
    params = {name: param.astype(np.float32) for name, param in initial().items()}
    optimizer = pellucid.numpy.Optimizer(params, stage)
    for grads in steps:
        optimizer.step({name: grad.astype(np.float32) for name, grad in grads.items()})
    return params


@pytest.mark.parametrize(
    "stage",
    [
        chain(transforms.add_noise(0.5), SGD(RATE)),
        chain(every(2, transforms.clip_by_value(0.01)), every(3, transforms.scale(4.0)), SGD(RATE)),
        chain(Adam(RATE), every(3, transforms.average_weights(0.5))),
        route({"s*": SGD(RATE), "*": chain(transforms.clip_by_norm(0.1), Adam(RATE))}),
    ],
    ids=["noise", "every", "every average", "route"],
)
def test_the_same_as_numpys(stage: Any) -> None:
    """Random numbers, stages that sleep and routes: the same numbers in every framework."""
    steps = gradients(mild_gradients)
    run = Run(stage, "float32")
    for grads in steps:
        run.step(grads)
    for place, (name, wanted) in enumerate(numpys(stage, steps).items()):
        got = on_host(run.variables[place])
        np.testing.assert_allclose(got, wanted, rtol=2e-5, atol=2e-6, err_msg=name)


def test_a_veto_changes_nothing() -> None:
    stage = chain(transforms.skip_nonfinite(), SGD(RATE, momentum=0.5))
    steps = gradients(mild_gradients)
    bad = {name: grad * np.nan if name == "vector" else grad for name, grad in steps[0].items()}
    run, plain = Run(stage, "float32"), Run(stage, "float32")
    for grads in (steps[0], bad, steps[2]):
        run.step(grads)
    for grads in (steps[0], steps[2]):
        plain.step(grads)
    assert int(on_host(run.optimizer.iterations)) == 2
    for one, other in zip(run.optimizer.variables, plain.optimizer.variables, strict=True):
        np.testing.assert_array_equal(on_host(one), on_host(other), err_msg=one.path)
    for one, other in zip(run.variables, plain.variables, strict=True):
        np.testing.assert_array_equal(on_host(one), on_host(other), err_msg=one.path)
