"""Runs an optimizer's steps as each backend's trainer does: compiled where it compiles."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

BACKEND = keras.backend.backend()


class Stepper:
    """Applies gradients (NumPy arrays; None for none) in a compiled step.

    A step is compiled once for each set of variables that have gradients, and never again: what a
    test changes between steps must act without that.
    """

    def __init__(self, optimizer: Any, variables: Sequence[Any]) -> None:
        self.optimizer, self.variables = optimizer, list(variables)
        self.traces = 0
        self._compiled: dict[Any, Any] = {}
        optimizer.build(self.variables)

    def __call__(self, grads: Sequence[Any], **extras: Any) -> None:
        if BACKEND == "torch":
            made = [None if g is None else keras.ops.convert_to_tensor(g) for g in grads]
            self.optimizer.apply(made, self.variables, **extras)
            return
        key = tuple(g is None for g in grads)
        if key not in self._compiled:
            self._compiled[key] = self._jax() if BACKEND == "jax" else self._tensorflow(key)
        self._compiled[key](grads)

    def forget(self) -> None:
        """Compile anew, as `pellucid.keras.trainers.rebuild` has a model's trainer do."""
        self._compiled.clear()

    def _jax(self) -> Any:
        import jax

        def step(trainable: Any, state: Any, grads: Any) -> Any:
            self.traces += 1
            return self.optimizer.stateless_apply(state, grads, trainable)

        compiled = jax.jit(step)

        def run(grads: Sequence[Any]) -> None:
            state = self.optimizer.variables
            before = [v.value for v in self.variables], [v.value for v in state]
            new = compiled(*before, list(grads))
            held = zip([*self.variables, *state], [*before[0], *before[1]], strict=True)
            for (variable, old), value in zip(held, [*new[0], *new[1]], strict=True):
                if value.shape or np.asarray(old) != np.asarray(value):  # a write is checked: slow
                    variable.assign(value)

        return run

    def _tensorflow(self, key: tuple[bool, ...]) -> Any:
        import tensorflow as tf

        def step(given: Any) -> None:
            self.traces += 1
            rest = iter(given)
            self.optimizer.apply([None if none else next(rest) for none in key], self.variables)

        compiled = tf.function(step)
        return lambda grads: compiled([tf.constant(g) for g in grads if g is not None])
