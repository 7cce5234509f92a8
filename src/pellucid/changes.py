"""The journal: every change of a hyperparameter, with its step, source and reason.

A run of a schedule, or of a framework's scheduler, is one record. In a checkpoint the journal is
plain data; in a file of its own it is JSON lines, one for each event, written at once.
"""

from __future__ import annotations

import base64
import html
import json
import os
import sys
import warnings
import zlib
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields, replace
from numbers import Integral, Real
from operator import index
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult

__all__ = ["Change", "Journal", "JournalTable"]

MERGED = ("framework scheduler",)
"""Sources that change a value at each step: a run of them is one entry."""

FORMAT = 1
MISSED: Any = object()  # no value is known
Key = tuple[str, str]  # group, name


@dataclass(frozen=True)
class Change:
    """One line of the journal.

    ``step`` is the number of the first update that uses the new value, from 1. ``until`` is the
    last update of a run, by a schedule or by a source that changes a value at each step, which is
    kept as one entry. ``schedule`` is what drives the run, as plain data. ``abandoned``: training
    was resumed before this step, and went another way.
    """

    step: int
    group: str
    name: str
    old: Any
    new: Any
    source: str
    reason: str = ""
    until: int | None = None
    schedule: Any = None
    abandoned: bool = False

    def __str__(self) -> str:
        steps = f"step {self.step}" if self.until is None else f"steps {self.step}-{self.until}"
        why = f": {self.reason}" if self.reason else ""
        left = "  abandoned" if self.abandoned else ""
        return (
            f"{steps}  {self.group}/{self.name}  {_text(self.old)} → {_text(self.new)}  "
            f"({self._cause()}{why}){left}"
        )

    def _cause(self) -> str:
        if self.schedule is None:
            return self.source
        between = " " if self.source == "schedule" else ", "
        return f"{self.source}{between}{_schedule_text(self.schedule)}"

    @property
    def key(self) -> Key:
        return self.group, self.name


class Points:
    """Values of one hyperparameter from steps on, ascending."""

    def __init__(self, step: int | None = None, value: float = 0.0) -> None:
        self.steps, self.values = array("q"), array("d")
        if step is not None:
            self.put(step, value)

    def put(self, step: int, value: float) -> None:
        """The value from a step on; one step's later value replaces its earlier."""
        if self.steps and self.steps[-1] >= step:
            self.values[-1] = value
        else:
            self.steps.append(step)
            self.values.append(value)

    def at(self, step: int) -> float:
        return self.values[max(bisect_right(self.steps, step) - 1, 0)]

    def cut(self, updates: int) -> tuple[Points, Points]:
        """The points up to a step, and those after it."""
        place = bisect_right(self.steps, updates)
        first, second = Points(), Points()
        first.steps, second.steps = self.steps[:place], self.steps[place:]
        first.values, second.values = self.values[:place], self.values[place:]
        return first, second

    def pack(self) -> dict[str, Any]:
        """As plain data: little-endian steps (each as the distance from the last), then values."""
        distances = (b - a for a, b in zip([0, *self.steps], self.steps, strict=False))
        both = array("q", distances), array("d", self.values)
        if sys.byteorder == "big":
            for one in both:
                one.byteswap()
        packed = zlib.compress(both[0].tobytes() + both[1].tobytes())
        return {"count": len(self.steps), "data": base64.b64encode(packed).decode()}

    @classmethod
    def unpack(cls, packed: Mapping[str, Any]) -> Points:
        """What `pack` gave; ValueError if it is damaged."""
        size = int(packed["count"]) * 8
        try:
            given = zlib.decompressobj().decompress(
                base64.b64decode(packed["data"], validate=True), 2 * size + 1
            )
        except zlib.error as error:
            raise ValueError(f"damaged points: {error}") from None
        if len(given) != 2 * size or not size:
            raise ValueError(f"damaged points: {len(given)} bytes instead of {2 * size}")
        made = cls()
        distances = array("q", given[:size])
        made.values.frombytes(given[size:])
        if sys.byteorder == "big":
            distances.byteswap()
            made.values.byteswap()
        step = 0
        for distance in distances:
            step += distance
            made.steps.append(step)
        return made


