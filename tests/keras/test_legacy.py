"""The legacy optimizer in Keras 3: in fit, live, saved and loaded, and what its errors say."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

pytestmark = pytest.mark.backends("tensorflow")

tf = pytest.importorskip("tensorflow", reason="the legacy optimizer runs on TensorFlow alone")

from pellucid.keras.legacy import Optimizer  # noqa: E402

X = np.random.default_rng(0).normal(size=(12, 4)).astype("float32")
Y = np.random.default_rng(1).normal(size=(12, 3)).astype("float32")


@keras.saving.register_keras_serializable("pellucid-tests")
class Momentum(Optimizer):
    """A typical subclass."""

    def __init__(self, learning_rate=0.05, momentum=0.9, name="Momentum", **kwargs):
        super().__init__(name, **kwargs)
        self._set_hyper("learning_rate", kwargs.get("lr", learning_rate))
        self._set_hyper("decay", self._initial_decay)
        self._set_hyper("momentum", momentum)
        self.scale = 1.0

    def _create_slots(self, var_list):
        for var in var_list:
            self.add_slot(var, "m")

    def _resource_apply_dense(self, grad, var, apply_state=None):
        m = self.get_slot(var, "m")
        m.assign(self._get_hyper("momentum", var.dtype) * m + grad)
        var.assign_sub(self.scale * self._decayed_lr(var.dtype.base_dtype) * m)

    def _resource_apply_sparse(self, grad, var, indices, apply_state=None):
        self._resource_scatter_add(var, indices, -self._decayed_lr(var.dtype) * grad)

    def get_config(self):
        config = super().get_config()
        for name in ("learning_rate", "momentum"):
            config[name] = self._serialize_hyperparameter(name)
        return {**config, "decay": self._initial_decay}


def network(optimizer: Any, **compile_arguments: Any) -> Any:
    keras.utils.set_random_seed(3)
    inputs = keras.Input((4,))
    hidden = keras.layers.Dense(4, name="hidden")(inputs)  # two kernels of one shape
    hidden = keras.layers.Dense(4, name="same")(hidden)
    model = keras.Model(inputs, keras.layers.Dense(3, name="dense")(hidden))
    model.compile(optimizer, "mse", **compile_arguments)
    return model


def fit(model: Any, epochs: int = 1, callbacks: Any = None) -> None:
    model.fit(X, Y, batch_size=4, shuffle=False, verbose=0, epochs=epochs, callbacks=callbacks)


def moved(model: Any) -> float:
    """How far one epoch moves the last kernel."""
    kernel = model.get_layer("dense").kernel
    before = kernel.numpy()
    fit(model)
    return float(np.abs(kernel.numpy() - before).max())


def state(model: Any) -> list[np.ndarray]:
    return [*model.get_weights(), *(one.numpy() for one in model.optimizer.variables)]


def assert_same(first: Any, second: Any) -> None:
    assert len(state(first)) == len(state(second))
    for one, other in zip(state(first), state(second), strict=True):
        np.testing.assert_array_equal(one, other)


HOW = {
    "compiled": {},
    "eager": {"run_eagerly": True},
    "xla": {"jit_compile": True},
    "several steps": {"steps_per_execution": 3},
}


# -- in fit ------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", HOW)
def test_fit_gives_the_numbers_of_kerass_own_sgd(how: str) -> None:
    ours = network(Momentum(0.05, 0.9), **HOW[how])
    theirs = network(keras.optimizers.SGD(0.05, momentum=0.9), **HOW[how])
    fit(ours, 3)
    fit(theirs, 3)
    for mine, other in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-5, atol=1e-6)
    assert int(ours.optimizer.iterations) == 9


def test_variables_are_listed_by_name() -> None:
    optimizer = Momentum(0.1, name="Mine")
    assert isinstance(optimizer, keras.optimizers.Optimizer)
    assert [v.name for v in optimizer.variables()] == [
        "Mine/iter", "Mine/learning_rate", "Mine/decay", "Mine/momentum",
    ]  # fmt: skip
    rate = optimizer.variables["learning_rate"]
    model = network(optimizer)
    fit(model)
    assert optimizer.variables["Mine/learning_rate"] is rate is optimizer.lr
    assert optimizer.variables()["Mine/learning_rate:0"] is rate
    assert [v for v in optimizer.variables() if v.name == "Mine/learning_rate:0"] == [rate]
    assert not rate.name.endswith(":0")
    slot = optimizer.variables["Mine/dense/kernel/m"]
    assert slot is optimizer.get_slot(model.get_layer("dense").kernel, "m")
    assert slot.shape == (4, 3)
    assert len(optimizer.variables) == 4 + 6
    assert [w.shape for w in optimizer.get_weights()][:2] == [(), (4, 4)]
    assert len(optimizer.weights) == 1 + 6
    assert optimizer.get_slot_names() == ["m"]
    assert {"learning_rate", "lr", "momentum", "decay"} <= set(dir(optimizer))
    with pytest.raises(KeyError, match=r"no variable of the name 'beta'.*Mine/momentum"):
        optimizer.variables["beta"]
    with pytest.raises(KeyError, match=r"no slot 'v' for hidden/kernel; it has m"):
        optimizer.get_slot(model.layers[1].kernel, "v")


def test_a_number_is_live_without_a_retrace() -> None:
    optimizer = Momentum(0.05, 0.0)
    model = network(optimizer)
    assert moved(model) > 0
    function = model.train_function
    for write in (
        lambda: setattr(optimizer, "lr", 0.0),
        lambda: setattr(optimizer, "learning_rate", np.float32(0)),
        lambda: optimizer._set_hyper("learning_rate", tf.constant(0.0)),
        lambda: optimizer.lr.assign(0.0),
    ):
        optimizer.learning_rate = 0.05
        assert moved(model) > 0
        write()
        assert moved(model) == 0
    assert model.train_function is function
    assert optimizer.get_config()["learning_rate"] == 0.0


class At(keras.callbacks.Callback):
    """Do something to the optimizer after a batch."""

    def __init__(self, batch: int, act: Any) -> None:
        super().__init__()
        self.batch, self.act, self.seen = batch, act, []

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.seen.append(self.model.get_layer("dense").kernel.numpy())
        if batch == self.batch:
            self.act(self.model.optimizer)


SCHEDULE = keras.optimizers.schedules.PiecewiseConstantDecay([100], [0.0, 1.0])
STOPS = {
    "number": lambda opt: setattr(opt, "lr", 0.0),
    "schedule": lambda opt: setattr(opt, "lr", SCHEDULE),
    "function": lambda opt: setattr(opt, "lr", lambda: 0.0),
    "plain attribute": lambda opt: setattr(opt, "scale", 0.0),
    "clipvalue": lambda opt: setattr(opt, "clipvalue", 0.0),
    "huge decay": lambda opt: setattr(opt, "decay", 1e30),
}


@pytest.mark.parametrize("how", ["compiled", "eager"])
@pytest.mark.parametrize("stop", STOPS)
def test_a_change_in_a_callback_acts_at_the_next_step(stop: str, how: str) -> None:
    model = network(Momentum(0.05, 0.0), **HOW[how])
    watch = At(1, STOPS[stop])
    fit(model, callbacks=[watch])
    first, second, third = watch.seen
    assert not np.array_equal(first, second)
    np.testing.assert_allclose(second, third, atol=1e-7)


@pytest.mark.parametrize("start", [SCHEDULE, lambda: 0.0], ids=["schedule", "function"])
def test_from_a_schedule_or_function_to_a_number_and_back(start: Any) -> None:
    optimizer = Momentum(start)
    model = network(optimizer)
    assert moved(model) == 0
    optimizer.lr = 0.1
    assert moved(model) > 0
    kept = optimizer.lr
    optimizer.lr = start
    optimizer.get_slot(model.get_layer("dense").kernel, "m").assign(tf.zeros((4, 3)))
    assert moved(model) == 0
    optimizer.lr = 0.1
    assert optimizer.lr is kept


def test_a_function_is_called_in_each_step() -> None:
    rate = {"now": 0.05}
    model = network(Momentum(lambda: rate["now"], 0.0))
    assert moved(model) > 0
    rate["now"] = 0.0
    assert moved(model) == 0


def test_a_function_that_xla_would_freeze_is_refused() -> None:
    model = network(Momentum(lambda: 0.1), jit_compile=True)
    with pytest.raises(TypeError, match=r"learning_rate.*jit_compile.*frozen"):
        fit(model)


def test_a_users_own_compiled_function_is_not_left_behind() -> None:
    optimizer, variable = Momentum(0.1, 0.0), tf.Variable([1.0, 2.0])

    @tf.function
    def step():
        optimizer.apply_gradients([(tf.ones(2), variable)])

    step()
    optimizer.lr = 0.2
    step()
    np.testing.assert_allclose(variable.numpy(), [0.7, 1.7], rtol=1e-6)
    optimizer.lr = SCHEDULE
    with pytest.raises(tf.errors.InvalidArgumentError, match="made anew"):
        step()
    np.testing.assert_allclose(variable.numpy(), [0.7, 1.7], rtol=1e-6)
    assert int(optimizer.iterations) == 2


def test_a_schedule_as_an_attribute() -> None:
    schedule = keras.optimizers.schedules.ExponentialDecay(0.4, 1, 0.5)
    optimizer = Momentum(schedule)
    assert isinstance(optimizer.lr, keras.optimizers.schedules.ExponentialDecay)
    assert float(optimizer.lr(1)) == pytest.approx(0.2)
    optimizer.iterations.assign(2)
    assert float(keras.ops.convert_to_numpy(optimizer.learning_rate)) == pytest.approx(0.1)
    assert optimizer._get_hyper("learning_rate") is schedule
    again = Momentum.from_config(optimizer.get_config())
    assert again._get_hyper("learning_rate").get_config() == schedule.get_config()


def test_callbacks_of_keras() -> None:
    model = network(Momentum(0.4))
    halve = keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate / 2)
    fit(model, 2, [halve])
    assert float(model.optimizer.lr) == pytest.approx(0.1)
    plateau = keras.callbacks.ReduceLROnPlateau("loss", factor=0.1, patience=0, min_delta=1e9)
    fit(model, 3, [plateau])
    assert float(model.optimizer.lr) == pytest.approx(0.001)


# -- hooks -------------------------------------------------------------------------------------


class Traced(Optimizer):
    """Hooks under tf.function, without apply_state, that return nothing and branch on tensors."""

    def __init__(self, name="Traced", **kwargs):
        super().__init__(name, **kwargs)
        self._set_hyper("learning_rate", 0.1)

    def _create_slots(self, var_list):
        for var in var_list:
            self.add_slot(var, "sum")

    @tf.function
    def _resource_apply_dense(self, grad, var):
        total = self.get_slot(var, "sum")
        total.assign_add(grad)
        if tf.reduce_sum(total) > 0.0:
            var.assign_sub(self._get_hyper("learning_rate") * total)


@pytest.mark.parametrize("compiled", [False, True])
def test_hooks_under_tf_function_keep_to_their_variables(compiled: bool) -> None:
    """Variables of one shape each have their own slot, and branches are TensorFlow's."""
    optimizer = Traced()
    variables = [tf.Variable(np.zeros(2, "float32"), name="w") for _ in range(3)]
    gradients = [tf.constant(g) for g in ([1.0, 2.0], [-1.0, -2.0], [3.0, -1.0])]

    def step():
        optimizer.apply_gradients(zip(gradients, variables, strict=True))

    step = tf.function(step) if compiled else step
    for _ in range(2):
        step()
    np.testing.assert_allclose(variables[0].numpy(), [-0.3, -0.6], rtol=1e-6)
    np.testing.assert_array_equal(variables[1].numpy(), [0.0, 0.0])
    np.testing.assert_allclose(variables[2].numpy(), [-0.9, 0.3], rtol=1e-6)
    optimizer.learning_rate = 0.0
    before = variables[0].numpy()
    step()
    np.testing.assert_array_equal(variables[0].numpy(), before)


