"""Views and journals of Keras's own optimizers and of strangers' subclasses, on each backend."""

from __future__ import annotations

import gc
import json
import weakref
from typing import Any

import keras
import numpy
import pytest
from keras import optimizers
from keras.optimizers import schedules

import pellucid
from pellucid.access.errors import UnknownNameError
from pellucid.declare import HyperparameterError
from pellucid.keras.callbacks import JournalCallback

BACKEND = keras.backend.backend()
BATCHES = 4
X = numpy.random.default_rng(0).normal(size=(BATCHES * 8, 3)).astype("float32")
Y = numpy.random.default_rng(1).normal(size=(BATCHES * 8, 2)).astype("float32")

EVERY = {
    "SGD": lambda: optimizers.SGD(0.1, momentum=0.9, nesterov=True),
    "Adam": lambda: optimizers.Adam(0.01, amsgrad=True),
    "AdamW": lambda: optimizers.AdamW(0.01),
    "RMSprop": lambda: optimizers.RMSprop(0.01, momentum=0.5, centered=True),
    "Nadam": lambda: optimizers.Nadam(0.01),
    "Adamax": lambda: optimizers.Adamax(0.01),
    "Adagrad": lambda: optimizers.Adagrad(0.01),
    "Adadelta": lambda: optimizers.Adadelta(0.01),
    "Ftrl": lambda: optimizers.Ftrl(0.01),
    "Lion": lambda: optimizers.Lion(0.01),
    "Lamb": lambda: optimizers.Lamb(0.01),
    "Muon": lambda: optimizers.Muon(0.01),
    "Adafactor": lambda: optimizers.Adafactor(0.01),
    "ScheduleFreeAdamW": lambda: optimizers.ScheduleFreeAdamW(0.01),
}
SLOTS = {
    "SGD": {"velocity": "momentum"},
    "Adam": {
        "first_moment": "momentum", "second_moment": "velocity",
        "max_second_moment": "velocity_hat",
    },
    "RMSprop": {
        "second_moment": "velocity", "velocity": "momentum", "first_moment": "average_gradient",
    },
    "Adamax": {"first_moment": "momentum", "infinity_norm": "norm"},
    "Adagrad": {"accumulator": "accumulator"},
    "Adadelta": {"second_moment": "accumulated_grad", "update_moment": "accumulated_delta_var"},
    "Ftrl": {"accumulator": "accumulator", "linear": "linear"},
    "Lion": {"first_moment": "momentum"},
    "Muon": {"momentum": "momentum", "velocity": "velocity"},
    "Adafactor": {"r": "r", "c": "c", "velocity": "velocity"},
}  # fmt: skip


def model_of(optimizer: Any, **how: Any) -> Any:
    keras.utils.set_random_seed(3)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, name="dense")])
    model.compile(optimizer, "mse", **how)
    return model


def train(model: Any, callbacks: Any = (), epochs: int = 1) -> None:
    model.fit(
        X, Y, batch_size=8, epochs=epochs, verbose=0, shuffle=False, callbacks=[*callbacks]
    )


def weights(model: Any) -> list[Any]:
    return [keras.ops.convert_to_numpy(one) for one in model.trainable_variables]


def close(model: Any, other: Any) -> None:
    for one, two in zip(weights(model), weights(other), strict=True):
        numpy.testing.assert_allclose(one, two, rtol=2e-5, atol=1e-7)


class After(keras.callbacks.Callback):
    """Calls a function once, when a number of batches is done."""

    def __init__(self, batches: int, function: Any) -> None:
        super().__init__()
        self.batches, self.function, self.done = batches, function, 0

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.done += 1
        if self.done == self.batches:
            self.function()


