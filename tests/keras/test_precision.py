"""16-bit training, LossScaleOptimizer, and Keras's machinery around an update, on each backend."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest

import pellucid
import pellucid.keras
import pellucid.numpy
from pellucid import SGD, Adam, Rule, chain, every, extra, hyper
from pellucid.keras.host_values import on_host
from pellucid.transforms import average_weights, skip_nonfinite
from stepper import Stepper

BACKEND = keras.backend.backend()
PLAIN = {"run_eagerly": True} if BACKEND == "tensorflow" else {}  # where a trace costs more


@pytest.fixture
def policy() -> Any:
    before = keras.config.dtype_policy()
    yield keras.config.set_dtype_policy
    keras.config.set_dtype_policy(before)


def data() -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(24, 4)), rng.normal(size=(24, 1))
    return x.astype("float32"), y.astype("float32")


def model_with(optimizer: Any, **options: Any) -> Any:
    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [
            keras.layers.Input((4,)),
            keras.layers.Dense(5, activation="tanh", name="hidden"),
            keras.layers.Dense(1, name="last", dtype=options.pop("dtype", None)),
        ]
    )
    model.compile(optimizer, loss="mse", **options)
    return model


def trained(optimizer: Any, epochs: int = 3, callbacks: Any = None, **options: Any) -> Any:
    model = model_with(optimizer, **options)
    x, y = data()
    model.fit(x, y, batch_size=8, epochs=epochs, shuffle=False, verbose=0, callbacks=callbacks)
    return model


def same(one: Any, other: Any, rtol: float = 2e-4, atol: float = 2e-6) -> None:
    for got, want in zip(one.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_allclose(
            np.asarray(got, "float64"), np.asarray(want, "float64"), rtol=rtol, atol=atol
        )


def differs(one: Any, other: Any, least: float) -> None:
    difference = one.get_weights()[0] - other.get_weights()[0]
    assert np.abs(difference).max() > least


class At(keras.callbacks.Callback):  # type: ignore[misc]
    """Calls a function of the model before a batch."""

    def __init__(self, batch: int, function: Callable[[Any], None]) -> None:
        super().__init__()
        self.batch, self.function, self.count = batch, function, 0

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        if self.count == self.batch:
            self.function(self.model)
        self.count += 1


# -- 16 bits -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_fits(name: str, policy: Any) -> None:
    """Variables stay float32; float16 gets a LossScaleOptimizer from `compile`."""
    policy(name)
    ours = trained(pellucid.keras.Adam(0.01), dtype="float32")
    theirs = trained(keras.optimizers.Adam(0.01), dtype="float32")
    scaled = isinstance(ours.optimizer, keras.optimizers.LossScaleOptimizer)
    assert scaled == (name == "mixed_float16")
    assert {str(v.dtype) for v in ours.trainable_variables} == {"float32"}
    same(ours, theirs, rtol=2e-2, atol=2e-3)
    before = model_with(pellucid.keras.Adam(0.01), dtype="float32")
    differs(ours, before, 1e-2)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_arithmetic_is_in_float32_and_stored_in_16_bits(dtype: str) -> None:
    """Each step equals float32's, rounded once: 1 - 0.999 would be 0 in bfloat16."""
    rng = np.random.default_rng(1)
    start = keras.ops.cast(rng.normal(size=(4, 3)).astype("float32"), dtype)
    narrow = keras.Variable(start, dtype=dtype, name="w")
    wide = keras.Variable(keras.ops.cast(start, "float32"), name="w")
    one, other = pellucid.keras.Adam(0.1), pellucid.keras.Adam(0.1)
    one.build([narrow])
    other.build([wide])
    slots = [*one.core.parameters[0].slots.values()]
    assert {keras.backend.standardize_dtype(slot.dtype) for slot in slots} == {dtype}
    for _ in range(4):
        grad = keras.ops.cast(rng.normal(size=(4, 3)).astype("float32"), dtype)
        for full, slot in other.core.parameters[0].slots.items():
            slot.assign(keras.ops.cast(one.core.parameters[0].slots[full].value, "float32"))
        wide.assign(keras.ops.cast(narrow.value, "float32"))
        one.apply([grad], [narrow])
        other.apply([keras.ops.cast(grad, "float32")], [wide])
        second = [*one.core.parameters[0].slots.values()][1]
        assert on_host(keras.ops.cast(second.value, "float32")).all()
        got = on_host(keras.ops.cast(narrow.value, "float32")).astype("float64")
        np.testing.assert_allclose(got, on_host(wide), rtol=2**-7 if dtype == "bfloat16" else 2e-3)


