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
from pellucid.fuse.catch_up import decays
from pellucid.fuse.launch import Launch, Member, Step
from pellucid.fuse.lazy import check_program
from pellucid.fuse.program import Program, program
from pellucid.fuse.trace import Variant, traced_init
from pellucid.storage import (
    CLOCK,
    COMPENSATION,
    NARROW,
    SEEN,
    SIZES,
    compute_type,
    slot_dtype,
)

__all__ = ["Backend", "Engine", "Entry", "Plan", "dense", "slot_kind", "slot_shape"]

DTYPES = tuple(SIZES)[:2] + NARROW
"""What a kernel reads and writes."""
NONE: frozenset[str] = frozenset()


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

    def fill_rows(self, into: Any, rows: Any, value: Any) -> None:
        """Write into these rows of an array."""


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


@dataclass(frozen=True)
class Asked:
    """What a plan depends on beside the arrays."""

    options: Sequence[Mapping[str, Any]]  # of each group: choices by full name
    truths: Sequence[Mapping[str, Any]]  # of each group: numbers (None: a schedule), options
    numbers: Sequence[Mapping[str, float]]  # of each group: for slots that begin at one
    asleep: frozenset[str] = frozenset()  # stages that `every` leaves out
    scaled: bool = False  # gradients are to be divided by a scale
    sparse: frozenset[int] = frozenset()  # entries whose gradient has some rows only
    grad_dtypes: Mapping[int, str] = field(default_factory=dict)  # by entry: of its gradient

    def zeros(self, group: int) -> frozenset[str]:
        """A group's hyperparameters that are zero and stay so until someone writes."""
        return frozenset(full for full, value in self.truths[group].items() if value == 0.0)


