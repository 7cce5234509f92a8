"""A view as a table, in a terminal and in HTML: a row for each hyperparameter, a column a group."""

from __future__ import annotations

import html
import io
import shutil
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.cells import cell_len
from rich.console import Console, RenderableType
from rich.console import Group as Stack
from rich.table import Table
from rich.text import Text

from pellucid.access.advice import advice
from pellucid.access.plain import counted, driver_text, one_line, short, unindexed
from pellucid.access.slots import StateTable
from pellucid.access.sources import Group, Source

__all__ = [
    "Draw", "escaped", "for_stdout", "html_block", "html_page", "html_table",
    "renderable", "setting", "side_by_side", "text", "words",
]  # fmt: skip

WIDEST = 36
"""Of a column: longer cells are folded."""

LIKE = str.maketrans({"→": ">", "…": "~", "×": "x"})
"""What stands for a character where only ASCII can be shown: as wide as it."""

Draw = Callable[[int, bool], RenderableType]
"""Gives what Rich prints, for a width, and for a terminal that has only ASCII or more."""


# -- text --------------------------------------------------------------------------------------


def for_stdout(draw: Draw) -> str:
    """The text as `print` shows it."""
    encoding = (getattr(sys.stdout, "encoding", None) or "utf-8").lower()
    return text(draw, color=sys.stdout.isatty(), ascii_only=not encoding.startswith("utf"))


class _Ascii(io.StringIO):
    encoding = "ascii"  # by which Rich chooses its lines


def text(draw: Draw, color: bool = False, ascii_only: bool = False) -> str:
    """As wide as the terminal (80 where there is none)."""
    width = max(shutil.get_terminal_size().columns, 20)
    out = _Ascii() if ascii_only else io.StringIO()
    console = Console(
        file=out,
        width=width,
        force_terminal=color,
        force_jupyter=False,  # there it would write to the notebook instead
        color_system="standard" if color else None,
        legacy_windows=False,
    )
    console.print(draw(width, ascii_only))
    return "\n".join(line.rstrip() for line in out.getvalue().rstrip("\n").splitlines())


def words(shown: str, ascii_only: bool, style: str = "") -> Text:
    """Text for Rich: no markup, no control characters."""
    shown = one_line(shown)
    if ascii_only and not shown.isascii():
        shown = shown.translate(LIKE).encode("ascii", "replace").decode()
    return Text(shown, style)


def setting(group: Group, full: str) -> str:
    """A hyperparameter's value, and what drives it."""
    shown, driver = short(group.value(full)), driver_text(group, full)
    return f"{shown}  {driver}" if driver else shown


# -- what a view shows -------------------------------------------------------------------------


@dataclass(frozen=True)
class Column:
    """A group, read once."""

    name: str
    count: int
    size: int
    rule: str
    settings: dict[str, str]
    natives: dict[str, str]

    @classmethod
    def of(cls, group: Group) -> Column:
        fulls, names = list(group.names.places), group.names
        return cls(
            group.name,
            len(group.members),
            group.size,
            group.rule,
            {full: setting(group, full) for full in fulls},
            {full: names.native(full) for full in fulls},
        )


WARNED = 3
"""How many warnings are shown."""


@dataclass(frozen=True)
class Page:
    """All that is shown, as text."""

    name: str
    counts: str
    title: str
    columns: list[str]
    rows: list[list[str]]  # a label, then a cell for each column
    notes: list[str]


def _page(source: Source) -> Page:
    columns = [Column.of(group) for group in source.groups()]
    numbers = sum(column.size for column in columns)
    parameters = counted(sum(column.count for column in columns), "parameter")
    slots = unindexed(cell.full for cell in StateTable(source).cells())
    listed = [f"{name} ({len(some)})" if len(some) > 1 else name for name, some in slots.items()]
    notes = [f"state: {', '.join(listed) or 'none yet'}"]
    journal = source.recorded
    if journal is not None and len(journal):
        notes.append(f"{counted(len(journal), 'change')}, the last one: {journal[-1]}")
    wrong = advice(source)
    notes += [f"! {one}" for one in wrong[:WARNED]]
    if len(wrong) > WARNED:
        notes.append(f"! and {len(wrong) - WARNED} more: view.warnings()")
    updates = counted(source.updates, "update")
    counts = {"step", "iteration"} & {*slots}
    if slots and not counts and not source.updates:  # a class that keeps no count
        updates = "updates not counted"
    return Page(
        source.name,
        f"{parameters} ({numbers:,} numbers), {updates}",
        source.title,
        [column.name for column in columns],
        _rows(columns),
        notes,
    )


