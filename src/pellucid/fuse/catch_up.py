"""Slots of rows that had no gradient for a while: the decay that they missed, when next touched.

What a zero gradient does to such a slot must be a multiplication by one number, such as beta1. The
logarithms of these numbers are summed in a clock, one for each parameter and slot; each row notes
where the clock stood when it was last updated. The difference is what it missed, also of a
scheduled number.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pellucid.compose import Pipeline
from pellucid.fuse.bounds import ZERO, bounds_of
from pellucid.fuse.graph import Graph, Node, Rank
from pellucid.ops import RuleError
from pellucid.storage import CLOCK, SEEN

if TYPE_CHECKING:
    from pellucid.fuse.trace import Traced

__all__ = ["caught_up", "counted_decays", "decays"]

LEAST = 1e-300
"""A decay below counts as this: its logarithm is finite, and any slot times it is 0."""


def _clock(graph: Graph, full: str) -> Node:
    return graph.leaf("slot", full + CLOCK, Rank.TENSOR)


def caught_up(graph: Graph, full: str, ranks: Mapping[str, Rank]) -> Node:
    """A slot as its rows find it: as stored, times the decay that they missed if that is kept."""
    stored = graph.leaf("slot", full, ranks[full])
    if full + CLOCK not in ranks:
        return stored
    seen = graph.leaf("slot", full + SEEN, Rank.ROW)
    missed = graph.make("exp", (graph.make("sub", (_clock(graph, full), seen)),))
    return graph.make("mul", (stored, missed))


def counted_decays(
    traced: Traced, pipeline: Pipeline, zeros: frozenset[str]
) -> dict[str, Node]:
    """The new values of clocks and of what rows note of them, by full name."""
    made: dict[str, Node] = {}
    graph = traced.graph
    wanted = [full for full in traced.ranks if full + CLOCK in traced.ranks]
    for full, decay in decays(traced, pipeline, zeros, wanted).items():
        least = graph.make("maximum", (decay, graph.const(LEAST)))
        now = graph.make("add", (_clock(graph, full), graph.make("log", (least,))))
        made[full + CLOCK] = made[full + SEEN] = now
    return made


def decays(
    traced: Traced, pipeline: Pipeline, zeros: frozenset[str], wanted: list[str] | None = None
) -> dict[str, Node]:
    """By what a zero gradient multiplies each slot; those that it leaves alone are left out.

    Args:
        traced: the update.
        pipeline: what it is of.
        zeros: hyperparameters that are zero for now.
        wanted: the slots that are asked for; None: all that rows have.

    Raises:
        RuleError: it does something else to one of them.
    """
    found: dict[str, Node] = {}
    nodes = list(traced.slots.values())
    bounds = bounds_of(pipeline, nodes, zeros)
    for full, node in traced.slots.items():
        rows = traced.ranks[full] in (Rank.ROW, Rank.ELEMENT) and full not in pipeline.companions
        if not rows or (wanted is not None and full not in wanted):
            continue
        unit = caught_up(traced.graph, full, traced.ranks)
        factor = _Factor(traced.graph, unit, bounds)(node)
        if factor is None:
            raise RuleError(
                f"sparse='catch_up' applies the decay that a row missed, and what a zero gradient "
                f"does to the slot {full!r} here is more than a multiplication by one number: use "
                "sparse='lazy' or sparse='dense', or route this parameter to a rule such as Adam"
            )
        if factor.op != "const" or factor.data != 1.0:
            found[full] = factor
    return found


class _Factor:
    """By what a zero gradient multiplies one slot."""

    def __init__(self, graph: Graph, unit: Node, bounds: Mapping[int, object]) -> None:
        self.graph, self.unit, self.bounds = graph, unit, bounds

    def __call__(self, node: Node) -> Node | None:
        """The factor that a node is of the slot; None: it is none."""
        graph = self.graph
        if node is self.unit:
            return graph.const(1.0)
        if self.bounds.get(node.index) == ZERO:
            return graph.const(0.0)
        if node.op in ("add", "sub"):
            both = [self(arg) for arg in node.args]
            if None in both:
                return None
            return graph.make(node.op, tuple(one for one in both if one is not None))
        if node.op == "neg":
            return self._times(node.args[0], "mul", graph.const(-1.0))
        if node.op == "mul":
            first, second = node.args
            return self._times(first, "mul", second) or self._times(second, "mul", first)
        if node.op == "div":
            return self._times(node.args[0], "div", node.args[1])
        return self._chosen(node) if node.op == "where" else None

    def _times(self, inside: Node, op: str, number: Node) -> Node | None:
        found = self(inside) if number.rank == Rank.SCALAR else None
        return None if found is None else self.graph.make(op, (found, number))

    def _chosen(self, node: Node) -> Node | None:
        condition, *branches = node.args
        if condition.op == "is_new":  # a row that was there before is not new
            return self(branches[1])
        known = self.bounds.get(condition.index)
        if isinstance(known, bool):
            return self(branches[0] if known else branches[1])
        both = [self(branch) for branch in branches]
        if condition.rank != Rank.SCALAR or None in both:
            return None
        chosen = tuple(one for one in both if one is not None)
        return self.graph.make("where", (condition, *chosen))
