"""TensorFlow's variables as they lie in memory: found, locked and looked at in compiled loops.

TensorFlow lets nobody but its own kernels write to a variable in place. Its rule for them: under
the variable's lock, a buffer that nobody else holds is written to; one that somebody holds is
left to them, and the variable gets a copy. Here is the same for kernels that are not
TensorFlow's own (Var and PrepareToUpdateVariable in its headers). Where things lie is found by
trying, in `pellucid.keras.tensorflow_layout`.
"""

# ruff: noqa: F821 - the loops below run compiled and use names that the compiler supplies

from __future__ import annotations

import ctypes
import mmap
import platform
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy

from pellucid.fuse.program import runtime_function

__all__ = [
    "BYTES_OF_TENSOR",
    "HANDLE_OF_INPUT",
    "SHAPE_WORDS",
    "Layout",
    "Library",
    "Unusable",
    "Variables",
    "new_tensor",
    "word",
]

SYSTEMS = (("Linux", "x86_64"),)
"""Where the layout of C++ objects is known well enough to be looked for."""
FILE = "libtensorflow_framework.so.2"
HANDLE_OF_INPUT = "_ZN10tensorflow15HandleFromInputEPNS_15OpKernelContextEi"
BYTES_OF_TENSOR = "_ZNK10tensorflow6Tensor10TotalBytesEv"
LOCK = re.compile(rb"_ZN4absl\d+lts_\d+5Mutex4lockEv\0")
"""absl::Mutex::lock(), whose name holds Abseil's release."""
SHAPE_WORDS = 3
"""A tensor is its shape, of so many words, and the pointer to its buffer."""
BYTES = 4  # TensorFlow's number for uint8

call_1: Any  # these names are the compiler's: see `pellucid.fuse.runtime.namespace`
call_2: Any
call_4_int: Any
load_1: Any
pointer_1: Any
store_1: Any


class Unusable(Exception):
    """A variable that cannot be updated in place; what is wrong and what to do."""


def find_variables(functions, layout, context, found):  # type: ignore[no-untyped-def]
    """The variables behind an op's inputs, from the second input on; how many are as expected."""
    for i in range(found.shape[0]):
        handle = call_2(functions[0], context, i + 1)
        variable = load_1(pointer_1(handle), layout[0])
        if variable == 0 or load_1(pointer_1(variable), 0) != layout[1]:
            return i
        found[i] = variable
    return found.shape[0]


def lock_variables(functions, layout, variables, locked):  # type: ignore[no-untyped-def]
    """Lock them in the order given, and count them as it goes."""
    for i in range(variables.shape[0]):
        call_1(functions[1], variables[i] + 8 * layout[3])
        locked[0] = i + 1


def unlock_variables(functions, layout, variables, locked):  # type: ignore[no-untyped-def]
    """Unlock those that are locked."""
    for i in range(locked[0]):
        call_1(functions[2], variables[i] + 8 * layout[3])
    locked[0] = 0


def examine_variables(functions, layout, variables, sizes, addresses, shared):  # type: ignore[no-untyped-def]
    """Where their values are, and which are held by others, too; how many are as expected.

    ``shared`` gets the positions of those, and in its last place how many they are.
    """
    count, others = variables.shape[0], 0
    shared[count] = 0
    for i in range(count):
        tensor = variables[i] + 8 * (layout[2] - 3)
        buffer = load_1(pointer_1(variables[i]), layout[2])
        if call_1(functions[3], tensor) != sizes[i]:
            return i
        addresses[i] = 0
        if sizes[i] == 0:
            continue
        if buffer == 0:
            return i
        addresses[i] = load_1(pointer_1(buffer), 2)
        if load_1(pointer_1(buffer), 1) != 1:
            shared[others] = i
            others += 1
    shared[count] = others
    return count


def find_inputs(functions, context, first, cell, status, found):  # type: ignore[no-untyped-def]
    """Where the values of an op's inputs are; how many there were."""
    out = pointer_1(cell)
    for i in range(found.shape[0]):
        store_1(out, 0, 0)
        call_4_int(functions[4], context, first + i, cell, status)
        tensor = load_1(out, 0)
        if tensor == 0:
            return i
        found[i] = call_1(functions[5], tensor)
        call_1(functions[6], tensor)
    return found.shape[0]


