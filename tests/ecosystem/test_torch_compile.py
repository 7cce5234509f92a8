"""Compiled models: the step runs beside the compiled graph, and is itself left alone by it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

import pellucid.torch
from ecosystem.training import assert_same, batch, loss_of, make_model, through_a_file, train

CLOSE = {"rtol": 2e-5, "atol": 1e-6}


@pytest.fixture(autouse=True)
def _nothing_compiled_before() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def compiled(seed: int = 0, backend: str = "aot_eager", **options: Any) -> Any:
    return torch.compile(make_model(seed), backend=backend, **options)


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_a_compiled_model(backend: str) -> None:
    model, plain = compiled(backend=backend, fullgraph=True), make_model()
    optimizer = pellucid.torch.AdamW(model, lr=0.01)
    assert optimizer.param_groups[0]["param_names"][0] == "_orig_mod.0.weight"
    train(model, optimizer, range(5))
    train(plain, torch.optim.AdamW(plain.parameters(), lr=0.01), range(5))
    assert_same(model._orig_mod, plain, **CLOSE)


def test_names_without_the_wrapper() -> None:
    """Compiled in place, a model keeps its names, and patterns of `groups=` find them."""
    model = make_model()
    model.compile(backend="eager")
    optimizer = pellucid.torch.AdamW(model, lr=0.01, groups={"*.bias": {"weight_decay": 0.0}})
    names = [group["param_names"] for group in optimizer.param_groups]
    assert names == [["0.weight", "2.weight"], ["0.bias", "2.bias"]]
    train(model, optimizer, range(2))


def test_resumed_between_compiled_and_plain() -> None:
    """A file of a run with a compiled model goes into a run without, bit for bit."""
    model = compiled(backend="eager")
    optimizer = pellucid.torch.AdamW(model, lr=0.01)
    train(model, optimizer, range(3))
    plain = make_model(1)
    plain.load_state_dict(through_a_file(model._orig_mod.state_dict()))
    other = pellucid.torch.AdamW(plain, lr=0.01)
    other.load_state_dict(through_a_file(optimizer.state_dict()))
    train(model, optimizer, range(3, 6))
    train(plain, other, range(3, 6))
    assert_same(model._orig_mod, plain, **CLOSE)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
def test_a_whole_training_step_compiled() -> None:
    """The compiler leaves our step out of the graph, and every rate is live."""
    pairs = []
    for make in (pellucid.torch.SGD, torch.optim.SGD):
        model = make_model()
        optimizer = make(model.parameters(), lr=0.1, momentum=0.9)

        def step(inputs: Any, model: Any = model, optimizer: Any = optimizer) -> Any:
            optimizer.zero_grad()
            loss = (model(inputs) ** 2).mean()
            loss.backward()
            optimizer.step()
            return loss

        run = torch.compile(step, backend="eager") if make is pellucid.torch.SGD else step
        for number in range(6):
            optimizer.param_groups[0]["lr"] = 0.1 / (number + 1)
            run(batch(number))
        pairs.append((model, optimizer))
    assert pairs[0][1].updates == 6
    assert_same(pairs[0][0], pairs[1][0], **CLOSE)


def test_no_recompiling_when_a_rate_changes() -> None:
    counter = torch._dynamo.testing.CompileCounter()
    model = torch.compile(make_model(), backend=counter)
    optimizer = pellucid.torch.AdamW(model, lr=0.01)
    for number in range(6):
        optimizer.param_groups[0]["lr"] = 0.01 / (number + 1)
        optimizer.zero_grad()
        loss_of(model, number).backward()
        optimizer.step()
    assert counter.frame_count == 1
