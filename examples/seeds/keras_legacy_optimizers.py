"""Seeds 000 and 002, "How do I access custom optimizer parameters in TensorFlow?" and "How can a
custom TensorFlow Keras optimizer be implemented?", running on Keras 3.

Their classes and programs as written there, with ``pellucid.keras.legacy.Optimizer`` in place of
``tf.keras.optimizers.Optimizer``; faults of their own are put right and marked ``# fixed:``.
``KERAS_BACKEND=tensorflow python examples/seeds/keras_legacy_optimizers.py`` runs them.
"""

# ruff: noqa: UP008, RUF015 -- as the seeds have it

from __future__ import annotations

import numpy as np
import tensorflow as tf

import pellucid.keras.legacy

# -- seed 000, example 1: the variables and their values -------------------------------------


class MyOptimizer(pellucid.keras.legacy.Optimizer):
    # fixed: **kwargs, which the body reads
    def __init__(self, learning_rate=0.01, beta1=0.9, name="MyOptimizer", **kwargs):
        super(MyOptimizer, self).__init__(name, **kwargs)  # fixed: kwargs passed on
        self._set_hyper("learning_rate", kwargs.get("lr", learning_rate))  # fixed: the argument
        self._set_hyper("decay", self._initial_decay)
        self.beta1 = beta1

    def _create_slots(self, var_list):
        for var in var_list:
            self.add_slot(var, "m")

    def _resource_apply_dense(self, grad, var, apply_state=None):
        var_dtype = var.dtype.base_dtype
        lr_t = self._decayed_lr(var_dtype)
        m = self.get_slot(var, "m")
        m_t = m.assign(self.beta1 * m + (1.0 - self.beta1) * grad)
        var_update = var.assign_sub(lr_t * m_t)

        return tf.group(*[var_update, m_t])

    def _resource_apply_sparse(self, grad, var, indices, apply_state=None):
        raise NotImplementedError


def print_parameters():
    """Example 1: each variable's name and value."""
    model = tf.keras.Sequential([tf.keras.layers.Dense(10)])
    optimizer = MyOptimizer(learning_rate=0.001)
    model.compile(optimizer=optimizer, loss="mse")

    # Accessing and printing the optimizer's variables
    optimizer_variables = optimizer.variables()
    for var in optimizer_variables:
        print(f"Variable Name: {var.name}, Value: {var.numpy()}")
    return optimizer


# -- seed 000, example 2: the learning rate is changed during training -----------------------


def change_learning_rate(X_train, y_train):
    """Example 2: found by its name, assigned after the sixth epoch."""
    model = tf.keras.Sequential([tf.keras.layers.Dense(10)])
    optimizer = MyOptimizer(learning_rate=0.01)
    model.compile(optimizer=optimizer, loss="mse")

    # Access learning rate variable
    learning_rate_var = [v for v in optimizer.variables() if v.name == "MyOptimizer/learning_rate"][
        0
    ]

    # Modify learning rate after a specific epoch
    for epoch in range(10):
        model.fit(X_train, y_train, epochs=1, verbose=0)
        if epoch == 5:
            learning_rate_var.assign(0.001)  # Adjust learning rate
            print(f"Learning rate updated to: {learning_rate_var.numpy()}")
    return model, optimizer


# -- seed 000, example 3: a parameter of its own ---------------------------------------------


class MyOptimizerWithCustomParameter(pellucid.keras.legacy.Optimizer):
    # fixed: **kwargs, and the name under which the program looks for the variable
    def __init__(
        self, learning_rate=0.01, custom_param=0.5, name="MyOptimizerWithCustomParameter", **kwargs
    ):
        super(MyOptimizerWithCustomParameter, self).__init__(name, **kwargs)
        self._set_hyper("learning_rate", kwargs.get("lr", learning_rate))  # fixed: the argument
        self._set_hyper("custom_param", custom_param)

    # fixed: the seed leaves "the rest of the optimizer implementation" out; this is the least
    def _resource_apply_dense(self, grad, var, apply_state=None):
        var_dtype = var.dtype.base_dtype
        scale = self._get_hyper("custom_param", var_dtype)
        var.assign_sub(self._decayed_lr(var_dtype) * scale * grad)


def read_custom_parameter():
    """Example 3: a parameter of the class's own is a variable like the others."""
    model = tf.keras.Sequential([tf.keras.layers.Dense(10)])
    optimizer = MyOptimizerWithCustomParameter(learning_rate=0.001, custom_param=0.8)
    model.compile(optimizer=optimizer, loss="mse")

    # Access custom parameter
    custom_param_var = [
        v for v in optimizer.variables() if v.name == "MyOptimizerWithCustomParameter/custom_param"
    ][0]
    print(f"Custom parameter value: {custom_param_var.numpy()}")
    return model, optimizer, custom_param_var


