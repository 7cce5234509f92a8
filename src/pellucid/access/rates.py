"""Torch's LR schedulers: what has to change with a learning rate so that the change lasts.

A scheduler of `torch.optim.lr_scheduler` computes the next rate from the group's present ``lr``
(StepLR, ExponentialLR, CosineAnnealingLR, ...) or from base rates of its own (LambdaLR,
CosineAnnealingWarmRestarts, CyclicLR, every closed form), and some read further keys of the group
(OneCycleLR, SWALR). All of these are rates, so one rule serves all: the written value is the rate
of the next update, and every other rate is scaled by what takes the old base to the new one:

    new base = floor + (base - floor) (new rate - floor) / (present rate - floor)

where the floor is the cosine's ``eta_min``, else 0. From then on the scheduler goes on as if it had
begun with the new base. Where the present rate is at the floor there is nothing to scale: the base
becomes the new rate, and the next step of the scheduler applies its factor to that.

Absolute bounds (``eta_min``, ReduceLROnPlateau's ``min_lrs``) stay. Nothing here imports torch.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from pellucid.controls import Names
from pellucid.declare import is_scalar_array
from pellucid.ops import is_number

__all__ = ["LAST", "Put", "Rated", "check_scheduler", "kept_rates", "leaves", "new_rates"]

RATE, INITIAL, LAST = "lr", "initial_lr", "_last_lr"
LISTS = ("base_lrs", "max_lrs")
"""Attributes of schedulers that hold a rate for each group."""

GROUP_KEYS = {"OneCycleLR": ("max_lr", "min_lr"), "SWALR": ("swa_lr",)}
"""Further rates that a scheduler keeps in the groups, by its class."""


class Rated(Protocol):
    """A group, as its rates are found and named."""

    @property
    def names(self) -> Names: ...

    @property
    def store(self) -> Any:
        """The framework's dict."""

    def where(self, full: str) -> str:
        """How errors name a value."""

    def scheduled(self, full: str) -> bool:
        """Whether a scheduler of the framework drives a value."""


@dataclass(frozen=True)
class Put:
    """A number that is to stand in a list or a dict; a tensor there stays the same tensor."""

    holder: Any
    key: Any
    number: float

    def __call__(self) -> None:
        held = self.holder[self.key]
        if hasattr(held, "fill_"):
            held.fill_(self.number)
        else:
            self.holder[self.key] = self.number


def check_scheduler(scheduler: Any, optimizer: Any) -> None:
    """Raise unless this is an LR scheduler of torch that drives this optimizer."""
    inside = list(leaves(scheduler))
    known = all(hasattr(one, "base_lrs") or _is(one, "ReduceLROnPlateau") for one in inside)
    if not known or not hasattr(scheduler, "optimizer"):
        raise TypeError(
            f"scheduler is {scheduler!r}; allowed is a scheduler of torch.optim.lr_scheduler "
            "that was constructed with this optimizer"
        )
    if scheduler.optimizer is not optimizer:
        raise ValueError(
            f"scheduler is a {type(scheduler).__name__} of another optimizer; allowed is the one "
            "that was constructed with this optimizer"
        )


def new_rates(scheduler: Any, controls: Rated, index: int, full: str, value: Any) -> list[Put]:
    """What is to be written beside the new value of the group number ``index``.

    Raises:
        ValueError: a scheduler would overwrite the value, or cannot go on from it.
    """
    group, where = controls.store, controls.where(full)
    if not _is_rate(controls, full):
        if controls.scheduled(full):
            raise ValueError(
                f"{where} is cycled by an LR scheduler between the group's 'base_momentum' and "
                "'max_momentum', which would overwrite the change: construct the scheduler with "
                "other bounds or cycle_momentum=False (or delete both keys, if none is at work)"
            )
        return []
    if scheduler is None:
        if controls.scheduled(full):
            raise ValueError(
                f"{where} is driven by an LR scheduler (the group has 'initial_lr'), which would "
                "overwrite the change: use pellucid.view(optimizer, scheduler=...), which changes "
                "its base rate too (or delete the key 'initial_lr', if none is at work)"
            )
        return []
    if not is_number(value) and not is_scalar_array(value):
        raise ValueError(
            f"{where} is driven by {type(scheduler).__name__}; allowed is a number, got {value!r}: "
            "two schedules would overwrite each other"
        )
    rates = list(_rates(scheduler, group, index))
    if controls.scheduled(full) and all(holder is group for holder, _ in rates):
        raise ValueError(
            f"{where}: {type(scheduler).__name__} has no base rate for this group, so another "
            "scheduler drives it ('initial_lr' is there): give that one as scheduler="
        )
    puts = [Put(holder, index, float(value)) for holder in _last(scheduler, index)]
    if float(value) != float(group[RATE]):
        puts += _rebased(scheduler, group, index, rates, float(value), where)
    return puts


