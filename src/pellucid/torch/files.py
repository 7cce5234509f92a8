"""Loading state dicts by position: all is checked before anything changes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import torch

from pellucid.changes import Journal
from pellucid.compose import Pipeline
from pellucid.controls import Controls
from pellucid.fuse.engine import slot_kind, slot_shape
from pellucid.rules import CATALOGUE
from pellucid.torch.names import STEPS, names_of, rule_names

if TYPE_CHECKING:
    from pellucid.torch.grouped import Grouped

__all__ = ["checked_own", "checked_state", "finish_load"]

FLOATS = (torch.float32, torch.float64)
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Arriving:
    """What a state dict has for us alone, read before anything changes."""

    updates: int
    seed: int
    shared: dict[tuple[int, str], float]
    drivers: list[dict[str, Any]]
    journal: Journal | None  # None: the file is torch's, and the journal goes on
    numbers: list[dict[str, torch.Tensor]]  # of each parameter: slots of one value, as saved


def checked_state(optimizer: Grouped, state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """The state dict as torch loads it, complete; ValueError says what differs."""
    try:
        groups, state = state_dict["param_groups"], state_dict["state"]
    except (KeyError, TypeError):
        raise ValueError(
            "this is no optimizer's state dict: it has no 'param_groups' and 'state'"
        ) from None
    own = optimizer.param_groups
    if len(groups) != len(own):
        raise ValueError(
            f"loaded state dict has a different number of parameter groups: {len(groups)} in the "
            f"file, {len(own)} here; build the optimizer with the same groups"
        )
    ours = "pellucid" in state_dict
    filled = []
    by_key: dict[Any, int] = {}
    count = 0
    for number, (saved, mine) in enumerate(zip(groups, own, strict=True)):
        if not isinstance(saved, Mapping) or "params" not in saved:
            raise ValueError(f"loaded state dict has no 'params' in its group {number}")
        if len(saved["params"]) != len(mine["params"]):
            raise ValueError(
                "loaded state dict contains a parameter group that doesn't match the size of "
                f"optimizer's group: group {number} has {len(saved['params'])} parameters in the "
                f"file, {len(mine['params'])} here"
            )
        for key in saved["params"]:
            by_key[key] = count
            count += 1
        filled.append(_filled(optimizer.controls[number], saved, mine, ours))
    kept = dict(state)
    for key, slots in state.items():
        if key in by_key:
            _check_slots(optimizer, by_key[key], slots)
            kept[key] = {name: value for name, value in slots.items() if value is not None}
    return {"state": kept, "param_groups": filled}


def _filled(
    controls: Controls, saved: Mapping[str, Any], mine: Mapping[str, Any], ours: bool
) -> dict[str, Any]:
    """A saved group with every key that ours has, its values checked."""
    if ours:  # an option of ours alone has no key where it has its default
        unknown = {controls.names.native(full) for full in controls.names.unknown}
        mine = {key: value for key, value in mine.items() if key not in unknown}
    merged = {**{key: mine[key] for key in mine if key not in ("params", "param_names")}, **saved}
    merged |= {key: mine[key] for key in controls.names.refused if key in mine}  # of a GPU's file
    scratch = Controls(
        controls.label, controls.pipeline, controls.names, {}, controls.pipeline.given, Journal()
    )
    scratch.store = merged
    for key in controls.names.native_keys():
        if isinstance(merged.get(key), list):  # JSON has no tuples
            merged[key] = tuple(merged[key])
    scratch.read(0)
    return merged


@cache
def _slots_of_rules() -> frozenset[str]:
    """What torch's names call the slots of the catalogue: no key of anyone else's."""
    pipelines = [Pipeline((rule(),), (0,)) for rule in CATALOGUE.values()]
    return frozenset(name for one in pipelines for name in names_of(one).slots.values())


def _check_slots(optimizer: Grouped, index: int, slots: Any) -> None:
    entry = optimizer.entries[index]
    names = optimizer.controls[entry.group].names
    shape = tuple(entry.param.shape)
    where = f"parameter {index} ({entry.name!r}, shape {shape})"
    if not isinstance(slots, Mapping):
        raise ValueError(f"loaded state dict has {type(slots).__name__} for {where}: no dict")
    declared = {
        names.slots[full]: (stage, one)
        for full, (stage, one) in entry.pipeline.slots.items()
        if one.scope == "parameter"
    }
    held = {name: value for name, value in slots.items() if value is not None}
    for name, value in held.items():
        if name == "step":
            _check_step(value, where)
        elif name in declared:
            wanted = slot_shape(slot_kind(declared[name][1], shape, name), shape)
            _check_slot(name, value, wanted, entry.param, where)
        elif name in _slots_of_rules():
            raise ValueError(
                f"loaded state dict has a slot {name!r} for {where}; {optimizer.stage!r} has "
                f"{', '.join(declared) or 'none'}: load it into an optimizer with the same rule"
            )
    own = [name for name, (stage, _) in declared.items() if stage is entry.pipeline.rule]
    needed = [name for name in own if declared[name][1].when is None]
    if STEPS & set(rule_names(entry.pipeline)):
        needed.append("step")
    missing = [name for name in needed if name not in held]
    if missing and any(name in held for name in (*own, "step")):
        raise ValueError(
            f"loaded state dict has no {missing[0]!r} for {where}, only {', '.join(held)}: load "
            "it into an optimizer with the same rule"
        )


def _check_step(value: Any, where: str) -> None:
    number = isinstance(value, (int, float)) or (
        isinstance(value, torch.Tensor) and value.numel() == 1 and not value.is_complex()
    )
    if not number or not 0 <= float(value) < math.inf:
        raise ValueError(
            f"loaded state dict has the step {value!r} for {where}; allowed is a count of updates"
        )


def _check_slot(
    name: str, value: Any, wanted: tuple[int, ...], param: torch.Tensor, where: str
) -> None:
    found = tuple(value.shape) if isinstance(value, torch.Tensor) else type(value).__name__
    if found != wanted:
        raise ValueError(
            f"loaded state dict has {name!r} of shape {found} for {where}; expected is {wanted}"
        )
    if value.is_complex() and not param.is_complex():
        raise ValueError(
            f"loaded state dict has {name!r} of dtype {value.dtype} for {where}, which is real"
        )


def checked_own(
    optimizer: Grouped, fitting: Mapping[str, Any], own: Mapping[str, Any] | None
) -> Arriving:
    """What the key ``pellucid`` holds; of a file without it, what torch's own keys tell."""
    if own is None:
        members = {key for group in fitting["param_groups"] for key in group["params"]}
        slots = [slots for key, slots in fitting["state"].items() if key in members]
        steps = [float(some.get("step", 0.0)) for some in slots]
        updates = int(max(steps, default=0.0))
        drivers = [dict(controls.drivers) for controls in optimizer.controls]
        numbers = _numbers(optimizer, fitting)
        return Arriving(updates, optimizer.seed, optimizer.shared, drivers, None, numbers)
    try:
        updates, seed = int(own["updates"]), int(own["seed"])
        shared = {(int(o), str(full)): float(value) for o, full, value in own["shared"]}
        schedules, journal = list(own["schedules"]), Journal.from_list(own["journal"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"loaded state dict has a damaged part 'pellucid' ({error!r}): remove that key to "
            "load the rest"
        ) from error
    if len(schedules) != len(optimizer.controls):
        raise ValueError(
            f"loaded state dict has schedules for {len(schedules)} groups, "
            f"{len(optimizer.controls)} are here"
        )
    drivers = []
    for controls, some in zip(optimizer.controls, schedules, strict=True):
        given = controls.pipeline.given
        scratch = Controls(
            controls.label, controls.pipeline, controls.names, {}, given, Journal()
        )
        scratch.restore(some)
        drivers.append(scratch.drivers)
    return Arriving(updates, seed, shared, drivers, journal, _numbers(optimizer, fitting))


def _numbers(optimizer: Grouped, fitting: Mapping[str, Any]) -> list[dict[str, torch.Tensor]]:
    """Slots of one value, of which torch would change the type: training would not go on alike."""
    keys = [key for group in fitting["param_groups"] for key in group["params"]]
    found = []
    for entry, key in zip(optimizer.entries, keys, strict=True):
        names = optimizer.controls[entry.group].names
        slots, shape = fitting["state"].get(key, {}), tuple(entry.param.shape)
        wanted = [
            names.slots[full]
            for full, (_, declared) in entry.pipeline.slots.items()
            if declared.scope == "parameter" and slot_kind(declared, shape, full) == "scalar"
        ]
        held = {name: slots[name] for name in wanted if name in slots}
        found.append({n: v for n, v in held.items() if v.dtype in FLOATS and v.device == CPU})
    return found


def finish_load(optimizer: Grouped, own: Arriving) -> None:
    """After torch has replaced groups and state: follow them, and take what is ours."""
    old = [dict(controls.seen) for controls in optimizer.controls]
    if own.journal is None:
        optimizer.journal.abandon(own.updates)
    else:
        optimizer.journal.load(own.journal, own.updates)
    optimizer.updates, optimizer.shared = own.updates, own.shared
    optimizer.seed = optimizer.engine.seed = own.seed
    for controls, store, drivers in zip(
        optimizer.controls, optimizer.param_groups, own.drivers, strict=True
    ):
        controls.store, controls.drivers = store, drivers
        controls.loaded()
    for entry, numbers in zip(optimizer.entries, own.numbers, strict=True):
        if numbers:
            optimizer.state[entry.param].update(numbers)
    for controls, before in zip(optimizer.controls, old, strict=True):
        controls.settle(before, optimizer.updates, ours=own.journal is not None)
    optimizer.forget_plans()
