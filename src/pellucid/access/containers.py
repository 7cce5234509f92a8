"""Arrays and numbers inside what a stranger keeps as a parameter's state, by name."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, MutableMapping, MutableSequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from pellucid.ops import is_number

__all__ = ["DEPTH", "Leaf", "inner", "leaves_of", "put_into", "refuse", "writable"]

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
    if is_number(old) and is_number(value):
        holder[key] = type(old)(value)
    elif hasattr(old, "fill_"):
        inner = old.detach() if hasattr(old, "detach") else old
        inner.copy_(value) if hasattr(value, "dtype") else inner.fill_(value)
    elif _is_numpy(old):
        old[...] = value
    else:
        refuse(str(key), value)


def refuse(name: str, value: Any) -> None:
    raise TypeError(f"{name} is no array and no number: change it yourself, not through a view")


def writable(put: Callable[[Any], None], held: Any) -> bool:
    """Whether what writes a piece of state is able to, whatever fits there."""
    function = getattr(put, "func", None)
    if function is put_into and is_number(held):
        return isinstance(put.args[0], (MutableMapping, MutableSequence))  # type: ignore[attr-defined]
    if _is_numpy(held):
        return bool(held.flags.writeable) and function is not refuse
    known = function not in (put_into, refuse)  # else a backend writes, which made the array
    return known or (function is put_into and hasattr(held, "fill_") and not _is_sparse(held))


def _is_numpy(array: Any) -> bool:
    """Whether it is one of NumPy's arrays, and none of its numbers."""
    return hasattr(getattr(array, "flags", None), "writeable") and hasattr(array, "__setitem__")


def _is_sparse(array: Any) -> bool:
    return "sparse" in str(getattr(array, "layout", ""))
