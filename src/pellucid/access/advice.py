"""What looks wrong with an optimizer, told without computing anything over arrays."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pellucid.access.sources import Group, Owner, Source
from pellucid.declare import Ref, plain_value
from pellucid.ops import is_number

__all__ = ["Advice", "advice"]

ANY = "*"
USUAL: dict[tuple[str, str], tuple[float, float]] = {
    (ANY, "learning_rate"): (1e-7, 0.3),
    ("SGD", "learning_rate"): (1e-6, 10.0),
    ("Adadelta", "learning_rate"): (1e-4, 10.0),
    ("Adagrad", "learning_rate"): (1e-5, 1.0),
    ("RowwiseAdagrad", "learning_rate"): (1e-5, 1.0),
    ("FTRL", "learning_rate"): (1e-5, 1.0),
    ("Rprop", "learning_rate"): (1e-6, 1.0),
    ("Prodigy", "learning_rate"): (1e-2, 10.0),
    ("DAdaptAdam", "learning_rate"): (1e-2, 10.0),
    ("LBFGS", "learning_rate"): (1e-3, 10.0),
    ("Lion", "learning_rate"): (1e-8, 1e-2),
    ("Signum", "learning_rate"): (1e-8, 1e-1),
    (ANY, "momentum"): (0.0, 0.9999),
    (ANY, "beta1"): (0.0, 0.9999),
    (ANY, "beta2"): (0.5, 0.999999),
    (ANY, "epsilon"): (0.0, 0.1),
    (ANY, "weight_decay"): (0.0, 1.0),
    ("Lion", "weight_decay"): (0.0, 20.0),
}
"""Usual values, wide: from the rules' papers and torch's examples; a value outside is likely a
slip, such as a rate that was given where a decay belongs."""


@dataclass(frozen=True)
class Advice:
    """Something that looks wrong.

    ``kind`` is one word for programs: ``unknown`` (a parameter of the model in no group),
    ``twice``, ``frozen``, ``untouched``, ``range``, ``still`` (training changes nothing),
    ``load`` (a load overwrote what the script had set), ``unsaved`` (a schedule that no
    checkpoint can hold) or ``refused`` (a compiled step found a value out of its bounds).
    """

    kind: str
    where: str
    text: str

    def __str__(self) -> str:
        return f"{self.where}: {self.text}"


def advice(source: Source) -> list[Advice]:
    """All that looks wrong, the most serious first."""
    groups, owners = source.groups(), source.owners()
    return [
        *_refused(source),
        *_still(source, groups, owners),
        *_model(source, owners),
        *_twice(source, owners),
        *_state(source, owners),
        *_ranges(source, groups),
        *_unsaved(source, groups),
        *_loads(source),
    ]


def _model(source: Any, owners: Sequence[Owner]) -> Iterator[Advice]:
    model = getattr(source, "model", None)
    if model is None:
        models = [getattr(one, "model", None) for one in getattr(source, "sources", ())]
        model = next((one for one in models if one is not None), None)
    if model is None:
        return
    held = {id(source.array(owner)) for owner in owners}
    lost, remedy = _lost(model, held)
    for name in lost[:FEW]:
        yield Advice("unknown", name, f"is in no group: it will not be trained; {remedy}")
    if len(lost) > FEW:
        yield Advice("unknown", f"{len(lost) - FEW} more parameters", "are in no group")


def _lost(model: Any, held: set[int]) -> tuple[list[str], str]:
    """Trained parameters of a model that are not held, and what to do."""
    if hasattr(model, "trainable_variables"):
        lost = [one.path for one in model.trainable_variables if id(one) not in held]
        return lost, "build the optimizer with it, or set the layer's trainable to False"
    named = model.named_parameters()
    lost = [n for n, p in named if p.requires_grad and id(p) not in held]
    return lost, "add it to a group, or set requires_grad_(False)"


def _refused(source: Any) -> Iterator[Advice]:
    """Updates that a compiled step skipped."""
    for one in getattr(source, "sources", (source,)):
        if text := getattr(one, "refused", ""):
            yield Advice("refused", one.name, text)


FEW = 8
"""How many parameters are named one by one."""


def _twice(source: Source, owners: Sequence[Owner]) -> Iterator[Advice]:
    times = Counter(id(source.array(owner)) for owner in owners)
    for owner in owners:
        if times[id(source.array(owner))] > 1:
            yield Advice("twice", owner.label, "is given more than once: each step updates it more "
                         "than once; keep it in one group")  # fmt: skip


def _frozen(array: Any) -> bool:
    return getattr(array, "requires_grad", True) is False


def _state(source: Source, owners: Sequence[Owner]) -> Iterator[Advice]:
    if type(source).__name__ == "HostSource" and not hasattr(source.optimizer, "add_param_group"):
        frozen: list[Owner] = []  # NumPy's arrays do not say whether they are trained
    else:
        frozen = [owner for owner in owners if _frozen(source.array(owner))]
    stateful = [owner for owner in owners if _has_state(source, owner)]
    having = {id(owner) for owner in stateful}
    kept = [owner for owner in frozen if id(owner) in having]
    for owner in kept[:FEW]:
        yield Advice("frozen", owner.label, "is frozen (requires_grad is False) but has state: "
                     f"view.reset({owner.label!r}) frees it")  # fmt: skip
    if len(kept) > FEW:
        yield Advice("frozen", f"{len(kept) - FEW} more parameters", "are frozen but have state")
    if not stateful or source.updates < 1 or "LBFGS" in source.name:
        return  # LBFGS keeps all state with the first parameter
    rest = {owner.group for owner in stateful}
    ids = {id(owner) for owner in frozen}
    bare = [o for o in owners if id(o) not in having and id(o) not in ids and o.group in rest]
    for owner in bare[:FEW]:
        yield Advice("untouched", owner.label, "has no state after "
                     f"{source.updates} update{'s' * (source.updates != 1)}: it never had a "
                     "gradient; is it used in the model?")  # fmt: skip
    if len(bare) > FEW:
        yield Advice("untouched", f"{len(bare) - FEW} more parameters", "never had a gradient")


def _has_state(source: Source, owner: Owner) -> bool:
    return any(cell.value is not None for cell in source.cells(owner))


def _still(source: Any, groups: Sequence[Group], owners: Sequence[Owner]) -> Iterator[Advice]:
    for group in groups:
        if "learning_rate" not in group.names.places or _driven(group, "learning_rate"):
            continue
        rate = group.value("learning_rate")
        if is_number(rate) and rate == 0:
            yield Advice("still", f"{group.name}/learning_rate", "is 0: training changes nothing")
    arrays = [source.array(owner) for owner in owners]
    known = [array for array in arrays if hasattr(array, "requires_grad")]
    if known and all(map(_frozen, known)):
        yield Advice("still", source.name, "all parameters are frozen: training changes nothing")
    idle = getattr(source, "idle", 0)
    if idle:
        yield Advice("still", source.name, f"the last {idle} step{'s' * (idle != 1)} found no "
                     "gradient at all: call backward() before step()")  # fmt: skip


def _driven(group: Group, full: str) -> bool:
    if full not in group.names.places:
        return False
    return group.driver(full) is not None or bool(group.scheduler(full))


def _ranges(source: Any, groups: Sequence[Group]) -> Iterator[Advice]:
    for group in groups:
        for full in group.names.places:
            name = full.rpartition(".")[2]
            usual = USUAL.get((group.rule, name)) or USUAL.get((ANY, name))
            if usual is None or full != name:
                continue
            value = group.value(full)
            if not is_number(value) or _driven(group, full) or (name, value) == (
                "learning_rate", 0
            ):  # fmt: skip
                continue
            low, high = usual
            if not low <= value <= high and value != _default(source, group, full):
                yield Advice("range", f"{group.name}/{full}", f"is {value:g}; usual for "
                             f"{group.rule} is {low:g} to {high:g}")  # fmt: skip


def _default(source: Any, group: Group, full: str) -> Any:
    """What the class itself begins with, where its constructor says so: its author's choice."""
    place = group.names.places[full]
    for inner in getattr(source, "sources", (source,)):
        try:
            parameters = inspect.signature(type(inner.optimizer)).parameters
        except (TypeError, ValueError):
            continue
        default = parameters[place.key].default if place.key in parameters else None
        if place.position is not None and isinstance(default, (tuple, list)):
            default = default[place.position] if place.position < len(default) else None
        if is_number(default) and type(inner.optimizer).__name__ == group.rule:
            return default
    return None


