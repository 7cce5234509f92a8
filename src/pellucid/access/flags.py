"""What the statistics of a step say is wrong, in plain words."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from pellucid.access.sources import Cell, Group, Owner
from pellucid.access.statistics import Flag, ParameterStatistics
from pellucid.fuse.measure import Change, Squares

__all__ = ["Looked", "count_of", "flags_of", "value_of"]

LARGEST_RATIO = 0.3
"""Of the update to the parameter, both as root mean squares, in one update.

Healthy runs stay below 0.15, their first steps included; 100 times a usual rate is above 0.35.
"""


@dataclass
class Looked:
    """A parameter, while it is measured."""

    owner: Owner
    row: ParameterStatistics
    group: Group | None
    array: Any
    grad: Any
    cells: Sequence[Cell]
    parameter: Squares | Change | None = None
    gradient: Squares | None = None
    slots: dict[str, Squares] = field(default_factory=dict)
    rate: tuple[float, float, float] | None = None  # learning rate, epsilon, correction
    second: str = ""  # the slot that the rate is divided by the root of

    @property
    def state(self) -> bool:
        """Whether it has any."""
        return any(cell.value is not None for cell in self.cells)


def flags_of(ones: Sequence[Looked], updates: int, inside: int | None) -> Iterator[Flag]:
    moved = [one for one in ones if one.row.update_norm]
    active = [one for one in ones if one.state or one.grad is not None]
    for one in ones:
        label, row = one.owner.label, one.row
        if row.nonfinite:
            yield Flag("nonfinite", label, _nonfinite_text(row))
        if not row.numbers:
            continue
        others = any(other is not one for other in moved)
        if text := _rate_text(one, inside):
            yield Flag("rate", label, text)
        elif updates and any(other is not one for other in active) and _unused(one):
            yield Flag(
                "unused",
                label,
                f"after {updates} update{'s' * (updates != 1)} it has neither a gradient nor "
                "state: the loss does not depend on it; use it in the model, or leave it out of "
                "the optimizer",
            )
        elif text := _frozen_text(one, updates, others):
            yield Flag("frozen", label, text)


def _nonfinite_text(row: ParameterStatistics) -> str:
    found = ", ".join(
        f"{count:,} of {row.numbers:,} in {where if where in row.slots else f'the {where}'}"
        for where, count in row.nonfinite.items()
    )
    return (
        f"NaN or infinite: {found}. Go back to a checkpoint before it; a lower learning rate, "
        "clip_by_global_norm or skip_nonfinite avoids it"
    )


def _unused(one: Looked) -> bool:
    return not one.state and one.grad is None and not one.row.update_norm and _trainable(one)


def _trainable(one: Looked) -> bool:
    return bool(getattr(one.array, "requires_grad", True))


def _frozen_text(one: Looked, updates: int, others: bool) -> str:
    """Why a parameter is no longer trained, or nothing."""
    row = one.row
    if not _trainable(one):
        return (
            "frozen: requires_grad is False; set it to True, or leave the parameter out of the "
            "optimizer"
        )
    # A layer behind one that starts at zero gets its first gradient by the second update.
    known = row.grad_missing or bool(row.grad_norm) or updates > 1
    if row.update_norm == 0 and others and known:
        return f"frozen: it did not change though others did, since {_why_still(one)}"
    trained = any(name in row.slots and row.slots[name] for name in row.slots)
    if row.update_norm is not None and row.grad_norm == 0 and updates > 1 and not trained:
        return "frozen: its gradient is zero; look for a detach(), a dead unit or an unused path"
    return ""


def _why_still(one: Looked) -> str:
    row, rate = one.row, value_of(one.group, "learning_rate")
    if row.grad_missing:
        return "it has no gradient: look for a detach() or an unused path"
    if row.grad_norm == 0:
        return "its gradient is zero: look for a detach(), a dead unit or an unused path"
    if rate == 0:
        return f"the learning rate of {row.group!r} is 0"
    return f"its updates are below the rounding of {row.dtype}: use a higher rate or wider numbers"


def _rate_text(one: Looked, inside: int | None) -> str:
    """That an update was too large for its parameter, or nothing.

    The scale is the parameter's root mean square, but at least half of that of a matrix of its
    size which keeps the size of what it multiplies, about numbers ** -1/4: so zero-initialised
    parameters may grow, and biases move.
    """
    found, row = one.parameter, one.row
    if not isinstance(found, Change) or inside is None or inside < 1:
        return ""
    if not (math.isfinite(found.update_norm) and math.isfinite(found.old_norm)):
        return ""
    root = math.sqrt(row.numbers)
    moved = found.update_norm / root / inside
    scale = max(found.old_norm / root, 0.5 * row.numbers**-0.25)
    if moved <= LARGEST_RATIO * scale:
        return ""
    rate = value_of(one.group, "learning_rate")
    now = "" if rate is None else f" (now {rate:.6g})"
    return (
        f"an update moved its numbers by {moved:.3g}, which is {moved / scale:.0%} of their size "
        f"(usual is below {LARGEST_RATIO:.0%}): lower the learning rate of {row.group!r}{now}, "
        "warm it up, or clip gradients"
    )


def count_of(value: Any) -> float | None:
    with suppress(Exception):
        number = float(value)
        return number if math.isfinite(number) else None
    return None


def value_of(group: Group | None, full: str) -> float | None:
    """A hyperparameter's number, where there is one."""
    with suppress(Exception):
        if group is not None and full in group.names.places:
            value = group.value(full)
            return None if isinstance(value, bool) else count_of(value)
    return None
