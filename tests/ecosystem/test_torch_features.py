"""What torch.optim.Optimizer and torch.nn.utils offer, with our class in it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import clip_grad_norm_, clip_grad_value_, parametrize
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

import pellucid.torch
from ecosystem.training import assert_same, batch, loss_of, make_model, through_a_file, train
from pellucid.schedules import Linear

CLOSE = {"rtol": 2e-5, "atol": 1e-7}
Pair = tuple[nn.Module, Any]


def ours(seed: int = 0) -> Pair:
    model = make_model(seed)
    return model, pellucid.torch.AdamW(model.parameters(), lr=0.01)


def theirs(seed: int = 0) -> Pair:
    model = make_model(seed)
    return model, torch.optim.AdamW(model.parameters(), lr=0.01)


# -- hooks -------------------------------------------------------------------------------------


def test_step_hooks_and_their_handles() -> None:
    model, optimizer = ours()
    calls: list[tuple[str, int]] = []

    def before(who: Any, args: Any, kwargs: Any) -> None:
        assert who is optimizer
        calls.append(("before", optimizer.updates))

    def after(who: Any, args: Any, kwargs: Any) -> None:
        calls.append(("after", optimizer.updates))

    handles = [
        optimizer.register_step_pre_hook(before),
        optimizer.register_step_post_hook(after),
        register_optimizer_step_pre_hook(before),
        register_optimizer_step_post_hook(after),
    ]
    try:
        train(model, optimizer, range(2))
    finally:
        for handle in handles:
            handle.remove()
    train(model, optimizer, range(2, 3))
    first, second = [("before", 0), ("after", 1)], [("before", 1), ("after", 2)]
    assert calls == [one for pair in (first, second) for one in pair for _ in "ab"]


def test_a_pre_hook_may_give_the_step_other_arguments() -> None:
    model, optimizer = ours()
    seen = []

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = loss_of(model, 0)
        loss.backward()
        seen.append(loss.item())
        return loss

    optimizer.register_step_pre_hook(lambda who, args, kwargs: ((who, closure), {}))
    loss = optimizer.step()
    assert [loss.item()] == seen
    assert optimizer.updates == 1


def test_state_dict_hooks() -> None:
    model, optimizer = ours()
    train(model, optimizer, range(2))
    calls: list[str] = []
    optimizer.register_state_dict_pre_hook(lambda who: calls.append("save"))

    def marked(who: Any, state: dict[str, Any]) -> dict[str, Any]:
        return {**state, "epoch": 7}

    optimizer.register_state_dict_post_hook(marked)
    saved = optimizer.state_dict()
    assert saved["epoch"] == 7
    _, other = ours(1)
    other.register_load_state_dict_pre_hook(lambda who, state: calls.append(f"e{state['epoch']}"))
    other.register_load_state_dict_post_hook(lambda who: calls.append(f"at {who.updates}"))
    other.load_state_dict(saved)
    assert calls == ["save", "e7", "at 2"]


def test_a_hook_sees_the_scheduled_rate() -> None:
    model = make_model()
    rate = Linear(0.1, 0.0, steps=4)
    optimizer = pellucid.torch.SGD(model, lr=rate)
    seen = []
    optimizer.register_step_post_hook(lambda who, *_: seen.append(who.param_groups[0]["lr"]))
    train(model, optimizer, range(4))
    assert seen == [rate(number) for number in range(4)]


# -- gradients ---------------------------------------------------------------------------------


@pytest.mark.parametrize("clip", [clip_grad_norm_, clip_grad_value_])
def test_clipped_gradients(clip: Any) -> None:
    pairs = ours(), theirs()
    for model, optimizer in pairs:
        for number in range(5):
            optimizer.zero_grad()
            (100 * loss_of(model, number)).backward()
            clip(model.parameters(), 0.1)
            optimizer.step()
    assert_same(pairs[0][0], pairs[1][0], **CLOSE)


@pytest.mark.parametrize("to_none", [True, False])
def test_zero_grad(to_none: bool) -> None:
    pairs = ours(), theirs()
    for model, optimizer in pairs:
        for number in range(4):
            optimizer.zero_grad(set_to_none=to_none)
            loss_of(model, number).backward()
            optimizer.step()
        optimizer.zero_grad(set_to_none=to_none)
        grads = [param.grad for param in model.parameters()]
        assert all(grad is None if to_none else not grad.any() for grad in grads)
        optimizer.step()  # without gradients nothing moves; with zeros the moments decay
    assert pairs[0][1].updates == 5
    assert_same(pairs[0][0], pairs[1][0], **CLOSE)


def test_a_loss_over_several_batches() -> None:
    pairs = ours(), theirs()
    for model, optimizer in pairs:
        for number in range(6):
            (loss_of(model, number) / 2).backward()
            if number % 2:
                optimizer.step()
                optimizer.zero_grad()
    assert pairs[0][1].updates == 3
    assert_same(pairs[0][0], pairs[1][0], **CLOSE)


# -- a step within backward --------------------------------------------------------------------


def in_backward(model: nn.Module, make: Any) -> list[Any]:
    """An optimizer a parameter, which steps as soon as the gradient is there and drops it."""
    made = {param: make([param], lr=0.01) for param in model.parameters()}

    def step(param: torch.Tensor) -> None:
        made[param].step()
        made[param].zero_grad()

    for param in model.parameters():
        param.register_post_accumulate_grad_hook(step)
    return [*made.values()]


def test_an_optimizer_for_each_parameter_in_backward() -> None:
    whole, optimizer = ours()
    train(whole, optimizer, range(5))
    model = make_model()
    optimizers = in_backward(model, pellucid.torch.AdamW)
    for number in range(5):
        loss_of(model, number).backward()
        assert all(param.grad is None for param in model.parameters())
    assert [one.updates for one in optimizers] == [5] * 4
    assert_same(model, whole)


# -- parametrized and tied modules -------------------------------------------------------------


class Symmetric(nn.Module):
    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return weight.triu() + weight.triu(1).transpose(-1, -2)


def square(make: Any) -> Pair:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    parametrize.register_parametrization(model[0], "weight", Symmetric())
    nn.utils.parametrizations.weight_norm(model[1])
    return model, make(model.named_parameters(), lr=0.01)


def test_parametrized_modules() -> None:
    pairs = [square(make) for make in (pellucid.torch.AdamW, torch.optim.AdamW)]
    for model, optimizer in pairs:
        train(model, optimizer, range(4))
    model, optimizer = pairs[0]
    assert_same(model, pairs[1][0], **CLOSE)
    assert torch.equal(model[0].weight, model[0].weight.T)
    names = optimizer.param_groups[0]["param_names"]
    assert "0.parametrizations.weight.original" in names
    assert "1.parametrizations.weight.original1" in names
    for number in range(4, 6):
        for one, its in pairs:
            its.zero_grad()
            with parametrize.cached():
                loss_of(one, number).backward()
            its.step()
    assert_same(model, pairs[1][0], **CLOSE)


def test_tied_weights() -> None:
    pairs = []
    for make in (pellucid.torch.AdamW, torch.optim.AdamW):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Tanh(), nn.Linear(4, 4, bias=False))
        model[2].weight = model[0].weight
        pairs.append((model, make(model.named_parameters(), lr=0.01)))
        train(*pairs[-1], range(4))
    assert len(pairs[0][1].state) == 1
    assert_same(pairs[0][0], pairs[1][0], **CLOSE)


# -- flags, copies, modes ----------------------------------------------------------------------


@contextmanager
def deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


def test_modes_of_torch() -> None:
    """A step within inference-free modes gives the same bits."""
    plain, optimizer = ours()
    train(plain, optimizer, range(3))
    model, other = ours()
    with deterministic(), torch.autograd.profiler.record_function("training"):
        for number in range(3):
            with torch.autograd.set_detect_anomaly(True, check_nan=True):
                other.zero_grad()
                loss_of(model, number).backward()
                with torch.no_grad():
                    other.step()
    assert_same(model, plain)


def test_profiled_steps_have_the_class_name() -> None:
    model, optimizer = ours()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        train(model, optimizer, range(2))
    (row,) = [one for one in profile.key_averages() if one.key == "Optimizer.step#AdamW.step"]
    assert row.count == 2


def test_autocast() -> None:
    """bfloat16 products, float32 gradients and parameters."""
    pairs = ours(), theirs()
    for model, optimizer in pairs:
        for number in range(4):
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16):
                loss = (model(batch(number)).float() ** 2).mean()
            loss.backward()
            optimizer.step()
    assert_same(pairs[0][0], pairs[1][0], **CLOSE)


def test_on_from_torchs_own_file_and_back() -> None:
    """A run that began with torch's class goes on with ours, and the other way round."""
    for first, second in ((theirs, ours), (ours, theirs)):
        whole, optimizer = first()
        train(whole, optimizer, range(6))
        begun, before = first()
        train(begun, before, range(3))
        model, after = second(1)
        model.load_state_dict(begun.state_dict())
        after.load_state_dict(through_a_file(before.state_dict()))
        train(model, after, range(3, 6))
        assert_same(model, whole, **CLOSE)
