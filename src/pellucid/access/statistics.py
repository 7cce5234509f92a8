"""Statistics of an optimizer's parameters, gradients and state, and what they say is wrong."""

from __future__ import annotations

import html
import io
import json
import math
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from rich import box
from rich.console import Console, RenderableType
from rich.console import Group as Stack
from rich.table import Table
from rich.text import Text

from pellucid.access.sources import Cell, Group, Owner, Source
from pellucid.fuse.measure import Change, Squares, Survey, copies, quantiles_of_rate
from pellucid.fuse.pool import threads as pool_threads

if TYPE_CHECKING:
    from rich.console import ConsoleOptions, RenderResult

__all__ = ["Flag", "ParameterStatistics", "Statistics", "measured", "statistics_of"]

LARGEST_RATIO = 0.3
"""Of the update to the parameter, both as root mean squares, in one update.

Healthy runs stay below 0.15, their first steps included; 100 times a usual rate is above 0.35.
"""
WIDEST = 36
"""Of the column of names: longer ones are folded."""
LEFT = ("parameter", "flags", "shape", "dtype")
STEP = "step"  # a counter among the slots of torch: of no interest by its norm


@dataclass(frozen=True)
class Flag:
    """Something that is probably wrong, in plain words."""

    kind: str  # "nonfinite", "rate", "frozen" or "unused": the worst first
    parameter: str
    text: str

    def __str__(self) -> str:
        return f"{self.parameter}: {self.text}"


KINDS = ("nonfinite", "rate", "frozen", "unused")


@dataclass
class ParameterStatistics:
    """One parameter's; None is what is not known. Norms are roots of sums of squares."""

    name: str
    group: str
    shape: tuple[int, ...] = ()
    dtype: str = ""
    bytes: int = 0  # of the parameter and its state
    numbers: int = 0
    norm: float | None = None
    grad_norm: float | None = None
    slots: dict[str, float] = field(default_factory=dict)  # norms by canonical name
    update_norm: float | None = None  # of the true change
    update_ratio: float | None = None  # update_norm / norm
    cosine: float | None = None  # of the change and minus the gradient
    rate_quantiles: tuple[float, ...] | None = None  # of the effective rate: 0, 25, 50, 75, 100 %
    epsilon_share: float | None = None  # of elements with sqrt(v) < epsilon, v corrected
    nonfinite: dict[str, int] = field(default_factory=dict)  # "parameter", "gradient", or a slot
    untouched: list[str] = field(default_factory=list)  # slots still zero or absent after updates
    grad_missing: bool = False


