"""A step that fails on TensorFlow changes nothing, the count of updates included."""

from __future__ import annotations

import keras
import numpy as np
import pytest

import pellucid.keras
from pellucid.keras.host_values import on_host

pytestmark = pytest.mark.backends("tensorflow")


@pytest.mark.parametrize("jit", [False, True], ids=["fused", "xla"])
def test_a_gradient_whose_shape_is_wrong_at_run_time(jit: bool) -> None:
    import tensorflow as tf

    weight = keras.Variable(np.ones((4, 3), "float32"), name="w")
    optimizer = pellucid.keras.Adam(0.1)
    optimizer.build([weight])

    def step(gradient: object) -> None:
        optimizer.apply([gradient], [weight])

    shapes = [tf.TensorSpec((4, 3) if jit else None, tf.float32)]
    compiled = tf.function(step, input_signature=shapes, jit_compile=jit)
    compiled(tf.ones((4, 3)))
    before = on_host(weight)
    with pytest.raises((tf.errors.InvalidArgumentError, TypeError)):
        compiled(tf.ones((2, 3)))
    np.testing.assert_array_equal(on_host(weight), before)
    assert int(on_host(optimizer.iterations)) == 1
    compiled(tf.ones((4, 3)))
    assert int(on_host(optimizer.iterations)) == 2
    assert not np.array_equal(on_host(weight), before)


def test_a_schedule_out_of_bounds_is_not_counted() -> None:
    import tensorflow as tf

    weight = keras.Variable(np.ones(3, "float32"), name="w")
    optimizer = pellucid.keras.Adam(lambda count: 0.1 if count < 2 else -1.0)
    optimizer.build([weight])
    compiled = tf.function(lambda gradient: optimizer.apply([gradient], [weight]))
    for _ in range(2):
        compiled(tf.ones(3))
    before = on_host(weight)
    with pytest.raises(tf.errors.OpError, match=r"learning_rate.* is -1.* >= 0"):
        compiled(tf.ones(3))
    np.testing.assert_array_equal(on_host(weight), before)
    assert int(on_host(optimizer.iterations)) == 2