def _unsaved(source: Any, groups: Sequence[Group]) -> Iterator[Advice]:
    """Schedules of ours that no checkpoint can hold."""
    for group in groups:
        for full in group.names.places:
            driver = group.driver(full)
            if driver is None or isinstance(driver, Ref):
                continue
            stored = getattr(source, "stored", None)
            if stored is None and not hasattr(source.optimizer, "controls"):
                continue
            try:
                plain_value(driver, full) if stored is None else stored(group, full)
            except ValueError:
                yield Advice("unsaved", f"{group.name}/{full}", f"follows {driver!r}, which no "
                             "checkpoint can hold: saving will raise; use a schedule of "
                             "pellucid.schedules, or a dataclass of your own")  # fmt: skip


def _loads(source: Any) -> Iterator[Advice]:
    controls = getattr(source.optimizer, "controls", None)
    if controls is not None:
        changes = [change for one in controls for change in one.overwritten]
    else:
        scheduled = {
            group.name for group in source.groups() if _driven(group, "learning_rate")
        }  # whose rates a resume brings back, as is meant
        changes = [
            one
            for one in source.recorded or ()
            if one.source == "load"
            and not (one.name == "learning_rate" and one.group in scheduled)
        ]
    for change in changes:
        if not change.abandoned:
            yield Advice("load", f"{change.group}/{change.name}", f"was {_text(change.old)} when "
                         f"a checkpoint was loaded, which made it {_text(change.new)}: set it after"
                         " loading if the script's value is meant")  # fmt: skip


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
