"""Statistics of an optimizer's parameters, gradients and state, and what they say is wrong."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from rich import box
from rich.console import Group as Stack
from rich.console import RenderableType
from rich.table import Table

from pellucid.access.render import escaped, html_block, html_table, words
from pellucid.drawn import Drawn

__all__ = ["KINDS", "Flag", "ParameterStatistics", "Statistics"]

WIDEST = 36
"""Of the column of names: longer ones are folded."""
LEFT = ("parameter", "flags", "shape", "dtype")


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


class Statistics(Drawn, Mapping[str, ParameterStatistics]):
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

    def _draw(self, width: int, ascii_only: bool) -> Stack:
        headings, cells = self._cells()
        shape = box.ASCII if ascii_only else box.SIMPLE_HEAD
        parts: list[RenderableType] = [words(line, ascii_only) for line in self._summary()]
        for band in _bands(headings, cells, width) if cells else ():
            table = Table(box=shape, header_style="bold", pad_edge=False, show_edge=False)
            for number in band:
                side: Any = "left" if headings[number] in LEFT else "right"
                fold = number == 0
                table.add_column(
                    words(headings[number], ascii_only), justify=side, overflow="fold",
                    no_wrap=not fold, max_width=WIDEST if fold else None,
                )  # fmt: skip
            for row in cells:
                table.add_row(*(words(row[number], ascii_only) for number in band))
            parts += ["", table]
        return Stack(*parts, "", *(words(line, ascii_only) for line in self._below()))

    def _repr_html_(self) -> str:
        headings, cells = self._cells()
        lines = [*map(escaped, self._summary())], [*map(escaped, self._below())]
        return html_block(*lines[0], html_table(headings, cells), *lines[1])


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