class Statistics(Mapping[str, ParameterStatistics]):
    """What `View.statistics` and `View.measure` found, by the parameters' names.

    Printed it is a table, the worst parameters first, and below it the `flags`.
    """

    def __init__(self, title: str = "") -> None:
        self.title = title
        self.updates: int | None = None  # inside the measured block; None without one
        self.flags: list[Flag] = []
        self.notes: list[str] = []  # what could not be measured, and why
        self._found: dict[str, ParameterStatistics] = {}

    def __getitem__(self, label: str) -> ParameterStatistics:
        return self._found[label]

    def __iter__(self) -> Iterator[str]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)

    @property
    def rows(self) -> list[tuple[str, ParameterStatistics]]:
        """Labels and statistics: flagged ones first, by how bad, then by update ratio."""
        worst: dict[str, int] = {}
        for flag in self.flags:
            rank = KINDS.index(flag.kind)
            worst[flag.parameter] = min(rank, worst.get(flag.parameter, rank))

        def badness(row: tuple[str, ParameterStatistics]) -> tuple[int, float]:
            ratio = row[1].update_ratio
            known = ratio is not None and math.isfinite(ratio)
            return worst.get(row[0], len(KINDS)), -ratio if known and ratio is not None else 0.0

        return sorted(self._found.items(), key=badness)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data; NaN and infinities as text."""
        made: dict[str, Any] = _plain(
            {
                "title": self.title,
                "updates": self.updates,
                "flags": [asdict(flag) for flag in self.flags],
                "notes": list(self.notes),
                "parameters": {label: asdict(one) for label, one in self._found.items()},
            }
        )
        return made

    def to_json(self, indent: int | None = 2) -> str:
        """The text of `to_dict`."""
        return json.dumps(self.to_dict(), indent=indent, ensure_ascii=False, allow_nan=False)

    # -- showing ---------------------------------------------------------------------------

    def _cells(self) -> tuple[list[str], list[list[str]]]:
        """The headings of the table, and its rows."""
        rows = self.rows
        slots = list(dict.fromkeys(slot for _, one in rows for slot in one.slots))
        kinds: dict[str, list[str]] = {}
        for flag in self.flags:
            if flag.kind not in kinds.setdefault(flag.parameter, []):
                kinds[flag.parameter].append(flag.kind)
        change = self.updates is not None
        headings = ["parameter", "flags", "norm", "gradient"]
        headings += ["update/norm", "cosine"] if change else []
        headings += ["median rate", "√v < ε", "shape", "dtype", *slots]
        cells = []
        for label, one in rows:
            row = [label, " ".join(kinds.get(label, []))]
            row += [_number(one.norm), _number(one.grad_norm)]
            row += [_number(one.update_ratio), _number(one.cosine)] if change else []
            row.append(_number(one.rate_quantiles[2]) if one.rate_quantiles else "-")
            row.append("-" if one.epsilon_share is None else f"{one.epsilon_share:.1%}")
            row += ["×".join(map(str, one.shape)) or "1", one.dtype]
            row += [_number(one.slots.get(slot)) for slot in slots]
            cells.append(row)
        return headings, cells

    def _summary(self) -> list[str]:
        size = sum(one.bytes for one in self._found.values())
        numbers = sum(one.numbers for one in self._found.values())
        lines = [
            f"{self.title}, {numbers:,} numbers, {size:,} bytes with their state"
            if self._found
            else f"{self.title}: nothing measured yet"
        ]
        if self.updates is not None:
            lines[0] += f"; measured over {self.updates} update{'s' * (self.updates != 1)}"
        return lines

    def _below(self) -> list[str]:
        lines = [f"{flag.kind}: {flag}" for flag in self.flags]
        if self._found and not lines:
            lines = ["no flags"]
        return lines + [f"note: {note}" for note in self.notes]

    def _renderable(self, width: int, ascii_only: bool) -> Stack:
        headings, cells = self._cells()
        shape = box.ASCII if ascii_only else box.SIMPLE_HEAD
        parts: list[RenderableType] = [Text(line) for line in self._summary()]
        for band in _bands(headings, cells, width) if cells else ():
            table = Table(box=shape, header_style="bold", pad_edge=False, show_edge=False)
            for number in band:
                side: Any = "left" if headings[number] in LEFT else "right"
                fold = number == 0
                table.add_column(
                    Text(headings[number]), justify=side, overflow="fold", no_wrap=not fold,
                    max_width=WIDEST if fold else None,
                )  # fmt: skip
            for row in cells:
                table.add_row(*(Text(row[number]) for number in band))
            parts += ["", table]
        return Stack(*parts, "", *(Text(line) for line in self._below()))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield self._renderable(options.max_width, options.ascii_only)

    def _text(self, color: bool, ascii_only: bool) -> str:
        out = io.StringIO()
        width = max(shutil.get_terminal_size().columns, 20)
        console = Console(
            file=out,
            width=width,
            force_terminal=color,
            color_system="standard" if color else None,
            legacy_windows=False,
        )
        console.print(self._renderable(width, ascii_only))
        return "\n".join(line.rstrip() for line in out.getvalue().rstrip("\n").splitlines())

    def __str__(self) -> str:
        encoding = (getattr(sys.stdout, "encoding", None) or "utf-8").lower()
        unicode = encoding.startswith("utf")
        shown = self._text(sys.stdout.isatty(), not unicode)
        return shown if unicode else shown.encode("ascii", "replace").decode()

    def __repr__(self) -> str:
        return self._text(False, False)

    def _repr_html_(self) -> str:
        headings, cells = self._cells()
        head = "".join(f"<th>{html.escape(one)}</th>" for one in headings)
        body = "".join(
            f"<tr>{''.join(f'<td>{html.escape(one)}</td>' for one in row)}</tr>" for row in cells
        )
        above = "".join(f"<p>{html.escape(line)}</p>" for line in self._summary())
        below = "".join(f"<li>{html.escape(line)}</li>" for line in self._below())
        return (
            f"{above}<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
            f"<ul>{below}</ul>"
        )


def _bands(headings: Sequence[str], cells: Sequence[Sequence[str]], width: int) -> list[list[int]]:
    """Columns that fit beside each other, the parameters' names first in each table."""
    widths = [max(map(len, column)) + 3 for column in zip(headings, *cells, strict=True)]
    names = min(widths[0], WIDEST + 3)
    bands: list[list[int]] = []
    room = 0
    for number in range(1, len(headings)):
        if not bands or widths[number] > room:
            bands.append([0])
            room = width - names
        bands[-1].append(number)
        room -= widths[number]
    return bands


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


