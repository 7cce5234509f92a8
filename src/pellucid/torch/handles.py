"""Many tensors, dicts and lists looked at in compiled loops, as they lie in memory.

Torch exports C functions that tell a tensor's pointer, type, shape and strides (the code that its
own compiler generates calls them), Python those that read a dict and a list. Going through Python
objects instead costs about ten times as much, which for small tensors is more than their update.
"""

from __future__ import annotations

import ctypes
import sys
import sysconfig
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain
from operator import is_
from typing import Any

import numpy
import torch

from pellucid.fuse.program import runtime_function

__all__ = ["Handles", "Objects", "handles_of"]

_OF_TORCH = (
    "aoti_torch_get_data_ptr",
    "aoti_torch_get_dim",
    "aoti_torch_get_dtype",
    "aoti_torch_get_sizes",
    "aoti_torch_get_strides",
    "aoti_torch_new_tensor_handle",
    "aoti_torch_delete_tensor_object",
    "_ZNK3c1010TensorImpl4gradEv",  # TensorImpl::grad() const
    "_ZN5torch8autograd4impl12bump_versionERKN2at6TensorE",  # bump_version(const Tensor&)
)
_OF_PYTHON = ("PyDict_Next", "PyList_Size", "PyList_GetItem")

INSIDE = (16, 24)
"""Where a Python tensor may have its C++ tensor, in bytes: checked of each tensor before use."""
WORDS = 30
"""How far into a C++ tensor its dispatch keys are looked for, in words of 8 bytes."""

call_1: Any  # these names are the compiler's: see `pellucid.fuse.runtime.namespace`
call_2: Any
call_2_int: Any
call_4_int: Any
load_1: Any
pointer_1: Any
prefetch_lines: Any
store_1: Any


def examine(functions, keys_at, handles, expected, starts, found, cell):  # type: ignore[no-untyped-def]
    """How many tensors, from the first on, have the expected keys, pointer, type and layout.

    An expected pointer of -1 is any but null, -2 is any; the pointers go to ``found``.
    """
    out = pointer_1(cell)
    count = handles.shape[0]
    for i in range(count + 32):
        if i < count:
            prefetch_lines(load_1(pointer_1(handles[i]), 0))
        k = i - 16
        if 0 <= k < count:
            prefetch_lines(load_1(pointer_1(load_1(pointer_1(handles[k]), 0)), 2))
        k = i - 32
        if k < 0:
            continue
        handle = handles[k]
        start = starts[k]
        if load_1(pointer_1(load_1(pointer_1(handle), 0)), keys_at) != expected[start]:
            return k
        if call_2_int(functions[0], handle, cell) != 0:
            return k
        address = load_1(out, 0)
        wanted = expected[start + 1]
        if (wanted >= 0 and address != wanted) or (wanted == -1 and address == 0):
            return k
        found[k] = address
        call_2_int(functions[1], handle, cell)
        dims = load_1(out, 0)
        if dims != expected[start + 2]:
            return k
        call_2_int(functions[2], handle, cell)
        if (load_1(out, 0) & 0xFFFFFFFF) != expected[start + 3]:
            return k
        call_2_int(functions[3], handle, cell)
        sizes = pointer_1(load_1(out, 0))
        call_2_int(functions[4], handle, cell)
        strides = pointer_1(load_1(out, 0))
        for d in range(dims):
            if load_1(sizes, d) != expected[start + 4 + d]:
                return k
            if load_1(strides, d) != expected[start + 4 + dims + d]:
                return k
    return count


def find_gradients(functions, handles, undefined, kept, cell):  # type: ignore[no-untyped-def]
    """Hold each parameter's gradient; whether one after those has a gradient, too."""
    count, active = handles.shape[0], kept.shape[0]
    for i in range(count + 32):
        if i < count:
            prefetch_lines(load_1(pointer_1(handles[i]), 0))
        k = i - 16
        if 0 <= k < count:
            prefetch_lines(load_1(pointer_1(load_1(pointer_1(handles[k]), 0)), 3))
        k = i - 32
        if k < 0:
            continue
        grad = call_1(functions[7], load_1(pointer_1(handles[k]), 0))
        if k < active:
            call_2_int(functions[5], grad, cell)
            kept[k] = load_1(pointer_1(cell), 0)
        elif load_1(pointer_1(grad), 0) != undefined:
            return 1
    return 0


