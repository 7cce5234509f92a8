"""What becomes of a rule: formula, graph, passes over memory, bytes moved, generated source."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pellucid.compose import Chain, Composed, Pipeline, Route, flatten, transformers_of
from pellucid.rule import ORDER, Stage
from pellucid.storage import NARROW, SIZES, Storage, compute_type, slot_dtype

if TYPE_CHECKING:
    from pellucid.fuse.graph import Rank
    from pellucid.fuse.program import Program
    from pellucid.fuse.segment import Pass

__all__ = ["ExplainedPass", "ExplainedProgram", "Explanation", "Section", "explain"]

DTYPES = ("float32", "float64", *NARROW)
"""Of parameters."""
WHY = {
    "reduce": "only reads: nothing is written before this is known of whole tensors",
    "columns": "only reads: nothing is written before this is known of whole columns",
    "final": "computes and writes everything that varies over a tensor",
    "commit": "then writes what has one value a tensor or a column",
}


@dataclass(frozen=True)
class ExplainedPass:
    """One walk over the tensors' memory: its kind, what it reads, sums and writes, its source.

    ``bytes`` are those read and written for each element of a parameter.
    """

    name: str
    kind: str
    reads: tuple[str, ...]
    sums: tuple[str, ...]
    writes: tuple[str, ...]
    bytes: int
    source: str


@dataclass(frozen=True)
class ExplainedProgram:
    """What runs for the parameters of one branch: all of them, where there is no route."""

    label: str
    stages: tuple[Stage, ...]
    asleep: tuple[str, ...]  # stages that `every` leaves out of this program
    graph: tuple[str, ...]
    passes: tuple[ExplainedPass, ...]
    numbers: str  # the source of what the host computes, once for each group and step

    @property
    def bytes(self) -> int:
        """Bytes moved for each element of a parameter, all passes together."""
        return sum(one.bytes for one in self.passes)


@dataclass(frozen=True)
class Section:
    """A part of the text: its title, and its body in a language, ``"text"`` or ``"python"``."""

    title: str
    body: str
    language: str = "text"


@dataclass(frozen=True, repr=False)
class Explanation:
    """All about one stage, chain or route; printed, it is a text. Made by `explain`."""

    stage: Composed
    dtype: str
    programs: tuple[ExplainedProgram, ...]
    not_fused: tuple[str, ...]

    def sections(self) -> Iterator[Section]:
        """The text's parts, in order."""
        kinds: dict[type[Stage], None] = dict.fromkeys(
            type(one) for program in self.programs for one in program.stages
        )
        for cls in kinds:
            yield Section(f"{cls.__name__}: a {cls.kind}", _formula(cls))
            yield Section(*_source(cls), "python")
        for program in self.programs:
            yield from self._of(program)
        yield Section("Not fused", "\n".join(self.not_fused) or "nothing")

    def _of(self, program: ExplainedProgram) -> Iterator[Section]:
        where = f" for {program.label}" if program.label else ""
        if program.asleep:
            where += f" in updates without {', '.join(program.asleep)}"
        yield Section(f"Graph{where}: {len(program.graph)} values", "\n".join(program.graph))
        count = f"{len(program.passes)} pass{'es' * (len(program.passes) != 1)}"
        moved = f"{program.bytes} bytes a parameter in {self.dtype}"
        yield Section(f"{count}{where}, {moved}", "\n".join(map(_described, program.passes)))
        if program.numbers:
            title = f"Numbers{where}, computed once for each group and step"
            yield Section(title, program.numbers, "python")
        for one in program.passes:
            yield Section(f"Generated source{where}: {one.name}", one.source, "python")

    def __str__(self) -> str:
        parts = [repr(self.stage)]
        for section in self.sections():
            body = textwrap.indent(section.body.rstrip(), "    ")
            parts.append(f"{section.title}\n{'-' * len(section.title)}\n{body}")
        return "\n\n".join(parts)

    __repr__ = __str__

    def __rich__(self) -> Any:
        from rich.console import Group
        from rich.rule import Rule as Line
        from rich.syntax import Syntax
        from rich.text import Text

        parts: list[Any] = [Text(repr(self.stage), "bold")]
        for section in self.sections():
            code = section.language == "python"
            body = section.body.rstrip()
            parts += [
                Line(Text(section.title, "bold"), align="left", style="dim"),
                Syntax(body, "python", theme="ansi_dark", word_wrap=True) if code else Text(body),
            ]
        return Group(*parts)


