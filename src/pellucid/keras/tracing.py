"""What runs at once, what is traced into a graph, and what Keras shall not track."""

from __future__ import annotations

import contextlib
from typing import Any

import keras

__all__ = ["Hidden", "as_it_is", "eager", "outside_of_graphs"]


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


def as_it_is(function: Any) -> Any:
    """A method that compiled code calls as it is.

    A user's `tf.function` rewrites others; `torch.compile` would trace the interpreter, for
    minutes, instead of calling the fused kernel.
    """
    if keras.backend.backend() == "torch":
        import torch

        return torch._disable_dynamo(function)  # type: ignore[attr-defined]
    if keras.backend.backend() != "tensorflow":
        return function
    import tensorflow as tf

    return tf.autograph.experimental.do_not_convert(function)


class Hidden:
    """Hides its content from Keras's and TensorFlow's tracking of attributes."""

    __slots__ = ("what",)

    def __init__(self, what: Any) -> None:
        self.what = what