# -- seed 002, example 1: gradient descent ---------------------------------------------------


class MySGD(pellucid.keras.legacy.Optimizer):
    def __init__(self, learning_rate=0.01, name="MySGD", **kwargs):
        super().__init__(name, **kwargs)
        self._set_hyper("learning_rate", kwargs.get("lr", learning_rate))

    def _create_slots(self, var_list):
        pass  # No slots needed for simple gradient descent

    @tf.function
    def _resource_apply_dense(self, grad, var):
        lr = self._get_hyper("learning_rate")
        var.assign_sub(lr * grad)

    @tf.function
    def _resource_apply_sparse(self, grad, var):
        lr = self._get_hyper("learning_rate")
        var.assign_sub(lr * grad)

    def get_config(self):
        base_config = super().get_config()
        return {
            **base_config,
            "learning_rate": self._serialize_hyperparameter("learning_rate"),
        }


# -- seed 002, example 2: momentum -----------------------------------------------------------


class MyMomentum(pellucid.keras.legacy.Optimizer):
    def __init__(self, learning_rate=0.01, momentum=0.9, name="MyMomentum", **kwargs):
        super().__init__(name, **kwargs)
        self._set_hyper("learning_rate", kwargs.get("lr", learning_rate))
        self._set_hyper("momentum", momentum)

    def _create_slots(self, var_list):
        for var in var_list:
            self.add_slot(var, "momentum")

    @tf.function
    def _resource_apply_dense(self, grad, var):
        lr = self._get_hyper("learning_rate")
        momentum = self._get_hyper("momentum")
        momentum_var = self.get_slot(var, "momentum")
        momentum_var.assign(momentum * momentum_var + grad)
        var.assign_sub(lr * momentum_var)

    @tf.function
    def _resource_apply_sparse(self, grad, var):
        lr = self._get_hyper("learning_rate")
        momentum = self._get_hyper("momentum")
        momentum_var = self.get_slot(var, "momentum")
        momentum_var.assign(momentum * momentum_var + grad)
        var.assign_sub(lr * momentum_var)

    def get_config(self):
        base_config = super().get_config()
        return {
            **base_config,
            "learning_rate": self._serialize_hyperparameter("learning_rate"),
            "momentum": self._serialize_hyperparameter("momentum"),
        }


# -- seed 002, example 3: a learning rate that decays ----------------------------------------


class MyDecayingOptimizer(pellucid.keras.legacy.Optimizer):
    def __init__(self, learning_rate=0.01, decay_rate=0.99, name="MyDecayingOptimizer", **kwargs):
        super().__init__(name, **kwargs)
        self._set_hyper("learning_rate", kwargs.get("lr", learning_rate))
        self._set_hyper("decay_rate", decay_rate)
        # fixed: `self.iteration` is gone: the hooks run once for each variable, and counted all

    def _create_slots(self, var_list):
        pass

    @tf.function
    def _resource_apply_dense(self, grad, var):
        # fixed: `self.iterations + 1` is the number of this step, cast: tf.pow takes one dtype
        iteration = tf.cast(self.iterations + 1, grad.dtype)
        lr = self._get_hyper("learning_rate") * tf.pow(self._get_hyper("decay_rate"), iteration)
        var.assign_sub(lr * grad)

    @tf.function
    def _resource_apply_sparse(self, grad, var):
        iteration = tf.cast(self.iterations + 1, grad.dtype)  # fixed: as above
        lr = self._get_hyper("learning_rate") * tf.pow(self._get_hyper("decay_rate"), iteration)
        var.assign_sub(lr * grad)

    def get_config(self):
        base_config = super().get_config()
        return {
            **base_config,
            "learning_rate": self._serialize_hyperparameter("learning_rate"),
            "decay_rate": self._serialize_hyperparameter("decay_rate"),
        }


# -- the programs ----------------------------------------------------------------------------


def data():
    """Images of digits, 8 by 8 pixels, and which digit each is, one-hot."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    return (digits.data / 16).astype("float32"), np.eye(10, dtype="float32")[digits.target]


def train(optimizer, X_train, y_train, epochs=3):
    """Seed 002's use of its classes: a model compiled with one, and trained."""
    model = tf.keras.Sequential([tf.keras.layers.Dense(10)])
    model.compile(optimizer=optimizer, loss="mse")
    return model, model.fit(X_train, y_train, epochs=epochs, verbose=0).history["loss"]


def main():
    print_parameters()
    X_train, y_train = data()
    change_learning_rate(X_train, y_train)
    read_custom_parameter()
    for optimizer in (MySGD(), MyMomentum(), MyDecayingOptimizer()):
        _, losses = train(optimizer, X_train, y_train)
        print(optimizer.get_config(), "loss", *(f"{loss:.4f}" for loss in losses))


if __name__ == "__main__":
    main()