def explain(
    stage: Composed,
    *,
    dtype: str = "float32",
    ndim: int = 2,
    rounding: str = "nearest",
    state_dtype: str = "float32",
) -> Explanation:
    """What becomes of a rule, chain or route on its way to the processor.

    Args:
        stage: what to explain.
        dtype: of the parameters: ``"float32"``, ``"float64"``, ``"bfloat16"`` or ``"float16"``.
        ndim: dimensions of the parameters, for stages to which it matters.
        rounding, state_dtype: as torch's optimizers take them.

    Raises:
        RuleError: what is wrong with an update, with its file and line.

    >>> from pellucid import AdamW, chain, clip_by_global_norm
    >>> explanation = explain(chain(clip_by_global_norm(1.0), AdamW()))
    >>> [(one.kind, one.bytes) for one in explanation.programs[0].passes]
    [('reduce', 4), ('final', 28)]
    """
    if dtype not in DTYPES:
        raise ValueError(f"dtype is {dtype!r}; allowed is one of {', '.join(map(repr, DTYPES))}")
    storage = Storage(rounding, state_dtype)
    if not isinstance(ndim, int) or isinstance(ndim, bool) or ndim < 0:
        raise ValueError(f"ndim is {ndim!r}; allowed is a whole number from 0")
    programs = []
    for plain in _pipelines(stage):
        pipeline = replace(plain, storage=storage)
        programs.append(_explained(pipeline, dtype, ndim, ()))
        sleepers = tuple(one.name for one in pipeline.stages if one.every_steps > 1)
        if sleepers:
            programs.append(_explained(pipeline, dtype, ndim, sleepers))
    not_fused = tuple(
        f"{getattr(function, '__name__', repr(function))}: a plain function of (gradient, "
        "parameter) pairs, which cannot be traced; it runs before the kernel, on the framework's "
        "own arrays. A GradientTransform would be fused."
        for function in transformers_of(stage)
    )
    return Explanation(stage, dtype, tuple(programs), not_fused)


# -- programs ----------------------------------------------------------------------------------


def _pipelines(composed: Composed) -> list[Pipeline]:
    """The pipeline of each way through the routes."""
    made = []
    ordinals: dict[int, int] = {}
    for labels, stages in _ways(composed):
        ordered = sorted(stages, key=lambda one: ORDER.index(one.kind))
        numbers = tuple(ordinals.setdefault(id(one), len(ordinals)) for one in ordered)
        made.append(Pipeline(tuple(ordered), numbers, "/".join(labels)))
    return made


def _ways(composed: Composed) -> list[tuple[tuple[str, ...], tuple[Stage, ...]]]:
    if isinstance(composed, Route):
        return [
            ((pattern if isinstance(pattern, str) else f"branch {number}", *labels), stages)
            for number, (pattern, branch) in enumerate(composed.branches)
            for labels, stages in _ways(branch)
        ]
    if not isinstance(composed, Chain):
        return [((), (one,)) for one in flatten(composed) if isinstance(one, Stage)]
    ways: list[tuple[tuple[str, ...], tuple[Stage, ...]]] = [((), ())]
    for part in composed.stages:
        inner = _ways(part) if isinstance(part, Route) else [((), (part,))]
        ways = [
            ((*labels, *more), (*stages, *others))
            for labels, stages in ways
            for more, others in inner
        ]
    return ways


def _explained(
    pipeline: Pipeline, dtype: str, ndim: int, asleep: tuple[str, ...]
) -> ExplainedProgram:
    program = _program(pipeline, dtype, ndim, asleep)
    traced = program.traced
    results = [*traced.slots.items(), *traced.shared.items(), ("param", traced.param)]
    graph = [repr(node) for node in program.segmented.nodes]
    graph += [f"{name} <- %{node.index}" for name, node in results]
    graph += [f"veto <- %{node.index}" for node in traced.vetoes]
    return ExplainedProgram(
        pipeline.label,
        tuple(one for one in pipeline.stages if one.name not in asleep or one is pipeline.rule),
        asleep,
        tuple(graph),
        tuple(_explained_pass(program, one) for one in program.passes),
        _numbers(program),
    )


