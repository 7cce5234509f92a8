"""Keras's torch backend: the fused kernel writes the tensors of the Variables in place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter, is_
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
    from pellucid.torch.handles import Layouts

__all__ = ["as_before", "torch_update", "torch_update_again"]

DTYPES = (torch.float32, torch.float64)
_value_of = attrgetter("_value")


def torch_update(
    optimizer: Optimizer, pairs: Sequence[Pair], extras: Mapping[str, Any], again: bool = False
) -> Fused | None:
    """Update all variables by one launch; None if it cannot be had.

    Args:
        again: whether `torch_update_again` may do the next one.
    """
    if torch.compiler.is_compiling():
        return None
    kernels: Kernels = optimizer.kernels
    written = _Written.of(kernels, [pair.parameter for pair in pairs])
    by_name = {name: value for name, value in extras.items() if isinstance(value, Mapping)}
    inputs = [[pair.grad for pair in pairs]]
    inputs += [[_given(of, one.parameter.index) for one in pairs] for of in by_name.values()]
    inputs = [[*map(_in_order, some)] for some in inputs]
    if written is None or not all(_suits(written.params, some) for some in inputs):
        return None
    at = {name: _addresses(some) for name, some in zip(by_name, inputs[1:], strict=True)}
    numbers = {name: float(value) for name, value in extras.items() if name not in by_name}
    if again and not extras:
        from pellucid.torch.handles import layouts_of

        written.look = written.look or layouts_of(written.tensors)
        written.grads = layouts_of(inputs[0], moving=True)
    return _launch(optimizer, written, _addresses(inputs[0]), numbers, at)


def as_before(optimizer: Optimizer, grads: Sequence[Any], variables: Sequence[Any]) -> bool:
    """Whether gradients are for the variables of an update before, and are such as they were."""
    known: _Written | None = optimizer.kernels.written.get(len(variables))
    return known is not None and known.fits(grads, variables)


def torch_update_again(optimizer: Optimizer, count: int) -> Fused | None:
    """Update the variables for which `as_before` found the gradients; None if any lies elsewhere.

    They stay where they are in nearly all steps: a look at them in compiled loops will do.
    """
    if torch.compiler.is_compiling():
        return None
    known: _Written = optimizer.kernels.written[count]
    if known.grads is None or not known.stays():
        return None
    return _launch(optimizer, known, known.grads.pointers, {}, {})


def _launch(
    optimizer: Optimizer,
    written: _Written,
    grads: Any,
    numbers: Mapping[str, float],
    arrays: Mapping[str, Any],
) -> Fused:
    """One update of these tensors; ``grads`` and extra ``arrays`` are addresses."""
    kernels, slots = optimizer.kernels, written.slots
    updates = int(optimizer.iterations)
    known = {id(cell): cell.at(updates) for cell in optimizer.core.cells if cell.target is None}
    values = [
        {full: known[id(cell.target or cell)] for full, cell in group.cells.items()}
        for group in optimizer.core.groups
    ]
    begun = None if optimizer.core.begun is None else _tensor(optimizer.core.begun).tolist()
    prepared = kernels.prepared(written.parameters, kernels.asleep(updates), begun)
    for name, addresses in arrays.items():
        prepared.point(("extra", name), addresses)
    shared = {key: float(_tensor(one)) for key, one in optimizer.core.shared.items()}
    step = Step(values, updates, shared, numbers)
    for place, number in kernels.fills(prepared, step):
        slots[place].detach().fill_(number)
    done = kernels.run(
        prepared, *written.addresses, grads, step,
        min(threads(), torch.get_num_threads()), written.bump,
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
    """An array as the kernel reads it: in the order of its axes, no sign left to apply."""
    if not isinstance(array, torch.Tensor) or array.layout is not torch.strided:
        return array
    return array.resolve_neg().contiguous()


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

    parameters: list[Parameter]
    variables: list[Any]  # the parameters' own, then their slots
    tensors: list[Any] = field(default_factory=list)
    where: Any = None
    look: Layouts | None = None  # at the tensors
    grads: Layouts | None = None  # of the update before

    @classmethod
    def of(cls, kernels: Kernels, parameters: list[Parameter]) -> _Written | None:
        """Those of these parameters; None if the kernel cannot write them as they lie."""
        variables = [one.variable for one in parameters]
        slots = [slot for one in parameters for slot in one.slots.values()]
        made = cls(parameters, [*variables, *slots])
        made.tensors = [*map(_tensor, made.variables)]
        known: _Written | None = kernels.written.get(len(parameters))
        if known is not None and known.is_same(made) and known.stays():
            return known
        if not (
            all(map(_plain, made.tensors)) and all(map(_as_known, made.tensors, made.variables))
        ):
            return None  # a type or shape is no longer what Keras has on record
        made.where = _addresses(made.tensors)
        kernels.written[len(parameters)] = made
        return made

    def fits(self, grads: Sequence[Any], variables: Sequence[Any]) -> bool:
        """Whether gradients are for these parameters, and are such as they were."""
        return (
            self.grads is not None
            and self.look is not None
            and len(grads) == len(self.parameters)
            and all(map(is_, variables, self.variables))
            and self.grads.fit(grads)
        )

    def is_same(self, other: _Written) -> bool:
        """Whether another is of the same Variables."""
        return len(self.variables) == len(other.variables) and all(
            map(is_, self.variables, other.variables)
        )

    def stays(self) -> bool:
        """Whether the tensors that are written are those of the update before, as they were."""
        held = map(_value_of, self.variables)
        return self.look is not None and all(map(is_, held, self.tensors)) and self.look.hold()

    @property
    def params(self) -> list[Any]:
        return self.tensors[: len(self.parameters)]

    @property
    def slots(self) -> list[Any]:
        return self.tensors[len(self.parameters) :]

    @property
    def addresses(self) -> tuple[Any, Any]:
        return self.where[: len(self.parameters)], self.where[len(self.parameters) :]

    def bump(self) -> None:
        """Note for autograd that the tensors were written to."""
        if self.look is not None:
            self.look.bump()
        else:
            torch.autograd.graph.increment_version(self.tensors)


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