# -- taking them -----------------------------------------------------------------------------


def statistics_of(source: Source, grads: Any = None) -> Statistics:
    """What can be told without a step."""
    made = _Taking(source, grads)
    made.take()
    return made.result


@contextmanager
def measured(source: Source, grads: Any = None) -> Iterator[Statistics]:
    """Statistics of the change that is made inside the block; filled in at its end."""
    made = _Taking(source, grads)
    with made.watch():
        yield made.result
    made.take()
    _memory[source] = made.memory


_memory: WeakKeyDictionary[Source, Any] = WeakKeyDictionary()
"""Of the copies, kept for a view's next measurement."""


@dataclass
class _One:
    """A parameter while it is measured."""

    owner: Owner
    row: ParameterStatistics
    group: Group | None
    array: Any
    grad: Any
    cells: Sequence[Cell]
    parameter: Squares | Change | None = None
    gradient: Squares | None = None
    slots: dict[str, Squares] = field(default_factory=dict)
    rate: tuple[float, float, float] | None = None  # learning rate, epsilon, correction
    second: str = ""  # the slot that the rate is divided by the root of

    @property
    def state(self) -> bool:
        """Whether it has any."""
        return any(cell.value is not None for cell in self.cells)


class _Taking:
    """Takes the statistics of one optimizer, once."""

    def __init__(self, source: Source, grads: Any) -> None:
        self.source, self.grads = source, grads
        count = len(source.owners())
        self.result = Statistics(f"{source.name}: {count} parameter{'s' * (count != 1)}")
        self.result.title += f", {source.updates} update{'s' * (source.updates != 1)}"
        self.before: dict[str, Any] = {}
        self.before_grads: dict[str, Any] = {}
        self.updates_before: int | None = None
        self.memory: Any = None  # of the copies

    # -- before ----------------------------------------------------------------------------

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Copy all parameters; see the gradients that the step is given."""
        source = self.source
        owners = source.owners()
        arrays = [self._try(owner, "parameter", source.array) for owner in owners]
        kept, self.memory = copies(arrays, _threads(arrays), _memory.pop(source, None))
        self.before = {owner.label: one for owner, one in zip(owners, kept, strict=True)}
        self.updates_before = source.updates

        def look(*_: Any) -> None:  # gradients are often cleared after the step
            for owner in source.owners():
                grad = self._try(owner, "gradient", source.gradient)
                if grad is not None:
                    self.before_grads[owner.label] = grad

        look()
        register = getattr(source.optimizer, "register_step_pre_hook", None)
        hook = register(look) if callable(register) else None
        try:
            yield
        finally:
            if hook is not None:
                hook.remove()

    def _try(self, owner: Owner, what: str, function: Callable[[Owner], Any]) -> Any:
        try:
            return function(owner)
        except Exception as error:  # whatever a foreign optimizer holds
            self._note(owner.label, what, error)
            return None

    def _note(self, label: str, what: str, why: object) -> None:
        note = f"{label}: {what} was not measured: {why or type(why).__name__}"
        if note not in self.result.notes:
            self.result.notes.append(note)

    # -- after -----------------------------------------------------------------------------

    def take(self) -> None:
        source, result = self.source, self.result
        groups = {group.index: group for group in source.groups()}
        owners = source.owners()
        count, updates = len(owners), source.updates
        result.title = (
            f"{source.name}: {count} parameter{'s' * (count != 1)}, "
            f"{updates} update{'s' * (updates != 1)}"
        )
        if self.updates_before is not None:
            result.updates = source.updates - self.updates_before
        given = _by_label(owners, self.grads)
        survey = Survey()
        ones = [self._begin(owner, groups.get(owner.group), given) for owner in owners]
        for one in ones:
            self._ask(one, survey)
        self._run(survey, ones)
        present = {cell.full for one in ones for cell in one.cells if cell.value is not None}
        for one in ones:
            self._fill(one, present)
            result._found[one.owner.label] = one.row
        self._doubt_gradients(ones)
        result.flags = sorted(
            _flags(ones, source.updates, result.updates), key=lambda one: KINDS.index(one.kind)
        )

    def _begin(self, owner: Owner, group: Group | None, given: Mapping[str, Any] | None) -> _One:
        source, label = self.source, owner.label
        array = self._try(owner, "parameter", source.array)
        cells = self._try(owner, "state", source.cells) or []
        grad = self._try(owner, "gradient", source.gradient)
        if grad is None:
            grad = self.before_grads.get(label)
        known = given is not None or _keeps_gradients(array)
        if given is not None and given.get(label) is not None:
            grad = given[label]
        row = ParameterStatistics(owner.name, group.name if group is not None else "")
        row.grad_missing = known and grad is None
        if array is not None:
            with suppress(Exception):
                row.shape = tuple(int(one) for one in array.shape)
                row.numbers = math.prod(row.shape)
                row.dtype = _dtype(array)
                row.bytes = _bytes(array) + sum(_bytes(cell.value) for cell in cells)
        return _One(owner, row, group, array, grad, cells)

    def _ask(self, one: _One, survey: Survey) -> None:
        """Name what of a parameter is to be measured."""
        label, old = one.owner.label, self.before.get(one.owner.label)
        if one.array is None:
            return
        grad = one.grad
        if grad is not None and _shape(grad) != one.row.shape:
            self._note(label, "gradient", f"it has shape {_shape(grad)}")
            grad = None
        if old is not None and _shape(old) == one.row.shape:
            one.parameter = survey.change(one.array, old, grad)
        else:
            one.parameter = survey.squares(one.array)
            one.gradient = survey.squares(grad) if grad is not None else None
        self._prepare_rate(one)
        for cell in one.cells:
            if cell.value is None or cell.full == STEP or isinstance(cell.value, (int, float)):
                continue
            if not _measurable(cell.value):
                self._note(label, cell.full, f"it is {_kind(cell.value)}")
                continue
            limit = -1.0
            if cell.full == one.second and one.rate is not None and one.rate[1] > 0:
                limit = one.rate[1] ** 2 * one.rate[2]
            one.slots[cell.full] = survey.squares(cell.value, limit, cell.full == one.second)

    def _prepare_rate(self, one: _One) -> None:
        """Where the rule divides its rate by the root of a second moment: by which, and how."""
        rate = _value(one.group, "learning_rate")
        held = {cell.full: cell.value for cell in one.cells if cell.value is not None}
        if rate is None:
            return
        one.row.rate_quantiles = (rate,) * 5
        names = [name for name in ("max_second_moment", "second_moment") if name in held]
        if not names or "update_moment" in held:  # Adadelta's step has another numerator
            return
        if _shape(held[names[0]]) != one.row.shape or not _measurable(held[names[0]]):
            return
        beta2, correction = _value(one.group, "beta2"), 1.0
        step = _count(held.get(STEP)) if STEP in held else float(self.source.updates)
        if beta2 is not None and 0 <= beta2 < 1 and step is not None and step >= 1:
            correction = -math.expm1(step * math.log(beta2)) if beta2 > 0 else 1.0
        one.second = names[0]
        one.rate = rate, _value(one.group, "epsilon") or 0.0, correction

    def _run(self, survey: Survey, ones: Sequence[_One]) -> None:
        survey.run(_threads([one.array for one in ones]))
        for label, what, error in self._failures(survey, ones):
            self._note(label, what, error)

    def _failures(
        self, survey: Survey, ones: Sequence[_One]
    ) -> Iterator[tuple[str, str, Exception]]:
        """What could not be measured; it is taken away from what is told."""
        failed = {id(result): error for result, error in survey.failed}
        for one in ones:
            label = one.owner.label
            if id(one.parameter) in failed:
                yield label, "parameter", failed[id(one.parameter)]
                one.parameter = None
            if id(one.gradient) in failed:
                yield label, "gradient", failed[id(one.gradient)]
                one.gradient = None
            for full in [full for full, held in one.slots.items() if id(held) in failed]:
                yield label, full, failed[id(one.slots.pop(full))]

    def _fill(self, one: _One, present: set[str]) -> None:
        row, found = one.row, one.parameter
        if found is not None:
            row.norm = found.norm
            row.nonfinite["parameter"] = found.nonfinite
        if isinstance(found, Change):
            row.update_norm, row.cosine, row.grad_norm = (
                found.update_norm, found.cosine, found.grad_norm,
            )  # fmt: skip
            row.update_ratio = found.update_norm / found.norm if found.norm else None
            if found.grad_norm is not None:
                row.nonfinite["gradient"] = found.grad_nonfinite
        elif one.gradient is not None:
            row.grad_norm = one.gradient.norm
            row.nonfinite["gradient"] = one.gradient.nonfinite
        for full, held in one.slots.items():
            row.slots[full], row.nonfinite[full] = held.norm, held.nonfinite
            if self.source.updates and held.norm == 0 and row.numbers:
                row.untouched.append(full)
        if self.source.updates and not one.state:
            row.untouched += [c.full for c in one.cells if c.full in present - {STEP}]
        row.nonfinite = {where: count for where, count in row.nonfinite.items() if count}
        second = one.slots.get(one.second)
        if one.rate is not None and second is not None:
            row.rate_quantiles = quantiles_of_rate(second.sample, *one.rate)
            elements = row.numbers * (2 if "complex" in row.dtype else 1)
            if one.rate[1] > 0 and elements:
                row.epsilon_share = second.below / elements

    def _doubt_gradients(self, ones: Sequence[_One]) -> None:
        """Gradients that are all zero after a change were cleared in the block."""
        known = [one for one in ones if one.row.grad_norm is not None]
        moved = any(one.row.update_norm for one in ones)
        if not (known and moved and all(one.row.grad_norm == 0 for one in known)):
            return
        for one in known:
            one.row.grad_norm = one.row.cosine = None
        self.result.notes.append(
            "all gradients are zero after the block: it cleared them in place, so they are not "
            "known; clear them before the block, or with zero_grad(set_to_none=True)"
        )


def _threads(arrays: Sequence[Any]) -> int:
    """As many as the framework uses."""
    torch = sys.modules.get("torch")
    if torch is not None and any(hasattr(array, "data_ptr") for array in arrays):
        return int(torch.get_num_threads())
    return pool_threads()


def _by_label(owners: Sequence[Owner], grads: Any) -> dict[str, Any] | None:
    """Gradients by label, from a mapping or in the parameters' order; None: none were given."""
    if grads is None:
        return None
    if not isinstance(grads, Mapping):
        return {owner.label: grad for owner, grad in zip(owners, grads, strict=True)}
    unknown = set(grads) - {owner.label for owner in owners} - {owner.name for owner in owners}
    if unknown:
        raise ValueError(
            f"grads has {min(unknown)!r}: no parameter of that name "
            f"(parameters: {', '.join(owner.label for owner in owners)})"
        )
    return {owner.label: grads.get(owner.label, grads.get(owner.name)) for owner in owners}


