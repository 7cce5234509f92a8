"""What an optimizer is given, looked at before anything is changed."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import keras

from pellucid.keras.core import path_of
from pellucid.keras.live import live_number

__all__ = [
    "check_arguments", "check_gradients", "check_names", "check_own", "check_sparse",
    "check_variables",
]  # fmt: skip

FLOATS = ("float16", "bfloat16", "float32", "float64")


def check_arguments(where: str, groups: Any, **live: Any) -> None:
    """Keras's own numbers, and the form of ``groups=``.

    Raises:
        TypeError, ValueError: what is wrong, and what is allowed.
    """
    if groups is not None and not isinstance(groups, Mapping):
        raise TypeError(
            f"groups is {groups!r}; allowed is a dict from patterns of variables' paths to dicts "
            "of values, such as {'*/bias': {'weight_decay': 0.0}}"
        )
    steps = live.pop("gradient_accumulation_steps")
    if steps is not None and (not isinstance(steps, int) or isinstance(steps, bool) or steps < 2):
        raise ValueError(
            f"{where}/gradient_accumulation_steps is {steps!r}; allowed is None or a whole number "
            "from 2"
        )
    for name, value in live.items():
        live_number(f"{where}/{name}", name, value)


def check_names(owner: str, given: Iterable[str], known: Sequence[str]) -> None:
    """Arguments by name.

    Raises:
        TypeError: there is none of a name; the nearest is told.
    """
    for name in given:
        if name not in known:
            plain = {one.replace("_", ""): one for one in known} | {"lr": "learning_rate"}
            near = difflib.get_close_matches(name.replace("_", ""), plain, n=1)
            hint = f"; did you mean {plain[near[0]]!r}?" if near else ""
            raise TypeError(f"{owner} takes no {name!r}{hint} (arguments: {', '.join(known)})")


def check_variables(variables: Sequence[Any]) -> None:
    """Variables that an optimizer can be built for.

    Raises:
        TypeError: one holds no real numbers.
        ValueError: one is given twice.
    """
    seen: set[int] = set()
    for variable in variables:
        dtype = _dtype(variable)
        if dtype not in FLOATS:
            raise TypeError(
                f"the variable {path_of(variable)!r} is of type {dtype}; allowed is one of "
                f"{', '.join(FLOATS)}: leave it out of the trainable variables"
            )
        if id(variable) in seen:
            raise ValueError(f"variables: {path_of(variable)!r} is given twice: give each once")
        seen.add(id(variable))


def check_gradients(grads: Any, variables: Sequence[Any]) -> None:
    """Gradients for variables, None for those that have none.

    Raises:
        TypeError: one is no array of numbers.
        ValueError: their count or a shape differs, or a variable stands twice.
    """
    if not isinstance(grads, Sequence) or isinstance(grads, str):
        raise TypeError(
            f"grads is {type(grads).__name__}; allowed is a list of gradients in the order of the "
            "variables, None for those without"
        )
    if len(grads) != len(variables):
        raise ValueError(
            f"there are {len(grads)} gradients for {len(variables)} variables "
            f"({', '.join(path_of(one) for one in variables[:8])}): give one for each, None for "
            "those without"
        )
    seen: set[int] = set()
    for grad, variable in zip(grads, variables, strict=True):
        if id(variable) in seen:
            raise ValueError(f"variables: {path_of(variable)!r} is given twice: give each once")
        seen.add(id(variable))
        if grad is not None:
            _check_gradient(grad, variable)


def _check_gradient(grad: Any, variable: Any) -> None:
    held: Any = getattr(variable, "_value", None)
    if hasattr(grad, "dtype") and grad.dtype == getattr(held, "dtype", None) and (
        grad.shape == held.shape
    ):
        return  # as nearly always
    shape = getattr(grad, "shape", None)
    if shape is None or not hasattr(grad, "dtype"):
        raise TypeError(
            f"the gradient of {path_of(variable)!r} is {grad!r:.80}; allowed is an array of shape "
            f"{tuple(variable.shape)}, or None"
        )
    if _dtype(grad).startswith(("complex", "str", "object", "<U", "bool")):
        raise TypeError(
            f"the gradient of {path_of(variable)!r} is of type {_dtype(grad)}; allowed are real "
            "numbers"
        )
    wanted = tuple(variable.shape)
    if getattr(shape, "rank", 0) is None:  # a TensorFlow graph knows it when it runs
        return
    sizes = tuple(shape)
    if len(sizes) != len(wanted) or any(
        size is not None and size != right for size, right in zip(sizes, wanted, strict=True)
    ):
        raise ValueError(
            f"the gradient of {path_of(variable)!r} has shape {sizes}; the variable's is {wanted}"
        )


def _dtype(array: Any) -> str:
    name = getattr(array.dtype, "name", None) or str(array.dtype)
    try:
        return str(keras.backend.standardize_dtype(name))
    except ValueError:
        return str(name).removeprefix("torch.")


SPARSE = ("dense", "lazy")


def check_sparse(sparse: Any, accumulation: Any) -> None:
    """Raise unless ``sparse=`` is possible, with this many micro-batches to an update."""
    if sparse not in SPARSE:
        raise ValueError(f"sparse is {sparse!r}; allowed is 'dense' or 'lazy'")
    if sparse == "lazy" and accumulation:
        raise ValueError(
            f"sparse='lazy' and gradient_accumulation_steps={accumulation!r}: Keras adds gradients "
            "up in arrays of all rows, and which were touched is lost; use sparse='dense'"
        )


def check_own(seed: Any, transformers: Iterable[Any]) -> None:
    """Raise unless a seed is a whole number and transformers are functions."""
    if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 1 << 63:
        raise ValueError(f"seed is {seed!r}; allowed is a whole number from 0, below 2**63")
    for function in transformers:
        if not callable(function):
            raise TypeError(f"gradient_transformers has {function!r}, which is no function")

