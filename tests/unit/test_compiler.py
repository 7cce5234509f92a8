"""Kernel = graph interpreter = line by line, each within the bounds that rounding allows.

What an interval cannot bound, such as a quotient by what may be zero, is left unchecked; each test
of random programs asserts that this is little.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from intervals import OPERATIONS, SMALLEST, UNITS, Array, Bounds, Interval, interval, stored

import pellucid.numpy
from pellucid import Rule, extra, hyper, ops, slot
from pellucid.fuse.graph import Rank, join, reduced

MODES = ("kernel", "graph", "lines")

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
                    if bounds.low.size == 1:  # a reduction that kept its axes
                        bounds = interval(bounds.low.item(), bounds.high.item())
                    inside(got, bounds, where)
                    checked.add(bounds)


def inside(got: Any, bounds: Interval, where: str) -> None:
    assert np.broadcast_shapes(np.shape(got), bounds.low.shape) == np.shape(got), where
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
            "row": lambda: (ops.max_abs(grad, "row") + 0.5, ops.mean(param, "row")),
            "column": lambda: (ops.max_abs(grad, "column") + 0.5, ops.mean(param, "column")),
            "tensor": lambda: (ops.max_abs(grad) + 0.5, ops.mean(param)),
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
    of_storage = {"rounded", "rounded_randomly"}  # which no update calls: see test_narrow.py
    assert set(ONE_OF_EACH) == set(ops.TABLE) - of_storage
    assert set(OPERATIONS) == {n for n, one in ops.TABLE.items() if one.define is not None}


@pytest.mark.parametrize(
    ("rank", "dtype"),
    [
        *[(rank, "float32") for rank in ("element", "row", "column", "tensor", "all", "number")],
        *[("mixed", "float32"), ("element", "float64"), ("mixed", "float64")],
    ],
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
    "(-1.5) ** (2 * sign({}))": ((Number,), Number, lambda x: (-1.5) ** (2 * ops.sign(x))),
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
NUMBERS, CONDITIONS = 8, 2  # of a program's values that are stored as they are


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


@dataclass(frozen=True)
class Drawn:
    """A program, and the ranks of its values: leaves first, then one for each line."""

    lines: tuple[Line, ...]
    ranks: tuple[Rank, ...]
    numbers: tuple[int, ...]  # which values are numbers, not conditions
    conditions: tuple[int, ...]

    def __str__(self) -> str:
        leaves = [f"v{i} = {name}" for i, name in enumerate(LEAVES)]
        rest = [f"v{i} = {line}" for i, line in enumerate(self.lines, len(LEAVES))]
        return "\n".join([*leaves, *rest])

    def _repr_pretty_(self, printer: Any, _: bool) -> None:
        printer.text(f"\n{self}\n")

    def unread(self, pool: tuple[int, ...], most: int) -> list[int]:
        """Values that no line reads, so that none goes unchecked; others if they are too few."""
        read = {arg for line in self.lines for arg in line.args}
        return sorted(pool, key=lambda index: (index not in read, index))[-most:]

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
            for number, index in enumerate(self.unread(self.numbers, NUMBERS)):
                setattr(rule, f"out{number}", held[index])
            for number, index in enumerate(self.unread(self.conditions, CONDITIONS), NUMBERS):
                setattr(rule, f"out{number}", ops.where(held[index], grad, param))
            rule.kept = held[self.numbers[-1]] * 0.5 + grad
            rule.rows = held[self.latest(Rank.ROW)]
            rule.columns = held[self.latest(Rank.COLUMN)]
            rule.single = held[self.latest(Rank.TENSOR)]
            rule.shared = rule.shared * 0.5 + ops.mean(grad, over="all") + rule.step
            return param - rule.rate * held[self.numbers[-2]]

        declared = {
            "rate": hyper(0.5), "kept": slot("grad"), "rows": slot(0.5, shape="row"),
            "columns": slot(-2.0, shape="column"), "single": slot(1.5, shape="scalar"),
            "shared": slot(0.25, scope="optimizer"),
            **{f"out{n}": slot() for n in range(NUMBERS + CONDITIONS)},
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
        if left and draw(st.integers(0, 3)) == 0:
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
    return Drawn(tuple(lines), tuple(ranks), tuple(numbers), tuple(conditions))


def on_programs(examples: int, reductions: bool, length: int, dtype: str) -> Checked:
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
        assert_bounded(program.rule(), parameters(dtype), checked)

    check()
    return checked


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_elementwise_programs(dtype: str) -> None:
    checked = on_programs(5, False, 20, dtype)
    assert checked.bounded > 0.8 * checked.all
    assert checked.sharp > 0.7 * checked.all


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_programs_with_reductions(dtype: str) -> None:
    checked = on_programs(5, True, 20, dtype)
    assert checked.bounded > 0.8 * checked.all
    assert checked.sharp > 0.7 * checked.all


# -- tensors of many chunks --------------------------------------------------------------------


class Everything(Rule):
    """Every kind of reduction, slots of every shape, random numbers."""

    rate = hyper(0.125, minimum=0)
    limit = hyper(2.0, above=0)
    rows = slot(shape="row")
    columns = slot(shape="column")
    single = slot(1.0, shape="scalar")
    kept = slot("param")

    def update(self, param: Any, grad: Any) -> Any:
        grad = grad * ops.minimum(1.0, self.limit / ops.norm(grad, over="all"))
        self.rows = ops.lerp(ops.mean(ops.square(grad), over="row"), self.rows, 0.5)
        self.columns = ops.lerp(ops.mean(ops.square(grad), over="column"), self.columns, 0.5)
        self.single = self.single * 0.5 + ops.max_abs(grad) + ops.mean(self.rows)
        self.kept = ops.lerp(param, self.kept, 0.75)
        scale = ops.rsqrt(self.rows * self.columns / ops.mean(self.columns) + 1e-3)
        noise = ops.where(ops.uniform(param) < 0.5, ops.normal(grad), self.kept)
        return param - self.rate * (grad * scale / self.single + 0.01 * noise)


def test_many_chunks() -> None:
    rng = np.random.default_rng(2)
    shapes = {"large": (600, 700), "turned": (200, 400), "flat": (70_000,), "small": (5, 3)}
    params = {n: values(rng, shape).astype("float32") for n, shape in shapes.items()}
    params["turned"] = np.asfortranarray(params["turned"])
    checked = Checked()
    assert_bounded(Everything(), params, checked, steps=1)
    assert checked.sharp > 0.99 * checked.all > 1e6


# -- infinities, NaN, zeros with a sign, denormal numbers --------------------------------------

SPECIAL = [
    math.nan, math.inf, -math.inf, 0.0, -0.0, 1e-45, -1e-40, 1e-38, 1.0, -1.0, 2.5, -0.5, 1e38,
    -3e38,
]  # fmt: skip
DIRECT: dict[str, Callable[[Any, Any], Any]] = {
    **{name: ONE_OF_EACH[name] for name in ("add", "sub", "mul", "div", "neg", "abs", "sign")},
    **{name: ONE_OF_EACH[name] for name in ("exp", "minimum", "maximum", "where", "lt", "le")},
    **{name: ONE_OF_EACH[name] for name in ("gt", "ge", "eq", "ne", "and", "or", "not")},
    "power": lambda x, y: ops.power(x, y),
    "square": lambda x, y: ops.power(x, 2),
    "sqrt": lambda x, y: ops.sqrt(x),
    "rsqrt": lambda x, y: ops.rsqrt(x),
    "log": lambda x, y: ops.log(x),
    "isfinite": lambda x, y: ops.where(ops.isfinite(x), x, 7.0),
    "infinite": lambda x, y: ops.where(~ops.isfinite(x) & (y == y), x, 7.0),
    "nan": lambda x, y: ops.where(x != x, 1.0, 2.0),
    "clip": lambda x, y: ops.clip(x, -1.0, math.inf),
    "choice": lambda x, y: ops.where((x > -math.inf) & (x < math.inf), math.nan, y),
}


def special_rule(rank: str) -> Rule:
    def update(self: Any, param: Any, grad: Any) -> Any:
        x, y = param, grad
        if rank in ("row", "column", "tensor"):
            x, y = ops.sum(param, rank), ops.sum(grad, rank)
        elif rank == "number":
            x, y = self.x, self.y
        for name, function in DIRECT.items():
            setattr(self, f"slot_{name}", function(x, y))
        return param + 0.0 * grad

    declared: dict[str, Any] = {f"slot_{name}": slot() for name in DIRECT}
    if rank == "number":
        declared |= {"x": extra("scalar"), "y": extra("scalar")}
    return type("Special", (Rule,), {**declared, "update": update})()


def expected_special(name: str, x: Array, y: Array, dtype: str, rank: str) -> Array:
    """NumPy's answer, in the type in which a value of this rank lives."""
    lives = "float64" if rank in ("tensor", "number") else dtype
    with np.errstate(all="ignore"):
        return np.asarray(DIRECT[name](x.astype(lives), y.astype(lives))).astype(dtype)


