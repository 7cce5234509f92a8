"""What differs between two live optimizers, of one framework or of two."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pellucid.access.alignment import (
    Pairs,
    Side,
    aligned_groups,
    aligned_parameters,
    same,
    with_shared_parameters,
)
from pellucid.access.plain import common_prefix, counted, driver_text, json_value, number_of, short
from pellucid.access.sources import Cell, Group, Owner, Source, source_of
from pellucid.access.table import View
from pellucid.declare import REQUIRED, plain_value
from pellucid.drawn import Drawn

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ["Difference", "Row", "diff", "same"]

SHOWN = 40
"""Rows of one kind that are printed; more are counted."""


@dataclass(frozen=True)
class Row:
    """One thing that differs.

    ``kind`` is updates, rule, default, value, schedule, group, parameter, shape, dtype, type, slot
    or state. ``where`` is a group, a parameter, or how many of them; ``name`` is canonical. Of what
    only one side has, ``only`` is "a" or "b", and the other side's value is None.
    """

    kind: str
    where: str
    name: str
    native: str
    a: Any
    b: Any
    note: str
    only: Literal["", "a", "b"] = ""

    @property
    def path(self) -> str:
        native = f" ({self.native})" if self.native else ""
        return f"{self.where}/{self.name}{native}".strip("/ ")

    def texts(self) -> tuple[str, str]:
        """Both sides' values; where six digits do not tell them apart, all digits."""
        left = "-" if self.only == "b" else short(self.a)
        right = "-" if self.only == "a" else short(self.b)
        return (repr(self.a), repr(self.b)) if left == right and not self.only else (left, right)

    def to_dict(self) -> dict[str, Any]:
        """The row as plain JSON data; without the value that a side does not have."""
        found = {
            "kind": self.kind, "where": self.where, "name": self.name, "native": self.native,
            "a": json_value(self.a), "b": json_value(self.b), "note": self.note,
        }  # fmt: skip
        if self.only:
            del found["b" if self.only == "a" else "a"]
        return found

    def __str__(self) -> str:
        return f"{self.path}: {' | '.join(self.texts())}: {self.note}"