def _keeps_gradients(array: Any) -> bool:
    return hasattr(array, "requires_grad")


def _shape(array: Any) -> tuple[int, ...]:
    with suppress(Exception):
        return tuple(int(one) for one in array.shape)
    return ()


def _dtype(array: Any) -> str:
    return str(array.dtype).rpartition(".")[2]


def _kind(value: Any) -> str:
    with suppress(Exception):
        return f"an array of {_dtype(value)}"
    return f"of type {type(value).__name__}"


def _measurable(value: Any) -> bool:
    """Whether a piece of state is an array of real or complex numbers; codes are none."""
    with suppress(Exception):
        return hasattr(value, "shape") and any(
            kind in _dtype(value) for kind in ("float", "complex", "double", "half")
        )
    return False


def _bytes(array: Any) -> int:
    with suppress(Exception):
        return int(array.nbytes)
    return 0


def _count(value: Any) -> float | None:
    with suppress(Exception):
        number = float(value)
        return number if math.isfinite(number) else None
    return None


def _value(group: Group | None, full: str) -> float | None:
    """A hyperparameter's number, where there is one."""
    with suppress(Exception):
        if group is not None and full in group.names.places:
            value = group.value(full)
            return None if isinstance(value, bool) else _count(value)
    return None


# -- flags -----------------------------------------------------------------------------------


