"""The journal: every change of a hyperparameter, with its step, source and reason."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

__all__ = ["Change", "Journal"]

MERGED = ("framework scheduler",)
"""Sources that change a value at each step: a run of them is one entry."""


@dataclass(frozen=True)
class Change:
    """One line of the journal.

    ``step`` is the number of the first update that uses the new value, from 1. ``until`` is the
    last update of a run of changes by one source, which is kept as one entry.
    """

    step: int
    group: str
    name: str
    old: Any
    new: Any
    source: str
    reason: str = ""
    until: int | None = None

    def __str__(self) -> str:
        steps = f"step {self.step}" if self.until is None else f"steps {self.step}-{self.until}"
        why = f": {self.reason}" if self.reason else ""
        return (
            f"{steps}  {self.group}/{self.name}  {_text(self.old)} → {_text(self.new)}  "
            f"({self.source}{why})"
        )


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


class Journal:
    """All changes of an optimizer's hyperparameters, oldest first."""

    def __init__(self, entries: Iterable[Change] = ()) -> None:
        self._entries: list[Change] = list(entries)

    def record(self, change: Change) -> None:
        """Add a change; a run by one framework scheduler extends its entry."""
        if change.source in MERGED:
            for index in range(len(self._entries) - 1, -1, -1):
                last = self._entries[index]
                if (last.group, last.name) != (change.group, change.name):
                    continue
                if last.source == change.source:
                    self._entries[index] = replace(last, new=change.new, until=change.step)
                    return
                break
        self._entries.append(change)

    def last(self, group: str, name: str) -> Any:
        """The value that the last change of a hyperparameter gave it; None without one."""
        for change in reversed(self._entries):
            if (change.group, change.name) == (group, name):
                return change.new
        return None

    def __iter__(self) -> Iterator[Change]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, index: int) -> Change:
        return self._entries[index]

    def __str__(self) -> str:
        return "\n".join(map(str, self._entries)) or "no changes"

    def to_list(self) -> list[dict[str, Any]]:
        """All entries as plain JSON data."""
        return [asdict(entry) for entry in self._entries]

    @classmethod
    def from_list(cls, entries: Iterable[dict[str, Any]]) -> Journal:
        """The journal that `to_list` described."""
        return cls(Change(**entry) for entry in entries)
