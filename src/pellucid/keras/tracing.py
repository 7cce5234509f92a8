"""Whether code runs at once or is traced into a graph, and what Keras shall not track."""

from __future__ import annotations

import contextlib
from typing import Any

import keras

__all__ = ["Hidden", "eager", "outside_of_graphs"]


def eager() -> bool:
    """Whether code runs at once: not while a step is traced."""
    from keras.src.backend.common.stateless_scope import in_stateless_scope

    if in_stateless_scope():
        return False
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return bool(tf.executing_eagerly())
    return True


def outside_of_graphs() -> Any:
    """A context in which code runs at once, also while TensorFlow traces a function."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.init_scope()
    return contextlib.nullcontext()


class Hidden:
    """Hides its content from Keras's and TensorFlow's tracking of attributes."""

    __slots__ = ("what",)

    def __init__(self, what: Any) -> None:
        self.what = what
