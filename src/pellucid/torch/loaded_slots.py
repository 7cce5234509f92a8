"""What each parameter takes of a file's state: checked, moved to its device, of the file's type."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any

import torch

from pellucid.compose import Pipeline
from pellucid.fuse.engine import DTYPES, Entry, slot_kind, slot_shape
from pellucid.rules import CATALOGUE
from pellucid.storage import CLOCK, COMPENSATION, SEEN, slot_dtype
from pellucid.torch.checks import check_memory
from pellucid.torch.files import SavedGroup, SavedParameter, quoted
from pellucid.torch.names import STEPS, names_of, rule_names

if TYPE_CHECKING:
    from pellucid.torch.grouped import Grouped

__all__ = ["Taken", "slots_of_rules", "take_slots"]

META = torch.device("meta")


@dataclass
class Taken:
    """What a parameter takes."""

    slots: dict[str, Any] = field(default_factory=dict)
    dropped: list[str] = field(default_factory=list)  # of the file
    begun: dict[str, str] = field(default_factory=dict)  # slots that begin anew, and why
    anew: str = ""  # why none of the rule's slots is taken, nor the step
    types: dict[str, tuple[str, str]] = field(default_factory=dict)  # of slots unlike new ones
    unfit: list[str] = field(default_factory=list)  # what strict=True does not let pass
    wrong: list[str] = field(default_factory=list)  # what nothing lets pass


@dataclass(frozen=True)
class _Wanted:
    """A slot that a parameter may have here."""

    shape: tuple[int, ...]
    dtype: torch.dtype  # of a new one
    pairs: bool  # it holds complex numbers
    of_rule: bool  # the rule's; else another stage's
    always: bool  # it is there after every update
    needed: bool  # the rule cannot go on without it


@cache
def slots_of_rules() -> frozenset[str]:
    """What torch's names call the slots of the catalogue: no key of anyone else's."""
    pipelines = [Pipeline((rule(),), (0,)) for rule in CATALOGUE.values()]
    return frozenset(name for one in pipelines for name in names_of(one).slots.values())


def _foreign_slots(
    slots: Mapping[str, Any], group: SavedGroup, declared: Mapping[str, Any]
) -> list[str]:
    """Slots of a rule or stage that wrote them, and of none here; other keys are anyone's."""
    theirs = slots_of_rules() | (group.slots or frozenset())
    return [name for name in slots if name in theirs and name not in declared and name != "step"]


def take_slots(
    optimizer: Grouped, entry: Entry, saved: SavedParameter, group: SavedGroup
) -> Taken:
    """What a parameter takes of its state in a file, in which the group stands, too."""
    held = saved.slots or {}
    wanted, taken = _wanted(optimizer, entry), Taken()
    where = f"parameter {entry.index} ({entry.name!r}, shape {tuple(entry.param.shape)})"
    taken.dropped = _foreign_slots(held, group, wanted)
    if taken.dropped:
        taken.unfit.append(
            f"loaded state dict has a slot {quoted(taken.dropped)} for {where}; "
            f"{optimizer.stage!r} has {', '.join(wanted) or 'none'}: load it into an optimizer "
            f"with {_of_which(taken.dropped)}"
        )
    for name, value in held.items():
        if name not in taken.dropped:
            _take(taken, name, value, wanted.get(name), entry, where)
    _check_needed(taken, held, wanted, entry, where)
    if taken.anew:
        _begin_rule(taken, held, wanted)
    return taken


def _of_which(dropped: Sequence[str]) -> str:
    """What an optimizer must have been given to have such slots."""
    if all(name.endswith((CLOCK, SEEN)) for name in dropped):
        return "sparse='catch_up'"
    return "rounding='kahan'" if list(dropped) == [COMPENSATION] else "the same rule"


def _begin_rule(taken: Taken, held: Mapping[str, Any], wanted: Mapping[str, _Wanted]) -> None:
    """Take nothing of the rule: slots of which some are new would not go with the step count."""
    own = [name for name in held if name == "step" or (name in wanted and wanted[name].of_rule)]
    taken.dropped += [name for name in own if name not in taken.dropped]
    for name in own:
        taken.slots.pop(name, None)
        taken.types.pop(name, None)
        taken.begun.pop(name, None)
    if taken.slots:  # else a state without a step would begin at the optimizer's count
        taken.slots["step"] = torch.tensor(0.0, dtype=torch.float32)