def release(functions, kept):  # type: ignore[no-untyped-def]
    """Let go of what `find_gradients` held."""
    for k in range(kept.shape[0]):
        call_1(functions[6], kept[k])


def bump(functions, handles):  # type: ignore[no-untyped-def]
    """Note for autograd that tensors were written to."""
    for k in range(handles.shape[0]):
        call_1(functions[8], handles[k])


def exchanged(functions, lists, dicts, expected, cells):  # type: ignore[no-untyped-def]
    """Whether any list or dict holds other objects than expected."""
    position, key, value = pointer_1(cells), pointer_1(cells + 8), pointer_1(cells + 16)
    at = 0
    for k in range(lists.shape[0]):
        size = expected[at]
        at += 1
        if call_1(functions[1], lists[k]) != size:
            return 1
        for i in range(size):
            if call_2(functions[2], lists[k], i) != expected[at + i]:
                return 1
        at += size
    count = dicts.shape[0]
    for i in range(count + 16):
        if i < count:
            prefetch_lines(dicts[i])
        k = i - 8
        if 0 <= k < count:
            prefetch_lines(load_1(pointer_1(dicts[k]), 4))  # where its keys are
        k = i - 16
        if k < 0:
            continue
        store_1(position, 0, 0)
        size = expected[at]
        at += 1
        for _ in range(size):
            if call_4_int(functions[0], dicts[k], cells, cells + 8, cells + 16) == 0:
                return 1
            if load_1(key, 0) != expected[at] or load_1(value, 0) != expected[at + 1]:
                return 1
            at += 2
        if call_4_int(functions[0], dicts[k], cells, cells + 8, cells + 16) != 0:
            return 1
    return 0


@dataclass(frozen=True)
class _Library:
    functions: Any  # addresses of torch's
    keys_at: int  # the word of a C++ tensor that holds its dispatch keys
    aoti: Any
    examine: Any
    find_gradients: Any
    release: Any
    bump: Any


def _locked(function: Any, signature: Any) -> Any:
    """Compiled, and no other Python thread runs meanwhile."""
    return runtime_function(function, signature, nogil=False)


def _addresses(library: Any, names: Sequence[str]) -> Any:
    pointers = [ctypes.cast(getattr(library, name), ctypes.c_void_p).value for name in names]
    return numpy.array(pointers, numpy.int64)


@cache
def _library() -> _Library | None:
    """Torch's functions and the loops that call them, or None where a release lacks any."""
    try:
        import torch._C._aoti as aoti  # type: ignore[import-not-found, unused-ignore]

        functions = _addresses(ctypes.CDLL(torch._C.__file__), _OF_TORCH)
        keys_at = _word_of_keys(aoti)
    except (ImportError, AttributeError, OSError, RuntimeError, TypeError):
        return None
    if keys_at is None:
        return None
    from numba import int64, types

    ints = int64[::1]
    return _Library(
        functions,
        keys_at,
        aoti,
        _locked(examine, int64(ints, int64, ints, ints, ints, ints, int64)),
        _locked(find_gradients, int64(ints, ints, int64, ints, int64)),
        _locked(release, types.void(ints, ints)),
        _locked(bump, types.void(ints, ints)),
    )


def _word(address: int) -> int:
    return ctypes.c_int64.from_address(address).value


def _tensors_at(aoti: Any, tensors: Sequence[Any]) -> list[int]:
    """The addresses of C++ tensors."""
    take = ctypes.pythonapi.PyCapsule_GetPointer
    take.restype, take.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    capsules = aoti.unsafe_alloc_void_ptrs_from_tensors(list(tensors))
    words = [_word(int(take(capsule, None))) for capsule in capsules]
    aoti.alloc_tensors_by_stealing_from_void_ptrs(capsules)  # which frees them
    return words