class Record:
    """A change as the journal keeps it: of a run the points or the schedule, and its end."""

    __slots__ = ("_driver", "change", "end", "head", "points", "round")

    def __init__(
        self, change: Change, points: Points | None = None, end: int | None = None
    ) -> None:
        self.change, self.points = change, points
        self.end = end  # last step of a schedule that another change replaced
        self.round = 0, 0  # of what is abandoned: by which resume, after how many updates
        self.head = ""  # how a point's line in a file begins
        self._driver: Any = None

    @property
    def runs(self) -> bool:
        return self.points is not None or self.change.schedule is not None

    @property
    def target(self) -> str | None:
        """The hyperparameter that this one is tied to."""
        schedule = self.change.schedule
        return schedule.get("ref") if isinstance(schedule, Mapping) else None

    def used(self, step: int) -> Any:
        """The value at a step of the run; ValueError if its schedule cannot be had here."""
        change = self.change
        if self.points is not None:
            return self.points.at(step)
        if change.schedule is None or self.target is not None:
            return change.new
        try:
            if self._driver is None:
                from pellucid.declare import revive

                self._driver = revive(change.schedule)
            return float(self._driver(step - 1))
        except Exception as error:
            raise ValueError(
                f"{change.group}/{change.name} follows {_schedule_text(change.schedule)}, which "
                f"cannot be had here: {error!r}"
            ) from error

    def as_abandoned(self, reached: int, by: tuple[int, int]) -> Record:
        end = self.end if self.end is not None else max(reached, self.change.step)
        if self.points is not None:
            end = max(end, self.points.steps[-1])
        made = Record(replace(self.change, abandoned=True), self.points, end)
        made._driver, made.round = self._driver, by
        return made

    @property
    def identity(self) -> str:
        """The same for the same event, however long its run became."""
        change, points = self.change, self.points
        runs = points.values[0] if points is not None else change.schedule or change.new
        return repr((change.step, *change.key, change.source, change.reason, change.old, runs))