def kept_rates(scheduler: Any, controls: Rated, index: int, full: str) -> list[Put]:
    """What puts the rates beside a group's value back to what they are now."""
    if scheduler is None or not _is_rate(controls, full):
        return []
    last = [(held, index) for held in _last(scheduler, index)]
    places = [*_rates(scheduler, controls.store, index), *last]
    return [Put(holder, key, float(holder[key])) for holder, key in places]


def _rebased(
    scheduler: Any, group: Any, index: int, rates: list[tuple[Any, Any]], new: float, where: str
) -> list[Put]:
    old, active = float(group[RATE]), _active(scheduler)
    floor = float(getattr(active, "eta_min", 0.0))
    name = type(scheduler).__name__
    if new < floor:
        raise ValueError(
            f"{where} is {new!r}; {name} goes down to eta_min={floor!r}: allowed is no less"
        )
    if not (math.isfinite(old) and old > floor):
        if any(key not in (INITIAL, index) for _, key in rates) or _has(scheduler, "max_lrs"):
            raise ValueError(
                f"{where} is {old!r} now, the lower end of {name}, so that no factor is known for "
                "its other rates: step the scheduler first, or change its rates yourself"
            )
        return [Put(holder, key, new) for holder, key in rates]
    bases = getattr(active, "base_lrs", ())
    base = float(bases[index]) if index < len(bases) else 0.0
    if base > floor:
        share = (base - floor) / (old - floor)
        new_base = new if share == 1 else floor + (new - floor) * share
    else:
        base, new_base = old, new
    puts = []
    for holder, key in rates:
        rate = float(holder[key])
        puts.append(Put(holder, key, new_base if rate == base else rate * (new_base / base)))
    return puts


def _rates(scheduler: Any, group: Any, index: int) -> Iterator[tuple[Any, Any]]:
    """Where the scheduler has rates of a group beside ``lr``: in the group, in its own lists."""
    inside = list(leaves(scheduler))
    keys = [INITIAL, *(k for name, own in GROUP_KEYS.items() for k in own if _any(inside, name))]
    yield from ((group, key) for key in keys if key in group)
    for leaf in inside:
        for attribute in LISTS:
            held = getattr(leaf, attribute, ())
            if index < len(held):
                yield held, index


def _last(scheduler: Any, index: int) -> Iterator[Any]:
    """Lists of the rates that `get_last_lr` gives."""
    for one in (scheduler, *leaves(scheduler)):
        held = getattr(one, LAST, ())
        if index < len(held):
            yield held


def leaves(scheduler: Any) -> Iterator[Any]:
    """The schedulers inside SequentialLR and ChainedScheduler, or the one itself."""
    inner = getattr(scheduler, "_schedulers", None)
    if inner is None:
        yield scheduler
    else:
        for one in inner:
            yield from leaves(one)


def _active(scheduler: Any) -> Any:
    """The one scheduler that now decides the rate; None where several do."""
    inner = getattr(scheduler, "_schedulers", None)
    if inner is None:
        return scheduler
    if hasattr(scheduler, "_milestones"):
        return _active(inner[bisect_right(scheduler._milestones, scheduler.last_epoch)])
    return None


def _is_rate(controls: Rated, full: str) -> bool:
    return controls.names.places[full].key == RATE


def _is(scheduler: Any, name: str) -> bool:
    return any(base.__name__ == name for base in type(scheduler).__mro__)


def _any(inside: list[Any], name: str) -> bool:
    return any(_is(leaf, name) for leaf in inside)


def _has(scheduler: Any, attribute: str) -> bool:
    return any(hasattr(leaf, attribute) for leaf in leaves(scheduler))
