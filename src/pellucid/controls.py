"""One group's hyperparameters: the framework's dict that holds the numbers, and what drives them.

A number stands where the framework keeps it, under its native name. Its schedule, if it has one,
is kept here. Reading checks every number and every option; nothing is written before `commit`.
"""

from __future__ import annotations

import difflib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any

from pellucid.changes import Change, Journal
from pellucid.compose import Pipeline
from pellucid.declare import (
    HyperparameterError,
    Ref,
    check_value,
    is_scalar_array,
    plain_value,
    revive,
)
from pellucid.ops import is_number

__all__ = ["Controls", "Names", "Place"]


@dataclass(frozen=True)
class Place:
    """Where a framework keeps a value: a key, and the position in a tuple such as ``betas``."""

    key: str
    position: int | None = None


@dataclass(frozen=True)
class Names:
    """Native places of a pipeline's hyperparameters and options, and native names of slots."""

    places: Mapping[str, Place]
    slots: Mapping[str, str]
    refused: tuple[str, ...] = ()  # keys of the framework that can only be False here
    unknown: Mapping[str, Any] = field(default_factory=dict)
    """Options that the framework has not, and their defaults: at these they have no key."""

    def native(self, full: str) -> str:
        """What the framework calls a hyperparameter: ``lr``, ``betas[0]``."""
        place = self.places[full]
        return place.key if place.position is None else f"{place.key}[{place.position}]"

    def native_keys(self) -> list[str]:
        """All native keys, once each, in order."""
        return list(dict.fromkeys(place.key for place in self.places.values()))

    def canonical(self, name: str) -> list[str]:
        """The full names that a canonical or native name means; canonical wins."""
        if name in self.places:
            return [name]
        return [
            full
            for full, place in self.places.items()
            if name in (place.key, self.native(full))
        ]


def canonical_names(pipeline: Pipeline) -> Names:
    """Every name is its own: for frameworks that have none of their own."""
    places = {full: Place(full) for full in (*pipeline.hypers, *pipeline.options)}
    return Names(places, {full: full for full in pipeline.slots})


@dataclass
class Reading:
    """A group's values, checked, for one step; and what is to be written if the step succeeds."""

    values: dict[str, float]
    options: dict[str, Any]
    written: dict[str, float] = field(default_factory=dict)
    changes: list[Change] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)  # schedules that a direct write replaced
    adopted: dict[str, Any] = field(default_factory=dict)  # schedules found in the group's dict
    base: Any = None  # the same object as long as all but schedules' numbers stays as it was
    step: int = 0  # the update that it is for, from 1