class Journal:
    """All changes of an optimizer's hyperparameters, oldest first.

    It is a sequence of `Change`. ``initial`` has the values that each group began with, and from
    which step; ``scheduled`` the (group, name) of values that a framework's scheduler is known to
    drive; ``live``, where an optimizer holds this journal, gives its completed updates.
    """

    def __init__(self, entries: Iterable[Change] = ()) -> None:
        self.initial: dict[str, tuple[int, dict[str, Any]]] = {}
        self.scheduled: set[Key] = set()
        self.live: Callable[[], int] | None = None
        self._records: list[Record] = []
        self._latest: dict[Key, Record] = {}
        self._reached: int | None = None  # completed updates, as a file tells
        self._least = 0  # updates that were completed at least
        self._complete = False  # a load brought the whole history
        self._file: _File | None = None
        for entry in entries:
            end = None if entry.schedule is None else entry.until or entry.step
            self._append(Record(entry, _points_of(entry), end))

    # -- recording -------------------------------------------------------------------------

    def begin(
        self,
        step: int,
        group: str,
        values: Mapping[str, Any],
        schedules: Mapping[str, Any] | None = None,
        source: str = "assignment",
    ) -> None:
        """A group is there, with these values (first values, where schedules drive them).

        Of a group that is known already, what differs from the entries goes on record.
        """
        plain = {name: _plain(value) for name, value in values.items()}
        driven = schedules or {}
        if group not in self.initial:
            self.initial[group] = step, plain
            self._write({"begin": [step, group, plain]})
            for name, schedule in driven.items():
                value = plain[name]
                self.record(
                    Change(step, group, name, value, value, "schedule", schedule=schedule)
                )
            return
        for name, value in plain.items():
            change = Change(step, group, name, None, value, source, schedule=driven.get(name))
            self.settle(change)

    def settle(self, change: Change) -> None:
        """Record how a hyperparameter stands, unless the entries say the same."""
        schedule, value = self.stands(*change.key)
        if schedule == change.schedule and (schedule is not None or value == change.new):
            return
        known = change.old if value is MISSED else value
        self.record(change if change.old is not None else replace(change, old=known))

    def stands(self, group: str, name: str) -> tuple[Any, Any]:
        """The schedule (or None) and the value that the entries end with."""
        record = self._latest.get((group, name))
        if record is None:
            return None, self.initial.get(group, (0, {}))[1].get(name, MISSED)
        return record.change.schedule, self._entry(record).new

    def record(self, change: Change) -> None:
        """Add a change; a run by one framework scheduler extends its entry."""
        if not isinstance(change.reason, str):
            raise TypeError(f"reason is {change.reason!r}; allowed is text")
        if self.live is None:
            self._reached = None  # more was done than the file told
        latest = self._latest.get((change.group, change.name))
        if (
            latest is not None
            and latest.points is not None
            and latest.change.source == change.source
            and latest.change.schedule is change.schedule is None
            and isinstance(change.new, (float, int))
            and not isinstance(change.new, bool)
        ):
            self._extend(latest, change.step, change.new)
            return
        change = replace(change, old=_plain(change.old), new=_plain(change.new))
        self._append(Record(change, _points_of(change)))
        if self._file is not None:
            self._write({"change": _sparse(change)})

    def point(self, step: int, group: str, name: str, value: float) -> None:
        """The value that a step uses, of a schedule that cannot be stored."""
        latest = self._latest.get((group, name))
        points = None if latest is None else latest.points
        if latest is not None and points is not None and value != points.values[-1]:
            self._extend(latest, step, value)

    def _extend(self, record: Record, step: int, value: float) -> None:
        assert record.points is not None
        record.points.put(step, value)
        if self._file is not None:
            if not record.head:
                record.head = f'{{"point": [{json.dumps(record.change.key)[1:-1]}, '
            self._write_line(f"{record.head}{step}, {json.dumps(float(value))}]}}\n")

    def _append(self, record: Record) -> None:
        self._records.append(record)
        self._follow(record)

    def _follow(self, record: Record) -> None:
        """What a record says holds now, and no longer what the one before it said."""
        change = record.change
        if change.abandoned:
            return
        before = self._latest.get(change.key)
        if before is not None:
            before.end = max(change.step - 1, before.change.step)
        self._latest[change.key] = record

    # -- reading ---------------------------------------------------------------------------

    @property
    def updates(self) -> int | None:
        """Completed updates, where they are known."""
        return self._reached if self.live is None else self.live()

    def _highest(self) -> int:
        """The last step that the entries tell of."""
        found = [self._least, self._reached or 0]
        for one in self._records:
            if not one.change.abandoned:
                found.append(one.change.step)
                found += one.points.steps[-1:] if one.points is not None else ()
        return max(found)

    def _ended(self, record: Record) -> int:
        """The last step of a run."""
        if record.points is not None and record.change.schedule is None:
            return record.points.steps[-1]
        if record.end is not None:
            return record.end
        updates = self.updates
        return max(self._highest() if updates is None else updates, record.change.step)

    def _entry(self, record: Record) -> Change:
        change = record.change
        if not record.runs:
            return change
        end = self._ended(record)
        new = change.new
        try:
            if record.target is None:
                new = record.used(end)
            elif not change.abandoned:
                new = self._used(change.group, record.target, end, change.new)
        except ValueError:  # a schedule of a class that is not imported here
            pass
        return replace(change, new=new, until=end if end > change.step else None)

    def _used(self, group: str, name: str, step: int, default: Any) -> Any:
        """What a hyperparameter was at a step."""
        for record in reversed(self._records):
            change = record.change
            if change.key == (group, name) and change.step <= step and not change.abandoned:
                target = record.target
                return (
                    record.used(step)
                    if target is None
                    else self._used(group, target, step, default)
                )
        return self.initial.get(group, (0, {}))[1].get(name, default)

    def at(self, step: int, abandoned: bool = False) -> dict[str, Any]:
        """All hyperparameters and options as the update number ``step`` used them.

        Args:
            step: from 1 to the number of completed updates (of a file alone, which does not tell
                it, any from 1).
            abandoned: as the last abandoned run used them.

        Raises:
            ValueError: there was no such update, or a schedule is needed whose class or function
                is not imported.
        """
        step = index(step)
        records = [one for one in self._records if not one.change.abandoned]
        last, cut = self.updates, step
        if abandoned:
            latest = self._resumed()
            records = [one for one in self._records if one.round in ((0, 0), latest)]
            given_up = [place for place, one in enumerate(records) if one.round == latest]
            records, cut = records[: max(given_up, default=-1) + 1], latest[1]
            last = max((self._ended(one) for one in records if one.change.abandoned), default=0)
        if step < 1 or (last is not None and step > last):
            allowed = "at least 1" if last is None else f"from 1 to {last}"
            none = " (no update has run)" if last == 0 else ""
            raise ValueError(f"there is no update {step}: allowed is {allowed}{none}")
        found: dict[Key, Any] = {
            (group, name): value
            for group, (first, values) in self.initial.items()
            if first <= step
            for name, value in values.items()
        }
        acting = {one.change.key: one for one in records if one.change.step <= step}
        for key, record in acting.items():
            if record.target is None:
                merged = record.points is not None and not record.change.abandoned
                found[key] = record.used(min(step, cut) if merged else step)
        for key, record in acting.items():
            if record.target is not None:
                found[key] = found.get((key[0], record.target), record.change.new)
        return {f"{group}/{name}": value for (group, name), value in found.items()}

    def last(self, group: str, name: str) -> Any:
        """The value that the last change of a hyperparameter gave it; None without one."""
        record = self._latest.get((group, name))
        return None if record is None else self._entry(record).new

    def table(self) -> JournalTable:
        """All entries as a table, newest last: printed, in a notebook, or as ``rows``."""
        return JournalTable(list(self))

    def __iter__(self) -> Iterator[Change]:
        return iter([self._entry(record) for record in self._records])

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, place: int) -> Change:
        return self._entry(self._records[place])

    def __str__(self) -> str:
        return "\n".join(map(str, self)) or "no changes"

    # -- resuming --------------------------------------------------------------------------

    def abandon(self, updates: int) -> None:
        """Training goes on after ``updates`` completed ones: later entries are marked.

        A run that spans them is cut there.
        """
        reached = self.updates
        self._abandon(updates, self._highest() if reached is None else reached)

    def _abandon(self, updates: int, reached: int) -> None:
        self._write({"resumed": updates, "reached": reached})
        self._reached = reached
        records: list[Record] = []
        left: list[Record] = []
        by = self._resumed()[0] + 1, updates
        for record in self._records:
            if record.change.abandoned:
                records.append(record)
            elif record.change.step > updates:
                left.append(self._given_up(record, reached, by))
            else:
                kept, rest = self._cut(record, updates, reached)
                records.append(kept)
                left += [] if rest is None else [self._given_up(rest, reached, by)]
        left.sort(key=lambda one: one.change.step)
        self._records = [*records, *left]
        self._reached = self._least = updates
        self.initial = {g: (min(n, updates + 1), v) for g, (n, v) in self.initial.items()}
        self._relink()

    def _resumed(self) -> tuple[int, int]:
        """The last resume that abandoned anything: its number, and after how many updates."""
        return max((record.round for record in self._records), default=(0, 0))

    def _given_up(self, record: Record, reached: int, by: tuple[int, int]) -> Record:
        made = record.as_abandoned(reached, by)
        made.change = replace(made.change, new=self._entry(record).new)
        return made

    def _cut(self, record: Record, updates: int, reached: int) -> tuple[Record, Record | None]:
        """A record up to ``updates``, and the rest of a run that spans them."""
        change, points = record.change, record.points
        end = reached if record.end is None else record.end
        if change.schedule is None and points is not None:
            end = points.steps[-1]
        if not record.runs or end <= updates:
            return record, None
        kept, rest = Record(change, points), Record(replace(change, step=updates + 1), points, end)
        if points is not None:
            old = points.at(updates)
            kept.points, rest.points = points.cut(updates)
            if updates + 1 not in rest.points.steps[:1]:
                rest.points.steps.insert(0, updates + 1)
                rest.points.values.insert(0, old)
        else:
            old = self._used(change.group, change.name, updates, change.new)
        rest.change = replace(rest.change, old=old, new=self._entry(record).new)
        return kept, rest

    def _relink(self) -> None:
        self._latest = {}
        for record in self._records:
            if not record.change.abandoned:
                record.end = None
                self._follow(record)

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
        return {"updates": self.updates, "initial": initial, "entries": self.to_list()}

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
            entries = entries["entries"]
        made._records = [_revived(entry) for entry in entries]
        made._relink()
        return made

    def _first(self, step: Any, group: Any, values: Any) -> None:
        named = {str(name): _plain(value) for name, value in values.items()}
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
        self._records, self.initial = history._records, history.initial
        self._relink()
        if _line({**self.to_dict(), "updates": updates}) != text:
            file.write(_line({"all": self.to_dict()}))
        self._file = file

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
        elif what == "change":
            self._append(_revived(given))
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
            self._records, self.initial = read._records, read.initial
            self._least = read._least
            self._relink()
        else:
            raise ValueError(f"unknown event {what!r}")

    def close(self) -> None:
        """Write no more to a file."""
        self._file = None

    def _write(self, event: Mapping[str, Any]) -> None:
        if self._file is not None:
            self._write_line(_line(event))

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
            values = _text(one.old), _text(one.new)
            name = f"{one.group}/{one.name}"
            found.append((steps, name, *values, one._cause(), one.reason, left))
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


