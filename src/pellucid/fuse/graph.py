"""The graph of an update: immutable nodes, equal ones shared, each with a rank."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from pellucid.ops import TABLE, Over

__all__ = ["Graph", "Node", "Rank", "join", "walk"]


class Rank(IntEnum):
    """Over what a value varies."""

    SCALAR = 0  # one for each (group, step): hyperparameters, the step
    TENSOR = 1  # one for each tensor
    ROW = 2  # one for each x[i]
    COLUMN = 3  # one for each x[:, j, ...]
    ELEMENT = 4


def join(ranks: Iterable[Rank]) -> Rank:
    """The rank of a value computed from values of these ranks."""
    seen = set(ranks)
    if {Rank.ROW, Rank.COLUMN} <= seen:
        return Rank.ELEMENT
    return max(seen, default=Rank.SCALAR)


_REDUCED: dict[tuple[Over, Rank], Rank] = {
    ("tensor", Rank.TENSOR): Rank.TENSOR,
    ("tensor", Rank.ROW): Rank.TENSOR,
    ("tensor", Rank.COLUMN): Rank.TENSOR,
    ("tensor", Rank.ELEMENT): Rank.TENSOR,
    ("row", Rank.TENSOR): Rank.TENSOR,
    ("row", Rank.ROW): Rank.ROW,
    ("row", Rank.COLUMN): Rank.TENSOR,
    ("row", Rank.ELEMENT): Rank.ROW,
    ("column", Rank.TENSOR): Rank.TENSOR,
    ("column", Rank.ROW): Rank.TENSOR,
    ("column", Rank.COLUMN): Rank.COLUMN,
    ("column", Rank.ELEMENT): Rank.COLUMN,
}


def reduced(over: Over, rank: Rank) -> Rank:
    """The rank of a value of ``rank``, reduced over its own elements along ``over``."""
    if over == "all" or rank == Rank.SCALAR:
        return Rank.SCALAR
    return _REDUCED[over, rank]


@dataclass(frozen=True, eq=False, slots=True)
class Node:
    """A value: an operation on other values, or a leaf.

    Leaves are ``const`` (data: the number), ``hyper``, ``step``, ``param``, ``grad``, ``slot``,
    ``shared`` (an optimizer-wide slot), ``extra``, ``is_new`` (data: full names) and ``size``
    (data: what is counted). A reduction's data is (over, key): equal keys are one reduction over
    all tensors, in whatever program they stand. A random number's data is its stream.
    """

    index: int
    op: str
    args: tuple[Node, ...]
    data: Any
    rank: Rank
    boolean: bool

    def __repr__(self) -> str:
        inside = [f"%{arg.index}" for arg in self.args]
        if self.data is not None:
            inside.append(repr(self.data))
        return f"%{self.index} = {self.op}({', '.join(inside)}) : {self.rank.name.lower()}"


class Graph:
    """Makes nodes, each once."""

    def __init__(self) -> None:
        self._nodes: dict[tuple[Any, ...], Node] = {}

    def leaf(self, op: str, data: Any, rank: Rank, boolean: bool = False) -> Node:
        return self._made(op, (), data, rank, boolean)

    def const(self, value: float) -> Node:
        value = float(value)
        return self._made("const", (), value, Rank.SCALAR, False)

    def make(self, op: str, args: tuple[Node, ...], data: Any = None) -> Node:
        """The node of an operation, simplified."""
        from pellucid.fuse.simplify import simplified

        simple = simplified(self, op, args, data)
        if simple is not None:
            return simple
        kind = TABLE[op].kind
        rank = join(arg.rank for arg in args)
        if kind == "reduction":
            rank = reduced(data[0], rank)
        elif kind == "random":
            rank = Rank.ELEMENT
        boolean = kind in ("comparison", "logic") or (op == "where" and args[1].boolean)
        return self._made(op, args, data, rank, boolean)

    def _made(
        self, op: str, args: tuple[Node, ...], data: Any, rank: Rank, boolean: bool
    ) -> Node:
        key = (op, *map(id, args), repr(data))
        node = self._nodes.get(key)
        if node is None:
            node = Node(len(self._nodes), op, args, data, rank, boolean)
            self._nodes[key] = node
        return node

    def __iter__(self) -> Iterator[Node]:
        return iter(self._nodes.values())


def walk(roots: Iterable[Node]) -> list[Node]:
    """All nodes that the roots need, each after its arguments, in a fixed order."""
    seen: dict[int, Node] = {}
    stack = list(roots)
    while stack:
        node = stack.pop()
        if node.index not in seen:
            seen[node.index] = node
            stack.extend(node.args)
    return [seen[index] for index in sorted(seen)]
