"""What the statistics of a step say is wrong, in plain words."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from pellucid.access.sources import Cell, Group, Owner
from pellucid.access.statistics import Flag, ParameterStatistics
from pellucid.fuse.measure import Change, Squares

__all__ = ["Looked", "count_of", "flags_of", "value_of"]

EARLY = 10
"""First updates: in them moments are still short, and most of what is unused shows only later."""
EARLY_FACTOR = 10
"""By which `LARGEST_RATIO` is larger in them: without a correction RMSprop begins 10 times high."""
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
    source: object = None  # the optimizer that updates it: one of several
    updates: int = 0  # of that optimizer; at least those inside the block
    inside: int | None = None  # the measured block, as far as known; None without one
    rates: tuple[float, ...] = ()  # the learning rate before the block and after it
    parameter: Squares | Change | None = None
    gradient: Squares | None = None
    slots: dict[str, Squares] = field(default_factory=dict)
    rate: tuple[float, float, float] | None = None  # learning rate, epsilon, correction
    second: str = ""  # the slot that the rate is divided by the root of

    @property
    def state(self) -> bool:
        """Whether it has any."""
        return any(cell.value is not None for cell in self.cells)

    @property
    def trainable(self) -> bool:
        return bool(getattr(self.array, "requires_grad", True))

    @property
    def warming(self) -> bool:
        """Whether a schedule or scheduler holds the learning rate at 0."""
        if self.group is None or 0.0 not in self.rates:
            return False
        with suppress(Exception):
            driver = self.group.driver("learning_rate")
            return driver is not None or bool(self.group.scheduler("learning_rate"))
        return False


def flags_of(ones: Sequence[Looked]) -> Iterator[Flag]:
    for one in ones:
        label, row = one.owner.label, one.row
        if row.nonfinite:
            yield Flag("nonfinite", label, _nonfinite_text(row))
        if not row.numbers or one.warming:
            continue
        siblings = [other for other in ones if other.source is one.source and other is not one]
        if text := _rate_text(one):
            yield Flag("rate", label, text)
        elif _unused(one, siblings):
            yield Flag(
                "unused",
                label,
                f"after {one.updates} updates it has neither a gradient nor state: the loss does "
                "not depend on it; use it in the model, or leave it out of the optimizer",
            )
        elif one.trainable and (text := _frozen_text(one, siblings)):
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


def _unused(one: Looked, siblings: Sequence[Looked]) -> bool:
    """Whether it never had a gradient: it lacks the state that others have by theirs."""
    idle = not one.state and one.grad is None and not one.row.update_norm
    known = one.updates >= EARLY and any(other.state for other in siblings)
    return idle and known and one.trainable


def _frozen_text(one: Looked, siblings: Sequence[Looked]) -> str:
    """Why a parameter is no longer trained although its optimizer made an update, or nothing."""
    row = one.row
    if not one.inside or row.update_norm is None or row.grad_missing:
        return ""  # another branch may have had the gradient this time
    # A layer behind one that starts at zero gets its first gradient by the second update.
    if not (row.grad_norm or one.updates > 1):
        return ""
    still = row.update_norm == 0 and any(other.row.update_norm for other in siblings)
    if still and (why := _why_still(one)):
        return f"frozen: it did not change though others did, since {why}"
    if row.grad_norm == 0 and not any(row.slots.values()):
        return "frozen: its gradient is zero; look for a detach(), a dead unit or an unused path"
    return ""


def _why_still(one: Looked) -> str:
    row = one.row
    if row.grad_norm == 0:
        if any(row.slots.values()):
            return ""
        return "its gradient is zero: look for a detach(), a dead unit or an unused path"
    if one.rates and not any(one.rates):
        return f"the learning rate of {row.group!r} is 0"
    if row.grad_norm and _below_rounding(one):
        return (
            f"its updates are below the rounding of {row.dtype}: use a higher rate or wider numbers"
        )
    return ""


def _below_rounding(one: Looked) -> bool:
    """Whether an update of the learning rate's size is lost in numbers of this size."""
    row, rule = one.row, "" if one.group is None else one.group.rule.lower()
    if "rprop" in rule or not one.rates or not row.norm or row.grad_norm is None:
        return False  # Rprop leaves out numbers whose gradient changes its sign
    size = row.norm / math.sqrt(row.numbers)
    step = max(one.rates) * (row.grad_norm if rule == "sgd" else max(1.0, row.grad_norm))
    with suppress(Exception):
        library = sys.modules[type(one.array).__module__.partition(".")[0]]
        if not hasattr(library, "finfo"):  # a subclass of somebody's
            library = sys.modules["torch"]
        spacing = float(library.finfo(one.array.dtype).eps) * 2.0 ** math.floor(math.log2(size))
        return step < spacing
    return False


def _rate_text(one: Looked) -> str:
    """That an update was too large for its parameter, or nothing.

    The scale is the parameter's root mean square, but at least half of that of a matrix of its
    size which keeps the size of what it multiplies, about numbers ** -1/4: so zero-initialised
    parameters may grow, and biases move.
    """
    found, row, inside = one.parameter, one.row, one.inside
    if not isinstance(found, Change) or not inside:
        return ""
    if not (math.isfinite(found.update_norm) and math.isfinite(found.old_norm)):
        return ""
    root = math.sqrt(row.numbers)
    moved = found.update_norm / root / inside
    scale = max(found.old_norm / root, 0.5 * row.numbers**-0.25)
    early = one.updates - inside < EARLY
    if moved <= LARGEST_RATIO * scale * (EARLY_FACTOR if early else 1):
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