# -- values and their text ---------------------------------------------------------------------


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _schedule_text(plain: Any) -> str:
    """A schedule's plain data, as it is written in Python."""
    if isinstance(plain, Mapping):
        if "ref" in plain:
            return f"ref({plain['ref']!r})"
        if "repr" in plain:
            return str(plain["repr"])
        if "function" in plain:
            return str(plain["function"]).rpartition(":")[2]
        if isinstance(plain.get("schedule"), Mapping):
            return _schedule_text(plain["schedule"])
        if "class" in plain:
            given = (f"{k}={_schedule_text(v)}" for k, v in plain.items() if k != "class")
            return f"{str(plain['class']).rpartition(':')[2]}({', '.join(given)})"
    if isinstance(plain, (list, tuple)):
        return f"[{', '.join(map(_schedule_text, plain))}]"
    return repr(plain)


def _plain(value: Any) -> Any:
    """A value that JSON can hold, and gives back."""
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, (tuple, list)):
        return tuple(map(_plain, value))
    if isinstance(value, Integral):
        return int(value)
    return float(value) if isinstance(value, Real) else str(value)


def _points_of(change: Change) -> Points | None:
    """The points of a run whose values cannot be had from a schedule."""
    number = isinstance(change.new, (int, float)) and not isinstance(change.new, bool)
    unstored = isinstance(change.schedule, Mapping) and "repr" in change.schedule
    if not number or not (unstored or (change.source in MERGED and change.schedule is None)):
        return None
    points = Points(change.step, float(change.new))
    if change.until is not None:  # of a list without points
        points.put(change.until, float(change.new))
    return points


