"""Seeds 000, 001 and 002 in Pellucid's own way, on TensorFlow, JAX and torch.

Their programs stand in keras_legacy_optimizers.py (000, 002) and keras_experimental_optimizers.py
(001); here are the same optimizers and the same answers, shorter.
``python examples/seeds/keras_optimizers.py`` runs them on the backend that Keras has.
"""

from __future__ import annotations

import keras
import numpy as np

import pellucid
import pellucid.keras
from pellucid import Rule, hyper, slot
from pellucid.schedules import Exponential

# -- seed 000: "How do I access custom optimizer parameters in TensorFlow?" ------------------


class MyOptimizer(Rule):
    """Steps along an average of the gradients. Slots are created, saved and named for you."""

    learning_rate = hyper(0.01, minimum=0)
    beta1 = hyper(0.9, minimum=0, below=1)
    m = slot()

    def update(self, param, grad):
        self.m = self.beta1 * self.m + (1 - self.beta1) * grad
        return param - self.learning_rate * self.m


def new_model(rule):
    """A model compiled with a rule, whose optimizer is called as the rule's class."""
    model = keras.Sequential([keras.layers.Dense(10)])
    optimizer = pellucid.keras.Optimizer(rule, name=type(rule).__name__)
    model.compile(optimizer=optimizer, loss="mse")
    return model, optimizer


def print_parameters():
    """Example 1: all names and values, before the first step and after."""
    _, optimizer = new_model(MyOptimizer(0.001))
    for name, value in pellucid.view(optimizer).variables().items():
        print(f"Variable Name: {name}, Value: {value}")
    return optimizer


def change_learning_rate(X_train, y_train):
    """Example 2: by name, inside of one `fit`; checked, on record, in the step as compiled."""
    model, optimizer = new_model(MyOptimizer(0.01))
    view = pellucid.view(optimizer)

    def change(epoch, logs):
        if epoch == 5:
            view.set("MyOptimizer/learning_rate", 0.001, reason="the sixth epoch is over")

    after = keras.callbacks.LambdaCallback(on_epoch_end=change)
    model.fit(X_train, y_train, epochs=10, callbacks=[after], verbose=0)
    print(optimizer.journal.table())
    return model, optimizer


class MyOptimizerWithCustomParameter(Rule):
    """A parameter of its own is declared as the others are, with bounds."""

    learning_rate = hyper(0.01, minimum=0)
    custom_param = hyper(0.5, minimum=0)

    def update(self, param, grad):
        return param - self.learning_rate * self.custom_param * grad


def read_custom_parameter():
    """Example 3: an attribute, or an entry of the view."""
    model, optimizer = new_model(MyOptimizerWithCustomParameter(0.001, custom_param=0.8))
    print(f"Custom parameter value: {pellucid.view(optimizer)['custom_param']}")
    return model, optimizer


# -- seed 001: "What is the valid argument structure?" ---------------------------------------


def basic_adam():
    """Example 1. ``help(pellucid.keras.Adam)`` answers the seed's question."""
    return pellucid.keras.Adam(learning_rate=0.001)


def clipped_adam():
    """Example 2: clipping by value is a stage, part of the one fused update."""
    return pellucid.keras.Adam(learning_rate=0.001, clipvalue=1.0)


def train_with_schedule(X_train, y_train, epochs=50):
    """Example 3: half the rate every 10 epochs, by a schedule of the step: no callback."""
    batches = -(-len(X_train) // 32)
    halving = Exponential(0.01, rate=0.5, every=10 * batches, staircase=True)
    model = keras.Sequential([keras.layers.Dense(10)])
    model.compile(optimizer=pellucid.keras.Adam(learning_rate=halving), loss="mse")
    return model, model.fit(X_train, y_train, epochs=epochs, verbose=0)


# -- seed 002: "How can a custom TensorFlow Keras optimizer be implemented?" -----------------


class MySGD(Rule):
    """Example 1. Sparse gradients, configuration and files need no code of yours."""

    learning_rate = hyper(0.01, minimum=0)

    def update(self, param, grad):
        return param - self.learning_rate * grad


class MyMomentum(Rule):
    """Example 2."""

    learning_rate = hyper(0.01, minimum=0)
    momentum = hyper(0.9, minimum=0)
    velocity = slot()

    def update(self, param, grad):
        self.velocity = self.momentum * self.velocity + grad
        return param - self.learning_rate * self.velocity


class MyDecayingOptimizer(Rule):
    """Example 3: `step` is the number of this update, from 1."""

    learning_rate = hyper(0.01, minimum=0)
    decay_rate = hyper(0.99, minimum=0)

    def update(self, param, grad):
        return param - self.learning_rate * self.decay_rate**self.step * grad


# -- the programs ----------------------------------------------------------------------------


def data():
    """Some images of digits, 8 by 8 pixels, and which digit each is, one-hot."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images, labels = digits.data[:320], digits.target[:320]
    return (images / 16).astype("float32"), np.eye(10, dtype="float32")[labels]


def train(rule, X_train, y_train, epochs=3):
    """A model compiled with a rule, and trained."""
    model, optimizer = new_model(rule)
    history = model.fit(X_train, y_train, epochs=epochs, verbose=0).history
    return model, optimizer, history["loss"]


def main():
    X_train, y_train = data()
    print_parameters()
    change_learning_rate(X_train, y_train)
    read_custom_parameter()
    train_with_schedule(X_train, y_train, epochs=11)
    for rule in (MySGD(), MyMomentum(), MyDecayingOptimizer()):
        _, _, losses = train(rule, X_train, y_train)
        print(rule, "loss", *(f"{loss:.4f}" for loss in losses))


if __name__ == "__main__":
    main()
