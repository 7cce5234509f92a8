"""Dicts and lists looked at in one compiled loop, as they lie in memory.

Python exports the C functions that read them; to go through its objects takes about ten times as
long.
"""

from __future__ import annotations

import ctypes
import sys
import sysconfig
from collections.abc import Sequence
from functools import cache
from itertools import chain
from operator import is_
from typing import Any

import numpy

from pellucid.fuse.program import runtime_function

__all__ = ["Objects", "addresses_of", "locked"]

_OF_PYTHON = ("PyDict_Next", "PyList_Size", "PyList_GetItem")

call_1: Any  # these names are the compiler's: see `pellucid.fuse.runtime.namespace`
call_2: Any
call_4_int: Any
load_1: Any
pointer_1: Any
prefetch_lines: Any
store_1: Any


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


def locked(function: Any, signature: Any) -> Any:
    """Compiled, and no other Python thread runs meanwhile."""
    return runtime_function(function, signature, nogil=False)


def addresses_of(library: Any, names: Sequence[str]) -> Any:
    """The addresses of a library's functions."""
    pointers = [ctypes.cast(getattr(library, name), ctypes.c_void_p).value for name in names]
    return numpy.array(pointers, numpy.int64)


@cache
def _python() -> tuple[Any, Any] | None:
    """Python's functions and the loop that calls them, or None where it runs without its lock."""
    if sysconfig.get_config_var("Py_GIL_DISABLED") or sys.implementation.name != "cpython":
        return None
    from numba import int64

    ints = int64[::1]
    loop = locked(exchanged, int64(ints, ints, ints, ints, int64))
    return addresses_of(ctypes.pythonapi, _OF_PYTHON), loop


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