def test_a_model_of_bfloat16_fits(policy: Any) -> None:
    policy("bfloat16")
    model = trained(pellucid.keras.SGD(0.1, momentum=0.9))
    assert {keras.backend.standardize_dtype(v.dtype) for v in model.trainable_variables} == {
        "bfloat16"
    }
    x, y = data()
    before = model_with(pellucid.keras.SGD(0.1)).evaluate(x, y, verbose=0)
    assert model.evaluate(x, y, verbose=0) < before


# -- LossScaleOptimizer --------------------------------------------------------------------


def scaled(optimizer: Any) -> Any:
    return keras.optimizers.LossScaleOptimizer(
        optimizer, initial_scale=4.0, dynamic_growth_steps=100
    )


def test_a_loss_scale_optimizer_skips_what_overflows() -> None:
    """Nothing of ours moves, the count of updates neither."""
    inner = pellucid.keras.Optimizer(Adam(0.1), groups={"b": {"learning_rate": 0.2}})
    outer = scaled(inner)
    variables = [keras.Variable(np.ones(3, "float32"), name=name) for name in ("a", "b")]
    step = Stepper(outer, variables)
    good = [np.full(3, 4.0, "float32"), np.full(3, -8.0, "float32")]
    step(good)
    kept = [on_host(v).copy() for v in [*variables, *inner.variables]]
    step([good[0], np.array([1.0, np.inf, 1.0], "float32")])
    for before, variable in zip(kept, [*variables, *inner.variables], strict=True):
        assert on_host(variable).tobytes() == before.tobytes(), variable.path
    assert int(on_host(outer.dynamic_scale)) == 2
    assert inner.updates == 1
    plain = pellucid.keras.Optimizer(Adam(0.1), groups={"b": {"learning_rate": 0.2}})
    same_ones = [keras.Variable(np.ones(3, "float32"), name=name) for name in ("a", "b")]
    Stepper(plain, same_ones)([good[0] / 4.0, good[1] / 4.0])
    for one, other in zip(variables, same_ones, strict=True):
        np.testing.assert_allclose(on_host(one), on_host(other), rtol=1e-6)


def test_live_changes_through_a_loss_scale_optimizer() -> None:
    def change(model: Any) -> None:
        model.optimizer.inner_optimizer.beta_1 = 0.1
        model.optimizer.learning_rate = 0.1

    ours = trained(scaled(pellucid.keras.Adam(0.01)), callbacks=[At(4, change)])
    assert ours.optimizer.inner_optimizer.get_config()["beta_1"] == 0.1
    plain = trained(
        pellucid.keras.Adam(0.01),
        callbacks=[At(4, lambda model: change_plain(model.optimizer))],
    )
    same(ours, plain)
    differs(ours, trained(scaled(pellucid.keras.Adam(0.01))), 1e-2)


def change_plain(optimizer: Any) -> None:
    optimizer.beta_1 = 0.1
    optimizer.learning_rate = 0.1


def test_scale_loss() -> None:
    optimizer = pellucid.keras.SGD(1.0, loss_scale_factor=8.0)
    assert optimizer.scale_loss(2.0) == 16.0
    variable = keras.Variable(np.zeros(2, "float32"))
    Stepper(optimizer, [variable])([np.array([8.0, 16.0], "float32")])
    assert on_host(variable).tolist() == [-1.0, -2.0]
    outer = keras.optimizers.LossScaleOptimizer(pellucid.keras.SGD(1.0, loss_scale_factor=8.0))
    assert outer.inner_optimizer.loss_scale_factor is None


# -- Keras's own features ------------------------------------------------------------------


FEATURES: dict[str, dict[str, Any]] = {
    "ema": {"use_ema": True, "ema_momentum": 0.8},
    "overwrite": {"use_ema": True, "ema_momentum": 0.8, "ema_overwrite_frequency": 4},
    "accumulation": {"gradient_accumulation_steps": 3},
    "clipped mean": {"gradient_accumulation_steps": 3, "clipnorm": 0.1},
    "scale": {"loss_scale_factor": 16.0},
}


