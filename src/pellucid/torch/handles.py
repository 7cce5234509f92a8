"""Pointer, type, shape and strides of many tensors, looked at in one compiled loop.

Torch exports C functions that tell these of a tensor (the code that its own compiler generates
calls them). Going through Python instead costs about a hundred times as much a tensor.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy
import torch

from pellucid.fuse.program import runtime_function

__all__ = ["Handles", "handles_of"]

_FUNCTIONS = (
    "aoti_torch_get_data_ptr",
    "aoti_torch_get_dim",
    "aoti_torch_get_dtype",
    "aoti_torch_get_sizes",
    "aoti_torch_get_strides",
)

INSIDE = (16, 24)
"""Where a Python tensor may have its C++ tensor, in bytes: checked of each tensor before use."""

call_two: Any  # these names are the compiler's: see `pellucid.fuse.runtime.namespace`
load_1: Any
pointer_1: Any
prefetch_lines: Any


def altered(functions, handles, expected, starts, out_at):  # type: ignore[no-untyped-def]
    """Whether any tensor's pointer, type, shape or strides are other than expected."""
    out = pointer_1(out_at)
    count = handles.shape[0]
    for i in range(count + 16):
        if i < count:
            prefetch_lines(load_1(pointer_1(handles[i]), 0))
        k = i - 16
        if k < 0:
            continue
        handle = handles[k]
        start = starts[k]
        call_two(functions[0], handle, out_at)
        if load_1(out, 0) != expected[start]:
            return 1
        call_two(functions[1], handle, out_at)
        dims = load_1(out, 0)
        if dims != expected[start + 1]:
            return 1
        call_two(functions[2], handle, out_at)
        if (load_1(out, 0) & 0xFFFFFFFF) != expected[start + 2]:
            return 1
        call_two(functions[3], handle, out_at)
        sizes = pointer_1(load_1(out, 0))
        call_two(functions[4], handle, out_at)
        strides = pointer_1(load_1(out, 0))
        for d in range(dims):
            if load_1(sizes, d) != expected[start + 3 + d]:
                return 1
            if load_1(strides, d) != expected[start + 3 + dims + d]:
                return 1
    return 0


def prefetch_all(handles):  # type: ignore[no-untyped-def]
    """Have tensors brought into the cache all at once instead of one by one."""
    for i in range(handles.shape[0]):
        prefetch_lines(load_1(pointer_1(handles[i]), 0))


@cache
def _library() -> tuple[Any, Any, Any, Any] | None:
    """The functions' addresses, the compiled loops and the maker of handles, or None."""
    try:
        import torch._C._aoti as aoti  # type: ignore[import-not-found, unused-ignore]

        library = ctypes.CDLL(torch._C.__file__)
        found = [
            ctypes.cast(getattr(library, name), ctypes.c_void_p).value or 0 for name in _FUNCTIONS
        ]
        aoti.unsafe_alloc_void_ptrs_from_tensors, aoti.alloc_tensors_by_stealing_from_void_ptrs  # noqa: B018
    except (ImportError, AttributeError, OSError):
        return None
    from numba import int64, types

    ints = int64[::1]
    loop = runtime_function(altered, int64(ints, ints, ints, ints, int64))
    ahead = runtime_function(prefetch_all, types.void(ints))
    return numpy.array(found, numpy.int64), loop, ahead, aoti


def _address(capsule: Any) -> int:
    take = ctypes.pythonapi.PyCapsule_GetPointer
    take.restype, take.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    return int(take(capsule, None))


def _word(address: int) -> int:
    return ctypes.c_int64.from_address(address).value


def _facts(tensor: Any, code: int) -> list[int]:
    return [tensor.data_ptr(), tensor.dim(), code, *tensor.shape, *tensor.stride()]


class Handles:
    """Some tensors, to be looked at again and again."""

    def __init__(self, tensors: Sequence[Any], library: tuple[Any, Any, Any, Any]) -> None:
        self.functions, self.loop, self.ahead, aoti = library
        self.tensors = list(tensors)  # alive, and so are the handles inside them
        capsules = aoti.unsafe_alloc_void_ptrs_from_tensors(self.tensors)
        # A handle is a C++ tensor, which is one pointer. A Python tensor holds one of its own,
        # which counts no further reference (torch.utils.swap_tensors and module.to() may refuse
        # a tensor with several) and follows when the two are swapped.
        words = [_word(_address(capsule)) for capsule in capsules]
        aoti.alloc_tensors_by_stealing_from_void_ptrs(capsules)  # which frees them
        for inside in INSIDE:
            handles = [id(one) + inside for one in self.tensors]
            self.usable = words == [_word(handle) for handle in handles]
            if self.usable:
                break
        self.handles = numpy.array(handles, numpy.int64)
        self.scratch = numpy.zeros(1, numpy.int64)
        self.out = self.scratch.__array_interface__["data"][0]
        if not self.usable:
            return
        facts = [_facts(t, self._code(h)) for t, h in zip(tensors, self.handles, strict=True)]
        self.expected = numpy.array([fact for one in facts for fact in one], numpy.int64)
        ends = numpy.cumsum([len(one) for one in facts], dtype=numpy.int64)
        self.starts = numpy.concatenate([numpy.zeros(1, numpy.int64), ends[:-1]])

    def _code(self, handle: Any) -> int:
        """Torch's number for the tensor's type."""
        code = ctypes.c_int32()
        call = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p, ctypes.c_void_p)
        call(int(self.functions[2]))(int(handle), ctypes.addressof(code))
        return code.value

    def hold(self) -> bool:
        """Whether all is as it was."""
        return not self.loop(
            self.functions, self.handles, self.expected, self.starts, self.out
        )

    def prefetch(self) -> None:
        """Begin to read what `hold` will look at."""
        self.ahead(self.handles)


def handles_of(tensors: Sequence[Any]) -> Handles | None:
    """Handles of real tensors, or None where this release of torch has no such functions."""
    library = _library()
    if library is None or not tensors or any(tensor.is_complex() for tensor in tensors):
        return None
    made = Handles(tensors, library)
    return made if made.usable and made.hold() else None
