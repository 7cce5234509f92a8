"""The log in the terminal: a live table with sparklines, or a line for each change."""

from __future__ import annotations

import atexit
import math
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from pellucid.changes import Change
from pellucid.run.sinks import numbers_of

__all__ = ["TerminalSink", "sparkline"]

BARS = "▁▂▃▄▅▆▇█"
ASCII_BARS = "_.-=*#"
WIDTH, ROWS, CHANGES = 24, 24, 5
"""Values of a sparkline, rows of the table, and changes below it."""

PREFIX = "hyperparameters/"


def sparkline(values: Iterable[float], ascii_only: bool = False) -> str:
    """Numbers as bars: the lowest bar for the least, the highest for the most.

    Equal numbers are all the lowest bar; one that is not finite is a space.

    >>> sparkline([0.0, 1.0, 2.0, 3.0])
    '▁▃▆█'
    """
    bars = ASCII_BARS if ascii_only else BARS
    numbers = [_float(one) for one in values]
    finite = [one for one in numbers if math.isfinite(one)]
    if not finite:
        return " " * len(numbers)
    least, most = min(finite), max(finite)
    high = len(bars) - 1
    width = most / 2 - least / 2  # halves, for the whole may be too large for a number
    return "".join(
        bars[math.floor((one / 2 - least / 2) / width * high + 0.5) if width else 0]
        if math.isfinite(one) else " "
        for one in numbers
    )  # fmt: skip


def _float(value: float) -> float:
    """A number as a float; an integer too large for one is infinite."""
    try:
        return float(value)
    except OverflowError:
        return math.inf


class TerminalSink:
    """A live table where the console is a terminal; elsewhere a line for each change.

    Args:
        console: a `rich.console.Console`; None prints to the standard output.
        live: whether to draw the table; None asks the console.
    """

    def __init__(self, console: Any = None, live: bool | None = None) -> None:
        if console is not None and not isinstance(console, Console):
            raise TypeError(f"console is {console!r}; allowed is a rich.console.Console, or None")
        self.console = console or Console(highlight=False, soft_wrap=True)
        self.drawn = self.console.is_terminal if live is None else live
        self.step = 0
        self.values: Mapping[str, Any] = {}
        self.past: dict[str, deque[float]] = {}
        self.changes: deque[Change] = deque(maxlen=CHANGES)
        self._live: Live | None = None

    def log(self, step: int, values: Mapping[str, Any]) -> None:
        if not self.drawn:
            return
        # a metric that comes now and then is shown until it comes again
        metrics = {name: v for name, v in self.values.items() if not name.startswith(PREFIX)}
        self.step, self.values = step, {**metrics, **values}
        for name, value in numbers_of(values).items():
            if name not in self.past:
                self.past[name] = deque(maxlen=WIDTH)
            self.past[name].append(value)
        if self._live is None:  # it asks for the table four times a second
            self._live = Live(get_renderable=self.table, console=self.console)
            self._live.start()
            atexit.register(self.close)  # of a program that does not: the cursor is hidden

    def change(self, entry: Change) -> None:
        if self.drawn:
            self.changes.append(entry)
        else:
            self.console.print(Text(str(entry)), soft_wrap=True)

    def table(self) -> RenderableType:
        """The table as it is now: metrics, then hyperparameters, groups that agree in one row."""
        table = Table(title=f"step {self.step}", box=None, title_justify="left", pad_edge=False)
        table.add_column("value", overflow="fold")
        table.add_column("now", justify="right")
        table.add_column("last steps", no_wrap=True)
        values = numbers_of(self.values)  # another thread may log meanwhile
        rows = _rows(values)
        for label, name in rows[:ROWS]:
            past = [*self.past.get(name, ())]
            bars = sparkline(past, self.console.options.ascii_only)
            table.add_row(Text(label), f"{_float(values[name]):.6g}", bars)
        more = [Text(f"and {len(rows) - ROWS} more", style="dim")] if len(rows) > ROWS else []
        return Group(table, *more, *(Text(str(one), style="dim") for one in [*self.changes]))

    def close(self) -> None:
        live, self._live = self._live, None
        if live is not None:
            atexit.unregister(self.close)
            live.refresh()
            live.stop()


def _rows(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The label of each row, and the name of the value that it shows."""
    found = [(name, name) for name in values if not name.startswith(PREFIX)]
    by_name: dict[str, list[str]] = {}
    for path in values:
        if path.startswith(PREFIX):
            by_name.setdefault(path.rpartition("/")[2], []).append(path)
    for name, paths in by_name.items():
        found += _folded(name, paths, values)
    return found


def _folded(
    name: str, paths: Sequence[str], values: Mapping[str, Any]
) -> list[tuple[str, str]]:
    """One row where all groups have the same value, else one for each."""
    if len({values[path] for path in paths}) == 1:
        return [(name if len(paths) == 1 else f"{name} (all {len(paths)})", paths[0])]
    return [(path[len(PREFIX) :], path) for path in paths]