def _keys(tensor: Any) -> int:
    """The dispatch keys: device, lazy conjugate or negative, subclass, inference."""
    return int(torch._C._dispatch_keys(tensor).raw_repr())


def _word_of_keys(aoti: Any) -> int | None:
    """Where C++ tensors hold their dispatch keys: the one word that tells five kinds apart."""
    plain, pair = torch.zeros(2), torch.zeros(2, dtype=torch.complex64)
    with torch.inference_mode():
        inferred = torch.zeros(2)
    samples = [plain, torch._neg_view(plain), inferred, pair, pair.conj()]
    at = _tensors_at(aoti, samples)
    found = [
        word
        for word in range(WORDS)
        if all(
            _word(one + 8 * word) == _keys(tensor) for one, tensor in zip(at, samples, strict=True)
        )
    ]
    return found[0] if len(found) == 1 else None


class _Expected:
    """Tensors as they shall be found: dispatch keys, pointer, type, shape and strides."""

    def __init__(
        self,
        library: _Library,
        handles: Any,
        tensors: Sequence[Any],
        codes: Sequence[int],
        pointers: Iterable[int],
    ) -> None:
        facts = [
            [_keys(tensor), pointer, tensor.dim(), code, *tensor.shape, *tensor.stride()]
            for tensor, code, pointer in zip(tensors, codes, pointers, strict=True)
        ]
        words = numpy.array([word for one in facts for word in one], numpy.int64)
        ends = numpy.cumsum([0, *map(len, facts)], dtype=numpy.int64)
        self.found = numpy.zeros(len(facts), numpy.int64)
        self.cell = numpy.zeros(1, numpy.int64)
        self.examine = library.examine
        self.arguments = (
            library.functions,
            library.keys_at,
            handles,
            words,
            ends[:-1].copy(),
            self.found,
            self.cell.__array_interface__["data"][0],
        )

    def hold(self) -> bool:
        """Whether they are found so."""
        return bool(self.examine(*self.arguments) == len(self.found))


class Handles:
    """Tensors to be looked at again and again, and the gradients of those that are parameters."""

    def __init__(
        self,
        params: Sequence[Any],
        others: Sequence[Any],
        idle: Sequence[Any],
        library: _Library,
    ) -> None:
        """Args:
        params: parameters that have a gradient.
        others: their slots and counters.
        idle: parameters that have no gradient.
        library: torch's functions.
        """
        self.library = library
        every = [*params, *others, *idle]
        self.alive = every  # and so are the handles inside them
        self.cell = numpy.zeros(1, numpy.int64)
        self.out = self.cell.__array_interface__["data"][0]
        # A handle is a C++ tensor, which is one pointer. A Python tensor holds one of its own,
        # which counts no further reference (torch.utils.swap_tensors and module.to() may refuse
        # a tensor with several) and follows when the two are swapped.
        words = _tensors_at(library.aoti, every)
        for inside in INSIDE:
            handles = [id(one) + inside for one in every]
            self.usable = words == [_word(handle) for handle in handles]
            if self.usable:
                break
        self.keeps = False
        if not self.usable:
            return
        active, count = len(params), len(params) + len(others)
        looked_at = numpy.array(handles[:count], numpy.int64)
        codes = [self._code(handle) for handle in handles[:count]]
        at = [tensor.data_ptr() for tensor in every[:count]]
        self.tensors = _Expected(library, looked_at, every[:count], codes, at)
        self.kept = numpy.zeros(active, numpy.int64)
        grads = [param.grad for param in params]
        anywhere = [-1 if grad.numel() else -2 for grad in grads]
        self.grads = _Expected(library, self.kept, grads, codes[:active], anywhere)
        self.params = numpy.array([*handles[:active], *handles[count:]], numpy.int64)
        self.active = self.params[:active]
        self.undefined = self._undefined(idle) if idle else 0

    def _code(self, handle: int) -> int:
        """Torch's number for the tensor's type."""
        code = ctypes.c_int32()
        call = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p, ctypes.c_void_p)
        call(int(self.library.functions[2]))(handle, ctypes.addressof(code))
        return code.value

    def _undefined(self, idle: Sequence[Any]) -> int:
        """What stands where a parameter has no gradient: there is one undefined tensor in all."""
        grad_of = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)(int(self.library.functions[7]))
        (word,) = _tensors_at(self.library.aoti, idle[:1])
        return _word(grad_of(word))

    def hold(self) -> bool:
        """Whether all is as it was, and each parameter that had a gradient has one like it.

        If so, the gradients stay in memory until `release`, whoever drops them meanwhile.
        """
        self.release()
        library = self.library
        more = library.find_gradients(
            library.functions, self.params, self.undefined, self.kept, self.out
        )
        self.keeps = True
        if not more and self.tensors.hold() and self.grads.hold():
            return True
        self.release()
        return False

    def release(self) -> None:
        """Let go of the gradients."""
        if self.keeps:
            self.library.release(self.library.functions, self.kept)
            self.keeps = False

    @property
    def gradients_at(self) -> Any:
        """The gradients' pointers, as `hold` found them."""
        return self.grads.found

    def bump(self) -> None:
        """Note for autograd that the parameters were written to."""
        self.library.bump(self.library.functions, self.active)


