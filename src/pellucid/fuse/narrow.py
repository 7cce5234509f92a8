"""How float32 numbers are rounded to bfloat16 and float16: the definition, in NumPy.

Kernels give the same bits (`pellucid.fuse.runtime_narrow`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy

__all__ = ["nearest", "randomly"]

BELOW_NORMAL, SPACING = 2.0**-14, 2.0**24
"""Of float16: below the first numbers are evenly spaced, this many to 1."""


def _bfloat16_nearest(x: Any) -> Any:
    bits = x.view(numpy.uint32)
    even = bits + (0x7FFF + ((bits >> 16) & 1)).astype(numpy.uint32)
    return numpy.where(x != x, x, (even & 0xFFFF0000).view(numpy.float32))


def _bfloat16_randomly(x: Any, random: Any) -> Any:
    bits = x.view(numpy.uint32) + (random >> 16)
    return numpy.where(x != x, x, (bits & 0xFFFF0000).view(numpy.float32))


def _float16_nearest(x: Any) -> Any:
    return x.astype(numpy.float16).astype(numpy.float32)


def _float16_randomly(x: Any, random: Any) -> Any:
    random = random >> 19
    bits = x.view(numpy.uint32) + random
    normal = (bits & 0xFFFFE000).view(numpy.float32)
    u = random.astype(numpy.float32) * numpy.float32(2.0**-13)
    small = numpy.floor(x * numpy.float32(SPACING) + u) * numpy.float32(1 / SPACING)
    rounded = numpy.where(abs(x) < BELOW_NORMAL, small, normal)
    return numpy.where(numpy.isfinite(x), _float16_nearest(rounded), x)


_NEAREST: dict[str, Callable[[Any], Any]] = {
    "bfloat16": _bfloat16_nearest,
    "float16": _float16_nearest,
}
_RANDOMLY: dict[str, Callable[[Any, Any], Any]] = {
    "bfloat16": _bfloat16_randomly,
    "float16": _float16_randomly,
}


def nearest(x: Any, dtype: str) -> Any:
    """The nearest numbers of a 16-bit type, ties to even; float32, of any shape."""
    with numpy.errstate(all="ignore"):
        return _NEAREST[dtype](numpy.atleast_1d(x)).reshape(x.shape)


def randomly(x: Any, random: Any, dtype: str) -> Any:
    """The neighbour below or above, each as likely as the number is near to it.

    Args:
        x: float32, of any shape.
        random: of each number 32 bits as whole numbers: see `pellucid.fuse.counter.rounding_bits`.
        dtype: ``"bfloat16"`` or ``"float16"``.
    """
    with numpy.errstate(all="ignore"):
        bits = numpy.atleast_1d(random).astype(numpy.uint32)
        return _RANDOMLY[dtype](numpy.atleast_1d(x), bits).reshape(x.shape)