def _wanted(optimizer: Grouped, entry: Entry) -> dict[str, _Wanted]:
    names = optimizer.controls[entry.group].names
    shape, own = tuple(entry.param.shape), entry.pipeline.rule.declared.slots
    sample = torch.empty_like(entry.param, device=META, requires_grad=False)
    stored = _text(entry.param.real.dtype)
    found = {}
    for full, (stage, declared) in entry.pipeline.slots.items():
        if declared.scope == "parameter":
            kind = slot_kind(declared, shape, full)
            wide = slot_shape(kind, shape)
            dtype = slot_dtype(declared, kind, stored, entry.pipeline.storage)
            new = optimizer.backend.slot(sample, wide, kind, dtype, 0.0)
            found[names.slots[full]] = _Wanted(
                wide,
                new.dtype,
                new.is_complex(),
                stage is entry.pipeline.rule,
                declared.when is None,
                stage is entry.pipeline.rule and full in own and declared.when is None,
            )
    return found


def _take(
    taken: Taken, name: str, value: Any, wanted: _Wanted | None, entry: Entry, where: str
) -> None:
    """Check one value and take it."""
    if name == "step":
        if not _is_count(value):
            taken.wrong.append(
                f"loaded state dict has the step {value!r} for {where}; allowed is a count of "
                "updates"
            )
            return
    elif wanted is not None and not _fits(taken, name, value, wanted, where):
        return
    moved = value.to(entry.param.device) if isinstance(value, torch.Tensor) else value
    if wanted is not None:
        try:
            if entry.param.device.type == "cpu":
                check_memory(moved, f"{name!r} for {where}")
        except (TypeError, ValueError) as error:
            taken.wrong.append(f"loaded state dict: {error}")
            return
        if moved.dtype != wanted.dtype:
            taken.types[name] = _text(moved.dtype), _text(wanted.dtype)
    taken.slots[name] = moved


def _fits(taken: Taken, name: str, value: Any, wanted: _Wanted, where: str) -> bool:
    """Whether a value can be this slot; what is wrong goes on the list."""
    begin = f"loaded state dict has {name!r}"
    if not isinstance(value, torch.Tensor):
        kind = type(value).__name__
        taken.wrong.append(f"{begin} of shape {kind} for {where}; expected is {wanted.shape}")
        return False
    if value.layout != torch.strided or value.is_meta:
        kind = "without memory, on the device meta" if value.is_meta else f"as {value.layout}"
        taken.wrong.append(f"{begin} {kind} for {where}; allowed is a dense tensor")
        return False
    if value.is_complex() != wanted.pairs:
        kind = "complex" if wanted.pairs else "real"
        taken.wrong.append(f"{begin} of dtype {value.dtype} for {where}, which is {kind}")
        return False
    if _text(value.real.dtype) not in DTYPES:
        allowed = ", ".join(DTYPES)
        taken.wrong.append(
            f"{begin} of dtype {value.dtype} for {where}; allowed are {allowed}: convert it in "
            "the state dict"
        )
        return False
    found = tuple(value.shape)
    if found != wanted.shape:
        why = f"{name} has shape {found} in the file, {wanted.shape} here"
        if wanted.of_rule:
            taken.anew = why
        else:
            taken.begun[name] = why
            taken.dropped.append(name)
        taken.unfit.append(f"{begin} of shape {found} for {where}; expected is {wanted.shape}")
        return False
    return True


def _text(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _is_count(value: Any) -> bool:
    if isinstance(value, torch.Tensor):
        if value.numel() != 1 or value.is_complex() or value.is_meta:
            return False
    elif not isinstance(value, (int, float)):
        return False
    number = float(value)
    return number >= 0 and number.is_integer()  # neither of NaN and inf is


def _check_needed(
    taken: Taken,
    held: Mapping[str, Any],
    wanted: Mapping[str, _Wanted],
    entry: Entry,
    where: str,
) -> None:
    """Note which slots the rule needs beside those that a parameter has in the file."""
    needed = [name for name, one in wanted.items() if one.needed]
    if STEPS & set(rule_names(entry.pipeline)):
        needed.append("step")
    some = [name for name in held if name in wanted or name == "step"]
    if not some and not taken.dropped:
        return  # it has had no update yet
    missing = [name for name in needed if name not in held]
    taken.begun |= {
        name: "the file has none"
        for name, one in wanted.items()
        if one.always and not one.needed and name not in held
    }
    if missing:
        taken.unfit.append(
            f"loaded state dict has no {quoted(missing)} for {where}, only {', '.join(held)}: "
            "load it into an optimizer with the same rule"
        )
        beside = ", ".join(some) or ", ".join(taken.dropped)
        taken.anew = taken.anew or f"the file has no {', '.join(missing)} beside {beside}"