def _flags(ones: Sequence[_One], updates: int, inside: int | None) -> Iterator[Flag]:
    moved = [one for one in ones if one.row.update_norm]
    active = [one for one in ones if one.state or one.grad is not None]
    for one in ones:
        label, row = one.owner.label, one.row
        if row.nonfinite:
            yield Flag("nonfinite", label, _nonfinite_text(row))
        if not row.numbers:
            continue
        others = any(other is not one for other in moved)
        if text := _rate_text(one, inside):
            yield Flag("rate", label, text)
        elif updates and any(other is not one for other in active) and _unused(one):
            yield Flag(
                "unused",
                label,
                f"after {updates} update{'s' * (updates != 1)} it has neither a gradient nor "
                "state: the loss does not depend on it; use it in the model, or leave it out of "
                "the optimizer",
            )
        elif text := _frozen_text(one, updates, others):
            yield Flag("frozen", label, text)


def _nonfinite_text(row: ParameterStatistics) -> str:
    found = ", ".join(
        f"{count:,} of {row.numbers:,} in {where if where in row.slots else f'the {where}'}"
        for where, count in row.nonfinite.items()
    )
    return (
        f"NaN or infinite: {found}. Go back to a checkpoint before it; a lower learning rate, "
        "clip_by_global_norm or skip_nonfinite avoids it"
    )


