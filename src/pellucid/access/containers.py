"""Arrays and numbers inside what a stranger keeps as a parameter's state, by name."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from pellucid.ops import is_number

__all__ = ["DEPTH", "Leaf", "inner", "leaves_of", "put_into", "refuse"]

DEPTH = 4  # of containers inside each other


@dataclass(frozen=True)
class Leaf:
    name: str
    value: Any
    put: Callable[[Any], None]


def leaves_of(held: Mapping[Any, Any], before: str, depth: int) -> Iterator[Leaf]:
    for key, value in held.items():
        name = f"{before}{key}"
        yield from inner(Leaf(name, value, partial(put_into, held, key, value)), depth)


def inner(leaf: Leaf, depth: int) -> Iterator[Leaf]:
    """What a container or an object of the state holds: ``Q[0]``, ``0.exp_avg``, ``root.basis``."""
    inside = _fields(leaf.value)
    if isinstance(leaf.value, Mapping) and depth:
        yield from leaves_of(leaf.value, f"{leaf.name}.", depth - 1)
    elif inside and depth:
        found = [*leaves_of(inside, f"{leaf.name}.", depth - 1)]
        kept = [one for one in found if hasattr(one.value, "dtype")]
        yield from kept or [leaf]
    elif isinstance(leaf.value, (list, tuple, deque)) and depth:
        for number, value in enumerate(leaf.value):
            put = partial(put_into, leaf.value, number, value)
            yield from inner(Leaf(f"{leaf.name}[{number}]", value, put), depth - 1)
    else:
        yield leaf


def _fields(value: Any) -> Mapping[str, Any]:
    """The attributes of an object that is no array, no class and no function."""
    if hasattr(value, "dtype") or isinstance(value, type) or hasattr(value, "__code__"):
        return {}
    return getattr(value, "__dict__", {})


def put_into(holder: Any, key: Any, old: Any, value: Any) -> None:
    """Write a checked value: into an array, or in a number's place."""
    if hasattr(old, "dtype"):
        inner = old.detach() if hasattr(old, "detach") else old
        inner.copy_(value) if hasattr(value, "dtype") else inner.fill_(value)
    elif is_number(old) and is_number(value):
        if isinstance(old, int) and value != int(value):
            raise ValueError(f"{key!r} is a whole number, given {value!r}")
        holder[key] = type(old)(value)
    else:
        refuse(str(key), value)


def refuse(name: str, value: Any) -> None:
    raise TypeError(f"{name} is no array and no number: change it yourself, not through a view")
