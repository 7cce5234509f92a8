"""Hyperparameters of a legacy optimizer: Variables, schedules and callables, by name."""

from __future__ import annotations

import numbers
from typing import Any

import keras
import numpy
import tensorflow as tf

from pellucid.keras.legacy_hooks import without_autograph
from pellucid.keras.legacy_variables import make_variable, unwrap

__all__ = ["Hypers", "LiveSchedule", "is_schedule"]


def is_schedule(value: Any) -> bool:
    return isinstance(value, keras.optimizers.schedules.LearningRateSchedule)


class LiveSchedule(keras.optimizers.schedules.LearningRateSchedule):  # type: ignore[misc]
    """A schedule as an attribute: called as the legacy API had it, a number where Keras 3 reads it.

    Keras 3's callbacks convert ``optimizer.learning_rate`` to an array; legacy programs call it
    with a step. Both work, and `isinstance` sees the schedule's own class.
    """

    def __init__(self, schedule: Any, iterations: Any) -> None:
        self._schedule, self._iterations = schedule, iterations

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        return type(self._schedule)

    def __call__(self, step: Any) -> Any:
        return self._schedule(step)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._schedule, name)

    def get_config(self) -> Any:
        return self._schedule.get_config()

    def numpy(self) -> Any:
        """The value at the optimizer's next step."""
        return numpy.asarray(self._schedule(self._iterations))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        return self.numpy().astype(dtype) if dtype is not None else self.numpy()

    def __float__(self) -> float:
        return float(self.numpy())


def as_number(value: Any, where: str) -> tuple[Any, Any]:
    """A number or a scalar array, and the dtype of its Variable: float32, or a tensor's own.

    Raises:
        TypeError: it is no number.
        ValueError: it has more than one element.
    """
    if isinstance(value, tf.Tensor):
        if value.shape.rank != 0:
            raise ValueError(_not_scalar(where, value.shape))
        return value.numpy(), value.dtype
    if isinstance(value, numpy.ndarray):
        if value.shape != ():
            raise ValueError(_not_scalar(where, value.shape))
        value = value.item()
    if isinstance(value, (numbers.Real, numpy.number, numpy.bool_)):
        return float(value), tf.float32
    raise TypeError(
        f"{where} must be a number, a scalar tensor or Variable, a schedule or a function without "
        f"arguments; received {value!r}. What is none of these is no hyperparameter: keep it as a "
        "plain attribute of the optimizer."
    )


def _not_scalar(where: str, shape: Any) -> str:
    return (
        f"{where} must be a scalar; received an array of shape {tuple(shape)}. An array that "
        "belongs to a parameter is a slot: create it with add_slot in _create_slots."
    )


def is_symbolic(value: Any) -> bool:
    """Whether a tensor stands for a value inside a function that is being traced."""
    return tf.is_tensor(value) and not hasattr(value, "numpy")


