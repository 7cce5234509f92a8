"""An optimizer's configuration: what `get_config` gives and `from_config` takes."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import keras

from pellucid.compose import Chain, Composed, Route, composed_from_config
from pellucid.declare import FOREIGN, Foreign, plain_value, revive
from pellucid.keras.arguments import ALIASES, decays
from pellucid.keras.drivers import WithoutCount
from pellucid.keras.hypers import Choice
from pellucid.ops import is_number

if TYPE_CHECKING:
    from pellucid.keras.core import Setting
    from pellucid.keras.optimizer import Optimizer

__all__ = ["config_of", "from_config", "plain_setting", "revived_argument", "with_values"]

BASE = (
    "use_ema", "ema_momentum", "ema_overwrite_frequency", "loss_scale_factor",
    "gradient_accumulation_steps",
)  # fmt: skip
ARGUMENTS = ("weight_decay", "clipnorm", "clipvalue", "global_clipnorm")


def plain_setting(setting: Setting, functions: bool = True) -> Any:
    """A setting's present value as plain data: a number, an option, or what drives it.

    Args:
        functions: a function that cannot be found by its name is described as Keras describes
            those, a lambda by its code; else it raises.
    """
    if isinstance(setting, Choice):
        return setting.value
    driver = setting.driver
    if driver is None:
        return setting.number
    return plain_driver(driver, setting.where, functions)


def plain_driver(driver: Any, where: str, functions: bool = True) -> Any:
    """A schedule or a callable as plain data; see `plain_setting`."""
    if isinstance(driver, WithoutCount):
        driver = driver.function
    if isinstance(driver, keras.optimizers.schedules.LearningRateSchedule):
        return keras.saving.serialize_keras_object(driver)
    found = described_by_keras(driver, where) if functions else None
    return plain_value(driver, where) if found is None else found


def described_by_keras(driver: Any, where: str) -> Any:
    """Keras's schedules, and functions without a name to find them by, as Keras describes them."""
    if isinstance(driver, keras.optimizers.schedules.LearningRateSchedule):
        return keras.saving.serialize_keras_object(driver)
    if not inspect.isfunction(driver) or "<" not in driver.__qualname__:
        return None
    try:
        return keras.saving.serialize_keras_object(driver)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{where} is {driver!r}, which cannot be described ({error}): use a schedule of "
            "pellucid.schedules, or a function defined at the top level of a module; save_weights "
            "needs no description"
        ) from error


@contextlib.contextmanager
def with_kerass_values() -> Iterator[None]:
    """While stages are described or made: what drives them may be Keras's own."""
    token = FOREIGN.set(Foreign(described_by_keras, keras.saving.deserialize_keras_object))
    try:
        yield
    finally:
        FOREIGN.reset(token)


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
    """Values by Keras's names, but for those of routes' branches."""
    found: dict[str, Any] = {}
    for branch in optimizer.core.branches:
        for full, setting in branch.settings.items():
            if not setting.label:
                found[branch.names.native(full)] = plain_setting(setting)
    return found


def all_values(optimizer: Optimizer) -> dict[str, Any]:
    """Values by path, with those of routes' branches and of groups, also of groups to come."""
    held = {} if optimizer.built else optimizer.core.held
    found = {path: plain_argument(value, path) for path, value in held.items()}
    for group in [*optimizer.core.branches, *optimizer.core.groups]:
        for setting in group.settings.values():
            if setting.label:
                found[f"{setting.label}/{setting.native}"] = plain_setting(setting)
    return found


