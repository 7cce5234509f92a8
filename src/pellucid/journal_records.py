"""One change of a hyperparameter, and the record that the journal keeps of it."""

from __future__ import annotations

import base64
import sys
import zlib
from array import array
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields, replace
from numbers import Integral, Real
from typing import Any

__all__ = ["Change", "Key", "Points", "Record"]

ADJACENT = ("direct write", "assignment")
MERGED = ("framework scheduler", *ADJACENT)
"""Sources that change a value at each step: a run of them is one entry."""

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
            f"{steps}  {self.group}/{self.name}  {value_text(self.old)} → {value_text(self.new)}  "
            f"({self.cause}{why}){left}"
        )

    @property
    def cause(self) -> str:
        """The source, and what drives the run."""
        if self.schedule is None:
            return self.source
        between = " " if self.source == "schedule" else ", "
        return f"{self.source}{between}{schedule_text(self.schedule)}"

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
                f"{change.group}/{change.name} follows {schedule_text(change.schedule)}, which "
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


# -- values, their text, and entries as plain data -----------------------------------------------


def value_text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def schedule_text(plain: Any) -> str:
    """A schedule's plain data, as it is written in Python."""
    if isinstance(plain, Mapping):
        if "ref" in plain:
            return f"ref({plain['ref']!r})"
        if "repr" in plain:
            return str(plain["repr"])
        if "function" in plain:
            return str(plain["function"]).rpartition(":")[2]
        if isinstance(plain.get("schedule"), Mapping):
            return schedule_text(plain["schedule"])
        if "class" in plain:
            given = (f"{k}={schedule_text(v)}" for k, v in plain.items() if k != "class")
            return f"{str(plain['class']).rpartition(':')[2]}({', '.join(given)})"
    if isinstance(plain, (list, tuple)):
        return f"[{', '.join(map(schedule_text, plain))}]"
    return repr(plain)


def storable(value: Any) -> Any:
    """A value that JSON can hold, and gives back."""
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, (tuple, list)):
        return tuple(map(storable, value))
    if isinstance(value, Integral):
        return int(value)
    return float(value) if isinstance(value, Real) else str(value)


def points_of(change: Change) -> Points | None:
    """The points of a run whose values cannot be had from a schedule."""
    number = isinstance(change.new, (int, float)) and not isinstance(change.new, bool)
    plain = change.schedule if isinstance(change.schedule, Mapping) else {}
    unstored = "repr" in plain and "keras" not in plain
    if not number or not (unstored or (change.source in MERGED and change.schedule is None)):
        return None
    points = Points(change.step, float(change.new))
    if change.until is not None:  # of a list without points
        points.put(change.until, float(change.new))
    return points


DEFAULTS = {field.name: field.default for field in fields(Change) if field.default is not MISSING}


def sparse(change: Change) -> dict[str, Any]:
    return {
        name: value
        for name, value in vars(change).items()
        if name not in DEFAULTS or value != DEFAULTS[name]
    }


def revived(entry: Mapping[str, Any]) -> Record:
    """The record of an entry as plain data."""
    given = dict(entry)
    packed, ended = given.pop("points", None), given.pop("end", None)
    number, cut = given.pop("round", (1, 0))
    change = Change(**{**given, "old": storable(given["old"]), "new": storable(given["new"])})
    texts = change.group, change.name, change.source, change.reason
    if not all(isinstance(text, str) for text in texts):
        raise ValueError(f"group, name, source and reason are text, not {texts!r}")
    for step in (change.step, 1 if change.until is None else change.until):
        if not isinstance(step, int) or isinstance(step, bool) or step < 1:
            raise ValueError(f"a step is a number from 1, not {step!r}")
    points = points_of(change) if packed is None else Points.unpack(packed)
    end = max(change.until or 0, change.step, ended or 0) if change.abandoned else None
    record = Record(change, points, end)
    record.round = (int(number), int(cut)) if change.abandoned else (0, 0)
    return record
