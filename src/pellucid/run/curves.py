"""What a schedule gives over the steps, without a trace of the asking."""

from __future__ import annotations

import dis
import functools
import math
import sys
import types
from collections.abc import Callable, Sequence
from typing import Any

__all__ = ["STEPS", "Uncalled", "curve_of", "is_schedule", "loud"]

STEPS = (
    0, 1, 2, 5, 10, 20, 30, 50, 75, 100, 150, 200, 300, 500, 750,
    1_000, 1_500, 2_000, 3_000, 5_000, 7_500, 10_000, 20_000, 50_000, 100_000,
)  # fmt: skip
"""Completed updates at which a curve is sampled."""

WRITES = ("STORE_GLOBAL", "STORE_DEREF", "STORE_ATTR", "STORE_SUBSCR", "STORE_SLICE", "DELETE_")
EFFECTS = frozenset([
    "random", "randint", "uniform", "normal", "randn", "rand", "choice", "print", "next", "append",
    "pop", "popleft", "update", "write", "add", "log", "send", "time", "perf_counter", "setdefault",
])  # fmt: skip
"""Names by which a function may draw random numbers, write or tell the time."""


class Uncalled(Exception):
    """A callable that is not asked; says why."""


def is_schedule(driver: Any) -> bool:
    """Whether a driver is a pure function of the step by its class."""
    ours = sys.modules.get("pellucid.schedules")
    keras = sys.modules.get("keras")
    schedules = getattr(getattr(keras, "optimizers", None), "schedules", None)
    theirs = getattr(schedules, "LearningRateSchedule", None)
    return (ours is not None and isinstance(driver, ours.Schedule)) or (
        theirs is not None and isinstance(driver, theirs)
    )


def loud(function: Any) -> str:
    """Why calling a function might leave a trace; nothing if it leaves none, as far as it tells."""
    if is_schedule(function):
        return ""
    if isinstance(function, functools.partial):
        return loud(function.func)
    if not isinstance(function, types.FunctionType):
        return f"{type(function).__qualname__} is a callable that may count its calls"
    code = function.__code__
    writes = [one.opname for one in dis.get_instructions(code) if one.opname.startswith(WRITES)]
    effects = sorted(EFFECTS.intersection(code.co_names))
    if writes:
        return "the function writes to something outside of it"
    return f"the function uses {effects[0]}" if effects else ""


def curve_of(driver: Callable[[Any], Any], steps: Sequence[int] = STEPS) -> dict[str, Any]:
    """A schedule's values at these counts of completed updates.

    Raises:
        Uncalled: asking might leave a trace, or fails.
    """
    why = loud(driver)
    if why:
        raise Uncalled(f"its curve is not sampled: {why}")
    try:
        values = [_number(driver(step)) for step in steps]
    except Exception as error:  # the function is a stranger's
        raise Uncalled(f"its curve cannot be sampled: {type(error).__name__}: {error}") from error
    return {"steps": list(steps), "values": values}


def _number(found: Any) -> float | str:
    if type(found).__module__.startswith(("tensorflow", "jax", "torch", "keras")):
        found = sys.modules["keras"].ops.convert_to_numpy(found) if "keras" in sys.modules else (
            found.item()
        )
    if hasattr(found, "dtype"):  # a float32: the shortest decimal that is rounded to it
        found = float(str(found.reshape(()).item() if found.dtype == float else found[()]))
    number = float(found)
    return number if math.isfinite(number) else str(number)