def _line(event: Mapping[str, Any]) -> str:
    return json.dumps(event, ensure_ascii=False) + "\n"


DEFAULTS = {field.name: field.default for field in fields(Change) if field.default is not MISSING}


def _sparse(change: Change) -> dict[str, Any]:
    return {
        name: value
        for name, value in vars(change).items()
        if name not in DEFAULTS or value != DEFAULTS[name]
    }


def _revived(entry: Mapping[str, Any]) -> Record:
    """The record of an entry as plain data."""
    given = dict(entry)
    packed, ended = given.pop("points", None), given.pop("end", None)
    number, cut = given.pop("round", (1, 0))
    change = Change(**{**given, "old": _plain(given["old"]), "new": _plain(given["new"])})
    texts = change.group, change.name, change.source, change.reason
    if not all(isinstance(text, str) for text in texts):
        raise ValueError(f"group, name, source and reason are text, not {texts!r}")
    for step in (change.step, 1 if change.until is None else change.until):
        if not isinstance(step, int) or isinstance(step, bool) or step < 1:
            raise ValueError(f"a step is a number from 1, not {step!r}")
    points = _points_of(change) if packed is None else Points.unpack(packed)
    end = max(change.until or 0, change.step, ended or 0) if change.abandoned else None
    record = Record(change, points, end)
    record.round = (int(number), int(cut)) if change.abandoned else (0, 0)
    return record
