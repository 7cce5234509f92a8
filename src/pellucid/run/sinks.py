"""Where a log goes: the terminal, files, and the loggers of others."""

from __future__ import annotations

import contextlib
import csv
import inspect
import io
import json
import os
import re
import stat
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

from pellucid.changes import Change
from pellucid.run.plain import plain
from pellucid.run.record import write_whole

__all__ = ["CSV", "JSONL", "Sink", "TensorBoard", "Terminal", "adapt", "numbers_of"]


class Sink(Protocol):
    """What a `pellucid.Logger` hands everything to; only ``log`` must be there.

    It may also have ``change(entry)``, for each change of a hyperparameter (a
    `pellucid.changes.Change`); ``params(values)``, called once with the initial values; and
    ``close()``.
    """

    def log(self, step: int, values: Mapping[str, Any]) -> None:
        """Take all values of a step; they are not to be written to."""


def numbers_of(values: Mapping[str, Any]) -> dict[str, float]:
    """The values that are numbers; a choice (True, a text, None) is none."""
    return {name: value for name, value in values.items() if type(value) in (float, int)}


# -- files ---------------------------------------------------------------------------------


class _Lines:
    """A file to which whole lines are appended, each by one call of the system.

    Args:
        path: the file; one that is there is continued.
        begins: the ways in which it may begin then. Any other file is left alone.
    """

    def __init__(self, path: str | os.PathLike[str], *begins: str) -> None:
        if not isinstance(path, (str, os.PathLike)) or not isinstance(os.fspath(path), str):
            raise TypeError(f"path is {path!r}; allowed is the path of a file, as text")
        self.path, self.begins = os.fspath(path), begins
        self.number: int | None = None
        self.end = self.inode = 0
        self.open()

    def open(self) -> int:
        if self.number is None:
            flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_CLOEXEC", 0)
            self.number = os.open(self.path, flags | getattr(os, "O_BINARY", 0), 0o666)
            found = os.fstat(self.number)
            self.end, self.inode = found.st_size, found.st_ino
            if self.end:
                self._check()
                self._cut_torn()
        return self.number

    def _check(self) -> None:
        """Refuse a file that is something else."""
        with open(self.path, "rb") as file:
            head = file.read(20).decode(errors="replace")
        if not head.startswith(self.begins):
            self.close()
            raise ValueError(
                f"{self.path} is there and begins with {head!r}, not with "
                f"{self.begins[0].strip()!r}: give another path"
            )

    def stands(self) -> bool:
        """Whether the file is as it was left: nobody else wrote to it, moved or removed it."""
        try:
            found = os.stat(self.path)
        except FileNotFoundError:
            return False
        return found.st_size == self.end and found.st_ino == self.inode

    def _cut_torn(self) -> None:
        """Take away a last line that an interrupted run left without an end."""
        assert self.number is not None
        content = Path(self.path).read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole != len(content):
            os.ftruncate(self.number, whole)
            self.end = whole

    def write(self, line: str) -> None:
        # a lone surrogate, as in the name of a file, becomes its escape
        data, number, written = line.encode(errors="backslashreplace"), self.open(), 0
        try:
            while written < len(data):  # what is left after a part tells why it was a part
                written += os.write(number, data[written:])
        except OSError as error:
            _take_back(number, written)
            raise _unwritten(self.path, error) from error
        self.end += written

    def close(self) -> None:
        number, self.number = self.number, None
        if number is not None:
            os.close(number)

    def __del__(self) -> None:
        if getattr(self, "number", None) is not None and os is not None:  # Python may be ending
            self.close()


def _take_back(number: int, written: int) -> None:
    """Cut a part of a line off the end of a file, unless another has written after it."""
    with contextlib.suppress(OSError):  # no plain file
        end = os.lseek(number, 0, os.SEEK_CUR)
        if written and os.fstat(number).st_size == end:
            os.ftruncate(number, end - written)


def _unwritten(path: str, error: OSError) -> OSError:
    return OSError(
        error.errno,
        f"{path} could not be written to ({error.strerror or error}); its earlier lines are whole. "
        "Make room on the disk, or log to another place",
    )


