"""A program: one pipeline's update for one set of choices and storage types, ready to launch.

Programs are shared: equal graphs are one kernel, whatever the shapes.
"""

from __future__ import annotations

import inspect
import itertools
import linecache
import weakref
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy

from pellucid.compose import Pipeline
from pellucid.fuse.cache import compiled
from pellucid.fuse.emit import Layout, emit_pass, emit_scalars
from pellucid.fuse.emit_numba import HOST, HOST_NAMES, NUMBA
from pellucid.fuse.graph import Node, Rank, walk
from pellucid.fuse.segment import Pass, Segmented, segment, splits
from pellucid.fuse.trace import NdimAsked, Traced, Variant, trace

__all__ = ["Program", "program", "runtime_function"]

Numbers = Callable[..., tuple[float, ...]]
Key = tuple[str, str | None]
"""What a column of the pointer table points at: ("param", None), ("slot", name), ..."""


@dataclass(frozen=True)
class Numbered:
    """A host function of some scalar nodes, and the columns of `scalars` that it fills."""

    compute: Numbers
    columns: Any  # integers


class Program:
    """All kernels of a pipeline's variant, with the layout of the tables that they read."""

    def __init__(
        self,
        pipeline: Pipeline,
        variant: Variant,
        compute: str,
        storage: tuple[tuple[Key, str], ...],
    ) -> None:
        self.pipeline, self.variant, self.compute = pipeline, variant, compute
        self.segmented: Segmented = segment(trace(pipeline, variant))
        self.storage = dict(storage)  # of what has another type than the compute type
        self.layout = self._layout()

    @property
    def traced(self) -> Traced:
        return self.segmented.traced

    @property
    def passes(self) -> tuple[Pass, ...]:
        return self.segmented.passes

    def _layout(self) -> Layout:
        compute = self.compute
        pointers: dict[Key, int] = {("param", None): 0, ("grad", None): 1}
        for name, _ in self.variant.slots:
            pointers["slot", name] = len(pointers)
        for name, (_, declared) in self.pipeline.extras.items():
            if declared.shape == "param":
                pointers["extra", name] = len(pointers)
        storage = {column: self.storage.get(key, compute) for key, column in pointers.items()}
        totals: dict[int, int] = {}
        count = 0
        for one in self.passes:
            for node in one.reductions:
                if node.rank == Rank.COLUMN:
                    totals[node.index] = len(storage)
                    storage[len(storage)] = "float64"
                else:
                    totals[node.index] = count
                    count += 1
        scalars: dict[int, int] = {}
        for one in self.passes:
            for node in one.scalars:
                scalars.setdefault(node.index, len(scalars))
        flags = {
            name: bit
            for bit, (name, _) in enumerate(self.variant.slots)
            if self.asks_new(name)
        }
        return Layout(pointers, storage, scalars, totals, flags)

    def asks_new(self, name: str) -> bool:
        """Whether the program asks if a slot is new."""
        return any(n.op == "is_new" and n.data == name for n in self.segmented.nodes)

    @property
    def global_reductions(self) -> list[Node]:
        """Reductions over all tensors that the update asks for, used or not."""
        asked = [n for n in walk(self.traced.over_all.values()) if splits(n) and n.data[0] == "all"]
        return list(dict.fromkeys([*self.segmented.global_reductions, *asked]))

    @property
    def step_column(self) -> int:
        """The column of the pointer table that may hold addresses of step counters: the last."""
        return len(self.layout.storage)

    @property
    def column_totals(self) -> list[int]:
        """Columns of the pointer table that point at sums for each column."""
        nodes = [n for one in self.passes for n in one.reductions if n.rank == Rank.COLUMN]
        return [self.layout.totals[node.index] for node in nodes]

    @property
    def width_of_totals(self) -> int:
        return sum(n.rank != Rank.COLUMN for one in self.passes for n in one.reductions)

    # -- numbers, on the host --------------------------------------------------------------

    def _function(self, wanted: list[Node], name: str) -> Numbers:
        source = emit_scalars(self.segmented, wanted, HOST, name)
        rule = type(self.pipeline.rule).__name__
        filename = f"<pellucid {name} of {rule} {next(_numbers)}>"
        linecache.cache[filename] = (len(source), None, source.splitlines(True), filename)
        weakref.finalize(self, linecache.cache.pop, filename, None)
        scope = dict(HOST_NAMES)
        exec(compile(source, filename, "exec"), scope)
        return scope[name]  # type: ignore[no-any-return]

    @cached_property
    def numbers(self) -> dict[int, Numbered]:
        """For each level of passes: what computes the numbers that they read."""
        made = {}
        for level in {one.level for one in self.passes}:
            nodes = {
                n.index: n for one in self.passes if one.level == level for n in one.scalars
            }
            columns = numpy.array([self.layout.scalars[index] for index in nodes], numpy.int64)
            made[level] = Numbered(self._function([*nodes.values()], "scalars"), columns)
        return made

    @cached_property
    def vetoes(self) -> Numbers | None:
        """Computes the conditions under which the whole update is skipped."""
        wanted = self.traced.vetoes
        return self._function(wanted, "vetoes") if wanted else None

    @cached_property
    def shared(self) -> Numbers | None:
        """Computes the new values of optimizer-wide slots, in the order of ``traced.shared``."""
        wanted = [*self.traced.shared.values()]
        return self._function(wanted, "shared_slots") if wanted else None

    # -- kernels ---------------------------------------------------------------------------

    @cached_property
    def sources(self) -> dict[str, str]:
        """The generated source of each pass, by its function's name."""
        return {
            f"{one.kind}_{one.level}": emit_pass(one, self.layout, NUMBA) for one in self.passes
        }

    @cached_property
    def kernels(self) -> dict[str, Any]:
        """The compiled function of each pass, by name."""
        from pellucid.fuse import runtime

        made = {}
        for name, source in self.sources.items():
            used = {c: d for c, d in self.layout.storage.items() if f"_{c}(" in source}
            header = f"# compute type {self.compute}; storage {used}\n"
            made[name] = compiled(
                header + source,
                name,
                lambda used=used: runtime.namespace(self.compute, used),  # type: ignore[misc]
                runtime.SIGNATURE,
                runtime.FLAGS,
            )
        return made


_numbers = itertools.count()
_programs: dict[tuple[Any, ...], Program] = {}


def program(
    pipeline: Pipeline,
    variant: Variant,
    ndim: int,
    compute: str,
    storage: tuple[tuple[Key, str], ...] = (),
) -> Program:
    """The program of a pipeline's variant; made once for each pipeline object."""
    key: tuple[Any, ...] = (id(pipeline), variant, compute, storage)
    kept = _programs.get(key)
    if kept is None:
        kept = _programs.get((*key, ndim))
    if kept is not None and kept.pipeline is pipeline:
        return kept
    try:
        made = Program(pipeline, variant, compute, storage)
    except NdimAsked:
        asked = replace(variant, ndim=ndim)
        made = Program(pipeline, asked, compute, storage)
        key = (*key, ndim)
    if len(_programs) > 512:
        _programs.clear()
    _programs[key] = made
    return made


def runtime_function(
    function: Callable[..., Any], signature: Any, nogil: bool = True
) -> Any:
    """A helper of the launch, compiled through the same cache as kernels.

    With ``nogil=False`` no other Python thread runs meanwhile: it may then look at Python objects.
    """
    from pellucid.fuse import runtime

    return compiled(
        inspect.getsource(function),
        function.__name__,
        lambda: runtime.namespace("float32", {0: "float32", 1: "int64"}),
        signature,
        {**runtime.FLAGS, "nogil": nogil},
    )

