"""`tf.distribute.MirroredStrategy` on two logical CPU devices, against one device; jit_compile.

TensorFlow takes logical devices only before it starts its own: the tests run in a process of
their own, as ``python test_distributed.py NAME...`` too.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytestmark = pytest.mark.backends("tensorflow")

CASES: dict[str, Callable[[], None]] = {}


def in_a_process(function: Callable[[], None]) -> Callable[[], None]:
    CASES[function.__name__] = function
    return function


@cache
def started() -> Any:
    """TensorFlow with two logical CPUs, and a strategy of both."""
    import tensorflow as tf

    cpu = tf.config.list_physical_devices("CPU")[0]
    two = [tf.config.LogicalDeviceConfiguration()] * 2
    tf.config.set_logical_device_configuration(cpu, two)
    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])


def data() -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(32, 4)), rng.normal(size=(32, 1))
    return x.astype("float32"), y.astype("float32")


def model_with(make: Callable[[], Any], strategy: Any = None, **options: Any) -> Any:
    import keras

    keras.utils.set_random_seed(1)
    with strategy.scope() if strategy else contextlib.nullcontext():
        model = keras.Sequential(
            [
                keras.layers.Input((4,)),
                keras.layers.Dense(5, activation="tanh"),
                keras.layers.Dense(1),
            ]
        )
        model.compile(make(), loss="mse", **options)
    return model


def trained(make: Callable[[], Any], strategy: Any = None, epochs: int = 2, **options: Any) -> Any:
    model = model_with(make, strategy, **options)
    x, y = data()
    model.fit(x, y, batch_size=8, epochs=epochs, shuffle=False, verbose=0)
    return model


def same(one: Any, other: Any) -> None:
    for got, want in zip(one.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-6)


def copies_of(strategy: Any, variable: Any) -> list[Any]:
    return [one.numpy() for one in strategy.experimental_local_results(variable.value)]


@in_a_process
def fits() -> None:
    """Equal to one device; slots and hyperparameters are mirrored, all copies equal."""
    import keras

    import pellucid
    import pellucid.keras

    strategy = started()
    chained = pellucid.chain(
        pellucid.transforms.skip_nonfinite(),
        pellucid.transforms.add_noise(0.1),
        pellucid.RMSprop(pellucid.schedules.Linear(0.01, 0.001, 20)),
        pellucid.transforms.average_weights(0.9),
    )
    makers = {
        "Adam": lambda: pellucid.keras.Adam(0.01),
        "clip": lambda: pellucid.keras.AdamW(0.01, global_clipnorm=0.1, use_ema=True),
        "chain": lambda: pellucid.keras.Optimizer(chained, groups={"*/bias": {"rho": 0.5}}),
    }
    for name, make in makers.items():
        alone, model = trained(make), trained(make, strategy)
        same(model, alone)
        optimizer = model.optimizer
        assert optimizer.updates == alone.optimizer.updates == 8, name
        own = [s for one in optimizer.core.parameters for s in one.slots.values()]
        for variable in [*optimizer.variables, *own, *model.trainable_variables]:
            assert type(variable.value).__name__ == "MirroredVariable", (name, variable.path)
            first, second = copies_of(strategy, variable)
            assert first.tobytes() == second.tobytes(), (name, variable.path)
        if name == "Adam":
            same(model, trained(lambda: keras.optimizers.Adam(0.01), strategy))


@in_a_process
def changes_act() -> None:
    """Assigned in a callback, a hyperparameter acts at the next step, on all copies."""
    import keras

    import pellucid.keras

    class Change(keras.callbacks.Callback):  # type: ignore[misc]
        def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
            if batch == 2:
                self.model.optimizer.beta_1 = 0.5
                self.model.optimizer.learning_rate = 0.1

    def run(strategy: Any, callbacks: list[Any]) -> Any:
        model = model_with(lambda: pellucid.keras.Adam(0.01), strategy)
        x, y = data()
        model.fit(x, y, batch_size=8, shuffle=False, verbose=0, callbacks=callbacks)
        return model

    strategy = started()
    mirrored, alone = run(strategy, [Change()]), run(None, [Change()])
    same(mirrored, alone)
    unchanged = run(strategy, [])
    difference = mirrored.get_weights()[0] - unchanged.get_weights()[0]
    assert np.abs(difference).max() > 1e-2
    assert mirrored.optimizer.get_config()["beta_1"] == 0.5
    assert [*map(float, copies_of(strategy, mirrored.optimizer.beta_1))] == [0.5, 0.5]


@in_a_process
def grows() -> None:
    """A slot that appears in the middle of training is mirrored, too."""
    import pellucid.keras

    def run(strategy: Any) -> Any:
        model = model_with(lambda: pellucid.keras.SGD(0.01), strategy)
        x, y = data()
        for momentum in (0.0, 0.9):
            model.optimizer.momentum = momentum
            model.fit(x, y, batch_size=8, epochs=2, shuffle=False, verbose=0)
        return model

    strategy = started()
    mirrored = run(strategy)
    same(mirrored, run(None))
    (slot,) = mirrored.optimizer.core.parameters[0].slots.values()
    first, second = copies_of(strategy, slot)
    assert first.any()
    assert first.tobytes() == second.tobytes()


@in_a_process
def runs_a_custom_loop() -> None:
    """`strategy.run`, with gradients of some rows and an extra input; a veto skips all replicas."""
    import keras
    import tensorflow as tf

    import pellucid
    import pellucid.keras
    from pellucid import Rule, extra, hyper

    class Scaled(Rule):
        """Descend at a rate times the loss."""

        learning_rate = hyper(0.1)
        loss = extra("scalar")

        def update(self, param: Any, grad: Any) -> Any:
            return param - self.learning_rate * self.loss * grad

    rng = np.random.default_rng(2)
    start = rng.normal(size=(6, 2)).astype("float32")
    rows = rng.integers(0, 4, (3, 2, 5))
    values = rng.normal(size=(3, 2, 5, 2)).astype("float32")

    def loop(optimizer: Any, strategy: Any, table: Any, bad: bool = False, **extras: Any) -> Any:
        def step(rows: Any, values: Any) -> None:
            context = tf.distribute.get_replica_context()
            replica = context.replica_id_in_sync_group
            grad = tf.IndexedSlices(values[replica], rows[replica], tf.constant([6, 2]))
            optimizer.apply([grad], [table], **extras)

        run = tf.function(lambda *given: strategy.run(step, given))
        for k in range(3):
            given = values[k] * (np.nan if bad and k == 1 else 1.0)
            run(tf.constant(rows[k]), tf.constant(given))
        return copies_of(strategy, table)

    def wanted(make: Any, skipped: int = -1, **extras: Any) -> Any:
        table, optimizer = keras.Variable(start, name="table"), make()
        for k in range(3):
            total = np.zeros((6, 2), "float32")
            np.add.at(total, rows[k].reshape(-1), values[k].reshape(-1, 2))
            if k != skipped:
                optimizer.apply([tf.constant(total)], [table], **extras)
        return table.numpy()

    strategy = started()
    chained = pellucid.chain(pellucid.transforms.skip_nonfinite(), pellucid.Adam(0.1))
    for make, given, bad in (
        (lambda **kw: pellucid.keras.Adam(0.1, clipnorm=0.5, **kw), {}, False),
        (lambda **kw: pellucid.keras.Optimizer(Scaled(), **kw), {"loss": 0.5}, False),
        (lambda **kw: pellucid.keras.Optimizer(chained, **kw), {}, True),
    ):
        with strategy.scope():
            table, optimizer = keras.Variable(start, name="table"), make()
            optimizer.build([table])
        first, second = loop(optimizer, strategy, table, bad, **given)
        assert first.tobytes() == second.tobytes()
        np.testing.assert_allclose(
            first, wanted(make, 1 if bad else -1, **given), rtol=1e-4, atol=1e-5
        )
        assert optimizer.updates == (2 if bad else 3)
    with strategy.scope():
        table, lazy = keras.Variable(start, name="table"), pellucid.keras.SGD(1.0, sparse="lazy")
        lazy.build([table])
    first, second = loop(lazy, strategy, table)
    assert first.tobytes() == second.tobytes()
    assert first[4:].tobytes() == start[4:].tobytes()
    np.testing.assert_allclose(first, wanted(lambda: pellucid.keras.SGD(1.0)), rtol=1e-5, atol=1e-5)


@in_a_process
def mixes_precision() -> None:
    """A LossScaleOptimizer around ours, as `compile` puts it under mixed_float16."""
    import keras

    import pellucid.keras

    strategy = started()
    keras.mixed_precision.set_dtype_policy("mixed_float16")
    mirrored = trained(lambda: pellucid.keras.Adam(0.01), strategy)
    alone = trained(lambda: pellucid.keras.Adam(0.01))
    assert isinstance(mirrored.optimizer, keras.optimizers.LossScaleOptimizer)
    for got, want in zip(mirrored.get_weights(), alone.get_weights(), strict=True):
        np.testing.assert_allclose(got, want, rtol=0.05, atol=2e-3)


@pytest.mark.parametrize(
    "names", [("fits", "changes_act"), ("grows", "runs_a_custom_loop", "mixes_precision")]
)
def test_mirrored_strategy(names: tuple[str, ...]) -> None:
    source = Path(__file__).resolve()
    paths = [str(source.parents[2] / "src"), os.environ.get("PYTHONPATH", "")]
    own = {"PYTHONPATH": os.pathsep.join(paths), "KERAS_BACKEND": "tensorflow"}
    ended = subprocess.run(
        [sys.executable, str(source), *names],
        env={**os.environ, **own}, capture_output=True, text=True, timeout=900, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr[-4000:]


# -- jit_compile: the fused op cannot be had under XLA -------------------------------------


def test_fit_under_xla_is_live_without_another_trace() -> None:
    import keras

    import pellucid.keras
    from pellucid.keras import stepping as module

    traces = []
    original = module.traced_update

    def counted(*args: Any) -> Any:
        traces.append(1)
        return original(*args)

    class Change(keras.callbacks.Callback):  # type: ignore[misc]
        def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
            if batch == 2:
                self.model.optimizer.beta_1 = 0.5
                self.model.optimizer.weight_decay = 0.3

    def run(callbacks: list[Any], **options: Any) -> Any:
        model = model_with(lambda: pellucid.keras.AdamW(0.05, clipnorm=0.5), **options)
        x, y = data()
        model.fit(x, y, batch_size=8, epochs=2, shuffle=False, verbose=0, callbacks=callbacks)
        return model

    module.traced_update = counted
    try:
        compiled = run([Change()], jit_compile=True)
        changed = len(traces)
        unchanged = run([], jit_compile=True)
        assert len(traces) == 2 * changed, "a change costs no trace"
        graph = run([Change()], jit_compile=False)
        assert len(traces) == 2 * changed, "the fused op runs without XLA"
    finally:
        module.traced_update = original
    same(compiled, graph)
    assert np.abs(unchanged.get_weights()[0] - compiled.get_weights()[0]).max() > 1e-3


if __name__ == "__main__":
    for given in sys.argv[1:]:
        CASES[given]()