class Difference(Drawn):
    """What `pellucid.diff` gives: rows, true where there are any. Print it.

    ``a`` and ``b`` say what was compared.
    """

    def __init__(self, a: str, b: str, rows: Sequence[Row]) -> None:
        self.a, self.b, self.rows = a, b, tuple(rows)

    def __bool__(self) -> bool:
        return bool(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def to_dict(self) -> dict[str, Any]:
        """All rows as plain JSON data."""
        return {"a": self.a, "b": self.b, "rows": [row.to_dict() for row in self.rows]}

    def _repr_html_(self) -> str:
        from pellucid.access.render import escaped, html_block, html_table

        lines = [[row.path, *row.texts(), row.note] for row in self._shown()]
        head = f"a: {escaped(self.a)}<br>b: {escaped(self.b)}"
        table = html_table(["", "a", "b", ""], lines) if lines else "no difference"
        return html_block(head, table, *map(escaped, self._left_out()))

    def _draw(self, width: int, ascii_only: bool) -> RenderableType:
        from pellucid.access.render import side_by_side

        rows = [(row.path, *row.texts(), row.note) for row in self._shown()]
        notes = self._left_out() if rows else ["no difference"]
        return side_by_side([f"a: {self.a}", f"b: {self.b}"], rows, notes, width, ascii_only)

    def _shown(self) -> list[Row]:
        count: dict[str, int] = {}
        found = []
        for row in self.rows:
            count[row.kind] = count.get(row.kind, 0) + 1
            if count[row.kind] <= SHOWN:
                found.append(row)
        return found

    def _left_out(self) -> list[str]:
        kinds = [row.kind for row in self.rows]
        more = {kind: kinds.count(kind) - SHOWN for kind in dict.fromkeys(kinds)}
        return [f"and {count:,} more of {kind}: see .rows" for kind, count in more.items()
                if count > 0]  # fmt: skip


def diff(a: Any, b: Any) -> Any:
    """What differs between two live optimizers, by canonical names: print it, or ask its rows.

    Two records of runs are compared as `Record.diff` does.

    Groups are aligned by name, else by their parameters, else by position; parameters by name,
    and by position where no name is in common. Compared are hyperparameters, schedules, the
    defaults that the classes declare, parameters' and slots' shapes and dtypes, numbers that all
    parameters share, and counts of updates. The contents of arrays are not.

    Args:
        a, b: optimizers, or views of them, of any framework that `pellucid.view` knows.

    >>> import numpy, pellucid, pellucid.numpy
    >>> weights = {"weight": numpy.ones(2)}
    >>> one = pellucid.numpy.Optimizer(weights, pellucid.SGD(0.1))
    >>> other = pellucid.numpy.Optimizer(weights, pellucid.SGD(0.1, momentum=0.9))
    >>> print(*pellucid.diff(one, other))
    group 0/momentum: 0 | 0.9: values differ
    """
    if type(a) is type(b) and hasattr(a, "entries") and hasattr(a, "diff"):
        return a.diff(b)
    sources = [one._source if isinstance(one, View) else source_of(one) for one in (a, b)]
    comparison = _Comparison(*map(Side, sources))
    return Difference(comparison.a.title, comparison.b.title, list(comparison.rows()))


@dataclass
class _Comparison:
    """Two optimizers, side by side."""

    a: Side
    b: Side

    def rows(self) -> Iterator[Row]:
        if self.a.updates != self.b.updates:
            yield Row("updates", "", "updates", "", self.a.updates, self.b.updates, "counts differ")
        parameters = aligned_parameters(self.a, self.b)
        groups = aligned_groups(self.a, self.b, parameters)
        pairs = with_shared_parameters(groups, self.a, self.b, parameters)
        yield from self._rules(pairs)
        yield from dict.fromkeys(
            row
            for left, right in pairs
            for row in _defaults(self.a.source, left, self.b.source, right)
        )
        for left, right in pairs:
            yield from _settings(left, right, _where(left, right))
        yield from self._lone_groups(groups)
        yield from self._lone_parameters(parameters)
        yield from _arrays(self.a, self.b, parameters)
        yield from _shared(self.a.source, self.b.source)

    def _rules(self, pairs: Pairs) -> Iterator[Row]:
        names = dict.fromkeys((left.rule, right.rule) for left, right in pairs)
        several = len(names) > 1
        for left, right in pairs:
            if left.rule != right.rule and (left.rule, right.rule) in names:
                del names[left.rule, right.rule]  # once
                where = _where(left, right) if several else ""
                yield Row("rule", where, "rule", "", left.rule, right.rule, "rules differ")

    def _lone_groups(self, aligned: Sequence[tuple[Group, Group]]) -> Iterator[Row]:
        for side, position, only in _SIDES:
            taken = {pair[position].index for pair in aligned}
            one: Side = getattr(self, side)
            for group in one.groups:
                if group.index not in taken:
                    count = counted(len(one.members.get(group.index, ())), "parameter")
                    yield _lone("group", group.name, "", "", count, only)

    def _lone_parameters(self, aligned: Sequence[tuple[Owner, Owner]]) -> Iterator[Row]:
        for side, position, only in _SIDES:
            taken = {pair[position].label for pair in aligned}
            one: Side = getattr(self, side)
            for label, owner in one.owners.items():
                if label not in taken:
                    shown = _form_text(one.source.array(owner))
                    yield _lone("parameter", label, "", "", shown, only)


_SIDES: tuple[tuple[str, int, Literal["a", "b"]], ...] = (("a", 0, "a"), ("b", 1, "b"))


def _lone(
    kind: str, where: str, name: str, native: str, value: Any, only: Literal["a", "b"]
) -> Row:
    left, right = (value, None) if only == "a" else (None, value)
    return Row(kind, where, name, native, left, right, f"only {only} has it", only)


def _differing(kind: str, where: str, name: str, native: str, values: Sequence[Any]) -> Row:
    left, right = map(_frozen, values)
    what = "values" if kind == "state" else f"{kind}s"
    return Row(kind, where, name, native, left, right, f"{what} differ")


def _where(left: Group, right: Group) -> str:
    return left.name if left.name == right.name else f"{left.name} | {right.name}"


# -- hyperparameters ---------------------------------------------------------------------------


def _settings(left: Group, right: Group, where: str) -> Iterator[Row]:
    """Values and schedules that differ, or that only one has."""
    ours, theirs = left.names, right.names
    for full in dict.fromkeys([*ours.places, *theirs.places]):
        native = _native(full, *(n.native(full) for n in (ours, theirs) if full in n.places))
        if full not in theirs.places:
            yield _lone("value", where, full, native, _frozen(left.value(full)), "a")
        elif full not in ours.places:
            yield _lone("value", where, full, native, _frozen(right.value(full)), "b")
        else:
            values = left.value(full), right.value(full)
            if not same(*values):
                yield _differing("value", where, full, native, values)
            drivers = [driver_text(group, full) for group in (left, right)]
            if not _same_driver(left.driver(full), right.driver(full), drivers):
                texts = [driver.removeprefix("by ") or "a number" for driver in drivers]
                yield _differing("schedule", where, full, native, texts)


def _native(full: str, *natives: str) -> str:
    return ", ".join(dict.fromkeys(one for one in natives if one != full))


def _same_driver(left: Any, right: Any, texts: Sequence[str]) -> bool:
    if left is right:  # also where neither has one of ours, but the framework may
        return texts[0] == texts[1]
    if left is None or right is None:
        return False
    try:
        return bool(plain_value(left, "a") == plain_value(right, "b"))
    except Exception:  # lambdas have no configuration
        return False


def _defaults(a: Source, left: Group, b: Source, right: Group) -> Iterator[Row]:
    """Defaults that differ, of what both classes declare."""
    names = left.rule, right.rule
    where = names[0] if names[0] == names[1] else " | ".join(names)
    ours, theirs = left.names, right.names
    for full in ours.places:
        if full not in theirs.places:
            continue
        values = _default(a, left, full), _default(b, right, full)
        if any(value is REQUIRED for value in values) or same(*values):
            continue
        native = _native(full, ours.native(full), theirs.native(full))
        yield _differing("default", where, full, native, values)


def _default(source: Source, group: Group, full: str) -> Any:
    """What the class declares: a rule of ours, or a constructor; REQUIRED where it does not."""
    one: Any = getattr(group, "inner", group)  # of several optimizers
    pipeline = getattr(getattr(one, "controls", None), "pipeline", None)
    if pipeline is not None:
        for declared in (pipeline.hypers, pipeline.options):
            if full in declared:
                return declared[full][1].default
        return REQUIRED
    place = group.names.places[full]
    optimizer = getattr(getattr(one, "source", None), "optimizer", source.optimizer)
    given: Mapping[str, Any] = getattr(optimizer, "defaults", None) or {}
    try:
        parameters = inspect.signature(type(optimizer)).parameters
        if place.key in parameters:
            value = parameters[place.key].default
            value = REQUIRED if value is inspect.Parameter.empty else value
        else:  # a constructor of **keywords: what it was called with
            value = given.get(place.key, REQUIRED)
        return value if place.position is None or value is REQUIRED else value[place.position]
    except Exception:
        return REQUIRED


# -- state -------------------------------------------------------------------------------------


def _arrays(a: Side, b: Side, parameters: Sequence[tuple[Owner, Owner]]) -> Iterator[Row]:
    """Shapes and dtypes of parameters and slots; the same difference of many is one row."""
    found: dict[tuple[Any, ...], list[str]] = {}
    for one, other in parameters:
        label = one.label if one.label == other.label else f"{one.label} | {other.label}"
        arrays = a.source.array(one), b.source.array(other)
        for kind, *texts in _forms(*arrays):
            found.setdefault((kind, "parameter", "", *texts), []).append(label)
        cells = [_present(a.source.cells(one)), _present(b.source.cells(other))]
        for full in dict.fromkeys([*cells[0], *cells[1]]):
            both = [side.get(full) for side in cells]
            native = _native(full, *(cell.native for cell in both if cell is not None))
            if both[0] is None or both[1] is None:
                key: tuple[Any, ...] = ("slot", full, native, *(cell is not None for cell in both))
                found.setdefault(key, []).append(label)
                continue
            for kind, *texts in _forms(both[0].value, both[1].value):
                found.setdefault((kind, full, native, *texts), []).append(label)
    for (kind, name, native, left, right), labels in sorted(
        found.items(), key=lambda item: item[0][0]
    ):
        if kind == "slot":
            count = counted(len(labels), "parameter")
            yield _lone("slot", _among(labels), name, native, count, "a" if left else "b")
        else:
            yield _differing(kind, _among(labels), name, native, (left, right))


def _present(cells: Sequence[Cell]) -> dict[str, Cell]:
    return {cell.full: cell for cell in cells if cell.value is not None}


def _forms(left: Any, right: Any) -> Iterator[tuple[str, str, str]]:
    """How two arrays differ: kind, and both sides' texts."""
    forms = [json_value(one, arrays=True) for one in (left, right)]
    if not all(isinstance(form, dict) and "dtype" in form for form in forms):
        if number_of(left) is None or number_of(right) is None:
            texts = [type(one).__name__ for one in (left, right)]
            if texts[0] != texts[1]:
                yield "type", texts[0], texts[1]
        return  # counts of steps, as a number here and as an array there
    for kind in ("shape", "dtype"):
        one, other = (form[kind] for form in forms)
        if one != other:
            shown = [str(tuple(text)) if kind == "shape" else text for text in (one, other)]
            yield kind, shown[0], shown[1]


def _form_text(array: Any) -> str:
    form = json_value(array, arrays=True)
    if isinstance(form, dict) and "dtype" in form:
        return f"{tuple(form['shape'])} {form['dtype']}"
    return short(array)


def _among(labels: Sequence[str]) -> str:
    """Many parameters in few words."""
    if len(labels) == 1:
        return labels[0]
    return f"{common_prefix(labels)}* ({len(labels):,})"


def _shared(a: Source, b: Source) -> Iterator[Row]:
    """State that all parameters share: numbers, which are compared."""
    cells = [_present(source.shared_cells()) for source in (a, b)]
    for full in dict.fromkeys([*cells[0], *cells[1]]):
        left, right = (side.get(full) for side in cells)
        if left is None and right is not None:
            yield _lone("state", "", full, "", _frozen(right.value), "b")
        elif left is not None and right is None:
            yield _lone("state", "", full, "", _frozen(left.value), "a")
        elif left is not None and right is not None and not same(left.value, right.value):
            yield _differing("state", "", full, "", (left.value, right.value))


# -- values ------------------------------------------------------------------------------------


def _frozen(value: Any) -> Any:
    """A value as it is now: a number, a choice, or a text."""
    if value is None or isinstance(value, (bool, str)):
        return value
    number = number_of(value)
    return short(value) if number is None else number
