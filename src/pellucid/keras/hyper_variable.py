"""The Variable of a hyperparameter, which checks what is assigned to it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import keras
from keras.src.backend.common.stateless_scope import in_stateless_scope

from pellucid.keras.host_values import plain_number
from pellucid.keras.tracing import as_it_is, eager

if TYPE_CHECKING:
    from pellucid.keras.hypers import Hyperparameter

__all__ = ["HyperparameterVariable", "stored_dtype"]


class HyperparameterVariable(keras.Variable):  # type: ignore[misc]
    """A scalar Variable of Keras that checks what is assigned to it, and keeps a record."""

    def __init__(self, owner: Hyperparameter, number: float, name: str) -> None:
        self.owner = owner
        super().__init__(
            number,
            dtype=stored_dtype(),
            trainable=False,
            autocast=False,
            aggregation="only_first_replica",
            name=name,
        )

    @property
    def value(self) -> Any:
        """The number as the backend's array; in a running `fit` on JAX, the trainer's."""
        if self._value is None and not in_stateless_scope():
            self.owner.optimizer.before_write()
        return super().value

    @property
    def donated(self) -> bool:
        """Whether a jitted step of JAX took the array and has not given it back."""
        deleted = getattr(self._value, "is_deleted", None)
        return deleted is not None and bool(deleted())

    @as_it_is
    def assign(self, value: Any) -> Any:
        """Set the hyperparameter: acts at the next step, compiled or not.

        Raises:
            HyperparameterError: the number is not allowed; the old one is kept.
        """
        if self.owner.optimizer.applying:  # Keras chooses between old and new state on JAX
            self.put(value)
        elif not eager():
            self.owner.set_in_program(value)
        elif self.donated:  # nobody can tell what it was
            number = self.owner.declared.check(plain_number(value, self.owner), self.owner.where)
            self.put(number)
            self.owner.seen = number
        elif _by_trainer() or self.owner.is_own_state(value):
            self.put(value)
        else:
            self.owner.set(plain_number(value, self.owner), "assignment")
        return self.value

    @as_it_is
    def assign_add(self, value: Any) -> Any:
        return self.assign(self.value + value)

    @as_it_is
    def assign_sub(self, value: Any) -> Any:
        return self.assign(self.value - value)

    def put(self, value: Any) -> None:
        """Set the Variable without more ado."""
        if keras.backend.backend() == "jax":  # a weak type would have a jitted step traced anew
            from jax.lax import convert_element_type

            value = convert_element_type(value, self.dtype)
        super().assign(value)


def stored_dtype() -> str:
    """The type of a hyperparameter's Variable: never a 16-bit one, in which 0.999 is 1."""
    wide = keras.config.floatx() == "float64"
    if wide and keras.backend.backend() == "jax":
        import jax

        wide = bool(jax.config.jax_enable_x64)
    return "float64" if wide else "float32"


def _by_trainer() -> bool:
    """Whether Keras's trainer on JAX writes its state back: values that were checked before."""
    if keras.backend.backend() != "jax":
        return False
    from keras.src.backend.jax.trainer import JAXTrainer

    frame: Any = sys._getframe(2)
    code = JAXTrainer.jax_state_sync.__code__
    return any(
        caller is not None and caller.f_code is code for caller in (frame, frame.f_back)
    )
