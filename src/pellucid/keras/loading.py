"""Reads what `pellucid.keras.files` or one of Keras's own optimizers has written.

All that can fail is checked before anything changes.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy

from pellucid.changes import Journal
from pellucid.keras.core import Setting
from pellucid.keras.described import FORMAT, Difference, settings_of, truths_of
from pellucid.keras.files import (
    CHILD,
    ITERATION,
    RATE,
    Key,
    Waiting,
    fixed_keys,
    keys_of,
    name_of,
    shape_of,
    slot_keys,
    targets,
)
from pellucid.keras.host_values import on_host
from pellucid.keras.hyper_variable import HyperparameterVariable
from pellucid.keras.hypers import Choice
from pellucid.keras.slots import missing_slots

if TYPE_CHECKING:
    from pellucid.keras.optimizer import Optimizer

__all__ = ["arrive", "await_build", "load"]


@dataclass
class Arrival:
    """What a load will change, checked."""

    updates: int  # of Keras's own count, which has micro-batches too
    settings: list[tuple[Setting, Any, Any]] = field(default_factory=list)
    slots: set[tuple[int, str]] = field(default_factory=set)
    arrays: list[tuple[Key, Any]] = field(default_factory=list)
    described: Mapping[str, Any] | None = None
    journal: Journal | None = None


def load(optimizer: Optimizer, store: Any) -> None:
    """Read what `save` or one of Keras's own optimizers has written; unbuilt, at the build.

    Raises:
        ValueError: what differs. Nothing of the optimizer was changed.
    """
    values = {str(key): numpy.asarray(store[key]) for key in store.keys()}  # noqa: SIM118
    if not values:
        warnings.warn(
            f"The file has no state of an optimizer: {optimizer.name} stays as it is.",
            stacklevel=3,
        )
        return
    arrays = [values.pop(str(place), None) for place in range(len(values))]
    if values:
        raise Difference(optimizer, [f"it has arrays of the names {', '.join(values)}"])
    await_build(optimizer, arrays, _text_beside(store))


def await_build(optimizer: Optimizer, arrays: list[Any] | None, text: Any) -> None:
    """Load now, or when the optimizer is built."""
    optimizer.pellucid.waiting = Waiting(arrays, text)
    optimizer.pellucid.written.clear()
    if optimizer.built:
        try:
            arrive(optimizer)
        finally:
            optimizer.pellucid.waiting = None  # whoever loads is told now


def arrive(optimizer: Optimizer) -> None:
    """Load what waits for the build, if anything does; what was set since stays as it was set.

    Raises:
        ValueError: what differs. The load goes on waiting, so that the next build says it again.
    """
    beside = optimizer.pellucid
    waiting = beside.waiting
    if waiting is not None:
        optimizer.before_write()
        arrival = checked(optimizer, waiting.arrays, waiting.text)
        later = [(one, _held(one)) for one in beside.written]
        beside.waiting, beside.written = None, []
        put(optimizer, arrival)
        for setting, value in later:
            setting.set(value, "assignment")
    if beside.arrays is not None:
        beside.arrays.catch_up(told=waiting is not None)


def _held(setting: Setting) -> Any:
    """What a setting was set to."""
    if isinstance(setting, Choice):
        return setting.value
    return setting.number if setting.driver is None else setting.driver


def _text_beside(store: Any) -> Any:
    """The text in the group beside a store's own; None where there is none."""
    path = getattr(store, "_h5_entry_path", None)
    if path is None:  # a dict
        return None
    beside = store.get(f"{path}/{CHILD}" if path else CHILD)
    found = numpy.asarray(beside["0"]).tobytes().decode() if "0" in beside.keys() else None  # noqa: SIM118
    store.get(path)
    return found


