"""16-bit storage in kernels: conversions on load and store, rounding, as LLVM's own instructions.

Needs Numba; `pellucid.fuse.narrow` is the definition.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from llvmlite import ir
from numba import float32, int16, int32, int64, types
from numba.extending import intrinsic

from pellucid.fuse.narrow import BELOW_NORMAL, SPACING

__all__ = ["NAMES", "STORED", "cut", "narrowed", "widened"]

STORED = {"bfloat16": int16, "float16": int16}
"""What an array of these types is to Numba."""

_WORD, _HALF, _FLOAT = ir.IntType(32), ir.IntType(16), ir.FloatType()


def _int(value: int) -> Any:
    return ir.Constant(_WORD, value)


def _number(value: float) -> Any:
    return ir.Constant(_FLOAT, value)


def _bits(builder: Any, x: Any) -> Any:
    return builder.bitcast(x, _WORD)


def _float(builder: Any, bits: Any) -> Any:
    return builder.bitcast(bits, _FLOAT)


def widened(builder: Any, dtype: str, stored: Any) -> Any:
    """A float of 16 stored bits."""
    if dtype == "float16":
        return builder.fpext(builder.bitcast(stored, ir.HalfType()), _FLOAT)
    return _float(builder, builder.shl(builder.zext(stored, _WORD), _int(16)))


def narrowed(builder: Any, dtype: str, x: Any) -> Any:
    """The 16 bits of the nearest number, ties to even."""
    if dtype == "float16":
        return builder.bitcast(builder.fptrunc(x, ir.HalfType()), _HALF)
    return builder.trunc(builder.lshr(_rounded(builder, x), _int(16)), _HALF)


def cut(builder: Any, dtype: str, x: Any) -> Any:
    """The 16 bits of a number that the type has."""
    if dtype == "float16":
        return narrowed(builder, dtype, x)
    return builder.trunc(builder.lshr(_bits(builder, x), _int(16)), _HALF)


def _rounded(builder: Any, x: Any) -> Any:
    """Bits whose upper half is the nearest bfloat16. NaN stays: to add to its bits might end it."""
    bits = _bits(builder, x)
    even = builder.and_(builder.lshr(bits, _int(16)), _int(1))
    more = builder.add(even, _int(0x7FFF))
    ordered = builder.fcmp_ordered("ord", x, x)
    return builder.add(bits, builder.select(ordered, more, _int(0)))


def _hashed(builder: Any, key0: Any, key1: Any, element: Any) -> Any:
    """See `pellucid.fuse.counter.rounding_bits`."""
    x = builder.add(builder.trunc(element, _WORD), builder.trunc(key0, _WORD))
    x = builder.mul(x, _int(0x7FEB352D))
    x = builder.xor(x, builder.lshr(x, _int(15)))
    return builder.mul(builder.xor(x, builder.trunc(key1, _WORD)), _int(0x846CA68B))


def _cut_off(builder: Any, x: Any, random: Any, lost: int) -> Any:
    """The number without its lowest bits, after random ones were added to them."""
    mask = (1 << lost) - 1
    bits = builder.add(_bits(builder, x), random)
    return _float(builder, builder.and_(bits, _int(0xFFFFFFFF ^ mask)))


def _called(builder: Any, name: str, x: Any) -> Any:
    return builder.call(builder.module.declare_intrinsic(name, [_FLOAT]), [x])


def _at_random(builder: Any, dtype: str, x: Any, random: Any) -> Any:
    if dtype == "bfloat16":
        made = _cut_off(builder, x, builder.lshr(random, _int(16)), 16)
        return builder.select(builder.fcmp_unordered("uno", x, x), x, made)
    random = builder.lshr(random, _int(19))
    normal = _cut_off(builder, x, random, 13)
    u = builder.sitofp(random, _FLOAT)
    u = builder.fmul(u, _number(2.0**-13))
    place = builder.fadd(builder.fmul(x, _number(SPACING)), u)
    small = builder.fmul(_called(builder, "llvm.floor", place), _number(1 / SPACING))
    size = _called(builder, "llvm.fabs", x)
    below = builder.fcmp_ordered("<", size, _number(BELOW_NORMAL))
    made = widened(builder, dtype, narrowed(builder, dtype, builder.select(below, small, normal)))
    finite = builder.fcmp_ordered("<", size, _number(float("inf")))
    return builder.select(finite, made, x)


@cache
def _functions(dtype: str) -> tuple[Any, Any]:
    @intrinsic
    def nearest(_: Any, x: Any) -> Any:
        def codegen(__: Any, builder: Any, ___: Any, args: Any) -> Any:
            return widened(builder, dtype, narrowed(builder, dtype, args[0]))

        return float32(float32), codegen

    @intrinsic
    def randomly(_: Any, x: Any, key0: Any, key1: Any, element: Any) -> Any:
        def codegen(__: Any, builder: Any, ___: Any, args: Any) -> Any:
            return _at_random(builder, dtype, args[0], _hashed(builder, *args[1:]))

        return float32(float32, int64, int64, int64), codegen

    return nearest, randomly


_Words = types.CPointer(int32)  # type: ignore[no-untyped-call]


@intrinsic
def words_at(_: Any, address: Any) -> Any:
    """A pointer to pairs of bfloat16 numbers."""

    def codegen(__: Any, builder: Any, ___: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], _WORD.as_pointer())

    return _Words(address), codegen


@intrinsic
def lower(_: Any, word: Any) -> Any:
    """The first number of a pair."""

    def codegen(__: Any, builder: Any, ___: Any, args: Any) -> Any:
        return _float(builder, builder.shl(args[0], _int(16)))

    return float32(word), codegen


@intrinsic
def upper(_: Any, word: Any) -> Any:
    """The second number of a pair."""

    def codegen(__: Any, builder: Any, ___: Any, args: Any) -> Any:
        return _float(builder, builder.and_(args[0], _int(0xFFFF0000)))

    return float32(word), codegen


def _joiner(bits_of: Callable[[Any, Any], Any]) -> Any:
    @intrinsic
    def join(_: Any, first: Any, second: Any) -> Any:
        def codegen(__: Any, builder: Any, ___: Any, args: Any) -> Any:
            low = builder.lshr(bits_of(builder, args[0]), _int(16))
            return builder.or_(low, builder.and_(bits_of(builder, args[1]), _int(0xFFFF0000)))

        return int32(first, second), codegen

    return join


PAIRS: dict[str, Any] = {
    "words_at": words_at,
    "lower": lower,
    "upper": upper,
    "paired": _joiner(_rounded),
    "paired_exact": _joiner(_bits),
}
"""Two bfloat16 numbers that lie side by side, as one word: what a kernel of nothing else reads."""

NAMES: dict[str, Any] = dict(PAIRS)
"""What a kernel calls to round, and to take pairs."""
for _dtype in STORED:
    NAMES[f"nearest_{_dtype}"], NAMES[f"randomly_{_dtype}"] = _functions(_dtype)
