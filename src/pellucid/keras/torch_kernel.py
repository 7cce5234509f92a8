"""Keras's torch backend: the fused kernel writes the tensors of the Variables in place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import is_
from typing import TYPE_CHECKING, Any

import keras
import numpy
import torch

from pellucid.fuse.launch import Step
from pellucid.fuse.pool import threads
from pellucid.keras.journal import note_call
from pellucid.keras.kernels import Fused, Kernels, Prepared

if TYPE_CHECKING:
    from pellucid.keras.core import Parameter
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
    written = _Written.of(kernels, parameters)
    by_name = {name: value for name, value in extras.items() if isinstance(value, Mapping)}
    inputs = [[pair.grad for pair in pairs]]
    inputs += [[_given(of, one.index) for one in parameters] for of in by_name.values()]
    inputs = [[*map(_in_order, some)] for some in inputs]
    if written is None or not all(_suits(written.params, some) for some in inputs):
        return None
    grads, slots = inputs.pop(0), written.slots
    updates = int(optimizer.iterations)
    known = {id(cell): cell.at(updates) for cell in optimizer.core.cells if cell.target is None}
    values = [
        {full: known[id(cell.target or cell)] for full, cell in group.cells.items()}
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
        slots[place].detach().fill_(number)
    bump = torch.autograd.graph.increment_version
    done = kernels.run(
        prepared, *written.addresses, _addresses(grads), step,
        min(threads(), torch.get_num_threads()), lambda: bump(written.tensors),
    )  # fmt: skip
    if done:
        _commit(optimizer, prepared, step, known)
    return Fused(None if done else 1.0)


def _commit(
    optimizer: Optimizer, prepared: Prepared, step: Step, known: Mapping[int, float]
) -> None:
    """What stands beside the arrays: optimizer-wide slots, flags, schedules' numbers."""
    core = optimizer.core
    for key, variable in core.shared.items():
        variable.assign(step.shared[key])
    if prepared.fresh:
        begun = _tensor(core.begun).detach()
        begun[[core.flags[key] for key in prepared.fresh]] = 1.0
        optimizer.kernels.begun(prepared)
    for cell in core.cells:
        if cell.driver is not None:
            number = known[id(cell.target or cell)]
            cell.variable.put(number)
            note_call(cell, step.updates, number)


def _in_order(array: Any) -> Any:
    """An array in the order of its axes: the kernel reads no other."""
    plain = not isinstance(array, torch.Tensor) or array.layout is not torch.strided
    return array if plain or array.is_contiguous() else array.contiguous()


def _given(arrays: Mapping[int, Any], index: int) -> Any:
    if index not in arrays:
        raise TypeError(f"an extra input lacks the array number {index}: give one a variable")
    return keras.ops.convert_to_tensor(arrays[index])


def _tensor(variable: Any) -> Any:
    """A Variable's tensor."""
    held = variable._value if isinstance(variable, keras.Variable) else variable
    return variable.value if held is None else held


@dataclass
class _Written:
    """The tensors that a launch writes, and where they are."""

    variables: list[Any]
    count: int  # of parameters, which come first
    tensors: list[Any]
    where: Any
    dtypes: list[Any]

    @classmethod
    def of(cls, kernels: Kernels, parameters: Sequence[Parameter]) -> _Written | None:
        """Those of these parameters; None if the kernel cannot write them as they lie."""
        known: _Written | None = kernels.written.get(len(parameters))
        if known is None or not all(
            map(is_, (one.variable for one in parameters), known.variables)
        ):
            variables = [one.variable for one in parameters]
            slots = [slot for one in parameters for slot in one.slots.values()]
            known = cls([*variables, *slots], len(parameters), [], None, [])
        tensors = [*map(_tensor, known.variables)]
        where, dtypes = _addresses(tensors), [tensor.dtype for tensor in tensors]
        if not all(map(torch.Tensor.is_contiguous, tensors)):
            return None
        same = dtypes == known.dtypes and numpy.array_equal(where, known.where)
        if not same and not (
            all(map(_plain, tensors)) and all(map(_as_known, tensors, known.variables))
        ):
            return None  # a type or shape is no longer what Keras has on record
        known.tensors, known.where, known.dtypes = tensors, where, dtypes
        kernels.written[len(parameters)] = known
        return known

    @property
    def params(self) -> list[Any]:
        return self.tensors[: self.count]

    @property
    def slots(self) -> list[Any]:
        return self.tensors[self.count :]

    @property
    def addresses(self) -> tuple[Any, Any]:
        return self.where[: self.count], self.where[self.count :]


def _addresses(tensors: Sequence[Any]) -> Any:
    return numpy.array([tensor.data_ptr() for tensor in tensors], numpy.int64)


def _suits(params: Sequence[Any], arrays: Sequence[Any]) -> bool:
    """Whether the kernel can read these arrays as they lie."""
    return all(
        isinstance(array, torch.Tensor)
        and array.dtype == param.dtype
        and array.shape == param.shape
        and _plain(array)
        for array, param in zip(arrays, params, strict=True)
    )


def _as_known(tensor: Any, variable: Any) -> bool:
    """Whether a tensor has the type and shape that Keras has on record for its Variable."""
    dtype = str(keras.backend.standardize_dtype(variable.dtype))
    return str(tensor.dtype) == f"torch.{dtype}" and tuple(tensor.shape) == tuple(variable.shape)


def _plain(tensor: Any) -> bool:
    return (
        tensor.is_cpu
        and tensor.dtype in DTYPES
        and tensor.layout is torch.strided
        and tensor.is_contiguous()
    )
