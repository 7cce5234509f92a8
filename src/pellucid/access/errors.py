"""A name that is not there: the error says which there are."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = ["UnknownNameError", "listed", "no_such"]

SHOWN = 30


class UnknownNameError(KeyError):
    """A path names nothing; the text gives near matches and the known names."""

    def __str__(self) -> str:
        return str(self.args[0])  # KeyError's own text is the repr: one line, in quotes


def no_such(beginning: str, name: str, known: Iterable[str]) -> UnknownNameError:
    """The error for ``name``: what is wrong, near matches, and what is known."""
    names = list(dict.fromkeys(known))
    near = difflib.get_close_matches(name, names, n=3)
    hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
    return UnknownNameError(f"{beginning}{hint} (known: {listed(names)})")


def listed(names: Iterable[str]) -> str:
    """Names in one line, the first ones if there are many."""
    every = list(names)
    more = f", ... {len(every)} in all" if len(every) > SHOWN else ""
    return ", ".join(every[:SHOWN]) + more if every else "none"
