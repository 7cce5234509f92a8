"""Kernel = graph interpreter = line by line, each within the bounds that rounding allows.

`Bounds` runs an update once more, on intervals: each operation's result is widened by what a
correctly rounded type may be off by, so that cancellation, fused multiply-add and reciprocals are
allowed for, and nothing else is. What an interval cannot bound (a quotient by what may be zero) is
left unchecked, and each test asserts that this is little.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import pellucid.numpy
from pellucid import Rule, hyper, ops, slot
from pellucid.fuse.engine import slot_shape
from pellucid.fuse.graph import Rank, join, reduced
from pellucid.fuse.interpret import NumpyNamespace, random_numbers

Array = np.ndarray[Any, Any]
MODES = ("kernel", "graph", "lines")
UNITS = {"float32": 2.0**-24, "float64": 2.0**-53}
LARGEST = {"float32": 3e38, "float64": 1e308}
SMALLEST = {"float32": 1.5e-45, "float64": 5e-324}

# -- intervals ---------------------------------------------------------------------------------


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
        held = [state[e.name][name] if e.name in state else None for e in self.entries]
        made = self.arrays(
            [
                self.first(declared, entry) if array is None else array
                for entry, array in zip(self.entries, held, strict=True)
            ]
        )
        made.node.narrow = declared.shape != "scalar"
        return made

    def first(self, declared: Any, entry: Any) -> Array:
        if declared.init == "grad":
            return self.grads[entry.name]
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


# -- running a rule three ways -----------------------------------------------------------------


def made(rule: Rule, params: dict[str, Array], mode: str, **keywords: Any) -> Any:
    params = {name: np.array(param, order="K") for name, param in params.items()}
    one = pellucid.numpy.Optimizer(params, rule, compiled=mode == "kernel", **keywords)
    one.by_graph = mode == "graph"
    return one


@dataclass
class Checked:
    """How many elements were compared, and how many of those had bounds that say something."""

    all: int = 0
    bounded: int = 0
    sharp: int = 0

    def add(self, one: Interval) -> None:
        width = one.high - one.low
        self.all += one.wild.size
        self.bounded += int((~one.wild).sum())
        size = np.maximum(np.abs(one.low), np.abs(one.high))
        self.sharp += int(((width <= 1e-3 * size + 1e-9) & ~one.wild).sum())


def assert_bounded(rule: Rule, params: dict[str, Array], checked: Checked, steps: int = 2) -> None:
    """Each way of running a rule stays within bounds, in each step from where it stands."""
    names = list(params)
    groups = {names[-1]: {"rate": 0.375}} if len(names) > 1 else {}
    for mode in MODES:
        one = made(rule, params, mode, seed=11, groups=groups)
        rng = np.random.default_rng(5)
        for step in range(steps):
            grads = {n: values(rng, p.shape).astype(p.dtype) for n, p in one.params.items()}
            expected = Bounds(one).run(grads)
            assert one.step(grads)
            for what, value in expected.items():
                if rule.declared.slots.get(what) and rule.declared.slots[what].scope != "parameter":
                    (got,) = one.shared.values()
                    inside(got, value.parts[0], f"{mode} step {step}: {what}")
                    continue
                for entry, bounds in zip(one.entries, value.parts, strict=True):
                    got = entry.param if what == "param" else one.state[entry.name][what]
                    where = f"{mode}, step {step}: {what} of {entry.name}{entry.param.shape}"
                    bounds = stored(bounds, str(got.dtype))
                    inside(got, bounds, where)
                    checked.add(bounds)


def inside(got: Any, bounds: Interval, where: str) -> None:
    with np.errstate(invalid="ignore"):
        fine = bounds.wild | ((bounds.low <= got) & (got <= bounds.high))
    assert np.all(fine), f"{where}: {got} is not within {bounds.low} .. {bounds.high}"


def values(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Both signs, magnitudes from 1e-3 to 10, one element in ten zero, another 1."""
    found = rng.choice([-1, 1], shape) * 10 ** rng.uniform(-3, 1, shape)
    chosen = rng.integers(0, 10, shape)
    return np.where(chosen == 0, 0.0, np.where(chosen == 1, 1.0, found))


SHAPES: dict[str, tuple[int, ...]] = {
    "scalar": (), "empty": (0,), "one": (1,), "vector": (7,), "matrix": (5, 3), "cube": (2, 3, 4),
    "no_columns": (3, 0), "no_rows": (0, 3), "turned": (3, 5), "group": (4, 2),
}  # fmt: skip


