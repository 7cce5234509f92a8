"""An optimizer's configuration: what `get_config` gives and `from_config` takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import keras

from pellucid.compose import composed_from_config
from pellucid.declare import plain_value, revive
from pellucid.keras.hypers import Choice, Hyperparameter
from pellucid.ops import is_number

if TYPE_CHECKING:
    from pellucid.keras.core import Setting
    from pellucid.keras.optimizer import Optimizer

__all__ = ["base_config", "config_of", "from_config", "plain_setting", "revived"]

BASE = (
    "use_ema", "ema_momentum", "ema_overwrite_frequency", "loss_scale_factor",
    "gradient_accumulation_steps",
)  # fmt: skip
ARGUMENTS = ("weight_decay", "clipnorm", "clipvalue", "global_clipnorm")


def plain_setting(setting: Setting) -> Any:
    """A setting's present value as plain data: a number, an option, or what drives it."""
    if isinstance(setting, Choice):
        return setting.value
    driver = setting.driver
    if driver is None:
        return setting.number
    if isinstance(driver, keras.optimizers.schedules.LearningRateSchedule):
        return keras.saving.serialize_keras_object(driver)
    return plain_value(driver, setting.where)


def revived(value: Any) -> Any:
    """What `plain_setting` described."""
    if not isinstance(value, Mapping):
        return value
    if {"ref", "schedule", "function"} & set(value):
        return revive(value)
    return keras.saving.deserialize_keras_object(dict(value))


def base_config(optimizer: Optimizer) -> dict[str, Any]:
    """Keras's own arguments, and those that all of ours share."""
    found: dict[str, Any] = {"name": optimizer.name}
    found |= {key: getattr(optimizer, key) for key in BASE}
    found |= {"sparse": optimizer.sparse, "seed": optimizer.core.seed}
    return found


def own_values(optimizer: Optimizer) -> dict[str, Any]:
    """Values by Keras's names, where one pipeline serves all variables."""
    if len(optimizer.core.branches) > 1:
        return {}
    (branch,) = optimizer.core.branches
    found: dict[str, Any] = {}
    for full, setting in branch.settings.items():
        found[branch.names.native(full)] = plain_setting(setting)
    return found


def all_values(optimizer: Optimizer) -> dict[str, Any]:
    """Values by path, with those of routes' branches and of groups."""
    found: dict[str, Any] = {}
    for group in [*optimizer.core.branches, *optimizer.core.groups]:
        for setting in group.settings.values():
            if isinstance(setting, Hyperparameter) and setting.label:
                found[f"{setting.label}/{setting.native}"] = plain_setting(setting)
    return found


def config_of(optimizer: Optimizer) -> dict[str, Any]:
    """All arguments, with the values that hold now."""
    given = optimizer._given.what
    groups = {}
    for pattern, values in optimizer.core.patterns.items():
        if not isinstance(pattern, str):
            raise ValueError(f"groups: the predicate {pattern!r} has no configuration: use a pattern")
        groups[pattern] = {
            key: value if is_number(value) or isinstance(value, (bool, str)) else plain_value(
                value, f"groups[{pattern!r}][{key!r}]"
            )
            for key, value in values.items()
        }  # fmt: skip
    arguments = {}
    for key in ARGUMENTS:
        found = optimizer.setting(key) if given[key] is not None else None
        arguments[key] = None if found is None else plain_setting(found)
    return {
        **base_config(optimizer),
        **{k: v for k, v in own_values(optimizer).items() if "." not in k},
        **arguments,
        "stage": given["stage"].get_config(),
        "groups": groups,
        "values": {
            **{k: v for k, v in own_values(optimizer).items() if "." in k},
            **all_values(optimizer),
        },
    }


def from_config(cls: type[Optimizer], config: Mapping[str, Any]) -> Optimizer:
    """The optimizer that `config_of` described; values beside the stage's win."""
    rest = dict(config)
    stage = composed_from_config(rest.pop("stage"))
    groups = {
        pattern: {key: revived(value) for key, value in values.items()}
        for pattern, values in rest.pop("groups", {}).items()
    }
    values = rest.pop("values", {})
    known = {key: rest.pop(key) for key in ("name", *BASE, "sparse", "seed") if key in rest}
    arguments = {key: revived(rest.pop(key)) for key in ARGUMENTS if rest.get(key) is not None}
    made = cls(stage, groups=groups or None, **known, **arguments)
    for key, value in {**values, **rest}.items():
        if key in ARGUMENTS and value is None:
            continue
        found = made.setting(key)
        if found is not None:
            if plain_setting(found) != value:
                found.set(revived(value), "load")
            continue
        try:
            made._by_path(key).set(revived(value), "load")
        except KeyError as error:
            if "/" not in key:
                raise ValueError(made._unknown(key)) from error
            made.core.held[key] = revived(value)  # of a group, which `build` makes
    return made
