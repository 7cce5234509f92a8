"""The groups of Keras's own optimizers and strangers': one for each that updates variables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from pellucid.access.keras_settings import Leaf, Setting, settings_of
from pellucid.access.keras_slots import state_of
from pellucid.controls import Names, Place

__all__ = ["KerasGroup"]


class KerasGroup:
    """The variables of one optimizer; see `pellucid.access.sources.Group`."""

    def __init__(self, index: int, name: str, leaf: Leaf, variables: Sequence[str], size: int):
        self.index, self.name, self.leaf = index, name, leaf
        self.members, self.size = variables, size

    @property
    def rule(self) -> str:
        return type(self.leaf.optimizer).__name__

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(base.__name__ for base in type(self.leaf.optimizer).__mro__)

    @cached_property
    def settings(self) -> Mapping[str, Setting]:
        """By canonical name."""
        from pellucid.keras.names import canonical_of

        table, own = canonical_of(self.classes), settings_of(self.leaf)
        found: dict[str, Setting] = {}
        for native, setting in own.items():
            full = table.get(native, native)
            taken = full != native and (full in own or full in found)
            found[native if taken else full] = setting
        return found

    @cached_property
    def names(self) -> Names:
        from pellucid.keras.names import canonical_slots_of

        table = canonical_slots_of(self.classes)
        natives = dict.fromkeys(n for one in state_of(self.leaf).slots for n in one)
        places = {full: Place(setting.native) for full, setting in self.settings.items()}
        return Names(places, {table.get(native, native): native for native in natives})

    def raw(self, full: str) -> Any:
        """The value as the optimizer holds it."""
        return self.settings[full].raw

    def value(self, full: str) -> Any:
        return self.settings[full].value

    def driver(self, full: str) -> Any:
        return self.settings[full].driver

    def scheduler(self, full: str) -> str:
        return ""  # Keras's are callbacks, of which the optimizer knows nothing

    def where(self, full: str) -> str:
        """How errors name a value of this group."""
        native = self.settings[full].native
        return f"{self.name}/{full}" + (f" ({native!r})" if native != full else "")
