"""Which groups and parameters of two optimizers belong together, and which values agree."""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Mapping, Sequence
from typing import Any

from pellucid.access.plain import counted, number_of
from pellucid.access.sources import Group, Owner, Source
from pellucid.declare import Ref

__all__ = [
    "Pairs", "Side", "aligned_groups", "aligned_parameters", "same", "with_shared_parameters",
]  # fmt: skip

UNNAMED = re.compile(r"group \d+")
"""Names of groups that say nothing but the position."""


class Side:
    """One optimizer, read once."""

    def __init__(self, source: Source) -> None:
        self.source, self.updates = source, source.updates
        self.groups = list(source.groups())
        self.names: dict[int, str] = {group.index: group.name for group in self.groups}
        self.owners = {owner.label: owner for owner in source.owners()}
        self.members: dict[int, list[str]] = {group.index: [] for group in self.groups}
        for label, owner in self.owners.items():
            self.members.setdefault(owner.group, []).append(label)
        rules = ", ".join(dict.fromkeys(group.rule for group in self.groups))
        several = source.optimizer if isinstance(source.optimizer, list) else [source.optimizer]
        module = ", ".join(dict.fromkeys(type(one).__module__ for one in several))
        name = source.name if rules == source.name else f"{source.name} of {rules}"
        counts = counted(len(self.owners), "parameter"), counted(self.updates, "update")
        self.title = f"{name} ({module}), {', '.join(counts)}"


Pairs = list[tuple[Group, Group]]


def aligned_parameters(a: Side, b: Side) -> list[tuple[Owner, Owner]]:
    """Parameters of both: by name, or by position where no name is in common."""
    both = [label for label in a.owners if label in b.owners]
    if both or len(a.owners) != len(b.owners):
        return [(a.owners[label], b.owners[label]) for label in both]
    return list(zip(a.owners.values(), b.owners.values(), strict=True))


def aligned_groups(a: Side, b: Side, parameters: Sequence[tuple[Owner, Owner]]) -> Pairs:
    """By name, else by the parameters that they have in common, else by position."""
    found: Pairs = []
    left = {group.index: group for group in a.groups}
    right = {group.index: group for group in b.groups}

    def pair(one: Group, other: Group) -> None:
        found.append((left.pop(one.index), right.pop(other.index)))

    for group in a.groups:
        namesakes = [other for other in right.values() if other.name == group.name]
        if namesakes and not UNNAMED.fullmatch(group.name):
            pair(group, namesakes[0])
    common: dict[tuple[int, int], int] = {}
    for one, other in parameters:
        key = one.group, other.group
        common[key] = common.get(key, 0) + 1
    sizes = [{index: len(inside) for index, inside in side.members.items()} for side in (a, b)]
    for i, j in sorted(common, key=lambda key: -common[key] / _union(key, common[key], *sizes)):
        if i in left and j in right:
            pair(left[i], right[j])
    for rest in zip(list(left.values()), list(right.values()), strict=False):
        pair(*rest)
    return sorted(found, key=lambda groups: groups[0].index)


def _union(
    key: tuple[int, int], common: int, left: Mapping[int, int], right: Mapping[int, int]
) -> int:
    return left[key[0]] + right[key[1]] - common


def with_shared_parameters(
    aligned: Pairs, a: Side, b: Side, parameters: Sequence[tuple[Owner, Owner]]
) -> Pairs:
    """Aligned groups, and others that have a parameter in common: its values may differ, too."""
    left = {group.index: group for group in a.groups}
    right = {group.index: group for group in b.groups}
    found = {(one.index, other.index): (one, other) for one, other in aligned}
    for one, other in parameters:
        key = one.group, other.group
        if key not in found and key[0] in left and key[1] in right:
            found[key] = left[key[0]], right[key[1]]
    return list(found.values())


# -- values ------------------------------------------------------------------------------------


def same(left: Any, right: Any) -> bool:
    """Whether two values of any kind agree; numbers of any type by value.

    A number that was held in float32 agrees with the number that was rounded to it.

    >>> import numpy
    >>> same(1, 1.0), same(0.1, numpy.float32(0.1)), same(0.1, 0.1000001), same(None, 0)
    (True, True, False, False)
    """
    if left is right:
        return True
    if isinstance(left, Ref) or isinstance(right, Ref):
        return type(left) is type(right) and bool(left == right)
    numbers = number_of(left), number_of(right)
    if numbers[0] is not None and numbers[1] is not None:
        return _same_number(float(numbers[0]), float(numbers[1]))
    if numbers[0] is not None or numbers[1] is not None:
        return False
    try:
        lists = [one.tolist() if hasattr(one, "dtype") else one for one in (left, right)]
        if all(isinstance(one, (tuple, list)) for one in lists):
            return len(lists[0]) == len(lists[1]) and all(map(same, *lists))
        return bool(left == right)
    except Exception:  # objects that cannot be compared
        return False


def _same_number(left: float, right: float) -> bool:
    if left == right or (math.isnan(left) and math.isnan(right)):
        return True
    rounded = _single(left), _single(right)
    if rounded[0] is None or rounded[0] != rounded[1]:
        return False
    # a number of float32 shows: in float64 it has many digits
    return any(one == rounded[0] and len(repr(one)) > 12 for one in (left, right))


def _single(number: float) -> float | None:
    try:
        return float(struct.unpack("f", struct.pack("f", number))[0])
    except (OverflowError, ValueError):
        return None
