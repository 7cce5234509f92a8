"""Gradients of a torch optimizer: dense, of some rows, scaled; after the user's functions."""

from __future__ import annotations

import math
import weakref
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy
import torch

from pellucid.fuse.engine import DTYPES, Entry
from pellucid.fuse.rows import Rows
from pellucid.fuse.trace import UNSCALE
from pellucid.torch.checks import check_memory, check_param
from pellucid.torch.grouped import Grouped

__all__ = ["Gradients", "rows_of"]

WIDE = {torch.bfloat16: torch.float32, torch.float16: torch.float32}
"""In what duplicates of 16-bit rows are summed."""


LEAST_SCALE = 2.0**-127
"""Of a GradScaler: what undoes it is finite in float32."""


class Gradients(Grouped):
    """The part of a torch optimizer that takes gradients as they come."""

    _step_supports_amp_scaling = True
    """`torch.amp.GradScaler` then sets, and takes away, ``grad_scale`` and ``found_inf``."""
    _came: Mapping[int, tuple[weakref.ref[Any], bool]] = MappingProxyType({})
    """Of each parameter that was updated, by id: whether its gradient was of some rows."""
    _comes: dict[int, tuple[weakref.ref[Any], bool]]  # in the step that is being made

    # -- scaled gradients ------------------------------------------------------------------

    def _step_found_inf(self) -> bool:
        """Whether a GradScaler found a gradient that is not finite."""
        found = getattr(self, "found_inf", None)
        return found is not None and float(found) != 0.0

    def _unscale(self) -> float | None:
        """What gradients are multiplied by to undo a GradScaler's scale; None: nothing."""
        given = getattr(self, "grad_scale", None)
        if given is None:
            return None
        scale = float(given)
        if not LEAST_SCALE <= scale < math.inf:
            raise ValueError(
                f"grad_scale is {scale}; allowed is a positive finite number from 2^-127: "
                "gradients that were multiplied by it cannot be had back. Look at the GradScaler's "
                "init_scale and at how its scale grew"
            )
        return 1.0 / scale if scale != 1.0 else None

    # -- intake ----------------------------------------------------------------------------

    def _gradients(self, extras: dict[str, Any]) -> dict[int, Any]:
        """Gradients by entry's index, checked; those of some rows as `Rows`.

        Where functions of the user's see gradients, they are unscaled before.
        """
        found = {}
        self._comes = {}
        for entry in self.entries:
            grad = entry.param.grad
            if grad is not None:
                self._check_array(entry, grad, "gradient")
                found[entry.index] = grad
        if self.transformers:
            factor = extras.pop(UNSCALE, None)
            found = {index: self._for_functions(index, grad, factor) for index, grad in
                     found.items()}
            return found
        return {index: self._settled(self.entries[index], grad) for index, grad in found.items()}

    def _for_functions(self, index: int, grad: Any, factor: float | None) -> Any:
        """A gradient as the user's functions get it."""
        if grad.layout == torch.sparse_coo:
            entry = self.entries[index]
            _check_rows(entry.name, entry.param, grad)
            if entry.pipeline.storage.sparse == "dense":
                grad = grad.to_dense()
            elif not grad.is_coalesced():
                grad = grad.to(WIDE.get(grad.dtype, grad.dtype)).coalesce().to(grad.dtype)
        if factor is None:
            return grad
        return grad.to(WIDE.get(grad.dtype, grad.dtype)) * factor

    def _settled(self, entry: Entry, grad: Any) -> Any:
        """A gradient as the engine takes it."""
        mode = entry.pipeline.storage.sparse
        if grad.layout != torch.sparse_coo:
            self._check_alike(entry, False, mode)
            return grad
        _check_rows(entry.name, entry.param, grad)
        if mode == "dense":
            return grad.to_dense()
        if not grad.sparse_dim():
            raise TypeError(
                f"gradient of {entry.name!r} is sparse along none of its axes (its sparse_dim() "
                "is 0); allowed is from 1: use grad.to_dense(), or sparse='dense'"
            )
        if entry.param.is_complex():
            raise TypeError(
                f"gradient of {entry.name!r} is sparse and complex, and its rows are no rows of "
                "reals: use sparse='dense'"
            )
        self._check_alike(entry, True, mode)
        return rows_of(grad)

    def _check_alike(self, entry: Entry, sparse: bool, mode: str) -> None:
        """Raise if a parameter's gradients are of some rows in one step, and of all in another."""
        if mode == "dense":
            return
        before = self._came.get(id(entry.param))
        if before is None or before[0]() is not entry.param:
            self._comes[id(entry.param)] = weakref.ref(entry.param), sparse
        elif before[1] != sparse:
            words = ("dense", "sparse") if sparse else ("sparse", "dense")
            raise TypeError(
                f"gradient of {entry.name!r} is {words[1]}, and it was {words[0]} before: with "
                f"sparse={mode!r} a parameter's gradients are always the one or always the other. "
                "Use sparse='dense', which takes both, or convert them (grad.to_dense())"
            )

    def _note_kinds(self) -> None:
        """The step is made: its gradients are of the kind that they had."""
        if self._comes:
            kept = {key: one for key, one in self._came.items() if one[0]() is not None}
            self._came = {**kept, **self._comes}

    def _check_array(self, entry: Entry, array: Any, what: str) -> None:
        param = entry.param
        if not isinstance(array, torch.Tensor):
            raise TypeError(
                f"{what} of {entry.name!r} is {type(array).__name__}; allowed is a tensor"
            )
        sparse = array.layout == torch.sparse_coo and what.endswith("gradient")
        if array.layout != torch.strided and not sparse:
            raise TypeError(
                f"{what} of {entry.name!r} is sparse ({array.layout}); allowed is a dense tensor"
                + (", or one of torch.sparse_coo" if what.endswith("gradient") else "")
            )
        if array.device.type != "cpu" or param.device.type != "cpu":
            raise TypeError(
                f"{what} of {entry.name!r} is on {array.device}, its parameter on {param.device}; "
                "allowed is the CPU: kernels for other devices are not built yet"
            )
        if array.shape != param.shape or array.dtype not in _types(param, what):
            raise ValueError(
                f"{what} of {entry.name!r} has shape {tuple(array.shape)} and dtype {array.dtype}; "
                f"its parameter has {tuple(param.shape)} and {param.dtype}: they must be the same"
            )
        if not sparse and not array.is_conj() and array.numel() and not array.data_ptr():
            raise ValueError(f"{what} of {entry.name!r} has no memory (a null pointer)")
        check_param(entry.name, param)
        check_memory(param, f"parameter {entry.name!r}")
        held = self.state.get(param, {})
        if not isinstance(held, dict):
            raise TypeError(
                f"the state of {entry.name!r} is {type(held).__name__}; allowed is a dict"
            )
        for full, native in self.controls[entry.group].names.slots.items():
            if held.get(native) is not None:
                check_memory(held[native], f"slot {full!r} of {entry.name!r}")

    def _transformed(self, gradients: dict[int, Any]) -> dict[int, Any]:
        """Gradients after the plain functions, which must leave parameters alone."""
        params = {entry.index: entry.param for entry in self.entries}
        versions = {index: param._version for index, param in params.items()}
        made = self._apply_transformers(gradients, params)
        for entry in self.entries:
            if entry.param._version != versions[entry.index]:
                raise ValueError(
                    f"a gradient transformer changed the parameter {entry.name!r}: change "
                    "gradients only; a ParameterTransform changes parameters"
                )
        return {index: self._settled(self.entries[index], grad) for index, grad in made.items()}

    def _grad_dtypes(self, gradients: Mapping[int, Any]) -> dict[int, str]:
        found = {}
        for index, grad in gradients.items():
            values = grad.values if isinstance(grad, Rows) else grad
            if values.dtype != self.entries[index].param.dtype:
                found[index] = self.backend.dtype(self.backend.real(values))
        return found


