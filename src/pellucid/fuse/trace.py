"""Runs each ``update`` once on symbols, and records what it computes and assigns."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pellucid.compose import Pipeline
from pellucid.declare import Extra, Hyper, Option, Ref, Slot
from pellucid.fuse.catch_up import caught_up, counted_decays
from pellucid.fuse.graph import Graph, Node, Rank
from pellucid.ops import TABLE, Over, RuleError, Symbol, is_number
from pellucid.rule import Rule, Stage
from pellucid.storage import COMPENSATION

__all__ = ["Traced", "Variant", "trace", "traced_init"]

SLOT_RANKS: dict[str, Rank] = {
    "param": Rank.ELEMENT,
    "row": Rank.ROW,
    "column": Rank.COLUMN,
    "scalar": Rank.TENSOR,
}


@dataclass(frozen=True)
class Variant:
    """What a trace depends on beside the pipeline: all of it plain Python inside ``update``."""

    options: tuple[tuple[str, Any], ...]  # full name, choice
    slots: tuple[tuple[str, str], ...]  # full name of each present slot, its kind of shape
    asleep: frozenset[str] = frozenset()  # stages that `every` leaves out of this update
    ndim: int | None = None  # None: the first trace finds out whether it matters
    rounding: str = "nearest"  # of a parameter that is stored in 16 bits
    stored: str = ""  # as which of those types
    scaled: bool = False  # gradients are to be divided by a scale
    zeros: frozenset[str] = frozenset()  # hyperparameters that are 0, where that decides


@dataclass
class Traced:
    """What one pipeline computes for a parameter."""

    graph: Graph
    param: Node  # the new parameter
    update: Node | None  # what is added to the parameter, where a rule gives it so
    slots: dict[str, Node] = field(default_factory=dict)  # new values, by full name
    shared: dict[str, Node] = field(default_factory=dict)  # of optimizer-wide slots
    vetoes: list[Node] = field(default_factory=list)  # scalar conditions
    over_all: dict[tuple[int, int], Node] = field(default_factory=dict)  # by occurrence
    ranks: dict[str, Rank] = field(default_factory=dict)  # of each present slot
    ndim_matters: bool = False
    exact: list[Node] = field(default_factory=list)  # what the stages give, before rounding


def traced_init(declared: Slot) -> bool:
    """Whether a slot's first value is part of the graph (else it is filled in on creation)."""
    return declared.init in ("param", "grad") or (
        callable(declared.init) and not isinstance(declared.init, Ref)
    )


