"""Groups of a built optimizer change: one gets a value of its own, shares one again, is split.

Variables come and go with it, so a running trainer hands its state over first, and compiled steps
are made anew. An error leaves the groups as they were.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pellucid.keras.host_values import on_host
from pellucid.keras.hyper_variable import HyperparameterVariable
from pellucid.keras.hypers import Hyperparameter
from pellucid.keras.journal import begin_group, changed, look
from pellucid.keras.tracing import outside_of_graphs
from pellucid.keras.tracking import keep_only

if TYPE_CHECKING:
    from pellucid.keras.core import Group, Setting
    from pellucid.keras.optimizer import Optimizer

__all__ = ["own_value", "share", "split"]


def own_value(
    optimizer: Optimizer, group: Group, full: str, value: Any, source: str, reason: str = ""
) -> None:
    """Give a group a value of its own; others that shared the old one keep that.

    Raises:
        HyperparameterError: the value is not allowed.
    """
    look(optimizer)
    old = group.setting(full).shown()
    with _changing(optimizer, f"{group.label}/{full} is its own"):
        optimizer.core.override(group, full, value)
        optimizer.core.resolve_refs()
        made = group.setting(full)
        if isinstance(made, Hyperparameter) and made.driver is not None:
            made.variable.put(made.at(optimizer.updates))
    changed(optimizer, made, old, source, reason, [group])


def share(
    optimizer: Optimizer, group: Group, setting: Setting, source: str, reason: str = ""
) -> None:
    """Let a group have a setting that others have, in the place of its own."""
    look(optimizer)
    old = group.setting(setting.full).shown()
    with _changing(optimizer, f"{group.label}/{setting.full} is shared"):
        if isinstance(setting, Hyperparameter):
            group.cells[setting.full] = setting
        else:
            group.choices[setting.full] = setting
    changed(optimizer, setting, old, source, reason, [group])


def split(optimizer: Optimizer, group: Group, members: Iterable[int], label: str) -> None:
    """Move parameters of a group into a last one with equal values.

    What the group shares with others the new one shares, too; what it has for itself, the new one
    has for itself.
    """
    look(optimizer)
    with _changing(optimizer, f"{label} is a group"):
        made = optimizer.core.split(group, members, label)
    begin_group(optimizer, made)


@contextmanager
def _changing(optimizer: Optimizer, what: str) -> Iterator[None]:
    """Change the groups inside; Variables follow. An error puts all back."""
    optimizer.before_write()
    core = optimizer.core
    cells, place = core.cells, int(on_host(optimizer._refused))
    refused = cells[place - 1] if 0 < place <= len(cells) else None
    kept = [
        (one, {**one.cells}, {**one.choices}, [*one.members])
        for one in [*core.branches, *core.groups]
    ]
    groups, owners, parts = [*core.groups], [p.group for p in core.parameters], {**core.parts}
    try:
        with outside_of_graphs():
            yield
            _follow(optimizer)
        optimizer.restructured(what)
    except BaseException:
        for one, own, choices, members in kept:
            one.cells, one.choices, one.members = own, choices, members
        core.groups, core.parts = groups, parts
        for parameter, owner in zip(core.parameters, owners, strict=True):
            parameter.group = owner
        core.resolve_refs()
        _follow(optimizer)
        raise
    if refused is not None:  # it is known by its place
        now = [n for n, cell in enumerate(core.cells, 1) if cell is refused]
        optimizer._refused.assign(now[0] if now else 0)


def _follow(optimizer: Optimizer) -> None:
    """Have the optimizer's Variables be those of its present hyperparameters."""
    cells, known = optimizer.core.cells, {id(variable) for variable in optimizer._variables}
    present = {id(cell.variable) for cell in cells}
    kept = [
        one
        for one in optimizer._variables
        if not isinstance(one, HyperparameterVariable) or id(one) in present
    ]
    if len(kept) < len(known):
        keep_only(optimizer, kept)
    for cell in cells:
        if id(cell.variable) not in known:
            optimizer._track_variable(cell.variable)
