"""Loading a state dict: everything is prepared and checked, then all of it is put in place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pellucid.declare import Ref
from pellucid.torch.files import KEY, File, Own, read_file, with_own
from pellucid.torch.loaded_groups import GroupTaken, take_groups
from pellucid.torch.loaded_slots import Taken, take_slots
from pellucid.torch.matching import Pairing, paired
from pellucid.torch.report import LoadReport

if TYPE_CHECKING:
    from pellucid.torch.grouped import Grouped

__all__ = ["Prepared", "finish_load", "groups_of", "prepare"]

SHOWN = 8
"""How many problems an error lists."""


@dataclass
class Prepared:
    """What a state dict will make of an optimizer."""

    report: LoadReport
    error: Exception | None = None  # why it is refused
    state: dict[Any, Any] = field(default_factory=dict)
    groups: list[GroupTaken] = field(default_factory=list)
    names: list[str] | None = None  # that an optimizer without names takes
    own: Own | None = None  # None: the file is torch's, and the journal goes on
    updates: int = 0
    shared: dict[tuple[int, str], float] = field(default_factory=dict)


def prepare(optimizer: Grouped, state_dict: Mapping[str, Any], strict: bool) -> Prepared:
    """Read, match and check a state dict; nothing changes."""
    try:
        file = read_file(state_dict)
        pairing = paired(optimizer, file)
        file = with_own(file, state_dict[KEY]) if KEY in state_dict else file
        groups = take_groups(optimizer, file, pairing)
    except (ValueError, LookupError) as error:
        return Prepared(LoadReport(problems=(str(error),)), error)
    taken = [
        None if saved is None else take_slots(optimizer, entry, saved, file.groups[saved.group])
        for entry, saved in zip(optimizer.entries, pairing.saved, strict=True)
    ]
    shared, left = _shared(optimizer, file.own)
    stale = [f"the state of {key}" for key in file.others if isinstance(key, int)]
    dropped = [*_dropped(optimizer, pairing, taken, groups), *left, *stale]
    missing = tuple(
        entry.name
        for entry, saved in zip(optimizer.entries, pairing.saved, strict=True)
        if saved is None
    )
    wrong = [text for one in taken if one is not None for text in one.wrong]
    unfit = [text for one in taken if one is not None for text in one.unfit]
    unfit += _unmatched(missing, pairing.left, [*left, *stale])
    problems = (*wrong, *(unfit if strict else ()))
    report = LoadReport(
        by=pairing.by,
        matched=_matched(optimizer, pairing),
        missing=missing,
        dropped=tuple(dropped),
        begun=_begun(optimizer, taken),
        types=_types(optimizer, taken),
        changed=_changed(optimizer, groups),
        kept={**_kept(optimizer, groups), **_uncounted(optimizer, file)},
        problems=problems,
    )
    prepared = Prepared(report, _error(problems, strict and bool(unfit)))
    if prepared.error is None:
        _fill(prepared, optimizer, file, pairing, taken, groups, shared)
    return prepared


def _fill(
    prepared: Prepared,
    optimizer: Grouped,
    file: File,
    pairing: Pairing,
    taken: list[Taken | None],
    groups: list[GroupTaken],
    shared: dict[tuple[int, str], float],
) -> None:
    """What will be put in place."""
    state = {key: value for key, value in file.others.items() if not isinstance(key, int)}
    steps = [0.0]
    for entry, saved, one in zip(optimizer.entries, pairing.saved, taken, strict=True):
        if saved is not None and one is not None and saved.slots is not None:
            steps.append(float(saved.slots.get("step", 0.0)))
            if one.slots or not saved.slots:
                state[entry.param] = one.slots
    prepared.state, prepared.groups, prepared.own = state, groups, file.own
    prepared.shared = shared
    prepared.updates = int(max(steps)) if file.own is None else file.own.updates
    named = any("param_names" in group for group in optimizer.param_groups)
    names = [one.name for one in file.parameters if one.name is not None]
    if file.named and not named and len(set(names)) == len(names):
        prepared.names = names


def _uncounted(optimizer: Grouped, file: File) -> dict[str, str]:
    """What cannot go on where it was: a file of torch's tells no count without a ``step``."""
    counted = any("step" in (one.slots or {}) for one in file.parameters)
    if file.own is not None or counted or not file.parameters:
        return {}
    return {
        f"{controls.label}/{full}": "its schedule begins anew: the file tells no count of updates"
        for controls in optimizer.controls
        for full, driver in controls.drivers.items()
        if not isinstance(driver, Ref)
    }


def _error(problems: tuple[str, ...], loosely: bool) -> ValueError | None:
    if not problems:
        return None
    lines = list(problems)
    if len(problems) > 1:
        more = [f"... and {len(problems) - SHOWN} more"] if len(problems) > SHOWN else []
        listed = [f"  {text}" for text in (*problems[:SHOWN], *more)]
        lines = [f"the state dict does not fit, for {len(problems)} reasons:", *listed]
    if loosely:
        lines.append(
            "strict=False takes what fits, begins what is missing anew and drops the rest; "
            "dry_run=True reports it first"
        )
    return ValueError("\n".join(lines))


# -- what the report says ----------------------------------------------------------------------


def _matched(optimizer: Grouped, pairing: Pairing) -> dict[str, str]:
    return {
        entry.name: str(saved)
        for entry, saved in zip(optimizer.entries, pairing.saved, strict=True)
        if saved is not None
    }