# -- reading -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EVERY)
def test_every_optimizer_of_keras(name: str) -> None:
    optimizer = EVERY[name]()
    model = model_of(optimizer)
    view = pellucid.view(optimizer, model=model)
    assert view["lr"] == view["learning_rate"] == view[f"{name}/learning_rate"]
    train(model)
    assert view["learning_rate"] == (0.1 if name == "SGD" else 0.01)
    known = optimizer.get_config()
    for group in view._source.groups():
        natives = {group.names.native(full): full for full in group.names.places}
    missing = {key for key in known if key not in natives} - {"name"}
    assert missing <= {"exclude_layers", "exclude_embeddings"}
    for key, full in natives.items():
        assert view[full] == view[key] == pytest.approx(known[key])
    names = [one.path for one in model.trainable_variables]
    assert view._source.groups()[0].members == names
    for full, native in SLOTS.get(name, {}).items():
        found = view.state[f"*/{full}"]
        assert len(found) == (1 if (name, full) == ("Muon", "velocity") else 2)
        if native not in SLOTS[name]:  # canonical names win
            assert view.state[f"*/{native}"] == found
    paths = [path for path in view.variables() if path not in {f"{name}/{key}" for key in view}]
    assert f"{name}/iteration" in paths
    # everything that the optimizer saves is shown, once
    shown = [id(value) for value in view.variables().values() if hasattr(value, "assign")]
    saved = {id(one) for one in optimizer.variables} - {id(optimizer._learning_rate)}
    assert saved <= set(shown)
    assert len(shown) == len(set(shown))
    for text in (str(view), repr(view), str(view.tree()), view._repr_html_()):
        assert "learning_rate" in text
    assert json.loads(view.to_json())["updates"] == BATCHES
    rows = view.statistics()
    # Adafactor keeps whole numbers in the place of a bias's rows and columns
    assert not rows.notes or (name == "Adafactor" and "array of int" in rows.notes[0])
    assert rows[names[0]].norm == pytest.approx(numpy.linalg.norm(weights(model)[0]), rel=1e-5)
    assert view.warnings() == [] or name == "Lamb"


def test_kernel_slots_are_the_live_variables() -> None:
    optimizer = optimizers.Adam(0.01)
    model = model_of(optimizer)
    train(model)
    view, kernel = pellucid.view(optimizer), model.trainable_variables[0].path
    held = view.state[f"{kernel}/first_moment"]
    assert held is optimizer._momentums[0]
    assert held is view.state[f"{kernel}/momentum"]
    assert view.state["Adam/iteration"] is optimizer._iterations
    view.state[f"{kernel}/first_moment"] = 0.25
    assert (keras.ops.convert_to_numpy(held) == 0.25).all()
    view.state[f"{kernel}/first_moment"] = numpy.full((3, 2), 0.5, "float32")
    assert (keras.ops.convert_to_numpy(held) == 0.5).all()
    with pytest.raises(ValueError, match="has shape"):
        view.state[f"{kernel}/first_moment"] = numpy.full((2, 2), 0.5, "float32")
    with pytest.raises(ValueError, match="float64"):
        view.state[f"{kernel}/first_moment"] = numpy.full((3, 2), 0.5, "float64")
    view.reset("*")
    assert (keras.ops.convert_to_numpy(held) == 0).all()


def test_accumulators_begin_anew_at_their_first_value() -> None:
    optimizer = optimizers.Adagrad(0.01, initial_accumulator_value=0.25)
    model = model_of(optimizer)
    train(model)
    view = pellucid.view(optimizer)
    view.reset("*kernel/accumulator")
    assert (keras.ops.convert_to_numpy(optimizer._accumulators[0]) == 0.25).all()
    assert (keras.ops.convert_to_numpy(optimizer._accumulators[1]) != 0.25).any()


