"""``compiled=False``: runs each ``update`` line by line on the framework's arrays.

``print`` and a debugger work inside it. Reductions over all tensors, which no line can compute
from one tensor alone, come from an interpreted pass before, as `pellucid.fuse.pure` forms them; it
also runs the whole update where a host interprets graphs (``by_graph``). Everything is computed
before the first write.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy

from pellucid.controls import Reading
from pellucid.declare import Extra, Hyper, Option, Slot
from pellucid.fuse.engine import Asked, Entry, overlap_waves
from pellucid.fuse.interpret import bare, is_array, number, plain, random_numbers, reduce, stream_of
from pellucid.fuse.launch import Step
from pellucid.fuse.lazy import check_program
from pellucid.fuse.program import Program
from pellucid.fuse.pure import (
    Outcome,
    Tensor,
    Whole,
    interpreter,
    pure_update,
    reduce_over_all,
    sizes_of,
)
from pellucid.fuse.rows import Rows
from pellucid.fuse.trace import UNSCALE, traced_init
from pellucid.ops import TABLE, Over, RuleError, computing_with
from pellucid.rule import Rule, Stage
from pellucid.storage import CLOCK, COMPENSATION, NARROW, SEEN

if TYPE_CHECKING:
    from pellucid.host import Host

__all__ = ["eager_update"]


@dataclass
class Target:
    """One parameter of an update, and where its slots are written."""

    entry: Entry
    tensor: Tensor
    options: Mapping[str, Any]
    stored: Mapping[str, Any]  # its slots' arrays by full name, also those that are new
    kinds: Mapping[str, str]  # their kinds of shape
    rows: Any = None  # numbers of the rows that take part; None: all


@dataclass
class Assigned:
    """What the lines of one parameter's stages have given so far."""

    values: dict[str, Any] = field(default_factory=dict)  # ``param``, and slots by full name
    shared: dict[tuple[int, str], float] = field(default_factory=dict)
    vetoed: bool = False


