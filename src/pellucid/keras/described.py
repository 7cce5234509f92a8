"""What an optimizer has that is no array, as plain data, and back: see `pellucid.keras.files`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pellucid.compose import Pipeline
from pellucid.declare import check_value
from pellucid.keras.config import plain_setting, revived
from pellucid.keras.core import Group, Setting
from pellucid.keras.drivers import as_driver
from pellucid.keras.host_values import on_host
from pellucid.keras.hypers import Choice, Hyperparameter
from pellucid.keras.names import rule_names
from pellucid.keras.slots import ordered_slots
from pellucid.ops import is_number

if TYPE_CHECKING:
    from pellucid.keras.optimizer import Optimizer

__all__ = ["FORMAT", "Difference", "description", "one_for_all", "settings_of", "truths_of"]

FORMAT = 1
ONE_FOR_ALL: Mapping[str, str] = {"NAdam": "mu_product"}
"""The slot of a rule that Keras has once, for all parameters."""


class Difference(ValueError):
    """A file does not fit an optimizer: says in what."""

    def __init__(self, optimizer: Optimizer, odd: Sequence[str]) -> None:
        super().__init__(
            f"the file does not fit {optimizer.name}, {optimizer.stage!r}: {'; '.join(odd)}. "
            "Nothing of the optimizer was loaded: build it with the stages, options, groups= and "
            "variables that were saved, or load the model's weights alone with skip_mismatch=True"
        )


def one_for_all(pipeline: Pipeline) -> set[str]:
    """The slots that Keras has once for all parameters, by full name."""
    rows = rule_names(type(pipeline.rule))
    return {slot for rule, slot in ONE_FOR_ALL.items() if rule in rows}


# -- to plain data -----------------------------------------------------------------------------


def description(optimizer: Optimizer, keys: Sequence[tuple[str, int, str]]) -> dict[str, Any]:
    """All that is no array, as JSON data.

    Args:
        keys: what the arrays beside it are, in their order.
    """
    core, built = optimizer.core, bool(optimizer.built)
    flags = [] if core.begun is None else on_host(core.begun).tolist()
    return {
        "format": FORMAT,
        "stage": repr(optimizer.stage),
        "built": built,
        "updates": int(on_host(optimizer._iterations)),
        "seed": core.seed,
        "ema_momentum": optimizer.ema_momentum,
        "gradient_accumulation_steps": optimizer.gradient_accumulation_steps,
        "variables": [list(key) for key in keys],
        "parameters": [[one.name, list(one.shape)] for one in core.parameters],
        "slots": [[one.index, full] for one, full, _ in ordered_slots(core)],
        "branches": [_values(one) for one in core.branches],
        "groups": [_values(one) for one in core.groups],
        "one_for_all": _numbers_of_each(optimizer),
        "shared": [[o, full, float(on_host(v))] for (o, full), v in core.shared.items()],
        "begun": [list(key) for key, place in core.flags.items() if flags[place]],
        "refused": int(on_host(optimizer._refused)) if built else 0,
        "journal": optimizer.journal.to_dict(),
    }


def _values(group: Group) -> dict[str, Any]:
    """A group's present values; of what is driven also the number of the last step."""
    driven = {
        full: cell.number for full, cell in group.cells.items() if cell.driver is not None
    }
    return {
        "label": group.label,
        "members": list(group.members),
        "values": {full: _plain(one) for full, one in group.settings.items()},
        "driven": driven,
    }


def _plain(setting: Setting) -> Any:
    """A value as plain data; of a function that has no name to find it by, how it looks."""
    try:
        return plain_setting(setting, functions=False)
    except ValueError:
        assert isinstance(setting, Hyperparameter)
        return {"opaque": repr(setting.driver)}


def _numbers_of_each(optimizer: Optimizer) -> dict[str, list[tuple[int, float]]]:
    """Of slots that a file has once: each parameter's own, which may differ."""
    found: dict[str, list[tuple[int, float]]] = {}
    for parameter in optimizer.core.parameters:
        for full in one_for_all(optimizer.core.groups[parameter.group].pipeline):
            if full in parameter.slots:
                number = float(on_host(parameter.slots[full]))
                found.setdefault(full, []).append((parameter.index, number))
    return found


