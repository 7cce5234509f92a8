"""`pellucid.keras.<Name>` in compiled steps against Keras's optimizer of that name, 20 updates."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest

import pellucid.keras
import pellucid.numpy
from pellucid import CATALOGUE
from pellucid.keras.host_values import on_host
from pellucid.keras.names import CLASSES
from stepper import Stepper
from test_arithmetic import (
    ACTIVE,
    CASES,
    DTYPES,
    arguments_of,
    assert_same,
    gradients,
    initial,
    is_exact,
    run_keras,
    wave,
)

BACKEND = keras.backend.backend()


def run_ours(rule: str, given: dict[str, Any], dtype: str) -> list[Any]:
    """Parameters and slots by Keras's names after each step, compiled once."""
    before = keras.config.floatx()
    keras.config.set_floatx(dtype)
    try:
        variables = [
            keras.Variable(value, dtype=dtype, name=name) for name, value in initial(dtype).items()
        ]
        optimizer = getattr(pellucid.keras, CLASSES.get(rule, rule))(**given)
        stepper = Stepper(optimizer, variables)
        rate = wave(arguments_of(rule, given)["learning_rate"])
        found = []
        for update, grads in enumerate(gradients(dtype)):
            optimizer.learning_rate = rate(update)
            stepper(list(grads.values()))
            found.append({one.name: look_at(optimizer, one) for one in optimizer.core.parameters})
        assert stepper.traces == (0 if BACKEND == "torch" else 1)
        return found
    finally:
        keras.config.set_floatx(before)


def look_at(optimizer: Any, parameter: Any) -> dict[str, Any]:
    names = optimizer.core.groups[parameter.group].names.slots
    slots = {names[full]: np.array(on_host(one)) for full, one in parameter.slots.items()}
    return {"param": np.array(on_host(parameter.variable)), **slots}


@pytest.mark.parametrize("dtype", DTYPES[:1])
@pytest.mark.parametrize(("rule", "given"), CASES, ids=str)
def test_equals_keras(rule: str, given: dict[str, Any], dtype: str) -> None:
    theirs = run_keras(rule, given, dtype)
    exact = is_exact(rule, arguments_of(rule, given))
    assert_same(rule, run_ours(rule, given, dtype), theirs, exact)


@pytest.mark.backends("tensorflow", "torch")  # on JAX each one compiles anew: test_arithmetic
@pytest.mark.parametrize("rule", ["Adam", "SGD", "FTRL"])
def test_each_argument_matters(rule: str) -> None:
    """One hundredth more of any number is not Keras's."""
    given, dtype = ACTIVE[rule], DTYPES[0]
    theirs = run_keras(rule, given, dtype)
    for name, value in given.items():
        with pytest.raises(AssertionError, match=r" is not "):
            assert_same(rule, run_ours(rule, {**given, name: value * 1.01}, dtype), theirs, False)


@pytest.mark.parametrize("clip", [{"clipnorm": 0.5}, {"clipvalue": 0.25}, {"global_clipnorm": 0.5}])
def test_clipping_equals_keras(clip: dict[str, float]) -> None:
    theirs = run_keras("SGD", {"learning_rate": 0.0625, "momentum": 0.5, **clip}, DTYPES[0])
    ours = run_ours("SGD", {"learning_rate": 0.0625, "momentum": 0.5, **clip}, DTYPES[0])
    assert_same("SGD", ours, theirs, False)


@pytest.mark.parametrize("rule", ["Adam", "RowwiseAdagrad", "Rprop"])
def test_optimizer_equals_numpy_and_torch(rule: str) -> None:
    """`Optimizer(rule)` follows the rule's source, everywhere the same."""
    params = initial("float32")
    optimizer = pellucid.numpy.Optimizer(params, CATALOGUE[rule](0.0625))
    variables = [keras.Variable(v, name=k) for k, v in initial("float32").items()]
    stepper = Stepper(pellucid.keras.Optimizer(CATALOGUE[rule](0.0625)), variables)
    twin = torch_twin(rule)
    for grads in gradients("float32"):
        optimizer.step(grads)
        stepper([*grads.values()])
        if twin is not None:
            twin(grads)
    for variable, (name, wanted) in zip(variables, params.items(), strict=True):
        np.testing.assert_allclose(on_host(variable), wanted, rtol=3e-5, atol=3e-5, err_msg=name)
        if twin is not None:
            np.testing.assert_allclose(on_host(variable), twin.arrays[name], rtol=3e-5, atol=3e-5)


def torch_twin(rule: str) -> Any:
    """The same by `pellucid.torch`, where torch is the backend."""
    if BACKEND != "torch":
        return None
    import torch

    import pellucid.torch

    held = {k: torch.nn.Parameter(torch.tensor(v)) for k, v in initial("float32").items()}
    optimizer = pellucid.torch.Optimizer(held.values(), CATALOGUE[rule](0.0625))

    def step(grads: Any) -> None:
        for name, parameter in held.items():
            parameter.grad = torch.tensor(grads[name])
        optimizer.step()

    step.arrays = {name: one.detach().numpy() for name, one in held.items()}  # type: ignore[attr-defined]
    return step