def parameters(dtype: str) -> dict[str, Array]:
    rng = np.random.default_rng(3)
    found = {name: np.array(values(rng, shape), dtype) for name, shape in SHAPES.items()}
    found["turned"] = np.asfortranarray(found["turned"])
    return found


# -- every operation of the table --------------------------------------------------------------

ONE_OF_EACH: dict[str, Callable[[Any, Any], Any]] = {
    "add": lambda x, y: x + y,
    "sub": lambda x, y: x - y,
    "mul": lambda x, y: x * y,
    "div": lambda x, y: x / y,
    "neg": lambda x, y: -x,
    "power": lambda x, y: abs(x) ** y,
    "sqrt": lambda x, y: ops.sqrt(abs(x)) + ops.rsqrt(abs(y)),
    "abs": lambda x, y: ops.abs(x),
    "sign": lambda x, y: ops.sign(x),
    "exp": lambda x, y: ops.exp(x),
    "log": lambda x, y: ops.log(abs(x)),
    "minimum": lambda x, y: ops.minimum(x, y),
    "maximum": lambda x, y: ops.maximum(x, y),
    "where": lambda x, y: ops.where(x > y, x, y * 2),
    "lt": lambda x, y: ops.where(x < y, 1.0, 2.0),
    "le": lambda x, y: ops.where(x <= y, 1.0, 2.0),
    "gt": lambda x, y: ops.where(x > 1, 1.0, 2.0),
    "ge": lambda x, y: ops.where(x >= 1, 1.0, 2.0),
    "eq": lambda x, y: ops.where(x == 1, 1.0, 2.0),
    "ne": lambda x, y: ops.where(x != 1, 1.0, 2.0),
    "isfinite": lambda x, y: ops.where(ops.isfinite(x), 1.0, 2.0),
    "and": lambda x, y: ops.where((x > 0) & (y > 0), 1.0, 2.0),
    "or": lambda x, y: ops.where((x > 0) | (y > 0), 1.0, 2.0),
    "not": lambda x, y: ops.where(~(x > 0), 1.0, 2.0),
    "sum": lambda x, y: ops.sum(x) + ops.sum(x, "row") + ops.mean(x, "all"),
    "sum_squares": lambda x, y: ops.norm(x, "row") + ops.sum(y * y, "column"),
    "max_abs": lambda x, y: ops.max_abs(x, "row") + ops.max_abs(y, "column") + ops.max_abs(x),
    "uniform": lambda x, y: ops.uniform(x),
    "normal": lambda x, y: ops.normal(x),
    "size": lambda x, y: ops.size(x) + 10 * ops.size(x, "row") + 100 * ops.size(x, "column"),
}


def operations_rule(rank: str) -> Rule:
    """Each operation, on arguments that vary over elements, rows, ..., in a slot of its own."""

    def update(self: Any, param: Any, grad: Any) -> Any:
        x, y = {
            "element": lambda: (grad, param),
            "row": lambda: (ops.max_abs(grad, "row"), ops.mean(param, "row")),
            "column": lambda: (ops.max_abs(grad, "column"), ops.mean(param, "column")),
            "tensor": lambda: (ops.max_abs(grad), ops.mean(param)),
            "all": lambda: (ops.max_abs(grad, "all"), ops.mean(param, "all")),
            "number": lambda: (self.rate, -self.step),
            "mixed": lambda: (grad, self.rate),
        }[rank]()
        for name, function in ONE_OF_EACH.items():
            setattr(self, f"slot_{name}", function(x, y))
        return param - grad

    names = {f"slot_{name}": slot() for name in ONE_OF_EACH}
    return type("Each", (Rule,), {"rate": hyper(0.75), **names, "update": update})()


def test_table_is_covered() -> None:
    assert set(ONE_OF_EACH) == set(ops.TABLE)
    assert set(OPERATIONS) == {n for n, one in ops.TABLE.items() if one.define is not None}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "rank", ["element", "row", "column", "tensor", "all", "number", "mixed"]
)
def test_each_operation(rank: str, dtype: str) -> None:
    checked = Checked()
    assert_bounded(operations_rule(rank), parameters(dtype), checked)
    assert checked.sharp > 0.8 * checked.all


# -- random programs ---------------------------------------------------------------------------

