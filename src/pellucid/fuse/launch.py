"""One step of an optimizer: tables of addresses, chunks of equal work, passes, one commit.

All that can fail runs before the first write. Partial sums are combined in a fixed order here,
so results depend neither on the number of threads nor on how the work is cut.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise
from typing import Any

import numpy

from pellucid.fuse.graph import Rank
from pellucid.fuse.pool import Block, run_blocks
from pellucid.fuse.program import Program, runtime_function
from pellucid.fuse.rows import Rows
from pellucid.fuse.segment import Pass

__all__ = ["Launch", "Member", "Table"]

SHORT, LONG = 32768, 262144  # elements of a chunk: long ones stream best, short ones share well
SMALL = 262144  # elements in all below which one thread is faster than waking another
AHEAD = 12  # rows that lie anywhere are fetched so many before they are updated
INTS, FLOATS = numpy.int64, numpy.float64


@dataclass
class Member:
    """One parameter of a launch, by addresses."""

    index: int  # in the optimizer: the counter of its random numbers
    group: int
    program: Program
    shape: tuple[int, ...]
    addresses: dict[tuple[str, str | None], int]  # ("param", None), ("slot", name), ...
    new: frozenset[str]  # slots that take part in their first update
    step_address: int = 0
    wave: int = 0  # overlapping parameters run one after the other
    sparse: bool = False  # its gradient has some rows only: see `Launch.set_rows`

    @property
    def rows(self) -> int:
        return self.shape[0] if self.shape else 1

    @property
    def columns(self) -> int:
        return math.prod(self.shape[1:])

    @property
    def elements(self) -> int:
        return math.prod(self.shape)


# -- helpers that run compiled ---------------------------------------------------------------

T: Any  # these names are the compiler's: see `pellucid.fuse.runtime.namespace`
load_0: Any
pointer_0: Any
store_0: Any


def scan_steps(table, column, groups, rows, pairs):  # type: ignore[no-untyped-def]
    """Give each tensor the row of its (group, step); the number of different pairs."""
    count = 0
    found = 0
    for t in range(table.shape[0]):
        step = int(load_0(pointer_0(table[t, column]), 0)) + 1
        group = groups[t]
        if not (found < count and pairs[found, 0] == group and pairs[found, 1] == step):
            found = 0
            while found < count and not (pairs[found, 0] == group and pairs[found, 1] == step):
                found += 1
            if found == count:
                if count == pairs.shape[0]:
                    return -1
                pairs[count, 0] = group
                pairs[count, 1] = step
                count += 1
        rows[t] = found
    return count


def advance_steps(table, column):  # type: ignore[no-untyped-def]
    """Add one to each tensor's step counter."""
    for t in range(table.shape[0]):
        at = pointer_0(table[t, column])
        store_0(at, 0, load_0(at, 0) + T(1.0))


def combine(partials, spans, kinds, columns, totals, overall):  # type: ignore[no-untyped-def]
    """Combine the chunks' partial results: for each tensor, and over all tensors, in order."""
    for k in range(kinds.shape[0]):
        all_of = 0.0
        for t in range(spans.shape[0]):
            total = 0.0
            for c in range(spans[t, 0], spans[t, 1]):
                value = partials[c, k]
                if kinds[k] == 0:
                    total += value
                elif value > total or value != value:
                    total = value
            totals[t, columns[k]] = total
            if kinds[k] == 0:
                all_of += total
            elif total > all_of or total != total:
                all_of = total
        overall[k] = all_of


@cache
def _scan() -> Any:
    from numba import int64

    ints = int64[:, ::1]
    return runtime_function(scan_steps, int64(ints, int64, int64[::1], int64[::1], ints))


@cache
def _advance() -> Any:
    from numba import int64, types

    return runtime_function(advance_steps, types.void(int64[:, ::1], int64))


@cache
def _combine() -> Any:
    from numba import float64, int64, types

    ints, floats = int64[:, ::1], float64[:, ::1]
    kinds = int64[::1]
    join = types.void(floats, ints, kinds, kinds, floats, float64[::1])
    return runtime_function(combine, join)


# -- chunks ----------------------------------------------------------------------------------


