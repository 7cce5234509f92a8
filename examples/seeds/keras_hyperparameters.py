"""Seed 003 in Pellucid's own way, on TensorFlow, JAX and torch: nothing is kept by hand.

Its programs stand in tensorflow_hyperparameters.py. ``python
examples/seeds/keras_hyperparameters.py`` runs these on the backend that Keras has.
"""

from __future__ import annotations

import keras
import numpy as np

import pellucid
import pellucid.keras

random = np.random.default_rng(0)
x_train = random.normal(size=(256, 10)).astype("float32")
y_train = x_train.sum(axis=1, keepdims=True)


@pellucid.capture
class MyModel(keras.Model):
    """Keeps none of its arguments as attributes: `capture` does."""

    def __init__(self, hidden_units, activation="relu", **kwargs):
        super().__init__(**kwargs)
        self.dense1 = keras.layers.Dense(hidden_units, activation=activation)
        self.dense2 = keras.layers.Dense(1)

    def call(self, inputs):
        return self.dense2(self.dense1(inputs))


def direct_access():
    """Example 1: what the model was made with, and each of its layers."""
    found = pellucid.hyperparameters(MyModel(64))
    print(found)
    return found


def everything(epochs=3):
    """Examples 2 and 3: live values at each epoch, and all of the run as a record."""
    model = MyModel(64)
    model.compile(pellucid.keras.Adam(0.001), loss="mse")
    logger = pellucid.keras.HyperparameterLogger(hyperparameters={"seed": 0})
    halve = keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate * 0.5**epoch)
    model.fit(x_train, y_train, 32, epochs, verbose=0, callbacks=[halve, logger])
    return pellucid.collect(model=model, seed=0)


if __name__ == "__main__":
    direct_access()
    print(everything())