def same_special(got: Array, wanted: Array, where: str) -> None:
    """Infinities and NaN in the same places, numbers equal but for rounding."""
    dtype = str(wanted.dtype)
    rtol, atol = 32 * UNITS[dtype], 4 * SMALLEST[dtype]
    np.testing.assert_allclose(got, wanted, rtol=rtol, atol=atol, equal_nan=True, err_msg=where)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("rank", ["element", "row", "column", "tensor", "number"])
def test_special_values(rank: str, dtype: str) -> None:
    x, y = (a.astype(dtype).ravel() for a in np.meshgrid(SPECIAL, SPECIAL))
    if rank in ("row", "column", "tensor"):
        x, y = x + 0.0, y + 0.0  # a sum of -0.0 is 0.0
    shape = {"element": (14, 14), "row": (-1, 1), "column": (1, -1)}.get(rank, (-1,))
    for mode in MODES:
        if rank == "tensor":  # a tensor for each pair
            params, grads = ({f"p{i}": np.array(v) for i, v in enumerate(a)} for a in (x, y))
        elif rank == "number":  # a step for each pair
            params, grads = ({"p": np.zeros((), dtype)} for _ in range(2))
        else:
            params, grads = ({"p": a.reshape(shape)} for a in (x, y))
        one = made(special_rule(rank), params, mode)
        found: dict[str, list[Array]] = {name: [] for name in DIRECT}
        inputs = zip(x.tolist(), y.tolist(), strict=True) if rank == "number" else [()]
        for pair in inputs:
            assert one.step(grads, **dict(zip("xy", pair, strict=False)))
            for name in DIRECT:
                found[name] += [one.state[p][f"slot_{name}"].flatten() for p in one.params]
        for name, parts in found.items():
            wanted = expected_special(name, x, y, dtype, rank)
            same_special(np.concatenate(parts), wanted, f"{mode}: {name}")