class Tracer:
    """The context of one stage's update while it is traced; see `pellucid.rule.Context`."""

    def __init__(self, stage: Stage, pipeline: Pipeline, variant: Variant, into: Traced) -> None:
        self.stage, self.pipeline, self.variant, self.into = stage, pipeline, variant, into
        self.graph = into.graph
        self.ordinal = pipeline.ordinals[pipeline.stages.index(stage)]
        self.options, self.kinds = dict(variant.options), dict(variant.slots)
        self.current: dict[str, Node] = {}
        self.inputs: tuple[Symbol, ...] = ()
        self.occurrences = 0

    # -- symbols ---------------------------------------------------------------------------

    def symbol(self, node: Node) -> Symbol:
        return _Symbol(self, node)

    def node(self, value: Any) -> Node:
        """The node of what an update computes with."""
        if isinstance(value, Symbol):
            if value.executor is not self:
                raise RuleError("a value of another update's trace was kept and used again")
            return value.node  # type: ignore[no-any-return]
        if isinstance(value, bool):
            return self.graph.leaf("const", value, Rank.SCALAR, boolean=True)
        if is_number(value):
            return self.graph.const(value)
        raise RuleError(
            f"an update computes with its own values and plain numbers, got {value!r} "
            f"({type(value).__name__}): declare what it needs as hyper(), slot() or extra()"
        )

    def apply(self, name: str, args: tuple[Any, ...], over: Over | None) -> Symbol:
        row = TABLE[name]
        nodes = tuple(self.node(arg) for arg in args)
        for position, node in enumerate(nodes):
            wants = row.kind == "logic" or (name == "where" and position == 0)
            if node.boolean != wants and not (name == "where" and position > 0):
                have, need = ("a condition", "a number") if node.boolean else ("a number", "one")
                raise RuleError(
                    f"ops.{name} was given {have} where it takes {need if node.boolean else 'a '}"
                    f"{'' if node.boolean else 'condition'}: use ops.where(condition, 1.0, 0.0) "
                    "to make numbers of conditions, and comparisons to make conditions"
                )
        if name == "where" and nodes[1].boolean != nodes[2].boolean:
            raise RuleError("ops.where was given a condition and a number to choose from")
        data: Any = None
        if row.kind in ("reduction", "size"):
            return self._reduction(name, nodes, over or "tensor")
        if row.kind == "random":
            data, nodes = self._occurrence(), (self.step().node,)
        return self.symbol(self.graph.make(name, nodes, data))

    def _reduction(self, name: str, nodes: tuple[Node, ...], over: Over) -> Symbol:
        key = self._occurrence() if over == "all" else None
        if name == "size":
            node = self._size(nodes[0], over)
        else:
            node = self.graph.make(name, nodes, (over, key))
        if key is not None:
            self.into.over_all[key] = node
        return self.symbol(node)

    def _occurrence(self) -> tuple[int, int]:
        self.occurrences += 1
        return self.ordinal, self.occurrences

    def _size(self, node: Node, over: Over) -> Node:
        """How many elements a reduction of this node adds up, as a leaf."""
        counted = {
            Rank.SCALAR: {},
            Rank.TENSOR: {"all": "tensors"},
            Rank.ROW: {"tensor": "rows", "column": "rows", "all": "all rows"},
            Rank.COLUMN: {"tensor": "columns", "row": "columns", "all": "all columns"},
            Rank.ELEMENT: {
                "tensor": "elements",
                "row": "columns",
                "column": "rows",
                "all": "all elements",
            },
        }[node.rank].get(over)
        if counted is None:
            return self.graph.const(1.0)
        every_tensor = counted.startswith("all ") or counted == "tensors"
        return self.graph.leaf("size", counted, Rank.SCALAR if every_tensor else Rank.TENSOR)

    # -- what a stage reads and writes -----------------------------------------------------

    def hyper(self, declared: Hyper) -> Symbol:
        full = self.pipeline.full(self.stage, declared.name)
        return self.symbol(self.graph.leaf("hyper", full, Rank.SCALAR))

    def option(self, declared: Option) -> Any:
        return self.options[self.pipeline.full(self.stage, declared.name)]

    def step(self) -> Symbol:
        return self.symbol(self.graph.leaf("step", None, Rank.SCALAR))

    def extra(self, declared: Extra) -> Symbol:
        rank = Rank.SCALAR if declared.shape == "scalar" else Rank.ELEMENT
        return self.symbol(self.graph.leaf("extra", declared.name, rank))

    def has(self, declared: Slot) -> bool:
        full = self.pipeline.full(self.stage, declared.name)
        return declared.scope == "optimizer" or full in self.kinds

    def _present(self, declared: Slot) -> str:
        full = self.pipeline.full(self.stage, declared.name)
        if not self.has(declared):
            raise RuleError(
                f"the slot `{declared.name}` is absent here, by its when=: ask "
                f"`if self.has({declared.name!r}):` first"
            )
        return full

    def is_new(self, declared: Slot) -> Symbol:
        full = self._present(declared)
        if declared.scope == "optimizer":
            raise RuleError(f"is_new({declared.name!r}): an optimizer-wide slot is never new")
        return self.symbol(self.graph.leaf("is_new", full, Rank.TENSOR, boolean=True))

    def slot(self, declared: Slot) -> Symbol:
        full = self._present(declared)
        if full not in self.current:
            self.current[full] = self._stored(declared, full)
        return self.symbol(self.current[full])

    def _stored(self, declared: Slot, full: str) -> Node:
        if declared.scope == "optimizer":
            key = (self.ordinal, full)
            return self.graph.leaf("shared", key, Rank.SCALAR)
        stored = caught_up(self.graph, full, self.into.ranks)
        if not traced_init(declared):
            return stored
        first = self._first(declared)
        self._check_rank(declared, full, first)
        return self.graph.make("where", (self.is_new(declared).node, first, stored))

    def _first(self, declared: Slot) -> Node:
        param, grad = self.inputs[0], self.inputs[1]
        if declared.init == "param":
            return self.node(param)
        if declared.init == "grad":
            if "grad" not in self.stage._takes:
                raise RuleError(f"slot `{declared.name}`: a {self.stage.kind} has no gradient")
            return self.node(grad)
        return self.node(declared.init(self.stage._bare(self), param, grad))

    def assign(self, declared: Slot, value: Any) -> None:
        full = self._present(declared)
        node = self.node(value)
        self._check_rank(declared, full, node)
        self.current[full] = node
        if declared.scope == "optimizer":
            self.into.shared[f"{self.ordinal}:{full}"] = node
        else:
            self.into.slots[full] = node

    def _check_rank(self, declared: Slot, full: str, node: Node) -> None:
        rank = Rank.SCALAR if declared.scope == "optimizer" else SLOT_RANKS[self.kinds[full]]
        fits = node.rank <= rank and {node.rank, rank} != {Rank.ROW, Rank.COLUMN}
        if node.boolean or not fits:
            what = "a condition" if node.boolean else f"one value for each {node.rank.name.lower()}"
            raise RuleError(
                f"the slot `{declared.name}` holds one number for each {rank.name.lower()} and was "
                f"assigned {what}: reduce it first (ops.sum, mean, norm or max_abs with over=), or "
                "declare the slot with another shape"
            )

    def veto(self, condition: Any) -> None:
        node = self.node(condition)
        if not node.boolean:
            raise RuleError("veto takes a condition, such as ~ops.isfinite(x); got a number")
        key = self._occurrence()
        if node.rank != Rank.SCALAR:
            one, zero = self.graph.const(1.0), self.graph.const(0.0)
            number = self.graph.make("where", (node, one, zero))
            most = self.graph.make("max_abs", (number,), ("all", key))
            node = self.graph.make("gt", (most, zero))
        self.into.vetoes.append(node)

    def run(self, *inputs: Node) -> Node:
        """The node that the stage's update returns for these inputs."""
        self.inputs = tuple(self.symbol(node) for node in inputs)
        name = f"{type(self.stage).__name__}.update"
        result = located(name, self.stage._bare(self).update, *self.inputs)
        if result is None:
            raise RuleError(f"{name} returned None: return {_RETURNS[self.stage.kind]}")
        node: Node = located(name, self.node, result)
        if node.boolean:
            raise RuleError(f"{name} returned a condition, not numbers")
        return node