Number, Condition = "number", "condition"
FORMS: dict[str, tuple[tuple[str, ...], str, Callable[..., Any]]] = {
    "{} + {}": ((Number, Number), Number, lambda x, y: x + y),
    "{} - {}": ((Number, Number), Number, lambda x, y: x - y),
    "{} * {}": ((Number, Number), Number, lambda x, y: x * y),
    "{} / {}": ((Number, Number), Number, lambda x, y: x / y),
    "{} / (abs({}) + 0.5)": ((Number, Number), Number, lambda x, y: x / (abs(y) + 0.5)),
    "3 - {}": ((Number,), Number, lambda x: 3 - x),
    "2 / (1 + square({}))": ((Number,), Number, lambda x: 2 / (1 + ops.square(x))),
    "-{}": ((Number,), Number, lambda x: -x),
    "abs({})": ((Number,), Number, lambda x: ops.abs(x)),
    "{} ** 3": ((Number,), Number, lambda x: x**3),
    "(-1.5) ** max(sign({}), 1)": ((Number,), Number, lambda x: (-1.5) ** ops.maximum(ops.sign(x), 1)),
    "square({})": ((Number,), Number, ops.square),
    "sqrt(abs({}))": ((Number,), Number, lambda x: ops.sqrt(abs(x))),
    "rsqrt(abs({}) + 0.1)": ((Number,), Number, lambda x: ops.rsqrt(abs(x) + 0.1)),
    "power(abs({}) + 0.1, clip({}, -2, 2))": (
        (Number, Number), Number, lambda x, y: ops.power(abs(x) + 0.1, ops.clip(y, -2, 2)),
    ),
    "exp(clip({}, -9, 4))": ((Number,), Number, lambda x: ops.exp(ops.clip(x, -9, 4))),
    "log(abs({}) + 0.01)": ((Number,), Number, lambda x: ops.log(abs(x) + 0.01)),
    "sign({})": ((Number,), Number, ops.sign),
    "minimum({}, {})": ((Number, Number), Number, ops.minimum),
    "maximum({}, {})": ((Number, Number), Number, ops.maximum),
    "clip({}, -1, {})": ((Number, Number), Number, lambda x, y: ops.clip(x, -1.0, y)),
    "lerp({}, {}, 0.25)": ((Number, Number), Number, lambda x, y: ops.lerp(x, y, 0.25)),
    "lerp({}, {}, rate)": ((Number, Number, "rate"), Number, ops.lerp),
    "where({}, {}, {})": ((Condition, Number, Number), Number, ops.where),
    "{} < {}": ((Number, Number), Condition, lambda x, y: x < y),
    "{} >= {}": ((Number, Number), Condition, lambda x, y: x >= y),
    "{} != 1": ((Number,), Condition, lambda x: x != 1),
    "isfinite({})": ((Number,), Condition, ops.isfinite),
    "{} & {}": ((Condition, Condition), Condition, lambda x, y: x & y),
    "{} | {}": ((Condition, Condition), Condition, lambda x, y: x | y),
    "~{}": ((Condition,), Condition, lambda x: ~x),
    "uniform": ((), "random", ops.uniform),
    "normal": ((), "random", ops.normal),
}  # fmt: skip
REDUCTIONS: dict[str, Callable[..., Any]] = {
    "sum": ops.sum, "mean": ops.mean, "norm": ops.norm, "max_abs": ops.max_abs,
}  # fmt: skip
LEAVES: dict[str, Rank] = {
    "param": Rank.ELEMENT, "grad": Rank.ELEMENT, "kept": Rank.ELEMENT, "rows": Rank.ROW,
    "columns": Rank.COLUMN, "single": Rank.TENSOR, "shared": Rank.SCALAR, "rate": Rank.SCALAR,
    "step": Rank.SCALAR,
}  # fmt: skip
OUTPUTS = 6


@dataclass(frozen=True)
class Line:
    """One line of a program: what to compute of which earlier values."""

    form: str
    args: tuple[int, ...]
    over: str | None = None

    def __str__(self) -> str:
        names = [f"v{arg}" for arg in self.args]
        if self.over:
            return f"{self.form}({names[0]}, over={self.over!r})"
        return self.form.format(*names)


