"""What each group takes of a file's groups: hyperparameters, schedules, keys of others."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any

from pellucid.changes import Journal
from pellucid.compose import Pipeline
from pellucid.controls import Controls
from pellucid.declare import is_scalar_array, plain_value
from pellucid.ops import is_number
from pellucid.rules import CATALOGUE
from pellucid.torch.files import File, SavedGroup
from pellucid.torch.loaded_slots import slots_of_rules
from pellucid.torch.matching import Pairing
from pellucid.torch.names import names_of

if TYPE_CHECKING:
    from pellucid.torch.grouped import Grouped

__all__ = ["GroupTaken", "take_groups"]

ABSENT: Any = object()
DECOUPLED = "decoupled_weight_decay"


@dataclass
class GroupTaken:
    """What a group takes."""

    store: dict[str, Any]  # its dict without parameters
    drivers: dict[str, Any]
    kept: dict[str, str] = field(default_factory=dict)  # what stays as it is here, and why
    dropped: list[str] = field(default_factory=list)  # hyperparameters of stages not here

    def raw(self, controls: Controls, full: str) -> Any:
        """The value that a hyperparameter or option will have."""
        return _in_place(controls, self.store, full)


@dataclass(frozen=True)
class _Source:
    """A group of the file, as one of this optimizer's."""

    store: dict[str, Any]
    drivers: dict[str, Any]
    plain: dict[str, Any]  # the drivers as data


def take_groups(optimizer: Grouped, file: File, pairing: Pairing) -> list[GroupTaken]:
    """What each group takes, its values checked.

    A group takes what the file's groups of its parameters agree on. One that another rule wrote
    gives nothing: its rate and the rest mean something else there.

    Raises:
        ValueError, LookupError: what a group of the file has that cannot be.
    """
    sources: list[list[int]] = [[] for _ in optimizer.controls]
    for entry, saved in zip(optimizer.entries, pairing.saved, strict=True):
        if saved is not None and saved.group not in sources[entry.group]:
            sources[entry.group].append(saved.group)
    if pairing.by == "position":
        sources = [[number] for number in range(len(optimizer.controls))]
    return [
        _take(controls, [(number, file.groups[number]) for number in some], file, pairing)
        for controls, some in zip(optimizer.controls, sources, strict=True)
    ]


def _take(
    controls: Controls, sources: Sequence[tuple[int, SavedGroup]], file: File, pairing: Pairing
) -> GroupTaken:
    mine = {key: value for key, value in controls.store.items() if key != "params"}
    own = GroupTaken(dict(mine), dict(controls.drivers))
    for number, group in sources:
        other = _other_rule(controls, group, _slots_in(file, number))
        if other:
            own.kept = _differing(controls, group, other)
            return own
    if not sources:
        why = "the file has none of its parameters"
        own.kept = {"": why} if controls.store["params"] else {}
        return own
    found = [_as_source(controls, group, mine, own) for _, group in sources]
    own.store, own.drivers = found[0].store, found[0].drivers
    if len(found) > 1:
        _agree(controls, found, mine, own)
    own.store = {key: value for key, value in own.store.items() if key != "param_names"}
    if "param_names" in mine:
        own.store["param_names"] = mine["param_names"]
    if pairing.by == "name":
        own.store.pop("name", None)
        own.store |= {"name": mine["name"]} if "name" in mine else {}
    return own


# -- which rule --------------------------------------------------------------------------------


@cache
def _keys_of_rules() -> frozenset[str]:
    """Keys of groups that torch's names give to the catalogue's hyperparameters and options."""
    pipelines = [Pipeline((rule(),), (0,)) for rule in CATALOGUE.values()]
    return frozenset(key for one in pipelines for key in names_of(one).native_keys())


def _slots_in(file: File, number: int) -> frozenset[str]:
    held = [one.slots or {} for one in file.parameters if one.group == number]
    return frozenset(name for slots in held for name in slots)


def _other_rule(controls: Controls, group: SavedGroup, slots: frozenset[str]) -> str:
    """The rule that wrote a group, if it is not the one here; of torch's files, as it shows."""
    rule = controls.pipeline.rule
    if group.rule is not None:
        theirs = group.rule.rpartition(":")[2]
        return theirs if theirs != type(rule).__qualname__ else ""
    places = controls.names.native_keys()
    strange = [key for key in group.values if key in _keys_of_rules() and key not in places]
    if strange:
        return f"a rule with {strange[0]!r}"
    if DECOUPLED in places and DECOUPLED in group.values:
        decoupled = bool(group.values[DECOUPLED])
        if decoupled != bool(controls.store.get(DECOUPLED)):
            return "AdamW" if decoupled else "Adam"
    unknown = sorted((slots & slots_of_rules()) - set(controls.names.slots.values()))
    return f"a rule with the slot {unknown[0]!r}" if unknown else ""