class TracedWithState(Optimizer):
    """A hook under tf.function that takes apply_state."""

    def __init__(self):
        super().__init__("TracedWithState")
        self._set_hyper("learning_rate", 0.5)

    @tf.function
    def _resource_apply_dense(self, grad, var, apply_state=None):
        var.assign_sub(apply_state[(var.device, var.dtype.base_dtype)]["lr_t"] * grad)


@pytest.mark.parametrize("compiled", [False, True])
def test_a_hook_under_tf_function_takes_apply_state_of_several_dtypes(compiled: bool) -> None:
    optimizer = TracedWithState()
    variables = [tf.Variable([1.0], dtype=dtype) for dtype in (tf.float32, tf.float64)]

    def step():
        optimizer.apply_gradients((tf.ones(1, one.dtype), one) for one in variables)

    step = tf.function(step) if compiled else step
    for _ in range(2):
        step()
    assert [one.numpy()[0] for one in variables] == [0.0, 0.0]


def test_transformers_set_later_act_at_the_next_step() -> None:
    optimizer = Momentum(0.05, 0.0)
    model = network(optimizer)
    assert moved(model) > 0
    optimizer.gradient_transformers = [lambda pairs: [(0.0 * g, v) for g, v in pairs]]
    assert moved(model) == 0


