"""What the sources of all frameworks check and name alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pellucid.access.sources import Assignment

__all__ = ["check_sharing", "is_scheduled", "labels", "model_names"]

OWN_RATE = frozenset(["FlashAdamW"])
"""Classes that put ``initial_lr`` into their groups themselves."""


def model_names(model: Any) -> dict[int, str]:
    """The names of a model's parameters by their identity; of shared ones the first."""
    if model is None:
        return {}
    named = getattr(model, "named_parameters", None)
    if named is None:
        hint = ": give a scheduler as scheduler=..." if hasattr(model, "get_last_lr") else ""
        raise TypeError(
            f"model is {type(model).__name__}; allowed is a torch module (it has "
            f"named_parameters()){hint}"
        )
    found: dict[int, str] = {}
    for name, param in named():
        found.setdefault(id(param), name)
    return found


def labels(given: Sequence[Any]) -> list[str]:
    """A different name for each group: its own if it has one, else ``group 0``, ``group 1``."""
    found: list[str] = []
    for number, name in enumerate(given):
        label = begun = name if isinstance(name, str) and name else f"group {number}"
        while label in found:
            label, number = f"{begun} ({number})", number + 1
        found.append(label)
    return found


def is_scheduled(optimizer: Any, group: Mapping[str, Any], key: str) -> bool:
    """Whether a key of a group shows that a scheduler of torch is at work.

    Of classes that have that key anyway, torch's mark at ``step`` tells.
    """
    own = key == "initial_lr" and type(optimizer).__name__ in OWN_RATE
    return key in group and (not own or hasattr(optimizer.step, "_wrapped_by_lr_sched"))


def check_sharing(assignments: Sequence[Assignment], groups: Sequence[Any]) -> None:
    """Raise if a number would go into a tensor that a group which is not named holds too."""
    named = {(one.group.index, one.full) for one in assignments}
    for one in assignments:
        own: Any = one.group
        held = own.raw(one.full)
        if not hasattr(held, "fill_") or hasattr(one.value, "dtype"):
            continue
        for group in groups:
            if one.full not in group.names.places or (group.index, one.full) in named:
                continue
            if group.raw(one.full) is held:
                raise ValueError(
                    f"{own.name}/{one.full} is a tensor that {group.name!r} holds "
                    "too: give this group one of its own, such as torch.tensor("
                    f"{one.value!r}), or change both"
                )