class Engine:
    """Makes plans."""

    def __init__(self, backend: Backend, state: State, seed: int) -> None:
        self.backend, self.state, self.seed = backend, state, seed

    def plan(
        self,
        entries: Sequence[Entry],
        asked: Asked,
        step_of: Callable[[Entry], Any],
    ) -> Plan:
        """A launch that updates these entries.

        Args:
            asked: what they depend on beside the arrays.
            step_of: an entry's step counter, a float32 array of one number, or None.
        """
        members: list[Member] = []
        plan = Plan(list(entries), self.backend.copy, None, [], [])  # type: ignore[arg-type]
        for entry in entries:
            members.append(self._member(plan, entry, asked, step_of))
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
        asked: Asked,
        step_of: Callable[[Entry], Any],
    ) -> Member:
        backend = self.backend
        shape = tuple(backend.shape(entry.param))
        real = backend.real(entry.param)
        slots, kinds, new = self.slots(entry, asked)
        made = self.program(entry, slots, kinds, asked)
        sparse = entry.index in asked.sparse
        if sparse:
            check_program(made, entry.name, True, entry.pipeline.storage.sparse)
        arrays: dict[tuple[str, str | None], Any] = {("param", None): real}
        for full, array in slots.items():
            arrays["slot", full] = backend.real(array)
        if sparse:
            self._check_rows_apart(entry, arrays, kinds)
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
            sparse=sparse,
        )

    def program(
        self, entry: Entry, slots: Mapping[str, Any], kinds: Mapping[str, str], asked: Asked
    ) -> Program:
        """What updates an entry that has these slots."""
        backend, pipeline = self.backend, entry.pipeline
        stored = backend.dtype(backend.real(entry.param))
        compute = compute_type(stored)
        types: dict[tuple[str, str | None], str] = {
            ("param", None): stored,
            ("grad", None): asked.grad_dtypes.get(entry.index, stored),
            **{("slot", full): backend.dtype(backend.real(array)) for full, array in slots.items()},
            **{
                ("extra", name): stored
                for name, (_, declared) in pipeline.extras.items()
                if declared.shape == "param"
            },
        }
        narrow = stored in NARROW
        variant = Variant(
            tuple(sorted(asked.options[entry.group].items())),
            tuple(kinds.items()),
            asked.asleep,
            rounding=pipeline.storage.rounding if narrow else "nearest",
            stored=stored if narrow else "",
            scaled=asked.scaled,
            zeros=asked.zeros(entry.group) if any(f.endswith(CLOCK) for f in kinds) else NONE,
        )
        storage = tuple((key, dtype) for key, dtype in types.items() if dtype != compute)
        return program(pipeline, variant, len(backend.shape(entry.param)), compute, storage)

    def _check_rows_apart(
        self, entry: Entry, arrays: Mapping[tuple[str, str | None], Any], kinds: Mapping[str, str]
    ) -> None:
        """Raise unless the rows of a parameter and its slots lie one after the other."""
        backend = self.backend
        for (_, full), array in arrays.items():
            wide = full is None or kinds[full] in ("param", "row")
            if wide and not axes_in_order(backend.shape(array), backend.strides(array)):
                raise ValueError(
                    f"{f'slot {full!r}' if full else 'the parameter'} of {entry.name!r} lies in "
                    "memory in another order than that of its axes, and its gradient has some "
                    "rows only: make it contiguous, or use sparse='dense'"
                )

    def _wanted(self, entry: Entry, asked: Asked) -> list[str]:
        """An entry's slots that exist or now should."""
        pipeline, truth = entry.pipeline, asked.truths[entry.group]
        narrow = self.backend.dtype(self.backend.real(entry.param)) in NARROW
        wanted = []
        for full, (stage, declared) in pipeline.slots.items():
            if declared.scope == "optimizer" or full.endswith((CLOCK, SEEN)):
                continue
            if full == COMPENSATION and full in pipeline.companions and not narrow:
                continue
            if self.state.get(entry, full) is not None or _present(
                pipeline, stage, declared, truth
            ):
                wanted.append(full)
        clocks = [full for full in pipeline.slots if full.endswith(CLOCK)]
        held = [full for full in clocks if self.state.get(entry, full) is not None]
        if not clocks or not (held or entry.index in asked.sparse):
            return wanted
        shape = tuple(self.backend.shape(entry.param))
        kinds = {full: slot_kind(pipeline.slots[full][1], shape, full) for full in wanted}
        made = self.program(entry, {}, kinds, asked)
        missed = decays(made.traced, pipeline, asked.zeros(entry.group))
        counted = dict.fromkeys([*(full.removesuffix(CLOCK) for full in held), *missed])
        return [*wanted, *(full + end for full in counted for end in (CLOCK, SEEN))]

    def kinds(self, entry: Entry, asked: Asked) -> dict[str, str]:
        """The kinds of shape of an entry's slots, those that exist and those that now should."""
        shape, declared = tuple(self.backend.shape(entry.param)), entry.pipeline.slots
        return {
            full: slot_kind(declared[full][1], shape, f"slot {full!r} of {entry.name!r}")
            for full in self._wanted(entry, asked)
        }

    def slots(
        self, entry: Entry, asked: Asked
    ) -> tuple[dict[str, Any], dict[str, str], set[str]]:
        """An entry's slots: those that exist, and new ones where they now should."""
        slots: dict[str, Any] = {}
        kinds = self.kinds(entry, asked)
        new: set[str] = set()
        shape, numbers = tuple(self.backend.shape(entry.param)), asked.numbers[entry.group]
        for full, kind in kinds.items():
            stage, declared = entry.pipeline.slots[full]
            array = self.state.get(entry, full)
            where = f"slot {full!r} of {entry.name!r}"
            wanted = slot_shape(kind, shape)
            if kind == "column" and len(self.backend.real(entry.param).shape) > len(shape):
                raise TypeError(
                    f"{where}: its parameter is complex, and a slot with one value a column is "
                    "not built for pairs of reals; give the optimizer torch.view_as_real(param)"
                )
            if array is None:
                array = self._created(entry, stage, declared, kind, wanted, numbers)
                if declared.init == "param" and entry.index in asked.sparse:
                    self.backend.copy(array, entry.param)  # also of rows that are touched later
                new.add(full)
            elif tuple(self.backend.shape(array)) != wanted:
                raise ValueError(
                    f"{where} has shape {tuple(self.backend.shape(array))}, its parameter "
                    f"{shape}: expected is {wanted}; remove it from the state to begin it anew"
                )
            elif self.backend.dtype(self.backend.real(array)) not in DTYPES:
                raise TypeError(
                    f"{where} is {self.backend.dtype(array)}; allowed is one of {', '.join(DTYPES)}"
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
        stored = self.backend.dtype(self.backend.real(entry.param))
        dtype = slot_dtype(declared, kind, stored, entry.pipeline.storage)
        real = self.backend.shape(self.backend.real(entry.param))
        if dtype in NARROW and len(real) > len(self.backend.shape(entry.param)):
            raise TypeError(
                f"state_dtype='bfloat16': {entry.name!r} is complex, and there are no complex "
                "numbers of 16-bit parts; use 'float32', or torch.view_as_real(param)"
            )
        return self.backend.slot(entry.param, shape, kind, dtype, fill)

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
        item = SIZES[backend.dtype(array)]
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
            layout = member.program.layout
            item = SIZES[layout.storage[layout.pointers["param", None]]]
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