# -- from plain data ---------------------------------------------------------------------------


def settings_of(
    optimizer: Optimizer, described: Mapping[str, Any], odd: list[str]
) -> list[tuple[Setting, Any, Any]]:
    """(setting, value or what drives it, number) of all that a file describes, checked.

    Args:
        odd: gets what does not fit.

    Raises:
        HyperparameterError: a value is not allowed here.
    """
    core = optimizer.core
    if optimizer.built and described["built"]:
        _compare_groups(core.groups, described["groups"], odd)
    if [one.label for one in core.branches] != [one["label"] for one in described["branches"]]:
        odd.append(
            f"its branches are {[one['label'] for one in described['branches']]}, here "
            f"{[one.label for one in core.branches]}"
        )
    steps = described["gradient_accumulation_steps"]
    if steps != optimizer.gradient_accumulation_steps:
        odd.append(
            f"gradient_accumulation_steps is {steps} there and "
            f"{optimizer.gradient_accumulation_steps} here"
        )
    if odd:
        return []
    found: dict[int, tuple[Setting, Any, Any]] = {}
    pairs = [*zip(core.branches, described["branches"], strict=True)]
    if described["built"]:
        pairs = [*zip(core.groups, described["groups"], strict=True), *pairs]
    given: dict[int, Any] = {}
    for group, stored in pairs:
        if {*stored["values"]} != {*group.settings}:
            odd.append(_other_stage(group, stored, described["stage"]))
            return []
        for full, plain in stored["values"].items():
            setting = group.setting(full)
            if id(setting) not in given:
                given[id(setting)] = plain
                found[id(setting)] = _checked(setting, plain, stored["driven"].get(full), odd)
            elif group in core.groups and given[id(setting)] != plain:
                odd.append(
                    f"{setting.native} is {plain!r} in its {stored['label']!r} and "
                    f"{given[id(setting)]!r} elsewhere; here these have one value"
                )
    return [*found.values()]


def _other_stage(group: Group, stored: Mapping[str, Any], stage: str) -> str:
    theirs = ", ".join(full for full in stored["values"] if full not in group.settings)
    mine = ", ".join(full for full in group.settings if full not in stored["values"])
    return (
        f"it was saved by {stage}: only the file has {theirs or 'nothing'}, only this optimizer "
        f"{mine or 'nothing'}"
    )


def _compare_groups(
    groups: Sequence[Group], stored: Sequence[Mapping[str, Any]], odd: list[str]
) -> None:
    mine = [one.members for one in groups]
    theirs = [list(one["members"]) for one in stored]
    if mine != theirs:
        here = ", ".join(f"{one.label!r} of {len(one.members)}" for one in groups)
        there = ", ".join(f"{one['label']!r} of {len(one['members'])}" for one in stored)
        odd.append(f"its groups of variables are {there}; here {here}")


def _checked(
    setting: Setting, plain: Any, driven: Any, odd: list[str]
) -> tuple[Setting, Any, Any]:
    """A stored value as this setting takes it."""
    if isinstance(setting, Choice):
        return setting, setting.declared.check(plain, setting.where), None
    if is_number(plain):
        return setting, None, float(check_value(setting.declared, plain, setting.where))
    present = setting.driver
    if "opaque" in plain:
        if present is None:
            odd.append(
                f"{setting.where} followed {plain['opaque']}, which a file cannot hold: assign the "
                "function first, then load"
            )
        return setting, present, driven
    if present is None or _plain(setting) != plain:
        present = check_value(setting.declared, as_driver(revived(plain)), setting.where)
    return setting, present, driven


def truths_of(optimizer: Optimizer, described: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What ``when=`` asks, of each group, with a file's values; see `Group.truth`."""
    stored = described["groups"]
    if len(stored) != len(optimizer.core.groups):
        return [group.truth() for group in optimizer.core.groups]
    found = []
    for group, one in zip(optimizer.core.groups, stored, strict=True):
        truth = group.truth()
        for full in truth:
            plain = one["values"].get(full)
            if isinstance(plain, Mapping):
                plain = one["driven"][full] if "ref" in plain else None
            truth[full] = plain
        found.append(truth)
    return found
