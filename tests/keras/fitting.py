"""A model of one weight whose gradient is known, and callbacks that act at one event."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

STEPS = 4
EVENTS = ("on_train_batch_begin", "on_train_batch_end", "on_epoch_begin", "on_epoch_end")
BEFORE = {
    "on_train_batch_begin": 0, "on_train_batch_end": 1, "on_epoch_begin": 0, "on_epoch_end": 4,
}  # fmt: skip
"""Updates before the first of an event."""


class Counted(keras.Model):  # type: ignore[misc]
    """Counts how often its step is traced; eagerly, how often it runs."""

    traces = 0

    def train_step(self, *args: Any, **kwargs: Any) -> Any:
        self.traces += 1
        return super().train_step(*args, **kwargs)


def model_of(optimizer: Any, **how: Any) -> Any:
    """One weight, 1 at first, whose loss is the mean of w - 1: its gradient is 1 everywhere."""
    inputs = keras.Input((1,))
    layer = keras.layers.Dense(1, use_bias=False, kernel_initializer="ones")
    model = Counted(inputs, layer(inputs))
    model.compile(optimizer, lambda y, prediction: prediction - y, **how)
    return model


def train(model: Any, callbacks: Any = (), epochs: int = 1, steps: int = STEPS) -> Any:
    x = np.ones((steps, 1), "float32")
    return model.fit(
        x, x, batch_size=1, epochs=epochs, verbose=0, shuffle=False, callbacks=[*callbacks]
    )


def weight(model: Any) -> float:
    return float(keras.ops.convert_to_numpy(model.trainable_variables[0])[0, 0])


class At(keras.callbacks.Callback):  # type: ignore[misc]
    """Calls a function of the count, from 1, at one event; it holds no model."""

    def __init__(self, event: str, function: Callable[[int], Any]) -> None:
        super().__init__()
        self.count = 0

        def called(*_: Any, **__: Any) -> None:
            self.count += 1
            function(self.count)

        setattr(self, event, called)


class Traces(keras.callbacks.Callback):  # type: ignore[misc]
    """The number of traces after each batch."""

    def __init__(self) -> None:
        super().__init__()
        self.after: list[int] = []

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.after.append(self._model.traces)
