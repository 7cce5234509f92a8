"""An optimizer's part of Keras's files, and what Keras has no place for beside it.

The arrays lie as Keras lays those of its own optimizers, by position: iteration, learning_rate
unless a schedule gives it, averages, gradient accumulators, slots. So its files load here, and ours
there where the slots are the same. What else there is stands in one text beside them, which Keras
leaves alone: hyperparameters as they are now, schedules, groups, names, the journal. A load is
checked whole before anything changes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import ref

import numpy
from keras.src.saving.keras_saveable import KerasSaveable

from pellucid.keras.core import Parameter
from pellucid.keras.described import description, one_for_all
from pellucid.keras.host_values import on_host
from pellucid.keras.slots import ordered_slots, shape_of_slot

if TYPE_CHECKING:
    from pellucid.keras.optimizer import Optimizer

__all__ = [
    "CHILD",
    "ITERATION",
    "RATE",
    "Beside",
    "Key",
    "Waiting",
    "fixed_keys",
    "keys_of",
    "name_of",
    "save",
    "shape_of",
    "slot_keys",
    "targets",
    "text_of",
    "value_of",
]

CHILD = "pellucid"
"""The attribute of an optimizer, and so the group of a file, that has the text."""

Key = tuple[str, int, str]
"""One array of a file: what it is, the parameter's index (-1: none), the slot's full name."""

ITERATION: Key = ("iteration", -1, "")
RATE: Key = ("learning_rate", -1, "")


# -- what is in a file -----------------------------------------------------------------------


def keys_of(optimizer: Optimizer) -> list[Key]:
    """What an optimizer's arrays in a file are, in their order."""
    if not optimizer.built:
        return fixed_keys(optimizer)
    slots = [(one, full) for one, full, _ in ordered_slots(optimizer.core)]
    return [*fixed_keys(optimizer), *slot_keys(optimizer, slots)]


def fixed_keys(optimizer: Optimizer) -> list[Key]:
    """What is no slot: Keras's own variables."""
    rate = optimizer._rate()
    keys = [ITERATION] if rate is not None and rate.driver is not None else [ITERATION, RATE]
    if optimizer.built:
        for kind, listed in _kept(optimizer).items():
            keys += [(kind, index, "") for index, one in enumerate(listed) if one is not None]
    return keys


def _kept(optimizer: Optimizer) -> dict[str, Sequence[Any]]:
    found: dict[str, Sequence[Any]] = {}
    if optimizer.use_ema:
        found["average"] = optimizer._model_variables_moving_average
    if optimizer.gradient_accumulation_steps:
        found["accumulator"] = optimizer._accumulated_gradients
    return found


def slot_keys(optimizer: Optimizer, slots: Sequence[tuple[Parameter, str]]) -> list[Key]:
    """The keys of slots; of those that Keras has once for all parameters, one."""
    keys: dict[Key, None] = {}
    for parameter, full in slots:
        group = optimizer.core.groups[parameter.group]
        once = full in one_for_all(group.pipeline)
        keys["one" if once else "slot", -1 if once else parameter.index, full] = None
    return [*keys]


def targets(optimizer: Optimizer, key: Key) -> list[Any]:
    """The Variables that an array of a file is the value of."""
    kind, index, full = key
    if kind in ("iteration", "learning_rate"):
        return [optimizer._iterations if kind == "iteration" else optimizer._learning_rate]
    if kind == "slot":
        return [optimizer.core.parameters[index].slots[full]]
    if kind == "one":
        return [one.slots[full] for one in optimizer.core.parameters if full in one.slots]
    return [_kept(optimizer)[kind][index]]


def shape_of(optimizer: Optimizer, key: Key) -> tuple[int, ...]:
    kind, index, full = key
    if kind != "slot":
        return () if index < 0 else optimizer.core.parameters[index].shape
    parameter = optimizer.core.parameters[index]
    _, declared = optimizer.core.groups[parameter.group].pipeline.slots[full]
    return shape_of_slot(parameter, full, declared)


def name_of(optimizer: Optimizer, key: Key, parameters: Sequence[str] = ()) -> str:
    """How an error calls an array; of a parameter that is not here, as its file does."""
    kind, index, full = key
    if index < 0:
        return full or kind
    own = optimizer.core.parameters
    path = own[index].name if index < len(own) else parameters[index]
    if kind != "slot":
        return f"{path}/{kind}"
    if index >= len(own):
        return f"{path}/{full}"
    return f"{path}/{optimizer.core.groups[own[index].group].names.slots.get(full, full)}"


# -- saving ----------------------------------------------------------------------------------


def save(optimizer: Optimizer, store: Any) -> None:
    """Write the arrays into a store of Keras's."""
    optimizer.before_write()
    for place, key in enumerate(keys_of(optimizer)):
        store[str(place)] = value_of(optimizer, key)


def value_of(optimizer: Optimizer, key: Key) -> Any:
    """An array of a file. Of slots that Keras has once: that of the most updates."""
    found = [on_host(one) for one in targets(optimizer, key)]
    return min(found, key=float) if key[0] == "one" else found[0]


@dataclass(frozen=True)
class Waiting:
    """What was read before the optimizer was built."""

    arrays: list[Any] | None  # None: they are restored apart from this
    text: Any


class Beside(KerasSaveable):  # type: ignore[misc]
    """Has Keras write the text beside an optimizer's arrays; `load` reads it with them."""

    def __init__(self, optimizer: Optimizer) -> None:
        self._optimizer = ref(optimizer)
        self.waiting: Waiting | None = None
        self.written: list[Any] = []  # settings that were written while a load waits
        self.arrays: Any = None  # what TensorFlow's checkpoints find

    def _obj_type(self) -> str:
        return "Loss"  # one of the kinds that Keras knows: which attributes it looks at

    def save_own_variables(self, store: Any) -> None:
        """Write the text, as bytes."""
        optimizer = self._optimizer()
        assert optimizer is not None
        store["0"] = numpy.frombuffer(text_of(optimizer).encode(), numpy.uint8)

    def load_own_variables(self, store: Any) -> None:
        """The optimizer itself has read the text: arrays and text are checked together."""


def text_of(optimizer: Optimizer) -> str:
    """All that is no array, as JSON."""
    optimizer.before_write()
    return json.dumps(description(optimizer, keys_of(optimizer)))
