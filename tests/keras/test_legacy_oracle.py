"""One optimizer class on tf_keras's legacy base and on ours: the same numbers, step for step."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import keras
import numpy as np
import pytest

pytestmark = pytest.mark.backends("tensorflow")

tf = pytest.importorskip("tensorflow", reason="the legacy optimizer runs on TensorFlow alone")
tf_keras = pytest.importorskip("tf_keras", reason="the oracle")

from pellucid.keras.legacy import Optimizer  # noqa: E402

STEPS = 20
SHAPES = ((7, 5), (5,), (6, 4))  # the last has sparse gradients
legacy = tf_keras.optimizers.legacy


def old_adam(base: type) -> type:
    """Adam in the old style: shared coefficients, fused operations on handles."""

    class OldAdam(base):
        def __init__(
            self, learning_rate=0.01, beta_1=0.9, beta_2=0.999, epsilon=1e-7, name="OldAdam",
            **kwargs,
        ):  # fmt: skip
            super().__init__(name, **kwargs)
            self._set_hyper("learning_rate", kwargs.get("lr", learning_rate))
            self._set_hyper("decay", self._initial_decay)
            self._set_hyper("beta_1", beta_1)
            self._set_hyper("beta_2", beta_2)
            self.epsilon = epsilon

        def _create_slots(self, var_list):
            for var in var_list:
                self.add_slot(var, "m")
            for var in var_list:
                self.add_slot(var, "v")

        def _prepare_local(self, var_device, var_dtype, apply_state):
            super()._prepare_local(var_device, var_dtype, apply_state)
            step = tf.cast(self.iterations + 1, var_dtype)
            beta_1 = tf.identity(self._get_hyper("beta_1", var_dtype))
            beta_2 = tf.identity(self._get_hyper("beta_2", var_dtype))
            own = apply_state[(var_device, var_dtype)]
            own["power_1"], own["power_2"] = tf.pow(beta_1, step), tf.pow(beta_2, step)
            own["rate"] = own["lr_t"] * tf.sqrt(1 - own["power_2"]) / (1 - own["power_1"])
            own["beta_1"], own["beta_2"] = beta_1, beta_2
            own["epsilon"] = tf.convert_to_tensor(self.epsilon, var_dtype)

        def _coefficients(self, var, apply_state):
            key = (var.device, var.dtype.base_dtype)
            return (apply_state or {}).get(key) or self._fallback_apply_state(*key)

        def _resource_apply_dense(self, grad, var, apply_state=None):
            own = self._coefficients(var, apply_state)
            return tf.raw_ops.ResourceApplyAdam(
                var=var.handle,
                m=self.get_slot(var, "m").handle,
                v=self.get_slot(var, "v").handle,
                beta1_power=own["power_1"],
                beta2_power=own["power_2"],
                lr=own["lr_t"],
                beta1=own["beta_1"],
                beta2=own["beta_2"],
                epsilon=own["epsilon"],
                grad=grad,
                use_locking=self._use_locking,
            )

        def _resource_apply_sparse(self, grad, var, indices, apply_state=None):
            own = self._coefficients(var, apply_state)
            m, v = self.get_slot(var, "m"), self.get_slot(var, "v")
            m_t = tf.compat.v1.assign(m, m * own["beta_1"], use_locking=self._use_locking)
            with tf.control_dependencies([m_t]):
                m_t = self._resource_scatter_add(m, indices, grad * (1 - own["beta_1"]))
            v_t = tf.compat.v1.assign(v, v * own["beta_2"], use_locking=self._use_locking)
            with tf.control_dependencies([v_t]):
                v_t = self._resource_scatter_add(v, indices, grad * grad * (1 - own["beta_2"]))
            move = own["rate"] * m_t / (tf.sqrt(v_t) + own["epsilon"])
            return tf.group(tf.compat.v1.assign_sub(var, move), m_t, v_t)

        def get_config(self):
            config = super().get_config()
            for name in ("learning_rate", "beta_1", "beta_2"):
                config[name] = self._serialize_hyperparameter(name)
            return {**config, "epsilon": self.epsilon, "decay": self._initial_decay}

    return OldAdam


def old_momentum(base: type) -> type:
    """Heavy-ball momentum by assignments, without apply_state."""

    class OldMomentum(base):
        def __init__(self, learning_rate=0.01, momentum=0.9, name="OldMomentum", **kwargs):
            super().__init__(name, **kwargs)
            self._set_hyper("learning_rate", learning_rate)
            self._set_hyper("momentum", momentum)

        def _create_slots(self, var_list):
            for var in var_list:
                self.add_slot(var, "momentum", initializer="zeros")
                self.add_slot(var, "start", initializer=var)
                self.add_slot(var, "count", initializer="ones", shape=[])

        def _resource_apply_dense(self, grad, var):
            dtype = var.dtype.base_dtype
            rate, factor = self._decayed_lr(dtype), self._get_hyper("momentum", dtype)
            slot, count = self.get_slot(var, "momentum"), self.get_slot(var, "count")
            slot_t = slot.assign(factor * slot + grad, use_locking=self._use_locking)
            pull = 1e-3 * (var - self.get_slot(var, "start")) / count
            var_t = var.assign_sub(rate * (slot_t + pull), use_locking=self._use_locking)
            return tf.group(slot_t, var_t, count.assign_add(1.0))

        def _resource_apply_sparse(self, grad, var, indices):
            dtype = var.dtype.base_dtype
            slot = self.get_slot(var, "momentum")
            rows = self._get_hyper("momentum", dtype) * tf.gather(slot, indices) + grad
            slot_t = self._resource_scatter_update(slot, indices, rows)
            var_t = self._resource_scatter_add(var, indices, -self._decayed_lr(dtype) * rows)
            return tf.group(slot_t, var_t)

        def get_config(self):
            return super().get_config()

    return OldMomentum


def doubled(pairs: list[Any]) -> list[Any]:
    return [(tf.math.scalar_mul(2.0, gradient), variable) for gradient, variable in pairs]


def centred(pairs: list[Any]) -> list[Any]:
    """Of each gradient of two axes, dense ones, the mean over the first is taken away."""
    return [
        (g if isinstance(g, tf.IndexedSlices) or g.shape.rank < 2 else g - tf.reduce_mean(g, 0), v)
        for g, v in pairs
    ]


def plain_sum(pairs: list[Any]) -> list[Any]:
    """A user's own aggregator: here it scales, so that it is seen to be called."""
    return [(tf.math.scalar_mul(0.5, gradient), variable) for gradient, variable in pairs]