@pytest.mark.parametrize("name", FEATURES)
def test_equals_keras(name: str) -> None:
    """In fit, at whose end the averages replace the weights, too."""
    options = FEATURES[name]
    ours = trained(pellucid.keras.Adam(0.02, **options), epochs=4)
    theirs = trained(keras.optimizers.Adam(0.02, **options), epochs=4, **PLAIN)
    same(ours, theirs, rtol=1e-3, atol=1e-5)
    if name != "scale":
        differs(ours, trained(pellucid.keras.Adam(0.02), epochs=4, **PLAIN), 1e-4)
    ours_now, theirs_now = (int(on_host(m.optimizer.iterations)) for m in (ours, theirs))
    assert ours_now == theirs_now == (4 if "gradient_accumulation_steps" in options else 12)


def test_schedules_count_updates_not_micro_batches() -> None:
    steps: list[int] = []

    def rate(count: int) -> float:
        steps.append(int(count))
        return 0.1 / (1 + int(count))

    optimizer = pellucid.keras.SGD(rate, gradient_accumulation_steps=2)
    variable = keras.Variable(np.zeros(1, "float32"))
    step = Stepper(optimizer, [variable])
    for _ in range(6):
        step([np.ones(1, "float32")])
    np.testing.assert_allclose(on_host(variable), -0.1 * (1 + 1 / 2 + 1 / 3), rtol=1e-6)
    assert optimizer.updates == 3


def test_constraints_hold_after_the_update() -> None:
    limit = keras.constraints.MaxNorm(0.5, axis=0)
    variable = keras.Variable(np.full((2, 2), 0.3, "float32"))
    variable.constraint = limit
    Stepper(pellucid.keras.SGD(1.0), [variable])([np.full((2, 2), -1.0, "float32")])
    np.testing.assert_allclose(np.linalg.norm(on_host(variable), axis=0), 0.5, rtol=1e-5)


def test_overwrite_with_gradient() -> None:
    """Such a variable takes its gradient as its value; it is not ours to move."""
    taken = keras.Variable(np.ones(2, "float32"), name="taken")
    taken.overwrite_with_gradient = True
    moved = keras.Variable(np.ones(2, "float32"), name="moved")
    optimizer = pellucid.keras.Adam(0.1)
    step = Stepper(optimizer, [taken, moved])
    step([np.full(2, 7.0, "float32"), np.ones(2, "float32")])
    assert on_host(taken).tolist() == [7.0, 7.0]
    np.testing.assert_allclose(on_host(moved), 0.9, rtol=1e-5)


def test_variables_without_gradients_stay() -> None:
    """Keras warns; the others are updated, and their slots alone."""
    one, other = (keras.Variable(np.ones(2, "float32"), name=name) for name in ("one", "other"))
    optimizer = pellucid.keras.Adam(0.1)
    optimizer.build([one, other])
    grad = keras.ops.ones((2,))
    with pytest.warns(UserWarning, match="Gradients do not exist"):
        optimizer.apply([grad, None], [one, other])
    assert on_host(other).tolist() == [1.0, 1.0]
    assert not any(on_host(s).any() for s in optimizer.core.parameters[1].slots.values())
    assert all(on_host(s).all() for s in optimizer.core.parameters[0].slots.values())


def test_frozen_layers_are_left_alone() -> None:
    model = model_with("sgd")
    model.layers[0].trainable = False
    before = [w.copy() for w in model.get_weights()]
    model.compile(pellucid.keras.Adam(0.1), loss="mse")
    x, y = data()
    model.fit(x, y, batch_size=8, verbose=0)
    after = model.get_weights()
    assert after[0].tobytes() == before[0].tobytes()
    assert after[2].tobytes() != before[2].tobytes()
    assert len(model.optimizer.core.parameters) == 2


# -- what stages add -----------------------------------------------------------------------


class ByLoss(Rule):
    """Descend at a rate times the loss."""

    learning_rate = hyper(0.1)
    loss = extra("scalar")

    def update(self, param: Any, grad: Any) -> Any:
        return param - self.learning_rate * self.loss * grad