def _program(pipeline: Pipeline, dtype: str, ndim: int, asleep: tuple[str, ...]) -> Program:
    """The program for parameters of this type and so many dimensions, as an optimizer builds it."""
    from pellucid.fuse.engine import slot_kind
    from pellucid.fuse.program import program
    from pellucid.fuse.trace import Variant

    narrow, compute = dtype in NARROW, compute_type(dtype)
    kinds: dict[str, str] = {}
    types: dict[tuple[str, str | None], str] = {("param", None): dtype, ("grad", None): dtype}
    for full, (stage, declared) in pipeline.slots.items():
        if declared.scope == "optimizer" or not declared.present(_plain(stage)):
            continue
        if full in pipeline.companions and not narrow:
            continue
        kinds[full] = slot_kind(declared, (64, 32, 3, 3, 3)[:ndim], f"slot {full!r}")
        own = "float32" if kinds[full] == "scalar" and narrow else dtype
        types["slot", full] = slot_dtype(declared, kinds[full], dtype, pipeline.storage) or own
    options = tuple(sorted((full, pipeline.given[full]) for full in pipeline.options))
    variant = Variant(
        options,
        tuple(kinds.items()),
        frozenset(asleep),
        rounding=pipeline.storage.rounding if narrow else "nearest",
        stored=dtype if narrow else "",
    )
    storage = tuple((key, one) for key, one in types.items() if one != compute)
    return program(pipeline, variant, ndim, compute, storage)


def _plain(stage: Stage) -> dict[str, Any]:
    """A stage's numbers and choices; None for what a schedule drives."""
    return {
        name: value if name in stage.declared.options or isinstance(value, float) else None
        for name, value in stage.values.items()
    }


def _explained_pass(program: Program, one: Pass) -> ExplainedPass:
    from pellucid.fuse.graph import Rank

    read = {
        (node.op, node.data): node.rank
        for node in one.nodes
        if node.op in ("param", "grad", "slot", "extra") and node.rank != Rank.SCALAR
    }
    written: dict[tuple[str, Any], Rank] = {
        ("param", None) if name == "param" else ("slot", name): rank
        for name, rank in one.store_ranks
    }
    moved = sum(
        SIZES[program.layout.storage[program.layout.pointers[key]]]
        for where in (read, written)
        for key, rank in where.items()
        if rank == Rank.ELEMENT
    )
    return ExplainedPass(
        f"{one.kind}_{one.level}",
        one.kind,
        tuple(_name(key, rank) for key, rank in read.items()),
        tuple(f"{node.op} over {node.data[0]}" for node in one.reductions),
        tuple(_name(key, rank) for key, rank in written.items()),
        moved,
        program.sources[f"{one.kind}_{one.level}"],
    )


def _numbers(program: Program) -> str:
    from pellucid.fuse.emit import emit_scalars
    from pellucid.fuse.emit_numba import HOST

    nodes = {node.index: node for one in program.passes for node in one.scalars}
    return emit_scalars(program.segmented, [*nodes.values()], HOST, "scalars") if nodes else ""


# -- words -------------------------------------------------------------------------------------


def _name(key: tuple[str, Any], rank: Rank) -> str:
    op, name = key
    over = rank.name.lower()
    return (name or op) + (f" (one a {over})" if over != "element" else "")


def _formula(cls: type[Stage]) -> str:
    own = (cls.__doc__ or "").partition("\n\nArguments:\n")[0]
    return own.partition("\n\n>>>")[0]


def _source(cls: type[Stage]) -> tuple[str, str]:
    update: Any = inspect.getattr_static(cls, "update")
    try:
        source = textwrap.dedent(inspect.getsource(update))
    except (OSError, TypeError):
        source = "# the source is not kept: the class was defined at a prompt"
    return f"Source: {update.__qualname__}", source


def _described(one: ExplainedPass) -> str:
    lines = [
        f"{one.name}: {WHY[one.kind]}",
        f"    reads   {', '.join(one.reads)}",
        f"    sums    {', '.join(one.sums)}",
        f"    writes  {', '.join(one.writes)}",
        f"    moves   {one.bytes} bytes a parameter",
    ]
    return "\n".join(line for line in lines if line.split()[1:])
