"""What an optimizer's hyperparameters were, at every step and on every way that training took."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from operator import index
from typing import Any

from pellucid.journal_records import ADJACENT, Change, Key, Record, points_of, storable
from pellucid.journal_table import JournalTable

__all__ = ["History"]

MISSED: Any = object()  # no value is known


class History:
    """The changes of an optimizer's hyperparameters, in memory; `Journal` writes them down."""

    def __init__(self, entries: Iterable[Change] = ()) -> None:
        self.initial: dict[str, tuple[int, dict[str, Any]]] = {}
        self.ended: dict[str, int] = {}  # groups that are gone: the first step without them
        self.scheduled: set[Key] = set()
        self.live: Callable[[], int] | None = None
        self._records: list[Record] = []
        self._latest: dict[Key, Record] = {}
        self._reached: int | None = None  # completed updates, as a file tells
        self._least = 0  # updates that were completed at least
        for entry in entries:
            end = None if entry.schedule is None else entry.until or entry.step
            self._append(Record(entry, points_of(entry), end))

    # -- what is written of it ---------------------------------------------------------------

    @abstractmethod
    def _write(self, event: Mapping[str, Any]) -> None:
        """Something happened, as plain data."""

    @abstractmethod
    def _write_change(self, change: Change) -> None:
        """A change was added."""

    @abstractmethod
    def _write_point(self, record: Record, step: int, value: float) -> None:
        """A run got another value."""

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
        plain = {name: storable(value) for name, value in values.items()}
        driven = schedules or {}
        self.ended.pop(group, None)
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

    def end(self, step: int, group: str) -> None:
        """A group is gone, or has another name, from this step on."""
        self.ended[group] = step
        self._write({"end": [step, group]})

    @property
    def reached(self) -> int:
        """The last update that the entries tell of, or that is known to be completed."""
        updates = self.updates
        return max(self._highest(), updates or 0)

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
        if change.schedule is None and self.goes_on(
            change.step, change.group, change.name, change.new, change.source
        ):
            return
        change = replace(change, old=storable(change.old), new=storable(change.new))
        self._append(Record(change, points_of(change)))
        self._write_change(change)

    def goes_on(self, step: int, group: str, name: str, value: Any, source: str) -> bool:
        """Add a value to the run that this source is at, if it is at one."""
        latest = self._latest.get((group, name))
        if (
            latest is None
            or latest.points is None
            or latest.change.source != source
            or latest.change.schedule is not None
            or type(value) not in (float, int)
            # a program that writes a value at each step; single writes are entries of their own
            or (source in ADJACENT and step != latest.points.steps[-1] + 1)
        ):
            return False
        self._extend(latest, step, value)
        return True

    def point(self, step: int, group: str, name: str, value: float) -> None:
        """The value that a step uses, of a schedule that cannot be stored."""
        latest = self._latest.get((group, name))
        points = None if latest is None else latest.points
        if latest is not None and points is not None and value != points.values[-1]:
            self._extend(latest, step, value)

    def pointed(self, group: str, name: str) -> int | None:
        """The last step of which a run has a point; None where it has none."""
        latest = self._latest.get((group, name))
        points = None if latest is None else latest.points
        return None if points is None else points.steps[-1]

    def _extend(self, record: Record, step: int, value: float) -> None:
        assert record.points is not None
        record.points.put(step, value)
        self._write_point(record, step, value)

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
        try:
            step = index(step)
        except TypeError:
            raise TypeError(f"step is {step!r}; allowed is the number of an update") from None
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
            if first <= step and step < self.ended.get(group, step + 1)
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
        return {
            f"{group}/{name}": value
            for (group, name), value in found.items()
            if step < self.ended.get(group, step + 1)
        }

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
        self.ended = {group: step for group, step in self.ended.items() if step <= updates}
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

