"""Runs programs as pure functions of arrays, also under a framework's own tracing.

Nothing here is a plain number unless the framework has it so: hyperparameters, the step and
conditions may be arrays of one element whose values are known only when a compiled step runs.
NumPy and torch have them all as plain numbers: see `pellucid.fuse.eager`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pellucid.fuse.graph import Node, Rank, walk
from pellucid.fuse.interpret import Interpreter, is_array, number
from pellucid.fuse.program import Program
from pellucid.fuse.segment import splits
from pellucid.ops import RuleError

__all__ = [
    "Outcome", "Tensor", "Whole", "interpreter", "pure_update", "reduce_over_all", "sizes_of",
]  # fmt: skip


@dataclass
class Tensor:
    """One parameter's part of an update."""

    index: int  # in the optimizer: the counter of its random numbers
    program: Program
    shape: tuple[Any, ...]  # None where only the running program knows it
    param: Any  # in the compute type
    grad: Any
    slots: Mapping[str, Any]  # by full name; of one value a tensor: numbers, or of shape ()
    new: Mapping[str, Any]  # whether a slot takes part in its first update: bool, or an array
    values: Mapping[str, Any]  # the group's hyperparameters by full name, in float64
    step: Any  # the number of this update, from 1, in float64
    places: Any = None  # of its elements in the parameter, where some rows are left out


@dataclass
class Whole:
    """What all parameters of an update share."""

    seed: int = 0
    shared: Mapping[tuple[int, str], Any] = field(default_factory=dict)  # optimizer-wide slots
    extras: Mapping[str, Any] = field(default_factory=dict)  # numbers, or arrays by index
    totals: dict[tuple[str, Any], Any] = field(default_factory=dict)
    sizes: dict[str, Any] = field(default_factory=dict)

    def extra(self, name: str, index: int) -> Any:
        """An extra input, as one tensor reads it."""
        value = self.extras[name]
        return value[index] if isinstance(value, Mapping) else value


Kept = Callable[[Tensor, str, Any, Any], Any]


@dataclass
class Outcome:
    """What an update gives: nothing is written."""

    values: list[dict[str, Any]]  # of each tensor: ``param`` and slots that change, by full name
    shared: dict[tuple[int, str], Any]
    veto: Any  # None: no stage can veto; else a condition


def pure_update(
    xp: Any, tensors: Sequence[Tensor], whole: Whole, kept: Kept | None = None
) -> Outcome:
    """One update of all tensors in the array namespace ``xp``, in the programs' own order.

    Args:
        kept: makes of a slot's new value, the veto known, what is stored; the parameter is then
            computed from that. Without it values are given as they are computed.
    """
    runs = reduce_over_all(xp, tensors, whole)
    _share_scalars(xp, tensors, runs)
    veto: Any = None
    for tensor, run in zip(tensors, runs, strict=True):
        for condition in run(tensor.program.traced.vetoes):
            veto = condition if veto is None else either(xp, veto, condition)
    values: list[dict[str, Any]] = []
    shared: dict[tuple[int, str], Any] = {}
    for tensor, run in zip(tensors, runs, strict=True):
        traced = tensor.program.traced
        found = dict(zip(traced.slots, run(traced.slots.values()), strict=True))
        if kept is not None:
            for full, node in traced.slots.items():
                found[full] = kept(tensor, full, found[full], veto)
                if node.rank == Rank.ELEMENT and node.op not in ("slot", "param", "grad"):
                    run.known[node.index] = found[full]
        (found["param"],) = run([traced.param])
        values.append(found)
        for name, value in zip(traced.shared, run(traced.shared.values()), strict=True):
            ordinal, _, full = name.partition(":")
            shared.setdefault((int(ordinal), full), value)
    return Outcome(values, shared, veto)


def _share_scalars(xp: Any, tensors: Sequence[Tensor], runs: Sequence[Interpreter]) -> None:
    """Compute each group's numbers once, apart from the loops over elements that read them."""
    first: dict[tuple[int, int, int], int] = {}
    places = []
    for place, tensor in enumerate(tensors):
        # torch counts each parameter's steps
        key = id(tensor.program), id(tensor.values), id(tensor.step)
        first.setdefault(key, place)
        places.append(first[key])
    wanted = [
        (place, node)
        for place in first.values()
        for node in tensors[place].program.segmented.nodes
        if node.rank == Rank.SCALAR and node.op != "const"
    ]
    values = [runs[place]([node])[0] for place, node in wanted]
    narrow = [
        xp.cast(value, tensors[place].program.compute)
        if is_array(value) and not node.boolean
        else value
        for (place, node), value in zip(wanted, values, strict=True)
    ]
    settled = _settled(xp, [*values, *narrow])
    known: dict[int, dict[int, Any]] = {place: {} for place in first.values()}
    short: dict[int, dict[int, Any]] = {place: {} for place in first.values()}
    for count, (place, node) in enumerate(wanted):
        known[place][node.index] = settled[count]
        short[place][node.index] = settled[count + len(wanted)]
    for run, place in zip(runs, places, strict=True):
        run.known.update(known[place])
        run.narrow.update(short[place])