def test_a_missing_hook_is_named() -> None:
    class Empty(Optimizer):
        pass

    variable = tf.Variable([1.0], name="kernel")
    optimizer = Empty("Empty")
    with pytest.raises(NotImplementedError, match=r"Empty does not implement `_resource_apply_de"):
        optimizer.apply_gradients([(tf.ones(1), variable)])
    rows = tf.IndexedSlices(tf.ones((1,)), tf.constant([0]), (1,))
    with pytest.raises(NotImplementedError, match=r"`_resource_apply_sparse`.*kernel has one"):
        optimizer.apply_gradients([(rows, variable)])
    with pytest.raises(NotImplementedError, match=r"def _resource_apply_sparse\(self, grad, var"):
        Traced().apply_gradients([(tf.IndexedSlices(tf.ones(1), tf.constant([0])), variable)])
    assert int(optimizer.iterations) == 0


def test_embeddings_in_fit_are_sparse_and_duplicates_are_summed() -> None:
    seen = []

    class Watching(Momentum):
        def _resource_apply_sparse(self, grad, var, indices, apply_state=None):
            seen.append((grad.shape.rank, apply_state is not None))
            var.scatter_sub(tf.IndexedSlices(tf.square(grad), indices))

    model = keras.Sequential([keras.layers.Embedding(5, 1), keras.layers.Flatten()])
    model.compile(Watching(0.1), loss=lambda y, p: keras.ops.sum(p, axis=-1))
    model.build((None, 3))
    before = model.get_weights()[0]
    model.fit(np.array([[1, 1, 3]]), np.zeros((1, 3)), verbose=0)
    change = (before - model.get_weights()[0])[:, 0]
    np.testing.assert_allclose(change, [0, 4, 0, 1, 0], rtol=1e-5)  # (Σg)², not Σg²
    assert set(seen) == {(2, True)}


