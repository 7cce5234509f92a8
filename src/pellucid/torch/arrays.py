"""Torch's tensors, as the engine and the interpreter see them."""

from __future__ import annotations

import math
from typing import Any

import torch

from pellucid.fuse import narrow
from pellucid.storage import SIZES

__all__ = ["TorchBackend", "TorchNamespace"]

_NAMES = {getattr(torch, name): name for name in SIZES}


class TorchBackend:
    """See `pellucid.fuse.engine.Backend`."""

    def real(self, array: Any) -> Any:
        array = array.detach()
        if array.is_conj() or array.is_neg():
            array = array.resolve_conj().resolve_neg()
        return torch.view_as_real(array) if array.is_complex() else array

    def dtype(self, array: Any) -> str:
        return _NAMES.get(array.dtype, str(array.dtype))

    def shape(self, array: Any) -> tuple[int, ...]:
        return tuple(array.shape)

    def strides(self, array: Any) -> tuple[int, ...]:
        return tuple(array.stride())

    def address(self, array: Any) -> int:
        return array.data_ptr()  # type: ignore[no-any-return]

    def slot(
        self, param: Any, shape: tuple[int, ...], kind: str, dtype: str | None, fill: float
    ) -> Any:
        chosen = getattr(torch, dtype) if dtype else None
        if kind == "param":
            value: Any = fill
            if param.is_complex():  # pairs of reals
                value, chosen = complex(fill, fill), chosen.to_complex() if chosen else None
            return torch.full_like(
                param.detach(), value, dtype=chosen, memory_format=torch.preserve_format
            )
        if chosen is None:
            chosen = scalar_dtype() if kind == "scalar" else param.real.dtype
        return torch.full(shape, fill, dtype=chosen, device=param.device)

    def like(self, param: Any, array: Any) -> Any:
        param = self.real(param)
        made = torch.empty_like(param, dtype=array.dtype, memory_format=torch.preserve_format)
        return made.copy_(array)

    def contiguous(self, array: Any) -> Any:
        return array.detach().clone(memory_format=torch.contiguous_format)

    def copy(self, into: Any, source: Any) -> None:
        into.detach().copy_(source)

    def fill(self, into: Any, value: Any) -> None:
        if isinstance(value, torch.Tensor):
            into.detach().copy_(value)
        else:
            into.detach().fill_(value)


    def fill_rows(self, into: Any, rows: Any, value: Any) -> None:
        if isinstance(value, torch.Tensor):
            value = value.to(into.dtype)
        into.detach()[torch.from_numpy(rows)] = value


def scalar_dtype() -> torch.dtype:
    """The type of counters and other single numbers in the state: as torch.optim has it."""
    return torch.float64 if torch.get_default_dtype() == torch.float64 else torch.float32


def _tensors(*values: Any) -> tuple[Any, ...]:
    """Numbers as tensors of the type of the tensors among them."""
    like = next(value for value in values if isinstance(value, torch.Tensor))
    return tuple(
        value
        if isinstance(value, torch.Tensor)
        else torch.tensor(value, dtype=like.dtype, device=like.device)
        for value in values
    )


class TorchNamespace:
    """Torch under NumPy's names, as far as `pellucid.ops` needs them."""

    sqrt, abs, exp, log, cos = torch.sqrt, torch.abs, torch.exp, torch.log, torch.cos
    isfinite, logical_not = torch.isfinite, torch.logical_not

    @staticmethod
    def logical_and(a: Any, b: Any) -> Any:
        return torch.logical_and(*_tensors(a, b))

    @staticmethod
    def logical_or(a: Any, b: Any) -> Any:
        return torch.logical_or(*_tensors(a, b))

    @staticmethod
    def amax(x: Any, axis: tuple[int, ...], keepdims: bool) -> Any:
        return torch.amax(x, dim=axis, keepdim=keepdims)

    @staticmethod
    def divide(a: Any, b: Any) -> Any:
        return torch.true_divide(*_tensors(a, b))

    @staticmethod
    def power(a: Any, b: Any) -> Any:
        return torch.pow(a, b)

    @staticmethod
    def sign(a: Any) -> Any:
        return torch.where(torch.isnan(a), a, torch.sign(a))

    @staticmethod
    def minimum(a: Any, b: Any) -> Any:
        return torch.minimum(*_tensors(a, b))

    @staticmethod
    def maximum(a: Any, b: Any) -> Any:
        return torch.maximum(*_tensors(a, b))

    @staticmethod
    def where(condition: Any, a: Any, b: Any) -> Any:
        if not isinstance(condition, torch.Tensor):
            return a if condition else b
        return torch.where(condition, a, b)

    @staticmethod
    def sum(x: Any, axis: tuple[int, ...], keepdims: bool) -> Any:
        return torch.sum(x, dim=axis, keepdim=keepdims)

    @staticmethod
    def wide(x: Any) -> Any:
        return torch.as_tensor(x).to(torch.float64)

    @staticmethod
    def cast(x: Any, dtype: str) -> Any:
        return x.to(getattr(torch, dtype)) if isinstance(x, torch.Tensor) else x

    @staticmethod
    def rounded(x: Any, dtype: str) -> Any:
        return x.to(getattr(torch, dtype)).to(x.dtype)

    @staticmethod
    def rounded_randomly(x: Any, bits: Any, dtype: str) -> Any:
        return torch.from_numpy(narrow.randomly(x.numpy(), bits.numpy(), dtype))

    @staticmethod
    def positions(shape: tuple[int, ...]) -> Any:
        return torch.arange(math.prod(shape), dtype=torch.int64).reshape(shape)

    @staticmethod
    def number(x: Any) -> Any:
        return float(x.reshape(()))

    @staticmethod
    def whole(x: Any) -> Any:
        return int(x)

    @staticmethod
    def together(args: list[Any]) -> list[Any]:
        return args