def test_loss_scale_optimizer() -> None:
    inner = optimizers.Adam(0.01)
    optimizer = optimizers.LossScaleOptimizer(inner, initial_scale=8.0, dynamic_growth_steps=3)
    model = model_of(optimizer)
    view = pellucid.view(optimizer)
    train(model)
    assert view["Adam/beta1"] == view["beta_1"] == 0.9
    assert view["initial_scale"] == 8.0
    assert view["dynamic_growth_steps"] == 3
    assert view.state["LossScaleOptimizer/dynamic_scale"] is optimizer.dynamic_scale
    assert "loss_scale_factor" not in view  # Keras holds it at None: it would scale twice
    with pytest.raises(ValueError, match=r"initial_scale.*dynamic_scale"):
        view["initial_scale"] = 4.0
    view["LossScaleOptimizer/dynamic_growth_steps"] = 5
    view["beta1"] = 0.5
    assert optimizer.get_config()["dynamic_growth_steps"] == 5
    assert inner.beta_1 == 0.5
    assert [change.name for change in view.journal] == ["dynamic_growth_steps", "beta1"]


def test_multi_optimizer() -> None:
    kernels, rest = optimizers.Adam(0.01), optimizers.SGD(0.1)
    table = optimizers.OptimizerMap(rest, {".*kernel": kernels})
    optimizer = optimizers.MultiOptimizer(table)
    model = model_of(optimizer)
    train(model)
    view = pellucid.view(optimizer)
    assert set(view.groups) == {".*kernel", "default"}
    assert view["Adam/learning_rate"] == 0.01
    assert view["SGD/learning_rate"] == view["default/learning_rate"] == 0.1
    view["SGD/learning_rate"] = 0.2
    assert float(keras.ops.convert_to_numpy(rest.learning_rate)) == pytest.approx(0.2)
    assert kernels.get_config()["learning_rate"] == pytest.approx(0.01)
    with pytest.raises(ValueError, match="shared with"):
        view["Adam/loss_scale_factor"] = 2.0
    view["loss_scale_factor"] = 2.0
    assert optimizer.loss_scale_factor == kernels.loss_scale_factor == rest.loss_scale_factor == 2.0


class Strange(optimizers.Optimizer):
    """A stranger's: hyperparameters as attribute, hidden attribute, and Variable."""

    def __init__(self, learning_rate: float = 0.1, gain: float = 2.0, lag: float = 0.5,
                 mode: str = "plain", **kwargs: Any) -> None:  # fmt: skip
        super().__init__(learning_rate=learning_rate, **kwargs)
        self.gain, self._lag, self.mode = gain, lag, mode
        self.floor = keras.Variable(0.0, trainable=False, name="floor")

    def build(self, variables: Any) -> None:
        if self.built:
            return
        super().build(variables)
        self.fast, self.slow = self.add_optimizer_variables(variables, ["fast", "slow"])

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        fast = self.fast[self._get_variable_index(variable)]
        self.assign(fast, fast * self._lag + gradient)
        step = keras.ops.cast(learning_rate, variable.dtype) * self.gain
        self.assign_sub(variable, step * fast + keras.ops.convert_to_tensor(self.floor))

    def get_config(self) -> dict[str, Any]:
        own = {"gain": self.gain, "lag": self._lag, "mode": self.mode}
        return {**super().get_config(), **own}


def test_strangers_subclass() -> None:
    optimizer = Strange()
    model = model_of(optimizer)
    train(model)
    view = pellucid.view(optimizer)
    assert (view["gain"], view["lag"], view["mode"], view["floor"]) == (2.0, 0.5, "plain", 0.0)
    assert view.state["*kernel/fast"] == {
        f"{model.trainable_variables[0].path}/fast": optimizer.fast[0]
    }
    view["lag"], view["gain"], view["floor"] = 0.25, 1.0, 0.125
    assert (optimizer._lag, optimizer.gain) == (0.25, 1.0)
    assert not hasattr(optimizer, "lag")
    assert isinstance(optimizer.floor, keras.Variable)
    before = weights(model)
    train(model)
    twin = Strange(gain=1.0, lag=0.25)
    expected = model_of(twin)
    twin.build(expected.trainable_variables)
    for variable, value in zip(expected.trainable_variables, before, strict=True):
        variable.assign(value)
    twin.floor.assign(0.125)
    other = Strange()
    again = model_of(other)
    train(again)
    for one, two in zip(twin.fast, other.fast, strict=True):
        one.assign(keras.ops.convert_to_numpy(two))
    train(expected)
    close(model, expected)
    with pytest.raises(HyperparameterError, match=r"mode.*text"):
        view["mode"] = 3
    with pytest.raises(ValueError, match="how Strange begins 'fast'"):
        view.reset("*kernel/fast")


