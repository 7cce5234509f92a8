"""Copies of some rows of TensorFlow's variables, on which the fused kernel works beside them.

The kernel works on whole arrays. So for ``sparse="lazy"`` the touched rows of a parameter and its
slots are copied next to each other, updated there together with all other parameters, and copied
back: the other rows are neither read nor written.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from typing import Any

import numpy

from pellucid.keras.core import Parameter
from pellucid.keras.update import by_row

__all__ = ["Rows", "memory", "room"]

SMALLEST = 16


def memory(address: int, count: int, kind: Any) -> Any:
    """An array over memory at an address."""
    if not count or not address:
        return numpy.zeros(0, numpy.dtype(kind))
    return numpy.ctypeslib.as_array((kind * count).from_address(address))


def room(count: int) -> int:
    """For how many rows a launch is made that works on ``count``: few launches serve all."""
    return max(SMALLEST, 1 << max(count - 1, 0).bit_length())


class Rows:
    """The rows of some parameters that an update touches.

    Args:
        parameters: all that the update is for.
        touched: rows by the parameter's place in that list, each once.
    """

    def __init__(self, parameters: Sequence[Parameter], touched: Mapping[int, Any]) -> None:
        self.parameters, self.touched = parameters, touched
        self.rooms = {place: room(len(rows)) for place, rows in touched.items()}
        self._copies: list[tuple[Any, Any, Any]] = []  # the array, its rows, their copies
        self._held: list[Any] = []

    @property
    def key(self) -> tuple[tuple[int, int], ...]:
        """(parameter's index, rows) for `Kernels.prepared`."""
        return tuple((self.parameters[place].index, many) for place, many in self.rooms.items())

    def of_params(self, addresses: Any) -> Any:
        """The parameters' addresses, of the copies where there are any."""
        found = addresses.copy()
        for place in self.touched:
            found[place] = self._copy(place, self.parameters[place].variable, addresses[place])
        return found

    def of_slots(self, owners: Sequence[tuple[int, str]], addresses: Any) -> Any:
        """The slots' addresses, of the copies where there are any.

        Args:
            owners: (place of the parameter, slot) of each.
        """
        found = addresses.copy()
        for number, (place, full) in enumerate(owners):
            parameter = self.parameters[place]
            slot = parameter.slots[full]
            if place in self.touched and by_row(parameter, slot):
                found[number] = self._copy(place, slot, addresses[number])
        return found

    def of_inputs(self, addresses: Any) -> Any:
        """Addresses of gradients of those rows alone, with zeros behind them."""
        found = addresses.copy()
        for place, rows in self.touched.items():
            variable = self.parameters[place].variable
            made = self._empty(place, variable)
            size = len(rows) * made[0].size
            made.reshape(-1)[:size] = memory(int(addresses[place]), size, _kind(variable))
            found[place] = made.ctypes.data
        return found

    def write_back(self) -> None:
        """Put the updated rows into their arrays."""
        for array, rows, copy in self._copies:
            array[rows] = copy[: len(rows)]

    def _copy(self, place: int, variable: Any, address: int) -> int:
        shape, rows = tuple(variable.shape), self.touched[place]
        size = int(numpy.prod(shape, dtype=numpy.int64))
        array = memory(int(address), size, _kind(variable)).reshape(shape)
        made = self._empty(place, variable)
        if len(rows):
            numpy.take(array, rows, axis=0, out=made[: len(rows)], mode="clip")
        self._copies.append((array, rows, made))
        return int(made.ctypes.data)

    def _empty(self, place: int, variable: Any) -> Any:
        shape = (self.rooms[place], *tuple(variable.shape)[1:])
        made = numpy.zeros(shape, numpy.dtype(_kind(variable)))
        self._held.append(made)
        return made


def _kind(variable: Any) -> Any:
    return ctypes.c_double if "float64" in str(variable.dtype) else ctypes.c_float