PLAIN = (torch.Tensor, torch.nn.Parameter)


def handles_of(params: Sequence[Any], others: Sequence[Any], idle: Sequence[Any]) -> Handles | None:
    """Handles of plain real tensors, or None where this release of torch has no such functions."""
    library = _library()
    every = [*params, *others, *idle]
    if library is None or any(type(one) not in PLAIN or one.is_complex() for one in every):
        return None
    made = Handles(params, others, idle, library)
    if not made.usable or not made.hold():
        return None
    made.release()
    return made


@cache
def _python() -> tuple[Any, Any] | None:
    """Python's functions and the loop that calls them, or None where it runs without its lock."""
    if sysconfig.get_config_var("Py_GIL_DISABLED") or sys.implementation.name != "cpython":
        return None
    from numba import int64

    ints = int64[::1]
    loop = _locked(exchanged, int64(ints, ints, ints, ints, int64))
    return _addresses(ctypes.pythonapi, _OF_PYTHON), loop


class Objects:
    """What lists and dicts hold: the same objects in the same order, or not."""

    def __init__(self, lists: Sequence[Sequence[Any]], dicts: Sequence[dict[Any, Any]]) -> None:
        self.lists, self.dicts = list(lists), list(dicts)
        self.held = self._held()
        plain = all(isinstance(one, list) for one in lists)  # Python's functions take no others
        self.python = _python() if plain else None
        words: list[int] = []
        for one in self.held[: len(lists)]:
            words += [len(one), *map(id, one)]
        for one in self.held[len(lists) :]:
            words += [len(one) // 2, *map(id, one)]
        self.expected = numpy.array(words, numpy.int64)
        self.at_lists = numpy.array([id(one) for one in self.lists], numpy.int64)
        self.at_dicts = numpy.array([id(one) for one in self.dicts], numpy.int64)
        self.cells = numpy.zeros(3, numpy.int64)
        self.out = self.cells.__array_interface__["data"][0]

    def _held(self) -> list[list[Any]]:
        return [*map(list, self.lists), *([*chain(*one.items())] for one in self.dicts)]

    def hold(self) -> bool:
        """Whether they hold what they held."""
        if self.python is None:
            now = self._held()
            return [*map(len, now)] == [*map(len, self.held)] and all(
                all(map(is_, some, those)) for some, those in zip(now, self.held, strict=True)
            )
        functions, loop = self.python
        return not loop(functions, self.at_lists, self.at_dicts, self.expected, self.out)