_INTS = "int64[::1]"
_LOOPS: dict[str, tuple[Callable[..., Any], str]] = {
    "find_variables": (find_variables, f"int64({_INTS}, {_INTS}, int64, {_INTS})"),
    "lock_variables": (lock_variables, f"void({_INTS}, {_INTS}, {_INTS}, {_INTS})"),
    "unlock_variables": (unlock_variables, f"void({_INTS}, {_INTS}, {_INTS}, {_INTS})"),
    "examine_variables": (
        examine_variables,
        f"int64({_INTS}, {_INTS}, {_INTS}, {_INTS}, {_INTS}, {_INTS})",
    ),
    "find_inputs": (find_inputs, f"int64({_INTS}, int64, int64, int64, int64, {_INTS})"),
}


def word(address: int) -> int:
    """The 8 bytes at an address."""
    return ctypes.c_int64.from_address(address).value


def _lock_names(path: Path) -> tuple[str, str]:
    """What `lock` and `unlock` of TensorFlow's mutexes are called in the library."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as whole:
        found = LOCK.search(whole)
        if found is None:
            raise OSError(f"{path.name} has no absl::Mutex::lock()")
        name = found.group()[:-1].decode()
    return name, name.replace("4lock", "6unlock")


class Library:
    """TensorFlow's functions, by address, and the loops that call them."""

    def __init__(self, folder: str) -> None:
        """Args:
        folder: where TensorFlow's libraries are.

        Raises:
            OSError, AttributeError: if this system or release has no such functions.
        """
        if (platform.system(), platform.machine()) not in SYSTEMS:
            raise OSError(f"{platform.system()} on {platform.machine()} is not among {SYSTEMS}")
        path = Path(folder) / FILE
        # No Python thread runs while one of these is called: none of them blocks.
        self.c: Any = ctypes.PyDLL(str(path))
        for name, gives, takes in _SIGNATURES:
            function = getattr(self.c, name)
            function.restype, function.argtypes = gives, takes
        names = [HANDLE_OF_INPUT, *_lock_names(path), BYTES_OF_TENSOR]
        names += ["TF_GetInput", "TF_TensorData", "TF_DeleteTensor"]
        at = [self.address(name) for name in names]
        self.functions = numpy.array(at, numpy.int64)
        # Others run only while a lock is waited for: who holds it may need Python to go on.
        self.loops = {
            name: runtime_function(*given, nogil=name == "lock_variables")
            for name, given in _LOOPS.items()
        }

    def address(self, name: str) -> int:
        """Where a function is."""
        return int(ctypes.cast(getattr(self.c, name), ctypes.c_void_p).value or 0)


_POINTER, _INT = ctypes.c_void_p, ctypes.c_int
_SIGNATURES: tuple[tuple[str, Any, list[Any]], ...] = (
    (HANDLE_OF_INPUT, _POINTER, [_POINTER, _INT]),
    (BYTES_OF_TENSOR, ctypes.c_size_t, [_POINTER]),
    ("TF_AllocateTensor", _POINTER, [_INT, _POINTER, _INT, ctypes.c_size_t]),
    (
        "TF_AllocateOutput",
        _POINTER,
        [_POINTER, _INT, _INT, _POINTER, _INT, ctypes.c_size_t, _POINTER],
    ),
    ("TF_TensorData", _POINTER, [_POINTER]),
    ("TF_DeleteTensor", None, [_POINTER]),
    ("TF_GetInput", None, [_POINTER, _INT, _POINTER, _POINTER]),
    ("TF_NumInputs", _INT, [_POINTER]),
    ("TF_NewStatus", _POINTER, []),
    ("TF_GetCode", _INT, [_POINTER]),
    ("TF_Message", ctypes.c_char_p, [_POINTER]),
    ("TF_SetStatus", None, [_POINTER, _INT, ctypes.c_char_p]),
    ("TF_DeleteStatus", None, [_POINTER]),
    ("TF_OpKernelContext_Failure", None, [_POINTER, _POINTER]),
    ("TF_NewOpDefinitionBuilder", _POINTER, [ctypes.c_char_p]),
    ("TF_OpDefinitionBuilderAddAttr", None, [_POINTER, ctypes.c_char_p]),
    ("TF_OpDefinitionBuilderAddInput", None, [_POINTER, ctypes.c_char_p]),
    ("TF_OpDefinitionBuilderAddOutput", None, [_POINTER, ctypes.c_char_p]),
    ("TF_OpDefinitionBuilderSetIsStateful", None, [_POINTER, ctypes.c_bool]),
    ("TF_OpDefinitionBuilderSetShapeInferenceFunction", None, [_POINTER, _POINTER]),
    ("TF_RegisterOpDefinition", None, [_POINTER, _POINTER]),
    ("TF_NewKernelBuilder", _POINTER, [ctypes.c_char_p, ctypes.c_char_p, *[_POINTER] * 3]),
    ("TF_RegisterKernelBuilder", None, [ctypes.c_char_p, _POINTER, _POINTER]),
)


