"""Splits a graph into passes over memory: at reductions over a tensor, its columns and all tensors.

Passes before the last only read; the last recomputes what it needs, and writes. A reduction over a
row costs no pass: a row is reduced and used while it is in the cache.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from pellucid.fuse.graph import Node, Rank, walk
from pellucid.ops import TABLE

if TYPE_CHECKING:
    from pellucid.fuse.trace import Traced

__all__ = ["Pass", "Segmented", "segment"]

REDUCTIONS = frozenset(name for name, row in TABLE.items() if row.kind == "reduction")


def is_row_reduction(node: Node) -> bool:
    """Whether a node is a reduction over rows, computed inside whatever pass needs it."""
    return node.op in REDUCTIONS and node.rank == Rank.ROW


def splits(node: Node) -> bool:
    """Whether a node is a reduction that ends a pass."""
    return node.op in REDUCTIONS and node.rank != Rank.ROW


def root_of_total(node: Node) -> bool:
    """Whether a node is the root of a column's sum: formed in float64, as the sum is."""
    return node.op == "sqrt" and splits(node.args[0]) and node.args[0].rank == Rank.COLUMN


@dataclass(frozen=True)
class Pass:
    """One walk over the tensors' memory.

    ``kind``: ``reduce`` (partial sums of each chunk), ``columns`` (a sum for each column),
    ``final`` (writes parameter-shaped and row slots and the parameter) or ``commit`` (then writes
    the slots with one value a tensor or a column).
    """

    kind: str
    level: int
    reductions: tuple[Node, ...] = ()
    stores: tuple[tuple[str, Node], ...] = ()  # target (a slot's full name or "param"), value
    store_ranks: tuple[tuple[str, Rank], ...] = ()  # over what each stored slot varies

    @cached_property
    def nodes(self) -> list[Node]:
        """All nodes that this pass computes or reads; results of earlier passes are leaves."""
        roots = [*(r.args[0] for r in self.reductions), *(node for _, node in self.stores)]
        seen: dict[int, Node] = {}
        stack = list(roots)
        while stack:
            node = stack.pop()
            if node.index in seen:
                continue
            seen[node.index] = node
            if not splits(node) and node.rank != Rank.SCALAR:
                stack.extend(node.args)
        return [seen[index] for index in sorted(seen)]

    @cached_property
    def by_row(self) -> bool:
        """Whether the pass must know rows and columns."""
        return self.kind == "columns" or any(
            node.rank in (Rank.ROW, Rank.COLUMN) for node in self.nodes
        ) or any(rank in (Rank.ROW, Rank.COLUMN) for _, rank in self.store_ranks)

    @cached_property
    def scalars(self) -> list[Node]:
        """The numbers of each (group, step) that the pass reads, computed on the host."""
        return [node for node in self.nodes if node.rank == Rank.SCALAR and node.op != "const"]


@dataclass(frozen=True)
class Segmented:
    """All passes of a program, in order."""

    traced: Traced
    passes: tuple[Pass, ...]
    levels: dict[int, int] = field(default_factory=dict)

    @cached_property
    def roots(self) -> list[Node]:
        traced = self.traced
        return [traced.param, *traced.slots.values(), *traced.shared.values(), *traced.vetoes]

    @cached_property
    def nodes(self) -> list[Node]:
        return walk(self.roots)

    @cached_property
    def reads_step(self) -> bool:
        return any(node.op == "step" for node in self.nodes)

    @cached_property
    def random(self) -> bool:
        return any(TABLE[node.op].kind == "random" for node in self.nodes if node.op in TABLE)

    @cached_property
    def by_row(self) -> bool:
        return any(one.by_row for one in self.passes)

    @cached_property
    def global_reductions(self) -> list[Node]:
        """Reductions over all tensors, in order."""
        return [n for n in self.nodes if n.op in REDUCTIONS and n.data[0] == "all"]


def _levels(nodes: list[Node]) -> dict[int, int]:
    levels: dict[int, int] = {}
    for node in nodes:
        level = max((levels[arg.index] for arg in node.args), default=0)
        levels[node.index] = level + 1 if splits(node) else level
    return levels


def segment(traced: Traced) -> Segmented:
    """The passes that compute everything that a pipeline writes."""
    roots = [traced.param, *traced.slots.values(), *traced.shared.values(), *traced.vetoes]
    nodes = walk(roots)
    levels = _levels(nodes)
    passes: list[Pass] = []
    last = max((levels[node.index] for node in nodes), default=0)
    for level in range(1, last + 1):
        found = [node for node in nodes if splits(node) and levels[node.index] == level]
        columns = tuple(node for node in found if node.rank == Rank.COLUMN)
        others = tuple(node for node in found if node.rank != Rank.COLUMN)
        if others:
            passes.append(Pass("reduce", level - 1, others))
        if columns:
            passes.append(Pass("columns", level - 1, columns))
    changed = [
        (name, node)
        for name, node in [*traced.slots.items(), ("param", traced.param)]
        if (node.op, node.data) != (("param", None) if name == "param" else ("slot", name))
    ]
    wide = (Rank.ROW, Rank.ELEMENT)
    final = tuple(one for one in changed if slot_rank(traced, one[0]) in wide)
    commit = tuple(one for one in changed if slot_rank(traced, one[0]) not in wide)
    passes.append(_writing("final", last, final, traced))
    if commit:
        passes.append(_writing("commit", last, commit, traced))
    return Segmented(traced, tuple(passes), levels)


def _writing(
    kind: str, level: int, stores: tuple[tuple[str, Node], ...], traced: Traced
) -> Pass:
    ranks = tuple((name, slot_rank(traced, name)) for name, _ in stores)
    return Pass(kind, level, stores=stores, store_ranks=ranks)


def slot_rank(traced: Traced, name: str) -> Rank:
    """Over what a stored value varies: by the slot's shape, not by the value's rank."""
    return Rank.ELEMENT if name == "param" else traced.ranks[name]
