"""Rewrites of the graph: a table, none of which changes a float32 result beyond rounding."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy

from pellucid.fuse.graph import Rank
from pellucid.ops import TABLE

if TYPE_CHECKING:
    from pellucid.fuse.graph import Graph, Node

__all__ = ["simplified"]


def _is(node: Node, value: float) -> bool:
    return node.op == "const" and node.data == value


def _add(graph: Graph, a: Node, b: Node) -> Node | None:
    if _is(a, 0.0):
        return b
    if _is(b, 0.0):
        return a
    if b.op == "neg":
        return graph.make("sub", (a, b.args[0]))
    return None


def _sub(graph: Graph, a: Node, b: Node) -> Node | None:
    if _is(b, 0.0):
        return a
    if b.op == "neg":
        return graph.make("add", (a, b.args[0]))
    return None


def _mul(graph: Graph, a: Node, b: Node) -> Node | None:
    if _is(a, 1.0):
        return b
    if _is(b, 1.0):
        return a
    if _is(a, -1.0):
        return graph.make("neg", (b,))
    if _is(b, -1.0):
        return graph.make("neg", (a,))
    return None


def _div(graph: Graph, a: Node, b: Node) -> Node | None:
    if _is(b, 1.0):
        return a
    if b.rank == Rank.SCALAR and a.rank != Rank.SCALAR and b.op != "div":
        # the reciprocal is one float64 division a step instead of one for each element
        return graph.make("mul", (a, graph.make("div", (graph.const(1.0), b))))
    return None


def _neg(graph: Graph, a: Node) -> Node | None:
    return a.args[0] if a.op == "neg" else None


def _power(graph: Graph, a: Node, b: Node) -> Node | None:
    if _is(b, 1.0):
        return a
    return graph.make("mul", (a, a)) if _is(b, 2.0) else None


def _where(graph: Graph, condition: Node, a: Node, b: Node) -> Node | None:
    if a is b:
        return a
    if condition.op == "const":
        return a if condition.data else b
    return None


REWRITES: dict[str, Callable[..., Any]] = {
    "add": _add,
    "sub": _sub,
    "mul": _mul,
    "div": _div,
    "neg": _neg,
    "power": _power,
    "where": _where,
}


def _folded(graph: Graph, op: str, args: tuple[Node, ...]) -> Node | None:
    """A number, where all arguments are numbers: computed in float64."""
    row = TABLE[op]
    if row.kind != "arithmetic" or row.define is None or not args:
        return None
    if any(arg.op != "const" for arg in args):
        return None
    with numpy.errstate(all="ignore"):
        value = float(row.define(numpy, *(numpy.float64(arg.data) for arg in args)))
    return graph.const(value)


def _reduced(graph: Graph, op: str, args: tuple[Node, ...], data: Any) -> Node | None:
    """A sum of squares forms its squares in float64, where they cannot overflow."""
    (a,) = args
    over = {Rank.TENSOR: ("tensor", "row", "column"), Rank.ROW: ("row",), Rank.COLUMN: ("column",)}
    if a.rank == Rank.SCALAR or data[0] in over.get(a.rank, ()):
        if op == "sum":  # of one number
            return a
        return graph.make("abs", (a,)) if op == "max_abs" else graph.make("mul", (a, a))
    if op == "sum" and a.op == "mul" and a.args[0] is a.args[1]:
        return graph.make("sum_squares", (a.args[0],), data)
    return None


def simplified(graph: Graph, op: str, args: tuple[Node, ...], data: Any) -> Node | None:
    """A simpler node with the same value, or None."""
    if TABLE[op].kind == "reduction":
        return _reduced(graph, op, args, data)
    folded = _folded(graph, op, args)
    if folded is not None:
        return folded
    rewrite = REWRITES.get(op)
    return rewrite(graph, *args) if rewrite is not None else None
