"""Gradients of some rows, as embeddings have them on TensorFlow (`tf.IndexedSlices`).

A row may stand in one several times; its gradient is the sum. With ``sparse="dense"`` that sum
becomes a gradient of all rows before anything else sees it. With ``sparse="lazy"`` functions in
``gradient_transformers`` get IndexedSlices, too, in which each row stands once.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pellucid.fuse.lazy import check_program
from pellucid.keras.core import Parameter, path_of
from pellucid.ops import RuleError

if TYPE_CHECKING:
    from pellucid.keras.core import Core

__all__ = ["as_given", "check_lazy", "is_sparse", "parts", "summed"]


def is_sparse(grad: Any) -> bool:
    """Whether a gradient has some rows only, or is one of JAX's sparse arrays."""
    return _is_slices(grad) or _is_jax_sparse(grad)


def _is_slices(grad: Any) -> bool:
    tf = sys.modules.get("tensorflow")
    return tf is not None and isinstance(grad, tf.IndexedSlices)


def _is_jax_sparse(grad: Any) -> bool:
    sparse = sys.modules.get("jax.experimental.sparse")
    return sparse is not None and isinstance(grad, sparse.JAXSparse)


def summed(grad: Any, variable: Any, how: str) -> Any:
    """A gradient of some rows with duplicates summed; other gradients as they are.

    Args:
        grad: of the shape of the variable, or some of its rows.
        variable: what it is for.
        how: "dense" gives a gradient of all rows, "lazy" one in which each row stands once.

    Raises:
        TypeError: "lazy", and it is one of JAX's sparse arrays.
        ValueError, tf.errors.InvalidArgumentError: a row is out of range. Nothing was written.
            (XLA checks nothing; there such rows are left out.)
    """
    if _is_jax_sparse(grad):
        if how == "lazy":
            raise TypeError(
                f"sparse='lazy' takes TensorFlow's IndexedSlices, and the gradient of "
                f"{path_of(variable)!r} is {type(grad).__name__}: use sparse='dense'"
            )
        return grad.todense()
    if not _is_slices(grad):
        return grad
    return _summed_slices(grad, variable, how)


def _summed_slices(grad: Any, variable: Any, how: str) -> Any:
    import tensorflow as tf

    shape = tuple(variable.shape)
    rows, values = _checked(grad, variable, shape)
    wide = tf.float32 if values.dtype.size < 4 else values.dtype
    values = tf.cast(values, wide)
    if how == "dense":
        return tf.ensure_shape(tf.math.unsorted_segment_sum(values, rows, shape[0]), shape)
    once, place = tf.unique(rows)
    total = tf.math.unsorted_segment_sum(values, place, tf.size(once))
    total = tf.ensure_shape(total, (None, *shape[1:]))
    return tf.IndexedSlices(total, once, tf.constant(shape, tf.int64))


def _checked(grad: Any, variable: Any, shape: tuple[int, ...]) -> tuple[Any, Any]:
    """Rows (int64) and values of IndexedSlices, if the variable has such rows."""
    import tensorflow as tf

    name = path_of(variable)
    if not shape:
        raise ValueError(f"the gradient of {name!r} has rows, and the variable has none")
    fits = grad.values.shape[1:].is_compatible_with(shape[1:])
    if not fits or grad.indices.shape.rank not in (None, 1):
        raise ValueError(
            f"the gradient of {name!r} has rows of shape {tuple(grad.values.shape[1:])}, numbered "
            f"by {grad.indices.shape}; allowed are rows of shape {shape[1:]}, numbered by a list"
        )
    rows = tf.cast(grad.indices, tf.int64)
    values = tf.reshape(grad.values, tf.concat([tf.shape(rows), tf.shape(grad.values)[1:]], 0))
    good = tf.reduce_all((rows >= 0) & (rows < shape[0]))
    text = (
        f"the gradient of {name!r} has a row out of range: allowed is 0 to {shape[0] - 1}. "
        "Nothing was updated; the rows are"
    )
    if tf.executing_eagerly():
        if not bool(good):
            raise ValueError(f"{text} {rows.numpy().tolist()}")
        return rows, values
    with tf.control_dependencies([tf.debugging.Assert(good, [text, rows], summarize=16)]):
        return tf.identity(rows), values


def parts(grad: Any) -> tuple[Any, Any]:
    """(gradient, rows) of what `summed` gave; rows is None where it has all."""
    return (grad.values, grad.indices) if _is_slices(grad) else (grad, None)


def check_lazy(core: Core, parameters: Sequence[Parameter]) -> None:
    """See that some rows of these parameters can be updated without the others.

    Raises:
        RuleError: they cannot; or a stage asks how many rows or elements all tensors have.
    """
    for parameter in parameters:
        check_program(core.program(parameter, frozenset()), parameter.name)
    for parameter in core.parameters:
        for node in core.program(parameter, frozenset()).segmented.nodes:
            if node.op == "size" and node.data in ("all rows", "all elements"):
                raise RuleError(
                    f"sparse='lazy': the update of {parameter.name!r} asks how many {node.data} "
                    f"there are, and of {parameters[0].name!r} only some rows take part: use "
                    "sparse='dense'"
                )


def divisible(grad: Any) -> Any:
    """A gradient that Keras can divide by ``loss_scale_factor``."""
    if not _is_slices(grad):
        return grad
    import tensorflow as tf

    class Divisible(tf.IndexedSlices):  # type: ignore[misc]
        def __truediv__(self, number: float) -> Any:
            return tf.IndexedSlices(self.values / number, self.indices, self.dense_shape)

    return Divisible(grad.values, grad.indices, grad.dense_shape)


def as_given(grads: Sequence[Any], variables: Sequence[Any], accumulated: bool) -> list[Any]:
    """Gradients that Keras's own arithmetic takes: it adds them up, or divides them alone."""
    if accumulated:
        owners = [*variables, *[None] * (len(grads) - len(variables))]
        return [
            summed(one, owner, "dense") if is_sparse(one) else one
            for one, owner in zip(grads, owners, strict=False)
        ]
    return [divisible(one) for one in grads]
