"""``compiled=False``: runs each ``update`` line by line on the framework's arrays.

``print`` and a debugger work inside it. Reductions over all tensors, which no line can compute
from one tensor alone, come from an interpreted pass before. Everything is computed before the
first write.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy

from pellucid.controls import Reading
from pellucid.declare import Extra, Hyper, Option, Slot
from pellucid.fuse.engine import Entry, overlap_waves
from pellucid.fuse.graph import Node, walk
from pellucid.fuse.interpret import (
    Interpreter,
    bare,
    is_array,
    number,
    plain,
    random_numbers,
    reduce,
    stream_of,
)
from pellucid.fuse.launch import Step
from pellucid.fuse.program import Program, program
from pellucid.fuse.segment import splits
from pellucid.fuse.trace import Variant, traced_init
from pellucid.ops import TABLE, Over, RuleError, computing_with
from pellucid.rule import Rule, Stage

if TYPE_CHECKING:
    from pellucid.host import Host

__all__ = ["eager_update"]


@dataclass
class Tensor:
    """One parameter in an eager update: its arrays before, and what is to be written after."""

    entry: Entry
    program: Program
    param: Any
    grad: Any
    slots: dict[str, Any]
    new: set[str]
    reading: Reading
    step: int
    extras: Mapping[str, Any]
    after: dict[str, Any] = field(default_factory=dict)
    shared: dict[tuple[int, str], float] = field(default_factory=dict)
    vetoed: bool = False


class LineByLine:
    """The context of one stage's update on arrays; also carries out its operations."""

    def __init__(self, host: Host, stage: Stage, tensor: Tensor, whole: Step) -> None:
        self.host, self.stage, self.tensor, self.whole = host, stage, tensor, whole
        self.pipeline = tensor.entry.pipeline
        self.ordinal = self.pipeline.ordinals[self.pipeline.stages.index(stage)]
        self.occurrences = 0
        self.reduced: tuple[Any, Any] = None, None  # the last reduction: rounded, and in float64
        self.inputs: tuple[Any, ...] = ()
        self.xp = host.xp

    def _full(self, name: str) -> str:
        return self.pipeline.full(self.stage, name)

    # -- what a stage reads and writes -----------------------------------------------------

    def hyper(self, declared: Hyper) -> Any:
        return plain(self.tensor.reading.values[self._full(declared.name)])

    def option(self, declared: Option) -> Any:
        return self.tensor.reading.options[self._full(declared.name)]

    def step(self) -> Any:
        return plain(float(self.tensor.step))

    def extra(self, declared: Extra) -> Any:
        value = self.tensor.extras[declared.name]
        return plain(value) if declared.shape == "scalar" else self.host.backend.real(
            value[self.tensor.entry.index]
        )

    def has(self, declared: Slot) -> bool:
        return declared.scope == "optimizer" or self._full(declared.name) in self.tensor.slots

    def is_new(self, declared: Slot) -> Any:
        return plain(self._full(declared.name) in self.tensor.new)

    def slot(self, declared: Slot) -> Any:
        full, tensor = self._full(declared.name), self.tensor
        if declared.scope == "optimizer":
            key = (self.ordinal, full)
            return plain(tensor.shared.get(key, self.whole.shared[key]))
        if full in tensor.after:
            return tensor.after[full]
        if full not in tensor.slots:
            raise RuleError(
                f"the slot `{declared.name}` is absent here, by its when=: ask "
                f"`if self.has({declared.name!r}):` first"
            )
        if full in tensor.new and traced_init(declared):
            return self._first(declared)
        return self._scalar(self.host.backend.real(tensor.slots[full]), full)

    def _scalar(self, array: Any, full: str) -> Any:
        """Slots of one value a tensor are plain numbers, as they are when compiled."""
        scalar = dict(self.tensor.program.variant.slots)[full] == "scalar"
        return plain(float(array)) if scalar else _shaped(self.tensor, array)

    def _first(self, declared: Slot) -> Any:
        param, grad = self.inputs[0], self.inputs[1]
        if declared.init in ("param", "grad"):
            return param if declared.init == "param" else grad
        return declared.init(self.stage._bare(self), param, grad)

    def assign(self, declared: Slot, value: Any) -> None:
        full = self._full(declared.name)
        if declared.scope == "optimizer":
            self.tensor.shared[self.ordinal, full] = float(value)
        elif not self.has(declared):
            raise RuleError(f"the slot `{declared.name}` is absent here, by its when=")
        else:
            self.tensor.after[full] = value

    def veto(self, condition: Any) -> None:
        self._occurrence()
        if is_array(condition):
            condition = bool(condition.any())
        self.tensor.vetoed = self.tensor.vetoed or bool(condition)

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
            return interpreter(self.host, self.tensor, self.whole)([node])[0]
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
            shape = tuple(self.tensor.param.shape)
            made = random_numbers(
                self.xp, name, shape, self.host.seed, stream_of(self._occurrence()),
                self.tensor.entry.index, self.tensor.step,
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
        shape = tuple(x.shape)
        rows = shape[0] if shape else 1
        counts = {"tensor": math.prod(shape), "row": math.prod(shape[1:]), "column": rows}
        return float(counts[over])

    def run(self, *inputs: Any) -> Any:
        """What the stage's update returns for these arrays."""
        self.inputs = inputs
        with computing_with(self):
            return self.stage._bare(self).update(*inputs)


def _shaped(tensor: Tensor, array: Any) -> Any:
    """A slot's array that broadcasts against a complex parameter's pairs of reals."""
    shape = tuple(tensor.param.shape)
    if len(shape) == len(array.shape):
        return array
    if math.prod(array.shape) == math.prod(shape):
        return array.reshape(shape)
    return array.reshape((*array.shape, *[1] * (len(shape) - len(array.shape))))


def _line_by_line(host: Host, tensor: Tensor, whole: Step, asleep: frozenset[str]) -> None:
    """Compute what one parameter becomes, by its stages' own lines."""
    before, grad, param, update = tensor.param, tensor.grad, tensor.param, None
    for stage in tensor.entry.pipeline.stages:
        if stage.kind != "rule" and stage.name in asleep:
            continue
        context = LineByLine(host, stage, tensor, whole)
        if isinstance(stage, Rule):
            seen = -grad if tensor.reading.options["maximize"] else grad
            param = context.run(before, seen)
        elif stage.kind == "gradient transform":
            grad = context.run(before, grad)
        elif stage.kind == "update transform":
            update = context.run(before, grad, param - before if update is None else update)
            param = before + update
        else:
            param = context.run(param, before)
    tensor.after["param"] = param


def _leaf(host: Host, tensor: Tensor, whole: Step, node: Node) -> Any:
    """The value of a leaf of a tensor's graph."""
    real = host.backend.real
    if node.op == "param":
        return tensor.param
    if node.op == "grad":
        return tensor.grad
    if node.op == "slot":
        scalar = dict(tensor.program.variant.slots)[node.data] == "scalar"
        array = tensor.slots[node.data]
        return float(array) if scalar else _shaped(tensor, real(array))
    if node.op == "hyper":
        return tensor.reading.values[node.data]
    if node.op == "step":
        return float(tensor.step)
    if node.op == "is_new":
        return node.data in tensor.new
    if node.op == "shared":
        return whole.shared[node.data]
    if node.op == "extra":
        value = tensor.extras[node.data]
        return real(value[tensor.entry.index]) if isinstance(value, dict) else value
    if splits(node):
        return whole.totals[node.op, node.data[1]]
    if node.data.startswith("all ") or node.data == "tensors":
        return float(whole.sizes[node.data])
    shape = tuple(tensor.param.shape)
    counts = {
        "elements": math.prod(shape),
        "rows": shape[0] if shape else 1,
        "columns": math.prod(shape[1:]),
    }
    return float(counts[node.data])


def interpreter(host: Host, tensor: Tensor, whole: Step) -> Interpreter:
    """Evaluates the graph of a tensor."""
    return Interpreter(
        host.xp,
        tensor.program.compute,
        tuple(tensor.param.shape),
        lambda node: _leaf(host, tensor, whole, node),
        host.seed,
        tensor.entry.index,
    )


def _global_totals(host: Host, tensors: Sequence[Tensor], whole: Step) -> None:
    """Reductions over all tensors, by interpretation of the graphs, level by level."""
    while True:
        missing = False
        found: dict[tuple[str, Any], float] = {}
        for tensor in tensors:
            for node in tensor.program.global_reductions:
                key = (node.op, node.data[1])
                if key in whole.totals:
                    continue
                if any(
                    splits(n) and n.data[0] == "all" and (n.op, n.data[1]) not in whole.totals
                    for n in walk(node.args)
                ):
                    missing = True
                    continue
                (value,) = interpreter(host, tensor, whole)([node.args[0]])
                part = reduce(host.xp, node.op, value, "tensor")
                before = found.get(key)
                found[key] = part if before is None else (
                    before + part if node.op != "max_abs" else number("maximum", (before, part))
                )
        whole.totals.update(found)
        if not missing:
            return


def _by_graph(host: Host, tensor: Tensor, whole: Step) -> None:
    """Compute what one parameter becomes, by interpretation of its graph."""
    traced = tensor.program.traced
    run = interpreter(host, tensor, whole)
    names = [*traced.slots, "param"]
    tensor.after = dict(zip(names, run([*traced.slots.values(), traced.param]), strict=True))
    tensor.vetoed = any(run(traced.vetoes))
    for name, value in zip(traced.shared, run(traced.shared.values()), strict=True):
        ordinal, _, full = name.partition(":")
        tensor.shared[int(ordinal), full] = float(value)


def _tensors(
    host: Host,
    gradients: Mapping[int, Any],
    readings: Sequence[Reading],
    extras: Mapping[str, Any],
) -> list[Tensor]:
    truths, asleep, real = host.truths(readings), host.asleep(), host.backend.real
    tensors = []
    for entry in host.entries:
        if entry.index not in gradients:
            continue
        reading = readings[entry.group]
        shape = tuple(host.backend.shape(entry.param))
        slots, kinds, new = host.engine.slots(entry, shape, truths[entry.group], reading.values)
        choices = tuple(sorted(reading.options.items()))
        variant = Variant(choices, tuple(kinds.items()), asleep)
        param = real(entry.param)
        made = program(entry.pipeline, variant, len(shape), host.backend.dtype(param))
        counter = host._step_of(entry)
        step = (host.updates if counter is None else int(counter)) + 1
        grad = real(gradients[entry.index])
        if not shape and param.shape:  # one complex number is one row of two reals
            param, grad = param.reshape((1, 2)), grad.reshape((1, 2))
        tensors.append(
            Tensor(entry, made, param, grad, slots, new, reading, step, extras)
        )
    return tensors


def _sizes(tensors: Sequence[Tensor]) -> dict[str, int]:
    sizes = {"tensors": len(tensors), "all rows": 0, "all columns": 0, "all elements": 0}
    for tensor in tensors:
        shape = tuple(tensor.param.shape)
        sizes["all rows"] += shape[0] if shape else 1
        sizes["all elements"] += math.prod(shape)
        sizes["all columns"] += math.prod(shape[1:])
    return sizes


def _write(host: Host, tensors: Sequence[Tensor]) -> None:
    backend = host.backend
    writes = []
    for tensor in tensors:
        for full, value in tensor.after.items():
            target = tensor.param if full == "param" else backend.real(tensor.slots[full])
            # a value may be another slot's own array, which is about to be written
            if is_array(value):
                value = backend.contiguous(value)
                if len(value.shape) > len(target.shape):  # a row's slot of pairs of reals
                    value = value.reshape(tuple(target.shape))
            writes.append((target, value))
    for target, value in writes:
        backend.fill(target, value)


def _compute(host: Host, tensor: Tensor, whole: Step) -> None:
    if host.by_graph:
        _by_graph(host, tensor, whole)
    else:
        _line_by_line(host, tensor, whole, host.asleep())


def _write_in_waves(host: Host, tensors: Sequence[Tensor], whole: Step) -> None:
    """Write all; parameters that overlap are updated one after the other, as by a loop."""
    params = [tensor.param for tensor in tensors]
    waves = overlap_waves([host.engine.span(param) for param in params])
    for wave in range(max(waves, default=0) + 1):
        chosen = [tensor for tensor, own in zip(tensors, waves, strict=True) if own == wave]
        for tensor in chosen if wave else ():
            tensor.after.clear()
            _compute(host, tensor, whole)
        _write(host, chosen)


def eager_update(
    host: Host,
    gradients: dict[int, Any],
    readings: Sequence[Reading],
    whole: Step,
    extras: Mapping[str, Any],
) -> bool:
    """One update without a kernel; False if it was vetoed."""
    tensors = _tensors(host, gradients, readings, extras)
    whole.sizes = _sizes(tensors)
    with numpy.errstate(all="ignore"):  # infinities and NaN pass silently, as in a kernel
        _global_totals(host, tensors, whole)
        for tensor in tensors:
            _compute(host, tensor, whole)
        if any(tensor.vetoed for tensor in tensors):
            return False
        _write_in_waves(host, tensors, whole)
    for tensor in tensors:
        entry = tensor.entry
        for full in tensor.slots:
            if full in tensor.new:
                host.arrays.put(entry, full, tensor.slots[full])
        host._advance(entry)
    fresh: dict[tuple[int, str], float] = {}
    for tensor in tensors:
        for key, value in tensor.shared.items():
            fresh.setdefault(key, value)
    whole.shared.update(fresh)
    return True

