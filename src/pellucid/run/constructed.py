"""Defaults of constructors, and which values are settings."""

from __future__ import annotations

import datetime
import enum
import inspect
import os
import types
from typing import TYPE_CHECKING, Any

from pellucid.ops import is_number
from pellucid.run.plain import is_array

if TYPE_CHECKING:
    from pellucid.run.record import Provenance

__all__ = ["BadArgument", "defaults_of", "is_setting", "provenance"]

NOTHING: Any = inspect.Parameter.empty
SMALL = 100  # entries of a container that counts as a setting


class BadArgument(TypeError):
    """The user gave something that is not allowed there."""


def defaults_of(kind: type) -> dict[str, Any]:
    """The arguments of a class's constructor with their defaults, those of its bases included.

    An argument without a default has `inspect.Parameter.empty`.
    """
    found: dict[str, Any] = {}
    bases: list[Any] = [kind]
    if "__signature__" not in vars(kind):
        bases = [vars(base)["__init__"] for base in kind.__mro__[:-1] if "__init__" in vars(base)]
    for made in bases:
        try:
            given = inspect.signature(made).parameters.values()
        except (TypeError, ValueError):
            continue
        for one in given:
            if one.kind in (one.VAR_POSITIONAL, one.VAR_KEYWORD) or one.name == "self":
                continue
            found.setdefault(one.name, one.default)
        if not any(one.kind is one.VAR_KEYWORD for one in given):
            break
    return found


def is_setting(value: Any, level: int = 0) -> bool:
    """Whether a value is one that a user gives: a number, a text, a function, a few of these."""
    if value is None or isinstance(value, (bool, str, enum.Enum, os.PathLike)) or is_number(value):
        return True
    if isinstance(value, (datetime.timedelta, types.FunctionType, type)):
        return True
    if is_array(value):
        return not tuple(value.shape)
    if type(value).__module__ == "torch":
        return type(value).__name__ in ("dtype", "device")
    if isinstance(value, dict):
        return level < 2 and len(value) <= SMALL and all(
            is_setting(one, level + 1) for one in value.values()
        )
    if isinstance(value, (list, tuple, set, frozenset)):
        return level < 2 and len(value) <= SMALL and all(
            is_setting(one, level + 1) for one in value
        )
    return False


def provenance(value: Any, default: Any) -> Provenance:
    """``default`` for a value that equals the class's own."""
    if default is NOTHING:
        return "observed"
    try:
        same = value is default or (type(value) is type(default) and bool(value == default))
        if is_number(value) and is_number(default):
            same = float(value) == float(default)
    except Exception:  # a stranger's ==
        same = False
    return "default" if same else "observed"