def test_extra_inputs() -> None:
    variable = keras.Variable(np.zeros(2, "float32"))
    optimizer = pellucid.keras.Optimizer(ByLoss())
    grad = keras.ops.ones((2,))
    optimizer.apply([grad], [variable], loss=3.0)
    optimizer.apply([grad], [variable], loss=keras.ops.convert_to_tensor(2.0))
    np.testing.assert_allclose(on_host(variable), -0.5, rtol=1e-6)
    with pytest.raises(TypeError, match="needs loss="):
        optimizer.apply([grad], [variable])
    with pytest.raises(TypeError, match="no input 'los'"):
        optimizer.apply([grad], [variable], los=1.0)
    assert int(on_host(optimizer.iterations)) == 2


@pytest.mark.parametrize("accumulated", [None, 2])
def test_a_veto_is_no_update(accumulated: int | None) -> None:
    """Neither the count nor a slot's first update is taken."""
    make = lambda: pellucid.keras.Optimizer(  # noqa: E731
        chain(skip_nonfinite(), Adam(0.1), average_weights(0.9)),
        gradient_accumulation_steps=accumulated,
    )
    good, bad = np.array([1.0, -2.0], "float32"), np.array([np.nan, 1.0], "float32")
    results = []
    for grads in ([bad, good, bad, good], [good, good]):
        variable = keras.Variable(np.ones(2, "float32"), name="w")
        optimizer = make()
        step = Stepper(optimizer, [variable])
        for grad in grads:
            for _ in range(accumulated or 1):
                step([grad])
        assert optimizer.updates == 2
        slots = optimizer.core.parameters[0].slots
        begun = [] if optimizer.core.begun is None else on_host(optimizer.core.begun).tolist()
        results.append((on_host(variable), [on_host(s) for s in slots.values()], begun))
    for one, other in zip(results[0][1], results[1][1], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)
    np.testing.assert_allclose(results[0][0], results[1][0], rtol=1e-6)
    assert results[0][2] == results[1][2]


def test_a_first_veto_leaves_the_flags() -> None:
    optimizer = pellucid.keras.Optimizer(chain(skip_nonfinite(), SGD(0.1), average_weights(0.9)))
    variable = keras.Variable(np.ones(2, "float32"), name="w")
    step = Stepper(optimizer, [variable])
    step([np.array([np.inf, 1.0], "float32")])
    assert optimizer.updates == 0
    assert not on_host(optimizer.core.begun).any()
    assert on_host(variable).tolist() == [1.0, 1.0]


def test_every_takes_part_at_its_steps() -> None:
    """In fit and in NumPy: the same numbers."""
    rule = chain(SGD(0.1, momentum=0.9), every(3, average_weights(0.5)))
    start = np.array([1.0, -2.0], "float32")
    variable = keras.Variable(start, name="w")
    optimizer = pellucid.keras.Optimizer(rule)
    step = Stepper(optimizer, [variable])
    array = {"w": start.copy()}
    reference = pellucid.numpy.Optimizer(array, rule)
    rng = np.random.default_rng(4)
    for _ in range(7):
        grad = rng.normal(size=2).astype("float32")
        step([grad])
        reference.step({"w": grad})
        np.testing.assert_allclose(on_host(variable), array["w"], rtol=1e-5)
    if BACKEND != "torch":
        assert step.traces <= 2
    model = trained(pellucid.keras.Optimizer(rule))
    differs(model, model_with(pellucid.keras.Optimizer(rule)), 1e-3)


@pytest.mark.backends("jax")
def test_sparse_arrays_of_jax() -> None:
    """They are taken as what they stand for; "lazy" says that it takes others."""
    import jax.numpy as jnp
    from jax.experimental.sparse import BCOO

    rows = jnp.array([[1], [1], [2]])
    grad = BCOO((jnp.ones((3, 2)), rows), shape=(4, 2))
    table = keras.Variable(np.zeros((4, 2), "float32"), name="table")
    pellucid.keras.SGD(1.0).apply([grad], [table])
    assert on_host(table)[:, 0].tolist() == [0.0, -2.0, -1.0, 0.0]
    with pytest.raises(TypeError, match="'table' is BCOO: use sparse='dense'"):
        pellucid.keras.SGD(1.0, sparse="lazy").apply([grad], [table])
