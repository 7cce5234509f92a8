"""From a framework's parameters, gradients and state to a launch; kept as long as nothing moves.

A framework gives a `Backend`: one short class that allocates, describes and copies its arrays.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Protocol

import numpy

from pellucid.compose import Pipeline
from pellucid.declare import Ref, Slot
from pellucid.fuse.launch import Launch, Member, Step
from pellucid.fuse.program import Program, program
from pellucid.fuse.trace import Variant, traced_init

__all__ = ["Backend", "Engine", "Entry", "Plan", "dense", "slot_kind", "slot_shape"]

DTYPES = ("float32", "float64")


class Backend(Protocol):
    """A framework's arrays."""

    def real(self, array: Any) -> Any:
        """The array itself; a complex one as pairs of reals, sharing its memory."""

    def dtype(self, array: Any) -> str:
        """``"float32"``, ``"float64"`` or another name."""

    def shape(self, array: Any) -> tuple[int, ...]: ...

    def strides(self, array: Any) -> tuple[int, ...]:
        """In elements."""

    def address(self, array: Any) -> int: ...

    def slot(
        self, param: Any, shape: tuple[int, ...], kind: str, dtype: str | None, fill: float
    ) -> Any:
        """A new array for a slot: laid out as the parameter if it has its shape."""

    def like(self, param: Any, array: Any) -> Any:
        """A copy of an array, laid out in memory as the parameter is."""

    def contiguous(self, array: Any) -> Any:
        """A copy in the order of its axes."""

    def copy(self, into: Any, source: Any) -> None: ...

    def fill(self, into: Any, value: Any) -> None:
        """Write an array that broadcasts, or a number, into an array."""


class State(Protocol):
    """Where a framework keeps slots and step counters of one parameter."""

    def get(self, entry: Entry, full: str) -> Any: ...
    def put(self, entry: Entry, full: str, array: Any) -> None: ...


@dataclass(eq=False)
class Entry:
    """One parameter of an optimizer."""

    index: int
    name: str
    param: Any
    group: int
    pipeline: Pipeline


def dense(shape: Sequence[int], strides: Sequence[int]) -> bool:
    """Whether an array's elements fill one piece of memory, each once, in any order of axes."""
    expected = 1
    for stride, length in sorted(
        (st, n) for st, n in zip(strides, shape, strict=True) if n != 1
    ):
        if length == 0:
            return True
        if stride != expected:
            return False
        expected *= length
    return True


def axes_in_order(shape: Sequence[int], strides: Sequence[int]) -> bool:
    """Whether an array lies in memory in the order of its axes."""
    expected = 1
    for stride, length in zip(reversed(strides), reversed(shape), strict=True):
        if length not in (0, 1) and stride != expected:
            return False
        expected *= max(length, 1)
    return True


def rows_outermost(shape: Sequence[int], strides: Sequence[int]) -> bool:
    """Whether each x[i] is one dense piece of memory, one after the other."""
    if len(shape) < 2 or 0 in shape:
        return True
    inner = 1
    for length in shape[1:]:
        inner *= length
    return (shape[0] == 1 or strides[0] == inner) and dense(shape[1:], strides[1:])


def same_layout(shape: Sequence[int], one: Sequence[int], other: Sequence[int]) -> bool:
    """Whether two arrays of a shape lie alike; strides of axes of length 1 are no matter."""
    return 0 in shape or all(
        a == b for a, b, length in zip(one, other, shape, strict=True) if length != 1
    )


