"""The journal's entries to look at: as text, in a notebook, or as rows."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from pellucid.journal_records import Change, value_text

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult

__all__ = ["JournalTable"]


@dataclass(frozen=True)
class JournalTable:
    """The journal's entries to look at, newest last."""

    entries: Sequence[Change]

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The entries as dicts."""
        return [asdict(entry) for entry in self.entries]

    def __len__(self) -> int:
        return len(self.entries)

    def cells(self) -> list[tuple[str, ...]]:
        """The text of all cells, titles first."""
        found = [("steps", "hyperparameter", "old", "new", "source", "reason", "")]
        for one in self.entries:
            steps = str(one.step) if one.until is None else f"{one.step}-{one.until}"
            left = "abandoned" if one.abandoned else ""
            values = value_text(one.old), value_text(one.new)
            name = f"{one.group}/{one.name}"
            found.append((steps, name, *values, one.cause, one.reason, left))
        used = [any(column[1:]) for column in zip(*found, strict=True)]
        used[:5] = [True] * 5
        return [tuple(c for c, shown in zip(row, used, strict=True) if shown) for row in found]

    def __str__(self) -> str:
        if not self.entries:
            return "no changes"
        cells = self.cells()
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        return "\n".join(
            "  ".join(map(str.ljust, row, widths)).rstrip() for row in cells
        )

    __repr__ = __str__

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.table import Table
        from rich.text import Text

        titles, *rows = self.cells()
        table = Table(box=None, header_style="bold", pad_edge=False)
        for title in titles:
            table.add_column(title, overflow="fold")
        for row, entry in zip(rows, self.entries, strict=True):
            table.add_row(*map(Text, row), style="dim" if entry.abandoned else None)
        yield table

    def _repr_html_(self) -> str:
        titles, *rows = self.cells()
        parts = [_html_row("th", titles, "")]
        for row, entry in zip(rows, self.entries, strict=True):
            style = ' style="opacity: 0.5"' if entry.abandoned else ""
            parts.append(_html_row("td", row, style))
        return "<table>\n" + "\n".join(parts) + "\n</table>"


def _html_row(tag: str, cells: Iterable[str], style: str) -> str:
    inside = "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells)
    return f"<tr{style}>{inside}</tr>"