class JSONL:
    """A file of JSON lines: a line for each step, each change, and one for the initial values.

    ``{"step": 3, "loss": 0.5, "hyperparameters/group 0/learning_rate": 0.1}``, ``{"change":
    {...}}``, ``{"params": {...}}``. A file that is there is continued.

    Raises:
        ValueError: the file is there and is no such file.
        OSError: the file cannot be written to, such as on a full disk; earlier lines stay whole.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._lines = _Lines(path, "{")

    def log(self, step: int, values: Mapping[str, Any]) -> None:
        self._write({"step": step, **values})

    def change(self, entry: Change) -> None:
        self._write({"change": asdict(entry)})

    def params(self, values: Mapping[str, Any]) -> None:
        self._write({"params": dict(values)})

    def _write(self, event: Mapping[str, Any]) -> None:
        try:
            line = json.dumps(event, ensure_ascii=False, allow_nan=False)
        except (TypeError, ValueError):  # NaN, infinities, objects
            line = json.dumps(plain(event), ensure_ascii=False, allow_nan=False)
        self._lines.write(line + "\n")

    def close(self) -> None:
        self._lines.close()


class CSV:
    """A table: a row for each step, a column for each value; a file that is there is continued.

    A new column has the file written anew, whole; earlier rows are empty there.

    Raises:
        ValueError: the file is there and is no such table.
        OSError: it cannot be written to; earlier rows stay whole.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        if isinstance(path, (str, os.PathLike)) and not _may_be_replaced(path):
            raise ValueError(f"path is {path!r}, no plain file, as a table must be: use JSONL")
        self._lines = _Lines(path, "step\n", "step,", "step\r")
        self.path = self._lines.path
        self.columns: list[str] = []
        self._read_columns()

    def _read_columns(self) -> None:
        self._lines.open()
        self.columns = self._rows()[0] if self._lines.end else []

    def _rows(self) -> list[list[str]]:
        with open(self.path, encoding="utf-8", newline="") as file:
            return list(csv.reader(file))

    def log(self, step: int, values: Mapping[str, Any]) -> None:
        if not self._lines.stands():  # another log goes there, too, or it was taken away
            self._lines.close()
            self._read_columns()
        row = {"step": step, **values}
        new = [name for name in row if name not in self.columns]
        if new:
            self._widen(new)
        self._lines.write(_csv_text([[row.get(name, "") for name in self.columns]]))

    def _widen(self, new: list[str]) -> None:
        rows = self._rows()[1:]
        columns = [*self.columns, *new]
        padded = [[*row, *[""] * (len(columns) - len(row))] for row in rows]
        try:
            write_whole(os.path.realpath(self.path), _csv_text([columns, *padded]))
        except OSError as error:
            raise _unwritten(self.path, error) from error
        self.columns = columns
        self._lines.close()  # another file has that name now: the next line opens it

    def close(self) -> None:
        self._lines.close()


def _may_be_replaced(path: str | os.PathLike[str]) -> bool:
    """Whether there is none yet, or a plain file: a device would be replaced by a file."""
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return True
    return stat.S_ISREG(mode) or stat.S_ISDIR(mode)  # of a folder `open` says more


def _csv_text(rows: list[list[Any]]) -> str:
    stream = io.StringIO(newline="")
    csv.writer(stream, lineterminator="\n").writerows(rows)
    return stream.getvalue()


# -- what is loaded when it is asked for ---------------------------------------------------


def Terminal(console: Any = None, live: bool | None = None) -> Any:
    """A live table with sparklines; where there is no terminal, a line for each change.

    Args:
        console: a `rich.console.Console`; None prints to the standard output.
        live: whether to draw the table; None asks whether it is a terminal.
    """
    from pellucid.run.live_table import TerminalSink

    return TerminalSink(console, live)


def TensorBoard(folder_or_writer: Any) -> Any:
    """Event files for TensorBoard; see `pellucid.run.tensorboard.TensorBoardSink`."""
    from pellucid.run.tensorboard import TensorBoardSink

    return TensorBoardSink(folder_or_writer)


# -- the loggers of others -----------------------------------------------------------------