@without_autograph
class Hypers:
    """The hyperparameters of one optimizer.

    A number is a Variable from the beginning on, and stays that Variable when it is set again.

    Args:
        optimizer: its name stands before the Variables' names; its `_restructured` is called when
            a compiled step no longer computes what it should.
    """

    def __init__(self, optimizer: Any) -> None:
        self.optimizer = optimizer
        self.values: dict[str, Any] = {}
        self._written: dict[str, Any] = {}  # numbers as they were given: 0.001, not its float32
        self._idle: dict[str, Any] = {}  # Variables in whose place a schedule stands

    def where(self, name: str) -> str:
        return f"hyperparameter {name!r} of {self.optimizer._name}"

    def set(self, name: str, value: Any) -> None:
        """Give a hyperparameter a number, tensor, Variable, schedule or function."""
        value, old = unwrap(value), self.values.get(name)
        if isinstance(value, LiveSchedule):
            value = object.__getattribute__(value, "_schedule")
        if isinstance(value, tf.Variable) and old is None:
            self._place(name, value)
        elif isinstance(value, tf.Variable):
            self._assign(name, value)
        elif is_schedule(value) or callable(value):
            self._place(name, value)
        elif is_symbolic(value) and isinstance(old, tf.Variable):
            old.assign(tf.cast(value, old.dtype))
        elif is_symbolic(value):
            raise TypeError(
                f"{self.where(name)}: inside a compiled function it can only be assigned while it "
                f"is a number; it is {old!r}. Set it outside of the function."
            )
        else:
            self._assign(name, value)

    def _assign(self, name: str, value: Any) -> None:
        """Write a number into the hyperparameter's Variable, which is made if it is missing."""
        old = self.values.get(name)
        variable = old if isinstance(old, tf.Variable) else self._idle.get(name)
        if isinstance(value, tf.Variable):
            number, dtype = value, value.dtype
        else:
            number, dtype = as_number(value, self.where(name))
        if variable is None:
            with tf.init_scope(), self.optimizer._distribution_strategy_scope():
                variable = make_variable(
                    f"{self.optimizer._name}/{name}",
                    number,
                    dtype,
                    aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
                )
        else:
            variable.assign(tf.cast(number, variable.dtype))
        if old is not variable:
            self._place(name, variable)
        plain = isinstance(value, numbers.Real) and not isinstance(value, numpy.generic)
        self._written[name] = value if plain else None

    def _place(self, name: str, value: Any) -> None:
        """Put an object in a hyperparameter's place: what a compiled step has to be made for."""
        old = self.values.get(name)
        if isinstance(old, tf.Variable):
            self._idle[name] = old
            self.optimizer._forget_trackable(name)
        self.values[name] = value
        if isinstance(value, tf.__internal__.tracking.Trackable):
            self.optimizer._track_trackable(value, name, overwrite=True)
        if old is not None:
            self.optimizer._restructured(f"{name} was set to {value!r}")

    def get(self, name: str, dtype: Any = None) -> Any:
        """The Variable, the schedule, or what the function gives, cast to ``dtype`` if given."""
        if name not in self.values:
            raise KeyError(
                f"{self.optimizer._name} has no hyperparameter {name!r}; it has "
                f"{', '.join(self.values) or 'none'}. Set it in __init__ with "
                f"self._set_hyper({name!r}, value)."
            )
        value = self.values[name]
        if is_schedule(value):
            return value
        if callable(value):
            value = self._called(name, value)
        return tf.cast(value, dtype) if dtype else value

    def _called(self, name: str, function: Any) -> Any:
        """What a function gives, in each step anew: a number would be frozen into a graph."""
        value = function()
        if tf.executing_eagerly() or tf.is_tensor(value) or isinstance(value, tf.Variable):
            return value
        self._check_not_frozen(name, function)
        live = tf.numpy_function(lambda: numpy.float32(function()), [], tf.float32, stateful=True)
        live.set_shape(())
        return live

    def _check_not_frozen(self, name: str, function: Any) -> None:
        from pellucid.keras.trainers import trainers_of

        if any(getattr(model, "jit_compile", False) for model in trainers_of(self.optimizer)):
            raise TypeError(
                f"{self.where(name)} is {function!r}, which gives a Python number: with "
                "jit_compile it would be frozen at its first value. Let it return a tensor that is "
                "computed from a tf.Variable, or compile the model with jit_compile=False."
            )

    def shown(self, name: str) -> Any:
        """What an attribute of the optimizer reads."""
        value = self.get(name)
        return LiveSchedule(value, self.optimizer.iterations) if is_schedule(value) else value

    def serialized(self, name: str) -> Any:
        """A hyperparameter as plain data: a number, or a schedule's configuration."""
        value = self.values[name] if name in self.values else self.get(name)
        if is_schedule(value):
            return keras.optimizers.schedules.serialize(value)
        if callable(value):
            value = value()
        array = numpy.asarray(value)
        written = self._written.get(name)
        if written is not None and array == array.dtype.type(written):
            return written
        if array.dtype == numpy.float32:  # the shortest decimal that is rounded to it
            return float(str(array[()]))
        return array.item()

    def variables(self) -> list[tuple[str, Any]]:
        """Names and Variables."""
        return [(name, one) for name, one in self.values.items() if isinstance(one, tf.Variable)]
