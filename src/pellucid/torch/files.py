"""What a state dict holds, read and checked by itself: torch's own, or ours with its own part.

The part under the key ``pellucid`` has a version. 1, which is not written there: ``updates``,
``seed``, ``schedules``, ``shared``, ``journal``. 2: also ``groups``, which tell of each group the
rule, the stages and the names of their hyperparameters and slots, and ``slots``, what the state of
each parameter had, by its key.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pellucid.changes import Journal
from pellucid.controls import Controls

if TYPE_CHECKING:
    from pellucid.torch.grouped import Grouped

__all__ = [
    "KEY", "VERSION", "File", "Own", "SavedGroup", "SavedParameter", "described", "quoted",
    "read_file", "with_own",
]  # fmt: skip

KEY = "pellucid"
VERSION = 2
NOT_VALUES = ("params", "param_names")
"""Keys of a group that say what its parameters are."""


@dataclass(frozen=True)
class SavedParameter:
    """A parameter that a file lists."""

    key: Any  # of the file's state
    name: str | None
    group: int
    slots: Mapping[str, Any] | None  # None: the file has no state of it

    def described(self) -> str:
        """How errors call it."""
        return f"parameter {self.key}" + ("" if self.name is None else f" ({self.name!r})")

    def __str__(self) -> str:
        return self.name if self.name is not None else f"parameter {self.key}"


@dataclass(frozen=True)
class SavedGroup:
    """A group of a file; what the file does not say is None."""

    values: Mapping[str, Any]
    count: int  # of its parameters
    schedules: Mapping[str, Any] | None = None
    rule: str | None = None  # import path of its class
    names: Mapping[str, str] | None = None  # of hyperparameters and options: native by canonical
    slots: frozenset[str] | None = None  # native names of all that its stages declare


@dataclass(frozen=True)
class Own:
    """What a file has for us alone."""

    updates: int
    seed: int
    shared: Mapping[tuple[int, str], float]
    journal: Journal


@dataclass(frozen=True)
class File:
    """A state dict."""

    groups: Sequence[SavedGroup]
    parameters: Sequence[SavedParameter]
    others: Mapping[Any, Any]  # of the state: what belongs to no parameter that is listed
    named: bool
    own: Own | None = None  # None: it is torch's


def described(optimizer: Grouped, found: Mapping[str, Any]) -> dict[str, Any]:
    """What version 2 adds, for a state dict of torch's form, as plain data."""
    groups = [_described_group(controls) for controls in optimizer.controls]
    slots = {}
    for group in found["param_groups"]:
        for key in group["params"]:
            held = found["state"].get(key)
            if isinstance(held, Mapping) and held:
                slots[key] = _held(held)
    return {"version": VERSION, "groups": groups, "slots": slots}


def _described_group(controls: Controls) -> dict[str, Any]:
    pipeline, names = controls.pipeline, controls.names
    return {
        "rule": _path(pipeline.rule),
        "stages": [_path(stage) for stage in pipeline.stages],
        "names": {full: names.native(full) for full in names.places},
        "slots": list(names.slots.values()),
    }


def _path(stage: Any) -> str:
    return f"{type(stage).__module__}:{type(stage).__qualname__}"


def _held(slots: Mapping[str, Any]) -> list[str]:
    return [str(name) for name, value in slots.items() if value is not None]


def read_file(state_dict: Mapping[str, Any]) -> File:
    """The part of a state dict that torch's have, too.

    Raises:
        ValueError: it is none.
    """
    try:
        groups, state = state_dict["param_groups"], state_dict["state"]
        many = isinstance(groups, Sequence) and isinstance(state, Mapping)
    except (KeyError, TypeError):
        many = False
    if not many:
        raise ValueError(
            "this is no optimizer's state dict: it has no 'param_groups' and 'state'"
        )
    listed = [_members(number, group) for number, group in enumerate(groups)]
    parameters = [
        SavedParameter(key, name, number, _slots_of(state, key, name))
        for number, some in enumerate(listed)
        for key, name in zip(some, _names(number, groups[number]), strict=True)
    ]
    known = {one.key for one in parameters}
    return File(
        [SavedGroup(_values(group), len(group["params"])) for group in groups],
        parameters,
        {key: value for key, value in state.items() if key not in known},
        bool(parameters) and all(one.name is not None for one in parameters),
    )


def _values(group: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in group.items() if key not in NOT_VALUES}


