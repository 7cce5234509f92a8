"""A tiny model, its batches and how two runs are compared: what the tests here share."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

__all__ = ["assert_same", "batch", "loss_of", "make_model", "through_a_file", "train"]


def make_model(seed: int = 0) -> nn.Sequential:
    """From 4 to 2 features, with 8 between."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))


def batch(number: int, size: int = 6) -> torch.Tensor:
    """Inputs ``[size, 4]`` that depend on the number alone."""
    return torch.randn(size, 4, generator=torch.Generator().manual_seed(number))


def loss_of(model: nn.Module, number: int) -> torch.Tensor:
    found: torch.Tensor = (model(batch(number)) ** 2).mean()
    return found


def train(
    model: nn.Module,
    optimizer: Any,
    numbers: range,
    after: Callable[[int], None] = lambda number: None,
) -> None:
    """A step for each number, as most scripts have it; gradients are None at the end."""
    for number in numbers:
        optimizer.zero_grad()
        loss_of(model, number).backward()
        optimizer.step()
        after(number)
    optimizer.zero_grad()


def through_a_file(state: Any) -> Any:
    """What a file has of it, loaded the careful way."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def assert_same(model: nn.Module, other: nn.Module, rtol: float = 0.0, atol: float = 0.0) -> None:
    """Both have the same parameters and buffers, bit for bit unless told otherwise."""
    one, two = model.state_dict(), other.state_dict()
    assert [*one] == [*two]
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=rtol, atol=atol, msg=name)
