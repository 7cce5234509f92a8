"""Between which numbers the values of an update lie in a row whose gradient is zero."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from pellucid.compose import Pipeline
from pellucid.fuse.graph import Node, Rank, walk
from pellucid.fuse.segment import REDUCTIONS

__all__ = ["ZERO", "bounds_of"]

Bounds = tuple[float, float]
ANY: Bounds = (-math.inf, math.inf)
ZERO: Bounds = (0.0, 0.0)


def bounds_of(
    pipeline: Pipeline, nodes: Iterable[Node], zeros: frozenset[str] = frozenset()
) -> dict[int, Any]:
    """Of each node, by index: its bounds; of conditions, whether they hold, or None.

    Args:
        pipeline: whose hyperparameters have bounds.
        nodes: and all that they are computed from.
        zeros: hyperparameters that are zero.
    """
    hypers = {
        full: ZERO if full in zeros else _declared(declared)
        for full, (_, declared) in pipeline.hypers.items()
    }
    known: dict[int, Any] = {}
    for node in walk(nodes):
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
