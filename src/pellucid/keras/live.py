"""Keras's own numbers that a step reads: plain attributes, frozen when it is compiled."""

from __future__ import annotations

from typing import Any

from pellucid.declare import HyperparameterError
from pellucid.ops import is_number

__all__ = ["LIVE", "live_number"]

LIVE: dict[str, tuple[str, Any]] = {
    "ema_momentum": ("a number from 0 to 1", lambda x: is_number(x) and 0 <= x <= 1),
    "loss_scale_factor": (
        "None or a finite number above 0",
        lambda x: x is None or (is_number(x) and 0 < x < float("inf")),
    ),
    "ema_overwrite_frequency": (
        "None or a whole number from 1",
        lambda x: x is None or (isinstance(x, int) and not isinstance(x, bool) and x >= 1),
    ),
}
"""What is allowed of each, in words and as a condition."""


def live_number(where: str, name: str, value: Any) -> Any:
    """A value that is allowed.

    Raises:
        HyperparameterError: it is not; a schedule is none of these.
    """
    words, holds = LIVE[name]
    if not holds(value):
        more = "; for a schedule, `average_weights(decay=...)` is a stage" if (
            callable(value) and name == "ema_momentum"
        ) else ""
        raise HyperparameterError(f"{where} is {value!r}; allowed is {words}{more}")
    return value
