"""An update on intervals: what each value may be, whatever way it is computed.

`Bounds` is a context of an update, beside the tracer and the line-by-line one. Each operation's
result is widened by what correctly rounded arithmetic may be off by, so that cancellation, fused
multiply-add and reciprocals are allowed for, and nothing else is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

import pellucid.numpy
from pellucid import ops
from pellucid.fuse.engine import slot_shape
from pellucid.fuse.interpret import NumpyNamespace, random_numbers

Array = np.ndarray[Any, Any]
UNITS = {"float32": 2.0**-24, "float64": 2.0**-53}
LARGEST = {"float32": 3e38, "float64": 1e308}
SMALLEST = {"float32": 1.5e-45, "float64": 5e-324}


@dataclass
class Interval:
    """Bounds of each element; ``wild`` where it may be anything, NaN included."""

    low: Array
    high: Array
    wild: Array


def interval(low: Any, high: Any = None, wild: Any = False) -> Interval:
    low = np.asarray(low, np.float64)
    high = low if high is None else np.asarray(high, np.float64)
    wild = wild | ~(np.isfinite(low) & np.isfinite(high))
    return Interval(np.where(wild, -np.inf, low), np.where(wild, np.inf, high), wild)


def widened(one: Interval, units: float, dtype: str) -> Interval:
    """Rounded by so many half units in the last place; rounding never changes a sign."""
    slack = units * UNITS[dtype] * np.maximum(np.abs(one.low), np.abs(one.high)) + SMALLEST[dtype]
    low = np.where(one.low >= 0, np.maximum(one.low - slack, 0), one.low - slack)
    high = np.where(one.high <= 0, np.minimum(one.high + slack, 0), one.high + slack)
    most = LARGEST[dtype]
    return interval(low, high, one.wild | ~((np.abs(low) < most) & (np.abs(high) < most)))


def stored(one: Interval, dtype: str) -> Interval:
    """Converted to a type: what it holds exactly stays so."""
    wide = widened(one, 1, dtype)
    exact_low = one.low.astype(dtype) == one.low
    exact_high = one.high.astype(dtype) == one.high
    low, high = np.where(exact_low, one.low, wide.low), np.where(exact_high, one.high, wide.high)
    return interval(low, high, wide.wild)


@dataclass
class Truth:
    """Whether each condition may hold, and whether it may not."""

    yes: Array
    no: Array


def corners(a: Interval, b: Interval, function: Callable[[Array, Array], Array]) -> Interval:
    """Bounds of a function that is monotone in each argument, by the four corners."""
    found = [function(x, y) for x in (a.low, a.high) for y in (b.low, b.high)]
    return interval(np.min(found, axis=0), np.max(found, axis=0), a.wild | b.wild)


def power(a: Interval, b: Interval) -> Interval:
    found = corners(a, b, np.power)
    whole = (b.low == b.high) & (b.low == np.round(b.low)) & (b.low > 0)
    straddles = (a.low < 0) & (a.high > 0)
    even = whole & straddles & (b.low % 2 == 0)
    wild = found.wild | ~((a.low > 0) | whole)
    return interval(np.where(even, 0.0, found.low), found.high, wild)


def magnitude(a: Interval) -> Interval:
    low = np.where((a.low <= 0) & (a.high >= 0), 0, np.minimum(np.abs(a.low), np.abs(a.high)))
    return interval(low, np.maximum(np.abs(a.low), np.abs(a.high)), a.wild)


def choice(c: Truth, a: Any, b: Any) -> Any:
    if isinstance(a, Truth):
        yes = (c.yes & a.yes) | (c.no & b.yes)
        return Truth(yes, (c.yes & a.no) | (c.no & b.no))
    low = np.minimum(np.where(c.yes, a.low, np.inf), np.where(c.no, b.low, np.inf))
    high = np.maximum(np.where(c.yes, a.high, -np.inf), np.where(c.no, b.high, -np.inf))
    return interval(low, high, (c.yes & a.wild) | (c.no & b.wild))


def less(a: Interval, b: Interval) -> Truth:
    wild = a.wild | b.wild
    return Truth((a.low < b.high) | wild, (a.high >= b.low) | wild)


def equal(a: Interval, b: Interval) -> Truth:
    wild = a.wild | b.wild
    same = (a.low == a.high) & (b.low == b.high) & (a.low == b.low)
    return Truth(((a.low <= b.high) & (b.low <= a.high)) | wild, ~same | wild)


def opposite(one: Truth) -> Truth:
    return Truth(one.no, one.yes)


# An operation on intervals, and how many half units in the last place its result may be off by.
OPERATIONS: dict[str, tuple[Callable[..., Any], int]] = {
    "add": (lambda a, b: interval(a.low + b.low, a.high + b.high, a.wild | b.wild), 1),
    "sub": (lambda a, b: interval(a.low - b.high, a.high - b.low, a.wild | b.wild), 1),
    "mul": (lambda a, b: corners(a, b, np.multiply), 1),
    "div": (
        lambda a, b: corners(
            a, interval(b.low, b.high, b.wild | ((b.low <= 0) & (b.high >= 0))), np.divide
        ),
        3,  # a product with the rounded reciprocal
    ),
    "neg": (lambda a: interval(-a.high, -a.low, a.wild), 0),
    "power": (power, 16),
    "sqrt": (lambda a: interval(np.sqrt(a.low), np.sqrt(a.high), a.wild), 1),
    "abs": (magnitude, 0),
    "sign": (lambda a: interval(np.sign(a.low), np.sign(a.high), a.wild), 0),
    "exp": (lambda a: interval(np.exp(a.low), np.exp(a.high), a.wild), 16),
    "log": (lambda a: interval(np.log(a.low), np.log(a.high), a.wild), 16),
    "minimum": (lambda a, b: corners(a, b, np.minimum), 0),
    "maximum": (lambda a, b: corners(a, b, np.maximum), 0),
    "where": (choice, 0),
    "lt": (less, 0),
    "gt": (lambda a, b: less(b, a), 0),
    "ge": (lambda a, b: opposite(less(a, b)), 0),
    "le": (lambda a, b: opposite(less(b, a)), 0),
    "eq": (equal, 0),
    "ne": (lambda a, b: opposite(equal(a, b)), 0),
    "isfinite": (lambda a: Truth(np.full(a.wild.shape, True), a.wild), 0),
    "and": (lambda a, b: Truth(a.yes & b.yes, a.no | b.no), 0),
    "or": (lambda a, b: Truth(a.yes | b.yes, a.no & b.no), 0),
    "not": (opposite, 0),
}
AXES: dict[str, Callable[[int], tuple[int, ...]]] = {
    "tensor": lambda ndim: tuple(range(ndim)),
    "all": lambda ndim: tuple(range(ndim)),
    "row": lambda ndim: tuple(range(1, ndim)),
    "column": lambda ndim: tuple(range(min(ndim, 1))),
}


def total(name: str, one: Interval, axes: tuple[int, ...], dtype: str) -> Interval:
    """A reduction: each element in its own type, the sum in float64."""
    one = stored(one, dtype)
    if name != "sum":
        one = magnitude(one)
    if name == "sum_squares":
        one = interval(one.low**2, one.high**2, one.wild)
    count = math.prod(one.low.shape[axis] for axis in axes)
    wild = one.wild.any(axis=axes, keepdims=True)
    if name == "max_abs":
        low = one.low.max(axis=axes, keepdims=True, initial=0)
        return interval(low, one.high.max(axis=axes, keepdims=True, initial=0), wild)
    slack = (count + 2) * 2.0**-53 * magnitude(one).high.sum(axis=axes, keepdims=True)
    low, high = (part.sum(axis=axes, keepdims=True) for part in (one.low, one.high))
    return interval(low - slack, high + slack, wild)


def over_all(name: str, parts: Sequence[Interval]) -> Interval:
    wild = np.any([part.wild for part in parts])
    combine = np.max if name == "max_abs" else np.sum
    low, high = ([getattr(part, end) for part in parts] for end in ("low", "high"))
    slack = len(parts) * 2.0**-52 * np.sum(np.abs([low, high]))
    return interval(combine(low) - slack, combine(high) + slack, wild)


@dataclass
class Value:
    """A value of all tensors at once.

    ``narrow``: computed in the parameter's type, not in float64. ``single``: one number for each
    group, which a reduction over all tensors leaves as it is.
    """

    parts: list[Any]
    narrow: bool
    single: bool = False


class Bounds:
    """The context of an update on intervals, and what carries out its operations."""

    def __init__(self, optimizer: pellucid.numpy.Optimizer) -> None:
        self.optimizer, self.entries = optimizer, optimizer.entries
        self.dtypes = [str(entry.param.dtype) for entry in self.entries]
        self.readings = [one.values for one in optimizer.readings()]
        self.occurrences = 0
        self.after: dict[str, Value] = {}

    def symbol(self, value: Value) -> Any:
        return ops.Symbol(self, value)

    def arrays(self, found: Sequence[Any]) -> Any:
        return self.symbol(Value([interval(array) for array in found], narrow=True))

    def number(self, found: Sequence[float]) -> Any:
        return self.symbol(Value([interval(one) for one in found], narrow=False, single=True))

    # -- what an update reads and writes ---------------------------------------------------

    def hyper(self, declared: Any) -> Any:
        return self.number([self.readings[e.group][declared.name] for e in self.entries])

    def step(self) -> Any:
        return self.number([self.optimizer.updates + 1.0] * len(self.entries))

    def slot(self, declared: Any) -> Any:
        name = declared.name
        if name in self.after:
            return self.symbol(self.after[name])
        if declared.scope == "optimizer":
            shared = [value for (_, full), value in self.optimizer.shared.items() if full == name]
            return self.number([*shared, declared.init][:1] * len(self.entries))
        state = self.optimizer.state
        held = [state.get(entry.name, {}).get(name) for entry in self.entries]
        made = self.arrays(
            [
                self.first(declared, entry) if array is None else array
                for entry, array in zip(self.entries, held, strict=True)
            ]
        )
        made.node.narrow = declared.shape != "scalar"
        return made

    def first(self, declared: Any, entry: Any) -> Array:
        if declared.init in ("param", "grad"):
            return entry.param if declared.init == "param" else self.grads[entry.name]
        return np.full(slot_shape(declared.shape, entry.param.shape), declared.init)

    def assign(self, declared: Any, value: Any) -> None:
        self.after[declared.name] = self.value(value)

    def run(self, grads: dict[str, Array]) -> dict[str, Value]:
        """What each slot and the parameter become."""
        self.grads = grads
        names = [entry.name for entry in self.entries]
        params = [entry.param for entry in self.entries]
        rule = self.entries[0].pipeline.rule
        with np.errstate(all="ignore"):
            result = rule._bare(self).update(
                self.arrays(params), self.arrays([grads[name] for name in names])
            )
            return {**self.after, "param": self.value(result)}

    # -- operations ------------------------------------------------------------------------

    def value(self, given: Any) -> Value:
        if isinstance(given, ops.Symbol):
            return given.node
        return Value([interval(float(given))] * len(self.entries), narrow=False, single=True)

    def apply(self, name: str, args: tuple[Any, ...], over: str | None) -> Any:
        values = [self.value(arg) for arg in args]
        kind = ops.TABLE[name].kind
        if kind == "random" or over == "all":
            self.occurrences += 1
        if kind == "random":
            return self.symbol(Value(list(self.random(name)), narrow=True))
        if kind == "size":
            return self.symbol(self.size(values[0], over or "tensor"))
        if kind == "reduction":
            return self.symbol(self.reduce(name, values[0], over or "tensor"))
        function, units = OPERATIONS[name]
        narrow = any(value.narrow for value in values)
        parts = []
        for number, dtype in enumerate(self.dtypes):
            dtype = dtype if narrow else "float64"
            taken = [value.parts[number] for value in values]
            if narrow:
                taken = [one if isinstance(one, Truth) else stored(one, dtype) for one in taken]
            made = function(*taken)
            parts.append(widened(made, units, dtype) if units else made)
        return self.symbol(Value(parts, narrow, all(value.single for value in values)))

    def random(self, name: str) -> Iterator[Interval]:
        for entry, dtype in zip(self.entries, self.dtypes, strict=True):
            numbers = random_numbers(
                NumpyNamespace(), name, entry.param.shape, self.optimizer.seed, self.occurrences,
                entry.index,
                self.optimizer.updates + 1,
            )  # fmt: skip
            slack = 1e-14 if name == "normal" else 0.0  # of the logarithm and the cosine
            yield stored(interval(numbers - slack, numbers + slack), dtype)

    def shapes(self, value: Value) -> list[tuple[int, ...]]:
        return [part.low.shape for part in value.parts]

    def reduce(self, name: str, value: Value, over: str) -> Value:
        if value.single:
            wide = [part if name == "sum" else magnitude(part) for part in value.parts]
            if name == "sum_squares":
                wide = [widened(corners(one, one, np.multiply), 1, "float64") for one in wide]
            return Value(wide, narrow=False, single=True)
        parts = []
        for part, shape, dtype in zip(value.parts, self.shapes(value), self.dtypes, strict=True):
            made = total(name, part, AXES[over](len(shape)), dtype)
            if over in ("tensor", "all"):
                made = interval(*(a.reshape(()) for a in (made.low, made.high, made.wild)))
            parts.append(made)
        if over == "all":
            return Value([over_all(name, parts)] * len(parts), narrow=False, single=True)
        return Value(parts, narrow=over != "tensor" and value.narrow)

    def size(self, value: Value, over: str) -> Value:
        if value.single:
            return self.value(1.0)
        counts = [
            math.prod(shape[axis] for axis in AXES[over](len(shape)))
            for shape in self.shapes(value)
        ]
        if over == "all":
            counts = [sum(counts)] * len(counts)
        return Value([interval(float(one)) for one in counts], narrow=False, single=over == "all")
