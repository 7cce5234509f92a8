"""Paths such as ``group 1/weight_decay``: which groups, which names.

A path splits at its last ``/``. On the left stands the optimizer's name (its class, or its
rule's), a group's name, or a pattern of parameters, looked for in that order; on the right a
canonical or a native name, of which canonical wins; what is neither may be torch's usual name
(``lr``). Without a left side all groups are meant.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from pellucid.access.errors import listed, no_such
from pellucid.access.sources import Group, Owner, Source
from pellucid.compose import matches

__all__ = ["Found", "Selected", "find", "known_names", "matching", "named", "select", "split"]


@dataclass(frozen=True)
class Selected:
    """A group that a path's left side names, and which of its parameters."""

    group: Group
    members: Sequence[str]
    whole: bool


@dataclass(frozen=True)
class Found:
    """What a path means in one group: one name, or the components of a tuple such as betas."""

    selected: Selected
    fulls: Sequence[str]
    name: str  # as it is shown: canonical, or the tuple's native name
    is_tuple: bool

    @property
    def path(self) -> str:
        return f"{self.selected.group.name}/{self.name}"


def split(path: str) -> tuple[str | None, str]:
    """The left side, None if there is none, and the name."""
    if not isinstance(path, str):
        raise TypeError(f"a path is text, such as 'group 0/learning_rate', got {path!r}")
    left, slash, name = path.rpartition("/")
    return (left if slash else None), name


def named(owners: Sequence[Owner], name: str | None) -> list[Owner]:
    """The parameter of this name; of a Keras model, the model's own name may be left out."""
    found = [owner for owner in owners if owner.label == name]
    if found or name is None:
        return found
    found = [owner for owner in owners if owner.label.endswith(f"/{name}")]
    return found if len(found) == 1 else []


def matching(groups: Sequence[Group], pattern: str) -> list[list[str]]:
    """Each group's parameters of a name pattern; a Keras model's own name may be left out."""
    found: list[list[str]] = []
    for one in (pattern, f"*/{pattern}"):
        found = [[name for name in group.members if matches(one, name)] for group in groups]
        if any(found):
            break
    return found


def select(source: Source, left: str | None, path: str) -> list[Selected]:
    """The groups that the left side of a path names."""
    groups = source.groups()
    if left is None or left == source.name:
        return [Selected(group, group.members, True) for group in groups]
    for attribute in ("optimizer", "rule", "name"):  # the first is of several optimizers
        named = [group for group in groups if getattr(group, attribute, None) == left]
        if named:
            return [Selected(group, group.members, True) for group in named]
    chosen = zip(groups, matching(groups, left), strict=True)
    found = [Selected(g, some, len(some) == len(g.members)) for g, some in chosen if some]
    if found:
        return found
    raise no_such(
        f"{path!r}: {left!r} is no optimizer, no group, and no pattern of a parameter's name",
        left,
        [
            source.name,
            *(group.rule for group in groups),
            *(group.name for group in groups),
            *(name for group in groups for name in group.members),
        ],
    )


def known_names(groups: Sequence[Group]) -> list[str]:
    """Canonical names of hyperparameters and options, then native ones."""
    canonical = [full for group in groups for full in group.names.places]
    native = [key for group in groups for key in group.names.native_keys()]
    return list(dict.fromkeys([*canonical, *native]))


def _usual(group: Group, name: str, known: Collection[str]) -> dict[str, str]:
    """What torch's usual name means in a group: torch's names, each with the group's own.

    Of ``lr`` it is one, of a tuple such as ``betas`` all components, or nothing.
    """
    from pellucid.torch.names import canonical_of

    table = canonical_of((group.rule,))
    parts = [native for native in table if native == name or native.startswith(f"{name}[")]
    needed = [one for one in parts if one != "betas[2]" or table[one] in known]
    whole = all(table[native] in known for native in needed)
    return {native: table[native] for native in needed} if whole else {}


def find(source: Source, path: str) -> list[Found]:
    """What a path of hyperparameters or options means, in each group that has it."""
    left, name = split(path)
    selected = select(source, left, path)
    canonical = [one for one in selected if name in one.group.names.places]
    if canonical:
        return [Found(one, (name,), name, False) for one in canonical]
    found = []
    for one in selected:
        places = one.group.names.places
        fulls = one.group.names.canonical(name)
        if fulls:
            first = places[fulls[0]]
            is_tuple = first.key == name and first.position is not None
        else:
            usual = _usual(one.group, name, places)
            fulls, is_tuple = [*usual.values()], name not in usual
        if fulls:
            found.append(Found(one, fulls, name if is_tuple else fulls[0], is_tuple))
    if found:
        return found
    groups = [one.group for one in selected]
    beginning = f"{path!r}: no hyperparameter or option {name!r}"
    if any(name in (*group.names.slots, *group.names.slots.values()) for group in groups):
        beginning += f"; it is state: view.state[{path!r}]"
    elif slots := [slot for g in groups for slot in _usual(g, name, g.names.slots).values()]:
        own = slots[0] if left is None else f"{left}/{slots[0]}"
        beginning += f"; here it is state of the name {slots[0]!r}: view.state[{own!r}]"
    elif left is not None and len(groups) < len(source.groups()):
        beginning += f" in {listed(group.name for group in groups)}"
    raise no_such(beginning, name, known_names(groups))
