"""`param_groups` is the user's to change by hand: each step follows it, as torch's own classes do.

Parameters may be put in, taken out, replaced and moved between groups; groups may be reordered,
taken out, put back and replaced by other dicts.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from operator import is_
from typing import TYPE_CHECKING, Any

import torch

from pellucid.controls import Controls
from pellucid.fuse.engine import Entry
from pellucid.torch.names import names_of

if TYPE_CHECKING:
    from pellucid.torch.grouped import Grouped

__all__ = ["Shelved", "follow"]


@dataclass(frozen=True)
class Shelved:
    """What a group that was taken out had: it may be put back."""

    controls: Controls
    members: tuple[tuple[str, weakref.ref[Any]], ...]


def follow(optimizer: Grouped) -> None:
    """Bring controls and entries in line with ``param_groups``.

    Raises:
        ValueError, TypeError: what a group holds that it cannot; nothing was changed.
    """
    members = [_members(number, group) for number, group in enumerate(optimizer.param_groups)]
    if _unchanged(optimizer, members):
        return
    _check_once(members)
    known = {id(entry.param): entry.name for entry in optimizer.entries}
    former: list[list[Entry]] = [[] for _ in optimizer.controls]
    for entry in optimizer.entries:
        former[entry.group].append(entry)
    controls = _matched(optimizer, members, former)
    entries: list[Entry] = []
    for number, (group, params, found) in enumerate(
        zip(optimizer.param_groups, members, controls, strict=True)
    ):
        names = _names(optimizer, group, params, found, known, former)
        known |= {id(param): name for name, param in zip(names, params, strict=True)}
        for name, param in zip(names, params, strict=True):
            optimizer.check_param(name, param)
            entries.append(Entry(len(entries), name, param, number, found.pipeline))
    _shelve(optimizer, controls, former)
    for found, group in zip(controls, optimizer.param_groups, strict=True):
        found.store = group
    optimizer.controls[:], optimizer.entries[:] = controls, entries
    optimizer.forget_plans()


def _members(number: int, group: Any) -> Sequence[Any]:
    params = group.get("params") if isinstance(group, dict) else None
    if not isinstance(params, (list, tuple)):
        raise TypeError(
            f"param_groups[{number}] has no list of parameters under 'params': put one back"
        )
    return params


def _unchanged(optimizer: Grouped, members: list[Sequence[Any]]) -> bool:
    controls, entries = optimizer.controls, optimizer.entries
    stores = [one.store for one in controls]
    if len(stores) != len(members) or not all(map(is_, stores, optimizer.param_groups)):
        return False
    held = [(number, param) for number, params in enumerate(members) for param in params]
    return len(held) == len(entries) and all(
        entry.param is param and entry.group == number
        for entry, (number, param) in zip(entries, held, strict=True)
    )


def _check_once(members: list[Sequence[Any]]) -> None:
    seen: dict[int, int] = {}
    for number, params in enumerate(members):
        for param in params:
            if not isinstance(param, torch.Tensor):
                raise TypeError(
                    f"param_groups[{number}] holds {type(param).__name__}; allowed are tensors"
                )
            if id(param) in seen:
                raise ValueError(
                    f"a parameter of shape {tuple(param.shape)} is in param_groups[{number}] and "
                    f"in param_groups[{seen[id(param)]}]: give each parameter once"
                )
            seen[id(param)] = number


def _matched(
    optimizer: Grouped, members: list[Sequence[Any]], former: list[list[Entry]]
) -> list[Controls]:
    """The controls of each group: of the same dict, else of its parameters, else of its place."""
    groups, controls = optimizer.param_groups, optimizer.controls
    found: list[Controls | None] = [None] * len(groups)
    free = list(range(len(controls)))

    def take(number: int, candidates: list[int]) -> None:
        if found[number] is None and candidates:
            found[number] = controls[candidates[0]]
            free.remove(candidates[0])

    for number, group in enumerate(groups):
        take(number, [n for n in free if controls[n].store is group])
    owners = {id(entry.param): entry.group for entry in optimizer.entries}
    for number, params in enumerate(members):
        take(number, [n for p in params for n in free if owners.get(id(p)) == n])
    if len(groups) == len(controls):
        for number in range(len(groups)):
            take(number, [n for n in free if n == number])
    return [
        one if one is not None else _put_back(optimizer, groups[number], members[number])
        for number, one in enumerate(found)
    ]


def _put_back(optimizer: Grouped, group: dict[str, Any], params: Sequence[Any]) -> Controls:
    """The controls of a group that was taken out before, or of a new one."""
    for shelved in optimizer.shelf:
        if any(held() is param for _, held in shelved.members for param in params):
            return shelved.controls
    names = group.get("param_names", [f"param_{n}" for n in range(len(params))])
    pipelines = {id(one): one for one in map(optimizer.pipeline_of, names, params)}
    if len(pipelines) != 1:
        raise ValueError(
            "a group was put into param_groups that no single rule takes: use add_param_group"
        )
    (pipeline,) = pipelines.values()
    label = optimizer.free_label()
    made = Controls(label, pipeline, names_of(pipeline), {}, pipeline.given, optimizer.journal)
    made.drivers.clear()
    made.store = group
    made.loaded()
    made.enter(optimizer.updates)
    return made


def _names(
    optimizer: Grouped,
    group: dict[str, Any],
    params: Sequence[Any],
    controls: Controls,
    known: dict[int, str],
    former: list[list[Entry]],
) -> list[str]:
    """The names of a group's parameters: its own list, else what they or their places had."""
    given = group.get("param_names")
    if given is not None and len(given) == len(params):
        return list(given)
    known = dict(known)
    for shelved in optimizer.shelf:
        known |= {id(held()): name for name, held in shelved.members if held() is not None}
    before = next((former[n] for n, one in enumerate(optimizer.controls) if one is controls), [])
    in_place = [entry.name for entry in before] if len(before) == len(params) else []
    taken = set(known.values())
    unused = (name for name in map("param_{}".format, count()) if name not in taken)
    names = []
    for number, param in enumerate(params):
        name = known.get(id(param)) or (in_place[number] if in_place else next(unused))
        names.append(name)
        known[id(param)] = name
    return names


def _shelve(
    optimizer: Grouped, controls: list[Controls], former: list[list[Entry]]
) -> None:
    """Keep what groups that are gone had, but not their parameters."""
    optimizer.shelf = [one for one in optimizer.shelf if one.controls not in controls]
    for number, one in enumerate(optimizer.controls):
        if one not in controls:
            members = tuple((entry.name, weakref.ref(entry.param)) for entry in former[number])
            one.store = {}
            optimizer.shelf.append(Shelved(one, members))