def test_constraints_act_after_the_update() -> None:
    model = keras.Sequential([keras.layers.Dense(1, kernel_constraint="non_neg")])
    model.compile(Momentum(10.0), "mse")
    model.fit(X, -np.abs(X[:, :1]) * 100, verbose=0)
    assert model.get_weights()[0].min() == 0.0


def test_variables_without_gradient_are_named() -> None:
    optimizer, one, two = Momentum(), tf.Variable(1.0, name="a"), tf.Variable(1.0, name="b")
    with pytest.warns(UserWarning, match="have no gradient and stay as they are: b:0"):
        optimizer.apply_gradients([(tf.constant(1.0), one), (None, two)])
    with pytest.raises(ValueError, match="No variable has a gradient: a"):
        optimizer.apply_gradients([(None, one)])


def test_minimize_and_get_gradients() -> None:
    optimizer, variable = Momentum(0.1, 0.0), tf.Variable([1.0, 2.0])

    def loss():
        return tf.reduce_sum(variable**2)

    optimizer.minimize(loss, [variable])
    np.testing.assert_allclose(variable.numpy(), [0.8, 1.6], rtol=1e-6)
    optimizer.minimize(loss, lambda: [variable])
    with tf.GradientTape() as tape:
        value = loss()
    optimizer.minimize(value, [variable], tape=tape)
    np.testing.assert_allclose(variable.numpy(), [0.512, 1.024], rtol=1e-6)
    gradient = optimizer.get_gradients(loss, [variable])[0]
    inside = tf.function(lambda: optimizer.get_gradients(loss(), [variable])[0])
    np.testing.assert_allclose(gradient.numpy(), [1.024, 2.048], rtol=1e-6)
    np.testing.assert_array_equal(inside().numpy(), gradient.numpy())
    with pytest.raises(ValueError, match="needs the tape"):
        optimizer.minimize(value, [variable])
    with pytest.raises(TypeError, match="only inside a graph"):
        optimizer.get_gradients(value, [variable])
    with pytest.raises(ValueError, match="has no gradient"):
        optimizer.get_gradients(lambda: tf.constant(1.0), [variable])


# -- files -------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [0.05, keras.optimizers.schedules.ExponentialDecay(0.05, 3, 0.7)])
def test_a_saved_model_goes_on_bit_for_bit(tmp_path: Any, rate: Any) -> None:
    model = network(Momentum(rate, 0.8, decay=0.01))
    fit(model, 2)
    if rate == 0.05:
        model.optimizer.momentum = 0.7
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert_same(model, loaded)
    fit(model, 2)
    fit(loaded, 2)
    assert_same(model, loaded)


