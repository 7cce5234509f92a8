"""Rows of a parameter: which stay, which are appended, and arrays of these."""

from __future__ import annotations

from dataclasses import dataclass
from operator import index
from typing import Any

import torch

__all__ = ["Rows", "rows_of"]


@dataclass(frozen=True)
class Rows:
    """Rows of an array that another is made of, and how many follow them."""

    kept: Any  # (k,): numbers of rows, in their new order
    appended: int

    @property
    def count(self) -> int:
        return len(self.kept) + self.appended

    def of(self, array: Any, fill: Any = 0.0) -> Any:
        """A new array of these rows, laid out in memory as the old one is.

        Args:
            array: (n, ...).
            fill: what the appended rows hold: a number, or an array (appended, ...).
        """
        made = _like(array, self.count)
        kept = len(self.kept)
        made[:kept] = array.detach().index_select(0, self.kept)
        if self.appended and not isinstance(fill, torch.Tensor) and made.is_complex():
            fill = complex(fill, fill)  # pairs of reals
        if self.appended:
            made[kept:] = fill
        return made

    def of_gradient(self, grad: Any) -> Any:
        """The same rows of a gradient, dense or sparse; those of appended rows are 0."""
        if grad.layout != torch.sparse_coo:
            return self.of(grad)
        found = grad.detach().index_select(0, self.kept).coalesce()
        shape = (self.count, *grad.shape[1:])
        return torch.sparse_coo_tensor(
            found.indices(), found.values(), shape, is_coalesced=True, check_invariants=False
        )


def _like(array: Any, count: int) -> Any:
    """An empty array of so many rows whose axes lie in memory in the order of another's."""
    shape = (count, *array.shape[1:])
    strides = array.stride()
    outermost = array.shape[0] < 2  # of one row the stride says nothing
    order = sorted(
        range(len(shape)), key=lambda axis: (not (outermost and axis == 0), -strides[axis])
    )
    made = torch.empty([shape[axis] for axis in order], dtype=array.dtype, device=array.device)
    return made.permute([order.index(axis) for axis in range(len(shape))])


def rows_of(keep: Any, param: Any, new: Any, name: str) -> Rows:
    """The rows that ``keep`` means for a parameter, and ``new`` those appended; all checked.

    Raises:
        TypeError, ValueError: what is wrong.
    """
    if not param.dim():
        raise ValueError(f"{name!r} is one number and has no rows: it cannot be resized")
    count = int(param.shape[0])
    number = _number(keep)
    if new is not None:
        _check_new(new, param, name)
    if number is None:
        return Rows(_chosen(keep, count, name).to(param.device), 0 if new is None else len(new))
    if number < 0:
        raise ValueError(f"keep is {number} for {name!r}; allowed is a number of rows from 0")
    appended = max(number - count, 0)
    if new is not None and len(new) != appended:
        raise ValueError(
            f"new has {len(new)} rows for {name!r}; from {count} to keep={number} "
            f"{appended} are appended: give as many, or name the rows that stay as a mask"
        )
    return Rows(torch.arange(min(number, count), device=param.device), appended)


def _number(keep: Any) -> int | None:
    if isinstance(keep, bool):
        raise TypeError(
            f"keep is {keep}; allowed is a mask over rows, numbers of rows, or how many rows there "
            "are to be"
        )
    if getattr(keep, "shape", ()) or isinstance(keep, (list, tuple, range)):
        return None
    if isinstance(keep, torch.Tensor) and keep.dtype == torch.bool:
        return _number(bool(keep))
    try:
        return index(keep)
    except TypeError:
        raise TypeError(
            f"keep is {keep!r}; allowed is a mask over rows, numbers of rows, or how many rows "
            "there are to be"
        ) from None


def _chosen(keep: Any, count: int, name: str) -> Any:
    """Numbers of rows, from a mask or from themselves."""
    try:
        given = torch.as_tensor(keep).detach().cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"keep is no mask and no list of rows for {name!r}: {error}") from error
    if not given.numel() and given.dim() == 1 and given.dtype != torch.bool:
        given = given.to(torch.int64)  # an empty list
    if given.dim() != 1:
        raise ValueError(
            f"keep has shape {tuple(given.shape)} for {name!r}; allowed is one value a row: "
            f"({count},) for a mask"
        )
    if given.dtype == torch.bool:
        if len(given) != count:
            raise ValueError(
                f"keep is a mask of {len(given)} rows; {name!r} has {count}: give one value a row"
            )
        return given.nonzero().squeeze(1)
    if given.dtype == torch.uint8 or given.is_floating_point() or given.is_complex():
        raise TypeError(
            f"keep has dtype {given.dtype}; allowed is bool for a mask, or whole numbers of rows "
            "(int64)"
        )
    wrong = given[(given < 0) | (given >= count)]
    if len(wrong):
        raise ValueError(
            f"keep names the row {int(wrong[0])} of {name!r}; allowed is 0 to {count - 1}"
        )
    return given.to(torch.int64)


def _check_new(new: Any, param: Any, name: str) -> None:
    if not isinstance(new, torch.Tensor):
        raise TypeError(f"new is {type(new).__name__}; allowed is a tensor of the appended rows")
    own = tuple(param.shape[1:])
    fits = new.dim() == param.dim() and tuple(new.shape[1:]) == own
    if not fits or new.dtype != param.dtype or new.device != param.device:
        raise ValueError(
            f"new has shape {tuple(new.shape)}, {new.dtype}, on {new.device}; rows of {name!r} are "
            f"(k, {', '.join(map(str, own))}), {param.dtype}, on {param.device}"
        )
    if new.layout != torch.strided:
        raise TypeError(f"new is {new.layout}; allowed is a dense tensor")
