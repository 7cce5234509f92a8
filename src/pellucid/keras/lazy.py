"""Which updates can leave out the rows of a parameter that have no gradient.

An update of some rows equals the update of these rows within the whole if it moves each row by
that row's own values alone. What it reduces over more than a row must then get nothing from rows
whose gradient is zero: a gradient's norm does not, a parameter's would.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from pellucid.fuse.graph import Node, Rank, walk
from pellucid.fuse.program import Program
from pellucid.fuse.segment import REDUCTIONS
from pellucid.ops import TABLE, RuleError

__all__ = ["check_program", "obstacle"]

Bounds = tuple[float, float]
ANY: Bounds = (-math.inf, math.inf)
ZERO: Bounds = (0.0, 0.0)


def check_program(program: Program, name: str) -> None:
    """See that a program can update some rows of the parameter of this name.

    Raises:
        RuleError: it needs the others, too.
    """
    found = obstacle(program)
    if found:
        raise RuleError(
            f"sparse='lazy' reads and moves only the rows of {name!r} that have a gradient, and "
            f"the update {found}: use sparse='dense', or route {name!r} to a rule without that"
        )


@lru_cache(512)
def obstacle(program: Program) -> str:
    """What an update of some rows cannot do, in words; "" where there is nothing."""
    for full, kind in program.variant.slots:
        if kind == "column":
            return f"has {full!r}, a slot of one number for each column, made from all rows"
        if kind in ("param", "row") and program.asks_new(full):
            return f"forms the first value of {full!r} from a row's first gradient or value"
    bounds = _bounds(program)
    for node in program.segmented.nodes:
        row = TABLE.get(node.op)
        if row is not None and row.kind == "random":
            return "draws random numbers, whose place in the tensor counts"
        if node.op == "size" and node.data not in ("columns", "tensors"):
            return f"asks how many {node.data} there are"
        if node.op in REDUCTIONS and node.data[0] != "row":
            (argument,) = node.args
            if argument.rank in (Rank.ROW, Rank.ELEMENT) and bounds[argument.index] != ZERO:
                return (
                    f"reduces over {_PLACES[node.data[0]]} what rows without a gradient take "
                    "part in"
                )
    return ""


_PLACES = {"tensor": "the tensor", "column": "columns", "all": "all tensors"}


def _bounds(program: Program) -> dict[int, Any]:
    """Between which numbers each node lies in a row whose gradient is zero; of conditions, whether
    they hold, or None."""
    hypers = {
        full: _declared(declared) for full, (_, declared) in program.pipeline.hypers.items()
    }
    known: dict[int, Any] = {}
    for node in walk(program.segmented.nodes):
        known[node.index] = _bound(node, known, hypers)
    return known


def _declared(declared: Any) -> Bounds:
    lower = [b for b in (declared.minimum, declared.above) if b is not None]
    upper = [b for b in (declared.maximum, declared.below) if b is not None]
    return (max(lower, default=-math.inf), min(upper, default=math.inf))


def _bound(node: Node, known: Mapping[int, Any], hypers: Mapping[str, Bounds]) -> Any:
    if node.op == "const":
        return node.data if node.boolean else (node.data, node.data)
    if node.op == "grad":
        return ZERO
    if node.op == "hyper":
        return hypers[node.data]
    args = [known[arg.index] for arg in node.args]
    if node.op in REDUCTIONS:
        if node.args[0].rank in (Rank.ROW, Rank.ELEMENT) and node.data[0] != "row":
            return ANY if node.op == "sum" else (0.0, math.inf)  # other rows have gradients
        return ZERO if args[0] == ZERO else ANY
    if node.op == "div" and node.args[1].rank > Rank.TENSOR and _holds_zero(args[1]):
        return ANY
    define = _TABLE.get(node.op)
    if define is None:
        return None if node.boolean else ANY
    found = define(*args)
    if isinstance(found, tuple) and any(math.isnan(one) for one in found):
        return ANY
    return found


def _holds_zero(x: Bounds) -> bool:
    return x[0] <= 0.0 <= x[1]


def _product(x: Bounds, y: Bounds) -> Bounds:
    if ZERO in (x, y):
        return ZERO
    ends = [0.0 if 0.0 in (a, b) else a * b for a in x for b in y]
    return min(ends), max(ends)


def _quotient(x: Bounds, y: Bounds) -> Bounds:
    if x == ZERO:
        return ZERO
    return ANY if _holds_zero(y) else _product(x, (1.0 / y[1], 1.0 / y[0]))


def _root(x: Bounds) -> Bounds:
    return (math.sqrt(x[0]), math.sqrt(x[1])) if x[0] >= 0.0 else ANY


def _size(x: Bounds) -> Bounds:
    low = 0.0 if _holds_zero(x) else min(abs(x[0]), abs(x[1]))
    return low, max(abs(x[0]), abs(x[1]))


def _less(x: Bounds, y: Bounds) -> bool | None:
    if x[1] < y[0]:
        return True
    return False if x[0] >= y[1] else None


def _not(x: bool | None) -> bool | None:
    return None if x is None else not x


def _and(x: bool | None, y: bool | None) -> bool | None:
    if x is False or y is False:
        return False
    return True if x and y else None


def _chosen(condition: bool | None, x: Any, y: Any) -> Any:
    if condition is not None:
        return x if condition else y
    if x == y:
        return x
    if not isinstance(x, tuple) or not isinstance(y, tuple):
        return None
    return min(x[0], y[0]), max(x[1], y[1])


_TABLE: dict[str, Any] = {
    "add": lambda x, y: (x[0] + y[0], x[1] + y[1]),
    "sub": lambda x, y: (x[0] - y[1], x[1] - y[0]),
    "mul": _product,
    "div": _quotient,
    "neg": lambda x: (-x[1], -x[0]),
    "sqrt": _root,
    "abs": _size,
    "sign": lambda x: ZERO if x == ZERO else (-1.0, 1.0),
    "minimum": lambda x, y: (min(x[0], y[0]), min(x[1], y[1])),
    "maximum": lambda x, y: (max(x[0], y[0]), max(x[1], y[1])),
    "where": _chosen,
    "lt": _less,
    "gt": lambda x, y: _less(y, x),
    "ge": lambda x, y: _not(_less(x, y)),
    "le": lambda x, y: _not(_less(y, x)),
    "isfinite": lambda x: True if x[0] == x[1] and math.isfinite(x[0]) else None,
    "not": _not,
    "and": _and,
    "or": lambda x, y: _not(_and(_not(x), _not(y))),
}
"""Operations on bounds; whatever is missing here may give anything."""
