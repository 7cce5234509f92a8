"""Whether anything moved since the last step: every pointer and every slot, at each step.

Reading a pointer through Python costs as much as the update of a small tensor. Torch exports the
address of a C function that reads one (its own compiler's kernels call it); a small compiled loop
calls that for all tensors. Where a release of torch lacks it, the pointers are read one by one.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import chain
from operator import attrgetter, is_
from typing import Any

import numpy
import torch

from pellucid.fuse.launch import Launch
from pellucid.fuse.program import runtime_function
from pellucid.torch.handles import handles_of

__all__ = ["Watch", "gradient_of"]

gradient_of = attrgetter("grad")
_pointer_of = torch.Tensor.data_ptr
_END = object()


call_pointer: Any  # these names are the compiler's: see `pellucid.fuse.runtime.namespace`
load_1: Any
pointer_1: Any
prefetch_tensor: Any


def moved(reader, held_at, ids, tensors, expected, grads_at, found):  # type: ignore[no-untyped-def]
    """Whether a held object or a pointer is another than it was; fills in gradients' pointers."""
    held = pointer_1(held_at)
    for i in range(ids.shape[0]):
        if load_1(held, i) != ids[i]:
            return 1
    grads = pointer_1(grads_at)
    count = found.shape[0]
    for i in range(count + 16):
        if i < count:
            prefetch_tensor(load_1(grads, i))
        if i >= 16:
            found[i - 16] = call_pointer(reader, load_1(grads, i - 16))
    count = tensors.shape[0]
    for i in range(count + 16):
        if i < count:
            prefetch_tensor(tensors[i])
        if i >= 16 and call_pointer(reader, tensors[i - 16]) != expected[i - 16]:
            return 1
    return 0


@cache
def _reader() -> tuple[int, Any] | None:
    """The address of torch's pointer reader and the compiled loop, or None."""
    try:
        from torch._C._dynamo import guards

        address = guards._torchinductor_pyobject_tensor_data_ptr  # type: ignore[attr-defined]
    except (ImportError, AttributeError):
        return None
    if not isinstance(address, int) or not address:
        return None
    from numba import int64

    ints = int64[::1]
    loop = runtime_function(moved, int64(int64, int64, ints, ints, ints, int64, ints))
    return address, loop


def _guards(tensors: Sequence[Any]) -> Any:
    """Torch's own check of type, dtype, device, shape and strides of many tensors, or None."""
    try:
        from torch._C._dynamo.guards import TensorGuards
    except ImportError:
        return None
    return TensorGuards(
        *tensors,
        dynamic_dims_sizes=[[*tensor.shape] for tensor in tensors],  # type: ignore[misc]
        dynamic_dims_strides=[[*tensor.stride()] for tensor in tensors],  # type: ignore[misc]
    )


def _layout(tensor: Any) -> tuple[Any, ...]:
    if tensor is None or tensor.layout != torch.strided:
        return (tensor,)  # none of these is ever equal to a dense tensor's
    lazy = tensor.is_conj(), tensor.is_neg()
    return type(tensor), tensor.dtype, tensor.device, tensor.shape, tensor.stride(), lazy


def _layouts(tensors: Sequence[Any]) -> list[tuple[Any, ...]]:
    return [*map(_layout, tensors)]


class Layouts:
    """What tensors are, beside where they lie: type, dtype, device, shape and strides."""

    def __init__(self, tensors: Sequence[Any]) -> None:
        self.guards = _guards(tensors)
        self.known = None if self.guards else _layouts(tensors)

    def hold(self, tensors: Sequence[Any]) -> bool:
        """Whether these tensors are what those were."""
        if self.guards is not None:
            return bool(self.guards.check(*tensors))
        return _layouts(tensors) == self.known