def _unmatched(
    missing: tuple[str, ...], left: Any, others: list[str]
) -> list[str]:
    found = []
    if missing:
        found.append(f"loaded state dict has no {_listed(missing)}: here, but not in the file")
    if left:
        names = tuple(map(str, left))
        found.append(f"loaded state dict has {_listed(names)}: in the file, but not here")
    if others:
        found.append(f"loaded state dict has {_listed(tuple(others), False)}, which is none here")
    return found


def _listed(names: tuple[str, ...], quoted: bool = True) -> str:
    more = f", ... {len(names)} in all" if len(names) > SHOWN else ""
    return ", ".join(map(repr if quoted else str, names[:SHOWN])) + more


def _dropped(
    optimizer: Grouped,
    pairing: Pairing,
    taken: list[Taken | None],
    groups: list[GroupTaken],
) -> list[str]:
    found = [str(one) for one in pairing.left]
    for entry, one in zip(optimizer.entries, taken, strict=True):
        found += [f"{entry.name}/{slot}" for slot in (one.dropped if one is not None else ())]
    for controls, group in zip(optimizer.controls, groups, strict=True):
        found += [f"{controls.label}/{full}" for full in group.dropped]
    return found


def _begun(optimizer: Grouped, taken: list[Taken | None]) -> dict[str, str]:
    found: dict[str, str] = {}
    for entry, one in zip(optimizer.entries, taken, strict=True):
        if one is not None:
            found |= {entry.name: one.anew} if one.anew else {}
            found |= {f"{entry.name}/{slot}": why for slot, why in one.begun.items()}
    return found


def _types(optimizer: Grouped, taken: list[Taken | None]) -> dict[str, tuple[str, str]]:
    return {
        f"{entry.name}/{slot}": types
        for entry, one in zip(optimizer.entries, taken, strict=True)
        if one is not None
        for slot, types in one.types.items()
    }


def _changed(optimizer: Grouped, groups: list[GroupTaken]) -> dict[str, tuple[Any, Any]]:
    """Values of groups that the load changes, before and after."""
    found = {}
    for controls, group in zip(optimizer.controls, groups, strict=True):
        for full in controls.names.places:
            old, new = controls.raw(full), group.raw(controls, full)
            if old != new:
                found[f"{controls.label}/{full}"] = old, new
    return found


def _kept(optimizer: Grouped, groups: list[GroupTaken]) -> dict[str, str]:
    return {
        f"{controls.label}/{full}" if full else controls.label: why
        for controls, group in zip(optimizer.controls, groups, strict=True)
        for full, why in group.kept.items()
    }


# -- optimizer-wide slots ----------------------------------------------------------------------


def _shared(
    optimizer: Grouped, own: Own | None
) -> tuple[dict[tuple[int, str], float], list[str]]:
    """Slots that all parameters share, of the file; and those that are none here.

    The stage that has one may stand at another place here: then its name tells, if there is one
    of that name only.
    """
    if own is None:
        return dict(optimizer.shared), []
    here = {key for controls in optimizer.controls for key, *_ in controls.pipeline.shared}
    found = {key: value for key, value in own.shared.items() if key in here}
    left = []
    for key, value in own.shared.items():
        if key in here:
            continue
        alike = [one for one in here - found.keys() if one[1] == key[1]]
        others = [one for one in own.shared if one[1] == key[1]]
        if len(alike) == len(others) == 1:
            found[alike[0]] = value
        else:
            left.append(f"the slot {key[1]!r} of all parameters")
    return found, left


# -- putting in place --------------------------------------------------------------------------


def finish_load(optimizer: Grouped, prepared: Prepared, before: list[dict[str, Any]]) -> None:
    """After groups and state were replaced: follow them, and take what is ours.

    Args:
        before: each group's values before the load.
    """
    own, updates = prepared.own, prepared.updates
    if own is None:
        optimizer.journal.abandon(updates)
    else:
        optimizer.journal.load(own.journal, updates)
        optimizer.seed = optimizer.engine.seed = own.seed
    optimizer.updates, optimizer.shared = updates, dict(prepared.shared)
    for controls, store, group in zip(
        optimizer.controls, optimizer.param_groups, prepared.groups, strict=True
    ):
        controls.store, controls.drivers = store, dict(group.drivers)
        controls.loaded()
    for entry, name in zip(optimizer.entries, prepared.names or (), strict=False):
        entry.name = name
    here = {controls.label for controls in optimizer.controls}
    for label in [*optimizer.journal.initial] if own is not None else ():
        if label not in here and label not in optimizer.journal.ended:
            optimizer.journal.end(updates + 1, label)
    for controls, values in zip(optimizer.controls, before, strict=True):
        controls.settle(values, updates, ours=own is not None)
    optimizer.forget_plans()


def groups_of(optimizer: Grouped, prepared: Prepared) -> list[dict[str, Any]]:
    """The groups' dicts after the load."""
    found = []
    names = iter(prepared.names or ())
    for group, taken in zip(optimizer.param_groups, prepared.groups, strict=True):
        params = list(group["params"])
        made = {**taken.store, "params": params}
        if prepared.names is not None:
            made["param_names"] = [next(names) for _ in params]
        found.append(made)
    return found