def _differing(controls: Controls, group: SavedGroup, other: str) -> dict[str, str]:
    """What both have by the same name, and not alike."""
    found = {}
    for full in controls.names.places:
        theirs, ours = _raw(controls, group.values, full), controls.raw(full)
        drivers = (group.schedules or {}).get(full), _plain_driver(controls, full)
        if theirs is not ABSENT and (drivers[0] != drivers[1] or not _same(theirs, ours)):
            found[full] = f"{_shown(ours)}; the file, of {other}, has {_shown(theirs)}"
    return found


def _plain_driver(controls: Controls, full: str) -> Any:
    driver = controls.drivers.get(full)
    try:
        return None if driver is None else plain_value(driver, full)
    except ValueError:  # it has no configuration
        return repr(driver)


def _raw(controls: Controls, values: Mapping[str, Any], full: str) -> Any:
    place = controls.names.places[full]
    try:
        value = values[place.key]
        return value if place.position is None else value[place.position]
    except (KeyError, TypeError, IndexError):
        return ABSENT


# -- the same rule -----------------------------------------------------------------------------


def _as_source(
    controls: Controls, group: SavedGroup, mine: Mapping[str, Any], taken: GroupTaken
) -> _Source:
    """A saved group with every key that ours has, its values checked."""
    gone = {
        full: native.partition("[")[0]
        for full, native in (group.names or {}).items()
        if full not in controls.names.places
    }
    places = controls.names.native_keys()
    values = {
        key: copy.deepcopy(value)
        for key, value in group.values.items()
        if key not in gone.values() or key in places
    }
    taken.dropped += [full for full in gone if full not in taken.dropped]
    if group.schedules is not None:  # ours: an option of ours alone is left out at its default
        unknown = {controls.names.native(full) for full in controls.names.unknown}
        mine = {key: value for key, value in mine.items() if key not in unknown}
    merged = {**mine, **values}
    merged |= {key: mine[key] for key in controls.names.refused if key in mine}  # of a GPU's file
    scratch = Controls(
        controls.label, controls.pipeline, controls.names, {}, controls.pipeline.given, Journal()
    )
    scratch.store = merged
    for key in places:
        if isinstance(merged.get(key), list):  # JSON has no tuples
            merged[key] = tuple(merged[key])
    scratch.drivers = {}
    scratch.read(0)
    if group.schedules is None:
        return _Source(merged, dict(controls.drivers), {})
    plain = {full: one for full, one in group.schedules.items() if full not in gone}
    scratch.restore(plain)
    return _Source(merged, scratch.drivers, plain)


def _agree(
    controls: Controls, found: Sequence[_Source], mine: Mapping[str, Any], taken: GroupTaken
) -> None:
    """Take what several groups of the file agree on; the rest stays as it is here."""
    scratch = Controls(
        controls.label, controls.pipeline, controls.names, {}, controls.pipeline.given, Journal()
    )
    own_keys, first = set(controls.names.native_keys()), found[0]
    store, drivers = dict(mine), dict(controls.drivers)
    for key in dict.fromkeys(key for one in found for key in one.store):
        values = [one.store.get(key, ABSENT) for one in found]
        if key in own_keys or key in controls.names.refused:
            continue
        if all(_same(value, values[0]) for value in values):
            store[key] = values[0]
        else:
            taken.kept[key] = f"the file's groups have {_listed(values)}"
    scratch.store = {
        key: value.clone() if is_scalar_array(value) and hasattr(value, "clone") else value
        for key, value in store.items()
    }
    for full in controls.names.places:
        values = [_in_place(controls, one.store, full) for one in found]
        plain = [one.plain.get(full) for one in found]
        alike = all(one == plain[0] for one in plain)
        if not alike or not all(_same(value, values[0]) for value in values):
            ours, theirs = _shown(controls.raw(full)), _listed(values)
            taken.kept[full] = f"{ours}; the file's groups of its parameters have {theirs}"
            continue
        scratch.write(full, values[0])
        drivers.pop(full, None)
        if full in first.drivers:
            drivers[full] = first.drivers[full]
    taken.store, taken.drivers = dict(scratch.store), drivers


def _in_place(controls: Controls, values: Mapping[str, Any], full: str) -> Any:
    value = _raw(controls, values, full)
    return controls.names.unknown[full] if value is ABSENT else value


def _same(one: Any, other: Any) -> bool:
    if one is ABSENT or other is ABSENT:
        return one is other
    return bool(_number(one) == _number(other))


def _number(value: Any) -> Any:
    return float(value) if is_number(value) or is_scalar_array(value) else value


def _listed(values: Sequence[Any]) -> str:
    return " and ".join(dict.fromkeys("none" if v is ABSENT else _shown(v) for v in values))


def _shown(value: Any) -> str:
    value = _number(value)
    return f"{value:g}" if isinstance(value, float) else repr(value)
