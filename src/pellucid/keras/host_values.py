"""What Variables and arrays hold, as NumPy's arrays and Python's numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import keras
import numpy

from pellucid.declare import HyperparameterError
from pellucid.keras.distributed import one_copy

if TYPE_CHECKING:
    from pellucid.keras.hypers import Hyperparameter

__all__ = ["number_of", "on_host", "plain_number"]


def number_of(value: Any) -> float:
    """The number that a float32 stands for: the shortest decimal that is rounded to it."""
    return float(str(on_host(value).reshape(())[()]))


def on_host(value: Any) -> Any:
    """A Variable's or an array's content as a NumPy array."""
    held = value.value if isinstance(value, keras.Variable) else value
    return numpy.asarray(keras.ops.convert_to_numpy(one_copy(held)))


def plain_number(value: Any, owner: Hyperparameter) -> Any:
    """The number that a Variable or an array stands for; anything else as it is.

    Raises:
        HyperparameterError: an array of several numbers, or of none.
    """
    if isinstance(value, keras.Variable):
        value = value.value
    if isinstance(value, (list, tuple)) or (
        hasattr(value, "dtype") and not callable(value) and not isinstance(value, type)
    ):
        array = numpy.asarray(value) if isinstance(value, (list, tuple)) else on_host(value)
        if array.size != 1 or (
            array.dtype.kind not in "iuf" and str(array.dtype) != "bfloat16"
        ):
            raise HyperparameterError(
                f"{owner.where} is {value!r:.80}; allowed is one number: "
                f"{owner.declared.allowed()}"
            )
        return number_of(array)
    return value
