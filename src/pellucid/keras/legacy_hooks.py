"""The hooks that a legacy optimizer's subclass writes: which are there, and how they are called."""

from __future__ import annotations

import inspect
from typing import Any, TypeVar

import tensorflow as tf

from pellucid.keras.legacy_variables import bare

__all__ = ["Hooks", "sum_duplicates", "without_autograph"]

Kind = TypeVar("Kind", bound=type)

DENSE = "_resource_apply_dense"
SPARSE = "_resource_apply_sparse"
DUPLICATES = "_resource_apply_sparse_duplicate_indices"

HOW = {
    DENSE: """def _resource_apply_dense(self, grad, var, apply_state=None):
        var.assign_sub(self._decayed_lr(var.dtype.base_dtype) * grad)""",
    SPARSE: """def _resource_apply_sparse(self, grad, var, indices, apply_state=None):
        step = self._decayed_lr(var.dtype.base_dtype) * grad
        self._resource_scatter_add(var, indices, -step)  # grad has one row for each index""",
}
"""What an error shows as the beginning of a missing hook."""

MEANS = {
    DENSE: "updates a variable from a dense gradient (Keras 3's `update_step` is not called here)",
    SPARSE: "updates a variable from a sparse gradient (rows of an embedding, tf.IndexedSlices)",
}


def without_autograph(owner: Kind) -> Kind:
    """A class whose methods a user's `tf.function` calls as they are, instead of rewriting them.

    TensorFlow spares its own and Keras's code in the same way. A hook under `tf.function` is
    still rewritten, by its own decorator.
    """
    for name, member in list(vars(owner).items()):
        if inspect.isfunction(member) and not name.startswith("__"):
            setattr(owner, name, tf.autograph.experimental.do_not_convert(member))
    return owner


def sum_duplicates(values: Any, indices: Any) -> tuple[Any, Any]:
    """Rows of a sparse gradient with each index once: the rows of an index are summed."""
    unique, positions = tf.unique(indices)
    return tf.math.unsorted_segment_sum(values, positions, tf.shape(unique)[0]), unique


@without_autograph
class Hooks:
    """Calls of one optimizer's hooks, each with the arguments that its signature takes.

    Args:
        optimizer: whose hooks they are.
        base: the class that declares them without an update.
    """

    def __init__(self, optimizer: Any, base: type) -> None:
        self.optimizer, self.base = optimizer, base
        self._traced: dict[Any, Any] = {}

    # -- what is there ----------------------------------------------------------------------

    def has(self, name: str) -> bool:
        own = inspect.getattr_static(self.optimizer, name)
        return own is not inspect.getattr_static(self.base, name)

    def arguments(self, name: str) -> list[str]:
        """The names of a hook's arguments, with ``self``, seen through `tf.function`.

        A ``*args`` is among them with its star.
        """
        hook = inspect.getattr_static(self.optimizer, name)
        hook = getattr(hook, "python_function", hook)
        if isinstance(hook, (staticmethod, classmethod)):
            hook = hook.__func__
        return [
            f"*{one.name}" if one.kind is one.VAR_POSITIONAL else one.name
            for one in inspect.signature(hook).parameters.values()
            if one.kind is not one.VAR_KEYWORD
        ]

    def takes_indices(self) -> bool:
        names = self.arguments(SPARSE)
        if "indices" in names or any(name.startswith("*") for name in names):
            return True
        return len([name for name in names if name not in ("self", "apply_state")]) >= 3

    def check(self, pairs: list[tuple[Any, Any]]) -> None:
        """Whether there is a hook for each gradient.

        Raises:
            NotImplementedError: it says which one is missing and how to write it.
        """
        for gradient, variable in pairs:
            if isinstance(gradient, tf.IndexedSlices):
                if not self.has(SPARSE) and not self.has(DUPLICATES):
                    raise NotImplementedError(self.missing(SPARSE, variable))
            elif not self.has(DENSE):
                raise NotImplementedError(self.missing(DENSE, variable))

    def missing(self, name: str, variable: Any) -> str:
        owner = type(self.optimizer).__name__
        return (
            f"{owner} does not implement `{name}`, which {MEANS[name]}; {bare(variable.name)} has "
            f"one. Write in {owner}:\n\n    {HOW[name]}\n"
        )

    # -- calls ------------------------------------------------------------------------------

    def dense(self, gradient: Any, variable: Any, apply_state: Any) -> None:
        self._call(DENSE, gradient, variable, **self._state(DENSE, apply_state))

    def sparse(self, gradient: Any, variable: Any, apply_state: Any) -> None:
        """Update rows that may occur several times."""
        state = self._state(SPARSE, apply_state)
        self._call(DUPLICATES, gradient.values, variable, gradient.indices, **state)

    def unique_rows(self, values: Any, variable: Any, indices: Any, state: dict[str, Any]) -> Any:
        """Call the sparse hook with each index once.

        A hook that takes no indices is meant for all rows: it gets a gradient of the variable's
        shape, zero where there is none.
        """
        try:
            if self.takes_indices():
                return self._call(SPARSE, values, variable, indices, **state)
            shape = tf.cast(tf.shape(variable), indices.dtype)
            whole = tf.scatter_nd(indices[:, None], values, shape)
            return self._call(SPARSE, whole, variable, **state)
        except NotImplementedError as error:
            if str(error):
                raise
            raise NotImplementedError(self.missing(SPARSE, variable)) from error

    def _state(self, name: str, apply_state: Any) -> dict[str, Any]:
        return {"apply_state": apply_state} if "apply_state" in self.arguments(name) else {}

    def _call(self, name: str, gradient: Any, variable: Any, *rest: Any, **state: Any) -> Any:
        """Call a hook.

        Under `tf.function` it has a trace of its own for each variable: TensorFlow would give
        variables of one shape the same one, with the slots of the first.
        """
        static = inspect.getattr_static(self.optimizer, name)
        if not hasattr(static, "python_function"):
            return getattr(self.optimizer, name)(gradient, variable, *rest, **state)
        shared: Any = state.get("apply_state")
        keys = tuple(shared) if isinstance(shared, dict) else None
        trace = name, variable._unique_id, bool(state), keys
        if trace not in self._traced:
            self._traced[trace] = self._under_function(static, variable, bool(state), keys)
        parts = shared if keys is None else [shared[key] for key in keys]
        return self._traced[trace](gradient, rest, parts)

    def _under_function(self, static: Any, variable: Any, takes_state: bool, keys: Any) -> Any:
        """A hook's `tf.function` for one variable.

        ``apply_state`` goes in as a list: TensorFlow sorts a dict's keys, which for (device, dtype)
        it cannot.
        """
        hook = static.python_function.__get__(self.optimizer)

        def update(gradient: Any, rest: Any, parts: Any) -> Any:
            shared = parts if keys is None else dict(zip(keys, parts, strict=True))
            return hook(
                gradient, variable, *rest, **({"apply_state": shared} if takes_state else {})
            )

        return tf.function(
            update,
            autograph=getattr(static, "_autograph", True),
            jit_compile=getattr(static, "_jit_compile", None),
        )

    def renew(self) -> None:
        """Forget what hooks under `tf.function` were traced to."""
        self._traced.clear()
