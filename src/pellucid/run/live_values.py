"""Every hyperparameter of an optimizer as it is now, by path, read quickly again and again.

Where each value lives is found once, and again when the groups change. A look at a group is then
one comparison of what its dict holds with what it held.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from operator import is_, itemgetter
from typing import Any

from pellucid.access.table import View
from pellucid.declare import Ref

__all__ = ["LiveValues", "source_parts"]


def source_parts(view: View) -> list[tuple[Any, str]]:
    """The optimizers of a view, each with how its paths begin: empty where there is one."""
    source: Any = view._source
    several = getattr(source, "sources", None)
    if several is None:
        return [(source, "")]
    return [(one, f"{label}/") for label, one in zip(source.labels, several, strict=True)]


class LiveValues:
    """All hyperparameters and options of a view, each under ``prefix`` and its path there."""

    def __init__(self, view: View, prefix: str = "") -> None:
        self._view, self._prefix = view, prefix
        self._parts = [_Part(source, prefix + label) for source, label in source_parts(view)]
        self._values: dict[str, Any] = {}
        self._quick = False  # every group was bound

    def read(self) -> dict[str, Any]:
        """The values; the same dict each time, to be copied by who keeps it."""
        if self._quick:
            try:
                if all(part.refresh(self._values) for part in self._parts):
                    return self._values
            except (KeyError, IndexError, RuntimeError, ValueError):
                pass  # another layout, or an array in a number's place: found anew
        self._values = {}
        alone = len(self._parts) == 1
        bound = [part.bind(self._values, alone) for part in self._parts]
        self._quick = all(bound)
        return self._values


class _Part:
    """The groups of one optimizer."""

    def __init__(self, source: Any, prefix: str) -> None:
        self.source, self.prefix = source, prefix
        self.groups: list[_Bound] = []
        self.stores: list[Any] = []

    def bind(self, values: dict[str, Any], alone: bool) -> bool:
        """Find where all values live, and read them; False if they must be asked for each time."""
        groups = self.source.groups()
        self.groups = []
        for group in groups:
            left = self.source.name if alone and len(groups) == 1 else group.name
            paths = {full: f"{self.prefix}{left}/{full}" for full in group.names.places}
            values.update((path, group.value(full)) for full, path in paths.items())
            store = _store(group)
            if store is not None:
                self.groups.append(_Bound(group, store, paths))
        self.stores = [bound.store for bound in self.groups]
        return len(self.groups) == len(groups)

    def refresh(self, values: dict[str, Any]) -> bool:
        """Read what changed; False if the groups are others."""
        optimizer = self.source.optimizer
        controls = getattr(optimizer, "controls", None)
        now = optimizer.param_groups if controls is None else [one.store for one in controls]
        if len(now) != len(self.stores) or not all(map(is_, now, self.stores)):
            return False
        return all(bound.refresh(values) for bound in self.groups)


def _store(group: Any) -> dict[str, Any] | None:
    """The dict in which a framework keeps a group's values, if it does."""
    controls = getattr(group, "controls", None)
    found: dict[str, Any] | None = getattr(group if controls is None else controls, "store", None)
    return found


_SIMPLE = frozenset([bool, int, float, str, type(None)])
_NO_DRIVERS: Mapping[str, Any] = {}


class _Bound:
    """Where the values of one group live in its dict."""

    __slots__ = (
        "controls", "count", "drivers", "get", "group", "held", "keys", "moving", "others",
        "places", "store",
    )  # fmt: skip

    def __init__(self, group: Any, store: dict[str, Any], paths: Mapping[str, str]) -> None:
        self.group, self.store, self.count = group, store, len(store)
        self.controls = getattr(group, "controls", None)
        self.drivers = dict(self._drivers())
        self.places: dict[str, list[tuple[str, int | None]]] = {}
        self.others: list[tuple[str, Callable[[str], Any], str]] = []
        for full, path in paths.items():
            place = group.names.places[full]
            if place.key not in store:
                continue  # a constant, as long as the dict has no more keys
            if not _is_plain(store[place.key]) or isinstance(group.driver(full), Ref):
                self.others.append((path, group.value, full))
                continue
            self.places.setdefault(place.key, []).append((path, place.position))
        self.moving: list[tuple[str, str]] = []  # key and path of what changed since the binding
        self._watch([*self.places, *(["name"] if "name" in store else [])])

    def _watch(self, keys: list[str]) -> None:
        """Compare these keys from now on."""
        self.keys = keys
        # which gives a tuple of two keys and more
        self.get = itemgetter(*keys) if len(keys) > 1 else lambda store: tuple(map(store.get, keys))
        self.held = self.get(self.store)

    def _drivers(self) -> Mapping[str, Any]:
        return _NO_DRIVERS if self.controls is None else self.controls.drivers

    def refresh(self, values: dict[str, Any]) -> bool:
        store = self.store
        if len(store) != self.count or self._drivers() != self.drivers:
            return False
        for key, path in self.moving:
            new = store[key]
            if type(new) not in _SIMPLE:
                return False
            values[path] = new
        now = self.get(store)
        if now != self.held and not self._follow(now, values):
            return False
        for path, value, full in self.others:
            values[path] = value(full)
        return True

    def _follow(self, now: Sequence[Any], values: dict[str, Any]) -> bool:
        """Read the keys that changed; False if one holds another kind of value, or a name."""
        moved = []
        for key, old, new in zip(self.keys, self.held, now, strict=True):
            if new is old or new == old:
                continue
            if key not in self.places or not _is_plain(new) or _parts(new) != _parts(old):
                return False
            for path, position in self.places[key]:
                values[path] = new if position is None else new[position]
                if position is None:  # it will change again: read it without comparing
                    self.moving.append((key, path))
                    moved.append(key)
        self.held = now
        if moved:
            self._watch([key for key in self.keys if key not in moved])
        return True


def _parts(value: Any) -> int | None:
    return len(value) if type(value) is tuple else None


def _is_plain(value: Any) -> bool:
    """Whether a value stays what it is until another is put in its place."""
    if type(value) is tuple:
        return all(type(one) in _SIMPLE for one in value)
    return type(value) in _SIMPLE
