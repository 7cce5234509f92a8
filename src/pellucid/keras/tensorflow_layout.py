"""Where TensorFlow's handles, variables and tensors hold what, found by trying.

It is believed only if it behaves as it should: the count of holders rises with each alias and
falls again, the lock locks, values change in place and only where nobody else holds them. Memory
that may not be there is read through the kernel, which then says so.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy

from pellucid.keras.tensorflow_tensors import (
    BYTES_OF_TENSOR,
    HANDLE_OF_INPUT,
    SHAPE_WORDS,
    Layout,
    Library,
    Variables,
    new_tensor,
    word,
)

__all__ = ["Probe"]

HANDLE_WORDS = 64
"""How far into a resource handle its variable is looked for, in words of 8 bytes."""
PAGE = 4096
"""No pointer points below that."""
VARIABLE_WORDS = 24
"""How far into a variable its tensor is looked for, in words of 8 bytes."""

Run = Callable[[Callable[[int], Any], Sequence[Any]], Any]


class Probe:
    """Variables of known sizes, and an op that can be run on their handles."""

    def __init__(self, library: Library, sizes: Sequence[int], run: Run) -> None:
        """Args:
        library: TensorFlow's functions.
        sizes: of the variables, in bytes.
        run: ``run(function, inputs)`` runs the op with those inputs besides the handles, and
            gives what the function gives for the op's context.
        """
        self.library, self.sizes, self.run = library, list(sizes), run

    def layout(self, read: Callable[[int], Any]) -> Layout:
        """Where everything is.

        Args:
            read: gives what ReadVariableOp reads from the variable at a position.

        Raises:
            OSError: if it is not found, or found twice, or does not behave as it should.
        """
        every = [read(k) for k in range(len(self.sizes))]
        found: Layout = self.run(self._find, every)
        del every
        aliases: list[Any] = []
        counts = []
        for alias in (None, 0, 1, 1):
            aliases += [] if alias is None else [read(alias)]
            counts.append(self.run(lambda context: self._holders(context, found), []))
        aliases.clear()
        counts.append(self.run(lambda context: self._holders(context, found), []))
        each = counts[1][0] - 1  # how often an eager tensor holds its buffer
        rising = [[1, 1], [1 + each, 1], [1 + each] * 2, [1 + each, 1 + 2 * each], [1, 1]]
        if each < 1 or counts != rising:
            raise OSError(f"a buffer's count of holders is not where it should be: {counts}")
        return found

    def _find(self, context: int) -> Layout:
        library, count = self.library, len(self.sizes)
        at = numpy.empty(count, numpy.int64)
        cell, status = ctypes.c_int64(), library.c.TF_NewStatus()
        library.loops["find_inputs"](
            library.functions, context, 1 + count, ctypes.addressof(cell), status, at
        )
        library.c.TF_DeleteStatus(status)
        handles = [getattr(library.c, HANDLE_OF_INPUT)(context, 1 + i) for i in range(count)]
        with Path("/proc/self/mem").open("rb", buffering=0) as memory:
            looks = [
                _places(memory.fileno(), handle, int(data))
                for handle, data in zip(handles, at, strict=True)
            ]
            places = set.intersection(*looks)
            if len(places) != 1:
                raise OSError(f"a variable's buffer is found in {len(places)} places")
            ((in_handle, in_variable),) = places
            of_new = self._buffer_of_new(memory.fileno())
        variables = [word(handle + 8 * in_handle) for handle in handles]
        kinds = {word(variable) for variable in variables}
        tensors = [one + 8 * (in_variable - SHAPE_WORDS) for one in variables]
        bytes_of = getattr(library.c, BYTES_OF_TENSOR)
        if len(kinds) != 1 or [bytes_of(one) for one in tensors] != self.sizes:
            raise OSError("a variable's tensor is not where its buffer tells")
        return Layout(in_handle, kinds.pop(), in_variable, of_new)

    def _buffer_of_new(self, memory: int) -> int:
        made = new_tensor(self.library, 64)
        try:
            data = self.library.c.TF_TensorData(made)
            near = _pointers(memory, word(made), 8)
            found = [k for k, at in near if _word(memory, at + 16) == data]
        finally:
            self.library.c.TF_DeleteTensor(made)
        if len(found) != 1:
            raise OSError(f"a C tensor's buffer is found in {len(found)} places")
        return found[0]

    def _holders(self, context: int, layout: Layout) -> list[int]:
        """How many hold each variable's buffer; and the variables' locks are tried."""
        held = Variables(self.library, layout, context, numpy.array(self.sizes, numpy.int64))
        states = []
        for change in (None, held.lock, held.unlock):
            if change is not None:
                change()
            states.append([word(int(one) + 8 * layout.mutex) for one in held.found])
        free = [0] * len(self.sizes)
        if states[0] != free or states[2] != free or 0 in states[1]:
            raise OSError("a variable's lock is not where it should be")
        buffers = [word(int(one) + 8 * layout.buffer) for one in held.found]
        return [word(one + 8) for one in buffers]


def _word(memory: int, address: int) -> int | None:
    """The 8 bytes at an address, or None where there is no memory."""
    if address <= 0 or address % 8:
        return None
    try:
        return int.from_bytes(os.pread(memory, 8, address), "little", signed=True)
    except OSError:
        return None


def _pointers(memory: int, address: int, words: int) -> list[tuple[int, int]]:
    """Words from an address on that may be pointers, with their places."""
    found = [(k, _word(memory, address + 8 * k)) for k in range(words)]
    return [(k, one) for k, one in found if one is not None and one > PAGE and one % 8 == 0]


def _places(memory: int, handle: int, data: int) -> set[tuple[int, int]]:
    """Where a handle has a variable that has a buffer with its values at ``data``."""
    return {
        (i, k)
        for i, variable in _pointers(memory, handle, HANDLE_WORDS)
        for k, buffer in _pointers(memory, variable, VARIABLE_WORDS)
        if _word(memory, buffer + 16) == data
    }