def checked(optimizer: Optimizer, arrays: list[Any] | None, text: Any) -> Arrival:
    """What a load will change.

    Args:
        arrays: in the file's order; None: they are restored apart from this.
        text: what stands beside them; None in a file of Keras's own.

    Raises:
        ValueError: what differs.
    """
    if text is None:
        return _checked_foreign(optimizer, arrays or [])
    described = json.loads(text)
    if described.get("format") != FORMAT:
        raise ValueError(
            f"{optimizer.name}: the file has format {described.get('format')!r}; this version of "
            f"pellucid reads format {FORMAT}"
        )
    arrival = Arrival(int(described["updates"]), described=described)
    arrival.journal = Journal.from_list(described["journal"])
    odd: list[str] = []
    arrival.settings = settings_of(optimizer, described, odd)
    if odd:
        raise Difference(optimizer, odd)
    if described["built"]:
        keys: list[Key] = [(kind, index, full) for kind, index, full in described["variables"]]
        _check_keys(optimizer, keys, described, odd)
        if arrays is not None and len(arrays) != len(keys):
            odd.append(f"it has {len(arrays)} arrays and names for {len(keys)}")
        if not odd:
            arrival.slots = {(i, full) for i, full in map(tuple, described["slots"])}
            arrival.arrays = _fitting(optimizer, keys, arrays, odd)
    else:
        _check_fresh(optimizer, odd)
        arrival.slots = _present(optimizer)
    if odd:
        raise Difference(optimizer, odd)
    return arrival


def _present(optimizer: Optimizer) -> set[tuple[int, str]]:
    return {(one.index, full) for one in optimizer.core.parameters for full in one.slots}


def _check_fresh(optimizer: Optimizer, odd: list[str]) -> None:
    """A file from before the first update has no slots: it fits what is as new."""
    if int(on_host(optimizer._iterations)):
        odd.append(
            "it was saved before the optimizer was built, so it has no slots, and this one has "
            "done updates: load it into a new optimizer"
        )


def _check_keys(
    optimizer: Optimizer, keys: list[Key], described: Mapping[str, Any], odd: list[str]
) -> None:
    """Whether a file's arrays are those of this optimizer, with the file's hyperparameters."""
    core, names = optimizer.core, [name for name, _ in described["parameters"]]
    if len(names) != len(core.parameters):
        odd.append(f"it is of {len(names)} parameters, this optimizer of {len(core.parameters)}")
    possible = {
        key
        for parameter in core.parameters
        for full in core.groups[parameter.group].pipeline.slots
        for key in slot_keys(optimizer, [(parameter, full)])
    }
    missing = missing_slots(core, truths_of(optimizer, described), anew=True)
    due = {*slot_keys(optimizer, [(one, full) for one, full, _ in missing])}
    here = {key for key in fixed_keys(optimizer) if key != RATE} | due
    there = {key for key in keys if key != RATE}
    extra = [key for key in keys if key in there - here - possible]
    lacking = [key for key in keys_of(optimizer) if key in here - there]
    lacking += sorted(here - there - {*lacking})
    for text, found in (("only the file has", extra), ("only this optimizer has", lacking)):
        if found:
            odd.append(f"{text} {_listed([name_of(optimizer, key, names) for key in found])}")


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:8])
    return shown if len(names) <= 8 else f"{shown} and {len(names) - 8} more"


def _fitting(
    optimizer: Optimizer, keys: Sequence[Key], arrays: Sequence[Any] | None, odd: list[str]
) -> list[tuple[Key, Any]]:
    """The arrays by key, of their shapes; those of a file that has them elsewhere are None."""
    found = [*zip(keys, [None] * len(keys) if arrays is None else arrays, strict=True)]
    for key, array in found:
        wanted = shape_of(optimizer, key)
        if array is not None and array.shape != wanted:
            odd.append(f"{name_of(optimizer, key)} has shape {array.shape} there, {wanted} here")
    return found


def _checked_foreign(optimizer: Optimizer, arrays: list[Any]) -> Arrival:
    """A file of one of Keras's own optimizers: arrays by position, without names."""
    keys, odd = keys_of(optimizer), list[str]()
    fixed = len([key for key in keys if key in (ITERATION, RATE)])
    if len(arrays) == fixed < len(keys) and not int(arrays[0]):
        _check_fresh(optimizer, odd)  # saved before Keras built it
        keys = keys[:fixed]
    elif len(arrays) != len(keys):
        names = [name_of(optimizer, key) for key in keys]
        odd.append(
            f"it has {len(arrays)} arrays without names, as Keras's own optimizers save them, and "
            f"this optimizer has {len(keys)}: {_listed(names)}"
        )
        if len(arrays) == len(keys) + 1 and RATE not in keys:
            odd.append("here a schedule gives learning_rate; in the file it may be a number")
        elif len(arrays) < len(keys):
            odd.append(f"missing are at least the last, {_listed(names[len(arrays) :])}")
    found = [] if odd else _fitting(optimizer, keys, arrays, odd)
    for key, array in found:
        if key == RATE and array.shape == ():
            rate = optimizer._rate()
            number = float(array)
            if rate is not None and not rate.declared.fits(number):
                odd.append(f"learning_rate is {number}; allowed is {rate.declared.allowed()}")
    if odd:
        raise Difference(optimizer, odd)
    return Arrival(int(arrays[0]), [], _present(optimizer), found)


