"""LR schedulers of torch and timm: what has to change with a rate so that the change lasts.

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

A scheduler of timm computes every rate from ``base_values`` and keeps no time: whether it warms up
is told by the present rate. There the floor is ``warmup_lr_init``, later it is ``lr_min``.

Around either there may be a wrapper (Accelerate's, Lightning's), that holds it as ``scheduler``.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from pellucid.access.sources import unwrapped
from pellucid.controls import Names
from pellucid.declare import is_scalar_array
from pellucid.ops import is_number

__all__ = [
    "LAST", "Put", "Rated", "check_scheduler", "driven", "kept_rates", "leaves", "new_rates",
    "within",
]  # fmt: skip

RATE, INITIAL, LAST = "lr", "initial_lr", "_last_lr"
BASES = "base_values"  # of timm's schedulers
LISTS = ("base_lrs", "max_lrs", BASES, "restore_lr")
"""Attributes of schedulers that hold a rate for each group."""

GROUP_KEYS = {"OneCycleLR": ("max_lr", "min_lr"), "SWALR": ("swa_lr",)}
"""Further rates that a scheduler keeps in the groups, by its class."""


TIMM_PLAIN = {"cycle_decay": 1.0, "stable_fn": "constant", "noise_range_t": None}
"""With other values, what a scheduler of timm adds to its lower bound is not told by the rate."""


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


def within(scheduler: Any) -> Any:
    """The scheduler inside the wrappers of Accelerate, Lightning and the like."""
    for _ in range(8):
        inner = getattr(scheduler, "scheduler", None)
        if inner is None or hasattr(scheduler, "optimizer"):
            return scheduler
        scheduler = inner
    return scheduler


def driven(scheduler: Any) -> Any:
    """The optimizer that a scheduler drives, without wrappers; None if it names none."""
    return unwrapped(getattr(within(scheduler), "optimizer", None))


def check_scheduler(scheduler: Any, optimizer: Any) -> None:
    """Raise unless this is an LR scheduler of torch or timm that drives this optimizer."""
    inside, own = list(leaves(scheduler)), within(scheduler)
    known = all(
        hasattr(one, "base_lrs") or _is(one, "ReduceLROnPlateau") or _is_timm(one) for one in inside
    )
    if not known or not hasattr(own, "optimizer"):
        raise TypeError(
            f"scheduler is {scheduler!r}; allowed is a scheduler of torch.optim.lr_scheduler or "
            "timm.scheduler that was constructed with this optimizer"
        )
    if driven(own) is not unwrapped(optimizer):
        raise ValueError(
            f"scheduler is a {type(own).__name__} of another optimizer; allowed is the one "
            "that was constructed with this optimizer"
        )
    if _is_timm(own) and own.param_group_field != RATE:
        raise ValueError(
            f"scheduler is a {type(own).__name__} of {own.param_group_field!r}; allowed is one of "
            f"{RATE!r}"
        )


def new_rates(scheduler: Any, controls: Rated, index: int, full: str, value: Any) -> list[Put]:
    """What is to be written beside the new value of the group number ``index``.

    Raises:
        ValueError: a scheduler would overwrite the value, or cannot go on from it.
    """
    scheduler = within(scheduler)
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
        rebased = _rebased_timm if _is_timm(scheduler) else _rebased
        puts += rebased(scheduler, group, index, rates, float(value), where)
    return puts


def kept_rates(scheduler: Any, controls: Rated, index: int, full: str) -> list[Put]:
    """What puts the rates beside a group's value back to what they are now."""
    scheduler = within(scheduler)
    if scheduler is None or not _is_rate(controls, full):
        return []
    last = [(held, index) for held in _last(scheduler, index)]
    places = [*_rates(scheduler, controls.store, index), *last]
    if _is_timm(scheduler) and getattr(scheduler, "warmup_t", 0) > 0:
        places.append((scheduler.warmup_steps, index))
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