def _unused(one: _One) -> bool:
    return not one.state and one.grad is None and not one.row.update_norm and _trainable(one)


def _trainable(one: _One) -> bool:
    return bool(getattr(one.array, "requires_grad", True))


def _frozen_text(one: _One, updates: int, others: bool) -> str:
    """Why a parameter is no longer trained, or nothing."""
    row = one.row
    if not _trainable(one):
        return (
            "frozen: requires_grad is False; set it to True, or leave the parameter out of the "
            "optimizer"
        )
    # A layer behind one that starts at zero gets its first gradient by the second update.
    known = row.grad_missing or bool(row.grad_norm) or updates > 1
    if row.update_norm == 0 and others and known:
        return f"frozen: it did not change though others did, since {_why_still(one)}"
    trained = any(name in row.slots and row.slots[name] for name in row.slots)
    if row.update_norm is not None and row.grad_norm == 0 and updates > 1 and not trained:
        return "frozen: its gradient is zero; look for a detach(), a dead unit or an unused path"
    return ""


def _why_still(one: _One) -> str:
    row, rate = one.row, _value(one.group, "learning_rate")
    if row.grad_missing:
        return "it has no gradient: look for a detach() or an unused path"
    if row.grad_norm == 0:
        return "its gradient is zero: look for a detach(), a dead unit or an unused path"
    if rate == 0:
        return f"the learning rate of {row.group!r} is 0"
    return f"its updates are below the rounding of {row.dtype}: use a higher rate or wider numbers"


def _rate_text(one: _One, inside: int | None) -> str:
    """That an update was too large for its parameter, or nothing.

    The scale is the parameter's root mean square, but at least half of that of a matrix of its
    size which keeps the size of what it multiplies, about numbers ** -1/4: so zero-initialised
    parameters may grow, and biases move.
    """
    found, row = one.parameter, one.row
    if not isinstance(found, Change) or inside is None or inside < 1:
        return ""
    if not (math.isfinite(found.update_norm) and math.isfinite(found.old_norm)):
        return ""
    root = math.sqrt(row.numbers)
    moved = found.update_norm / root / inside
    scale = max(found.old_norm / root, 0.5 * row.numbers**-0.25)
    if moved <= LARGEST_RATIO * scale:
        return ""
    rate = _value(one.group, "learning_rate")
    now = "" if rate is None else f" (now {rate:.6g})"
    return (
        f"an update moved its numbers by {moved:.3g}, which is {moved / scale:.0%} of their size "
        f"(usual is below {LARGEST_RATIO:.0%}): lower the learning rate of {row.group!r}{now}, "
        "warm it up, or clip gradients"
    )