# -- writing what was checked ------------------------------------------------------------------


def put(optimizer: Optimizer, arrival: Arrival) -> None:
    """Make a checked load happen."""
    rate = optimizer._rate()
    before = None if rate is None else rate.shown()
    _put_history(optimizer, arrival)
    changed = _put_settings(optimizer, arrival.settings)
    changed = _put_slots(optimizer, arrival) or changed
    for key, array in arrival.arrays:
        for variable in targets(optimizer, key) if array is not None else ():
            if isinstance(variable, HyperparameterVariable):
                variable.put(array)
            else:
                variable.assign(array)
    changed = _put_rest(optimizer, arrival) or changed
    for cell in optimizer.core.cells:
        cell.seen = cell.number if cell.driver is None else None
    if changed:
        optimizer.restructured()
    if arrival.described is None and rate is not None and rate.shown() != before:
        optimizer.changed(rate, before, "load", "")


def _put_history(optimizer: Optimizer, arrival: Arrival) -> None:
    updates = arrival.updates // (optimizer.gradient_accumulation_steps or 1)
    if arrival.journal is not None:
        optimizer.journal.load(arrival.journal, updates)
    elif updates < optimizer.updates:
        optimizer.journal.abandon(updates)
    optimizer.core.looked = updates


def _put_settings(optimizer: Optimizer, settings: Sequence[tuple[Setting, Any, Any]]) -> bool:
    """Write values; whether compiled steps have to be made anew."""
    changed = False
    for setting, value, number in settings:
        if isinstance(setting, Choice):
            changed = changed or setting.value != value
            setting.value = value
            continue
        changed = changed or setting.driver is not value
        setting.driver, setting.target = value, None
        setting.variable.put(number)
    optimizer.core.resolve_refs()
    return changed


def _put_slots(optimizer: Optimizer, arrival: Arrival) -> bool:
    """Have just the slots that the file has, and their flags."""
    core = optimizer.core
    present, wanted = _present(optimizer), arrival.slots
    for index, full in sorted(present - wanted):
        optimizer._untrack_variable(core.parameters[index].slots.pop(full))
    for index, full in sorted(wanted - present):
        parameter = core.parameters[index]
        group = core.groups[parameter.group]
        optimizer._make_slot(parameter, full, group.pipeline.slots[full][1])
    optimizer._make_flags()
    return present != wanted


def _put_rest(optimizer: Optimizer, arrival: Arrival) -> bool:
    """What stands beside the arrays; whether compiled steps have to be made anew."""
    core, described = optimizer.core, arrival.described
    if described is None:
        if core.begun is not None and arrival.updates:
            core.begun.assign(numpy.ones(tuple(core.begun.shape), "float32"))
        return False
    if not described["built"]:
        optimizer._iterations.assign(arrival.updates)
    if core.begun is not None:
        flags = numpy.zeros(tuple(core.begun.shape), "float32")
        begun = {(index, full) for index, full in map(tuple, described["begun"])}
        for key, place in core.flags.items():
            flags[place] = float(key in begun)
        core.begun.assign(flags)
    for full, numbers in described["one_for_all"].items():
        for index, number in numbers:
            core.parameters[index].slots[full].assign(number)
    for ordinal, full, number in described["shared"]:
        core.shared[ordinal, full].assign(number)
    optimizer._refused.assign(described["refused"])
    changed: bool = core.seed != described["seed"] or (
        optimizer.use_ema and optimizer.ema_momentum != described["ema_momentum"]
    )
    core.seed = described["seed"]
    optimizer._set("ema_momentum", described["ema_momentum"])
    return changed