def test_diff_and_lists() -> None:
    one, two = optimizers.Adam(0.01), optimizers.Adam(0.02, beta_1=0.8)
    model_of(one), model_of(two)
    rows = {row.name: (row.a, row.b) for row in pellucid.diff(one, two)}
    assert rows["beta1"] == (0.9, 0.8)
    assert rows["learning_rate"] == (0.01, 0.02)
    both = pellucid.view([one, two])
    assert both["beta1"] == {"Adam 0/group 0/beta1": 0.9, "Adam 1/group 0/beta1": 0.8}


# -- writing inside of fit -----------------------------------------------------------------

CHANGES = {
    "learning_rate": ("SGD", {"momentum": 0.5}, "lr", 0.02),
    "momentum": ("SGD", {"momentum": 0.9}, "momentum", 0.1),
    "beta1": ("Adam", {}, "beta1", 0.3),
    "beta2": ("Adam", {}, "beta_2", 0.5),
    "epsilon": ("Adam", {}, "epsilon", 0.5),
    "weight_decay": ("AdamW", {}, "weight_decay", 2.0),
    "no decay": ("SGD", {"weight_decay": 3.0}, "weight_decay", None),
    "clipnorm": ("SGD", {}, "clipnorm", 0.001),
    "clipvalue": ("SGD", {}, "clipvalue", 0.001),
    "rho": ("RMSprop", {}, "rho", 0.2),
    "nesterov": ("SGD", {"momentum": 0.9}, "nesterov", True),
    "lion": ("Lion", {}, "beta1", 0.1),
}


@pytest.mark.parametrize("jit", ["auto", False])
@pytest.mark.parametrize("name", CHANGES)
def test_change_acts_at_the_next_step(name: str, jit: Any) -> None:
    """As if a new optimizer with the value had gone on from there with the same state."""
    kind, given, path, value = CHANGES[name]
    rate = {"learning_rate": 0.05, **given}
    optimizer = getattr(optimizers, kind)(**rate)
    model = model_of(optimizer, jit_compile=jit)
    view = pellucid.view(optimizer)
    native = view._source.groups()[0].names.native(
        path if path in view._source.groups()[0].names.places else
        {"lr": "learning_rate", "beta_2": "beta2"}.get(path, path)
    )  # fmt: skip

    def change() -> None:
        view[path] = value

    train(model, [After(2, change)])
    assert optimizer.get_config()[native] == pytest.approx(value)

    first = getattr(optimizers, kind)(**rate)
    expected = model_of(first)
    expected.fit(X[:16], Y[:16], batch_size=8, verbose=0, shuffle=False)
    second = getattr(optimizers, kind)(**{**rate, native: value})
    kept = weights(expected)
    goes_on = model_of(second)
    second.build(goes_on.trainable_variables)
    for one, two in zip(goes_on.trainable_variables, kept, strict=True):
        one.assign(two)
    skipped = {id(first._learning_rate), id(second._learning_rate)}
    olds = [one for one in first.variables if id(one) not in skipped]
    news = [one for one in second.variables if id(one) not in skipped]
    for one, two in zip(news, olds, strict=True):
        one.assign(keras.ops.convert_to_numpy(two))
    goes_on.fit(X[16:], Y[16:], batch_size=8, verbose=0, shuffle=False)
    close(model, goes_on)
    (change_,) = view.journal
    assert (change_.step, change_.new, change_.source) == (3, value, "view")