class Watch:
    """Everything that a launch of torch tensors relies on."""

    def __init__(
        self,
        params: Sequence[Any],
        idle: Sequence[Any],
        grads: Sequence[Any],
        slots: Sequence[Any],
        counters: Sequence[Any],
        groups: list[dict[str, Any]],
        state: Any,
        launch: Launch,
    ) -> None:
        """Args:
        params: parameters of the launch, in its order, each with a gradient.
        idle: the optimizer's other parameters, which have none.
        grads: this step's gradients.
        slots: all arrays of the state that the launch writes.
        counters: all step counters that it advances.
        groups: the optimizer's ``param_groups``.
        state: the optimizer's state: its values are dicts.
        """
        self.params, self.idle, self.launch = list(params), list(idle), launch
        self.groups, self.state = groups, state
        self.held = [*self._objects()]
        self.ids = numpy.array([id(one) for one in self.held], numpy.int64)
        self.shaped = [*params, *slots]
        self.grad_layouts = Layouts(grads)
        self.handles = handles_of([*self.shaped, *counters])
        self.layouts = None if self.handles else Layouts(self.shaped)
        self.tensors = [*self.shaped, *counters] if self.handles is None else []
        self.expected = numpy.array([_pointer_of(t) for t in self.tensors], numpy.int64)
        self.alive = [tensor.detach() for tensor in (*self.shaped, *counters)]  # their memory
        self.tensor_ids = numpy.array([id(one) for one in self.tensors], numpy.int64)
        self.found = numpy.zeros(len(self.params), numpy.int64)
        self.nonempty = numpy.array([param.numel() > 0 for param in self.params], bool)
        self.reader = _reader()
        if not self._same(grads):  # a reader that reads wrong is not used
            self.reader = None

    def _objects(self) -> chain[Any]:
        """Groups, their parameters and all that the state holds, in order."""
        groups = chain.from_iterable(chain((group,), group["params"]) for group in self.groups)
        values = self.state.values()
        names, slots = chain.from_iterable(values), chain.from_iterable(map(dict.values, values))
        return chain(groups, self.state, values, names, slots)

    def _same(self, grads: Sequence[Any]) -> bool:
        expected = numpy.array([_pointer_of(grad) for grad in grads], numpy.int64)
        return self._pointers(list(grads)) and bool((self.found == expected).all())

    def _pointers(self, grads: list[Any]) -> bool:
        """Compare what is held and where; fill in the gradients' pointers."""
        try:
            if self.reader is None:
                return self._pointers_one_by_one(grads)
            every = self._objects()
            held = numpy.fromiter(every, object, len(self.held))
        except (KeyError, TypeError, ValueError):  # fewer, or no dict of the expected form
            return False
        if next(every, _END) is not _END:
            return False
        objects = numpy.fromiter(grads, object, len(grads))
        address, loop = self.reader
        return not loop(
            address,
            held.__array_interface__["data"][0],
            self.ids,
            self.tensor_ids,
            self.expected,
            objects.__array_interface__["data"][0],
            self.found,
        )

    def _pointers_one_by_one(self, grads: list[Any]) -> bool:
        held = [*self._objects()]
        if len(held) != len(self.held) or not all(map(is_, held, self.held)):
            return False
        if [*map(_pointer_of, self.tensors)] != self.expected.tolist():
            return False
        self.found[:] = [*map(_pointer_of, grads)]
        return True

    def _lie_alike(self) -> bool:
        return self.layouts is not None and self.layouts.hold(self.shaped)

    def holds(self, groups: Any, state: Any) -> list[Any] | None:
        """This step's gradients, if all is as it was and the launch now points at them."""
        if state is not self.state or groups is not self.groups:
            return None
        if self.handles is not None:
            self.handles.prefetch()
        grads = list(map(gradient_of, self.params))
        for param in self.idle:
            if param.grad is not None:
                return None
        if not self.grad_layouts.hold(grads):
            return None
        if not (self.handles.hold() if self.handles else self._lie_alike()):
            return None
        if not self._pointers(grads) or not self.found[self.nonempty].all():
            return None
        self.launch.set_addresses(("grad", None), self.found)
        return grads
