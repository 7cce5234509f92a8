"""The journal: every change of a hyperparameter, with its step, source and reason.

A run of a schedule, or of a framework's scheduler, is one record. In a checkpoint the journal is
plain data; in a file of its own it is JSON lines, one for each event, written at once.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from typing import Any

from pellucid.journal_history import History
from pellucid.journal_records import Change, Points, Record, revived, sparse, storable
from pellucid.journal_table import JournalTable

__all__ = ["Change", "Journal", "JournalTable", "Points"]

FORMAT = 1


class Journal(History):
    """All changes of an optimizer's hyperparameters, oldest first.

    It is a sequence of `Change`. ``initial`` has the values that each group began with, and from
    which step; ``scheduled`` the (group, name) of values that a framework's scheduler is known to
    drive; ``live``, where an optimizer holds this journal, gives its completed updates.
    """

    def __init__(self, entries: Iterable[Change] = ()) -> None:
        self._complete = False  # a load brought the whole history
        self._file: _File | None = None
        super().__init__(entries)

    def load(self, loaded: Journal, updates: int) -> None:
        """Take the history of a checkpoint of ``updates`` updates; entries of ours stay, abandoned.

        Entries that both have are not doubled.
        """
        file, live, self._file = self._file, self.live, None
        self.abandon(updates)
        self.live = None
        by = self._resumed()[0] + 1, updates
        known = {record.identity for record in loaded._records}
        extra = [one for one in self._records if one.identity not in known]
        left = [
            one if one.change.abandoned else self._given_up(one, updates, by) for one in extra
        ]
        self._records = [*loaded._records, *left]
        self.initial = dict(loaded.initial)
        self._complete, self._file = True, file
        self._relink()
        self._write({"all": self.to_dict()})
        self.live = live

    # -- plain data ------------------------------------------------------------------------

    def to_list(self) -> list[dict[str, Any]]:
        """All entries as plain JSON data."""
        found = []
        for record in self._records:
            entry = asdict(self._entry(record))
            if record.points is not None:
                entry["points"] = record.points.pack()
            if record.change.abandoned:
                entry |= {"end": record.end, "round": list(record.round)}
            found.append(entry)
        return found

    def to_dict(self) -> dict[str, Any]:
        """The whole journal as plain JSON data."""
        initial = [[step, group, dict(values)] for group, (step, values) in self.initial.items()]
        found = {"updates": self.updates, "initial": initial, "entries": self.to_list()}
        return {**found, "ended": dict(self.ended)} if self.ended else found

    @classmethod
    def from_list(cls, entries: Any) -> Journal:
        """The journal that `to_dict` or `to_list` described.

        Raises:
            TypeError, ValueError, KeyError: it is none.
        """
        made = cls()
        if isinstance(entries, Mapping):
            for step, group, values in entries["initial"]:
                made._first(step, group, values)
            made._reached = None if entries["updates"] is None else int(entries["updates"])
            made._least = made._reached or 0
            made.ended = {str(g): int(step) for g, step in entries.get("ended", {}).items()}
            entries = entries["entries"]
        made._records = [revived(entry) for entry in entries]
        made._relink()
        return made

    def _first(self, step: Any, group: Any, values: Any) -> None:
        named = {str(name): storable(value) for name, value in values.items()}
        self.initial[str(group)] = int(step), named

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_file": None, "live": None}  # an optimizer's copy gives its own

    # -- a file of its own -----------------------------------------------------------------

    def to_file(self, path: str | os.PathLike[str]) -> None:
        """Keep a file of JSON lines beside the checkpoints: each event is written at once.

        A file that is there is continued: call this after loading the checkpoint. Its entries
        after the completed updates stay, marked abandoned.

        Raises:
            ValueError: the file is no journal, or damaged.
        """
        self.close()
        file = _File(path)
        if file.empty:
            file.write(_line({"journal": FORMAT}))
            file.write(_line({"all": self.to_dict()}))
            self._file = file
            return
        history = Journal.from_file(path)
        updates = self.updates or 0
        file.write(_line({"resumed": updates, "reached": history._highest()}))
        history._abandon(updates, history._highest())
        text = _line(history.to_dict())
        if self._complete:
            history.load(self, updates)
        else:
            history._continue(self, updates)
        self._take(history)
        if _line({**self.to_dict(), "updates": updates}) != text:
            file.write(_line({"all": self.to_dict()}))
        self._file = file

    def _take(self, other: Journal) -> None:
        self._records, self.initial = other._records, other.initial
        self.ended = dict(other.ended)
        self._relink()

    def _continue(self, other: Journal, updates: int) -> None:
        """Go on with a journal that was begun anew after ``updates`` updates."""
        for group, (_, values) in other.initial.items():
            if group not in self.initial:
                self.begin(updates + 1, group, values)
            for name in values:
                schedule, value = other.stands(group, name)
                latest = other._latest.get((group, name))
                source = "assignment" if latest is None else latest.change.source
                reason = "" if latest is None else latest.change.reason
                change = Change(updates + 1, group, name, None, value, source, reason)
                self.settle(replace(change, schedule=schedule))

    @classmethod
    def open(cls, path: str | os.PathLike[str], updates: int = 0) -> Journal:
        """A journal in a file of JSON lines; of one that is there, it goes on.

        Args:
            path: the file.
            updates: completed updates: later entries of the file stay, marked abandoned.

        Raises:
            ValueError: the file is no journal, or damaged.
        """
        made = cls()
        made._reached = updates
        made.to_file(path)
        return made

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> Journal:
        """Read a file of JSON lines, and leave it alone.

        Raises:
            ValueError: what is wrong in which line. A last line that was torn is left out.
        """
        with open(path, "rb") as stream:
            lines = stream.read().split(b"\n")
        made = cls()
        torn = lines.pop()  # empty, if the file ends as it should
        for number, line in enumerate(lines, 1):
            try:
                event = json.loads(line)
                if number == 1:
                    if event["journal"] != FORMAT:
                        raise ValueError(f"format {event['journal']!r}, not {FORMAT}")
                else:
                    made._replay(event)
            except (ValueError, TypeError, KeyError, AttributeError) as error:
                raise ValueError(f"{path}, line {number}: no line of a journal: {error}") from error
        if not lines and not _line({"journal": FORMAT}).encode().startswith(torn):
            raise ValueError(f"{path}, line 1: no line of a journal")
        return made

    def _replay(self, event: Mapping[str, Any]) -> None:
        ((what, given), *more) = event.items()
        if what == "begin":
            self._first(*given)
            self.ended.pop(str(given[1]), None)
        elif what == "end":
            self.ended[str(given[1])] = int(given[0])
        elif what == "change":
            self._append(revived(given))
        elif what == "point":
            group, name, step, value = given
            points = self._latest[group, name].points
            if points is None:
                raise ValueError(f"{group}/{name} has no run")
            points.put(int(step), float(value))
        elif what == "resumed":
            self._abandon(int(given), int(dict(more)["reached"]))
            self._reached = None
        elif what == "all":
            read = Journal.from_list(given)
            self._least = read._least
            self._take(read)
        else:
            raise ValueError(f"unknown event {what!r}")

    def close(self) -> None:
        """Write no more to a file."""
        self._file = None

    def _write(self, event: Mapping[str, Any]) -> None:
        if self._file is not None:
            self._write_line(_line(event))

    def _write_change(self, change: Change) -> None:
        if self._file is not None:
            self._write({"change": sparse(change)})

    def _write_point(self, record: Record, step: int, value: float) -> None:
        if self._file is not None:
            if not record.head:
                record.head = f'{{"point": [{json.dumps(record.change.key)[1:-1]}, '
            self._write_line(f"{record.head}{step}, {json.dumps(float(value))}]}}\n")

    def _write_line(self, line: str) -> None:
        assert self._file is not None
        try:
            self._file.write(line)
        except OSError as error:
            path, self._file = self._file.path, None
            warnings.warn(
                f"the journal goes on without its file {path}: {error}",
                RuntimeWarning,
                stacklevel=2,
            )


class _File:
    """A file to which whole lines are appended, each by one call of the system."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        if os.path.exists(self.path):
            Journal.from_file(self.path)  # before anything is changed: it may be someone else's
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_CLOEXEC", 0)
        self._number = os.open(self.path, flags | getattr(os, "O_BINARY", 0), 0o666)
        with open(self._number, "rb", closefd=False) as stream:
            whole = stream.read().rfind(b"\n") + 1
        os.ftruncate(self._number, whole)  # a torn last line
        self.empty = whole == 0

    def write(self, line: str) -> None:
        data = line.encode()
        if os.write(self._number, data) != len(data):
            raise OSError("the line was written in part: the disk is full")

    def __del__(self) -> None:
        number = getattr(self, "_number", None)
        if number is not None:
            os.close(number)


def _line(event: Mapping[str, Any]) -> str:
    return json.dumps(event, ensure_ascii=False) + "\n"
