"""Many tensors looked at in compiled loops, as they lie in memory.

Torch exports C functions that tell a tensor's pointer, type, shape and strides (the code that its
own compiler generates calls them). Going through Python objects instead costs about ten times as
much, which for small tensors is more than their update.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy
import torch

from pellucid.torch.objects import addresses_of, locked

__all__ = ["Handles", "Layouts", "handles_of", "layouts_of"]

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

INSIDE = (16, 24)
"""Where a Python tensor may have its C++ tensor, in bytes: checked of each tensor before use."""
WORDS = 30
"""How far into a C++ tensor its dispatch keys are looked for, in words of 8 bytes."""

call_1: Any  # these names are the compiler's: see `pellucid.fuse.runtime.namespace`
call_2_int: Any
load_1: Any
pointer_1: Any
prefetch_lines: Any


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


@dataclass(frozen=True)
class _Library:
    functions: Any  # addresses of torch's
    keys_at: int  # the word of a C++ tensor that holds its dispatch keys
    aoti: Any
    examine: Any
    find_gradients: Any
    release: Any
    bump: Any


@cache
def _library() -> _Library | None:
    """Torch's functions and the loops that call them, or None where a release lacks any."""
    try:
        import torch._C._aoti as aoti  # type: ignore[import-not-found, unused-ignore]

        functions = addresses_of(ctypes.CDLL(torch._C.__file__), _OF_TORCH)
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
        locked(examine, int64(ints, int64, ints, ints, ints, ints, int64)),
        locked(find_gradients, int64(ints, ints, int64, ints, int64)),
        locked(release, types.void(ints, ints)),
        locked(bump, types.void(ints, ints)),
    )


def _anywhere(tensor: Any) -> int:
    """What `examine` takes for any pointer of a tensor like this."""
    return -1 if tensor.numel() else -2


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


def _handles(library: _Library, tensors: Sequence[Any]) -> list[int] | None:
    """Where Python tensors have their C++ tensors; None where this release has them elsewhere.

    A handle is a C++ tensor, which is one pointer. A Python tensor holds one of its own, which
    counts no further reference (torch.utils.swap_tensors and module.to() may refuse a tensor with
    several) and follows when the two are swapped.
    """
    words = _tensors_at(library.aoti, tensors)
    for inside in INSIDE:
        handles = [id(one) + inside for one in tensors]
        if words == [_word(handle) for handle in handles]:
            return handles
    return None


def _code(library: _Library, handle: int) -> int:
    """Torch's number for a tensor's type."""
    code = ctypes.c_int32()
    call = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p, ctypes.c_void_p)
    call(int(library.functions[2]))(handle, ctypes.addressof(code))
    return code.value


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
        handles = _handles(library, every)
        self.usable = handles is not None
        self.keeps = False
        if handles is None:
            return
        active, count = len(params), len(params) + len(others)
        looked_at = numpy.array(handles[:count], numpy.int64)
        codes = [_code(library, handle) for handle in handles[:count]]
        at = [tensor.data_ptr() for tensor in every[:count]]
        self.tensors = _Expected(library, looked_at, every[:count], codes, at)
        self.kept = numpy.zeros(active, numpy.int64)
        grads = [param.grad for param in params]
        self.grads = _Expected(library, self.kept, grads, codes[:active], map(_anywhere, grads))
        self.params = numpy.array([*handles[:active], *handles[count:]], numpy.int64)
        self.active = self.params[:active]
        self.undefined = self._undefined(idle) if idle else 0

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


class Layouts:
    """Tensors that are found as they were: of one type, layout and, unless ``moving``, place."""

    def __init__(
        self, tensors: Sequence[Any], library: _Library, handles: list[int], moving: bool
    ) -> None:
        self.library, self.alive = library, None if moving else list(tensors)
        self.inside = handles[0] - id(tensors[0])
        self.handles = numpy.array(handles, numpy.int64)
        codes = [_code(library, handle) for handle in handles]
        at = [_anywhere(one) if moving else one.data_ptr() for one in tensors]
        self.expected = _Expected(library, self.handles, tensors, codes, at)

    def hold(self) -> bool:
        """Whether the same tensors are found so."""
        return self.expected.hold()

    def fit(self, tensors: Sequence[Any]) -> bool:
        """Whether other tensors, as many, are found so."""
        if not PLAIN.issuperset(map(type, tensors)):
            return False
        self.handles[:] = numpy.fromiter(map(id, tensors), numpy.int64, len(self.handles))
        self.handles += self.inside
        return self.expected.hold()

    @property
    def pointers(self) -> Any:
        """Where they were found."""
        return self.expected.found.copy()

    def bump(self) -> None:
        """Note for autograd that they were written to."""
        self.library.bump(self.library.functions, self.handles)


PLAIN = {torch.Tensor, torch.nn.Parameter}


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


def layouts_of(tensors: Sequence[Any], moving: bool = False) -> Layouts | None:
    """The layouts of plain real tensors, or None where they cannot be looked at.

    Args:
        moving: they may be others at the next look: see `Layouts.fit`.
    """
    library = _library()
    plain = all(type(one) in PLAIN and not one.is_complex() for one in tensors)
    if library is None or not plain or not tensors:
        return None
    handles = _handles(library, tensors)
    return None if handles is None else Layouts(tensors, library, handles, moving)