class Controls:
    """The hyperparameters of one group."""

    def __init__(
        self,
        label: str,
        pipeline: Pipeline,
        names: Names,
        store: MutableMapping[str, Any],
        given: Mapping[str, Any],
        journal: Journal,
    ) -> None:
        self.label, self.pipeline, self.names, self.store = label, pipeline, names, store
        self.journal = journal
        self.drivers: dict[str, Any] = {}
        self.seen: dict[str, Any] = {}
        self.overwritten: list[Change] = []  # what the script had set, and a load changed
        self._last: tuple[Any, Reading] | None = None
        self._keys = names.native_keys()
        self._keys_checked: list[Any] | None = None  # of these none is a near miss of ours
        self._unstored: tuple[str, ...] | None = None  # None: look which schedules are
        self._begin(given)

    # -- construction ----------------------------------------------------------------------

    def _begin(self, given: Mapping[str, Any]) -> None:
        self.drivers = {
            full: value
            for full, value in given.items()
            if full in self.pipeline.hypers and not is_number(value) and not is_scalar_array(value)
        }
        for full in self._in_order():
            value = given[full]
            if full in self.drivers:
                value = self._driven(full, self.drivers[full], 0, {**given, **self.seen})
            self.write(full, value)
            self.seen[full] = _plain(self.raw(full))

    def _in_order(self) -> list[str]:
        """Options and hyperparameters, those that refer to others last."""
        every = [*self.pipeline.options, *self.pipeline.hypers]
        return sorted(every, key=self._refers)

    def _refers(self, full: str) -> bool:
        written = self.store.get(self.names.places[full].key)
        return isinstance(self.drivers.get(full), Ref) or isinstance(written, Ref)

    def _driven(self, full: str, driver: Any, updates: int, values: Mapping[str, Any]) -> float:
        stage, declared = self.pipeline.hypers[full]
        if isinstance(driver, Ref):
            target = self.pipeline.resolve(stage, driver.name)
            if isinstance(values.get(target, driver), Ref):
                raise HyperparameterError(f"{full} is {driver!r}, which is itself a ref")
            return float(values[target])
        try:
            number = float(driver(updates))
        except Exception as error:
            where = f"{self.where(full)} from {driver!r} at step {updates}"
            raise HyperparameterError(f"{where} failed: {error!r}") from error
        if not declared.fits(number):
            declared.check(number, f"{self.where(full)} from {driver!r} at step {updates}")
        return number

    def enter(self, updates: int, source: str = "assignment") -> None:
        """Tell the journal how this group stands."""
        schedules = {full: self._config(full, driver) for full, driver in self.drivers.items()}
        values = {full: _shown(value) for full, value in self.seen.items()}
        self.journal.begin(updates + 1, self.label, values, schedules, source)

    def _config(self, full: str, driver: Any) -> dict[str, Any]:
        """What drives a value as plain data; of what cannot be had from that, how it looks."""
        if isinstance(driver, Ref):
            return {"ref": self.pipeline.resolve(self.pipeline.hypers[full][0], driver.name)}
        try:
            plain = json.loads(json.dumps(plain_value(driver, full)))
            again = revive(plain)
            same = again is driver or json.loads(json.dumps(plain_value(again, full))) == plain
            if same and type(again) is type(driver):
                return dict(plain)
        except Exception:
            pass  # whatever a callable of the user's does: its values go on record
        return {"repr": repr(driver)}

    def where(self, full: str) -> str:
        """How errors name a value of this group."""
        native = self.names.native(full)
        return f"{self.label}/{full}" + (f" ({native!r})" if native != full else "")

    # -- the framework's dict --------------------------------------------------------------

    def raw(self, full: str) -> Any:
        """The value as the framework's dict holds it."""
        place = self.names.places[full]
        if full in self.names.unknown:
            return self.store.get(place.key, self.names.unknown[full])
        try:
            value = self.store[place.key]
            return value if place.position is None else value[place.position]
        except (KeyError, TypeError, IndexError):
            raise HyperparameterError(
                f"{self.where(full)} is missing: the group's key {place.key!r} is "
                f"{self.store.get(place.key, 'gone')!r}; put it back"
            ) from None

    def write(self, full: str, value: Any) -> None:
        """Put a value where the framework keeps it."""
        place = self.names.places[full]
        if full in self.names.unknown and value == self.names.unknown[full]:
            self.store.pop(place.key, None)
            return
        if place.position is None:
            old: Any = self.store.get(place.key)
            if is_scalar_array(old) and hasattr(old, "fill_") and not is_scalar_array(value):
                old.fill_(value)  # a tensor stays the tensor that its owner holds
            else:
                self.store[place.key] = value
            return
        held = list(self.store.get(place.key, ()))
        held += [None] * (place.position + 1 - len(held))
        held[place.position] = value
        self.store[place.key] = tuple(held)

    # -- reading for a step ----------------------------------------------------------------

    def read(self, updates: int) -> Reading:
        """All values for the update after ``updates`` completed ones, checked."""
        if self._last is not None and self._stands():
            return self._driven_on(self._last[1], updates) if self.drivers else self._last[1]
        self._check_keys()
        reading = Reading({}, {}, step=updates + 1)
        for full in self._in_order():
            value = self.raw(full)
            if full in self.pipeline.options:
                declared = self.pipeline.options[full][1]
                reading.options[full] = declared.check(value, self.where(full))
            else:
                reading.values[full] = self._number(full, value, updates, reading)
            self._note(full, value, updates, reading)
        return reading

    def _driven_on(self, last: Reading, updates: int) -> Reading:
        """The last reading with the numbers of another step: nobody else wrote to the group."""
        numbers: dict[str, float] = {}
        for full, driver in self.drivers.items():
            numbers[full] = self._driven(full, driver, updates, last.values)
        values = {**last.values, **numbers}
        return Reading(values, last.options, numbers, base=last.base, step=updates + 1)

    def _held(self) -> list[Any]:
        """What a reading depends on, as the framework's dict has it."""
        return [*self.store, *map(self.store.get, (*self._keys, *self.names.refused))]

    def _stands(self) -> bool:
        """Whether nobody wrote to the group since the last reading."""
        assert self._last is not None
        try:
            return bool(self._held() == self._last[0])
        except (RuntimeError, ValueError):  # an array of several numbers was written
            return False

    def _number(self, full: str, value: Any, updates: int, reading: Reading) -> float:
        declared = self.pipeline.hypers[full][1]
        if isinstance(value, Ref) or (callable(value) and not is_scalar_array(value)):
            return self._adopted(full, value, updates, reading)
        if not is_number(value) and not is_scalar_array(value):
            check_value(declared, value, self.where(full))
        number = declared.check(value, self.where(full))
        if full not in self.drivers:
            return number
        if number != _float(self.seen[full]):
            reading.dropped.append(full)
            return number
        number = self._driven(full, self.drivers[full], updates, reading.values)
        reading.written[full] = number
        return number

    def _adopted(self, full: str, value: Any, updates: int, reading: Reading) -> float:
        """A schedule that was written into the framework's dict becomes the value's driver."""
        declared = self.pipeline.hypers[full][1]
        check_value(declared, value, self.where(full))
        number = self._driven(full, value, updates, reading.values)
        reading.adopted[full] = value
        reading.written[full] = number
        return number

    def _note(self, full: str, value: Any, updates: int, reading: Reading) -> None:
        """A value that is not what it was: someone wrote to the framework's dict."""
        old = self.seen[full]
        if full in reading.adopted:
            config = self._config(full, reading.adopted[full])
            number = reading.written[full]
            reading.changes.append(
                Change(
                    updates + 1, self.label, full, old, number, "direct write", schedule=config
                )
            )
            return
        if value is old or (not is_scalar_array(value) and value == old):
            return
        if is_scalar_array(value) or is_number(value):
            if _float(value) == _float(old):
                return
            value, old = _float(value), _float(old)
        known = self.scheduled(full) or (self.label, full) in self.journal.scheduled
        source = SCHEDULER if known else "direct write"
        reading.changes.append(Change(updates + 1, self.label, full, old, _shown(value), source))

    def scheduled(self, full: str) -> bool:
        """Whether a scheduler of the framework drives a value, as the keys that it left show."""
        native = self.names.native(full)
        return any(key in self.store and native in names for key, names in SCHEDULED.items())

    def _check_keys(self) -> None:
        """Keys of others are theirs; a near miss of one of ours is a mistake."""
        for key in self.names.refused:
            if self.store.get(key):
                raise HyperparameterError(
                    f"{self.label}: {key}={self.store[key]!r} cannot be had here; allowed is False"
                )
        counts = Counter(p.key for p in self.names.places.values() if p.position is not None)
        for key, count in counts.items():
            value = self.store.get(key)
            if isinstance(value, (tuple, list)) and len(value) != count:
                raise HyperparameterError(
                    f"{self.label}: {key!r} is {value!r}; allowed are {count} numbers"
                )
        keys, known = [*self.store], {*self._keys, *self.names.places}
        if keys == self._keys_checked:
            return
        for key in keys:
            if not isinstance(key, str) or key in self._keys or key in FOREIGN:
                continue
            if key in self.names.places:
                raise HyperparameterError(
                    f"{self.label}: the key {key!r} is spelt {self.names.native(key)!r} here"
                )
            near = difflib.get_close_matches(key, known, n=1, cutoff=0.8)
            if near and not key.startswith(OTHERS) and not key.startswith(f"{near[0]}_"):
                raise HyperparameterError(
                    f"{self.label}: the key {key!r} is none of this optimizer's; did you mean "
                    f"{near[0]!r}? (keys: {', '.join(self._keys)})"
                )
        self._keys_checked = keys

    @property
    def kept(self) -> Reading | None:
        """The reading that stays valid as long as nobody writes to the group."""
        return self._last[1] if self._last is not None else None

    def commit(self, reading: Reading) -> None:
        """The step succeeded: schedules' numbers become the group's, changes go on record."""
        last = self._last
        if last is not None and reading is last[1]:
            return
        for full in reading.dropped:
            del self.drivers[full]
        self.drivers.update(reading.adopted)
        for full, number in reading.written.items():
            self.write(full, number)
        if last is not None and reading.base is last[1].base:
            self.seen.update(reading.written)
            self._last = self._held(), reading
            if self._unstored or self._unstored is None:
                self._point(reading)
            return
        for change in reading.changes:
            self.journal.record(change)
        if reading.dropped or reading.adopted:
            self._unstored = None
        self._point(reading)
        for full in self.names.places:
            self.seen[full] = _plain(self.raw(full))
        held = self._held()
        tied = any(isinstance(driver, Ref) for driver in self.drivers.values())
        still = not tied and all(map(_cannot_change, held))
        kept = Reading(reading.values, reading.options, base=object())
        self._last = (held, kept) if still else None

    def _point(self, reading: Reading) -> None:
        """Put on record what schedules gave that the journal cannot ask again."""
        if self._unstored is None:
            self._unstored = tuple(
                full
                for full, driver in self.drivers.items()
                if "repr" in self._config(full, driver)
            )
        for full in self._unstored:
            self.journal.point(reading.step, self.label, full, reading.values[full])

    # -- changing --------------------------------------------------------------------------

    def set(self, full: str, value: Any, step: int, source: str, reason: str) -> None:
        """Check a value, write it, and record the change."""
        if not isinstance(reason, str):
            raise TypeError(f"reason is {reason!r}; allowed is text")
        if full in self.pipeline.options:
            checked = self.pipeline.options[full][1].check(value, self.where(full))
        else:
            checked = check_value(self.pipeline.hypers[full][1], value, self.where(full))
        old = self.raw(full)
        config = None
        if full in self.pipeline.hypers and not is_number(checked) and not is_scalar_array(checked):
            before = self.drivers.pop(full, None)
            self.drivers[full] = checked
            try:
                refs = {f: d for f, d in self.drivers.items() if isinstance(d, Ref)}
                values = {f: _float(v) for f, v in self.seen.items()} | refs
                for tied in refs.keys() - {full}:
                    self._driven(tied, refs[tied], step - 1, values)  # it must not refer to a ref
                number = self._driven(full, checked, step - 1, values)
                config = self._config(full, checked)
            except Exception:
                self.drivers.pop(full)
                if before is not None:
                    self.drivers[full] = before
                raise
        else:
            self.drivers.pop(full, None)
            number = checked
        old = _shown(old)
        self.write(full, number)
        self.seen[full] = _plain(self.raw(full))  # a tensor may have rounded it
        self._last = self._unstored = None
        new = number if config else _shown(self.raw(full))
        change = Change(step, self.label, full, old, new, source, reason, schedule=config)
        self.journal.record(change)

    def loaded(self) -> None:
        """The framework's dict was replaced by a load: what stands there is what is so."""
        for full in self.names.places:
            self.seen[full] = _plain(self.raw(full))
        self._last = self._unstored = None

    def look(self, updates: int) -> None:
        """Put on record what was written directly since the last update, before a load."""
        try:
            reading = self.read(updates)
        except HyperparameterError:
            return  # it is about to be replaced
        for change in reading.changes:
            self.journal.record(change)
            self.seen[change.name] = _plain(self.raw(change.name))
        self._last = None

    def settle(self, before: Mapping[str, Any], updates: int, ours: bool) -> None:
        """Put on record what a load changed: in the script's values, or beside the journal's.

        Where the file is ``ours``, what is beside its journal was changed before it was saved.
        """
        _, first = self.journal.initial.get(self.label, (0, {}))
        self.overwritten = [
            Change(updates + 1, self.label, full, _shown(before[full]), _shown(value), "load")
            for full, value in self.seen.items()
            if value != before[full]
            and not self.scheduled(full)
            and full not in self.drivers
            and not (ours and first.get(full) == before[full])  # as the run began, so does this
        ]
        for full, value in self.seen.items():
            known = before[full], self.journal.last(self.label, full)
            if full not in self.drivers and value not in known:
                old, new = _shown(before[full]), _shown(value)
                if ours and self.scheduled(full):
                    change = Change(updates + 1, self.label, full, None, new, SCHEDULER)
                    self.journal.settle(change)
                    continue
                self.journal.record(Change(updates + 1, self.label, full, old, new, "load"))
        self.enter(updates, "load")

    def state(self) -> dict[str, Any]:
        """The drivers as plain JSON data."""
        return {
            full: plain_value(driver, self.where(full)) for full, driver in self.drivers.items()
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """The drivers that `state` described."""
        unknown = set(state) - set(self.pipeline.hypers)
        if unknown:
            raise HyperparameterError(
                f"{self.label}: the file has a schedule for {min(unknown)!r}, which is no "
                f"hyperparameter here ({', '.join(self.pipeline.hypers)})"
            )
        self.drivers = {full: revive(value) for full, value in state.items()}
        self._last = self._unstored = None


SCHEDULER = "framework scheduler"
"""The source of what a scheduler of the framework wrote into the group."""

SCHEDULED: dict[str, tuple[str, ...]] = {
    "initial_lr": ("lr",),
    "base_momentum": ("momentum", "betas[0]"),
}
"""Keys that torch's schedulers put into a group, and the native names that they then drive."""

OTHERS = ("initial_", "max_", "min_", "base_", "swa_")
"""How keys of schedulers begin; a user's own may begin with one of ours: ``weight_decay_mult``."""

FOREIGN: set[str] = {"params", "param_names", "name"}
"""Keys of a group dict that are never hyperparameters."""


def _float(value: Any) -> Any:
    return float(value) if is_number(value) or is_scalar_array(value) else value


def _plain(value: Any) -> Any:
    """The value; of an array, which its owner may write to, the number."""
    return _float(value) if is_scalar_array(value) else value


def _cannot_change(value: Any) -> bool:
    """Whether a value stays what it is unless another is put in its place."""
    if isinstance(value, tuple):
        return all(map(_cannot_change, value))
    return value is None or isinstance(value, (float, int, str))


def _shown(value: Any) -> Any:
    if isinstance(value, (bool, str)) or value is None or is_number(value):
        return value
    return float(value) if is_scalar_array(value) else repr(value)


def overrides(
    pipeline: Pipeline, names: Names, given: Mapping[str, Any], where: str, ignored: Iterable[str]
) -> dict[str, Any]:
    """A group's overrides by full name, from canonical or native names; checked."""
    found: dict[str, Any] = {}
    for key, value in given.items():
        if key in ignored:
            continue
        fulls = names.canonical(key)
        if not fulls:
            known = list(dict.fromkeys([*names.native_keys(), *names.places]))
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise HyperparameterError(
                f"{where}: {key!r} is no hyperparameter here{hint} (known: {', '.join(known)})"
            )
        parts = [value]
        if names.places[fulls[0]].position is not None and key == names.places[fulls[0]].key:
            parts = list(value) if isinstance(value, (tuple, list)) else [value]
            if len(parts) != len(fulls):
                raise HyperparameterError(
                    f"{where}: {key!r} is {value!r}; allowed are {len(fulls)} numbers, for "
                    f"{', '.join(fulls)}"
                )
        for full, part in zip(fulls, parts, strict=True):
            if full in found:
                raise HyperparameterError(
                    f"{where}: {full!r} is given twice, also as {names.native(full)!r}; give one"
                )
            text = f"{where}[{key!r}]"
            if full in pipeline.options:
                found[full] = pipeline.options[full][1].check(part, text)
            else:
                found[full] = check_value(pipeline.hypers[full][1], part, text)
    return found
