"""A heading and lines of a few columns, for things that are told in words."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from rich.console import Group
from rich.table import Table

from pellucid.access.render import words

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ["lines"]


def lines(
    heading: str, notes: Iterable[str], rows: Iterable[Sequence[str]], ascii_only: bool
) -> RenderableType:
    """What Rich prints: the heading, notes as wide as it goes, the rows with aligned columns."""
    table = Table.grid(padding=(0, 2, 0, 0))
    for row in rows:
        table.add_row(*(words(cell, ascii_only) for cell in row))
    marked = (words(f"- {note}", ascii_only) for note in notes)
    return Group(words(heading, ascii_only, "bold"), *marked, table)
