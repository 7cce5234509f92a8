"""Parameters with names, optimizers trained on them, and all that an optimizer holds, compared."""

from __future__ import annotations

import copy
import io
from collections.abc import Iterable, Mapping
from typing import Any

import torch

from pellucid.torch.matching import unwrapped

Tensor = torch.Tensor
SHAPES = {"a.weight": (4, 3), "a.bias": (4,), "b.weight": (2, 4), "b.bias": (2,), "scale": ()}
NAMES = tuple(SHAPES)
Params = dict[str, Tensor]


def made(names: Iterable[str] = SHAPES, dtype: torch.dtype = torch.float32) -> Params:
    """Parameters by name; the same name has the same value each time."""
    found = {}
    for name in names:
        drawn = torch.Generator().manual_seed(len(name) + sum(map(ord, unwrapped(name))))
        shape = SHAPES.get(unwrapped(name), (3,))
        found[name] = torch.nn.Parameter(torch.randn(shape, generator=drawn).to(dtype))
    return found


def trained(optimizer: Any, params: Mapping[str, Tensor], updates: int, first: int = 0) -> None:
    """Updates with gradients that depend on the parameter's name and the update's number."""
    for update in range(first, first + updates):
        for name, param in params.items():
            bare = unwrapped(name)
            drawn = torch.Generator().manual_seed(1000 * update + sum(map(ord, bare)))
            param.grad = torch.randn(param.shape, generator=drawn).to(param.dtype)
        optimizer.step()


def pairs(params: Mapping[str, Tensor], names: Iterable[str] | None = None) -> list[Any]:
    return [(name, params[name]) for name in (params if names is None else names)]


def through_a_file(value: Any) -> Any:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


def copied(params: Mapping[str, Tensor], into: Mapping[str, Tensor]) -> None:
    """Give parameters the values of those of the same name, as a model's file would."""
    there = {unwrapped(name): param for name, param in params.items()}
    for name, param in into.items():
        if unwrapped(name) in there:
            param.data.copy_(there[unwrapped(name)])


def snapshot(optimizer: Any) -> Any:
    """All that a refused load must leave, with the identity of what holds it."""
    return {
        "params": [entry.param.detach().clone() for entry in optimizer.entries],
        "state": [
            (id(key), id(held), {k: (id(v), copy.deepcopy(v)) for k, v in held.items()})
            for key, held in optimizer.state.items()
        ],
        "groups": [
            (id(group), {k: copy.deepcopy(v) for k, v in group.items() if k != "params"})
            for group in optimizer.param_groups
        ],
        "members": [[id(param) for param in group["params"]] for group in optimizer.param_groups],
        "names": [entry.name for entry in optimizer.entries],
        "journal": optimizer.journal.to_dict(),
        "numbers": (optimizer.updates, optimizer.seed, dict(optimizer.shared)),
        "drivers": [dict(controls.drivers) for controls in optimizer.controls],
        "seen": [dict(controls.seen) for controls in optimizer.controls],
    }


def equal(one: Any, other: Any) -> bool:
    """Bit for bit, tensors inside of anything."""
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) == len(other) and all(map(equal, one, other))
    return bool(one == other)


def held(optimizer: Any) -> dict[str, dict[str, Any]]:
    """The state by the parameters' names."""
    return {entry.name: optimizer.state.get(entry.param, {}) for entry in optimizer.entries}


def in_order(optimizer: Any) -> dict[str, dict[str, Any]]:
    """The same in the order of `NAMES`."""
    return {name: held(optimizer)[name] for name in SHAPES}
