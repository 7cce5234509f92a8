"""On torch, steps after the first look at tensors in compiled loops: nothing may slip past them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy
import pytest

import pellucid.keras

pytestmark = pytest.mark.backends("torch")

SHAPES = [(4, 3), (3,), (1, 5), ()]


def made(**settings: Any) -> tuple[Any, list[Any]]:
    """An optimizer that has done two updates, so that the third may take the quick way."""
    variables = [keras.Variable(numpy.ones(shape, "float32")) for shape in SHAPES]
    optimizer = pellucid.keras.AdamW(0.1, **settings)
    optimizer.build(variables)
    for number in range(2):
        optimizer.apply(gradients(number), variables)
    return optimizer, variables


def gradients(number: int) -> list[Any]:
    import torch

    random = numpy.random.default_rng(number)
    return [
        torch.from_numpy(random.standard_normal(shape).astype("float32").reshape(shape))
        for shape in SHAPES
    ]


def values(optimizer: Any, variables: list[Any]) -> list[Any]:
    return [numpy.array(one.numpy()) for one in [*variables, *optimizer.variables]]


def look_at_all(optimizer: Any) -> None:
    """Have the next update forget what it knows of the tensors."""
    optimizer.kernels.written.clear()


def moved_memory(optimizer: Any, variables: list[Any]) -> None:
    for one in variables:
        one.value.data = one.value.data.clone()


def moved_slot(optimizer: Any, variables: list[Any]) -> None:
    slot = optimizer.core.parameters[0].slots
    first = next(iter(slot.values()))
    first.value.data = first.value.data.clone()


def new_tensor(optimizer: Any, variables: list[Any]) -> None:
    import torch

    variables[0]._value = torch.nn.Parameter(variables[0].value.detach().clone())


def gaps(optimizer: Any, variables: list[Any]) -> None:
    """Memory in another order of the axes."""
    one = variables[0].value
    one.data = one.data.t().contiguous().t()


def new_rate(optimizer: Any, variables: list[Any]) -> None:
    optimizer.learning_rate = 0.5


def schedule(optimizer: Any, variables: list[Any]) -> None:
    optimizer.learning_rate = lambda step: 0.1 / (step + 1)


def no_change(optimizer: Any, variables: list[Any]) -> None:
    pass


@pytest.mark.parametrize(
    "change", [no_change, moved_memory, moved_slot, new_tensor, gaps, new_rate, schedule]
)
def test_a_change_between_steps_is_seen(change: Callable[[Any, list[Any]], None]) -> None:
    """As an optimizer that looks at every tensor anew."""
    quick, slow = made(), made()
    for optimizer, variables in (quick, slow):
        change(optimizer, variables)
    for number in range(2, 5):
        quick[0].apply(gradients(number), quick[1])
        look_at_all(slow[0])
        slow[0].apply(gradients(number), slow[1])
        for mine, theirs in zip(values(*quick), values(*slow), strict=True):
            numpy.testing.assert_array_equal(mine, theirs)


def test_the_quick_way_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    optimizer, variables = made()
    slow: list[Any] = []
    monkeypatch.setattr(optimizer.kernels, "written", dict(optimizer.kernels.written))
    monkeypatch.setattr(
        "pellucid.keras.torch_kernel.torch_update", lambda *given, **more: slow.append(given)
    )
    before = values(optimizer, variables)
    optimizer.apply(gradients(2), variables)
    assert not slow
    assert not any(map(numpy.array_equal, values(optimizer, variables)[:4], before[:4]))


def wrong_shape(grads: list[Any]) -> list[Any]:
    return [grads[0].t(), *grads[1:]]


def wrong_type(grads: list[Any]) -> list[Any]:
    return [grads[0].tolist(), *grads[1:]]


def complex_numbers(grads: list[Any]) -> list[Any]:
    return [grads[0] + 1j, *grads[1:]]


def one_too_few(grads: list[Any]) -> list[Any]:
    return grads[:-1]


def exchanged(grads: list[Any]) -> list[Any]:
    return [grads[1], grads[0], *grads[2:]]


@pytest.mark.parametrize(
    "spoiled", [wrong_shape, wrong_type, complex_numbers, one_too_few, exchanged]
)
def test_bad_gradients_raise_as_in_the_first_step(
    spoiled: Callable[[list[Any]], list[Any]],
) -> None:
    optimizer, variables = made()
    optimizer.apply(gradients(2), variables)
    before = values(optimizer, variables)
    with pytest.raises((TypeError, ValueError), match="gradient"):
        optimizer.apply(spoiled(gradients(3)), variables)
    for mine, theirs in zip(values(optimizer, variables), before, strict=True):
        numpy.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize("kind", ["wider", "strided", "lazy"])
def test_other_gradients_give_the_same_numbers(kind: str) -> None:
    import torch

    def given(grad: Any) -> Any:
        if kind == "wider":
            return grad.double()
        if kind == "strided":
            return torch.stack([grad, grad], -1)[..., 0]
        return torch._neg_view(-grad)

    quick, other = made(), made()
    for number in range(2, 5):
        quick[0].apply(gradients(number), quick[1])
        other[0].apply([given(grad) for grad in gradients(number)], other[1])
    for mine, theirs in zip(values(*quick), values(*other), strict=True):
        numpy.testing.assert_allclose(mine, theirs, rtol=1e-6, atol=1e-7)


def test_scaled_and_averaged_steps_are_the_plain_ones() -> None:
    """Keras divides the gradients by its scale, and averages the variables after the step."""
    plain, scaled = made(), made(use_ema=True)
    scaled[0].loss_scale_factor = 8.0
    for number in range(2, 5):
        plain[0].apply(gradients(number), plain[1])
        scaled[0].apply([8 * grad for grad in gradients(number)], scaled[1])
    for mine, theirs in zip(plain[1], scaled[1], strict=True):
        numpy.testing.assert_array_equal(mine.numpy(), theirs.numpy())


def test_variables_of_a_part_and_of_all_take_turns() -> None:
    """Each is compared with what was updated before, not taken for it."""
    quick, slow = made(), made()
    for number in range(2, 8):
        few = number % 2
        for optimizer, variables in (quick, slow):
            grads = gradients(number)
            some = [*reversed(variables[few:])] if few else variables
            optimizer.apply([*reversed(grads[few:])] if few else grads, some)
            if optimizer is slow[0]:
                look_at_all(optimizer)
    for mine, theirs in zip(values(*quick), values(*slow), strict=True):
        numpy.testing.assert_array_equal(mine, theirs)


def test_autograd_sees_the_writes() -> None:
    optimizer, variables = made()
    versions = [one.value._version for one in variables]
    optimizer.apply(gradients(2), variables)
    assert all(
        one.value._version > version for one, version in zip(variables, versions, strict=True)
    )
