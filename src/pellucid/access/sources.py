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
    def journal(self) -> Journal: ...

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

    def set(self, assignments: Sequence[Assignment], reason: str) -> None:
        """Check all, then write all and record it; an error leaves everything as it was."""

    def keep(self, targets: Sequence[tuple[Group, str]]) -> Callable[[str], None]:
        """Remember values (and what drives them); the function puts them back, with a reason."""


def source_of(optimizer: Any, scheduler: Any = None) -> Source:
    """The `Source` for an optimizer; TypeError for what is none that is known."""
    host = sys.modules.get("pellucid.host")  # whoever has such an optimizer has loaded it
    if host is not None and isinstance(optimizer, host.Host):
        from pellucid.access.hosted import HostSource

        return HostSource(optimizer, scheduler)
    kind = optimizer if isinstance(optimizer, type) else type(optimizer)
    hint = ""
    if isinstance(optimizer, type):
        hint = ": pass an optimizer that was constructed, not its class"
    elif any(base.__module__.startswith("torch.optim") for base in kind.__mro__):
        hint = (
            ": torch.optim's own optimizers are not supported yet; pellucid.torch has one for "
            "each of its rules, with the same arguments"
        )
    raise TypeError(
        f"view got {kind.__module__}.{kind.__qualname__}; allowed is a pellucid.numpy.Optimizer "
        f"or a pellucid.torch.Optimizer{hint}"
    )
