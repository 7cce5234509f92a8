"""`tf.distribute`: each replica updates its own copies of the variables.

Gradients are summed over the replicas first, so all of them compute the same, and their copies
stay equal without more talk among them.
"""

from __future__ import annotations

import contextlib
from typing import Any

import keras

__all__ = ["distributed", "local", "one_copy", "scope"]


def distributed() -> bool:
    """Whether code runs, or is traced, within a strategy of TensorFlow's."""
    if keras.backend.backend() != "tensorflow":
        return False
    import tensorflow as tf

    return bool(tf.distribute.has_strategy())


def local(variable: Any) -> Any:
    """What is written where a Variable is to be written: in a replica, the replica's own copy.

    Raises:
        RuntimeError: the strategy does not tell which replica it is.
    """
    if not distributed():
        return variable
    import tensorflow as tf

    context = tf.distribute.get_replica_context()
    if context is None:
        return variable
    held = variable.value if isinstance(variable, keras.Variable) else variable
    copies = context.strategy.experimental_local_results(held)
    replica = tf.get_static_value(context.replica_id_in_sync_group)
    if replica is None:
        raise RuntimeError(
            f"{type(context.strategy).__name__} does not say which replica is traced, so its own "
            "copies are not known: use tf.distribute.MirroredStrategy"
        )
    return copies[int(replica) % len(copies)]


def one_copy(variable: Any) -> Any:
    """Of a variable that each replica has a copy of, one; NumPy takes the whole for an object."""
    if hasattr(variable, "values") and hasattr(variable, "distribute_strategy"):
        return variable.values[0]
    return variable


def scope(optimizer: Any) -> Any:
    """A context in which variables are made as the optimizer's others were."""
    strategy = getattr(optimizer, "_distribution_strategy", None)
    if strategy is None:
        return contextlib.nullcontext()
    import tensorflow as tf

    other = tf.distribute.get_strategy() is not strategy
    return strategy.scope() if other else contextlib.nullcontext()
