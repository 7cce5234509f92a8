"""Loading state dicts by position: all is checked before anything changes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from pellucid.changes import Change, Journal
from pellucid.controls import Controls
from pellucid.fuse.engine import slot_kind, slot_shape

if TYPE_CHECKING:
    from pellucid.torch.optimizer import Optimizer

__all__ = ["checked_state", "finish_load"]


def checked_state(optimizer: Optimizer, state_dict: Mapping[str, Any]) -> dict[str, Any]:
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
    filled = []
    by_key: dict[Any, int] = {}
    count = 0
    for number, (saved, mine) in enumerate(zip(groups, own, strict=True)):
        if len(saved["params"]) != len(mine["params"]):
            raise ValueError(
                "loaded state dict contains a parameter group that doesn't match the size of "
                f"optimizer's group: group {number} has {len(saved['params'])} parameters in the "
                f"file, {len(mine['params'])} here"
            )
        for key in saved["params"]:
            by_key[key] = count
            count += 1
        filled.append(_filled(optimizer.controls[number], saved, mine))
    for key, slots in state.items():
        if key in by_key:
            _check_slots(optimizer, by_key[key], slots)
    kept = {
        key: {name: value for name, value in slots.items() if value is not None}
        for key, slots in state.items()
        if key in by_key
    }
    return {"state": kept, "param_groups": filled}


def _filled(
    controls: Controls, saved: Mapping[str, Any], mine: Mapping[str, Any]
) -> dict[str, Any]:
    """A saved group with every key that ours has, its values checked."""
    merged = {**{key: mine[key] for key in mine if key not in ("params", "param_names")}, **saved}
    scratch = Controls(
        controls.label, controls.pipeline, controls.names, {}, controls.pipeline.given, Journal()
    )
    scratch.store = merged
    for key in controls.names.native_keys():
        if isinstance(merged[key], list):  # JSON has no tuples
            merged[key] = tuple(merged[key])
    scratch.read(0)
    return merged


def _check_slots(optimizer: Optimizer, index: int, slots: Mapping[str, Any]) -> None:
    entry = optimizer.entries[index]
    names = optimizer.controls[entry.group].names
    shape = tuple(entry.param.shape)
    expected = {
        names.slots[full]: slot_shape(slot_kind(declared, shape, full), shape)
        for full, (_, declared) in entry.pipeline.slots.items()
        if declared.scope == "parameter"
    }
    for name, value in slots.items():
        if name == "step" or value is None:
            continue
        if name not in expected:
            raise ValueError(
                f"loaded state dict has a slot {name!r} for parameter {index} ({entry.name!r}); "
                f"{optimizer.stage!r} has {', '.join(expected) or 'none'}: load it into an "
                "optimizer with the same rule"
            )
        found = tuple(value.shape) if isinstance(value, torch.Tensor) else type(value).__name__
        if found != expected[name]:
            raise ValueError(
                f"loaded state dict has {name!r} of shape {found} for parameter {index} "
                f"({entry.name!r}, shape {shape}); expected is {expected[name]}"
            )


def finish_load(optimizer: Optimizer, own: Mapping[str, Any] | None) -> None:
    """After torch has replaced groups and state: follow them, and read what is ours."""
    old = [dict(controls.seen) for controls in optimizer.controls]
    for controls, store in zip(optimizer.controls, optimizer.param_groups, strict=True):
        controls.store = store
        controls.loaded()
    if own is not None:
        optimizer.updates = int(own["updates"])
        optimizer.seed = optimizer.engine.seed = int(own["seed"])
        optimizer.shared = {(int(o), full): float(v) for o, full, v in own["shared"]}
        for controls, schedules in zip(optimizer.controls, own["schedules"], strict=True):
            controls.restore(schedules)
        optimizer.journal = Journal.from_list(own["journal"])
        for controls in optimizer.controls:
            controls.journal = optimizer.journal
    else:
        steps = [float(slots.get("step", 0.0)) for slots in optimizer.state.values()]
        optimizer.updates = int(max(steps, default=0.0))
    for controls, before in zip(optimizer.controls, old, strict=True):
        for full, value in controls.seen.items():
            if value != before[full] and full not in controls.drivers:
                change = Change(
                    optimizer.updates + 1, controls.label, full, before[full], value, "load"
                )
                optimizer.journal.record(change)
    optimizer.forget_plans()