def exponential(module: Any) -> Any:
    return module.optimizers.schedules.ExponentialDecay(0.02, decay_steps=7, decay_rate=0.8)


CASES: dict[str, tuple[Callable[[type], type], Callable[[Any], dict[str, Any]]]] = {
    "adam": (old_adam, lambda module: {}),
    "adam, other numbers": (
        old_adam,
        lambda module: {"learning_rate": 0.03, "beta_1": 0.8, "beta_2": 0.95, "epsilon": 1e-3},
    ),
    "adam, decay": (old_adam, lambda module: {"decay": 0.05}),
    "adam, schedule": (old_adam, lambda module: {"learning_rate": exponential(module)}),
    "adam, schedule and decay": (
        old_adam,
        lambda module: {"learning_rate": exponential(module), "decay": 0.02},
    ),
    "adam, function": (old_adam, lambda module: {"learning_rate": lambda: 0.004}),
    "adam, tensor": (old_adam, lambda module: {"learning_rate": tf.constant(0.004)}),
    "momentum": (old_momentum, lambda module: {}),
    "momentum, decay": (old_momentum, lambda module: {"decay": 0.1}),
    "momentum, clipnorm": (old_momentum, lambda module: {"clipnorm": 0.7}),
    "momentum, clipvalue": (old_momentum, lambda module: {"clipvalue": 0.3}),
    "momentum, global_clipnorm": (old_momentum, lambda module: {"global_clipnorm": 1.1}),
    "momentum, clipvalue and clipnorm": (
        old_momentum,
        lambda module: {"clipvalue": 0.3, "clipnorm": 0.7},
    ),
    "momentum, transformers": (
        old_momentum,
        lambda module: {"gradient_transformers": [doubled, centred]},
    ),
    "momentum, aggregator": (old_momentum, lambda module: {"gradient_aggregator": plain_sum}),
}


@cache
def gradients(step: int) -> list[Any]:
    """Mixed signs, zeros and magnitudes from 1e-12 to 1e4; rows that occur several times."""
    random = np.random.default_rng(step)
    dense = []
    for shape in SHAPES[:2]:
        values = random.normal(size=shape) * 10.0 ** random.integers(-12, 5, size=shape)
        values[random.random(shape) < 0.1] = 0.0
        dense.append(tf.constant(values, tf.float32))
    indices = random.integers(0, SHAPES[2][0], size=9)
    rows = random.normal(size=(9, SHAPES[2][1])) * 10.0 ** random.integers(-6, 3, size=(9, 1))
    sparse = tf.IndexedSlices(
        tf.constant(rows, tf.float32), tf.constant(indices), tf.constant(SHAPES[2])
    )
    return [*dense, sparse]


