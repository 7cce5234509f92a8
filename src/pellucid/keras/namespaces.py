"""Each Keras backend's arrays under NumPy's names, as far as an update and a schedule need them."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from functools import cache
from typing import Any

import keras

__all__ = ["decimal", "namespace", "wide_scalars"]

WIDE = "float64"


def decimal(xp: Any, x: Any) -> Any:
    """The shortest decimal number that a float32 stands for, in float64.

    A hyperparameter's Variable is float32, as Keras's own are: 1 - 0.999 formed from that would
    be off by 1.3e-5. Of the decimals of six to nine digits the first that rounds to the float32
    is taken: 0.999 is again the 0.999 that was written. A float64 stays what it is.
    """
    value = xp.wide(x)
    if "float64" in str(x.dtype):
        return value
    size = xp.maximum(xp.abs(value), 1e-50)
    place = 5.0 - xp.floor(xp.log(size) / math.log(10.0))
    big = xp.power(10.0, xp.maximum(place, 0.0))
    small = xp.power(10.0, xp.maximum(-place, 0.0))
    made = value
    for more in (1000.0, 100.0, 10.0, 1.0):  # from nine digits to six
        digits = xp.round(value * big * more / small) * small / (big * more)
        same = xp.wide(xp.cast(digits, "float32")) == value
        made = xp.where(same, digits, made)
    return value + xp.constant(made - value)


@cache
def namespace() -> Any:
    """The namespace of the backend that Keras runs on."""
    name = keras.backend.backend()
    if name not in _MAKERS:
        raise RuntimeError(
            f"Keras runs on {name!r}; allowed are {', '.join(_MAKERS)}: set KERAS_BACKEND before "
            "keras is imported"
        )
    return _MAKERS[name]()


def wide_scalars() -> Any:
    """A context in which float64 exists: JAX has none elsewhere, unless it is asked for."""
    if keras.backend.backend() != "jax":
        return contextlib.nullcontext()
    import jax

    return jax.enable_x64(True)


def _jax() -> Any:
    import jax
    import jax.numpy as jnp

    class JaxNamespace:
        """`jax.numpy`, with what an update needs besides."""

        def __getattr__(self, name: str) -> Any:
            return getattr(jnp, name)

        def wide(self, x: Any) -> Any:
            return jnp.asarray(x).astype(WIDE)

        def cast(self, x: Any, dtype: str) -> Any:
            return x if isinstance(x, (int, float, bool)) else jnp.asarray(x).astype(dtype)

        def positions(self, shape: tuple[int, ...]) -> Any:
            return jnp.arange(math.prod(shape), dtype="int64").reshape(shape)

        def number(self, x: Any) -> Any:
            return x.reshape(())

        def whole(self, x: Any) -> Any:
            return jnp.asarray(x).astype("int64")

        def together(self, args: list[Any]) -> list[Any]:
            return args

        def sign(self, x: Any) -> Any:
            return jnp.where(jnp.isnan(x), x, jnp.sign(x))

        def any(self, x: Any) -> Any:
            return jnp.any(x)

        def constant(self, x: Any) -> Any:
            """The same array, which derivatives take for a constant."""
            return jax.lax.stop_gradient(x)

        def settled(self, values: Any) -> Any:
            """The same numbers, which XLA computes once and not again for every element.

            On the CPU XLA drops optimization barriers before it fuses. A branch whose condition
            it cannot know is one: the other branch is never taken.
            """
            if not values:
                return values
            known = sum(jnp.sum(jnp.isnan(value)) for value in values) >= 0
            zeros = [jnp.zeros_like(value) for value in values]
            return jax.lax.cond(known, lambda: list(values), lambda: zeros)

        def called(self, function: Callable[[int], float], count: Any) -> Any:
            """A Python function of the step, called on the host when the step runs."""
            halves = jax.ShapeDtypeStruct((2,), "float32")  # a callback has no float64

            def on_host(number: Any) -> Any:
                import numpy

                value = float(function(int(number)))
                high = numpy.float32(value)
                return numpy.array([high, value - float(high)], numpy.float32)

            made = jax.pure_callback(
                on_host, halves, count.astype("int32"), vmap_method="sequential"
            )
            high, low = self.wide(made)
            return high + low

    return JaxNamespace()


def _torch() -> Any:
    import torch

    from pellucid.torch.arrays import TorchNamespace

    class KerasTorchNamespace(TorchNamespace):
        """Torch's tensors; Keras runs them eagerly."""

        floor, round = staticmethod(torch.floor), staticmethod(torch.round)

        @staticmethod
        def power(a: Any, b: Any) -> Any:
            return torch.pow(*_tensors(a, b))

        @staticmethod
        def number(x: Any) -> Any:
            return x.reshape(())

        @staticmethod
        def whole(x: Any) -> Any:
            return x.to(torch.int64)

        @staticmethod
        def any(x: Any) -> Any:
            return torch.any(x)

        @staticmethod
        def settled(values: Any) -> Any:
            return values

        @staticmethod
        def constant(x: Any) -> Any:
            return x

        @staticmethod
        def called(function: Callable[[int], float], count: Any) -> Any:
            return torch.as_tensor(function(int(count)), dtype=torch.float64)

    def _tensors(a: Any, b: Any) -> tuple[Any, Any]:
        like = a if isinstance(a, torch.Tensor) else b
        return (
            torch.as_tensor(a, dtype=like.dtype, device=like.device),
            torch.as_tensor(b, dtype=like.dtype, device=like.device),
        )

    return KerasTorchNamespace()