def _cut(length: int, most: int, grain: int = 1) -> list[tuple[int, int]]:
    """(start, count) of nearly equal pieces of at most about ``most``, in multiples of a grain."""
    if length == 0:
        return [(0, 0)]  # an empty tensor has its numbers, rows or columns, too
    pieces = -(-length // most)
    size = -(-length // pieces)
    size = -(-size // grain) * grain
    return [(start, min(size, length - start)) for start in range(0, length, size)]


@dataclass
class Chunks:
    """How the work of one pass is cut: by shapes alone."""

    table: Any  # int64 (n, 5): tensor, start, count, shift of the gradient, whether it is first
    spans: Any  # int64 (tensors, 2): first and last chunk of each tensor
    work: Any  # elements of each chunk
    small: int = SMALL  # elements in all below which one thread takes them

    def blocks(self, count: int) -> list[tuple[int, int]]:
        """Ranges of chunks of about equal work, several for each thread."""
        if not len(self.table):
            return []
        total = int(self.work.sum())
        if count < 2 or total < self.small:
            return [(0, len(self.table))]
        ends = numpy.cumsum(self.work)
        wanted = numpy.arange(1, 4 * count) * (total / (4 * count))
        cuts = numpy.unique(numpy.searchsorted(ends, wanted) + 1)
        edges = [0, *(int(cut) for cut in cuts if cut < len(self.table)), len(self.table)]
        return list(pairwise(edges))


def _chunks(members: Sequence[Member], how: Callable[..., list[tuple[int, int, int]]]) -> Chunks:
    pieces: list[tuple[int, int, int]] = []
    spans: list[tuple[int, int]] = []
    work: list[int] = []
    most = max(SHORT, min(LONG, sum(member.elements for member in members) // 64))
    for number, member in enumerate(members):
        first = len(pieces)
        for start, count, elements in how(member, most):
            pieces.append((number, start, count))
            work.append(elements)
        spans.append((first, len(pieces)))
    table = numpy.zeros((len(pieces), 5), INTS)
    table[:, :3] = numpy.array(pieces, INTS).reshape(-1, 3)
    edges = numpy.array(spans, INTS).reshape(-1, 2)
    table[edges[:, 0], 4] = 1
    return Chunks(table, edges, numpy.array(work, INTS))


def _chunks_of_rows(members: Sequence[Member], rows: Sequence[Rows], by_row: bool) -> Chunks:
    """A chunk for each row that has a gradient.

    Args:
        rows: of each member, which they are, and where its gradient has them.
        by_row: whether chunks count rows; else elements.
    """
    tables, spans, end = [], [], 0
    for number, (member, found) in enumerate(zip(members, rows, strict=True)):
        some = found.numbers
        count = max(1, len(some))  # a tensor without rows has its numbers, too
        table = numpy.zeros((count, 5), INTS)
        table[:, 0], table[0, 4] = number, 1
        if len(some):
            columns = member.columns
            table[:, 1] = some if by_row else some * columns
            table[:, 2] = 1 if by_row else columns
            table[:, 3] = (found.places - some) * columns
        tables.append(table)
        spans.append((end, end + count))
        end += count
    work = [table[:, 2] * (member.columns if by_row else 1)
            for table, member in zip(tables, members, strict=True)]
    edges = numpy.array(spans, INTS).reshape(-1, 2)
    return Chunks(numpy.concatenate(tables), edges, numpy.concatenate(work), SMALL // 8)


def _flat(member: Member, most: int) -> list[tuple[int, int, int]]:
    return [(start, count, count) for start, count in _cut(member.elements, most, 64)]


def _by_row(member: Member, most: int) -> list[tuple[int, int, int]]:
    cut = _cut(member.rows, max(1, most // max(1, member.columns)))
    return [(start, count, count * member.columns) for start, count in cut]


def _by_column(whole: bool) -> Callable[[Member, int], list[tuple[int, int, int]]]:
    def how(member: Member, most: int) -> list[tuple[int, int, int]]:
        wide = member.columns if whole else max(64, most // max(1, member.rows))
        cut = _cut(member.columns, wide, 16)
        return [(start, count, count * member.rows) for start, count in cut]

    return how


# -- tables ----------------------------------------------------------------------------------


class Table:
    """All tensors of one program in one wave: what its kernels read."""

    def __init__(self, program: Program, members: Sequence[Member], seed: int) -> None:
        self.program, self.members = program, members
        count, layout = len(members), program.layout
        self.pointers = numpy.zeros((count, program.step_column + 1), INTS)
        for number, member in enumerate(members):
            for key, address in member.addresses.items():
                self.pointers[number, layout.pointers[key]] = address
            self.pointers[number, program.step_column] = member.step_address
        self.groups = numpy.array([m.group for m in members], INTS)
        self.rows = numpy.zeros(count, INTS)
        self.flags = numpy.zeros(count, INTS)
        self.dims = numpy.array(
            [(m.elements, m.rows, m.columns, m.index) for m in members], INTS
        ).reshape(-1, 4)
        self.has_new = False
        for number, member in enumerate(members):
            for name, bit in layout.flags.items():
                if name in member.new:
                    self.flags[number] |= 1 << bit
                    self.has_new = True
        self.pairs = numpy.zeros((max(4, min(count, 64)), 2), INTS)
        self.pair_count = 0
        self.scalars = numpy.zeros((1, max(1, len(layout.scalars))), FLOATS)
        self.totals = numpy.zeros((count, max(1, program.width_of_totals)), FLOATS)
        self.control = numpy.array([seed, 0, 0, 0, 0, 0, 0, 0], INTS)
        self.workspaces: list[Any] = []
        self._column_workspaces()
        self.order = numpy.arange(count, dtype=INTS)  # places in the launch's list of members
        self.steps_on_device = bool(count and members[0].step_address)
        self.sparse = members[0].sparse
        self._some_rows: list[Rows] = []  # of each member, where gradients have some rows only
        self.control[1] = AHEAD if self.sparse else 0
        self._cuts: dict[Any, Chunks] = {}
        self._partials: dict[Any, Any] = {}
        self._blocks: dict[tuple[int, int], list[Block]] = {}

    def _column_workspaces(self) -> None:
        for column in self.program.column_totals:
            ends = numpy.cumsum(self.dims[:, 2])
            space = numpy.zeros(int(ends[-1]) if len(ends) else 0, FLOATS)
            self.workspaces.append(space)
            starts = numpy.concatenate([[0], ends[:-1]])
            self.pointers[:, column] = space.ctypes.data + 8 * starts

    @property
    def elements(self) -> int:
        return int(self.dims[:, 0].sum())

    def counts(self) -> dict[str, int]:
        """What ``ops.size(x, over="all")`` counts, in this table."""
        totals = self.dims.sum(axis=0)
        return {
            "tensors": len(self.members),
            "all rows": int(totals[1]),
            "all columns": int(totals[2]),
            "all elements": int(totals[0]),
        }

    # -- rows of numbers -------------------------------------------------------------------

    def find_rows(self, updates: int) -> None:
        """Find the different (group, step) pairs, and each tensor's row."""
        if not self.steps_on_device:
            self.pair_count = self._host_rows(updates + 1)
            return
        scan = _scan()
        column = self.program.step_column
        self.pair_count = scan(self.pointers, column, self.groups, self.rows, self.pairs)
        if self.pair_count < 0:  # more pairs than ever: make room for all
            self.pairs = numpy.zeros((len(self.members), 2), INTS)
            self.pair_count = scan(self.pointers, column, self.groups, self.rows, self.pairs)

    def _host_rows(self, step: int) -> int:
        if self.pair_count:
            self.pairs[: self.pair_count, 1] = step
            return self.pair_count
        groups, rows = numpy.unique(self.groups, return_inverse=True)
        self.pairs = numpy.stack([groups, numpy.full(len(groups), step)], axis=1).astype(INTS)
        self.rows[:] = rows
        return len(groups)

    def fill(self, level: int, step: Step) -> None:
        """Compute the numbers that the passes of this level read."""
        numbered = self.program.numbers.get(level)
        if numbered is None or not len(numbered.columns):
            return
        if len(self.scalars) < self.pair_count:
            self.scalars = numpy.zeros((self.pair_count, self.scalars.shape[1]), FLOATS)
            self._blocks.clear()
        for row in range(self.pair_count):
            group, number = self.pairs[row].tolist()
            self.scalars[row, numbered.columns] = self.compute(
                numbered.compute, step, group, number
            )

    def compute(
        self, function: Callable[..., tuple[float, ...]], step: Step, group: int, number: int
    ) -> tuple[float, ...]:
        """Call a host function of numbers for one (group, step)."""
        return function(
            step.values[group], float(number), step.shared, step.extras, step.sizes, step.totals
        )

    # -- passes ----------------------------------------------------------------------------

    def set_rows(self, rows: list[Rows]) -> None:
        """Which rows of each member have a gradient in this step."""
        self._some_rows = rows
        self._cuts.clear()
        self._partials.clear()
        self._blocks.clear()

    def cut(self, one: Pass) -> Chunks:
        if self.sparse:
            if one.by_row not in self._cuts:
                made = _chunks_of_rows(self.members, self._some_rows, one.by_row)
                self._cuts[one.by_row] = made
            return self._cuts[one.by_row]
        how: Any
        key: tuple[Any, ...]
        if one.kind == "columns":
            whole = any(node.rank == Rank.ROW for node in one.nodes)
            key, how = ("columns", whole), _by_column(whole)
        elif one.by_row:
            key, how = ("rows",), _by_row
        else:
            key, how = ("flat",), _flat
        if key not in self._cuts:
            self._cuts[key] = _chunks(self.members, how)
        return self._cuts[key]

    def partials(self, one: Pass) -> Any:
        if one not in self._partials:
            shape = (max(1, len(self.cut(one).table)), max(1, len(one.reductions)))
            self._partials[one] = numpy.zeros(shape, FLOATS)
        return self._partials[one]

    def blocks(self, number: int, count: int) -> list[Block]:
        """The pieces of work of one pass."""
        key = (number, count)
        if key not in self._blocks:
            one = self.program.passes[number]
            kernel = self.program.kernels[f"{one.kind}_{one.level}"]
            chunks = self.cut(one)
            arguments = (
                chunks.table,
                self.pointers,
                self.rows,
                self.flags,
                self.dims,
                self.scalars,
                self.totals,
                self.partials(one),
                self.control,
            )
            ranges = [(0, len(self.members))] if one.kind == "commit" else chunks.blocks(count)
            self._blocks[key] = [(kernel, first, last, arguments) for first, last in ranges]
        return self._blocks[key]

    def combine(self, one: Pass, step: Step | None) -> None:
        """Combine partial results; add what is reduced over all tensors to a step's totals."""
        kinds = numpy.array([node.op == "max_abs" for node in one.reductions], INTS)
        columns = numpy.array([self.program.layout.totals[n.index] for n in one.reductions], INTS)
        overall = numpy.zeros(len(kinds), FLOATS)
        spans = self.cut(one).spans
        _combine()(self.partials(one), spans, kinds, columns, self.totals, overall)
        for node, value in zip(one.reductions, overall.tolist(), strict=True):
            if step is not None and node.data[0] == "all":
                step.add_total(node.op, node.data[1], value)

    def close(self) -> None:
        """After a committed step: counters advance, nothing is new any more."""
        if self.steps_on_device:
            _advance()(self.pointers, self.program.step_column)
        if self.has_new:
            self.flags[:] = 0
            self.has_new = False


@dataclass
class Step:
    """What one step's host functions read."""

    values: Sequence[Mapping[str, float]]  # of each group: hyperparameters by full name
    updates: int  # completed updates of the optimizer
    shared: dict[tuple[int, str], float] = field(default_factory=dict)
    extras: Mapping[str, float] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    totals: dict[tuple[str, Any], float] = field(default_factory=dict)

    def add_total(self, op: str, key: Any, value: float) -> None:
        """Add a program's part of a reduction over all tensors."""
        before = self.totals.get((op, key))
        if before is None:
            self.totals[op, key] = value
        elif op == "max_abs":
            self.totals[op, key] = value if value > before or value != value else before
        else:
            self.totals[op, key] = before + value


class Launch:
    """All tables of an optimizer's step."""

    def __init__(self, members: Sequence[Member], seed: int) -> None:
        grouped: dict[tuple[int, int, bool], list[Member]] = {}
        for member in members:
            key = (member.wave, id(member.program), member.sparse)
            grouped.setdefault(key, []).append(member)
        self.tables = [
            Table(some[0].program, some, seed) for _, some in sorted(
                grouped.items(), key=lambda item: item[0][0]
            )
        ]
        position = {id(member): number for number, member in enumerate(members)}
        for table in self.tables:
            table.order = numpy.array([position[id(m)] for m in table.members], INTS)
        self.waves = [
            [table for table in self.tables if table.members[0].wave == wave]
            for wave in sorted({member.wave for member in members})
        ]
        self.sizes: dict[str, int] = {}
        for table in self.tables:
            for name, count in table.counts().items():
                self.sizes[name] = self.sizes.get(name, 0) + count
        self.joint = any(
            table.program.segmented.global_reductions or table.program.vetoes
            for table in self.tables
        )

    def set_addresses(self, key: tuple[str, str | None], addresses: Any) -> None:
        """Point a column, such as the gradients', at other arrays, in the order of the members."""
        for table in self.tables:
            column = table.program.layout.pointers.get(key)
            if column is not None:
                table.pointers[:, column] = addresses[table.order]

    def set_rows(self, rows: Sequence[Any]) -> None:
        """Which rows have a gradient in this step.

        Args:
            rows: of each member of the launch: `Rows`, or anything else if it has all.
        """
        for table in self.tables:
            if table.sparse:
                table.set_rows([rows[place] for place in table.order.tolist()])

    def run(
        self, step: Step, count: int, meanwhile: Callable[[], Any] | None = None
    ) -> bool:
        """Run all passes; False if a veto skipped the update, and then nothing was written.

        ``meanwhile`` is called once, while the last pass runs.
        """
        step.sizes = self.sizes
        for table in self.tables:
            table.find_rows(step.updates)
        if self.joint and not self._reduce(self.tables, step, count):
            return False
        for number, wave in enumerate(self.waves):
            # What an earlier wave wrote, overlapping parameters see: their own sums, too.
            again = self.joint and number > 0
            if (again or not self.joint) and not self._reduce(wave, step, count, again):
                return False
            self._write(wave, count, meanwhile if number == 0 else None)
        self._close(step)
        return True

    def _reduce(
        self, tables: Sequence[Table], step: Step, count: int, again: bool = False
    ) -> bool:
        """Run the passes that reduce; False for a veto. What is over all stays if ``again``."""
        last = max((one.level for t in tables for one in t.program.passes), default=0)
        for level in range(last + 1):
            blocks: list[Block] = []
            for table in tables:
                table.fill(level, step)
                for number, one in enumerate(table.program.passes):
                    if one.level == level and one.reductions:
                        blocks.extend(table.blocks(number, count))
            if blocks:
                run_blocks(blocks, count)
            for table in tables:
                for one in table.program.passes:
                    if one.level == level and one.kind == "reduce":
                        table.combine(one, None if again else step)
        for table in [] if again else tables:
            vetoes = table.program.vetoes
            for row in range(table.pair_count if vetoes is not None else 0):
                group, number = table.pairs[row].tolist()
                if any(table.compute(vetoes, step, group, number)):  # type: ignore[arg-type]
                    return False
        return True

    def _write(
        self, tables: Sequence[Table], count: int, meanwhile: Callable[[], Any] | None
    ) -> None:
        for kind in ("final", "commit"):
            blocks = [
                block
                for table in tables
                for number, one in enumerate(table.program.passes)
                if one.kind == kind
                for block in table.blocks(number, count)
            ]
            if blocks or (kind == "final" and meanwhile):
                run_blocks(blocks, count, meanwhile if kind == "final" else None)

    def _close(self, step: Step) -> None:
        fresh: dict[tuple[int, str], float] = {}
        for table in self.tables:
            function = table.program.shared
            if function is not None and table.pair_count:
                group, number = table.pairs[0].tolist()
                values = table.compute(function, step, group, number)
                for name, value in zip(table.program.traced.shared, values, strict=True):
                    ordinal, _, full = name.partition(":")
                    fresh.setdefault((int(ordinal), full), float(value))
        step.shared.update(fresh)
        for table in self.tables:
            table.close()