def test_values_inside_of_fit_are_true() -> None:
    optimizer = optimizers.Adam(0.01)
    model = model_of(optimizer)
    view, seen = pellucid.view(optimizer), []

    def look() -> None:
        seen.append((view._source.updates, view["learning_rate"]))
        view.state["*/first_moment"]
        seen.append(int(keras.ops.convert_to_numpy(view.state["Adam/iteration"])))

    train(model, [After(2, look)])
    assert seen == [(2, 0.01), 2]


def test_state_written_inside_of_fit_is_taken_up() -> None:
    optimizer = optimizers.SGD(0.05, momentum=0.9)
    model = model_of(optimizer)
    view = pellucid.view(optimizer)

    def forget() -> None:
        view.state["*/velocity"] = 0.0

    train(model, [After(2, forget)])
    expected = model_of(optimizers.SGD(0.05, momentum=0.9))
    expected.fit(X[:16], Y[:16], batch_size=8, verbose=0, shuffle=False)
    expected.compile(optimizers.SGD(0.05, momentum=0.9), "mse")
    expected.fit(X[16:], Y[16:], batch_size=8, verbose=0, shuffle=False)
    close(model, expected)


def test_before_it_is_built() -> None:
    optimizer = optimizers.Adam(0.01)
    assert "0 parameters" in str(pellucid.view(optimizer))
    model = model_of(optimizer)
    view = pellucid.view(optimizer, model=model)
    assert "2 parameters (8)" in " ".join(str(view).split()) or "2 (8)" in str(view)
    view["amsgrad"] = True  # `build` will make what it needs
    train(model)
    assert view.state["*/max_second_moment"]


def test_recompiled_model_is_no_loop_of_ones_own() -> None:
    optimizer = optimizers.Adam(0.01)
    model = model_of(optimizer)
    train(model)
    model.compile(optimizer, "mse")
    pellucid.view(optimizer)["beta1"] = 0.5  # no warning: the step is not compiled yet
    assert optimizer.beta_1 == 0.5


# -- numbers and schedules -----------------------------------------------------------------


def rates(model: Any, view: Any, changes: dict[int, Any]) -> list[float]:
    """The rate that each step used, as the change of a weight under a constant gradient tells."""
    steps: list[float] = []
    last = [weights(model)[0].copy()]

    class Watch(keras.callbacks.Callback):
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            now = keras.ops.convert_to_numpy(self.model.trainable_variables[0])
            steps.append(float((last[0] - now)[0, 0]))
            last[0] = now.copy()
            if len(steps) in changes:
                view["learning_rate"] = changes[len(steps)]

    train(model, [Watch()], epochs=2)
    return steps


def slope(optimizer: Any) -> Any:
    """A model whose loss is its one weight: the gradient is 1."""
    model = keras.Sequential(
        [keras.Input((3,)), keras.layers.Dense(2, kernel_initializer="zeros", use_bias=False)]
    )

    def loss(true: Any, given: Any) -> Any:
        return keras.ops.sum(model.trainable_variables[0]) + 0 * keras.ops.mean(given)

    model.compile(optimizer, loss)
    return model


def test_number_and_schedule_are_swapped_inside_of_fit() -> None:
    optimizer = optimizers.SGD(0.5, momentum=0.0)
    model = slope(optimizer)
    view = pellucid.view(optimizer)
    decay = schedules.PolynomialDecay(0.8, 8, 0.0)
    found = rates(model, view, {2: decay, 5: 0.25})
    assert found == pytest.approx([0.5, 0.5, 0.6, 0.5, 0.4, 0.25, 0.25, 0.25], rel=1e-4)
    assert view.schedule("learning_rate") is None
    assert view["learning_rate"] == 0.25
    assert optimizer.get_config()["learning_rate"] == 0.25
    assert [one.path.rpartition("/")[2] for one in optimizer.variables] == [
        "iteration", "learning_rate",
    ]  # fmt: skip
    assert [(one.step, one.schedule is not None) for one in view.journal] == [(3, True), (6, False)]
    optimizer.learning_rate = 0.125  # as with a rate that was always a number
    assert view["learning_rate"] == 0.125


