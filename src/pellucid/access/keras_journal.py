"""A journal on a Keras optimizer that is not ours: it looks whenever somebody looks.

Keras's optimizers tell nobody when they step. So changes are seen when a view reads or writes,
when `pellucid.journal` is called, and, with `pellucid.keras.callbacks.JournalCallback`, after
each batch. What a look finds is recorded for the next step.
"""

from __future__ import annotations

import weakref
from typing import Any

from pellucid.access.keras_settings import Setting, count_of
from pellucid.changes import Change, Journal

__all__ = ["Watched", "watch", "watched"]

_every: weakref.WeakKeyDictionary[Any, Watched] = weakref.WeakKeyDictionary()


def watched(optimizer: Any) -> Watched | None:
    """What was begun for an optimizer, or None."""
    return _every.get(optimizer)


def watch(source: Any) -> Watched:
    """The journal of an optimizer, begun once; it looks now."""
    found = _every.get(source.optimizer)
    if found is None:
        found = _every[source.optimizer] = Watched(source)
    found.look(source)
    return found


class Watched:
    """The journal of one optimizer, and what its settings were when last looked at."""

    def __init__(self, source: Any) -> None:
        self.journal = Journal()
        self.updates: int = source.updates
        optimizer = weakref.ref(source.optimizer)

        def now() -> int:
            owner = optimizer()
            if owner is not None:
                from pellucid.keras.trainers import synchronise

                synchronise(owner)
                self.updates = count_of(owner)
            return self.updates

        self.journal.live = now
        self.held: dict[str, dict[str, tuple[Any, Any]]] = {}  # by group: driver and value

    def look(self, source: Any, why: str = "direct write", reason: str = "") -> None:
        """Record what changed since the last look."""
        before = self.updates
        self.updates = source.updates
        if self.updates < before:  # a load, of a checkpoint with fewer updates
            self.journal.abandon(self.updates)
            why = "load" if why == "direct write" else why
        groups = source.plain_groups()
        for group in groups:
            now = {full: _state(setting) for full, setting in group.settings.items()}
            old = self.held.get(group.name)
            if old is None:
                self._begin(group.name, now)
            else:
                for full, (driver, value) in now.items():
                    if driver is not None and driver is not old.get(full, (None, None))[0]:
                        value = group.settings[full].next_value
                    self._compare(group.name, full, old.get(full), driver, value, (why, reason))
            self.held[group.name] = now
        for label in set(self.held) - {group.name for group in groups}:
            self.journal.end(self.updates + 1, label)
            del self.held[label]

    def _begin(self, label: str, now: dict[str, tuple[Any, Any]]) -> None:
        values = {full: value for full, (_, value) in now.items()}
        schedules = {full: _config(one) for full, (one, _) in now.items() if one is not None}
        self.journal.begin(self.updates + 1, label, values, schedules)

    def _compare(
        self, label: str, full: str, old: Any, driver: Any, value: Any, why: tuple[str, str]
    ) -> None:
        """Record what differs; what a schedule gives is no change."""
        was, before = old or (None, None)
        if driver is not None and driver is was:
            self.journal.point(self.updates, label, full, value)
            return
        if driver is was and _same(before, value):
            return
        step, config = self.updates + 1, None if driver is None else _config(driver)
        change = Change(step, label, full, before, value, *why, schedule=config)
        self.journal.record(change)


def _state(setting: Setting) -> tuple[Any, Any]:
    value = setting.value
    plain = value is None or isinstance(value, (bool, int, float, str))
    return setting.driver, value if plain else repr(value)


def _same(one: Any, other: Any) -> bool:
    return bool(one == other) or (one != one and other != other)


def _config(driver: Any) -> dict[str, Any]:
    """What drives a rate, as plain data that no file is asked to make an object of."""
    return {"repr": type(driver).__name__}