@dataclass(frozen=True, repr=False)
class Drawn:
    """A program, and the ranks of its values: leaves first, then one for each line."""

    lines: tuple[Line, ...]
    ranks: tuple[Rank, ...]
    numbers: tuple[int, ...]  # which values are numbers, not conditions

    def __str__(self) -> str:
        leaves = [f"v{i} = {name}" for i, name in enumerate(LEAVES)]
        rest = [f"v{i} = {line}" for i, line in enumerate(self.lines, len(LEAVES))]
        return "\n".join([*leaves, *rest])

    __repr__ = __str__

    def latest(self, most: Rank, *others: Rank) -> int:
        """The last number that fits a slot."""
        return max(i for i in self.numbers if self.ranks[i] in (Rank.SCALAR, Rank.TENSOR, most)
                   and self.ranks[i] not in others)  # fmt: skip

    def rule(self) -> Rule:
        def update(rule: Any, param: Any, grad: Any) -> Any:
            named = {"param": param, "grad": grad}
            held = [named[n] if n in named else getattr(rule, n) for n in LEAVES]
            for line in self.lines:
                args = [held[arg] for arg in line.args]
                if line.over:
                    held.append(REDUCTIONS[line.form](args[0], line.over))
                    continue
                wants, gives, function = FORMS[line.form]
                more = [rule.rate] if "rate" in wants else [param] if gives == "random" else []
                held.append(function(*args, *more))
            for number, index in enumerate(self.numbers[-OUTPUTS:]):
                setattr(rule, f"out{number}", held[index])
            rule.kept = held[self.numbers[-1]] * 0.5 + grad
            rule.rows = held[self.latest(Rank.ROW)]
            rule.columns = held[self.latest(Rank.COLUMN)]
            rule.single = held[self.latest(Rank.TENSOR)]
            rule.shared = rule.shared * 0.5 + ops.mean(grad, over="all") + rule.step
            return param - rule.rate * held[self.numbers[-2]]

        declared = {
            "rate": hyper(0.5), "kept": slot("grad"), "rows": slot(0.5, shape="row"),
            "columns": slot(-2.0, shape="column"), "single": slot(1.5, shape="scalar"),
            "shared": slot(0.25, scope="optimizer"), **{f"out{n}": slot() for n in range(OUTPUTS)},
        }  # fmt: skip
        return type("Program", (Rule,), {**declared, "update": update})()


@st.composite
def programs(draw: st.DrawFn, reductions: bool, length: int) -> Drawn:
    ranks = list(LEAVES.values())
    numbers, conditions = list(range(len(LEAVES))), []
    lines: list[Line] = []
    left = 3 if reductions else 0

    def pick(pool: list[int]) -> int:
        recent = draw(st.booleans())
        return draw(st.sampled_from(pool[-4:] if recent else pool))

    while len(lines) < length:
        if left and draw(st.integers(0, 5)) == 0:
            form, over = draw(st.sampled_from(list(REDUCTIONS))), draw(st.sampled_from(ops.OVER))
            index = pick(numbers)
            lines.append(Line(form, (index,), over))
            ranks.append(reduced(over, ranks[index]))
            numbers.append(len(ranks) - 1)
            left -= 1
            continue
        form = draw(st.sampled_from(list(FORMS)))
        wants, gives, _ = FORMS[form]
        if Condition in wants and not conditions:
            continue
        pools = {Number: numbers, Condition: conditions}
        args = tuple(pick(pools[want]) for want in wants if want in pools)
        lines.append(Line(form, args))
        ranks.append(Rank.ELEMENT if gives == "random" else join(ranks[arg] for arg in args))
        (conditions if gives == Condition else numbers).append(len(ranks) - 1)
    return Drawn(tuple(lines), tuple(ranks), tuple(numbers))


def on_programs(examples: int, reductions: bool, length: int, dtype: str, params: Any) -> Checked:
    """Check so many programs; each costs a compilation, so a failing one is not shrunk."""
    checked = Checked()

    @settings(
        max_examples=examples,
        derandomize=True,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(programs(reductions, length))
    def check(program: Drawn) -> None:
        assert_bounded(program.rule(), params, checked)

    check()
    return checked


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_elementwise_programs(dtype: str) -> None:
    checked = on_programs(10, False, 30, dtype, parameters(dtype))
    assert checked.bounded > 0.8 * checked.all
    assert checked.sharp > 0.7 * checked.all


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_programs_with_reductions(dtype: str) -> None:
    checked = on_programs(8, True, 24, dtype, parameters(dtype))
    assert checked.bounded > 0.8 * checked.all
    assert checked.sharp > 0.7 * checked.all