@pytest.mark.parametrize("last", ["number", "schedule"])
def test_files_fit_after_a_swap(last: str, tmp_path: Any) -> None:
    rate = schedules.ExponentialDecay(0.1, 10, 0.5)
    optimizer = optimizers.Adam(rate if last == "number" else 0.1)
    model = model_of(optimizer)
    train(model)
    pellucid.view(optimizer)["learning_rate"] = 0.05 if last == "number" else rate
    train(model)
    path = str(tmp_path / "model.keras")
    model.save(path)
    loaded = keras.models.load_model(path)
    assert len(loaded.optimizer.variables) == len(optimizer.variables)
    train(loaded)
    train(model)
    close(model, loaded)


@pytest.mark.backends("tensorflow")
@pytest.mark.parametrize("rate", [0.1, schedules.ExponentialDecay(0.1, 10, 0.5)])
def test_tensorflow_checkpoint_after_a_swap(rate: Any, tmp_path: Any) -> None:
    import tensorflow as tf

    optimizer = optimizers.Adam(rate)
    model = model_of(optimizer)
    train(model)
    pellucid.view(optimizer)["lr"] = schedules.ExponentialDecay(0.2, 10, 0.5)
    pellucid.view(optimizer)["lr"] = 0.05
    path = tf.train.Checkpoint(optimizer=optimizer).save(str(tmp_path / "checkpoint"))
    fresh = optimizers.Adam(0.5)
    other = model_of(fresh)
    fresh.build(other.trainable_variables)
    tf.train.Checkpoint(optimizer=fresh).restore(path).assert_existing_objects_matched()
    assert pellucid.view(fresh)["lr"] == 0.05
    assert int(fresh.iterations) == BATCHES


# -- refusals ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "path", "value", "error", "text"),
    [
        (optimizers.Adam, "beta1", 1.0, HyperparameterError, r"beta1 \('beta_1'\).*< 1"),
        (optimizers.Adam, "beta_2", -0.1, HyperparameterError, ">= 0"),
        (optimizers.Adam, "epsilon", "x", HyperparameterError, "a number"),
        (optimizers.Adam, "learning_rate", float("nan"), HyperparameterError, "finite"),
        (optimizers.Adam, "learning_rate", -1.0, HyperparameterError, ">= 0"),
        (optimizers.Adam, "learning_rate", None, HyperparameterError, "a number"),
        (optimizers.Adam, "learning_rate", lambda: 0.1, TypeError, "once only"),
        (optimizers.Adam, "amsgrad", 1, HyperparameterError, "True or False"),
        (optimizers.Adam, "amsgrad", True, ValueError, "built without"),
        (optimizers.Adam, "use_ema", True, ValueError, "built without"),
        (optimizers.Adam, "gradient_accumulation_steps", 4, ValueError, "built without"),
        (optimizers.Adam, "gradient_accumulation_steps", 1, HyperparameterError, ">= 2"),
        (optimizers.Adam, "ema_overwrite_frequency", 1.5, HyperparameterError, "whole"),
        (optimizers.Adam, "clipnorm", 0.0, HyperparameterError, "> 0"),
        (optimizers.Adam, "weight_decay", "much", HyperparameterError, "a number, or None"),
        (optimizers.AdamW, "weight_decay", None, HyperparameterError, "a number"),
        (optimizers.SGD, "momentum", 0.9, ValueError, r"construct another with momentum=0.9"),
        (optimizers.SGD, "momentum", 1.5, HyperparameterError, "<= 1"),
        (optimizers.RMSprop, "centered", True, ValueError, "built without"),
        (optimizers.Adagrad, "initial_accumulator_value", 1.0, ValueError, "accumulator"),
        (optimizers.Ftrl, "l1", -1.0, HyperparameterError, ">= 0"),
        (optimizers.Ftrl, "learning_rate_power", 0.5, HyperparameterError, "<= 0"),
        (lambda: optimizers.SGD(clipvalue=1.0), "clipnorm", 1.0, ValueError, "clipvalue is 1.0"),
        (optimizers.Adam, "beta9", 1.0, UnknownNameError, "beta"),
    ],
)
def test_refused_values_change_nothing(
    make: Any, path: str, value: Any, error: type[Exception], text: str
) -> None:
    optimizer = make()
    model = model_of(optimizer)
    train(model)
    view = pellucid.view(optimizer)
    config, function = optimizer.get_config(), model.train_function
    with pytest.raises(error, match=text):
        view[path] = value
    assert optimizer.get_config() == config
    assert model.train_function is function
    assert len(view.journal) == 0