def _tensorflow() -> Any:
    import tensorflow as tf

    def pair(a: Any, b: Any) -> tuple[Any, Any]:
        """Two arguments in the wider of their types: TensorFlow lets no others meet."""
        a_is, b_is = tf.is_tensor(a), tf.is_tensor(b)
        if a_is and b_is:
            if a.dtype == b.dtype:
                return a, b
            wider = a.dtype if a.dtype.size >= b.dtype.size else b.dtype
            return tf.cast(a, wider), tf.cast(b, wider)
        if a_is:
            return a, tf.convert_to_tensor(b, a.dtype)
        return tf.convert_to_tensor(a, b.dtype if b_is else tf.float64), b

    class TensorFlowNamespace:
        """TensorFlow under NumPy's names."""

        sqrt, exp, log = staticmethod(tf.sqrt), staticmethod(tf.exp), staticmethod(tf.math.log)
        abs, cos = staticmethod(tf.abs), staticmethod(tf.cos)
        floor, round = staticmethod(tf.floor), staticmethod(tf.round)
        isfinite, logical_not = staticmethod(tf.math.is_finite), staticmethod(tf.logical_not)
        logical_and, logical_or = staticmethod(tf.logical_and), staticmethod(tf.logical_or)

        def divide(self, a: Any, b: Any) -> Any:
            return tf.divide(*pair(a, b))

        def power(self, a: Any, b: Any) -> Any:
            return tf.pow(*pair(a, b))

        def minimum(self, a: Any, b: Any) -> Any:
            return tf.minimum(*pair(a, b))

        def maximum(self, a: Any, b: Any) -> Any:
            return tf.maximum(*pair(a, b))

        def where(self, condition: Any, a: Any, b: Any) -> Any:
            if isinstance(condition, bool):
                return a if condition else b
            return tf.where(condition, *pair(a, b))

        def sign(self, x: Any) -> Any:
            return tf.where(tf.math.is_nan(x), x, tf.sign(x))

        def sum(self, x: Any, axis: tuple[int, ...], keepdims: bool) -> Any:
            return tf.reduce_sum(x, axis=list(axis), keepdims=keepdims)

        def amax(self, x: Any, axis: tuple[int, ...], keepdims: bool) -> Any:
            most = tf.reduce_max(x, axis=list(axis), keepdims=keepdims)
            nan = tf.reduce_any(tf.math.is_nan(x), axis=list(axis), keepdims=keepdims)
            return tf.where(nan, tf.constant(math.nan, x.dtype), most)

        def any(self, x: Any) -> Any:
            return tf.reduce_any(x)

        def wide(self, x: Any) -> Any:
            return tf.cast(x, tf.float64)

        def cast(self, x: Any, dtype: str) -> Any:
            return x if isinstance(x, (int, float, bool)) else tf.cast(x, dtype)

        def positions(self, shape: tuple[int, ...]) -> Any:
            return _Bits(tf.reshape(tf.range(math.prod(shape), dtype=tf.int64), shape))

        def number(self, x: Any) -> Any:
            return tf.reshape(x, ())

        def whole(self, x: Any) -> Any:
            return _Bits(tf.cast(x, tf.int64))

        def together(self, args: list[Any]) -> list[Any]:
            floats = [a for a in args if tf.is_tensor(a) and a.dtype.is_floating]
            if len({a.dtype for a in floats}) < 2:
                return args
            wider = max((a.dtype for a in floats), key=lambda dtype: dtype.size)
            return [
                tf.cast(a, wider) if tf.is_tensor(a) and a.dtype.is_floating else a for a in args
            ]

        def settled(self, values: Any) -> Any:
            return values

        def constant(self, x: Any) -> Any:
            return tf.stop_gradient(x)

        def called(self, function: Callable[[int], float], count: Any) -> Any:
            """A Python function of the step, called on the host when the step runs."""
            import numpy

            def on_host(number: Any) -> Any:
                return numpy.asarray(function(int(number)), numpy.float64)

            made = tf.numpy_function(on_host, [tf.cast(count, tf.int64)], tf.float64)
            return tf.ensure_shape(made, ())

    class _Bits:
        """An int64 tensor with Python's operators on bits, which counter-based numbers use."""

        __slots__ = ("value",)

        def __init__(self, value: Any) -> None:
            self.value = value

    def _bitwise(function: Callable[..., Any], swapped: bool = False) -> Callable[..., Any]:
        def operate(self: Any, other: Any) -> Any:
            given = other.value if isinstance(other, _Bits) else tf.constant(other, tf.int64)
            first, second = (given, self.value) if swapped else (self.value, given)
            return _Bits(function(first, second))

        return operate

    for sign, function in {
        "add": tf.add, "and": tf.bitwise.bitwise_and, "or": tf.bitwise.bitwise_or,
        "xor": tf.bitwise.bitwise_xor, "lshift": tf.bitwise.left_shift,
        "rshift": tf.bitwise.right_shift,
    }.items():  # fmt: skip
        setattr(_Bits, f"__{sign}__", _bitwise(function))
        setattr(_Bits, f"__r{sign}__", _bitwise(function, swapped=True))
    setattr(_Bits, "__mul__", lambda self, unit: tf.cast(self.value, tf.float64) * unit)  # noqa: B010
    return TensorFlowNamespace()


_MAKERS: dict[str, Callable[[], Any]] = {"jax": _jax, "torch": _torch, "tensorflow": _tensorflow}
