"""What a torch optimizer can work on: parameters, memory, counters, switches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from pellucid.fuse.engine import DTYPES

__all__ = [
    "check_memory", "check_param", "check_switches", "counted", "is_counter", "listed",
]  # fmt: skip


def listed(params: Any) -> Any:
    """What torch's constructor takes: a model stands for its named parameters."""
    if isinstance(params, torch.nn.Module):
        named = list(params.named_parameters())
        if not named:
            raise ValueError("the model has no parameters: an optimizer needs at least one")
        return named
    if isinstance(params, torch.Tensor):
        raise TypeError("params is one tensor; allowed is a model or an iterable: pass [tensor]")
    listed = list(params)
    if not listed:
        raise ValueError("params is empty: an optimizer needs at least one parameter")
    return listed


def check_param(name: Any, param: Any) -> None:
    if not isinstance(name, str):
        raise TypeError(f"a parameter's name is {name!r}; allowed is text")
    if not isinstance(param, torch.Tensor):
        raise TypeError(f"parameter {name!r} is {type(param).__name__}; allowed is a tensor")
    if hasattr(param, "to_local"):
        raise TypeError(
            f"parameter {name!r} is a {type(param).__name__}, as fully_shard and "
            "parallelize_module make them; allowed is an ordinary tensor: use "
            "FullyShardedDataParallel, or DistributedDataParallel with ZeroRedundancyOptimizer"
        )
    if param.layout != torch.strided:
        raise TypeError(f"parameter {name!r} is sparse ({param.layout}); allowed is a dense tensor")
    real = {torch.complex64: "float32", torch.complex128: "float64"}.get(param.dtype)
    if real is None and str(param.dtype).removeprefix("torch.") not in DTYPES:
        raise TypeError(
            f"parameter {name!r} is {param.dtype}; allowed are {', '.join(DTYPES)}, complex64 and "
            "complex128: convert the model, such as model.float()"
        )
    if param.numel() and any(
        n > 1 and s == 0 for n, s in zip(param.shape, param.stride(), strict=True)
    ):
        raise ValueError(
            f"parameter {name!r} is expanded: several elements share memory; use its .clone()"
        )
    if param.is_conj() or param.is_neg():
        raise ValueError(
            f"parameter {name!r} is a lazily conjugated or negated view: use its "
            ".resolve_conj().resolve_neg()"
        )
    if param.requires_grad and not param.is_leaf and not param.retains_grad:
        raise ValueError("can't optimize a non-leaf Tensor")


def check_memory(array: Any, what: str) -> None:
    """Raise unless a kernel can write a tensor."""
    if not isinstance(array, torch.Tensor):
        raise TypeError(f"{what} is {type(array).__name__}; allowed is a tensor")
    if array.layout != torch.strided or array.device.type != "cpu":
        raise TypeError(
            f"{what} is {array.layout} on {array.device}; allowed is a dense tensor on the CPU"
        )
    if array.is_conj() or array.is_neg():
        raise ValueError(f"{what} is a lazily conjugated or negated view: use a .clone()")
    if not array.numel():
        return
    if not array.data_ptr():
        raise ValueError(f"{what} has no memory (a null pointer)")
    if any(n > 1 and s == 0 for n, s in zip(array.shape, array.stride(), strict=True)):
        raise ValueError(f"{what} is expanded: several elements share memory; use a .clone()")


def is_counter(value: Any) -> bool:
    """Whether a kernel can count in this tensor: torch's own form on the CPU."""
    return (
        isinstance(value, torch.Tensor)
        and value.dtype == torch.float32
        and value.dim() == 0
        and value.device.type == "cpu"
        and bool(value.data_ptr())
    )


def counted(value: Any, name: str) -> float:
    """The number of updates that something else than a proper counter holds."""
    try:
        count = float(value)
    except (TypeError, ValueError, RuntimeError):
        count = -1.0
    if not 0 <= count < 1 << 62:
        raise ValueError(f"the step of {name!r} is {value!r}; allowed is a count of updates")
    return count


def check_switches(store: Mapping[str, Any]) -> None:
    if store.get("differentiable"):
        raise ValueError(
            "differentiable=True cannot be had: the update is a fused kernel outside autograd; "
            "leave it False"
        )
    if store.get("capturable"):
        raise ValueError(
            "capturable=True cannot be had: there is no CUDA graph on the CPU; leave it False"
        )
