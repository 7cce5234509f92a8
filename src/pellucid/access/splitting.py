"""Part of a group becomes a group of its own, and schedulers learn of it.

Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pellucid.access.rates import LAST, leaves, within

__all__ = ["split_store"]

LISTS = (
    "base_lrs", "max_lrs", "min_lrs", "lr_lambdas", "base_momentums", "max_momentums", LAST,
    "base_values", "warmup_steps", "restore_lr",
)  # fmt: skip
"""Lists of schedulers with an entry for each group."""


def split_store(
    groups: list[dict[str, Any]],
    index: int,
    chosen: Sequence[Any],
    label: str,
    scheduler: Any,
    scheduled: bool,
) -> dict[str, Any]:
    """Move parameters of the group number ``index`` into a new last group with equal values.

    ``scheduled``: whether a scheduler of torch has left its mark in the group.

    Raises:
        ValueError: a scheduler is at work that was not given, or that has no place for the group.
    """
    group = groups[index]
    if scheduler is None and scheduled:
        raise ValueError(
            f"param_groups[{index}] is driven by an LR scheduler (it has 'initial_lr'), which "
            "counts the groups: use pellucid.view(optimizer, scheduler=...), which tells it of the "
            "new one (or delete the key 'initial_lr', if none is at work)"
        )
    lists = list(_lists(scheduler, len(groups)))
    ids = {id(param) for param in chosen}
    stay = [n for n, param in enumerate(group["params"]) if id(param) not in ids]
    move = [n for n, param in enumerate(group["params"]) if id(param) in ids]
    made = {key: _own(value) for key, value in group.items() if key != "params"}
    made["params"] = [group["params"][n] for n in move]
    made["name"] = label
    names = group.get("param_names")
    if isinstance(names, (list, tuple)) and len(names) == len(group["params"]):
        made["param_names"] = [names[n] for n in move]
        group["param_names"] = [names[n] for n in stay]
    group["params"] = [group["params"][n] for n in stay]
    groups.append(made)
    for held in lists:
        held.append(held[index])
    return made


def _own(value: Any) -> Any:
    """A tensor of its own for the new group: the two are to be changed apart."""
    return value.detach().clone() if hasattr(value, "fill_") else value


def _lists(scheduler: Any, count: int) -> list[Any]:
    if scheduler is None:
        return []
    found: list[Any] = []
    for one in (within(scheduler), *leaves(scheduler)):
        for name in LISTS:
            held = getattr(one, name, None)
            if isinstance(held, list) and len(held) == count and not any(held is x for x in found):
                found.append(held)
    return found
