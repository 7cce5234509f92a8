"""A view as a table: a row for each hyperparameter, a column for each group."""

from __future__ import annotations

import io
import shutil
import sys
from collections.abc import Callable, Sequence
from typing import Any

from rich import box
from rich.cells import cell_len
from rich.console import Console, RenderableType
from rich.console import Group as Stack
from rich.table import Table
from rich.text import Text

from pellucid.access.slots import StateTable
from pellucid.access.sources import Group, Source
from pellucid.declare import Ref

__all__ = ["for_stdout", "renderable", "text"]

WIDEST = 36
"""Of a column: longer cells are folded."""


def for_stdout(source: Source) -> str:
    """The table as `print` shows it."""
    encoding = (getattr(sys.stdout, "encoding", None) or "utf-8").lower()
    shown = text(source, color=sys.stdout.isatty(), ascii_only=not encoding.startswith("utf"))
    return shown if encoding.startswith("utf") else shown.encode("ascii", "replace").decode()


def text(source: Source, color: bool = False, ascii_only: bool = False) -> str:
    """The table as text, as wide as the terminal (80 where there is none)."""
    width = max(shutil.get_terminal_size().columns, 20)
    out = io.StringIO()
    console = Console(
        file=out,
        width=width,
        force_terminal=color,
        color_system="standard" if color else None,
        legacy_windows=False,
    )
    console.print(renderable(source, width, ascii_only))
    return "\n".join(line.rstrip() for line in out.getvalue().rstrip("\n").splitlines())


def renderable(source: Source, width: int, ascii_only: bool) -> Stack:
    """What Rich prints; columns that do not fit beside each other go into further tables."""
    groups = source.groups()
    rows = _rows(groups)
    shape = box.ASCII if ascii_only else box.SIMPLE_HEAD
    count = sum(len(group.members) for group in groups)
    size = sum(group.size for group in groups)
    updates = f"{source.updates} update{'s' * (source.updates != 1)}"
    parameters = f"{count} parameter{'s' * (count != 1)} ({size:,} numbers)"
    title = Text.assemble((source.name, "bold"), f": {parameters}, {updates}\n", source.title)
    parts: list[RenderableType] = [title, ""]
    for band in _bands(groups, rows, width):
        parts += [_table(band, rows, shape), ""]
    slots = dict.fromkeys(cell.full for cell in StateTable(source).cells())
    parts.append(Text(f"state: {', '.join(slots) or 'none yet'}"))
    if len(source.journal):
        changes = f"{len(source.journal)} change{'s' * (len(source.journal) != 1)}, the last one: "
        parts.append(Text(changes + str(source.journal[-1])))
    return Stack(*parts)


Row = tuple[str, Callable[[Group], str]]


def _rows(groups: Sequence[Group]) -> list[Row]:
    """What stands on the left of each row, and what in a group's column."""
    rows: list[Row] = [("parameters", lambda group: f"{len(group.members)} ({group.size:,})")]
    if len({group.rule for group in groups}) > 1:
        rows.append(("rule", lambda group: group.rule))
    fulls = dict.fromkeys(full for group in groups for full in group.names.places)
    for full in fulls:
        natives = {g.names.native(full) for g in groups if full in g.names.places} - {full}
        label = f"{full} ({', '.join(sorted(natives))})" if natives else full
        rows.append((label, lambda group, full=full: _cell(group, full)))  # type: ignore[misc]
    return rows


def _cell(group: Group, full: str) -> str:
    if full not in group.names.places:
        return "-"
    value, driver = group.value(full), group.driver(full)
    shown = f"{value:.6g}" if isinstance(value, float) else str(value)
    if isinstance(driver, Ref):
        return f"{shown}  = {driver.name}"
    if driver is not None:
        return f"{shown}  by {getattr(driver, '__qualname__', None) or repr(driver)}"
    scheduler = group.scheduler(full)
    return f"{shown}  by {scheduler}" if scheduler else shown


def _bands(groups: Sequence[Group], rows: Sequence[Row], width: int) -> list[list[Group]]:
    """Groups whose columns fit beside each other."""
    left = max(cell_len(label) for label, _ in rows)
    bands: list[list[Group]] = []
    room = 0
    for group in groups:
        cells = [group.name, *(cell(group) for _, cell in rows)]
        needed = min(max(map(cell_len, cells)), WIDEST) + 3
        if not bands or needed > room:
            bands.append([])
            room = width - left - 3
        bands[-1].append(group)
        room -= needed
    return bands


def _table(groups: Sequence[Group], rows: Sequence[Row], shape: Any) -> Table:
    table = Table(box=shape, header_style="bold", pad_edge=False, show_edge=False)
    table.add_column("", overflow="fold")
    for group in groups:
        table.add_column(Text(group.name), max_width=WIDEST, overflow="fold")
    for label, cell in rows:
        table.add_row(Text(label), *(Text(cell(group)) for group in groups))
    return table
