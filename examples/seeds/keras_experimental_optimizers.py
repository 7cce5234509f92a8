"""Seed 001, "What is the valid argument structure for `optimizer_experimental.Optimizer`?", runs.

Its three examples as written there, with ``pellucid.keras.Adam`` in place of
``tf.keras.optimizers.experimental.Adam``, which Keras 3 has no more; what is missing in them is
put in and marked ``# fixed:``. keras_optimizers.py has the same in Pellucid's own way.
``KERAS_BACKEND=tensorflow python examples/seeds/keras_experimental_optimizers.py`` runs them.
"""

from __future__ import annotations

import tensorflow as tf

import pellucid.keras

# -- example 1: Adam -------------------------------------------------------------------------


def basic_adam():
    optimizer = pellucid.keras.Adam(learning_rate=0.001)

    # Subsequent model compilation and training steps would utilize this optimizer.
    return optimizer


# -- example 2: gradients are clipped by a function ------------------------------------------


def clip_gradients(grads_and_vars):
    # Applies gradient clipping by value (a common practice)
    clipped_grads_and_vars = [
        (tf.clip_by_value(grad, -1.0, 1.0), var)
        for grad, var in grads_and_vars
        if grad is not None
    ]
    return clipped_grads_and_vars


def clipped_adam():
    optimizer = pellucid.keras.Adam(
        learning_rate=0.001,
        gradient_transformers=[clip_gradients],  # Injecting a custom gradient transformation
    )
    return optimizer


# -- example 3: the learning rate is scheduled by a callback ---------------------------------


def train_with_scheduler(X_train, y_train, epochs=50):
    def learning_rate_scheduler(epoch):
        # Example: Reduce learning rate by half every 10 epochs
        if epoch % 10 == 0 and epoch > 0:
            return 0.5 * tf.keras.backend.get_value(optimizer.learning_rate)
        return tf.keras.backend.get_value(optimizer.learning_rate)

    optimizer = pellucid.keras.Adam(learning_rate=0.01)
    # Using a tf.keras.callbacks.LearningRateScheduler
    lr_callback = tf.keras.callbacks.LearningRateScheduler(learning_rate_scheduler)
    model = tf.keras.Sequential([tf.keras.layers.Dense(10)])  # fixed: the seed has no model
    model.compile(optimizer=optimizer, loss="mse")
    history = model.fit(X_train, y_train, epochs=epochs, callbacks=[lr_callback], verbose=0)
    return model, optimizer, history


# -- the programs ----------------------------------------------------------------------------


def data():
    """Some images of digits, 8 by 8 pixels, and which digit each is, one-hot."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    return (digits.data[:320] / 16).astype("float32"), tf.one_hot(digits.target[:320], 10).numpy()


def main():
    X_train, y_train = data()
    for optimizer in (basic_adam(), clipped_adam()):
        model = tf.keras.Sequential([tf.keras.layers.Dense(10)])
        model.compile(optimizer=optimizer, loss="mse")
        losses = model.fit(X_train, y_train, epochs=3, verbose=0).history["loss"]
        print("loss", *(f"{loss:.4f}" for loss in losses))
    _, optimizer, history = train_with_scheduler(X_train, y_train, epochs=21)
    print("learning rates", sorted(set(history.history["learning_rate"]), reverse=True))
    print(f"at the end: {tf.keras.backend.get_value(optimizer.learning_rate)}")


if __name__ == "__main__":
    main()
