"""What a load of a state dict did, or would do: a table of lines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pellucid.drawn import Drawn

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ["LoadReport"]

SHOWN = 3
"""How many names stand in a line."""


@dataclass(frozen=True, repr=False)
class LoadReport(Drawn):
    """What `Optimizer.load_state_dict` did with a state dict, or with ``dry_run`` would do.

    Args:
        by: how parameters were matched: ``"name"`` or ``"position"``; empty where the state dict
            could not be read that far.
        matched: the file's parameter, by the name of the one here.
        missing: parameters here that are not in the file: their state begins anew.
        dropped: what the file has and nothing here takes: parameters, slots as
            ``parameter/slot``, hyperparameters of stages as ``group/name``.
        begun: matched parameters whose state begins anew, or ``parameter/slot``, and why.
        types: ``parameter/slot``: the dtype, kept as it is in the file, and that of a new slot.
        changed: ``group/hyperparameter``: the value before, and that of the file.
        kept: ``group/hyperparameter`` that stays as it is here, and why.
        problems: why it is refused; empty: it is loaded.
        dry_run: nothing was changed.
    """

    by: str = ""
    matched: Mapping[str, str] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    begun: Mapping[str, str] = field(default_factory=dict)
    types: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    changed: Mapping[str, tuple[Any, Any]] = field(default_factory=dict)
    kept: Mapping[str, str] = field(default_factory=dict)
    problems: tuple[str, ...] = ()
    dry_run: bool = False

    @property
    def ok(self) -> bool:
        """Whether the state dict is taken."""
        return not self.problems

    def summary(self) -> str:
        """One line: how many parameters are matched, and what becomes of it."""
        count = len(self.matched)
        every = count + len(self.missing)
        matched = f"{count} of {every} parameters matched by {self.by}" if self.by else "not read"
        done = "would be loaded" if self.dry_run else "loaded"
        return f"{matched}: {done if self.ok else 'refused'}"

    def rows(self) -> list[tuple[str, str, str]]:
        """The lines but problems: what, which, how; those with the same what and how are one."""
        found: dict[tuple[str, str], list[str]] = {}

        def add(what: str, which: str, how: str = "") -> None:
            found.setdefault((what, how), []).append(which)

        other = {here: there for here, there in self.matched.items() if here != there}
        for here in other if self.by == "name" else ():
            add("matched", here, f"wrapped otherwise in the file: {next(iter(other.values()))}")
        for name in self.missing:
            add("missing", name, "not in the file: begins anew")
        for name, why in self.begun.items():
            add("begins anew", name, why)
        for name in self.dropped:
            add("dropped", name, "in the file: nothing here takes it")
        for name, (kept, new) in self.types.items():
            add("dtype", name, f"{kept}, as in the file; a new slot is {new}")
        for name, (old, new) in self.changed.items():
            add("changed", name, f"{_short(old)} → {_short(new)}")
        for name, why in self.kept.items():
            add("kept", name, why)
        return [(what, _names(some), how) for (what, how), some in found.items()]

    def _draw(self, width: int, ascii_only: bool) -> RenderableType:
        from pellucid.access.lines import lines

        return lines(self.summary(), self.problems, self.rows(), ascii_only)


def _names(some: list[str]) -> str:
    more = f", ... {len(some)} in all" if len(some) > SHOWN else ""
    return ", ".join(some[:SHOWN]) + more


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
