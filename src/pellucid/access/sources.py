"""What a view needs of an optimizer: a `Source`; one class of them for each kind of optimizer."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from pellucid.changes import Journal
from pellucid.controls import Names

__all__ = ["Assignment", "Cell", "Group", "Owner", "Source", "source_of"]


class Group(Protocol):
    """Parameters that share the values of their hyperparameters."""

    @property
    def index(self) -> int: ...

    @property
    def name(self) -> str: ...

    @property
    def rule(self) -> str:
        """The class of the rule that updates these parameters."""

    @property
    def members(self) -> Sequence[str]:
        """The parameters' names."""

    @property
    def size(self) -> int:
        """How many numbers the parameters have."""

    @property
    def names(self) -> Names: ...

    def raw(self, full: str) -> Any:
        """The value as the framework holds it: such as an array of one number."""

    def value(self, full: str) -> Any:
        """The current number, or the option."""

    def driver(self, full: str) -> Any:
        """The schedule, callable or `ref` that a hyperparameter follows, or None."""

    def scheduler(self, full: str) -> str:
        """The framework's scheduler that overwrites this value, in words; or nothing."""


@dataclass(frozen=True)
class Assignment:
    """A hyperparameter or option of one group, and the value that it is to have."""

    group: Group
    full: str
    value: Any


@dataclass(frozen=True)
class Owner:
    """A parameter, as the owner of state."""

    label: str  # its name; of those that share a name, the later ones are numbered
    name: str
    group: int
    parameter: Any


@dataclass(frozen=True)
class Cell:
    """One piece of state: a slot of a parameter, or of the optimizer."""

    owner: str  # the parameter's label, or the optimizer's name
    full: str
    native: str
    value: Any  # the live array, a number, or None: not there
    absent: str  # why it is not there
    put: Callable[[Any], None]  # writes a checked value in place

    @property
    def path(self) -> str:
        return f"{self.owner}/{self.full}"


class Source(Protocol):
    """An optimizer, as a view reads and writes it. Nothing is kept: all is asked anew."""

    @property
    def optimizer(self) -> Any: ...

    @property
    def name(self) -> str:
        """What the optimizer is called in paths: its class."""

    @property
    def title(self) -> str:
        """What updates the parameters, on one line."""

    @property
    def updates(self) -> int:
        """Completed updates."""

    @property
    def journal(self) -> Journal:
        """The journal; attached now, if there was none."""

    @property
    def recorded(self) -> Journal | None:
        """The journal, if there is one."""

    def groups(self) -> Sequence[Group]: ...

    def owners(self) -> Sequence[Owner]:
        """All parameters."""

    def array(self, owner: Owner) -> Any:
        """The parameter itself, live."""

    def gradient(self, owner: Owner) -> Any:
        """The parameter's gradient, where the framework keeps one; else None."""

    def cells(self, owner: Owner) -> Sequence[Cell]:
        """All slots that a parameter may have."""

    def shared_cells(self) -> Sequence[Cell]:
        """State that all parameters share."""

    def check(self, assignments: Sequence[Assignment]) -> Any:
        """Raise unless all may be written."""

    def set(self, assignments: Sequence[Assignment], reason: str) -> None:
        """Check all, then write all and record it; an error leaves everything as it was."""

    def reset(self, owners: Sequence[Owner], full: str | None) -> None:
        """Let the state of parameters, or one slot of theirs, begin anew."""

    def split(self, group: Group, members: Sequence[str], label: str) -> None:
        """Move some parameters of a group into one of their own, with equal values."""

    def keep(self, targets: Sequence[tuple[Group, str]]) -> Callable[[str], None]:
        """Remember values (and what drives them); the function puts them back, with a reason."""


def source_of(optimizer: Any, model: Any = None, scheduler: Any = None) -> Source:
    """The `Source` for an optimizer or a list of several; TypeError for what is none."""
    if isinstance(optimizer, (list, tuple)):
        from pellucid.access.several import SeveralSource

        return SeveralSource(optimizer, model, scheduler)
    inner = unwrapped(optimizer)
    host = sys.modules.get("pellucid.host")  # whoever has such an optimizer has loaded it
    if host is not None and isinstance(inner, host.Host):
        from pellucid.access.hosted import HostSource

        return HostSource(inner, model, scheduler)
    keras = sys.modules.get("keras")
    base = getattr(getattr(keras, "optimizers", None), "Optimizer", None)
    if base is not None and isinstance(inner, base):
        return _keras_source(inner, model, scheduler)
    from pellucid.access.foreign import GroupsSource, has_groups

    if not isinstance(inner, type) and has_groups(inner):
        return GroupsSource(inner, model, scheduler)
    kind = optimizer if isinstance(optimizer, type) else type(optimizer)
    hint = ""
    if isinstance(optimizer, type):
        hint = ": pass an optimizer that was constructed, not its class"
    elif hasattr(optimizer, "base_lrs"):
        hint = ": that is a scheduler; pellucid.view(optimizer, scheduler=...) takes it"
    raise TypeError(
        f"view got {kind.__module__}.{kind.__qualname__}; allowed is an optimizer of Pellucid's, "
        "torch's or a stranger's with param_groups (a list of dicts, each with 'params'), one of "
        f"Keras's, or a list of several{hint}"
    )


def _keras_source(optimizer: Any, model: Any, scheduler: Any) -> Source:
    """The `Source` for a subclass of keras.optimizers.Optimizer: ours have another than others."""
    from pellucid.access.keras_foreign import KerasSource
    from pellucid.access.keras_settings import leaves_of

    module = sys.modules.get("pellucid.keras.optimizer")  # whoever has ours has loaded it
    leaves = [] if module is None else [*leaves_of(optimizer)]
    ours = [isinstance(leaf.optimizer, module.Optimizer) for leaf in leaves if module is not None]
    if len(leaves) == 1 and ours[0]:
        from pellucid.access.keras_hosted import KerasHostSource

        return KerasHostSource(optimizer, leaves[0], model, scheduler)
    if any(ours):  # a MultiOptimizer with some of ours
        return source_of([leaf.optimizer for leaf in leaves], model, scheduler)
    return KerasSource(optimizer, model, scheduler)


def unwrapped(optimizer: Any) -> Any:
    """The optimizer inside the wrappers of Accelerate, Lightning and the like."""
    for _ in range(8):
        kind = type(optimizer)
        wraps = kind.__module__.partition(".")[0] in WRAPPERS
        if not wraps and isinstance(getattr(optimizer, "param_groups", None), list):
            return optimizer
        inner = None
        for name in ("optimizer", "_optimizer", "base_optimizer"):
            inner = getattr(optimizer, name, None)
            if isinstance(getattr(inner, "param_groups", None), list):
                break
        else:
            return optimizer
        if hasattr(optimizer, "base_lrs"):
            return optimizer  # a scheduler
        optimizer = inner
    return optimizer


WRAPPERS = frozenset(["accelerate", "lightning", "lightning_fabric", "pytorch_lightning"])
"""Packages whose optimizers stand around another one and have no hooks of their own."""
