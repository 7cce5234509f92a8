"""What generated kernels call: loads and stores by address, reductions, random numbers.

Needs Numba; imported when a kernel is compiled, never before.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

from llvmlite import ir
from numba import float32, float64, int32, int64, njit, types
from numba.extending import intrinsic

from pellucid.fuse import counter, runtime_narrow

__all__ = ["FLAGS", "SIGNATURE", "access", "namespace"]

FLAGS: dict[str, Any] = {
    "nogil": True,
    "error_model": "numpy",
    # Never nnan, ninf or reassoc: they delete isfinite() and compensated sums.
    "fastmath": {"contract", "nsz"},
}
_INTS = int64[:, ::1]
_FLOATS = float64[:, ::1]
SIGNATURE = types.void(
    int64, int64, _INTS, _INTS, int64[::1], int64[::1], _INTS, _FLOATS, _FLOATS, _FLOATS, int64[::1]
)
_TYPES: dict[str, Any] = {"float32": float32, "float64": float64, "int64": int64}
_LLVM = {"float32": ir.FloatType(), "float64": ir.DoubleType(), "int64": ir.IntType(64)}
_WIDTHS = ("float32", "float64")
COLUMNS = 64  # alias scopes that a kernel can tell apart


def _scopes(module: Any, column: int) -> tuple[Any, Any]:
    """Metadata: this column's scope, and those of all others; so no two columns' arrays alias."""
    domain = module.add_metadata([ir.MetaDataString(module, "pellucid arrays")])
    made = [
        module.add_metadata([ir.MetaDataString(module, f"pellucid array {one}"), domain])
        for one in range(COLUMNS)
    ]
    own = module.add_metadata([made[column]])
    others = module.add_metadata([scope for one, scope in enumerate(made) if one != column])
    return own, others


@cache
def access(dtype: str, column: int) -> dict[str, Any]:
    """Functions that make a pointer of an address, load from it and store to it.

    Of 16-bit types ``put`` stores a number that the type has, and of bfloat16 ``load_words`` and
    ``store_words`` take two at a time.

    Memory of different columns never overlaps within one launch (the launch sees to it), which
    the metadata tells LLVM: without it loops over many arrays are not vectorized.
    """
    narrow = dtype in runtime_narrow.STORED
    element, kind = (float32, ir.IntType(16)) if narrow else (_TYPES[dtype], _LLVM[dtype])
    stored = runtime_narrow.STORED.get(dtype, element)
    pointer_type = types.CPointer(stored)  # type: ignore[no-untyped-call]

    @intrinsic
    def pointer(_: Any, address: Any) -> Any:
        def codegen(__: Any, builder: Any, ___: Any, args: Any) -> Any:
            return builder.inttoptr(args[0], kind.as_pointer())

        return pointer_type(address), codegen

    def annotate(builder: Any, instruction: Any) -> None:
        own, others = _scopes(builder.module, column)
        instruction.set_metadata("alias.scope", own)
        instruction.set_metadata("noalias", others)

    @intrinsic
    def load(_: Any, at: Any, index: Any) -> Any:
        def codegen(__: Any, builder: Any, ___: Any, args: Any) -> Any:
            value = builder.load(builder.gep(args[0], [args[1]], inbounds=True))
            annotate(builder, value)
            return runtime_narrow.widened(builder, dtype, value) if narrow else value

        return element(at, index), codegen

    def storing(convert: Any) -> Any:
        @intrinsic
        def store(_: Any, at: Any, index: Any, value: Any) -> Any:
            def codegen(__: Any, builder: Any, ___: Any, args: Any) -> Any:
                value = convert(builder, dtype, args[2]) if narrow else args[2]
                done = builder.store(value, builder.gep(args[0], [args[1]], inbounds=True))
                annotate(builder, done)

            return types.void(at, index, element), codegen

        return store

    made = {
        "pointer": pointer,
        "load": load,
        "store": storing(runtime_narrow.narrowed),
        "put": storing(runtime_narrow.cut),
    }
    return made if dtype != "bfloat16" else {**made, **_pair_access(annotate)}


def _pair_access(annotate: Any) -> dict[str, Any]:
    """Loads and stores of two bfloat16 numbers at a time."""

    @intrinsic
    def load_words(_: Any, at: Any, index: Any) -> Any:
        def codegen(__: Any, builder: Any, ___: Any, args: Any) -> Any:
            value = builder.load(builder.gep(args[0], [args[1]], inbounds=True))
            value.align = 2
            annotate(builder, value)
            return value

        return int32(at, index), codegen

    @intrinsic
    def store_words(_: Any, at: Any, index: Any, word: Any) -> Any:
        def codegen(__: Any, builder: Any, ___: Any, args: Any) -> Any:
            done = builder.store(args[2], builder.gep(args[0], [args[1]], inbounds=True))
            done.align = 2
            annotate(builder, done)

        return types.void(at, index, int32), codegen

    return {"load_words": load_words, "store_words": store_words}


@intrinsic
def _add_in_any_order(_: Any, a: Any, b: Any) -> Any:
    """The one addition that LLVM may reorder: a reduction's, so that it runs in vector lanes.

    The order depends on the code and the length alone, so a result repeats bit for bit.
    """

    def codegen(__: Any, builder: Any, ___: Any, args: Any) -> Any:
        return builder.fadd(args[0], args[1], flags=("reassoc", "nsz", "contract"))

    return float64(float64, float64), codegen


def _caller(count: int, bits: int) -> Any:
    """Calls the C function at an address with ``count`` words; it gives an integer of ``bits``."""
    given = [ir.IntType(64)] * count
    kind = ir.FunctionType(ir.IntType(bits), given).as_pointer()
    gives, words = (int32 if bits == 32 else int64), [int64] * (count + 1)

    def codegen(_: Any, builder: Any, __: Any, args: Any) -> Any:
        return builder.call(builder.inttoptr(args[0], kind), args[1:])

    if count == 1:
        return intrinsic(lambda _, function, a: (gives(*words), codegen))
    if count == 2:
        return intrinsic(lambda _, function, a, b: (gives(*words), codegen))
    return intrinsic(lambda _, function, a, b, c, d: (gives(*words), codegen))


def _prefetch(builder: Any, address: Any) -> None:
    """Three cache lines from an address on: a hint, which cannot fault."""
    word, byte = ir.IntType(64), ir.IntType(8).as_pointer()
    kind = ir.FunctionType(ir.VoidType(), [byte, *[ir.IntType(32)] * 3])
    hint = builder.module.declare_intrinsic("llvm.prefetch", [byte], kind)
    flags = [ir.Constant(ir.IntType(32), value) for value in (0, 3, 1)]
    for offset in (0, 64, 128):
        line = builder.add(address, ir.Constant(word, offset))
        builder.call(hint, [builder.inttoptr(line, byte), *flags])


@intrinsic
def prefetch_lines(_: Any, address: Any) -> Any:
    """Prefetch what lies at an address."""

    def codegen(__: Any, builder: Any, ___: Any, args: Any) -> Any:
        _prefetch(builder, args[0])

    return types.void(int64), codegen


def _bits(width: str) -> tuple[Any, Any]:
    integer, number = (int32, float32) if width == "float32" else (int64, float64)
    mask = 0x7FFFFFFF if width == "float32" else 0x7FFFFFFFFFFFFFFF
    llvm_int = ir.IntType(32 if width == "float32" else 64)

    @intrinsic
    def bits_of_abs(_: Any, x: Any) -> Any:
        def codegen(__: Any, builder: Any, ___: Any, args: Any) -> Any:
            return builder.and_(builder.bitcast(args[0], llvm_int), ir.Constant(llvm_int, mask))

        return integer(number), codegen

    @intrinsic
    def from_bits(_: Any, x: Any) -> Any:
        def codegen(__: Any, builder: Any, ___: Any, args: Any) -> Any:
            value = builder.bitcast(args[0], _LLVM[width])
            return builder.fpext(value, ir.DoubleType()) if width == "float32" else value

        return float64(integer), codegen

    return bits_of_abs, from_bits


def _sign(width: str) -> Any:
    number = _TYPES[width]
    one, minus = number(1.0), number(-1.0)
    return njit(lambda x: one if x > 0 else minus if x < 0 else x)


_CALLERS = {one: _caller(*one) for one in ((1, 64), (2, 64), (2, 32), (4, 32))}
_SIGN = {width: _sign(width) for width in _WIDTHS}
_BITS = {width: _bits(width) for width in _WIDTHS}


@intrinsic
def _larger(_: Any, a: Any, b: Any) -> Any:
    """The larger of two integers. Absolute values order as their bits do, NaN above infinity."""

    def codegen(__: Any, builder: Any, ___: Any, args: Any) -> Any:
        return builder.select(builder.icmp_signed(">", args[1], args[0]), args[1], args[0])

    return a(a, a), codegen


@njit(inline="always")
def _larger_or_nan(a: float, b: float) -> float:
    return b if (b > a or b != b) else a


@njit(inline="always")
def _square_wide(x: Any) -> Any:
    return float64(x) * float64(x)


_threefry = njit(counter.threefry)
_key = njit(
    lambda seed, stream, parameter, step: _threefry(
        seed & counter.MASK, ((seed >> 32) & counter.MASK) ^ stream, parameter, step & counter.MASK
    )
)


@njit
def _words(seed: int, stream: int, parameter: int, step: int, element: int) -> Any:
    key0, key1 = _key(seed, stream, parameter, step)
    return _threefry(key0, key1, element & counter.MASK, element >> 32)


_uniform_of = njit(counter.uniform_of)


@njit
def _uniform_at(seed: int, stream: int, parameter: int, step: int, element: int) -> float:
    return _uniform_of(_words(seed, stream, parameter, step, element))  # type: ignore[no-any-return]


_UNIT, _TWO_PI = counter.UNIT, counter.TWO_PI


@njit
def _normal_at(seed: int, stream: int, parameter: int, step: int, element: int) -> float:
    first, second = _words(seed, stream, parameter, step, element)
    radius = math.sqrt(-2.0 * math.log(((first >> 8) + 1) * _UNIT))
    return radius * math.cos((second >> 8) * (_TWO_PI * _UNIT))


def namespace(compute: str, storage: dict[int, str]) -> dict[str, Any]:
    """The names that a kernel's source uses, for a compute type and the columns' types."""
    bits_of_abs, from_bits = _BITS[compute]
    names: dict[str, Any] = {
        "T": _TYPES[compute],
        "math": math,
        "add_in_any_order": _add_in_any_order,
        "square_wide": _square_wide,
        "bits_of_abs": bits_of_abs,
        "from_bits": from_bits,
        "zero_bits": bits_of_abs,
        "larger": _larger,
        "sign_of": _SIGN[compute],
        "larger_or_nan": _larger_or_nan,
        "call_1": _CALLERS[1, 64],
        "call_2": _CALLERS[2, 64],
        "call_2_int": _CALLERS[2, 32],
        "call_4_int": _CALLERS[4, 32],
        "prefetch_lines": prefetch_lines,
        "uniform_at": _uniform_at,
        "normal_at": _normal_at,
        "tensor_key": _key,
        **runtime_narrow.NAMES,
    }
    for column, dtype in storage.items():
        names |= {f"{name}_{column}": made for name, made in access(dtype, column).items()}
    return names