def adapt(other: Any) -> Any:
    """A sink of a logger: itself, if it is one; else what its methods show it to be.

    Args:
        other: a run of W&B (``log(mapping, step=)``, ``config.update``), MLflow or a logger of
            Lightning (``log_metrics(mapping, step=)``), torch's SummaryWriter (``add_scalar``), or
            a function of step and values. To W&B, MLflow and Lightning numbers go at each step and
            initial values once, as parameters.

    Raises:
        TypeError: it is none of these.
    """
    if isinstance(other, (str, bytes, os.PathLike)):
        raise TypeError(
            f"{other!r} is a path; say what is to be written there: pellucid.run.sinks.CSV(path), "
            "JSONL(path) or TensorBoard(folder)"
        )
    if not isinstance(other, type):
        for has, made in _KINDS:
            if has(other):
                return made(other)
    shown = other.__name__ if isinstance(other, type) else f"a {type(other).__name__}"
    hint = "; pass an object of that class" if isinstance(other, type) else ""
    raise TypeError(
        f"{shown} is no sink: allowed are Terminal(), TensorBoard(folder), CSV(path), JSONL(path), "
        "a run of W&B, mlflow, a logger of Lightning, torch's SummaryWriter, a function of step "
        f"and values, and anything with a method log(step, values){hint}"
    )


def _takes_two(method: Any) -> bool:
    """Whether a method needs two positional arguments, as ``log(step, values)`` does."""
    try:
        found = inspect.signature(method).parameters.values()
    except (TypeError, ValueError):
        return False
    needed = [one for one in found if one.default is one.empty and one.kind in _POSITIONAL]
    return len(needed) == 2


_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def _has(*names: str) -> Callable[[Any], bool]:
    return lambda one: all(callable(getattr(one, name, None)) for name in names)


class _Function:
    """A plain function as a sink."""

    def __init__(self, function: Any) -> None:
        self.log = function


class _Run:
    """A run of W&B, or what logs like one: ``log(mapping, step=)``."""

    def __init__(self, run: Any) -> None:
        self.run = run
        self.config: Any = getattr(run, "config", None)
        self.texts: dict[str, str] = {}  # changes go with the next step: steps must ascend
        self.last: int | None = None

    def log(self, step: int, values: Mapping[str, Any]) -> None:
        texts, self.texts, self.last = self.texts, {}, step
        self.run.log({**numbers_of(values), **texts}, step=step)

    def change(self, entry: Change) -> None:
        self.texts[f"changes/{entry.group}/{entry.name}"] = str(entry)

    def params(self, values: Mapping[str, Any]) -> None:
        if callable(getattr(self.config, "update", None)):
            self.config.update(dict(values))

    def close(self) -> None:
        """Hand on the last changes; the run stays open, since it is the user's."""
        if self.texts and self.last is not None:
            texts, self.texts = self.texts, {}
            self.run.log(texts, step=self.last)


class _Metrics:
    """MLflow, Lightning's loggers and the like: ``log_metrics(mapping, step=)``."""

    def __init__(self, logger: Any) -> None:
        self.logger = logger
        named = ("log_hyperparams", "log_params", "log_parameters")
        self._params = next((m for n in named if callable(m := getattr(logger, n, None))), None)
        self._tag = getattr(logger, "set_tag", None)
        # of MLflow, which refuses other characters in names
        self._name = _mlflow_name if callable(self._tag) else str

    def log(self, step: int, values: Mapping[str, Any]) -> None:
        numbers = {self._name(name): value for name, value in numbers_of(values).items()}
        self.logger.log_metrics(numbers, step=step)

    def change(self, entry: Change) -> None:
        if callable(self._tag):
            name = f"change {entry.step} {entry.group}/{entry.name}"
            self._tag(_mlflow_name(name), str(entry))

    def params(self, values: Mapping[str, Any]) -> None:
        if self._params is not None:
            self._params({self._name(name): value for name, value in values.items()})


def _mlflow_name(name: str) -> str:
    return re.sub(r"[^\w\-. /]", "_", name)


_KINDS: tuple[tuple[Callable[[Any], bool], Callable[[Any], Any]], ...] = (
    (lambda one: _has("log")(one) and _takes_two(one.log), lambda one: one),
    (_has("add_scalar", "add_text"), TensorBoard),
    (_has("log_metrics"), _Metrics),
    (_has("log"), _Run),
    (lambda one: callable(one) and _takes_two(one), _Function),
)
"""How a logger is told by its methods, and what makes a sink of it."""
