"""What a legacy optimizer's subclass writes to apply gradients, and what it calls there."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from pellucid.keras.legacy_hooks import DENSE, SPARSE, sum_duplicates, without_autograph
from pellucid.keras.legacy_state import State

__all__ = ["Applying"]


@without_autograph
class Applying(State):
    """The hooks, without an update, and what a step computes once for all variables.

    Abstract: `pellucid.keras.legacy.Optimizer` calls them.
    """

    def _create_slots(self, var_list: list[Any]) -> None:
        """Call `add_slot` for each variable that has state."""

    def _resource_apply_dense(self, grad: Any, var: Any, apply_state: Any = None) -> Any:
        """Update ``var`` from a gradient of its shape."""
        raise NotImplementedError(self._hooks.missing(DENSE, var))

    def _resource_apply_sparse(
        self, grad: Any, var: Any, indices: Any, apply_state: Any = None
    ) -> Any:
        """Update the rows ``indices`` of ``var``, each of which occurs once."""
        raise NotImplementedError(self._hooks.missing(SPARSE, var))

    def _resource_apply_sparse_duplicate_indices(
        self, grad: Any, var: Any, indices: Any, **kwargs: Any
    ) -> Any:
        """Sum the rows that occur more than once, and call `_resource_apply_sparse`."""
        values, unique = sum_duplicates(grad, indices)
        return self._hooks.unique_rows(values, var, unique, kwargs)

    def _resource_scatter_add(self, x: Any, i: Any, v: Any) -> Any:
        """Add rows ``v`` to the rows ``i`` of a variable; gives its new value."""
        update = tf.raw_ops.ResourceScatterAdd(resource=x.handle, indices=i, updates=v)
        with tf.control_dependencies([update]):
            return x.value()

    def _resource_scatter_update(self, x: Any, i: Any, v: Any) -> Any:
        """Write rows ``v`` into the rows ``i`` of a variable; gives its new value."""
        update = tf.raw_ops.ResourceScatterUpdate(resource=x.handle, indices=i, updates=v)
        with tf.control_dependencies([update]):
            return x.value()

    def _prepare(self, var_list: list[Any]) -> dict[Any, Any]:
        """What a step computes once: for each (device, dtype) what `_prepare_local` puts there."""
        keys = {
            (device, var.dtype.base_dtype)
            for var in var_list
            for device in getattr(var, "_devices", None) or [var.device]
        }
        apply_state: dict[Any, Any] = {}
        for device, dtype in keys:
            apply_state[(device, dtype)] = {}
            with tf.device(device):
                self._prepare_local(device, dtype, apply_state)
        return apply_state

    def _prepare_local(self, var_device: Any, var_dtype: Any, apply_state: Any) -> None:
        """Put ``lr_t``, the decayed learning rate, into ``apply_state[(device, dtype)]``."""
        if "learning_rate" in self._hyper:
            rate = tf.identity(self._decayed_lr(var_dtype))
            apply_state[(var_device, var_dtype)]["lr_t"] = rate

    def _fallback_apply_state(self, var_device: Any, var_dtype: Any) -> dict[str, Any]:
        """What `_prepare_local` gives, for a hook that got no ``apply_state``."""
        apply_state: dict[Any, Any] = {(var_device, var_dtype): {}}
        self._prepare_local(var_device, var_dtype, apply_state)
        return dict(apply_state[(var_device, var_dtype)])

    @property
    def _dense_apply_args(self) -> Any:
        return self._hooks.arguments(DENSE)

    @property
    def _sparse_apply_args(self) -> Any:
        return self._hooks.arguments(SPARSE)
