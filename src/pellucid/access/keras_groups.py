"""The groups of our own Keras optimizers: built ones, and what will become of them before."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from pellucid.access.keras_settings import Leaf, Setting, around_settings, keras
from pellucid.controls import Names, Place
from pellucid.declare import Ref

__all__ = ["KerasHostGroup", "PlannedGroup", "base_settings"]


def base_settings(leaf: Leaf) -> dict[str, Setting]:
    """Keras's own settings, and those of a LossScaleOptimizer around: all groups share them."""
    from pellucid.keras.journal import BASE

    return around_settings({name: Setting(leaf.optimizer, name, name) for name in BASE}, leaf)


class KerasHostGroup:
    """A group of parameters; before `build` a branch of the stages.

    See `pellucid.access.sources.Group`.
    """

    def __init__(self, index: int, leaf: Leaf, group: Any, members: Sequence[Any]) -> None:
        self.index, self.leaf, self.group = index, leaf, group
        self.parameters = members  # pellucid.keras.core.Parameter
        self.members = [one.name for one in members]
        self.optimizer: str = leaf.optimizer.name  # stands before the names of its Variables

    @property
    def name(self) -> str:
        return self.group.label or f"group {self.index}"

    @property
    def rule(self) -> str:
        return type(self.group.pipeline.rule).__name__

    @property
    def size(self) -> int:
        return sum(math.prod(one.shape) for one in self.parameters)

    @cached_property
    def base(self) -> Mapping[str, Setting]:
        """Settings that are the optimizer's, or of what stands around it."""
        return base_settings(self.leaf)

    @cached_property
    def names(self) -> Names:
        from pellucid.keras.arguments import ALIASES

        own: Names = self.group.names
        places = dict(own.places)
        for native, full in ALIASES.items():  # clipnorm, for clipnorm.max_norm
            if full in places and not own.canonical(native):
                places[full] = Place(native)
        places |= {name: Place(name) for name in self.base if name not in places}
        return Names(places, own.slots)

    def setting(self, full: str) -> Any:
        """The optimizer's own object for a value: a Hyperparameter or a Choice."""
        return self.group.setting(full)

    def holds(self, full: str, setting: Any) -> bool:
        return self.group.settings.get(full) is setting

    def raw(self, full: str) -> Any:
        """The Variable of a hyperparameter; of others the value."""
        if full in self.base:
            return self.base[full].raw
        found = self.group.setting(full)
        return getattr(found, "variable", None) or found.value

    def value(self, full: str) -> Any:
        """The current number, or the option; under a schedule that of the last update."""
        if full in self.base:
            return self.base[full].value
        return value_of(self.group.setting(full))

    def driver(self, full: str) -> Any:
        if full in self.base:
            return None
        return driver_of(self.group.setting(full))

    def scheduler(self, full: str) -> str:
        return ""  # Keras's are callbacks, of which the optimizer knows nothing

    def where(self, full: str) -> str:
        """How errors name a value of this group."""
        native = self.names.native(full)
        return f"{self.name}/{full}" + (f" ({native!r})" if native != full else "")


class PlannedGroup(KerasHostGroup):
    """A pattern of ``groups=`` before the optimizer is built."""

    def __init__(
        self, index: int, leaf: Leaf, group: Any, members: Sequence[Any], pattern: Any
    ) -> None:
        super().__init__(index, leaf, group, members)
        self.pattern = pattern

    @property
    def name(self) -> str:
        return self.pattern if isinstance(self.pattern, str) else "predicate"

    @property
    def given(self) -> dict[str, Any]:
        """The values of its own, by full name."""
        core = self.leaf.optimizer.core
        found: dict[str, Any] = core.overrides(
            self.group, self.pattern, core.patterns[self.pattern]
        )
        return found

    def holds(self, full: str, setting: Any) -> bool:
        return full not in self.given and super().holds(full, setting)

    def give(self, full: str, value: Any) -> None:
        """Write a checked value."""
        own = {**self.given, full: value}
        self.leaf.optimizer.core.patterns[self.pattern] = own

    def value(self, full: str) -> Any:
        value = self.given.get(full, self)
        if value is self:
            return super().value(full)
        if isinstance(value, Ref):
            stage, _ = self.group.pipeline.hypers[full]
            return self.value(self.group.pipeline.resolve(stage, value.name))
        return _first(value) if callable(value) else value

    def driver(self, full: str) -> Any:
        if full not in self.given:
            return super().driver(full)
        value = self.given[full]
        return value if callable(value) or isinstance(value, Ref) else None


def _first(driver: Any) -> float:
    from pellucid.keras.drivers import as_driver, number_of_call

    return number_of_call(as_driver(driver), 0)


def driver_of(setting: Any) -> Any:
    """The schedule, function or `ref` that a hyperparameter follows, as it was given."""
    driver = getattr(setting, "driver", None)
    return getattr(driver, "function", driver)  # of Keras's functions without a count


def value_of(setting: Any) -> Any:
    """The current number, or the option.

    A Variable holds what a schedule gave in float32; what it gives itself is shown, if that is
    the same number. A function of the user's is not called.
    """
    driver = getattr(setting, "driver", None)
    if driver is None:
        return setting.shown()
    if setting.target is not None:
        return value_of(setting.target)
    held = setting.number
    from pellucid.schedules import Schedule

    if isinstance(driver, (Schedule, keras().optimizers.schedules.LearningRateSchedule)):
        updates = setting.optimizer.updates
        for count in (max(updates - 1, 0), updates):
            exact = setting.at(count)
            if _single(exact) == _single(held):
                return exact
    return held


def _single(number: float) -> Any:
    import numpy

    return numpy.float32(number)
