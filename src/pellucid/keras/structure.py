"""What a compiled step has frozen: noticed when it changes, also in loops that are not Keras's.

Numbers are Variables and live. Which schedule drives them, options and the list of slots are plain
Python in a trace. Keras's trainers are made anew (`pellucid.keras.trainers`); a `tf.function` or a
`jax.jit` of a user's own is not ours to find, and must not go on with what it holds:

- JAX compiles anew when the shape of an input changes. The optimizer has a Variable without
  elements whose shape counts the changes, so a step that gets the state compiles by itself.
- TensorFlow does not. The operation in the graph raises an error; where the update is traced
  instead, the graph compares a Variable with the count of its trace, and skips the update.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import keras
import numpy
from keras.src import backend

if TYPE_CHECKING:
    from pellucid.keras.optimizer import Optimizer

__all__ = ["STALE", "Structure"]

STALE = 1 << 30
"""What a step notes as refused if it was compiled before a change of structure."""


class Structure:
    """The changes of what an optimizer's step computes, after it was built."""

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer = optimizer
        self.changes: list[str] = []
        self._count: Any = None  # TensorFlow's own Variable; no part of any file
        self._shape: _Shape | None = None

    def make(self) -> None:
        """Create what compiled steps see, when the optimizer is built."""
        if keras.backend.backend() == "jax":
            with backend.name_scope(self.optimizer.name, caller=self.optimizer):
                self._shape = _Shape(self, name="structure")
            self.optimizer._track_variable(self._shape)
        elif keras.backend.backend() == "tensorflow":
            import tensorflow as tf

            self._count = tf.Variable(
                len(self.changes), trainable=False, dtype=tf.int64, name="structure",
                aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
            )  # fmt: skip

    def change(self, what: str) -> None:
        """Note a change; ``what`` says it in words."""
        self.changes.append(what)
        if self._shape is not None:
            self._shape.renew()
        if self._count is not None:
            self._count.assign(len(self.changes))

    def refused(self, refused: Any) -> Any:
        """What a traced step notes: `STALE` if the structure is no longer that of the trace."""
        if self._count is None:
            return refused
        import tensorflow as tf

        stale = tf.not_equal(tf.convert_to_tensor(self._count), len(self.changes))
        return tf.where(stale, tf.constant(float(STALE), refused.dtype), refused)

    def complaint(self, since: int | None = None) -> str:
        """What is wrong with a step that was compiled before the last changes."""
        known = self.changes if since is None else self.changes[since:]
        return (
            f"{self.optimizer.name} has changed ({'; '.join(known[-3:])}) since this step was "
            "compiled, which holds what was before; nothing was updated. Compile it anew: call "
            "tf.function or jax.jit on the Python function again"
        )


class _Shape(keras.Variable):  # type: ignore[misc]
    """No numbers, but a shape that counts changes: state that an older step does not take."""

    def __init__(self, structure: Structure, name: str) -> None:
        self.structure = structure
        super().__init__(self._zeros(), dtype="float32", trainable=False, name=name)

    def _zeros(self) -> Any:
        return numpy.zeros((0, len(self.structure.changes)), "float32")

    def renew(self) -> None:
        self._shape = (0, len(self.structure.changes))
        super().assign(self._zeros())

    def assign(self, value: Any) -> Any:
        """The shape is the optimizer's to change: state of before leaves it as it is."""
        if tuple(value.shape) == tuple(self._shape):
            return super().assign(value)
        return super().assign(self._zeros())
