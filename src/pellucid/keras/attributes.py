"""Hyperparameters as attributes and items of a Keras optimizer, by Keras's and canonical names."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Any

import keras

from pellucid.keras.arguments import ALIASES
from pellucid.keras.checks import check_sparse
from pellucid.keras.core import Group, Setting
from pellucid.keras.hypers import Choice, Hyperparameter
from pellucid.keras.journal import changed_base
from pellucid.keras.live import LIVE, live_number
from pellucid.keras.tracing import eager

if TYPE_CHECKING:
    from pellucid.keras.optimizer import Optimizer

__all__ = ["Attributes"]

FIXED = ("name", "sparse", "use_ema", "gradient_accumulation_steps")
"""Attributes on which the Variables depend that `build` makes."""


class Attributes(keras.optimizers.Optimizer):  # type: ignore[misc]
    """Looks hyperparameters up, and sets them."""

    def _branch_of_names(self) -> list[Group]:
        """Where a bare name is looked for: the last branch of a route takes the rest."""
        return [*reversed(self.core.branches)]

    def _rate(self) -> Hyperparameter | None:
        found = self.setting("learning_rate")
        return found if isinstance(found, Hyperparameter) else None

    @staticmethod
    def alias(group: Group, name: str) -> str:
        """Keras's argument under the full name of the stage that it became."""
        full = ALIASES.get(name, name)
        return full if full in group.cells and not group.names.canonical(name) else name

    def setting(self, name: str) -> Setting | None:
        """The optimizer's own setting of a canonical or Keras's name; None if there is none."""
        if name == "lr":
            name = "learning_rate"
        for branch in self._branch_of_names():
            fulls = branch.names.canonical(self.alias(branch, name))
            if fulls:
                return branch.setting(fulls[0])
        return None

    def _known(self) -> list[str]:
        names: dict[str, None] = {}
        for branch in self._branch_of_names():
            names.update(dict.fromkeys(branch.names.native_keys()))
            names.update((key, None) for key, full in ALIASES.items() if full in branch.cells)
        return [*names]

    def __getattr__(self, name: str) -> Any:
        core = self.__dict__.get("_core")
        if name.startswith("_") or core is None:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        found = self.setting(name)
        if found is not None:
            return self._shown(found)
        if name in ("weight_decay", "clipnorm", "clipvalue", "global_clipnorm"):
            return None
        for branch in self._branch_of_names():
            for stage in branch.pipeline.stages:
                if stage.kind != "rule" and stage.name == name:
                    return _StageSettings(self, branch, name)
        raise AttributeError(self._unknown(name))

    def _unknown(self, name: str) -> str:
        known = self._known()
        spelled = {key: key for key in known}
        for branch in self._branch_of_names():
            spelled |= {f: branch.names.native(f) for f in branch.settings if f not in spelled}
        spelled |= {"lr": "learning_rate"}
        near = difflib.get_close_matches(name, spelled, n=1)
        hint = f"; did you mean {spelled[near[0]]!r}?" if near else ""
        return f"{self.name} has no attribute {name!r}{hint} (hyperparameters: {', '.join(known)})"

    def __setattr__(self, name: str, value: Any) -> None:
        if self.__dict__.get("_core") is None or name.startswith("_"):
            super().__setattr__(name, value)
            return
        found = self.setting(name)
        if found is not None:
            found.set(value, "assignment")
        elif name in LIVE:
            self._set_live(name, value)
        elif name in FIXED:
            self._set_fixed(name, value)
        elif name in ("weight_decay", "clipnorm", "clipvalue", "global_clipnorm"):
            if value is not None:
                raise AttributeError(
                    f"{self.name} was made without {name}, so {name}={value!r} cannot be set; "
                    f"give it to the constructor, {name}={value!r}, or a stage to chain(...)"
                )
        elif name in self.__dict__ or hasattr(type(self), name) or self._may_have(name):
            super().__setattr__(name, value)
        else:
            raise AttributeError(self._unknown(name))

    def _may_have(self, name: str) -> bool:
        """Whether a new attribute is a user's subclass's own, and no slip of the pen."""
        users = type(self).__module__.partition(".")[0] != "pellucid"
        return users and not difflib.get_close_matches(
            name.lower(), [*self._known(), "lr"], n=1
        )

    def _set_live(
        self, name: str, value: Any, source: str = "assignment", reason: str = ""
    ) -> None:
        """A number of Keras's own: compiled steps hold it, so they are made anew."""
        checked, old = live_number(f"{self.name}/{name}", name, value), getattr(self, name)
        self.before_write()
        super().__setattr__(name, checked)
        self.restructured(f"{name} is {checked!r}")
        changed_base(self, name, old, source, reason)

    def _set_fixed(self, name: str, value: Any) -> None:
        """An attribute that is read when the optimizer is built."""
        if self.built and value != getattr(self, name):
            raise AttributeError(
                f"{self.name}/{name} is {getattr(self, name)!r} since the optimizer was built and "
                f"cannot become {value!r}: make another optimizer, "
                f"{type(self).__name__}(..., {name}={value!r})"
            )
        if name == "sparse":
            check_sparse(value, self.gradient_accumulation_steps)
        elif name == "gradient_accumulation_steps":
            check_sparse(self.sparse, value)
        super().__setattr__(name, value)

    def __getitem__(self, name: str) -> Any:
        return self._shown(self._by_path(name))

    def _shown(self, setting: Setting) -> Any:
        """What a look at a setting gives."""
        if eager():
            self.report_refused()
        return setting.value if isinstance(setting, Choice) else _current(setting)

    def __setitem__(self, name: str, value: Any) -> None:
        self._by_path(name).set(value, "assignment")

    def _by_path(self, name: str) -> Setting:
        own = name.removeprefix(f"{self.name}/").removesuffix(":0")
        found = self.setting(own)
        if found is not None:
            return found
        for group in [*self.core.groups, *self.core.branches]:
            label, _, last = own.rpartition("/")
            fulls = group.names.canonical(self.alias(group, last))
            if label == group.label and fulls:
                return group.setting(fulls[0])  # type: ignore[no-any-return]
        raise KeyError(self._unknown(name))

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self._known()]

    @property
    def learning_rate(self) -> Any:
        """The learning rate's Variable; of a schedule, with the number of the next step."""
        core = self.__dict__.get("_core")
        rate = self._rate() if core is not None else None
        if rate is None:
            return self.__dict__["_learning_rate"]
        return self._shown(rate)

    @learning_rate.setter
    def learning_rate(self, value: Any) -> None:
        rate = self._rate()
        if rate is None:
            raise AttributeError(self._unknown("learning_rate"))
        rate.set(value, "assignment")


class _StageSettings:
    """The hyperparameters of one stage as attributes: ``opt.average_weights.decay``."""

    def __init__(self, optimizer: Optimizer, group: Group, stage: str) -> None:
        object.__setattr__(self, "_of", (optimizer, group, stage))

    def _setting(self, name: str) -> Setting:
        _, group, stage = self._of
        full = f"{stage}.{name}"
        if full not in group.settings:
            known = [one.partition(".")[2] for one in group.settings if one.startswith(f"{stage}.")]
            raise AttributeError(f"{stage} has no {name!r} (hyperparameters: {', '.join(known)})")
        return group.setting(full)  # type: ignore[no-any-return]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        found = self._setting(name)
        return found.value if isinstance(found, Choice) else _current(found)

    def __setattr__(self, name: str, value: Any) -> None:
        self._setting(name).set(value, "assignment")

def _current(cell: Hyperparameter) -> Any:
    """A hyperparameter's Variable; one that is driven gets the number of the next step first."""
    if cell.driver is not None and eager():
        cell.optimizer.before_write()
        cell.variable.put(cell.at(cell.optimizer.updates))
    return cell.variable
