"""Runs a graph in any array namespace: the living definition of every operation.

Emitters are tested against it. A namespace is a module or object with NumPy's names that `ops`'s
table uses, and three more: see `NumpyNamespace`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy

from pellucid.fuse import counter
from pellucid.fuse.emit_numba import HOST_NAMES
from pellucid.fuse.graph import Node, Rank, walk
from pellucid.fuse.segment import REDUCTIONS, root_of_total
from pellucid.ops import TABLE

__all__ = ["Interpreter", "NumpyNamespace", "number", "random_numbers", "reduce"]


class NumpyNamespace:
    """NumPy, with what reductions and random numbers need."""

    def __getattr__(self, name: str) -> Any:
        return getattr(numpy, name)

    def wide(self, x: Any) -> Any:
        """In float64."""
        return numpy.asarray(x, dtype=numpy.float64)

    def cast(self, x: Any, dtype: str) -> Any:
        """In the compute type; plain numbers stay plain."""
        return x.astype(dtype) if isinstance(x, numpy.ndarray) else x

    def positions(self, shape: tuple[int, ...]) -> Any:
        """The position of each element in the order of the axes, as int64."""
        return numpy.arange(math.prod(shape), dtype=numpy.int64).reshape(shape)

    def number(self, x: Any) -> Any:
        """An array of one element as what a line of an update computes with."""
        return float(x.reshape(()))

    def whole(self, x: Any) -> Any:
        """A step as an integer."""
        return int(x)

    def together(self, args: list[Any]) -> list[Any]:
        """Arguments of one operation, of types that the framework lets meet."""
        return args


def axes_of(over: str, ndim: int) -> tuple[int, ...]:
    """The axes that a reduction of an array removes."""
    if over == "row":
        return tuple(range(1, ndim))
    return tuple(range(min(ndim, 1))) if over == "column" else tuple(range(ndim))


def is_array(x: Any) -> bool:
    """Whether a value is an array, not a plain number."""
    return not isinstance(x, (int, float, bool))


def reduce(xp: Any, name: str, x: Any, over: str) -> Any:
    """A reduction of an array's own elements: a float over the tensor, else an array that
    broadcasts against it."""
    if not is_array(x):
        return {"sum": x, "sum_squares": x * x, "max_abs": abs(x)}[name]
    wide = xp.wide(x)
    axes = axes_of(over, len(wide.shape))
    if name == "sum_squares":
        wide = wide * wide
    if name == "max_abs":
        if 0 in wide.shape:
            wide = xp.sum(wide, axis=axes, keepdims=True) if axes else wide
        else:
            wide = xp.amax(xp.abs(wide), axis=axes, keepdims=True) if axes else xp.abs(wide)
    else:
        wide = xp.sum(wide, axis=axes, keepdims=True) if axes else wide
    return xp.number(wide) if over in ("tensor", "all") else wide


def random_numbers(
    xp: Any,
    name: str,
    shape: tuple[int, ...],
    seed: int,
    stream: int,
    parameter: int,
    step: int,
    places: Any = None,
) -> Any:
    """Counter-based random numbers of a tensor, in float64; ``places``: of some elements alone."""
    where = xp.positions(shape) if places is None else places
    words = counter.counter_words(seed, stream, parameter, step, where)
    if name == "uniform":
        return xp.wide(counter.uniform_of(words))
    return counter.normal_of((words[0], words[1]), xp)


def stream_of(data: tuple[int, int]) -> int:
    """The random stream of an occurrence in a stage."""
    return data[0] * 4096 + data[1]


def number(name: str, args: Iterable[Any]) -> Any:
    """An operation on plain numbers, in float64, with IEEE's infinities and NaN."""
    values = tuple(args)
    if name in ("div", "power", "sqrt", "exp", "log", "sign"):
        return HOST_NAMES[name](*values)
    if name == "where":
        return values[1] if values[0] else values[2]
    define = TABLE[name].define
    assert define is not None, name
    with numpy.errstate(all="ignore"):
        result = define(numpy, *values)
    return bool(result) if isinstance(result, (bool, numpy.bool_)) else float(result)


class _Bared:
    """What frameworks' own functions take for the plain float or bool that it is."""

    __slots__ = ()

    def __array_ufunc__(self, ufunc: Any, method: str, *args: Any, **kwargs: Any) -> Any:
        return getattr(ufunc, method)(*map(bare, args), **kwargs)

    @classmethod
    def __torch_function__(cls, function: Any, _: Any, args: Any = (), kwargs: Any = None) -> Any:
        return function(*map(bare, args), **(kwargs or {}))


def _operator(name: str, swapped: bool = False) -> Callable[..., Any]:
    def operate(self: Any, *others: Any) -> Any:
        if any(is_array(other) for other in others):
            return NotImplemented
        return plain(number(name, map(bare, (*others, self) if swapped else (self, *others))))

    return operate


_BINARY = {"add": "add", "sub": "sub", "mul": "mul", "truediv": "div", "pow": "power"}
_OTHERS = {"neg": "neg", "abs": "abs", **{n: n for n in ("lt", "le", "gt", "ge", "eq", "ne")}}

