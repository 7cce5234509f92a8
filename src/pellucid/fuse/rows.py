"""Gradients of some rows of a parameter, as embeddings have them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ["Rows"]


@dataclass(frozen=True, eq=False)
class Rows:
    """Some rows of a gradient; the others are zero."""

    numbers: Any  # int64[n], each once, in any order: which rows
    places: Any  # int64[n]: where in ``values`` each of them lies
    values: Any  # the framework's array, (at least n, ...) in the order of its axes

    def gradient(self) -> Any:
        """The rows alone, in the order of ``numbers``."""
        return self.values[self.places]