def _settled(xp: Any, values: list[Any]) -> list[Any]:
    """Values of which XLA computes the arrays once, and not in every loop that reads them."""
    arrays = [place for place, value in enumerate(values) if is_array(value)]
    if not arrays:
        return values
    made = list(values)
    for place, value in zip(arrays, xp.settled([values[k] for k in arrays]), strict=True):
        made[place] = value
    return made


def either(xp: Any, one: Any, other: Any) -> Any:
    """Whether one of two conditions holds; each a bool or an array."""
    if not is_array(one):
        return True if one else other
    return one if not is_array(other) and not other else xp.logical_or(one, other)


def interpreter(xp: Any, tensor: Tensor, whole: Whole) -> Interpreter:
    """Evaluates the graph of a tensor."""
    made = Interpreter(
        xp,
        tensor.program.compute,
        tensor.shape,
        lambda node: _leaf(xp, tensor, whole, node),
        whole.seed,
        tensor.index,
    )
    made.places = tensor.places
    return made


def _leaf(xp: Any, tensor: Tensor, whole: Whole, node: Node) -> Any:
    """The value of a leaf of a tensor's graph."""
    if splits(node):
        return whole.totals[node.op, node.data[1]]
    if node.op in ("param", "grad"):
        return getattr(tensor, node.op)
    if node.op == "slot":
        value = tensor.slots[node.data]
        return xp.wide(value) if node.rank == Rank.TENSOR and is_array(value) else value
    if node.op == "hyper":
        return tensor.values[node.data]
    if node.op == "step":
        return tensor.step
    if node.op == "is_new":
        return tensor.new[node.data]
    if node.op == "shared":
        return whole.shared[node.data]
    if node.op == "extra":
        return whole.extra(node.data, tensor.index)
    return _size(tensor, whole, node.data)


def _size(tensor: Tensor, whole: Whole, counted: str) -> float:
    if counted.startswith("all ") or counted == "tensors":
        size = whole.sizes[counted]
    else:
        size = sizes_of(tensor.shape)[counted]
    if size is None:
        raise RuleError(
            f"the update asks how many {counted} there are, and of rows that only a step finds out "
            "that is not known: use sparse='dense' for this parameter"
        )
    return float(size)


def sizes_of(shape: tuple[Any, ...]) -> dict[str, Any]:
    """How many elements, rows and columns a tensor has; None where only a step knows."""
    rows = shape[0] if shape else 1
    columns = math.prod(shape[1:])
    return {"elements": None if rows is None else rows * columns, "rows": rows, "columns": columns}


def _sizes_of_all(tensors: Sequence[Tensor]) -> dict[str, Any]:
    sizes: dict[str, Any] = {"tensors": len(tensors)}
    for name in ("elements", "rows", "columns"):
        counts = [sizes_of(tensor.shape)[name] for tensor in tensors]
        sizes[f"all {name}"] = None if None in counts else sum(counts)
    return sizes


def _waits(node: Node, whole: Whole) -> bool:
    """Whether a reduction over all tensors needs another one first."""
    return any(
        splits(n) and n.data[0] == "all" and (n.op, n.data[1]) not in whole.totals
        for n in walk(node.args)
    )


def reduce_over_all(
    xp: Any, tensors: Sequence[Tensor], whole: Whole, unread: bool = False
) -> list[Interpreter]:
    """Count and reduce over all tensors, level by level; the interpreter of each.

    What is known stays: an update of some of the tensors may follow.

    Args:
        unread: also reductions that the updates ask for and no result needs.
    """
    whole.sizes = whole.sizes or _sizes_of_all(tensors)
    runs = [interpreter(xp, tensor, whole) for tensor in tensors]
    programs = [tensor.program if unread else tensor.program.segmented for tensor in tensors]
    while True:
        found: dict[tuple[str, Any], Any] = {}
        waiting = False
        for asked, run in zip(programs, runs, strict=True):
            for node in asked.global_reductions:
                key = (node.op, node.data[1])
                if key in whole.totals:
                    continue
                if _waits(node, whole):
                    waiting = True
                    continue
                part = run.reduced(node.op, node.args[0])
                found[key] = _joined(xp, node.op, found.get(key), part)
        whole.totals.update(found)
        if not waiting:
            return runs


def _joined(xp: Any, op: str, before: Any, part: Any) -> Any:
    if before is None:
        return part
    if op != "max_abs":
        return before + part
    if is_array(before) or is_array(part):
        return xp.maximum(before, part)
    return number("maximum", (before, part))