ROWS = [
    [1.0, math.inf, 2.0], [1.0, -math.inf, math.inf], [math.nan, 1.0, 2.0], [-5.0, 2.0, math.nan],
    [1.0, -math.inf, math.nan], [0.0, -0.0, -0.0], [1e18, 1e18, -1.5e18], [1e-18, -1e-17, 0.0],
]  # fmt: skip
REDUCED: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "sum": (ops.sum, np.sum),
    "mean": (ops.mean, np.mean),
    "norm": (ops.norm, lambda x, axis: np.sqrt(np.sum(x * x, axis=axis))),
    "max_abs": (ops.max_abs, lambda x, axis: np.max(np.abs(x), axis=axis)),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_special_values_in_reductions(dtype: str) -> None:
    def update(self: Any, param: Any, grad: Any) -> Any:
        for name, (function, _) in REDUCED.items():
            setattr(self, f"{name}_row", function(param, "row"))
            setattr(self, f"{name}_column", function(grad, "column"))
            setattr(self, f"{name}_tensor", function(ops.max_abs(param, "row"), "tensor"))
        return param

    kinds = {"row": "row", "column": "column", "tensor": "scalar"}
    declared = {f"{n}_{k}": slot(shape=s) for n in REDUCED for k, s in kinds.items()}
    rule = type("Reduced", (Rule,), {**declared, "update": update})()
    x = np.array(ROWS, dtype).repeat(5, axis=1)  # 15: vector lanes and a rest
    params = {"all": x, **{f"row{i}": row[None] for i, row in enumerate(x)}}
    params |= {f"turned{i}": row[None].T for i, row in enumerate(x)}
    for mode in MODES:
        one = made(rule, params, mode)
        assert one.step(params)
        for name, (_, reference) in REDUCED.items():
            for key, param in params.items():
                state, wide = one.state[key], param.astype("float64")
                peaks = np.max(np.abs(wide), axis=1)
                with np.errstate(all="ignore"):
                    wanted = {
                        "row": reference(wide, axis=1).astype(dtype).reshape(-1, 1),
                        "column": reference(wide, axis=0).astype(dtype).reshape(1, -1),
                        "tensor": reference(peaks, axis=0).astype(dtype),
                    }
                for kind, value in wanted.items():
                    same_special(state[f"{name}_{kind}"], value, f"{mode}: {name}_{kind}, {key}")