def run(optimizer: Any, compiled: bool) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Variables and weights after the steps."""
    random = np.random.default_rng(99)
    variables = [
        tf.Variable(random.normal(size=shape).astype("float32"), name=f"w{index}")
        for index, shape in enumerate(SHAPES)
    ]

    def step(*given: Any) -> None:
        optimizer.apply_gradients(zip(given, variables, strict=True))

    if compiled:
        step = tf.function(step)
    for number in range(STEPS):
        step(*gradients(number))
    return [one.numpy() for one in variables], optimizer.get_weights()


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("case", CASES)
def test_same_numbers_as_the_old_base(case: str, compiled: bool) -> None:
    make, arguments = CASES[case]
    ours = run(make(Optimizer)(**arguments(keras)), compiled)
    theirs = run(make(legacy.Optimizer)(**arguments(tf_keras)), compiled)
    assert len(ours[1]) == len(theirs[1])
    for mine, other in zip([*ours[0], *ours[1]], [*theirs[0], *theirs[1]], strict=True):
        assert mine.shape == other.shape
        assert np.all(np.isfinite(mine))
        if "schedule" in case:  # Keras 3 computes a schedule by other operations
            np.testing.assert_allclose(mine, other, rtol=2e-5, atol=2e-6)
        else:
            np.testing.assert_array_equal(mine, other)


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("decay", [0.0, 0.03])
def test_adam_is_tf_kerass_own_legacy_adam(decay: float, compiled: bool) -> None:
    """Ours in the old style against the class that tf_keras ships, not against itself."""
    ours = run(old_adam(Optimizer)(0.02, beta_1=0.85, decay=decay), compiled)
    theirs = run(legacy.Adam(0.02, beta_1=0.85, decay=decay), compiled)
    for mine, other in zip([*ours[0], *ours[1]], [*theirs[0], *theirs[1]], strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-5, atol=1e-7)


CHANGED = {
    "learning_rate": 0.011, "beta_1": 0.88, "beta_2": 0.99, "epsilon": 1e-2, "decay": 0.01,
    "clipnorm": 0.5, "clipvalue": 0.2, "global_clipnorm": 0.5,
    "gradient_transformers": [doubled, centred],
}  # fmt: skip


@cache
def unchanged() -> list[np.ndarray]:
    return run(old_adam(Optimizer)(), compiled=True)[0]


@pytest.mark.parametrize("argument", CHANGED)
def test_the_comparison_sees_each_argument(argument: str) -> None:
    other, _ = run(old_adam(Optimizer)(**{argument: CHANGED[argument]}), compiled=True)
    assert any(
        not np.allclose(a, b, rtol=1e-4, atol=1e-6) for a, b in zip(unchanged(), other, strict=True)
    )


def test_a_restored_old_optimizer_goes_on() -> None:
    """get_weights of the old optimizer, set_weights on ours: the next steps are the same."""
    old, new = old_adam(legacy.Optimizer)(), old_adam(Optimizer)()
    theirs, ours = ([tf.Variable(np.ones(s, "float32")) for s in SHAPES] for _ in range(2))
    for number in range(5):
        old.apply_gradients(zip(gradients(number), theirs, strict=True))
    for mine, other in zip(ours, theirs, strict=True):
        mine.assign(other)
    new.build(ours)
    new.set_weights(old.get_weights())
    for number in range(5, 10):
        old.apply_gradients(zip(gradients(number), theirs, strict=True))
        new.apply_gradients(zip(gradients(number), ours, strict=True))
    for mine, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(mine.numpy(), other.numpy())


def test_a_checkpoint_of_the_old_optimizer_is_read(tmp_path: Any) -> None:
    """The names in a TensorFlow checkpoint are the old ones."""
    old, new = old_adam(legacy.Optimizer)(0.02), old_adam(Optimizer)(0.5)
    theirs, ours = ([tf.Variable(np.ones(s, "float32")) for s in SHAPES] for _ in range(2))
    for number in range(5):
        old.apply_gradients(zip(gradients(number), theirs, strict=True))
    path = tf.train.Checkpoint(optimizer=old, model=dict(enumerate_names(theirs))).write(
        str(tmp_path / "old")
    )
    new.build(ours)
    status = tf.train.Checkpoint(optimizer=new, model=dict(enumerate_names(ours))).read(path)
    status.assert_existing_objects_matched()
    assert new.get_config()["learning_rate"] == pytest.approx(0.02)
    for mine, other in zip(new.get_weights(), old.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, other)


def enumerate_names(variables: list[Any]) -> list[tuple[str, Any]]:
    return [(f"w{index}", one) for index, one in enumerate(variables)]
