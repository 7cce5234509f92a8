"""Plain functions of (gradient, variable) pairs, checked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras

from pellucid.inputs import transformed
from pellucid.keras.core import path_of
from pellucid.keras.sparse import is_sparse

__all__ = ["checked"]


def checked(function: Callable[..., Any], pairs: list[tuple[Any, Any]]) -> list[tuple[Any, Any]]:
    """What a function makes of pairs; those that it leaves out skip their variables.

    Raises:
        TypeError, ValueError: it gave no pairs, foreign or doubled ones, or another shape.
    """
    name = getattr(function, "__name__", repr(function))
    before = {id(variable): _value(variable) for _, variable in pairs}
    kept = transformed(function, pairs, _name_of, "variable")
    for gradient, variable in kept:
        _check_shape(name, gradient, variable)
    for _, variable in pairs:
        if before[id(variable)] is not _value(variable):
            raise ValueError(
                f"the gradient transformer {name} changed the variable {path_of(variable)!r}: "
                "change gradients only; a ParameterTransform changes parameters"
            )
    return kept


def _name_of(variable: Any) -> str | None:
    """The name of a Keras or TensorFlow variable; None of anything else."""
    return path_of(variable) if hasattr(variable, "assign") else None


def _check_shape(name: str, gradient: Any, variable: Any) -> None:
    shape = None if is_sparse(gradient) else getattr(gradient, "shape", None)
    if shape is not None and tuple(shape) != tuple(variable.shape):
        raise ValueError(
            f"the gradient transformer {name} gave a gradient of shape {tuple(shape)} for "
            f"{path_of(variable)!r}, whose shape is {tuple(variable.shape)}"
        )


def _value(variable: Any) -> Any:
    """What an assignment to a variable would replace, where the backend tells."""
    if keras.backend.backend() == "jax" and isinstance(variable, keras.Variable):
        return variable.value
    return None