def _rows(columns: Sequence[Column]) -> list[list[str]]:
    rows = [["parameters", *(f"{column.count} ({column.size:,})" for column in columns)]]
    if len({column.rule for column in columns}) > 1:
        rows.append(["rule", *(column.rule for column in columns)])
    for full in dict.fromkeys(full for column in columns for full in column.settings):
        natives = {column.natives[full] for column in columns if full in column.natives} - {full}
        label = f"{full} ({', '.join(sorted(natives))})" if natives else full
        rows.append([label, *(column.settings.get(full, "-") for column in columns)])
    return rows


def renderable(source: Source, width: int, ascii_only: bool) -> Stack:
    """What Rich prints; columns that do not fit beside each other go into further tables."""
    page = _page(source)
    title = Text.assemble(
        words(page.name, ascii_only, "bold"),
        f": {page.counts}\n",
        words(page.title, ascii_only),
    )
    parts: list[RenderableType] = [title, ""]
    for band in _bands(page, width):
        parts += [_table(page, band, ascii_only), ""]
    return Stack(*parts, *(words(note, ascii_only) for note in page.notes))


def _bands(page: Page, width: int) -> list[list[int]]:
    """Positions of columns that fit beside each other."""
    left = max(cell_len(row[0]) for row in page.rows)
    bands: list[list[int]] = []
    room = 0
    for position, name in enumerate(page.columns):
        cells = [name, *(row[position + 1] for row in page.rows)]
        needed = min(max(map(cell_len, cells)), WIDEST) + 3
        if not bands or needed > room:
            bands.append([])
            room = width - left - 3
        bands[-1].append(position)
        room -= needed
    return bands


def _table(page: Page, band: Sequence[int], ascii_only: bool) -> Table:
    shape = box.ASCII if ascii_only else box.SIMPLE_HEAD
    table = Table(box=shape, header_style="bold", pad_edge=False, show_edge=False)
    table.add_column("", overflow="fold")
    for position in band:
        header = words(page.columns[position], ascii_only)
        table.add_column(header, max_width=WIDEST, overflow="fold")
    for row in page.rows:
        cells = [row[0], *(row[position + 1] for position in band)]
        table.add_row(*(words(cell, ascii_only) for cell in cells))
    return table


# -- HTML --------------------------------------------------------------------------------------


def html_page(source: Source) -> str:
    """The table for a notebook: the same content as the text's."""
    page = _page(source)
    return html_block(
        f"<b>{escaped(page.name)}</b>: {escaped(page.counts)}<br>{escaped(page.title)}",
        html_table(["", *page.columns], page.rows),
        "<br>".join(map(escaped, page.notes)),
    )


def html_block(*parts: str) -> str:
    """Parts below each other; without scripts, and without styles that reach beyond."""
    inside = "".join(f"<div>{part}</div>" for part in parts)
    return f'<div style="overflow-x: auto">{inside}</div>'


def html_table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table of plain texts; the first of a row is its label."""
    left = ' style="text-align: left"'
    lines = ["".join(f"<th{left}>{escaped(cell)}</th>" for cell in head)]
    for label, *cells in rows:
        data = "".join(f"<td{left}>{escaped(cell)}</td>" for cell in cells)
        lines.append(f"<th{left}>{escaped(label)}</th>{data}")
    body = "".join(f"<tr>{line}</tr>" for line in lines[1:])
    return f"<table><thead><tr>{lines[0]}</tr></thead><tbody>{body}</tbody></table>"


def escaped(shown: Any) -> str:
    """Text for HTML: nothing in it is taken for markup."""
    return html.escape(one_line(str(shown)))


# -- two optimizers ----------------------------------------------------------------------------

NARROW = 72
"""Below this width, the columns of a comparison stand below each other."""


def side_by_side(
    heads: Sequence[str],
    rows: Sequence[tuple[str, str, str, str]],
    notes: Sequence[str],
    width: int,
    ascii_only: bool,
) -> Stack:
    """A row for each difference: where, both values, what differs."""
    parts: list[RenderableType] = [words(head, ascii_only, "bold") for head in heads]
    if rows and width < NARROW:
        for where, left, right, note in rows:
            parts += ["", words(where, ascii_only, "bold")]
            parts += [words(f"  {one}", ascii_only) for one in (f"a: {left}", f"b: {right}", note)]
    elif rows:
        shape = box.ASCII if ascii_only else box.SIMPLE_HEAD
        table = Table(box=shape, header_style="bold", pad_edge=False, show_edge=False)
        for head in ("", "a", "b"):
            table.add_column(head, overflow="fold")
        table.add_column("", no_wrap=True)
        for row in rows:
            table.add_row(*(words(cell, ascii_only) for cell in row))
        parts += ["", table]
    return Stack(*parts, "", *(words(note, ascii_only) for note in notes))
