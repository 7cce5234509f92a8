"""Which slots there are, in which order, and what a new one is filled with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pellucid.declare import Ref, Slot
from pellucid.fuse.engine import slot_kind, slot_shape
from pellucid.fuse.trace import traced_init
from pellucid.keras.names import layout_of

if TYPE_CHECKING:
    from pellucid.keras.core import Core, Group, Parameter

__all__ = [
    "asking_flags", "begins_at", "decides_slots", "first_value", "missing_slots", "ordered_slots",
    "shape_of_slot", "undecided_slots",
]  # fmt: skip


def decides_slots(core: Core, full: str) -> bool:
    """Whether a hyperparameter is asked about when slots are made."""
    return any(
        _asked(group, slot) == full for group in core.branches
        for slot in group.pipeline.slots
    )  # fmt: skip


def undecided_slots(core: Core, full: str) -> bool:
    """Whether there are slots that some number of a hyperparameter would call for."""
    truths = [
        {**dict.fromkeys(group.cells), **{f: one.value for f, one in group.choices.items()}}
        for group in core.groups
    ]
    return any(
        _asked(core.groups[parameter.group], slot) == full
        for parameter, slot, _ in missing_slots(core, truths)
    )


def _asked(group: Group, slot: str) -> str | None:
    """The full name of what decides whether a slot exists."""
    stage, declared = group.pipeline.slots[slot]
    if declared.when is None:
        return None
    return group.pipeline.full(stage, declared.when.name)


def missing_slots(
    core: Core, truths: Sequence[Mapping[str, Any]] | None = None, anew: bool = False
) -> list[tuple[Parameter, str, Slot]]:
    """Slots that should exist and do not, in the order in which Keras creates its own.

    Args:
        truths: of each group, other values than the present ones; see `Group.truth`.
        anew: as if there were no slots.
    """
    found: list[tuple[Parameter, str, Slot]] = []
    truths = [group.truth() for group in core.groups] if truths is None else truths
    layouts: list[list[tuple[str, ...]]] = []
    for group in core.groups:
        layouts.append([*layout_of(group.pipeline)])
    depth = max(map(len, layouts), default=0)
    for place in range(depth):
        for parameter in core.parameters:
            layout = layouts[parameter.group]
            for full in layout[place] if place < len(layout) else ():
                stage, declared = core.groups[parameter.group].pipeline.slots[full]
                if declared.scope == "optimizer" or (full in parameter.slots and not anew):
                    continue
                pipeline = core.groups[parameter.group].pipeline
                own = {
                    name: truths[parameter.group][pipeline.full(stage, name)]
                    for name in stage.declared.arguments
                }
                if declared.present(own):
                    found.append((parameter, full, declared))
    return found


def ordered_slots(core: Core) -> list[tuple[Parameter, str, Any]]:
    """All slots that exist, in the order in which Keras creates its own."""
    order = missing_slots(core, anew=True)
    known = {(one.index, full) for one, full, _ in order}
    listed = [
        (one, full, one.slots[full]) for one, full, _ in order if full in one.slots
    ]
    late = [
        (one, full, variable)
        for one in core.parameters
        for full, variable in one.slots.items()
        if (one.index, full) not in known
    ]
    return [*listed, *late]


def shape_of_slot(parameter: Parameter, full: str, declared: Slot) -> tuple[int, ...]:
    where = f"slot {full!r} of {parameter.name!r}"
    return slot_shape(slot_kind(declared, parameter.shape, where), parameter.shape)


def first_value(core: Core, parameter: Parameter, full: str, declared: Slot) -> float:
    """What a new slot is filled with; its first update may put something else in its place."""
    if traced_init(declared):
        return 0.0
    target = begins_at(core, parameter, full)
    if target is not None:
        return core.groups[parameter.group].cells[target].at(core.optimizer.updates)
    return float(declared.init)


def asking_flags(core: Core) -> list[tuple[int, str]]:
    """(parameter, slot) whose program asks whether the slot is new."""
    return [
        (parameter.index, full)
        for parameter in core.parameters
        for made in (core.program(parameter, frozenset()),)
        for full in parameter.slots
        if made.asks_new(full) or begins_at(core, parameter, full) is not None
    ]


def begins_at(core: Core, parameter: Parameter, full: str) -> str | None:
    """The hyperparameter whose value a slot has before its first update, by full name."""
    pipeline = core.groups[parameter.group].pipeline
    stage, declared = pipeline.slots[full]
    if not isinstance(declared.init, Ref):
        return None
    return pipeline.resolve(stage, declared.init.name)
