"""The optimizer API of tf.keras before Keras 3 (OptimizerV2), on Keras 3 and TensorFlow.

An optimizer that was written for ``tf.keras.optimizers.Optimizer`` runs when its base class is
``pellucid.keras.legacy.Optimizer``::

    class MyOptimizer(pellucid.keras.legacy.Optimizer):
        def __init__(self, learning_rate=0.01, name="MyOptimizer", **kwargs):
            super().__init__(name, **kwargs)
            self._set_hyper("learning_rate", learning_rate)

        def _create_slots(self, var_list):
            for var in var_list:
                self.add_slot(var, "m")

        def _resource_apply_dense(self, grad, var, apply_state=None):
            m = self.get_slot(var, "m")
            m.assign(0.9 * m + grad)
            var.assign_sub(self._decayed_lr(var.dtype.base_dtype) * m)

The hooks call TensorFlow. On another backend the module can be imported, and constructing an
optimizer says what to do.
"""

from __future__ import annotations

from typing import Any

import keras

__all__ = ["Optimizer"]

if keras.backend.backend() == "tensorflow":
    from pellucid.keras.legacy_optimizer import Optimizer
else:

    class Optimizer(keras.optimizers.Optimizer):  # type: ignore[misc, no-redef]
        """Stands for the legacy optimizer where it cannot run, and says why."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            raise RuntimeError(
                f"{type(self).__name__}: the legacy optimizer API (_resource_apply_dense and the "
                "like) calls TensorFlow, but Keras runs on the backend "
                f"{keras.backend.backend()!r}. Set the environment variable "
                "KERAS_BACKEND=tensorflow before Keras is imported; or write the update as a Rule "
                "and give it to pellucid.keras.Optimizer, which runs on every backend."
            )