def config_of(optimizer: Optimizer) -> dict[str, Any]:
    """All arguments, with the values that hold now."""
    groups = {}
    for pattern, values in optimizer.core.patterns.items():
        if not isinstance(pattern, str):
            raise ValueError(
                f"groups: the predicate {pattern!r} has no configuration: use a pattern"
            )
        groups[pattern] = {
            key: plain_argument(value, f"groups[{pattern!r}][{key!r}]")
            for key, value in values.items()
        }
    arguments = {}
    for key in ARGUMENTS:
        found = optimizer.setting(key)
        arguments[key] = None if found is None else plain_setting(found)
    own = own_values(optimizer)
    with with_kerass_values():
        stage = _with_numbers(optimizer, optimizer._given.what["stage"]).get_config()
    functions = optimizer._transformers.what
    return {
        **base_config(optimizer),
        **{key: value for key, value in own.items() if "." not in key},
        **arguments,
        "stage": stage,
        "gradient_transformers": [plain_argument(f, "gradient_transformers") for f in functions],
        "groups": groups,
        "values": {
            **{key: v for key, v in own.items() if "." in key and key not in ALIASES.values()},
            **all_values(optimizer),
        },
        **({"parts": parts} if (parts := optimizer.core.parts) else {}),
    }


def _with_numbers(optimizer: Optimizer, composed: Composed) -> Composed:
    """The stages as they were given; where a number has replaced a callable, with the number."""
    if isinstance(composed, Route):
        branches = [(p, _with_numbers(optimizer, one)) for p, one in composed.branches]
        return Route(tuple(branches))
    if isinstance(composed, Chain):
        stages: Any = tuple(_with_numbers(optimizer, one) for one in composed.stages)
        return Chain(composed.transformers, stages)
    numbers = {
        declared.name: group.cells[full].number
        for group in optimizer.core.branches
        for full, (owner, declared) in group.pipeline.hypers.items()
        if (type(owner), owner.name) == (type(composed), composed.name)
        and callable(composed.values[declared.name])
        and group.cells[full].driver is None
    }
    return composed._replace(**numbers) if numbers else composed


def plain_argument(value: Any, where: str) -> Any:
    """A value that a user gave as plain data."""
    if is_number(value) or isinstance(value, (bool, str)):
        return value
    return plain_driver(value, where)


def revived_argument(key: str, value: Any) -> Any:
    """An argument that `config_of` wrote, as the constructor takes it."""
    if key == "gradient_transformers":
        return [revive(one) for one in value]
    if key == "groups":
        return {p: {k: revived(v) for k, v in of.items()} for p, of in value.items()} or None
    return value if key in ("values", "parts") else revived(value)


def from_config(cls: type[Optimizer], config: Mapping[str, Any]) -> Optimizer:
    """The optimizer that `config_of` described; values beside the stage's win."""
    rest = dict(config)
    with with_kerass_values():
        stage = composed_from_config(rest.pop("stage"))
    shared = ("name", *BASE, "sparse", "seed", "groups", "gradient_transformers")
    known = {key: revived_argument(key, rest.pop(key)) for key in shared if key in rest}
    values, parts = rest.pop("values", {}), rest.pop("parts", {})
    arguments = {
        key: revived(rest.pop(key))
        for key in ARGUMENTS
        if rest.get(key) is not None and not (key == "weight_decay" and decays(stage))
    }
    rest = {key: one for key, one in rest.items() if key not in ARGUMENTS or one is not None}
    return with_values(cls(stage, **known, **arguments), {**rest, **values}, parts)


def with_values(
    made: Optimizer, values: Mapping[str, Any], parts: Mapping[str, Any]
) -> Optimizer:
    """The optimizer with these values by name or path; those of groups wait for `build`.

    Args:
        parts: groups that were split off others: the numbers of their variables.
    """
    made.core.parts = {label: [*members] for label, members in parts.items()}
    for key, value in values.items():
        found = made.setting(key)
        if found is None and "/" in key:
            with contextlib.suppress(KeyError):
                found = made._by_path(key)
            if found is None:
                made.core.held[key] = revived(value)
                continue
        if found is None:
            raise ValueError(made._unknown(key))
        if plain_setting(found) != value:
            found.set(revived(value), "load")
    return made