def test_sums_are_accumulated_in_float64() -> None:
    """Float32 accumulation would lose the small terms beside the large ones."""

    class Sums(Rule):
        total = slot(shape="scalar", dtype="float64")
        rows = slot(shape="row", dtype="float64")
        columns = slot(shape="column", dtype="float64")
        squares = slot(shape="scalar", dtype="float64")

        def update(self, param: Any, grad: Any) -> Any:
            self.total, self.squares = ops.sum(grad), ops.sum(grad * grad)
            self.rows, self.columns = ops.sum(grad, "row"), ops.sum(grad, "column")
            return param

    rng = np.random.default_rng(0)
    grad = (rng.standard_normal((301, 257)) * 10 ** rng.uniform(-3, 5, (301, 257))).astype("f4")
    wide = grad.astype("f8")
    wanted = {
        "total": (wide.sum(), np.abs(wide).sum()),
        "squares": ((wide**2).sum(), (wide**2).sum()),
        "columns": (wide.sum(0, keepdims=True), np.abs(wide).sum(0)),
        "rows": (wide.sum(1, keepdims=True), np.abs(wide).sum(1, keepdims=True)),
    }
    for mode in MODES:
        one = made(Sums(), {"p": np.zeros_like(grad)}, mode)
        assert one.step({"p": grad})
        for name, (value, size) in wanted.items():
            exact = name == "total" or (name == "squares" and mode != "lines")
            once = 0.0 if exact else UNITS["float32"]  # the array was rounded once
            error = np.abs(one.state["p"][name] - value)
            assert np.all(error <= 1e-13 * size + once * np.abs(value)), f"{mode}: {name}"


def test_compensation_is_kept() -> None:
    """Kahan's sum: what a step rounds away is carried into the next; fastmath deletes it."""

    class Kahan(Rule):
        learning_rate = hyper(1e-9)
        compensation = slot()

        def update(self, param: Any, grad: Any) -> Any:
            change = -self.learning_rate * grad - self.compensation
            total = param + change
            self.compensation = (total - param) - change
            return total

    for mode in MODES:
        one = made(Kahan(), {"p": np.ones(1000, np.float32)}, mode)
        for _ in range(1000):
            assert one.step({"p": np.full(1000, -1.0, np.float32)})
        moved = (one.params["p"] - np.float32(1)) - one.state["p"]["compensation"]
        np.testing.assert_allclose(moved, 1e-6, rtol=1e-3, err_msg=mode)
        assert np.all(one.params["p"] > 1)


@pytest.mark.parametrize("length", [1, 1000])
def test_checks_for_nan_are_kept(length: int) -> None:
    """`isfinite`, ``x != x`` and a veto see what fastmath would assume away."""

    class Guarded(Rule):
        def update(self, param: Any, grad: Any) -> Any:
            grad = ops.where(ops.isfinite(grad * 0.5), grad, 1.0)
            return param - ops.where(param != param, param * 0.0, grad)

    class Vetoing(Rule):
        def update(self, param: Any, grad: Any) -> Any:
            self.veto(~ops.isfinite(grad))
            return param - grad

    for mode in MODES:
        grad = np.full(length, 2.0, np.float32)
        grad[-1] = math.nan
        one = made(Guarded(), {"p": np.zeros(length, np.float32)}, mode)
        assert one.step({"p": grad})
        assert np.array_equal(one.params["p"], np.where(np.isnan(grad), -1.0, -2.0)), mode
        two = made(Vetoing(), {"p": np.zeros(length, np.float32)}, mode)
        for bad in (math.nan, math.inf, -math.inf):
            grad[-1] = bad
            assert not two.step({"p": grad}), mode
        assert not two.params["p"].any()
        grad[-1] = 3e38
        assert two.step({"p": grad}), mode


# -- what a rule may be written like -----------------------------------------------------------


def everywhere(rule: Rule, wanted: Any) -> None:
    """A rule gives this from a parameter 0..5 and a gradient of ones, in all ways."""
    for mode in MODES:
        one = made(rule, {"p": np.arange(6, dtype=np.float32).reshape(2, 3)}, mode)
        assert one.step({"p": np.ones((2, 3), np.float32)}), mode
        np.testing.assert_allclose(
            one.params["p"], np.broadcast_to(wanted, (2, 3)), rtol=1e-6, err_msg=mode
        )


def test_names_that_generated_code_uses() -> None:
    """A hyperparameter may be called like a variable of the kernel."""
    names = ["at_0", "load_1", "number_1", "total_1", "rows_1", "T", "step_t", "row", "lambda_"]
    names += ["min", "range", "prefetch_lines", "key0", "words_at", "word_1"]

    def update(self: Any, param: Any, grad: Any) -> Any:
        found = 0.0 * param + 1.5 * ops.sum(grad, "row") + 0.25 * ops.size(grad, "row")
        for name in names:
            found = found + getattr(self, name) * ops.sum(grad * 0.5, "row")
        return found + 0.0 * self.step

    values = {name: hyper(2.0**number) for number, name in enumerate(names)}
    rule = type("Named", (Rule,), {**values, "update": update})()
    everywhere(rule, 4.5 + 0.75 + 1.5 * (2.0 ** len(names) - 1))


