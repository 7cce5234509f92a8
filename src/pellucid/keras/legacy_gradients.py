"""What happens to gradients before the hooks see them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from typing import Any

import tensorflow as tf

from pellucid.keras.legacy_variables import unwrap

__all__ = ["CLIPPERS", "Pair", "compute_gradients", "symbolic_gradients", "with_gradient"]

Pair = tuple[Any, Any]


def by_value(pairs: list[Pair], bound: float) -> list[Pair]:
    """Each element within ±bound."""
    return [(tf.clip_by_value(gradient, -bound, bound), variable) for gradient, variable in pairs]


def by_norm(pairs: list[Pair], bound: float) -> list[Pair]:
    """Each gradient scaled so that its Euclidean norm is at most the bound."""
    return [(tf.clip_by_norm(gradient, bound), variable) for gradient, variable in pairs]


def by_global_norm(pairs: list[Pair], bound: float) -> list[Pair]:
    """All gradients scaled by one factor so that their norm together is at most the bound."""
    clipped, _ = tf.clip_by_global_norm([gradient for gradient, _ in pairs], bound)
    return list(zip(clipped, [variable for _, variable in pairs], strict=True))


CLIPPERS: dict[str, Callable[[list[Pair], float], list[Pair]]] = {
    "clipvalue": by_value,
    "clipnorm": by_norm,
    "global_clipnorm": by_global_norm,
}
"""The clip arguments, in the order in which they act."""


def with_gradient(given: Iterable[Pair]) -> list[Pair]:
    """The pairs that have a gradient; those without are named in a warning.

    Raises:
        ValueError: none has one.
    """
    pairs = [tuple(pair) for pair in given]
    kept = [(gradient, variable) for gradient, variable in pairs if gradient is not None]
    missing = [variable.name for gradient, variable in pairs if gradient is None]
    if missing and not kept:
        raise ValueError(
            f"No variable has a gradient: {', '.join(missing)}. Does the loss depend on them, and "
            "was it computed inside the GradientTape?"
        )
    if missing:
        warnings.warn(
            f"These variables have no gradient and stay as they are: {', '.join(missing)}. Does "
            "the loss depend on them?",
            stacklevel=4,
        )
    return kept


def compute_gradients(
    optimizer: Any, loss: Any, var_list: Any, grad_loss: Any, tape: Any
) -> list[Pair]:
    """Pairs of gradient and variable, for `minimize`.

    Args:
        loss: a function without arguments; or a tensor, with the tape that recorded it.
        var_list: variables, or a function that gives them after the loss was called.

    Raises:
        ValueError: a tensor without its tape.
        TypeError: a variable whose dtype is none of `_valid_dtypes`.
    """
    if not callable(loss) and tape is None:
        raise ValueError(
            "minimize needs the tape when the loss is a tensor: pass tape=, or the loss as a "
            f"function without arguments; received loss={loss!r}, tape=None."
        )
    tape = tf.GradientTape() if tape is None else tape
    if callable(loss):
        with tape:
            if not callable(var_list):
                tape.watch([unwrap(one) for one in tf.nest.flatten(var_list)])
            loss = loss()
    variables = tf.nest.flatten(var_list() if callable(var_list) else var_list)
    with tape:
        loss = optimizer._transform_loss(loss)
    with tf.name_scope(f"{optimizer._name}/gradients"):
        pairs = optimizer._get_gradients(tape, loss, [unwrap(one) for one in variables], grad_loss)
    gradients = [gradient for gradient, _ in pairs]
    optimizer._assert_valid_dtypes([v for g, v in pairs if g is not None])
    return list(zip(gradients, variables, strict=True))


def symbolic_gradients(loss: Any, params: Any) -> list[Any]:
    """Gradients of a loss, for `get_gradients`.

    Args:
        loss: inside a graph (a `tf.function`) a tensor; else a function without arguments.

    Raises:
        ValueError: a variable on which the loss does not depend.
        TypeError: a tensor in eager execution, which does not know how it was computed.
    """
    variables = [unwrap(one) for one in tf.nest.flatten(params)]
    if callable(loss):
        with tf.GradientTape() as tape:
            tape.watch(variables)
            value = loss()
        gradients = tape.gradient(value, variables)
    elif tf.executing_eagerly():
        raise TypeError(
            "get_gradients takes a tensor only inside a graph (a tf.function). Outside, pass the "
            f"loss as a function without arguments, or use tf.GradientTape; received {loss!r}."
        )
    else:
        gradients = tf.gradients(loss, variables)
    for gradient, variable in zip(gradients, variables, strict=True):
        if gradient is None:
            raise ValueError(
                f"{variable.name} has no gradient: the loss does not depend on it, or only through "
                "operations without a derivative (argmax, round)."
            )
    return list(gradients)
