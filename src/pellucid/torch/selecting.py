"""Which parameters of an optimizer are meant: by identity, name, or pattern of names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from pellucid.compose import matches
from pellucid.fuse.engine import Entry

__all__ = ["one_of", "some_of"]


def one_of(entries: Sequence[Entry], which: Any) -> Entry:
    """The parameter that is given itself or by its full name.

    Raises:
        UnknownNameError: (a KeyError) there is none of that name; the text gives names.
        ValueError, TypeError: the tensor is not in the optimizer, or the name stands for several.
    """
    if isinstance(which, torch.Tensor):
        for entry in entries:
            if entry.param is which:
                return entry
        raise ValueError(
            f"the tensor of shape {tuple(which.shape)} is none of the optimizer's parameters: give "
            "one of them, or its name"
        )
    if not isinstance(which, str):
        raise TypeError(f"param is {which!r}; allowed is one of the parameters, or its name")
    found = [entry for entry in entries if entry.name == which]
    if not found:
        raise _unknown(entries, f"no parameter is named {which!r}", which)
    if len(found) > 1:
        raise ValueError(f"{len(found)} parameters are named {which!r}: give the tensor itself")
    return found[0]


def some_of(entries: Sequence[Entry], which: Any) -> list[Entry]:
    """The parameters that are given themselves, by name or pattern, or as a list of these.

    Args:
        which: a parameter; its full name; a pattern (``fnmatch`` on full names: ``*`` crosses
            dots); a predicate ``(name, parameter) -> bool``; or a list of these.

    Raises:
        UnknownNameError: (a KeyError) a pattern matches nothing; the text gives names.
        ValueError, TypeError: as `one_of`.
    """
    several = list(which) if isinstance(which, (list, tuple)) else [which]
    if not several:
        raise ValueError("pattern is an empty list: name at least one parameter")
    chosen: set[int] = set()
    for one in several:
        if isinstance(one, torch.Tensor):
            chosen.add(id(one_of(entries, one)))
            continue
        if not isinstance(one, str) and not callable(one):
            raise TypeError(
                f"pattern is {one!r}; allowed is a pattern of names such as 'encoder.*', a "
                "parameter, a predicate (name, parameter) -> bool, or a list of these"
            )
        found = [e for e in entries if e.name == one]  # a name may have brackets
        found = found or [e for e in entries if matches(one, e.name, e.param)]
        if not found:
            raise _unknown(entries, f"no parameter's name matches {one!r}", str(one))
        chosen.update(map(id, found))
    return [entry for entry in entries if id(entry) in chosen]


def _unknown(entries: Sequence[Entry], beginning: str, name: str) -> Exception:
    from pellucid.access.errors import no_such

    return no_such(beginning, name, [entry.name for entry in entries])