@pytest.mark.parametrize("built", [False, True])
def test_weight_files_and_checkpoints_go_on_bit_for_bit(tmp_path: Any, built: bool) -> None:
    model = network(Momentum(0.05, 0.8))
    keep = keras.callbacks.ModelCheckpoint(tmp_path / "kept.weights.h5", save_weights_only=True)
    fit(model, 2, [keep])
    path = tf.train.Checkpoint(model=model, optimizer=model.optimizer).write(str(tmp_path / "c"))
    others = [network(Momentum(0.9, 0.1)) for _ in range(2)]
    if built:
        for other in others:
            fit(other)
    others[0].load_weights(tmp_path / "kept.weights.h5")
    tf.train.Checkpoint(model=others[1], optimizer=others[1].optimizer).read(path)
    fit(model)
    for other in others:
        fit(other)
        assert_same(model, other)
        assert other.optimizer.get_config()["momentum"] == 0.8


def test_a_file_that_does_not_fit_changes_nothing(tmp_path: Any) -> None:
    class WithMore(Momentum):
        def _create_slots(self, var_list):
            super()._create_slots(var_list)
            for var in var_list:
                self.add_slot(var, "v")

    store = {str(i): one for i, one in enumerate(range(3))}
    model = network(WithMore())
    fit(model)
    before = state(model)
    with pytest.raises(ValueError, match=r"has 16 variables \(.*dense/bias/v\), the values are 3"):
        model.optimizer.load_own_variables(store)
    wrong = [np.zeros((9, 9)), *model.optimizer.get_weights()[1:]]
    with pytest.raises(ValueError, match=r"WithMore|Momentum/iter has shape \(\), the value"):
        model.optimizer.set_weights(wrong)
    for one, other in zip(before, state(model), strict=True):
        np.testing.assert_array_equal(one, other)


def test_variables_of_the_subclass_are_listed_and_saved(tmp_path: Any) -> None:
    @keras.saving.register_keras_serializable("pellucid-tests")
    class Counting(Momentum):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.calls = tf.Variable(0, dtype=tf.int64, trainable=False)
            self.add_weight("largest", shape=(), initializer="zeros")

        def _resource_apply_dense(self, grad, var, apply_state=None):
            self.calls.assign_add(1)
            super()._resource_apply_dense(grad, var, apply_state)

    model = network(Counting())
    fit(model)
    assert int(model.optimizer.calls) == 3 * 6
    assert {"Momentum/calls", "Momentum/largest"} <= set(model.optimizer.variables.names)
    model.save(tmp_path / "model.keras")
    assert int(keras.saving.load_model(tmp_path / "model.keras").optimizer.calls) == 18


# -- arguments ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"beta": 1.0}, TypeError, "unexpected argument beta=1.0.*global_clipnorm"),
        ({"clipnorm": -1.0}, ValueError, "clipnorm must be at least 0; received -1.0"),
        ({"decay": -0.1}, ValueError, "decay must be at least 0"),
        ({"clipnorm": 1.0, "global_clipnorm": 1.0}, ValueError, "exclude each other"),
        ({"clipnorm": 1.0, "gradient_transformers": [list]}, ValueError, "transformers"),
        ({"name": 0.1}, TypeError, "is its name, a string; received 0.1"),
        ({"momentum": None}, TypeError, "'momentum' of Momentum must be a number"),
        ({"momentum": "fast"}, TypeError, "received 'fast'"),
        ({"momentum": np.ones(3)}, ValueError, r"shape \(3,\).*add_slot"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=f"(?s){text}"):
        Momentum(**arguments)


def test_a_bad_value_leaves_the_old_one() -> None:
    optimizer = Momentum(0.1)
    for wrong in ("fast", None, np.ones(2)):
        with pytest.raises((TypeError, ValueError)):
            optimizer.lr = wrong
    assert optimizer.get_config()["learning_rate"] == 0.1
    with pytest.raises(KeyError, match="no hyperparameter 'beta'; it has learning_rate, decay"):
        optimizer._get_hyper("beta")
    with pytest.raises(AttributeError, match="has no 'learning_rate'"):
        type("Bare", (Optimizer,), {})("Bare").learning_rate  # noqa: B018


def test_config_and_lr() -> None:
    optimizer = Momentum(lr=0.3, clipvalue=2.0, decay=0.5)
    assert optimizer.get_config() == {
        "name": "Momentum", "clipvalue": 2.0, "learning_rate": 0.3, "momentum": 0.9, "decay": 0.5,
    }  # fmt: skip
    again = Momentum.from_config({"lr": 0.2, "name": "Other"})
    assert again.get_config()["learning_rate"] == 0.2
    assert again._name == again.name == "Other"