def test_several_are_written_whole_or_not_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    kernels, rest = optimizers.Adam(0.01), optimizers.Adam(0.1)
    table = optimizers.OptimizerMap(rest, {".*kernel": kernels})
    optimizer = optimizers.MultiOptimizer(table)
    model = model_of(optimizer)
    train(model)
    view = pellucid.view(optimizer)

    before = [id(one) for one in optimizer.variables]

    def fails(*_: Any) -> int:
        raise RuntimeError("no")

    monkeypatch.setattr("pellucid.keras.trainers.rebuild", fails)
    with pytest.raises(RuntimeError, match="no"):
        view["beta1"] = 0.5
    with pytest.raises(RuntimeError, match="no"):
        view["learning_rate"] = schedules.ExponentialDecay(0.1, 10, 0.5)
    assert (kernels.beta_1, rest.beta_1) == (0.9, 0.9)
    assert (view[".*kernel/learning_rate"], view["default/learning_rate"]) == (0.01, 0.1)
    assert [id(one) for one in optimizer.variables] == before
    assert len(view.journal) == 0


def test_no_junk_attributes() -> None:
    optimizer = optimizers.Adam(0.01)
    model = model_of(optimizer)
    train(model)
    before = set(vars(optimizer))
    view = pellucid.view(optimizer)
    view["lr"], view["beta_1"], view["beta1"], view["epsilon"] = 0.5, 0.8, 0.7, 1e-3
    view["lr"] = schedules.ExponentialDecay(0.1, 10, 0.5)
    view["lr"] = 1
    assert set(vars(optimizer)) == before
    assert isinstance(optimizer.learning_rate, keras.Variable)


def test_own_loop_is_told_to_retrace() -> None:
    optimizer = optimizers.Adam(0.01)
    variable = keras.Variable([1.0, 2.0])
    optimizer.build([variable])
    optimizer.apply([keras.ops.convert_to_tensor([1.0, 1.0])])
    view = pellucid.view(optimizer)
    view["lr"] = 0.02  # live everywhere
    if BACKEND == "torch":
        view["beta1"] = 0.5
    else:
        with pytest.warns(UserWarning, match=r"beta_1.*make that function anew"):
            view["beta1"] = 0.5
    assert optimizer.beta_1 == 0.5


def test_state_that_stays_behind_is_told() -> None:
    optimizer = optimizers.SGD(0.01, momentum=0.9)
    model = model_of(optimizer)
    train(model)
    view = pellucid.view(optimizer)
    with pytest.warns(UserWarning, match="set it back before saving"):
        view["momentum"] = 0.0
    view["momentum"] = 0.5
    train(model)


def test_override_and_split() -> None:
    optimizer = optimizers.Adam(0.01)
    model = model_of(optimizer)
    train(model)
    view = pellucid.view(optimizer)
    with view.override("beta1", 0.5):
        assert optimizer.beta_1 == 0.5
    assert optimizer.beta_1 == 0.9
    decay = schedules.ExponentialDecay(0.1, 10, 0.5)
    view["lr"] = decay
    with view.override("lr", 0.25):
        assert view["lr"] == 0.25
    assert view.schedule("lr") is decay
    with pytest.raises(ValueError, match="MultiOptimizer"):
        view.split("*bias")