@dataclass(frozen=True)
class Layout:
    """Which words of a resource handle, a variable and TensorFlow's C tensor hold what."""

    variable: int  # of a handle: the pointer to the variable
    kind: int  # the first word of every variable: its C++ class
    buffer: int  # of a variable: the pointer to the buffer, whose words are class, count, data
    buffer_of_new: int  # the same of what a C tensor's first word points at

    @property
    def mutex(self) -> int:
        """The word of a variable that is its lock, which lies before its tensor."""
        return self.buffer - SHAPE_WORDS - 1

    @property
    def numbers(self) -> Any:
        """What the loops read."""
        return numpy.array([self.variable, self.kind, self.buffer, self.mutex], numpy.int64)


class Variables:
    """The variables of one run of an op: locked from `lock` to `unlock`."""

    def __init__(self, library: Library, layout: Layout, context: int, sizes: Any) -> None:
        """Find them.

        Args:
            library: TensorFlow's functions.
            layout: where they hold what.
            context: the run's TF_OpKernelContext; its inputs are one tensor, the variables'
                handles, and others.
            sizes: int64[variables], in bytes, as the caller expects them.

        Raises:
            Unusable: if one is not a variable of this process, or is given twice.
        """
        count = len(sizes)
        self.library, self.layout, self.sizes = library, layout, sizes
        self.numbers = layout.numbers
        self.found = numpy.empty(count, numpy.int64)
        self.addresses = numpy.empty(count, numpy.int64)
        self.locked = numpy.zeros(1, numpy.int64)
        find = library.loops["find_variables"]
        known = find(library.functions, self.numbers, context, self.found)
        if known < count:
            raise Unusable(
                f"variable {known} of {count} is held by name, not by its handle (a variable of "
                "a tf.compat.v1 graph or session?): make it eagerly, as tf.Variable in TensorFlow "
                "2 does"
            )
        # TensorFlow's own ops lock several in this order: so neither waits for the other for ever
        self.ordered = numpy.sort(self.found)
        if count > 1 and not (self.ordered[1:] > self.ordered[:-1]).all():
            raise Unusable("a variable is given twice: give each once")

    def _run(self, name: str, *arguments: Any) -> Any:
        return self.library.loops[name](self.library.functions, self.numbers, *arguments)

    def lock(self) -> None:
        """Lock them all; other Python threads run while it waits."""
        self._run("lock_variables", self.ordered, self.locked)

    def unlock(self) -> None:
        """Unlock what is locked."""
        self._run("unlock_variables", self.ordered, self.locked)

    def prepare(self) -> None:
        """Fill ``addresses``; a variable whose buffer is held by others gets a copy of it.

        Raises:
            Unusable: if one has no value, or one of another size.
        """
        shared = numpy.empty(len(self.sizes) + 1, numpy.int64)
        known = self._run("examine_variables", self.found, self.sizes, self.addresses, shared)
        if known < len(self.sizes):
            tensor = int(self.found[known]) + 8 * (self.layout.buffer - SHAPE_WORDS)
            has = getattr(self.library.c, BYTES_OF_TENSOR)(tensor)
            raise Unusable(
                f"variable {known} of {len(self.sizes)} has {has} bytes where the update was made "
                f"for {self.sizes[known]}: initialize it before, and keep its shape"
            )
        for position in shared[: shared[-1]]:
            self._copy(int(position))

    def _copy(self, position: int) -> None:
        """Leave a variable's buffer to those who hold it, and give it one of its own."""
        c, size = self.library.c, int(self.sizes[position])
        made = new_tensor(self.library, size)
        try:
            data = c.TF_TensorData(made)
            ctypes.memmove(data, int(self.addresses[position]), size)
            inside = word(made) + 8 * self.layout.buffer_of_new
            own = int(self.found[position]) + 8 * self.layout.buffer
            old, new = word(own), word(inside)
            ctypes.c_int64.from_address(own).value = new
            ctypes.c_int64.from_address(inside).value = old
            self.addresses[position] = data
        finally:
            c.TF_DeleteTensor(made)


def new_tensor(library: Library, size: int) -> int:
    """A C tensor of so many bytes; the caller deletes it."""
    made = library.c.TF_AllocateTensor(BYTES, (ctypes.c_int64 * 1)(size), 1, size)
    if not made:
        raise MemoryError(f"{size} bytes for a variable whose buffer is held elsewhere")
    return int(made)