class LineByLine:
    """The context of one stage's update on arrays; also carries out its operations."""

    def __init__(
        self, xp: Any, stage: Stage, target: Target, whole: Whole, assigned: Assigned
    ) -> None:
        self.xp, self.stage, self.target, self.whole = xp, stage, target, whole
        self.tensor, self.assigned = target.tensor, assigned
        self.pipeline = target.entry.pipeline
        self.ordinal = self.pipeline.ordinals[self.pipeline.stages.index(stage)]
        self.occurrences = 0
        self.reduced: tuple[Any, Any] = None, None  # the last reduction: rounded, and in float64
        self.inputs: tuple[Any, ...] = ()

    def _full(self, name: str) -> str:
        return self.pipeline.full(self.stage, name)

    # -- what a stage reads and writes -----------------------------------------------------

    def hyper(self, declared: Hyper) -> Any:
        return plain(self.tensor.values[self._full(declared.name)])

    def option(self, declared: Option) -> Any:
        return self.target.options[self._full(declared.name)]

    def step(self) -> Any:
        return plain(self.tensor.step)

    def extra(self, declared: Extra) -> Any:
        return plain(self.whole.extra(declared.name, self.tensor.index))

    def has(self, declared: Slot) -> bool:
        return declared.scope == "optimizer" or self._full(declared.name) in self.tensor.slots

    def is_new(self, declared: Slot) -> Any:
        return plain(self.tensor.new[self._full(declared.name)])

    def slot(self, declared: Slot) -> Any:
        full, values = self._full(declared.name), self.assigned.values
        if declared.scope == "optimizer":
            key = (self.ordinal, full)
            return plain(self.assigned.shared.get(key, self.whole.shared[key]))
        if full in values:
            return values[full]
        if not self.has(declared):
            raise RuleError(
                f"the slot `{declared.name}` is absent here, by its when=: ask "
                f"`if self.has({declared.name!r}):` first"
            )
        if self.tensor.new[full] and traced_init(declared):
            return self._first(declared)
        return plain(self._caught_up(full))

    def _caught_up(self, full: str) -> Any:
        """A slot as stored, times the decay that its rows missed if that is kept."""
        slots = self.tensor.slots
        if full + CLOCK not in slots:
            return slots[full]
        missed = self.xp.exp(slots[full + CLOCK] - slots[full + SEEN])
        return slots[full] * self.xp.cast(missed, self.tensor.program.compute)

    def _first(self, declared: Slot) -> Any:
        param, grad = self.inputs[0], self.inputs[1]
        if declared.init in ("param", "grad"):
            return param if declared.init == "param" else grad
        return declared.init(self.stage._bare(self), param, grad)

    def assign(self, declared: Slot, value: Any) -> None:
        full = self._full(declared.name)
        if declared.scope == "optimizer":
            self.assigned.shared[self.ordinal, full] = float(value)
        elif not self.has(declared):
            raise RuleError(f"the slot `{declared.name}` is absent here, by its when=")
        else:
            self.assigned.values[full] = value

    def veto(self, condition: Any) -> None:
        self._occurrence()
        if is_array(condition):
            condition = bool(condition.any())
        self.assigned.vetoed = self.assigned.vetoed or bool(condition)

    # -- operations ------------------------------------------------------------------------

    def _occurrence(self) -> tuple[int, int]:
        self.occurrences += 1
        return self.ordinal, self.occurrences

    def apply(self, name: str, args: tuple[Any, ...], over: Over | None) -> Any:
        return plain(self._applied(name, tuple(map(bare, args)), over))

    def _applied(self, name: str, args: tuple[Any, ...], over: Over | None) -> Any:
        kind = TABLE[name].kind
        if over == "all":
            node = self.tensor.program.traced.over_all[self._occurrence()]
            return interpreter(self.xp, self.tensor, self.whole)([node])[0]
        if kind == "reduction":
            made = reduce(self.xp, name, args[0], over or "tensor")
            if not is_array(made):
                return made
            narrow = self.xp.cast(made, self.tensor.program.compute)
            self.reduced = narrow, made
            return narrow
        if name == "sqrt" and args[0] is self.reduced[0]:  # as kernels form it: in float64
            rooted = self.xp.sqrt(self.reduced[1])
            return self.xp.cast(rooted, self.tensor.program.compute)
        if kind == "size":
            return self._size(args[0], over or "tensor")
        if kind == "random":
            made = random_numbers(
                self.xp, name, self.tensor.shape, self.whole.seed, stream_of(self._occurrence()),
                self.tensor.index, self.xp.whole(self.tensor.step), self.tensor.places,
            )  # fmt: skip
            return self.xp.cast(made, self.tensor.program.compute)
        if not any(is_array(arg) for arg in args):
            return number(name, args)
        define = TABLE[name].define
        assert define is not None
        return define(self.xp, *args)

    def _size(self, x: Any, over: str) -> float:
        if not is_array(x):
            return 1.0
        counted = {"tensor": "elements", "row": "columns", "column": "rows"}[over]
        shape = tuple(x.shape)
        if self.target.rows is not None:
            shape = (self.tensor.shape[0], *shape[1:])
        return float(sizes_of(shape)[counted])

    def run(self, *inputs: Any) -> Any:
        """What the stage's update returns for these arrays."""
        self.inputs = inputs
        with computing_with(self):
            return self.stage._bare(self).update(*inputs)


def _run_stages(xp: Any, target: Target, whole: Whole, asleep: frozenset[str]) -> Assigned:
    """What one parameter becomes, by its stages' own lines."""
    tensor, assigned = target.tensor, Assigned()
    before, grad, update = tensor.param, tensor.grad, None
    if COMPENSATION in tensor.slots and COMPENSATION in tensor.program.pipeline.companions:
        before = before + tensor.slots[COMPENSATION]
    if UNSCALE in whole.extras:
        grad = grad * whole.extras[UNSCALE]
    param = before
    for stage in target.entry.pipeline.stages:
        if stage.kind != "rule" and stage.name in asleep:
            continue
        context = LineByLine(xp, stage, target, whole, assigned)
        if isinstance(stage, Rule):
            seen = -grad if target.options["maximize"] else grad
            param = context.run(before, seen)
        elif stage.kind == "gradient transform":
            grad = context.run(before, grad)
        elif stage.kind == "update transform":
            update = context.run(before, grad, param - before if update is None else update)
            param = before + update
        else:
            param = context.run(param, before)
    assigned.values["param"] = param
    _store(xp, tensor, whole, assigned.values)
    return assigned