def _rebased_timm(
    scheduler: Any, group: Any, index: int, rates: list[tuple[Any, Any]], new: float, where: str
) -> list[Put]:
    scale = _timm_scale(scheduler, group, where)  # of layer decay: base_values are without it
    old, new = float(group[RATE]) / scale, new / scale
    length, base = int(getattr(scheduler, "warmup_t", 0)), float(scheduler.base_values[index])
    begin = float(scheduler.warmup_lr_init) if length else 0.0
    lowest = float(getattr(scheduler, "lr_min", 0.0))
    slope = float(scheduler.warmup_steps[index]) if length else 0.0
    top = begin + slope * length  # where the warm-up leads: in TanhLRScheduler below the base rate
    part = 1.0
    if length and base != lowest and not math.isclose(top, base, rel_tol=1e-9):
        part = (top - lowest) / (base - lowest)
    passed = (old - begin) / slope if slope and math.isfinite(old) else -1.0
    warms = math.isclose(passed, round(passed), abs_tol=1e-6) and 0 <= round(passed) < length
    floor, high = (begin, top) if warms and part != 1 else (begin if warms else lowest, base)
    name = type(scheduler).__name__
    if new < floor:
        bound = f"warmup_lr_init={begin!r}" if warms else f"lr_min={lowest!r}"
        raise ValueError(f"{where} is {new!r}; {name} has {bound}: allowed is no less")
    if old <= floor < high or not math.isfinite(old):
        raise ValueError(
            f"{where} is {old!r} now, the lower end of {name}, so that no factor is known for its "
            "base rate: step the scheduler first, or construct a new one"
        )
    share = (high - floor) / (old - floor) if high > floor else 1.0
    new_high = new if share == 1 else floor + (new - floor) * share
    new_base, new_top = new_high, new_high
    if warms and part != 1:
        new_base = lowest + (new_high - lowest) / part
    elif part != 1:
        new_top = lowest + (new_base - lowest) * part
    noisy = new / old if old else 1.0  # for the rate that comes back when the noise is over
    restored: Any = getattr(scheduler, "restore_lr", None)
    puts = [
        Put(held, key, float(held[key]) * noisy if held is restored else new_base)
        for held, key in rates
    ]
    steps = [Put(scheduler.warmup_steps, index, (new_top - begin) / length)] if length else []
    return puts + steps


def _timm_scale(scheduler: Any, group: Any, where: str) -> float:
    """The group's ``lr_scale``; an error if its rate does not show the base rate."""
    scale = float(group.get("lr_scale", 1.0))
    if scale == 0:
        raise ValueError(f"{where}: the group's lr_scale is 0, so that no rate but 0 can last")
    begin = getattr(scheduler, "warmup_lr_init", 0) if getattr(scheduler, "warmup_t", 0) > 0 else 0
    if begin or getattr(scheduler, "lr_min", 0) > 0:
        for key, plain in TIMM_PLAIN.items():
            if (value := getattr(scheduler, key, plain)) != plain:
                raise ValueError(
                    f"{where}: {type(scheduler).__name__} with {key}={value!r} and a lower bound "
                    "(lr_min, warmup_lr_init) does not show its base rate, so that it cannot go on "
                    "from another one: construct a new one"
                )
    return scale


def _rates(scheduler: Any, group: Any, index: int) -> Iterator[tuple[Any, Any]]:
    """Where the scheduler has rates of a group beside ``lr``: in the group, in its own lists."""
    inside = list(leaves(scheduler))
    keys = [INITIAL, *(k for name, own in GROUP_KEYS.items() for k in own if _any(inside, name))]
    yield from ((group, key) for key in keys if key in group)
    for leaf in inside:
        for attribute in LISTS:
            held = getattr(leaf, attribute, None) or ()
            if index < len(held):
                yield held, index


def _last(scheduler: Any, index: int) -> Iterator[Any]:
    """Lists of the rates that `get_last_lr` gives."""
    for one in (scheduler, *leaves(scheduler)):
        held = getattr(one, LAST, ())
        if index < len(held):
            yield held


def leaves(scheduler: Any) -> Iterator[Any]:
    """The schedulers inside SequentialLR, ChainedScheduler and wrappers, or the one itself."""
    scheduler = within(scheduler)
    inner = getattr(scheduler, "_schedulers", None)
    if inner is None:
        yield scheduler
        if _is_timm(scheduler) and hasattr(scheduler, "lr_scheduler"):
            yield scheduler.lr_scheduler  # of torch, inside PlateauLRScheduler
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


def _is_timm(scheduler: Any) -> bool:
    return isinstance(getattr(scheduler, BASES, None), list) and hasattr(
        scheduler, "param_group_field"
    )


def _is(scheduler: Any, name: str) -> bool:
    return any(base.__name__ == name for base in type(scheduler).__mro__)


def _any(inside: list[Any], name: str) -> bool:
    return any(_is(leaf, name) for leaf in inside)


def _has(scheduler: Any, attribute: str) -> bool:
    return any(hasattr(leaf, attribute) for leaf in leaves(scheduler))
