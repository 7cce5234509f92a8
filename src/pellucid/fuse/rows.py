"""Gradients of some rows of a parameter, as embeddings have them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ["Rows"]


@dataclass(frozen=True, eq=False)
class Rows:
    """Some rows of a gradient; the others are zero."""

    numbers: Any  # int64[n], ascending, each once: which rows
    values: Any  # the framework's array, (n, ...) in the order of its axes