def _store(xp: Any, tensor: Tensor, whole: Whole, values: dict[str, Any]) -> None:
    """Round the parameter as its storage asks, and count what rows will have missed."""
    traced, run = tensor.program.traced, interpreter(xp, tensor, whole)
    exact, node = values["param"], traced.param
    if node.op in ("rounded", "rounded_randomly"):
        values["param"] = run.rounded(node.op, node.data, exact, tensor.step)
    if COMPENSATION in tensor.slots and COMPENSATION in tensor.program.pipeline.companions:
        values[COMPENSATION] = exact - values["param"]
    for full in traced.slots:
        if full.endswith((CLOCK, SEEN)):
            (values[full],) = run([traced.slots[full]])


def _line_by_line(
    xp: Any, targets: Sequence[Target], whole: Whole, asleep: frozenset[str]
) -> Outcome:
    reduce_over_all(xp, [target.tensor for target in targets], whole, unread=True)
    made = [_run_stages(xp, target, whole, asleep) for target in targets]
    shared: dict[tuple[int, str], Any] = {}
    for one in reversed(made):  # where groups give different numbers, the first one's stays
        shared.update(one.shared)
    return Outcome([one.values for one in made], shared, any(one.vetoed for one in made))


def _outcome(host: Host, targets: Sequence[Target], whole: Whole) -> Outcome:
    if host.by_graph:
        return pure_update(host.xp, [target.tensor for target in targets], whole)
    return _line_by_line(host.xp, targets, whole, host.asleep())


# -- the arrays that an update reads and writes -----------------------------------------------


def _targets(
    host: Host, gradients: Mapping[int, Any], readings: Sequence[Reading], asked: Asked
) -> list[Target]:
    active = [entry for entry in host.entries if entry.index in gradients]
    return [
        _target(host, entry, gradients[entry.index], readings[entry.group], asked)
        for entry in active
    ]


def _target(host: Host, entry: Entry, given: Any, reading: Reading, asked: Asked) -> Target:
    real = host.backend.real
    stored, kinds, new = host.engine.slots(entry, asked)
    made = host.engine.program(entry, stored, kinds, asked)
    rows = given.numbers if isinstance(given, Rows) else None
    if rows is not None:
        check_program(made, entry.name, True, entry.pipeline.storage.sparse)
    param = _in_rows(host, entry, entry.param)
    grad = _in_rows(host, entry, given) if rows is None else real(given.gradient())
    whole = tuple(param.shape)
    counter = host._step_of(entry)
    step = (host.updates if counter is None else int(counter)) + 1
    slots: dict[str, Any] = {
        full: float(real(array)) if kinds[full] == "scalar" else _shaped(param, real(array))
        for full, array in stored.items()
    }
    places = None
    if rows is not None:
        places = host.xp.positions(whole)[rows]
        slots = {f: a[rows] if kinds[f] in ("param", "row") else a for f, a in slots.items()}
    tensor = Tensor(
        entry.index, made, whole, _param(host, entry, made, rows), _computed(host, made, grad),
        {full: _computed(host, made, array) for full, array in slots.items()},
        {full: full in new for full in entry.pipeline.slots}, reading.values, float(step), places,
    )  # fmt: skip
    return Target(entry, tensor, reading.options, stored, kinds, rows)


def _param(host: Host, entry: Entry, made: Program, rows: Any) -> Any:
    """A parameter, or some of its rows, as an update reads it."""
    param = _in_rows(host, entry, entry.param)
    return _computed(host, made, param if rows is None else param[rows])


