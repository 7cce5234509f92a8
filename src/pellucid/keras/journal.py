"""What a Keras optimizer puts into its journal: how it began, changes, and writes past it.

No compiled step visits the host, so nothing is done in a step. Numbers are looked at when somebody
asks for the journal: what was written past the optimizer is on record from then on. Schedules are
stored, and asked again; of a function that cannot be stored, its calls are recorded as steps make
them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import keras
import numpy

from pellucid.changes import Change
from pellucid.declare import Ref, plain_value, revive
from pellucid.keras.host_values import number_of, on_host
from pellucid.keras.hypers import Hyperparameter

if TYPE_CHECKING:
    from pellucid.keras.core import Group, Setting
    from pellucid.keras.optimizer import Optimizer

__all__ = ["BASE", "begin", "begin_group", "changed", "changed_base", "config_of_driver", "look"]

BASE = (
    "use_ema", "ema_momentum", "ema_overwrite_frequency", "loss_scale_factor",
    "gradient_accumulation_steps",
)  # fmt: skip
"""Keras's own settings: attributes that all groups share."""


def config_of_driver(cell: Hyperparameter) -> dict[str, Any]:
    """What drives a value as plain data that gives it back; else ``{"repr": ...}``."""
    driver = cell.driver
    if isinstance(driver, Ref):
        return {"ref": driver.name if cell.target is None else cell.target.full}
    if isinstance(driver, keras.optimizers.schedules.LearningRateSchedule):
        return _of_keras(driver, cell.optimizer.gradient_accumulation_steps or 1)
    try:
        plain = json.loads(json.dumps(plain_value(driver, cell.full)))
        again = revive(plain)
        same = again is driver or json.loads(json.dumps(plain_value(again, cell.full))) == plain
        if same and type(again) is type(driver):
            return dict(plain)
    except Exception:
        pass  # whatever a callable of the user's does: its values go on record
    return {"repr": repr(getattr(driver, "function", driver))}


def stored(cell: Hyperparameter) -> Mapping[str, Any]:
    """`config_of_driver`, formed once for each driver."""
    known: Any = vars(cell).get("_stored")
    if known is None or known[0] is not cell.driver:
        known = vars(cell)["_stored"] = cell.driver, config_of_driver(cell)
    found: Mapping[str, Any] = known[1]
    return found


def _of_keras(schedule: Any, every: int) -> dict[str, Any]:
    name = type(schedule).__name__
    try:
        plain = json.loads(json.dumps(keras.saving.serialize_keras_object(schedule)))
        again = keras.saving.deserialize_keras_object(plain)
        if type(again) is type(schedule):
            return {"repr": name, "keras": {"schedule": plain, "every": every}}
    except Exception:
        pass  # a class of the user's that is not registered
    return {"repr": name}


# -- recording -----------------------------------------------------------------------------


def begin(optimizer: Optimizer) -> None:
    """Tell the journal how all groups stand."""
    for group in optimizer.core.groups:
        begin_group(optimizer, group)


def begin_group(optimizer: Optimizer, group: Group) -> None:
    """Tell the journal of a group."""
    values = {full: one.shown() for full, one in group.settings.items()}
    values |= {name: getattr(optimizer, name) for name in BASE}
    schedules = {
        full: dict(stored(cell))
        for full, cell in group.cells.items()
        if cell.driver is not None
    }
    step = optimizer.updates + 1
    optimizer.history.begin(step, group.label, values, schedules, "assignment")


def changed(
    optimizer: Optimizer,
    setting: Setting,
    old: Any,
    source: str,
    reason: str,
    groups: Sequence[Group] | None = None,
) -> None:
    """Put a change on record, for each group that it concerns."""
    if not optimizer.built:
        return
    look(optimizer)
    schedule = None
    if isinstance(setting, Hyperparameter) and setting.driver is not None:
        schedule = dict(stored(setting))
    step, new = optimizer.updates + 1, setting.shown()
    for group in optimizer.core.groups if groups is None else groups:
        if group.settings.get(setting.full) is setting:
            change = Change(
                step, group.label, setting.full, old, new, source, reason, schedule=schedule
            )
            optimizer.history.record(change)


def changed_base(optimizer: Optimizer, name: str, old: Any, source: str, reason: str) -> None:
    """Put a change of one of Keras's own settings on record."""
    new = getattr(optimizer, name)
    if optimizer.built and new != old:
        step = optimizer.updates + 1
        for group in optimizer.core.groups:
            optimizer.history.record(Change(step, group.label, name, old, new, source, reason))


# -- looking -------------------------------------------------------------------------------


def look(optimizer: Optimizer) -> None:
    """Put on record what was written past the optimizer since the last look.

    Such as ``opt.beta_1.value.assign(...)`` on TensorFlow, an assignment in a compiled function,
    or a restored TensorFlow checkpoint, which moves the count of updates back.
    """
    if not optimizer.built:
        return
    optimizer.before_write()
    history, updates = optimizer.history, optimizer.updates
    source = "direct write"
    if updates < optimizer.core.looked:
        source = "load"
        if history.reached > updates + 1:  # nobody told the journal
            history.abandon(updates)
    optimizer.core.looked = updates
    cells = [cell for cell in optimizer.core.cells if cell.driver is None]
    for cell, number in zip(cells, _numbers(cells), strict=True):
        old, cell.seen = cell.seen, number
        if old is None or number == old:
            continue
        for group in optimizer.core.groups:
            if group.cells.get(cell.full) is cell:
                history.record(Change(updates + 1, group.label, cell.full, old, number, source))
    _catch_up(optimizer, updates)


def _numbers(cells: Sequence[Hyperparameter]) -> list[float]:
    """What the Variables hold, fetched at once."""
    if keras.backend.backend() == "torch" or len(cells) < 2:
        return [cell.number for cell in cells]
    held = on_host(keras.ops.stack([keras.ops.convert_to_tensor(c.variable.value) for c in cells]))
    return [float(str(one)) for one in numpy.asarray(held)]


def _catch_up(optimizer: Optimizer, updates: int) -> None:
    """What a schedule of Keras's that cannot be stored gave in the steps since the last look."""
    for group in optimizer.core.groups:
        for full, cell in group.cells.items():
            driver = cell.driver
            if not isinstance(driver, keras.optimizers.schedules.LearningRateSchedule):
                continue
            if "keras" in stored(cell):
                continue
            first = optimizer.history.pointed(group.label, full)
            for step in range(first + 1, updates + 1) if first is not None else ():
                optimizer.history.point(step, group.label, full, cell.at(step - 1))


def note_call(cell: Hyperparameter, updates: int, number: float) -> None:
    """Record what a function that cannot be stored gave for a step."""
    if not cell.optimizer.built or "repr" not in stored(cell):
        return
    for group in cell.optimizer.core.groups:
        if group.cells.get(cell.full) is cell:
            cell.optimizer.history.point(updates + 1, group.label, cell.full, number)


def schedule_of_keras(plain: Mapping[str, Any]) -> Any:
    """The function of completed updates that `config_of_driver` described.

    Keras's schedules count micro-batches, of which an update has ``every``.
    """
    made, every = keras.saving.deserialize_keras_object(dict(plain["schedule"])), plain["every"]
    return lambda updates: number_of(made(updates * every + every - 1))