Number: Any = type(
    "Number",
    (_Bared, float),
    {
        "__doc__": "A number of a line-by-line update: it overflows and divides as kernels do.",
        "__slots__": (),
        "__hash__": float.__hash__,
        **{f"__{sign}__": _operator(name) for sign, name in {**_BINARY, **_OTHERS}.items()},
        **{f"__r{sign}__": _operator(name, swapped=True) for sign, name in _BINARY.items()},
    },
)


class Truth(_Bared, int):
    """A comparison of two such numbers: a bool on which ``~``, ``&`` and ``|`` are logic."""

    __slots__ = ()

    def __invert__(self) -> Any:
        return Truth(not self)

    def __and__(self, other: Any) -> Any:
        return NotImplemented if is_array(other) else Truth(bool(self) and bool(other))

    def __or__(self, other: Any) -> Any:
        return NotImplemented if is_array(other) else Truth(bool(self) or bool(other))

    __rand__, __ror__ = __and__, __or__

    def __repr__(self) -> str:
        return repr(bool(self))


def plain(value: Any) -> Any:
    """A float or bool as a line-by-line update has it; arrays stay what they are."""
    if isinstance(value, bool):
        return Truth(value)
    return Number(value) if isinstance(value, float) else value


def bare(value: Any) -> Any:
    """What `plain` was given."""
    if isinstance(value, Truth):
        return bool(value)
    return float(value) if isinstance(value, Number) else value


class Interpreter:
    """Evaluates nodes for one tensor.

    ``leaf`` gives the value of ``hyper``, ``step``, ``param``, ``grad``, ``slot``, ``shared``,
    ``extra``, ``is_new`` and ``size`` nodes, and of reductions over all tensors: plain numbers
    for scalar and per-tensor ones, arrays for the others.
    """

    def __init__(
        self,
        xp: Any,
        dtype: str,
        shape: tuple[int, ...],
        leaf: Callable[[Node], Any],
        seed: int = 0,
        parameter: int = 0,
    ) -> None:
        self.xp, self.dtype, self.shape, self.leaf = xp, dtype, shape, leaf
        self.seed, self.parameter = seed, parameter
        self.places: Any = None  # of the elements in their tensor, where some rows are left out
        self.known: dict[int, Any] = {}
        self.narrow: dict[int, Any] = {}  # the same in the compute type, for loops over elements

    def __call__(self, roots: Iterable[Node]) -> list[Any]:
        """The values of these nodes."""
        wanted = list(roots)
        for node in walk(wanted):
            if node.index not in self.known:
                self.known[node.index] = self._value(node)
        return [self.known[node.index] for node in wanted]

    def reduced(self, name: str, node: Node) -> Any:
        """A reduction of all this tensor's elements of a node's value."""
        (value,) = self([node])
        return reduce(self.xp, name, value, "tensor")

    def rounded(self, op: str, dtype: str, x: Any, step: Any = 0) -> Any:
        """An array rounded to a 16-bit type, in the compute type."""
        x = self.xp.cast(x, self.dtype)
        if op == "rounded":
            return self.xp.rounded(x, dtype)
        number = self.xp.whole(step)
        first, second = counter.tensor_key(self.seed, counter.ROUNDING, self.parameter, number)
        places = self.xp.positions(self.shape) if self.places is None else self.places
        return self.xp.rounded_randomly(x, counter.rounding_bits(first, second, places), dtype)

    def _value(self, node: Node) -> Any:
        if node.op == "const":
            return node.data
        row = TABLE.get(node.op)
        if node.op in REDUCTIONS and node.data[0] != "all":
            return reduce(self.xp, node.op, self.known[node.args[0].index], node.data[0])
        if row is None or node.op == "size" or node.op in REDUCTIONS:
            return self.leaf(node)
        if row.kind == "random":
            step = self.xp.whole(self.known[node.args[0].index])
            made = random_numbers(
                self.xp, node.op, self.shape, self.seed, stream_of(node.data), self.parameter, step,
                self.places,
            )  # fmt: skip
            return self.xp.cast(made, self.dtype)
        if row.kind == "rounding":
            return self.rounded(node.op, node.data, *(self.known[a.index] for a in node.args))
        args = [self.known[arg.index] for arg in node.args]
        if not any(is_array(arg) for arg in args):
            return number(node.op, args)
        if node.rank in (Rank.ELEMENT, Rank.COLUMN):
            if self.narrow:
                args = [self.narrow.get(a.index, self.known[a.index]) for a in node.args]
            args = [self.xp.cast(arg, self.dtype) if is_array(arg) and not is_bool(arg) else arg
                    for arg in args]
        assert row.define is not None
        if root_of_total(node):
            return self.xp.cast(row.define(self.xp, self.known[node.args[0].index]), self.dtype)
        return row.define(self.xp, *self.xp.together(args))


def is_bool(x: Any) -> bool:
    """Whether an array holds conditions."""
    return "bool" in str(x.dtype)