def test_iterations_can_be_given_before_they_are_made() -> None:
    optimizer, own = Momentum(decay=1.0), tf.Variable(5, dtype=tf.int64)
    optimizer.iterations = own
    variable = tf.Variable([1.0])
    optimizer.apply_gradients([(tf.ones(1), variable)])
    assert int(own) == 6
    with pytest.raises(RuntimeError, match="only before it was first read"):
        optimizer.iterations = tf.Variable(0, dtype=tf.int64)


# -- around the optimizer ----------------------------------------------------------------------


def test_mixed_precision() -> None:
    keras.mixed_precision.set_global_policy("mixed_float16")
    try:
        model = network(Momentum(0.05))
    finally:
        keras.mixed_precision.set_global_policy("float32")
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    fit(model)
    inner = model.optimizer.inner_optimizer
    applied = int(inner.iterations)
    assert 0 < applied <= 3
    assert moved(model) > 0
    inner.lr = 0.0
    assert moved(model) == 0
    model.optimizer.inner_optimizer.lr = SCHEDULE
    assert moved(model) == 0


def test_other_optimizers_can_wrap_it() -> None:
    """As tensorflow-addons' wrappers do: the inner optimizer's hooks are called directly."""

    class Wrapper(Optimizer):
        def __init__(self, inner, name="Wrapper"):
            super().__init__(name)
            self._optimizer = inner
            self._track_trackable(inner, "inner")

        def _create_slots(self, var_list):
            self._optimizer._create_slots(var_list=var_list)

        def apply_gradients(self, grads_and_vars, name=None, **kwargs):
            self._optimizer._iterations = self.iterations
            return super().apply_gradients(grads_and_vars, name, **kwargs)

        def _prepare(self, var_list):
            return self._optimizer._prepare(var_list=var_list)

        def _resource_apply_dense(self, grad, var, apply_state=None):
            assert "apply_state" in self._optimizer._dense_apply_args
            return self._optimizer._resource_apply_dense(grad, var, apply_state)

        @property
        def lr(self):
            return self._optimizer._get_hyper("learning_rate")

    model, plain = network(Wrapper(Momentum(0.05))), network(Momentum(0.05))
    fit(model, 2)
    fit(plain, 2)
    for one, other in zip(model.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert float(model.optimizer.lr) == pytest.approx(0.05)


# -- in processes of their own -----------------------------------------------------------------


def run_alone(program: str, backend: str) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "KERAS_BACKEND": backend,
        "PYTHONPATH": os.pathsep.join([*sys.path, str(Path(__file__).parent)]),
    }
    return subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_another_backend_says_what_to_do() -> None:
    """The class can be imported and subclassed there; constructing names the way out."""
    program = """
import pellucid.keras.legacy as legacy
class Mine(legacy.Optimizer):
    def __init__(self): super().__init__("Mine")
try: Mine()
except RuntimeError as error: print(error)
"""
    done = run_alone(program, "jax")
    assert "Mine: the legacy optimizer API" in done.stdout, done.stderr
    assert "runs on the backend 'jax'" in done.stdout
    assert "KERAS_BACKEND=tensorflow" in done.stdout
    assert "pellucid.keras.Optimizer" in done.stdout


REPLICAS = """
import numpy as np, tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from test_legacy import Momentum, Optimizer, X, fit, network

class Shared(Momentum):
    def _resource_apply_dense(self, grad, var, apply_state=None):
        m = self.get_slot(var, "m")
        m.assign(0.9 * m + grad)
        var.assign_sub(apply_state[(var.device, var.dtype.base_dtype)]["lr_t"] * m)

alone = network(Shared())
with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
    together = network(Shared())
for model in (alone, together):
    fit(model, 2)
for one, other in zip(alone.get_weights(), together.get_weights()):
    np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
optimizer = together.optimizer
assert optimizer.iterations.numpy() == 6
assert optimizer.variables["Momentum/dense/kernel/m"].shape == (4, 3)
optimizer.variables["learning_rate"].assign(0.0)
before = together.get_weights()[0]
fit(together)
np.testing.assert_array_equal(before, together.get_weights()[0])
print("same numbers")
"""


def test_on_two_replicas() -> None:
    done = run_alone(REPLICAS, "tensorflow")
    assert "same numbers" in done.stdout, done.stderr