def _types(param: Any, what: str) -> list[Any]:
    """What types a gradient or another input of a parameter may have."""
    allowed = [param.dtype]
    if what.endswith("gradient"):
        own = getattr(param, "grad_dtype", None)
        allowed.extend([own] if str(own).removeprefix("torch.") in DTYPES else [])
    if what == "transformed gradient":
        allowed.append(WIDE.get(param.dtype))
    return allowed


def _check_rows(name: str, param: Any, grad: Any) -> None:
    """Raise unless a sparse gradient's indices are inside of its parameter."""
    indices = grad._indices()
    if not param.dim():
        raise TypeError(f"gradient of {name!r} is sparse, and its parameter is one number")
    if not indices.numel():
        return
    low, high = indices.amin(dim=1).tolist(), indices.amax(dim=1).tolist()
    for axis, (least, most) in enumerate(zip(low, high, strict=True)):
        if least < 0 or most >= param.shape[axis]:
            raise ValueError(
                f"gradient of {name!r} has the index {least if least < 0 else most} along axis "
                f"{axis}; allowed is 0 to {param.shape[axis] - 1}"
            )


def rows_of(grad: Any) -> Rows:
    """The rows, along the first axis, that a sparse gradient has; duplicates are summed.

    Args:
        grad: of layout torch.sparse_coo, its indices in range.
    """
    wide = WIDE.get(grad.dtype)
    if grad.sparse_dim() > 1:
        rows, values = _by_rows(grad if wide is None else grad.to(wide))
    else:
        rows, values = grad._indices()[0].contiguous().numpy(), grad._values().contiguous()
    order = numpy.argsort(rows)
    ordered = rows[order]
    again = numpy.zeros(len(rows), bool)  # whether a row is that of the entry before
    numpy.equal(ordered[1:], ordered[:-1], out=again[1:])
    if not again.any():
        return Rows(ordered, order, values)
    several = again.copy()
    several[:-1] |= again[1:]
    entries = order[several]  # in the order in which they came, row by row: so they are summed
    order[several] = entries[numpy.lexsort((entries, rows[entries]))]
    places = order[~again]
    first = torch.from_numpy(places[numpy.cumsum(~again)[again] - 1])
    later = torch.from_numpy(order[again])
    summed = values.clone() if wide is None else values.to(wide)
    summed.index_add_(0, first, summed[later])
    return Rows(ordered[~again], places, summed)


def _by_rows(grad: Any) -> tuple[Any, Any]:
    """Rows and their values of a gradient that is sparse along several axes."""
    grad = grad.coalesce()
    indices = grad._indices()
    rows, place = torch.unique(indices[0], return_inverse=True)
    inside = torch.sparse_coo_tensor(
        torch.cat([place[None], indices[1:]]), grad._values(), (len(rows), *grad.shape[1:]),
        check_invariants=False,
    )  # fmt: skip
    return rows.numpy(), inside.to_dense()
