"""What differs between two records, by section, with where each value comes from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pellucid.drawn import Drawn
from pellucid.run.record import Entry, Record
from pellucid.run.shown import value_text

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ["Comparison", "Different", "compare"]

SHOWN = 40
"""Rows of a section that are printed; more are counted."""


@dataclass(frozen=True)
class Different:
    """A path whose values differ; of what only one record has, the other entry is None."""

    path: str
    a: Entry | None
    b: Entry | None

    @property
    def section(self) -> str:
        return self.path.partition("/")[0]

    @property
    def only(self) -> Literal["", "a", "b"]:
        """The only record that has the path."""
        return "b" if self.a is None else "a" if self.b is None else ""

    def to_dict(self) -> dict[str, Any]:
        """As JSON data; without the side that has nothing."""
        sides = (("a", self.a), ("b", self.b))
        return {
            "path": self.path,
            **{
                key: {"value": one.value, "provenance": one.provenance}
                for key, one in sides
                if one is not None
            },
        }

    def texts(self) -> tuple[str, str, str]:
        """Both values, and what is to be said of their provenance."""
        sides = [(one, name) for one, name in ((self.a, "a"), (self.b, "b")) if one is not None]
        kinds = dict.fromkeys(one.provenance for one, _ in sides)
        if self.only:
            note = f"only in {self.only}, {sides[0][0].provenance}"
        elif len(kinds) == 1:
            note = next(iter(kinds))
        else:
            note = ", ".join(f"{name} {one.provenance}" for one, name in sides)
        left, right = (value_text(one.value) if one else "-" for one in (self.a, self.b))
        if left == right and self.a is not None and self.b is not None:
            left, right = repr(self.a.value), repr(self.b.value)
        return left, right, note

    def __str__(self) -> str:
        left, right, note = self.texts()
        return f"{self.path}: {left} | {right}: {note}"


class Comparison(Drawn):
    """What differs between two records: rows, true where there are any. Print it."""

    def __init__(self, a: str, b: str, rows: tuple[Different, ...], same: int) -> None:
        self.a, self.b, self.rows, self.same = a, b, rows, same

    def __bool__(self) -> bool:
        return bool(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Different]:
        return iter(self.rows)

    @property
    def sections(self) -> dict[str, tuple[Different, ...]]:
        """The rows of each section."""
        found: dict[str, list[Different]] = {}
        for row in self.rows:
            found.setdefault(row.section, []).append(row)
        return {name: tuple(rows) for name, rows in found.items()}

    def to_dict(self) -> dict[str, Any]:
        """All rows as JSON data."""
        rows = [row.to_dict() for row in self.rows]
        return {"a": self.a, "b": self.b, "same": self.same, "rows": rows}

    def _shown(self) -> tuple[list[tuple[str, str, str, str]], list[str]]:
        lines, notes = [], []
        for name, rows in self.sections.items():
            lines += [(row.path, *row.texts()) for row in rows[:SHOWN]]
            if len(rows) > SHOWN:
                notes.append(f"and {len(rows) - SHOWN:,} more of {name}: see .rows")
        equal = f"{self.same:,} values are the same"
        return lines, [*notes, equal if lines else f"no difference: {equal}"]

    def _draw(self, width: int, ascii_only: bool) -> RenderableType:
        from pellucid.access.render import side_by_side

        lines, notes = self._shown()
        return side_by_side([f"a: {self.a}", f"b: {self.b}"], lines, notes, width, ascii_only)

    def _repr_html_(self) -> str:
        from pellucid.access.render import escaped, html_block, html_table

        lines, notes = self._shown()
        head = f"a: {escaped(self.a)}<br>b: {escaped(self.b)}"
        return html_block(head, html_table(["", "a", "b", ""], lines), *map(escaped, notes))


def compare(a: Record, b: Record, names: tuple[str, str] | None = None) -> Comparison:
    """What differs between two records, grouped by section.

    Args:
        names: what the records are called in print; else when they were made.
    """
    called = names or (a.created or "a record", b.created or "a record")
    paths = dict.fromkeys([*a.entries, *b.entries])
    first = {path.partition("/")[0]: number for number, path in reversed([*enumerate(paths)])}
    rows, same = [], 0
    for path in sorted(paths, key=lambda one: first[one.partition("/")[0]]):
        left, right = a.entries.get(path), b.entries.get(path)
        if left is not None and right is not None and equal(left.value, right.value):
            same += 1
        else:
            rows.append(Different(path, left, right))
    return Comparison(*called, tuple(rows), same)


def equal(a: Any, b: Any) -> bool:
    """Whether two values of JSON data are the same; True is not 1."""
    if isinstance(a, bool) is not isinstance(b, bool):
        return False
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(equal, a, b))
    return bool(a == b)