def test_constants_that_are_not_plain() -> None:
    class Constants(Rule):
        def update(self, param: Any, grad: Any) -> Any:
            low = ops.maximum(param, -math.inf) - ops.where(grad < 0, math.nan, 1.0)
            high = ops.minimum(ops.max_abs(param), math.inf)
            return low + (-2.0) ** (ops.max_abs(grad) * 2) - -1.0 * high

    everywhere(Constants(), np.arange(6).reshape(2, 3) - 1 + 4 + 5)


def test_parameter_is_kept_in_a_slot() -> None:
    class Keeps(Rule):
        before = slot()
        again = slot()
        swapped = slot(3.0)

        def update(self, param: Any, grad: Any) -> Any:
            self.before, self.again, self.swapped = param, self.swapped, self.again
            return param - grad

    for mode in MODES:
        one = made(Keeps(), {"p": np.full(3, 5.0)}, mode)
        for _ in range(2):
            assert one.step({"p": np.ones(3)})
        state = {name: float(array[0]) for name, array in one.state["p"].items()}
        assert state == {"before": 4.0, "again": 0.0, "swapped": 3.0}, mode


def test_conditions_of_plain_numbers() -> None:
    """What is one number when compiled is one line by line, and negates like a condition."""

    class Conditions(Rule):
        rate = hyper(1.0)
        single = slot(2.0, shape="scalar")
        shared = slot(2.0, scope="optimizer")

        def update(self, param: Any, grad: Any) -> Any:
            self.veto(~ops.isfinite(ops.norm(grad)))
            self.veto(~(self.single > 1) | ~(self.shared > 1) | ~self.is_new("single"))
            late = ops.where(~(self.step > 5) & (self.rate > 0), 1.0, 0.0)
            mixed = ops.where((self.step > 5) | (grad > 0), 1.0, 0.0)
            again = ops.where((param >= 0) & ~(self.rate == 0), 1.0, 0.0)
            return param * 0 + late + mixed + again

    everywhere(Conditions(), 3.0)


def test_division_of_plain_numbers() -> None:
    """By zero as IEEE says, not as Python does; overflow is infinite."""

    class Divides(Rule):
        rate = hyper(1.0)

        single = slot(shape="scalar")
        shared = slot(scope="optimizer")

        def update(self, param: Any, grad: Any) -> Any:
            self.veto((1 / self.single != math.inf) | (1 / self.shared != math.inf))
            zero = ops.norm(0.0 * grad, over="all")
            factor = ops.minimum(1.0, self.rate / zero)
            wrong = zero / zero
            large = (self.rate + 9) ** (400 * self.step)
            return grad * factor + ops.where(wrong != wrong, 1.0, 0.0) + ops.minimum(large, 2.0)

    everywhere(Divides(), 4.0)


def test_reductions_over_all_that_nothing_reads(capsys: pytest.CaptureFixture[str]) -> None:
    """Line by line, an update may print them."""

    class Prints(Rule):
        rate = hyper(0.5)

        def update(self, param: Any, grad: Any) -> Any:
            print("norm:", ops.norm(grad, over="all"), ops.mean(grad + 1, over="all"))
            return param - grad * ops.sum(self.rate, over="all")

    one = made(Prints(), {"p": np.zeros(4), "q": np.zeros(5)}, "lines")
    assert one.step({"p": np.ones(4), "q": np.ones(5)})
    assert capsys.readouterr().out.splitlines()[-1] == "norm: 3.0 2.0"
    everywhere(Prints(), np.arange(6).reshape(2, 3) - 0.5)


def test_random_numbers_after_a_veto() -> None:
    """A veto of one number a tensor takes part in numbering the random streams in all ways."""

    class Vetoes(Rule):
        def update(self, param: Any, grad: Any) -> Any:
            self.veto(ops.norm(grad) > 1e9)
            self.veto(self.step > 1e9)
            return ops.uniform(param)

    found = []
    for mode in MODES:
        one = made(Vetoes(), {"p": np.zeros(5)}, mode)
        assert one.step({"p": np.ones(5)})
        found.append(one.params["p"].tolist())
    assert found[0] == found[1] == found[2]
    assert len(set(found[0])) == 5
