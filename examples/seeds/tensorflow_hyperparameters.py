"""Seed 003, "How can TensorFlow access all model hyperparameters?": its three programs.

Nothing is changed but what a comment marks. The same in Pellucid's own way, shorter:
keras_hyperparameters.py. ``python examples/seeds/tensorflow_hyperparameters.py`` runs them.
"""

import os

os.environ["KERAS_BACKEND"] = "tensorflow"

import numpy as np
import tensorflow as tf

# Changed: the seed's programs have no data.
random = np.random.default_rng(0)
x_train = random.normal(size=(256, 10)).astype("float32")
y_train = x_train.sum(axis=1, keepdims=True)


# -- 1. Direct access via the model definition -------------------------------------------------


class MyModel(tf.keras.Model):
    def __init__(self, learning_rate, hidden_units, activation="relu", **kwargs):
        super(MyModel, self).__init__(**kwargs)  # noqa: UP008 (as the seed has it)
        self.learning_rate = learning_rate
        self.hidden_units = hidden_units
        self.activation = activation
        self.dense1 = tf.keras.layers.Dense(hidden_units, activation=activation)
        self.dense2 = tf.keras.layers.Dense(1)

    def call(self, inputs):
        x = self.dense1(inputs)
        return self.dense2(x)


def direct_access():
    model = MyModel(learning_rate=0.01, hidden_units=64)

    print(f"Learning rate: {model.learning_rate}")
    print(f"Hidden units: {model.hidden_units}")
    print(f"Activation: {model.activation}")
    return model


# -- 2. Indirect access via the training loop and callbacks ------------------------------------


def training_loop(epochs=100):  # Hyperparameter here
    # Changed: Keras 3 asks for an Input instead of input_shape=, which it warns of.
    model = tf.keras.Sequential(
        [tf.keras.Input((10,)), tf.keras.layers.Dense(64, activation="relu"),
         tf.keras.layers.Dense(1)]
    )  # fmt: skip

    optimizer = tf.keras.optimizers.Adam(learning_rate=0.001)  # Hyperparameter here
    batch_size = 32  # Hyperparameter here

    # Access within the training loop:
    for epoch in range(epochs):
        # Accessing hyperparameters during training
        print(
            f"Epoch {epoch + 1}/{epochs}, Learning rate: {optimizer.learning_rate.numpy()}, "
            f"Batch Size: {batch_size}"
        )
        # ... Training code ...
        # Changed: it has none; this is the shortest that trains.
        for start in range(0, len(x_train), batch_size):
            some = slice(start, start + batch_size)
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean((model(x_train[some]) - y_train[some]) ** 2)
            gradients = tape.gradient(loss, model.trainable_variables)
            optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
    return model, optimizer


# -- 3. Leveraging custom callbacks ------------------------------------------------------------


class HyperparameterLogger(tf.keras.callbacks.Callback):
    def __init__(self, hyperparameters):
        super(HyperparameterLogger, self).__init__()  # noqa: UP008 (as the seed has it)
        self.hyperparameters = hyperparameters

    def on_epoch_begin(self, epoch, logs=None):
        # Changed: the seed took the learning rate once, before training, and so would print the
        # same number for ever; a value that is a function is asked now.
        now = {
            name: one() if callable(one) else one for name, one in self.hyperparameters.items()
        }
        print(f"Epoch {epoch + 1}: Hyperparameters: {now}")


def custom_callback(epochs=100):
    model = tf.keras.Sequential(  # Changed: as above, an Input.
        [tf.keras.Input((10,)), tf.keras.layers.Dense(64, activation="relu"),
         tf.keras.layers.Dense(1)]
    )  # fmt: skip

    optimizer = tf.keras.optimizers.Adam(learning_rate=0.001)
    hyperparams = {
        "learning_rate": lambda: float(optimizer.learning_rate.numpy()),
        "epochs": epochs,
        "batch_size": 32,
    }

    model.compile(optimizer=optimizer, loss="mse")
    model.fit(
        x_train, y_train, epochs=epochs, batch_size=32, verbose=0,
        callbacks=[HyperparameterLogger(hyperparams)],
    )  # fmt: skip
    return model


if __name__ == "__main__":
    direct_access()
    training_loop(epochs=2)
    custom_callback(epochs=3)
