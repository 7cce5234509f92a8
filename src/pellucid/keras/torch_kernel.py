"""Keras's torch backend: the fused kernel writes the tensors of the Variables in place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import keras
import numpy
import torch

from pellucid.fuse.launch import Step
from pellucid.fuse.pool import threads
from pellucid.keras.kernels import Fused, Kernels, Prepared

if TYPE_CHECKING:
    from pellucid.keras.optimizer import Optimizer
    from pellucid.keras.update import Pair

__all__ = ["torch_update"]

DTYPES = (torch.float32, torch.float64)


def torch_update(
    optimizer: Optimizer, pairs: Sequence[Pair], extras: Mapping[str, Any]
) -> Fused | None:
    """Update all variables by one launch; None if it cannot be had."""
    if torch.compiler.is_compiling():
        return None
    kernels: Kernels = optimizer.kernels
    parameters = [pair.parameter for pair in pairs]
    params = [_tensor(one.variable) for one in parameters]
    slots = [_tensor(slot) for one in parameters for slot in one.slots.values()]
    grads = [pair.grad for pair in pairs]
    by_name = {name: value for name, value in extras.items() if isinstance(value, Mapping)}
    inputs = [[_given(of, one.index) for one in parameters] for of in by_name.values()]
    if not _suits(params, slots, [grads, *inputs]):
        return None
    updates = int(optimizer.iterations)
    values = [
        {full: cell.at(updates) for full, cell in group.cells.items()}
        for group in optimizer.core.groups
    ]
    begun = None if optimizer.core.begun is None else _tensor(optimizer.core.begun).tolist()
    prepared = kernels.prepared(parameters, kernels.asleep(updates), begun)
    for name, arrays in zip(by_name, inputs, strict=True):
        prepared.point(("extra", name), _addresses(arrays))
    shared = {key: float(_tensor(one)) for key, one in optimizer.core.shared.items()}
    numbers = {name: float(value) for name, value in extras.items() if name not in by_name}
    step = Step(values, updates, shared, numbers)
    for place, number in kernels.fills(prepared, step):
        slots[place].fill_(number)
    bump = torch.autograd.graph.increment_version
    done = kernels.run(
        prepared, _addresses(params), _addresses(slots), _addresses(grads), step,
        min(threads(), torch.get_num_threads()), lambda: bump([*params, *slots]),
    )  # fmt: skip
    if done:
        _commit(optimizer, prepared, step)
    return Fused(None if done else 1.0)


def _commit(optimizer: Optimizer, prepared: Prepared, step: Step) -> None:
    """What stands beside the arrays: optimizer-wide slots, flags, schedules' numbers."""
    core = optimizer.core
    for key, variable in core.shared.items():
        variable.assign(step.shared[key])
    if prepared.fresh:
        begun = _tensor(core.begun)
        begun[[core.flags[key] for key in prepared.fresh]] = 1.0
        optimizer.kernels.begun(prepared)
    for number, group in enumerate(core.groups):
        for full, cell in group.cells.items():
            if cell.driver is not None:
                cell.variable.put(step.values[number][full])


def _given(arrays: Mapping[int, Any], index: int) -> Any:
    if index not in arrays:
        raise TypeError(f"an extra input lacks the array number {index}: give one a variable")
    return keras.ops.convert_to_tensor(arrays[index])


def _tensor(variable: Any) -> Any:
    """A Variable's tensor, past autograd."""
    held = variable._value if isinstance(variable, keras.Variable) else variable
    return (variable.value if held is None else held).detach()


def _addresses(tensors: Sequence[Any]) -> Any:
    return numpy.array([tensor.data_ptr() for tensor in tensors], numpy.int64)


def _suits(params: Sequence[Any], slots: Sequence[Any], inputs: Sequence[Sequence[Any]]) -> bool:
    """Whether the kernel can work on these tensors as they lie."""
    for group in inputs:
        for tensor, param in zip(group, params, strict=True):
            if (
                not isinstance(tensor, torch.Tensor)
                or tensor.dtype != param.dtype
                or tensor.shape != param.shape
                or not _plain(tensor)
            ):
                return False
    return all(map(_plain, params)) and all(map(_plain, slots))


def _plain(tensor: Any) -> bool:
    return (
        tensor.is_cpu
        and tensor.dtype in DTYPES
        and tensor.layout is torch.strided
        and tensor.is_contiguous()
    )