def test_schedulers_of_torch_and_other_models_are_refused() -> None:
    with pytest.raises(TypeError, match="callbacks"):
        pellucid.view(optimizers.Adam(), scheduler=object())
    with pytest.raises(TypeError, match="trainable_variables"):
        pellucid.view(optimizers.Adam(), model=3)
    with pytest.raises(TypeError, match="not its class"):
        pellucid.view(optimizers.Adam)


# -- journal -------------------------------------------------------------------------------


def test_journal_sees_what_others_changed() -> None:
    optimizer = optimizers.Adam(0.01)
    model = model_of(optimizer)
    journal = pellucid.journal(optimizer)
    train(model)
    optimizer.learning_rate = 0.5
    optimizer.beta_1 = 0.5
    assert pellucid.journal(optimizer) is journal
    assert [(c.step, c.name, c.old, c.new, c.source) for c in journal] == [
        (5, "learning_rate", 0.01, 0.5, "direct write"),
        (5, "beta1", 0.9, 0.5, "direct write"),
    ]
    view = pellucid.view(optimizer)
    view.set("lr", 0.25, reason="less")
    assert (journal[-1].source, journal[-1].reason) == ("view", "less")
    assert journal.at(4)["group 0/learning_rate"] == 0.01
    assert "0.5" in str(journal.table())


def test_journal_callback(tmp_path: Any) -> None:
    optimizer = optimizers.SGD(0.1)
    model = model_of(optimizer)
    file = tmp_path / "run.jsonl"
    scheduler = keras.callbacks.LearningRateScheduler(lambda epoch, rate: 0.1 / (epoch + 1))
    train(model, [scheduler, JournalCallback(file)], epochs=3)
    journal = pellucid.journal(optimizer)
    assert [(c.step, c.new, c.source) for c in journal] == [
        (5, 0.05, "direct write"), (9, pytest.approx(0.1 / 3), "direct write"),
    ]  # fmt: skip
    from pellucid.changes import Journal

    read = Journal.from_file(file)
    assert [one.step for one in read] == [5, 9]
    with pytest.raises(TypeError, match="batches is 3"):
        JournalCallback(batches=3)  # type: ignore[arg-type]


def test_journal_of_a_schedule_has_the_numbers_that_were_used() -> None:
    decay = schedules.PolynomialDecay(0.8, 8, 0.0)
    optimizer = optimizers.SGD(decay)
    model = model_of(optimizer)
    train(model, [JournalCallback()])
    journal = pellucid.journal(optimizer)
    found = [journal.at(step)["group 0/learning_rate"] for step in range(1, 5)]
    assert found == pytest.approx([0.8, 0.7, 0.6, 0.5])


def test_loaded_state_is_a_load(tmp_path: Any) -> None:
    optimizer = optimizers.Adam(0.01)
    model = model_of(optimizer)
    train(model)
    path = str(tmp_path / "w.weights.h5")
    model.save_weights(path)
    journal = pellucid.journal(optimizer)
    train(model)
    pellucid.view(optimizer)["lr"] = 0.5
    model.load_weights(path)
    pellucid.journal(optimizer)
    assert journal[-1].abandoned or journal[0].abandoned
    assert any(one.source == "load" and one.new == 0.01 for one in journal)


def test_journal_keeps_no_optimizer_alive() -> None:
    optimizer = optimizers.Adam(0.01)
    optimizer.build([keras.Variable([1.0])])
    pellucid.view(optimizer)["lr"] = 0.5
    seen = weakref.ref(optimizer)
    del optimizer
    keras.backend.clear_session()
    gc.collect()
    assert seen() is None