def _in_rows(host: Host, entry: Entry, array: Any) -> Any:
    """A parameter, or what is shaped like it: one complex number is one row of two reals."""
    array = host.backend.real(array)
    single = not host.backend.shape(entry.param) and array.shape
    return array.reshape((1, 2)) if single else array


def _computed(host: Host, made: Program, array: Any) -> Any:
    """An array that is stored in 16 bits, in the type that the update computes in."""
    if is_array(array) and host.backend.dtype(array) in NARROW:
        return host.xp.cast(array, made.compute)
    return array


def _shaped(param: Any, array: Any) -> Any:
    """A slot's array that broadcasts against a complex parameter's pairs of reals."""
    shape = tuple(param.shape)
    if len(shape) == len(array.shape):
        return array
    if math.prod(array.shape) == math.prod(shape):
        return array.reshape(shape)
    return array.reshape((*array.shape, *[1] * (len(shape) - len(array.shape))))


def _extras(
    host: Host, targets: Sequence[Target], extras: Mapping[str, Any]
) -> dict[str, Any]:
    """Extra inputs as updates read them; of parameters, those rows that take part."""

    def read(target: Target, array: Any) -> Any:
        array = host.backend.real(array)
        some = array if target.rows is None else array[target.rows]
        return _computed(host, target.tensor.program, some)

    return {
        name: {one.entry.index: read(one, value[one.entry.index]) for one in targets}
        if isinstance(value, Mapping)
        else value
        for name, value in extras.items()
    }


def _write(host: Host, targets: Sequence[Target], values: Sequence[Mapping[str, Any]]) -> None:
    backend = host.backend
    writes = []
    for target, after in zip(targets, values, strict=True):
        for full, value in after.items():
            array = target.entry.param if full == "param" else target.stored[full]
            into = backend.real(array)
            # a value may be another slot's own array, which is about to be written
            if is_array(value):
                value = backend.contiguous(value)
                if len(value.shape) > len(into.shape):  # a row's slot of pairs of reals
                    value = value.reshape(tuple(into.shape))
            some = full == "param" or target.kinds[full] in ("param", "row")
            writes.append((into, target.rows if some else None, value))
    for into, rows, value in writes:
        if rows is None:
            backend.fill(into, value)
        else:
            backend.fill_rows(into, rows, value)


def _write_in_waves(
    host: Host, targets: Sequence[Target], whole: Whole, values: Sequence[Mapping[str, Any]]
) -> None:
    """Write all; parameters that overlap are updated one after the other, as by a loop."""
    real = host.backend.real
    waves = overlap_waves([host.engine.span(real(target.entry.param)) for target in targets])
    for wave in range(max(waves, default=0) + 1):
        places = [place for place, own in enumerate(waves) if own == wave]
        chosen = [targets[place] for place in places]
        for target in chosen if wave else []:  # what earlier waves wrote, it sees
            target.tensor.param = _param(host, target.entry, target.tensor.program, target.rows)
        found = _outcome(host, chosen, whole).values if wave else [values[p] for p in places]
        _write(host, chosen, found)


def eager_update(
    host: Host,
    gradients: dict[int, Any],
    readings: Sequence[Reading],
    asked: Asked,
    step: Step,
    extras: Mapping[str, Any],
) -> bool:
    """One update without a kernel; False if it was vetoed."""
    targets = _targets(host, gradients, readings, asked)
    whole = Whole(host.seed, step.shared, _extras(host, targets, extras))
    with numpy.errstate(all="ignore"):  # infinities and NaN pass silently, as in a kernel
        outcome = _outcome(host, targets, whole)
        if outcome.veto:
            return False
        _write_in_waves(host, targets, whole, outcome.values)
    for target in targets:
        for full, array in target.stored.items():
            if target.tensor.new[full]:
                host.arrays.put(target.entry, full, array)
        host._advance(target.entry)
    step.shared.update((key, float(value)) for key, value in outcome.shared.items())
    return True

