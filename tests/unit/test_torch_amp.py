"""`torch.amp.GradScaler`: unscaled and skipped inside of our pass, by torch's own protocol."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch

import pellucid
import pellucid.torch
from pellucid import Adam, chain, clip_by_global_norm
from pellucid.schedules import Cosine

SCALE = 1024.0


def model_of(dtype: torch.dtype = torch.float32) -> Any:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3)).to(
        dtype
    )


def batch(step: int) -> tuple[Any, Any]:
    generator = torch.Generator().manual_seed(step)
    return torch.randn(16, 6, generator=generator), torch.randn(16, 3, generator=generator)


def loss_of(model: Any, step: int) -> Any:
    x, y = batch(step)
    return (model(x.to(next(model.parameters()).dtype)).float() - y).square().mean()


def train(model: Any, optimizer: Any, scaler: Any, steps: int) -> Any:
    """Step 3 has an infinite gradient; without a scaler it is left out."""
    for step in range(steps):
        optimizer.zero_grad()
        loss = loss_of(model, step)
        if scaler is None:
            loss.backward()
        else:
            scaler.scale(loss).backward()
        if step == 3 and scaler is not None:
            next(model.parameters()).grad[0, 0] = math.inf
        elif step == 3:
            continue
        if scaler is None:
            optimizer.step()
        else:
            scaler.step(optimizer)
            scaler.update()
    return model


def scaler_of(**kwargs: Any) -> Any:
    return torch.amp.GradScaler("cpu", init_scale=SCALE, growth_interval=2, **kwargs)


def adamw(model: Any, **kwargs: Any) -> Any:
    return pellucid.torch.AdamW(model, **{"lr": 1e-2, **kwargs})


def compare(one: Any, other: Any, **tolerance: Any) -> None:
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b, **tolerance)


@pytest.mark.parametrize("compiled", [True, False], ids=["compiled", "lines"])
def test_a_scale_is_undone_and_a_bad_step_skipped(compiled: bool) -> None:
    """As without a scaler, the skipped step left out: powers of two are undone exactly."""
    model, plain = model_of(), model_of()
    optimizer = adamw(model, compiled=compiled)
    scaler = scaler_of()
    train(model, optimizer, scaler, 8)
    train(plain, adamw(plain, compiled=compiled), None, 8)
    compare(model, plain, rtol=1e-6, atol=1e-8)
    assert optimizer.updates == 7
    assert all(float(slots["step"]) == 7 for slots in optimizer.state.values())
    assert scaler.get_scale() == SCALE * 2 * 0.5 * 2 * 2  # grown, halved by the bad step, grown
    assert not hasattr(optimizer, "grad_scale")
    assert not hasattr(optimizer, "found_inf")


@pytest.mark.parametrize("how", ["unscale", "clip"])
def test_an_explicit_unscale(how: str) -> None:
    """`scaler.unscale_` first, and then clipping: not unscaled again."""
    model, plain = model_of(), model_of()

    def run(model: Any, scaler: Any) -> None:
        optimizer = adamw(model)
        for step in range(6):
            optimizer.zero_grad()
            loss = loss_of(model, step)
            (loss if scaler is None else scaler.scale(loss)).backward()
            if scaler is not None:
                scaler.unscale_(optimizer)
            if how == "clip":
                torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
            if scaler is None:
                optimizer.step()
            else:
                scaler.step(optimizer)
                scaler.update()

    run(model, scaler_of())
    run(plain, None)
    compare(model, plain, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("compiled", [True, False], ids=["compiled", "lines"])
def test_clipping_in_the_chain_sees_unscaled_gradients(compiled: bool) -> None:
    model, plain = model_of(), model_of()
    stages = chain(clip_by_global_norm(0.1), Adam(1e-2))
    mine = pellucid.torch.Optimizer(model, stages, compiled=compiled)
    train(model, mine, scaler_of(), 8)
    train(plain, pellucid.torch.Optimizer(plain, stages, compiled=compiled), None, 8)
    compare(model, plain, rtol=1e-5, atol=1e-7)


def test_functions_of_the_users_see_unscaled_gradients() -> None:
    seen: list[float] = []

    def look(pairs: Any) -> Any:
        seen.append(max(float(grad.abs().max()) for grad, _ in pairs))
        return pairs

    model, plain = model_of(), model_of()
    train(model, adamw(model, gradient_transformers=[look]), scaler_of(), 3)
    scaled, seen[:] = list(seen), []
    train(plain, adamw(plain, gradient_transformers=[look]), None, 3)
    assert scaled == pytest.approx(seen, rel=1e-6)
    compare(model, plain, rtol=1e-6, atol=1e-8)


def test_as_torchs_own_fused_optimizer() -> None:
    mine, theirs = model_of(), model_of()
    first, second = scaler_of(), scaler_of()
    train(mine, adamw(mine), first, 8)
    train(theirs, torch.optim.AdamW(theirs.parameters(), lr=1e-2, fused=True), second, 8)
    compare(mine, theirs, rtol=1e-5, atol=1e-6)
    assert first.state_dict() == second.state_dict()


def test_float16_gradients_are_unscaled_in_float32() -> None:
    """A gradient that float16 holds only when it is scaled still moves the parameter."""
    param = torch.nn.Parameter(torch.zeros(4, dtype=torch.float16))
    optimizer = pellucid.torch.SGD([param], lr=1e6)
    optimizer.grad_scale = torch.tensor(65536.0)
    optimizer.found_inf = torch.tensor(0.0)
    param.grad = torch.full((4,), 1e-3, dtype=torch.float16)
    optimizer.step()
    exact = -1e6 * float(torch.tensor(1e-3, dtype=torch.float16)) / 65536.0
    assert float(param.detach()[0]) == pytest.approx(exact, rel=1e-3)


def test_accumulated_gradients_are_unscaled_once() -> None:
    model, plain = model_of(), model_of()

    def run(model: Any, scaler: Any) -> None:
        optimizer = adamw(model)
        for step in range(6):
            loss = loss_of(model, step) / 2
            (loss if scaler is None else scaler.scale(loss)).backward()
            if step % 2:
                if scaler is None:
                    optimizer.step()
                else:
                    scaler.step(optimizer)
                    scaler.update()
                optimizer.zero_grad()

    run(model, scaler_of())
    run(plain, None)
    compare(model, plain, rtol=1e-6, atol=1e-8)


def test_a_skipped_step_changes_nothing() -> None:
    model = model_of()
    optimizer = adamw(model, lr=Cosine(1e-2, 50))
    scaler = scaler_of()
    train(model, optimizer, scaler, 3)
    before = copy.deepcopy((optimizer.state_dict(), model.state_dict()))
    optimizer.zero_grad()
    scaler.scale(loss_of(model, 9)).backward()
    next(model.parameters()).grad[0, 0] = math.nan
    scaler.step(optimizer)
    after = optimizer.state_dict(), model.state_dict()
    assert str(after) == str(before)


def test_the_watched_step_stays_quick() -> None:
    """With and without a scale: two plans, neither made anew at each step."""
    model = model_of()
    optimizer = adamw(model)
    train(model, optimizer, scaler_of(), 3)
    loss_of(model, 1).backward()
    optimizer.step()
    slow: list[int] = []
    update = optimizer._update
    optimizer._update = lambda *args: slow.append(1) or update(*args)
    scaler = scaler_of()
    for step in range(3):
        scaler.scale(loss_of(model, step)).backward()
        scaler.step(optimizer)
        scaler.update()
        loss_of(model, step).backward()
        optimizer.step()
    assert not slow


@pytest.mark.parametrize("scale", [0.0, -2.0, math.inf, math.nan, 1e-39])
def test_bad_scales(scale: float) -> None:
    model = model_of()
    optimizer = adamw(model)
    loss_of(model, 0).backward()
    before = copy.deepcopy(model.state_dict())
    optimizer.grad_scale, optimizer.found_inf = torch.tensor(scale), torch.tensor(0.0)
    with pytest.raises(ValueError, match=r"grad_scale is .*; allowed is a positive finite number"):
        optimizer.step()
    assert str(model.state_dict()) == str(before)
    assert not optimizer.state
    optimizer.found_inf = torch.tensor(1.0)  # skipped in any case
    optimizer.step()
    assert not optimizer.state
    optimizer.grad_scale = optimizer.found_inf = None
    optimizer.step()
    assert optimizer.state


def test_sparse_gradients_are_unscaled() -> None:
    made = []
    for scale in (1.0, SCALE):
        torch.manual_seed(0)
        table = torch.nn.Embedding(10, 3, sparse=True)
        optimizer = pellucid.torch.Adam(table.parameters(), lr=1e-2, sparse="lazy")
        scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        for step in range(3):
            optimizer.zero_grad()
            scaler.scale(table(torch.tensor([1, 4, 1, step])).square().sum()).backward()
            scaler.step(optimizer)
            scaler.update()
        made.append(table.weight.detach())
    torch.testing.assert_close(*made, rtol=1e-6, atol=1e-8)
