"""Plain functions of (gradient, variable) pairs, checked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras

from pellucid.keras.core import path_of
from pellucid.keras.sparse import is_sparse

__all__ = ["checked"]


def checked(function: Callable[..., Any], pairs: list[tuple[Any, Any]]) -> list[tuple[Any, Any]]:
    """What a function makes of pairs; those that it leaves out skip their variables.

    Raises:
        TypeError, ValueError: it gave no pairs, foreign or doubled ones, or another shape.
    """
    name = getattr(function, "__name__", repr(function))
    owner = {id(variable): (gradient, variable) for gradient, variable in pairs}
    before = {id(variable): _value(variable) for _, variable in pairs}
    seen: set[int] = set()
    kept: list[tuple[Any, Any]] = []
    made = function(list(pairs))
    for pair in [] if made is None else list(made):
        if not isinstance(pair, tuple) or len(pair) != 2:
            raise TypeError(
                f"the gradient transformer {name} gave {type(pair).__name__}; allowed is a list "
                "of (gradient, variable) pairs"
            )
        gradient, variable = pair
        if id(variable) not in owner:
            raise ValueError(
                f"the gradient transformer {name} gave a pair for a variable that it was not "
                "given: keep the variables that came in, matched by identity"
            )
        if id(variable) in seen:
            raise ValueError(
                f"the gradient transformer {name} gave two pairs for {path_of(variable)!r}"
            )
        seen.add(id(variable))
        if gradient is not None:
            _check_shape(name, gradient, variable)
            kept.append((gradient, variable))
    if made is None:
        raise TypeError(
            f"the gradient transformer {name} returned None: return the list of (gradient, "
            "variable) pairs"
        )
    for _, variable in pairs:
        if before[id(variable)] is not _value(variable):
            raise ValueError(
                f"the gradient transformer {name} changed the variable {path_of(variable)!r}: "
                "change gradients only; a ParameterTransform changes parameters"
            )
    return kept


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