def with_own(file: File, own: Any) -> File:
    """A file with what stands under the key ``pellucid``.

    Raises:
        ValueError: that is of a later version or damaged, or the file is truncated.
    """
    made, about = _own(own, len(file.groups))
    _check_whole(file, about.get("slots", {}))
    groups = [
        replace(
            group,
            schedules=about["schedules"][number],
            **(about["groups"][number] if "groups" in about else {}),
        )
        for number, group in enumerate(file.groups)
    ]
    return replace(file, groups=groups, own=made)


def _members(number: int, group: Any) -> Sequence[Any]:
    if not isinstance(group, Mapping) or not isinstance(group.get("params"), (list, tuple)):
        raise ValueError(f"loaded state dict has no 'params' in its group {number}")
    members: Sequence[Any] = group["params"]
    return members


def _names(number: int, group: Mapping[str, Any]) -> Sequence[str | None]:
    names, count = group.get("param_names"), len(group["params"])
    if names is None:
        return [None] * count
    fits = isinstance(names, (list, tuple)) and len(names) == count
    if not fits or not all(isinstance(name, str) for name in names):
        raise ValueError(
            f"loaded state dict has in its group {number} the 'param_names' {names!r:.80}; allowed "
            f"are {count} texts, one for each of its 'params': correct them, or remove that key to "
            "load by position"
        )
    found: Sequence[str | None] = names
    return found


def _slots_of(state: Mapping[Any, Any], key: Any, name: str | None) -> Mapping[str, Any] | None:
    if key not in state:
        return None
    slots = state[key]
    if not isinstance(slots, Mapping):
        shown = SavedParameter(key, name, 0, None).described()
        raise ValueError(
            f"loaded state dict has {type(slots).__name__} for {shown}; allowed is a dict of slots"
        )
    return {slot: value for slot, value in slots.items() if value is not None}


def _own(own: Any, count: int) -> tuple[Own, dict[str, Any]]:
    """Our part of a file of ``count`` groups; and what it says of them and of the state."""
    version = own.get("version", 1) if isinstance(own, Mapping) else None
    if isinstance(version, int) and version > VERSION:
        raise ValueError(
            f"loaded state dict has a part 'pellucid' of version {version}, written by a later "
            f"release; this one reads versions up to {VERSION}: update pellucid, or remove that "
            "key to load the rest"
        )
    try:
        if type(version) is not int or version < 1:
            raise ValueError(f"version {version!r}")
        updates, seed = int(own["updates"]), int(own["seed"])
        if updates < 0 or not 0 <= seed < 1 << 63:
            raise ValueError(f"updates {updates}, seed {seed}")
        shared = {(int(o), str(full)): float(value) for o, full, value in own["shared"]}
        about: dict[str, Any] = {"schedules": [dict(one) for one in own["schedules"]]}
        if version > 1:
            about["groups"] = [_told(one) for one in own["groups"]]
            about["slots"] = {str(key): list(map(str, one)) for key, one in own["slots"].items()}
        made = Own(updates, seed, shared, Journal.from_list(own["journal"]))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(
            f"loaded state dict has a damaged part 'pellucid' ({error!r}): remove that key to "
            "load the rest"
        ) from error
    for what in ("schedules", "groups"):
        if what in about and len(about[what]) != count:
            raise ValueError(
                f"loaded state dict has {what} for {len(about[what])} groups in its part "
                f"'pellucid', {count} under 'param_groups'"
            )
    return made, about


def _told(one: Mapping[str, Any]) -> dict[str, Any]:
    names = {str(full): str(native) for full, native in one["names"].items()}
    return {"rule": str(one["rule"]), "names": names, "slots": frozenset(map(str, one["slots"]))}


def _check_whole(file: File, saved: Mapping[str, Sequence[str]]) -> None:
    """Raise if a file has less than it says that it has."""
    known = {str(one.key): one for one in file.parameters}
    for key, one in known.items():
        gone = [name for name in saved.get(key, ()) if name not in (one.slots or {})]
        if gone:
            raise ValueError(
                f"loaded state dict has no {quoted(gone)} for {one.described()}, with which it "
                "was saved: it is truncated; what is removed on purpose is removed from its "
                f"['pellucid']['slots'][{one.key!r}], too"
            )
    left = [key for key in file.others if str(key) in saved and str(key) not in known]
    if left:
        raise ValueError(
            f"loaded state dict has the state of parameter {left[0]}, which no group lists: it is "
            "truncated; what is removed on purpose is removed from its 'state', too"
        )


def quoted(names: Iterable[str]) -> str:
    """Names in a sentence."""
    return " and ".join(map(repr, names))
