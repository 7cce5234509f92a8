"""What drives a hyperparameter: schedules, and callables as functions of the completed updates."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras

from pellucid.declare import Ref, is_scalar_array
from pellucid.keras.host_values import number_of
from pellucid.ops import is_number
from pellucid.schedules import Schedule

__all__ = ["WithoutCount", "as_driver", "number_of_call"]


@dataclass(frozen=True)
class WithoutCount:
    """A callable without arguments, as Keras has them for learning rates, as one of the step."""

    function: Callable[[], Any]

    def __call__(self, count: Any) -> float:
        return number_of(self.function())

    def get_config(self) -> dict[str, Any]:
        raise ValueError(f"{self.function!r} is a plain callable: it has no configuration")


def as_driver(value: Any) -> Any:
    """A callable as what is called with the number of completed updates."""
    if isinstance(value, (Schedule, keras.optimizers.schedules.LearningRateSchedule, Ref)):
        return value
    if not callable(value) or isinstance(value, type) or is_scalar_array(value):
        return value
    try:
        inspect.signature(value).bind(0)
    except TypeError:
        return WithoutCount(value)
    except ValueError:  # a builtin that tells no signature
        return value
    return value


def number_of_call(driver: Any, updates: int) -> float:
    """What a schedule gives for the update after ``updates`` completed ones."""
    value = driver(updates)
    return float(value) if is_number(value) else number_of(value)