_RETURNS = {
    "rule": "the new parameter",
    "gradient transform": "the gradient",
    "update transform": "the update",
    "parameter transform": "the parameter",
}


class _Symbol(Symbol):
    """A symbol whose executor is a tracer, which notes that the rank was asked for."""

    __slots__ = ()

    @property
    def ndim(self) -> int:
        tracer: Tracer = self.executor  # type: ignore[assignment]
        tracer.into.ndim_matters = True
        if tracer.variant.ndim is None:
            raise NdimAsked
        return tracer.variant.ndim


UNSCALE = "grad.unscale"
"""The extra input by which scaled gradients are multiplied."""


class NdimAsked(Exception):  # a signal, not an error
    """The update asked for ``param.ndim``: trace it again for each number of dimensions."""


_CORE = {str(Path(__file__).resolve().parent.parent / name) for name in ("ops.py", "rule.py")}
_CORE |= {str(Path(__file__).resolve()), str(Path(__file__).resolve().parent.parent / "declare.py")}


def located(name: str, run: Callable[..., Any], *args: Any) -> Any:
    """Run a user's function; a mistake in it is reported with its rule, file and line."""
    try:
        return run(*args)
    except (RuleError, TypeError, ValueError) as error:
        if getattr(error, "located", False):
            raise
        frames = traceback.extract_tb(error.__traceback__)
        where = next((one for one in reversed(frames) if _is_users(one.filename)), None)
        place = f" ({where.filename}:{where.lineno}: `{where.line}`)" if where else ""
        hint = "" if isinstance(error, RuleError) else _REMEDY
        made = RuleError(f"{name}{place}: {error}{hint}")
        made.located = True  # type: ignore[attr-defined]
        raise made from error


