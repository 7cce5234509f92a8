"""The variables of a legacy optimizer: real `tf.Variable`s that are found by their names."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any, SupportsIndex, overload

import keras
import numpy
import tensorflow as tf
from tensorflow.python.ops.resource_variable_ops import ResourceVariable

__all__ = [
    "Name", "NamedVariable", "Variables", "assign_all", "bare", "initial_value", "make_variable",
    "unwrap",
]  # fmt: skip


def bare(name: str) -> str:
    """A variable's name without the ``:0`` that TensorFlow appends."""
    return str(name).removesuffix(":0")


class Name(str):
    """A variable's name, equal to itself with and without ``:0``.

    As a key of a dict it is the name without.
    """

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return str.__eq__(self, bare(other) if isinstance(other, str) else other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = str.__hash__


class NamedVariable(ResourceVariable):  # type: ignore[misc]
    """A `tf.Variable` whose name is the one that it was given, without ``:0``."""

    @property
    def name(self) -> Name:
        return Name(bare(super().name))

    @property
    def path(self) -> str:
        """The name, under which Keras 3 asks for it."""
        return str(self.name)

    @property
    def _shared_name(self) -> str:
        return str(self.name)


def make_variable(name: str, value: Any, dtype: Any, **placement: Any) -> Any:
    """A variable that is not trained.

    Args:
        name: in full.
        value: a tensor, an array, or a function without arguments that gives one.
        placement: TensorFlow's `aggregation` and `synchronization`.

    Under a distribution strategy it is what the strategy makes, named with ``:0`` by TensorFlow.
    """
    made = tf.Variable if tf.distribute.has_strategy() else NamedVariable
    with tf.name_scope(""):  # the name is in full: whoever calls may be in a scope
        return made(value, trainable=False, name=name, dtype=dtype, **placement)


def unwrap(variable: Any) -> Any:
    """The `tf.Variable` in a Keras variable."""
    return variable.value if isinstance(variable, keras.Variable) else variable


class Variables(list):  # type: ignore[type-arg]
    """A list of variables that may be called, and asked for a variable by its name.

    Args:
        optimizer: the optimizer's name.
        entries: pairs of the name in full and the variable.
    """

    def __init__(self, optimizer: str, entries: Iterable[tuple[str, Any]]) -> None:
        entries = list(entries)
        super().__init__(variable for _, variable in entries)
        self.optimizer = optimizer
        self.names = [bare(name) for name, _ in entries]

    def __call__(self) -> Variables:
        return self

    @overload
    def __getitem__(self, key: SupportsIndex | str) -> Any: ...
    @overload
    def __getitem__(self, key: slice) -> list[Any]: ...
    def __getitem__(self, key: SupportsIndex | slice | str) -> Any:
        if not isinstance(key, str):
            return super().__getitem__(key)
        wanted = {bare(key), f"{self.optimizer}/{bare(key)}"}
        found = [one for name, one in zip(self.names, self, strict=True) if name in wanted]
        if len(found) == 1:
            return found[0]
        how_many = "no variable" if not found else f"{len(found)} variables"
        raise KeyError(
            f"{self.optimizer} has {how_many} of the name {key!r}; its variables are: "
            f"{', '.join(self.names)}"
        )


def initial_value(initializer: Any, shape: Any, dtype: Any) -> Any:
    """A value, or a function without arguments that gives one."""
    if isinstance(initializer, str):
        initializer = keras.initializers.get(initializer)
    if isinstance(initializer, type):
        initializer = initializer()
    if callable(initializer):
        return functools.partial(initializer, shape=shape, dtype=dtype)
    value = tf.convert_to_tensor(unwrap(initializer), dtype=dtype)
    return tf.broadcast_to(value, shape) if value.shape.rank == 0 else value


def assign_all(name: str, entries: list[tuple[str, Any]], values: list[Any]) -> None:
    """Write values into variables, all or none."""
    expected = [(label, tuple(one.shape)) for label, one in entries]
    given = [numpy.shape(value) for value in values]
    wrong = [
        f"{label} has shape {shape}, the value {other}"
        for (label, shape), other in zip(expected, given, strict=False)
        if shape != other
    ]
    if len(expected) != len(given):
        wrong.insert(
            0,
            f"it has {len(expected)} variables ({', '.join(label for label, _ in expected)}), "
            f"the values are {len(given)}",
        )
    if wrong:
        raise ValueError(
            f"These values do not belong to {name}: {'; '.join(wrong)}. Nothing was loaded. Build "
            "the optimizer as it was when they were saved: the same variables, the same slots, "
            "schedules where there were schedules."
        )
    for (_, variable), value in zip(entries, values, strict=True):
        variable.assign(tf.cast(value, variable.dtype))
