"""Which parameter of a file is which one here: by name where both have names, else by position."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pellucid.torch.files import File, SavedParameter, quoted

if TYPE_CHECKING:
    from pellucid.torch.grouped import Grouped

__all__ = ["WRAPPERS", "Pairing", "paired", "unwrapped"]

WRAPPERS: Mapping[str, str] = {
    "module": "DataParallel, DistributedDataParallel, AveragedModel",
    "_orig_mod": "torch.compile",
    "_fsdp_wrapped_module": "FullyShardedDataParallel",
    "_checkpoint_wrapped_module": "checkpoint_wrapper",
}
"""Parts of a parameter's name that a wrapper of its module adds, and whose they are."""


@dataclass(frozen=True)
class Pairing:
    """What stands for what."""

    by: str  # "name" or "position"
    saved: Sequence[SavedParameter | None]  # for each parameter here; None: the file has none
    left: Sequence[SavedParameter]  # of the file: they are not here


def unwrapped(name: str) -> str:
    """A parameter's name without what wrappers of modules add, anywhere in it.

    >>> unwrapped("module.encoder._orig_mod.weight")
    'encoder.weight'
    """
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def paired(optimizer: Grouped, file: File) -> Pairing:
    """The parameters of a file and those here.

    Raises:
        ValueError: names that cannot be told apart; by position, what differs in the groups.
    """
    here = [entry.name for entry in optimizer.entries]
    named = any("param_names" in group for group in optimizer.param_groups)
    if file.named and named and len(set(here)) == len(here):
        return _by_name(here, file)
    return _by_position(optimizer, file)


def _check_once(file: File) -> None:
    """Raise if a file lists a parameter twice."""
    keys = Counter(one.key for one in file.parameters)
    for key, count in keys.items():
        if count > 1:
            raise ValueError(
                f"loaded state dict lists the parameter {key!r} {count} times; allowed is once"
            )


def _by_name(here: Sequence[str], file: File) -> Pairing:
    _check_once(file)
    names = [one.name or "" for one in file.parameters]
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise ValueError(
            f"loaded state dict has two parameters named {twice[0]!r}: correct its 'param_names', "
            "or remove that key of each group to load by position"
        )
    there = dict(zip(names, file.parameters, strict=True))
    taken = {name: name for name in here if name in there}
    bare_here, bare_there = _by_bare_name(here), _by_bare_name(names)
    for bare, mine in bare_here.items():
        if all(name in taken for name in mine):
            continue
        theirs = bare_there.get(bare, [])
        if not [name for name in theirs if name not in taken]:
            continue
        if len(mine) > 1 or len(theirs) > 1:
            raise ValueError(
                f"loaded state dict has {quoted(theirs)} where {quoted(mine)} is here: without "
                f"what wrappers add ({', '.join(WRAPPERS)}) these are the same name; rename what "
                "differs in its 'param_names'"
            )
        taken[mine[0]] = theirs[0]
    used = set(taken.values())
    return Pairing(
        "name",
        [there[taken[name]] if name in taken else None for name in here],
        [one for one in file.parameters if one.name not in used],
    )


def _by_bare_name(names: Iterable[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name in names:
        found.setdefault(unwrapped(name), []).append(name)
    return found


def _by_position(optimizer: Grouped, file: File) -> Pairing:
    own = optimizer.param_groups
    if len(file.groups) != len(own):
        raise ValueError(
            "loaded state dict has a different number of parameter groups: "
            f"{len(file.groups)} in the file, {len(own)} here; build the optimizer with the same "
            "groups, or with named parameters (a model), and save with such"
        )
    for number, (saved, mine) in enumerate(zip(file.groups, own, strict=True)):
        if saved.count != len(mine["params"]):
            raise ValueError(
                "loaded state dict contains a parameter group that doesn't match the size of "
                f"optimizer's group: group {number} has {saved.count} parameters in the file, "
                f"{len(mine['params'])} here"
            )
    _check_once(file)
    return Pairing("position", list(file.parameters), [])