_REMEDY = (
    ". An update is traced on symbols: compute with operators and pellucid.ops; "
    "compiled=False runs it on arrays, line by line"
)


def _is_users(filename: str) -> bool:
    return filename not in _CORE and not filename.startswith("<frozen")


def _spine(node: Node, param: Node) -> list[tuple[str, Node]] | None:
    """The terms that are added to and subtracted from ``param`` to give ``node``, or None."""
    if node is param:
        return []
    if node.op == "add":
        for kept, term in (node.args, reversed(node.args)):
            terms = _spine(kept, param)
            if terms is not None:
                return [*terms, ("add", term)]
    if node.op == "sub":
        terms = _spine(node.args[0], param)
        if terms is not None:
            return [*terms, ("sub", node.args[1])]
    return None


def update_of(graph: Graph, node: Node, param: Node) -> Node | None:
    """What ``node`` adds to ``param``, where it is written as a sum; never a difference of both."""
    terms = _spine(node, param)
    if terms is None:
        return None
    total: Node | None = None
    for sign, term in terms:
        if total is None:
            total = term if sign == "add" else graph.make("neg", (term,))
        else:
            total = graph.make(sign, (total, term))
    return total if total is not None else graph.const(0.0)


def trace(pipeline: Pipeline, variant: Variant) -> Traced:
    """Trace all stages of a pipeline into one graph."""
    try:
        return _trace(pipeline, variant)
    except NdimAsked:
        raise
    except RecursionError as error:
        raise RuleError(f"the update of {pipeline.rule!r} recurses without end") from error


def _trace(pipeline: Pipeline, variant: Variant) -> Traced:
    graph = Graph()
    before: Node = graph.leaf("param", None, Rank.ELEMENT)
    grad: Node = graph.leaf("grad", None, Rank.ELEMENT)
    into = Traced(graph, before, None)
    into.ranks = {name: SLOT_RANKS[kind] for name, kind in variant.slots}
    if COMPENSATION in into.ranks and COMPENSATION in pipeline.companions:
        # what the last rounding lost is part of the parameter
        before = graph.make("add", (before, graph.leaf("slot", COMPENSATION, Rank.ELEMENT)))
    if variant.scaled:
        grad = graph.make("mul", (grad, graph.leaf("extra", UNSCALE, Rank.SCALAR)))
    options: Mapping[str, Any] = dict(variant.options)
    for stage in pipeline.stages:
        if stage.kind != "rule" and stage.name in variant.asleep:
            continue
        tracer = Tracer(stage, pipeline, variant, into)
        if isinstance(stage, Rule):
            seen = graph.make("neg", (grad,)) if options["maximize"] else grad
            into.param = tracer.run(before, seen)
            into.update = update_of(graph, into.param, before)
        elif stage.kind == "gradient transform":
            grad = tracer.run(before, grad)
        elif stage.kind == "update transform":
            if into.update is None:
                into.update = graph.make("sub", (into.param, before))
            into.update = tracer.run(before, grad, into.update)
            into.param = graph.make("add", (before, into.update))
        else:
            into.param = tracer.run(into.param, before)
            into.update = None
    into.exact = [into.param, *into.slots.values(), *into.shared.values(), *into.vetoes]
    _round(into, variant)
    into.slots |= counted_decays(into, pipeline, variant.zeros)
    return into


def _round(into: Traced, variant: Variant) -> None:
    """Round the parameter to its storage's type, where a plain store would not do."""
    graph, exact = into.graph, into.param
    if variant.rounding == "stochastic":
        step = graph.leaf("step", None, Rank.SCALAR)
        into.param = graph.make("rounded_randomly", (exact, step), variant.stored)
    elif variant.rounding == "kahan":
        into.param = graph.make("rounded", (exact,), variant.stored)
        into.slots[COMPENSATION] = graph.make("sub", (exact, into.param))
