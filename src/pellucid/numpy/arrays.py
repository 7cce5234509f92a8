"""NumPy's arrays, as the engine sees them."""

from __future__ import annotations

from typing import Any

import numpy

__all__ = ["NumpyBackend"]


class NumpyBackend:
    """See `pellucid.fuse.engine.Backend`."""

    def real(self, array: Any) -> Any:
        return array

    def dtype(self, array: Any) -> str:
        return str(array.dtype)

    def shape(self, array: Any) -> tuple[int, ...]:
        return array.shape  # type: ignore[no-any-return]

    def strides(self, array: Any) -> tuple[int, ...]:
        return tuple(stride // array.itemsize for stride in array.strides)

    def address(self, array: Any) -> int:
        return array.__array_interface__["data"][0]  # type: ignore[no-any-return]

    def slot(
        self, param: Any, shape: tuple[int, ...], kind: str, dtype: str | None, fill: float
    ) -> Any:
        chosen = dtype or param.dtype
        if kind == "param":
            return numpy.full_like(param, fill, dtype=chosen, order="K")
        return numpy.full(shape, fill, dtype=chosen)

    def like(self, param: Any, array: Any) -> Any:
        made = numpy.empty_like(param, dtype=array.dtype, order="K")
        numpy.copyto(made, array)
        return made

    def contiguous(self, array: Any) -> Any:
        return numpy.array(array, order="C", copy=True)

    def copy(self, into: Any, source: Any) -> None:
        numpy.copyto(into, source)

    def fill(self, into: Any, value: Any) -> None:
        numpy.copyto(into, value, casting="same_kind")

    def fill_rows(self, into: Any, rows: Any, value: Any) -> None:
        into[rows] = value
