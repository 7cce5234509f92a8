"""When a metric has stopped improving."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

__all__ = ["Plateau", "direction_of"]

Mode = Literal["min", "max"]
MODES = ("min", "max")
GROWING = ("acc", "accuracy", "auc", "f1", "precision", "recall", "score", "r2")
"""How names of metrics end that are better the larger they are."""


def direction_of(mode: str, monitor: str = "") -> Mode:
    """``"min"`` or ``"max"``; of ``"auto"`` what the metric's name says.

    Raises:
        ValueError: the mode is none of the three.
    """
    if mode == "auto" and monitor:
        return "max" if monitor.lower().endswith(GROWING) else "min"
    if mode == "min" or mode == "max":
        return "min" if mode == "min" else "max"
    auto = ", 'auto'" if monitor else ""
    raise ValueError(f"mode is {mode!r}; allowed are 'min', 'max'{auto}")


@dataclass
class Plateau:
    """Counts how long a metric has not improved.

    An improvement is better than the best so far by more than ``min_delta``; NaN is none. After
    ``patience`` metrics without one, `step` is true; the next ``cooldown`` metrics do not count.
    """

    mode: Mode = "min"
    patience: int = 10
    min_delta: float = 1e-4
    cooldown: int = 0
    best: float = field(init=False)
    waited: int = field(init=False, default=0)
    cooling: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self.mode = direction_of(self.mode)
        self.best = math.inf if self.mode == "min" else -math.inf
        for name, least in (("patience", 0), ("cooldown", 0)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ValueError(f"{name} is {value!r}; allowed is a whole number from {least}")
        if not self.min_delta >= 0:
            raise ValueError(f"min_delta is {self.min_delta!r}; allowed is a number from 0")

    def step(self, metric: float) -> bool:
        """Take the next metric; whether it is time to do something."""
        cooling, self.cooling = self.cooling, max(self.cooling - 1, 0)
        gain = self.best - metric if self.mode == "min" else metric - self.best
        if gain > self.min_delta:
            self.best, self.waited = float(metric), 0
            return False
        if cooling:
            return False
        self.waited += 1
        if self.waited < max(self.patience, 1):
            return False
        self.waited, self.cooling = 0, self.cooldown
        return True

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "waited": self.waited, "cooling": self.cooling}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best, self.waited = float(state["best"]), int(state["waited"])
        self.cooling = int(state["cooling"])