def slot_shape(kind: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of a slot of this kind for a parameter of this shape."""
    if kind == "param":
        return shape
    if kind == "row":
        return (*shape[:1], *(1 for _ in shape[1:]))
    return () if kind == "scalar" else (*(1 for _ in shape[:1]), *shape[1:])


def slot_kind(declared: Slot, shape: tuple[int, ...], where: str) -> str:
    """What kind of shape a slot has for a parameter."""
    if not callable(declared.shape):
        return declared.shape
    wanted = tuple(declared.shape(shape))
    for kind in ("param", "row", "column", "scalar"):
        if slot_shape(kind, shape) == wanted:
            return kind
    raise ValueError(
        f"{where}: its shape function gives {wanted} for a parameter of shape {shape}; allowed "
        f"are {shape}, {slot_shape('row', shape)}, {slot_shape('column', shape)} and ()"
    )


@dataclass
class Plan:
    """A launch, with all arrays whose memory it writes."""

    entries: list[Entry]
    copy: Callable[[Any, Any], None]
    launch: Launch
    slots: list[dict[str, Any]]  # of each entry, by full name
    pending: list[tuple[Entry, str, Any]]  # new slots, not yet in the framework's state
    counters: list[Any] = field(default_factory=list)  # of each entry: its own steps, or None
    new_counters: list[tuple[Entry, Any]] = field(default_factory=list)  # not yet in the state
    facts: list[tuple[Any, ...]] = field(default_factory=list)  # of each entry: see `facts`
    staged_in: list[tuple[Any, Any]] = field(default_factory=list)  # buffer, array
    staged_out: list[tuple[Any, Any]] = field(default_factory=list)  # array, buffer
    grad_buffers: dict[int, Any] = field(default_factory=dict)  # position → buffer
    held: dict[Any, list[Any]] = field(default_factory=dict)  # this step's gradients and inputs

    def run(self, step: Step, threads: int, meanwhile: Callable[[], Any] | None) -> bool:
        """Run the launch, around it what copies arrays that lie badly."""
        for buffer, array in self.staged_in:
            self.copy(buffer, array)
        if not self.launch.run(step, threads, meanwhile):
            return False
        for array, buffer in self.staged_out:
            self.copy(array, buffer)
        return True


class Engine:
    """Makes plans."""

    def __init__(self, backend: Backend, state: State, seed: int) -> None:
        self.backend, self.state, self.seed = backend, state, seed

    def plan(
        self,
        entries: Sequence[Entry],
        options: Sequence[Mapping[str, Any]],
        truths: Sequence[Mapping[str, Any]],
        numbers: Sequence[Mapping[str, float]],
        asleep: frozenset[str],
        step_of: Callable[[Entry], Any],
    ) -> Plan:
        """A launch that updates these entries.

        Args:
            options: of each group: choices by full name.
            truths: of each group: hyperparameters (None: a schedule) and options, for ``when=``.
            numbers: of each group: hyperparameters, for slots that begin at one.
            asleep: stages that `every` leaves out.
            step_of: an entry's step counter, a float32 array of one number, or None.
        """
        members: list[Member] = []
        plan = Plan(list(entries), self.backend.copy, None, [], [])  # type: ignore[arg-type]
        choices = [tuple(sorted(group.items())) for group in options]
        for entry in entries:
            members.append(self._member(plan, entry, choices, truths, numbers, asleep, step_of))
        self._check_gaps(plan)
        self._waves(members)
        plan.launch = Launch(members, self.seed)
        return plan

    def facts(self, entry: Entry, slots: Mapping[str, Any], counter: Any) -> tuple[Any, ...]:
        """Where and how an entry's arrays lie: what a launch relies on."""
        counters = () if counter is None else (counter,)
        return tuple(map(self._layout, (entry.param, *slots.values(), *counters)))

    def _layout(self, array: Any) -> tuple[Any, ...]:
        backend = self.backend
        return (
            backend.address(array),
            backend.dtype(array),
            tuple(backend.shape(array)),
            backend.strides(array),
        )

    def holds(self, plan: Plan) -> bool:
        """Whether the arrays that a plan writes are still the parameters' and the state's.

        Not so after a veto of a first update: new slots begin with the values of the next one.
        """
        for entry, slots, counter, facts in zip(
            plan.entries, plan.slots, plan.counters, plan.facts, strict=True
        ):
            for full, (_, declared) in entry.pipeline.slots.items():
                if declared.scope == "optimizer":
                    continue
                if self.state.get(entry, full) is not slots.get(full):
                    return False
            if self.facts(entry, slots, counter) != facts:
                return False
        return True

    def _member(
        self,
        plan: Plan,
        entry: Entry,
        choices: Sequence[tuple[tuple[str, Any], ...]],
        truths: Sequence[Mapping[str, Any]],
        numbers: Sequence[Mapping[str, float]],
        asleep: frozenset[str],
        step_of: Callable[[Entry], Any],
    ) -> Member:
        backend, pipeline = self.backend, entry.pipeline
        shape = tuple(backend.shape(entry.param))
        real = backend.real(entry.param)
        slots, kinds, new = self.slots(entry, shape, truths[entry.group], numbers[entry.group])
        storage = tuple(
            (full, backend.dtype(backend.real(array)))
            for full, array in slots.items()
            if backend.dtype(backend.real(array)) != backend.dtype(real)
        )
        variant = Variant(choices[entry.group], tuple(kinds.items()), asleep)
        made = program(pipeline, variant, len(shape), backend.dtype(real), storage)
        arrays: dict[tuple[str, str | None], Any] = {("param", None): real}
        for full, array in slots.items():
            arrays["slot", full] = backend.real(array)
        position = len(plan.slots)
        plan.slots.append(slots)
        plan.pending.extend((entry, full, slots[full]) for full in slots if full in new)
        self._stage(plan, position, made, arrays, kinds)
        counter = step_of(entry)
        plan.counters.append(counter)
        plan.facts.append(self.facts(entry, slots, counter))
        return Member(
            index=entry.index,
            group=entry.group,
            program=made,
            shape=(*((1,) if not shape else ()), *backend.shape(real)),  # one row, also of a pair
            addresses={key: backend.address(array) for key, array in arrays.items()},
            new=frozenset(new),
            step_address=0 if counter is None else backend.address(counter),
        )

    def slots(
        self,
        entry: Entry,
        shape: tuple[int, ...],
        truth: Mapping[str, Any],
        numbers: Mapping[str, float],
    ) -> tuple[dict[str, Any], dict[str, str], set[str]]:
        """An entry's slots: those that exist, and new ones where they now should."""
        slots: dict[str, Any] = {}
        kinds: dict[str, str] = {}
        new: set[str] = set()
        for full, (stage, declared) in entry.pipeline.slots.items():
            if declared.scope == "optimizer":
                continue
            array = self.state.get(entry, full)
            if array is None and not _present(entry.pipeline, stage, declared, truth):
                continue
            where = f"slot {full!r} of {entry.name!r}"
            kinds[full] = slot_kind(declared, shape, where)
            wanted = slot_shape(kinds[full], shape)
            if kinds[full] == "column" and len(self.backend.real(entry.param).shape) > len(shape):
                raise TypeError(
                    f"{where}: its parameter is complex, and a slot with one value a column is "
                    "not built for pairs of reals; give the optimizer torch.view_as_real(param)"
                )
            if array is None:
                array = self._created(entry, stage, declared, kinds[full], wanted, numbers)
                new.add(full)
            elif tuple(self.backend.shape(array)) != wanted:
                raise ValueError(
                    f"{where} has shape {tuple(self.backend.shape(array))}, its parameter "
                    f"{shape}: expected is {wanted}; remove it from the state to begin it anew"
                )
            elif self.backend.dtype(self.backend.real(array)) not in DTYPES:
                raise TypeError(
                    f"{where} is {self.backend.dtype(array)}; allowed is float32 or float64"
                )
            slots[full] = array
        return slots, kinds, new

    def _created(
        self,
        entry: Entry,
        stage: Any,
        declared: Slot,
        kind: str,
        shape: tuple[int, ...],
        numbers: Mapping[str, float],
    ) -> Any:
        fill = 0.0
        if isinstance(declared.init, Ref):
            fill = numbers[entry.pipeline.resolve(stage, declared.init.name)]
        elif not traced_init(declared):
            fill = float(declared.init)
        return self.backend.slot(entry.param, shape, kind, declared.dtype, fill)

    def _stage(
        self,
        plan: Plan,
        position: int,
        made: Program,
        arrays: dict[tuple[str, str | None], Any],
        kinds: Mapping[str, str],
    ) -> None:
        """Give arrays that lie badly for this program a buffer in the order of their axes."""
        backend = self.backend
        param = arrays["param", None]
        shape, strides = backend.shape(param), backend.strides(param)
        fits = dense(shape, strides)
        if made.segmented.random or (made.segmented.by_row and "column" in kinds.values()):
            fits = axes_in_order(shape, strides)
        elif made.segmented.by_row:
            fits = fits and rows_outermost(shape, strides)
        for key, array in arrays.items():
            own = backend.shape(array), backend.strides(array)
            wide = key[0] == "param" or kinds[key[1] or ""] == "param"
            if fits and same_layout(*own, strides) if wide else axes_in_order(*own):
                continue
            buffer = backend.like(param, array) if fits and wide else backend.contiguous(array)
            arrays[key] = buffer
            plan.staged_in.append((buffer, array))
            plan.staged_out.append((array, buffer))
        if not fits:
            plan.grad_buffers[position] = backend.contiguous(param)

    def _check_gaps(self, plan: Plan) -> None:
        """A parameter with gaps goes through a buffer, so it cannot share elements with another."""
        if not plan.grad_buffers:
            return
        reals = [self.backend.real(entry.param) for entry in plan.entries]
        spans = numpy.array([*map(self.span, reals)], numpy.int64)
        for position in plan.grad_buffers:
            start, end = spans[position]
            near = numpy.flatnonzero((spans[:, 0] < end) & (start < spans[:, 1])).tolist()
            for other in near:
                if other == position:
                    continue
                own, others = self._elements(reals[position]), self._elements(reals[other])
                if numpy.intersect1d(own, others).size:
                    raise ValueError(
                        f"parameter {plan.entries[position].name!r} shares elements with "
                        f"{plan.entries[other].name!r} and has gaps between its own: give the "
                        "optimizer one of the two, or a .clone()"
                    )

    def _axes(self, array: Any) -> list[tuple[int, int]]:
        """(length, stride in bytes) of each axis."""
        backend = self.backend
        item = 8 if backend.dtype(array) == "float64" else 4
        pairs = zip(backend.shape(array), backend.strides(array), strict=True)
        return [(length, item * stride) for length, stride in pairs]

    def span(self, array: Any) -> tuple[int, int]:
        """The first and behind the last address of an array; the same if it is empty."""
        start = end = self.backend.address(array)
        axes = self._axes(array)
        if any(length == 0 for length, _ in axes):
            return start, end
        for length, stride in axes:
            reach = stride * (length - 1)
            start, end = start + min(reach, 0), end + max(reach, 0)
        return start, end + 1

    def _elements(self, array: Any) -> Any:
        """The address of each element."""
        found = numpy.array([self.backend.address(array)], numpy.int64)
        for length, stride in self._axes(array):
            found = (found[:, None] + stride * numpy.arange(length)).ravel()
        return found

    def _waves(self, members: Sequence[Member]) -> None:
        """Put parameters that overlap in memory into waves that run one after the other."""
        spans = []
        for member in members:
            start = member.addresses["param", None]
            item = 8 if member.program.compute == "float64" else 4
            spans.append((start, start + item * member.elements))
        for member, wave in zip(members, overlap_waves(spans), strict=True):
            member.wave = wave


def overlap_waves(spans: Sequence[tuple[int, int]]) -> list[int]:
    """For each span of addresses its wave: behind the waves of earlier spans that it overlaps."""
    waves = [0] * len(spans)
    ordered = sorted((span, number) for number, span in enumerate(spans) if span[0] < span[1])
    if all(one[0][1] <= other[0][0] for one, other in pairwise(ordered)):
        return waves
    for number, (start, end) in enumerate(spans):
        earlier = [
            waves[other]
            for other, (begin, until) in enumerate(spans[:number])
            if begin < end and start < until and begin < until and start < end
        ]
        waves[number] = max(earlier, default=-1) + 1
    return waves


def _present(pipeline: Pipeline, stage: Any, declared: Slot, truth: Mapping[str, Any]) -> bool:
    own = {name: truth[pipeline.full(stage, name)] for name in stage.declared.arguments}
    return declared.present(own)
