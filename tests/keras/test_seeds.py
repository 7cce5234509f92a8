"""Seed 001's programs, and Pellucid's own way for seeds 000, 001 and 002, keep what is promised."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest

import pellucid
import pellucid.keras
from programs import load
from stepper import Stepper

GRADIENTS = np.float32([[1.0, -2.0, 0.0], [0.5, 400.0, -1e-6], [-3.0, 0.0, 2.0], [0.1, 0.2, -7.0]])
on_tensorflow = pytest.mark.backends("tensorflow")


@pytest.fixture(scope="module")
def ours() -> Any:
    return load("keras_optimizers")


@pytest.fixture(scope="module")
def experimental() -> Any:
    return load("keras_experimental_optimizers")


@pytest.fixture
def digits() -> Any:
    random = np.random.default_rng(0)
    x = random.normal(size=(64, 6)).astype("float32")
    return x, x @ random.normal(size=(6, 10)).astype("float32")


def moved(optimizer: Any, gradients: Any = GRADIENTS) -> list[Any]:
    """A variable that begins at 0, after each of the steps; a second one moves alike."""
    pair = [keras.Variable(np.zeros(len(gradients[0]), "float32"), name=n) for n in "ab"]
    step, found = Stepper(optimizer, pair), []
    for gradient in gradients:
        step([gradient, gradient])
        first, second = (keras.ops.convert_to_numpy(variable.value) for variable in pair)
        np.testing.assert_array_equal(first, second)
        found.append(np.array(first))
    return found


def weights_after(optimizer: Any, x: Any, y: Any, epochs: int = 3) -> list[Any]:
    """A model of fixed beginning, trained with an optimizer."""
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.layers.Dense(10)])
    model.compile(optimizer=optimizer, loss="mse")
    model.fit(x, y, epochs=epochs, verbose=0)
    return model.get_weights()


# -- seed 001's own programs -------------------------------------------------------------------


@on_tensorflow
def test_seed_001_adam_is_keras_adam(experimental: Any, digits: Any) -> None:
    optimizer = experimental.basic_adam()
    assert float(optimizer.learning_rate) == pytest.approx(0.001)
    expected = weights_after(keras.optimizers.Adam(learning_rate=0.001), *digits)
    for found, wanted in zip(weights_after(optimizer, *digits), expected, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-7)


@on_tensorflow
def test_seed_001_transformer_clips(experimental: Any, digits: Any) -> None:
    x, y = digits
    large = x, 1000 * y
    clipped = weights_after(experimental.clipped_adam(), *large)
    expected = weights_after(keras.optimizers.Adam(0.001, clipvalue=1.0), *large)
    free = weights_after(experimental.basic_adam(), *large)
    for found, wanted in zip(clipped, expected, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-7)
    assert not np.allclose(clipped[0], free[0], rtol=1e-5, atol=1e-7), "nothing was clipped"


@on_tensorflow
def test_seed_001_scheduler_halves_the_rate(experimental: Any, digits: Any) -> None:
    model, optimizer, history = experimental.train_with_scheduler(*digits, epochs=21)
    rates = [0.01] * 10 + [0.005] * 10 + [0.0025]
    np.testing.assert_allclose(history.history["learning_rate"], rates, rtol=1e-6)
    assert float(optimizer.learning_rate) == pytest.approx(0.0025)
    assert history.history["loss"][-1] < history.history["loss"][0]
    at = [optimizer.journal.at(step)["group 0/learning_rate"] for step in (20, 21, 40, 41)]
    assert at == pytest.approx([0.01, 0.005, 0.005, 0.0025])
    assert len(model.trainable_variables) == 2


@on_tensorflow
def test_seed_001_file_runs_as_a_program(experimental: Any, capsys: Any) -> None:
    experimental.main()
    shown = capsys.readouterr().out
    assert "learning rates [0.009999" in shown or "learning rates [0.01, 0.005" in shown
    assert "at the end: 0.0024999" in shown or "at the end: 0.0025" in shown


# -- seed 000 in Pellucid's way ----------------------------------------------------------------


def test_seed_000_names_and_values(ours: Any, digits: Any, capsys: Any) -> None:
    optimizer = ours.print_parameters()
    lines = capsys.readouterr().out.splitlines()
    shown = dict(line.removeprefix("Variable Name: ").split(", Value: ") for line in lines)
    names = [name for name in shown if name.endswith("learning_rate")]
    assert [float(shown[name]) for name in names] == [0.001]
    assert [float(shown[name]) for name in shown if name.endswith("beta1")] == [0.9]
    assert float(optimizer.variable("MyOptimizer/learning_rate").value) == pytest.approx(0.001)
    model, optimizer, _ = ours.train(ours.MyOptimizer(0.01), *digits, epochs=1)
    kernel = model.trainable_variables[0]
    average = pellucid.view(optimizer).state[f"{kernel.path}/m"]
    assert tuple(average.shape) == (6, 10)
    assert np.abs(keras.ops.convert_to_numpy(average)).max() > 0


def test_seed_000_rate_changes_inside_of_fit(ours: Any, digits: Any, capsys: Any) -> None:
    _, optimizer = ours.change_learning_rate(*digits)
    assert "the sixth epoch is over" in capsys.readouterr().out
    steps = 2  # an epoch's
    before, after = (optimizer.journal.at(step) for step in (6 * steps, 6 * steps + 1))
    assert [*before.values()].count(0.01) == [*after.values()].count(0.001) == 1
    assert float(optimizer.learning_rate) == pytest.approx(0.001)


def test_seed_000_changed_rate_acts_at_once(ours: Any) -> None:
    optimizer = pellucid.keras.Optimizer(ours.MyOptimizer(0.01, beta1=0.0), name="MyOptimizer")
    variable = keras.Variable(np.zeros(3, "float32"), name="w")
    step = Stepper(optimizer, [variable])
    gradient, places = np.float32([1.0, -2.0, 0.5]), [np.zeros(3)]
    for rate in (0.01, 0.001):
        pellucid.view(optimizer)["MyOptimizer/learning_rate"] = rate
        step([gradient])
        places.append(np.array(keras.ops.convert_to_numpy(variable.value)))
    np.testing.assert_allclose(places[1], -0.01 * gradient, rtol=1e-5)
    np.testing.assert_allclose(places[2] - places[1], -0.001 * gradient, rtol=1e-4)
    assert step.traces <= 1, "a change of a number traces nothing anew"


def test_seed_000_custom_parameter(ours: Any, digits: Any, capsys: Any) -> None:
    model, optimizer = ours.read_custom_parameter()
    assert "Custom parameter value: 0.8" in capsys.readouterr().out
    optimizer.custom_param = 0.0
    model.build((None, 6))
    before = model.get_weights()
    model.fit(*digits, verbose=0)
    np.testing.assert_array_equal(before[0], model.get_weights()[0])
    optimizer.custom_param = 0.8
    model.fit(*digits, verbose=0)
    assert not np.array_equal(before[0], model.get_weights()[0])


# -- seed 001 in Pellucid's way ----------------------------------------------------------------


def test_seed_001_arguments_are_told_and_checked(ours: Any) -> None:
    assert "learning_rate" in pellucid.keras.Adam.__doc__
    assert float(ours.basic_adam().learning_rate) == pytest.approx(0.001)
    with pytest.raises(TypeError, match="learning_rat"):
        pellucid.keras.Adam(learning_rat=0.001)


def test_seed_001_clipping_is_a_stage(ours: Any) -> None:
    clipped = moved(ours.clipped_adam())
    by_hand = moved(ours.basic_adam(), np.clip(GRADIENTS, -1, 1))
    np.testing.assert_allclose(clipped, by_hand, rtol=1e-5, atol=1e-9)
    assert not np.allclose(clipped, moved(ours.basic_adam()), rtol=1e-3)


def test_seed_001_schedule_halves_the_rate_every_ten_epochs(ours: Any, digits: Any) -> None:
    model, history = ours.train_with_schedule(*digits, epochs=21)
    assert history.history["loss"][-1] < history.history["loss"][0]
    journal = model.optimizer.journal
    rates = [journal.at(2 * epoch + 1)["group 0/learning_rate"] for epoch in (0, 9, 10, 19, 20)]
    np.testing.assert_allclose(rates, [0.01, 0.01, 0.005, 0.005, 0.0025], rtol=1e-6)


@on_tensorflow
def test_seed_001_both_ways_train_the_same(ours: Any, experimental: Any, digits: Any) -> None:
    keras.utils.set_random_seed(1)
    first, *_ = experimental.train_with_scheduler(*digits, epochs=11)
    keras.utils.set_random_seed(1)
    second, _ = ours.train_with_schedule(*digits, epochs=11)
    for a, b in zip(first.get_weights(), second.get_weights(), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-4, atol=1e-6)


# -- seed 002 in Pellucid's way ----------------------------------------------------------------


def expected(name: str) -> list[Any]:
    """Where the formula of the seed's text leads, in float64."""
    place, velocity, average, found = np.zeros(3), np.zeros(3), np.zeros(3), []
    for number, gradient in enumerate(GRADIENTS.astype("float64"), start=1):
        velocity = 0.9 * velocity + gradient
        average = 0.9 * average + (1 - 0.9) * gradient
        place = place - {
            "MySGD": 0.1 * gradient,
            "MyMomentum": 0.1 * velocity,
            "MyDecayingOptimizer": 0.1 * 0.5**number * gradient,
            "MyOptimizer": 0.1 * average,
        }[name]
        found.append(place)
    return found


RULES = {
    "MySGD": {},
    "MyMomentum": {"momentum": 0.9},
    "MyDecayingOptimizer": {"decay_rate": 0.5},
    "MyOptimizer": {"beta1": 0.9},
}


@pytest.mark.parametrize("name", RULES)
def test_rules_follow_the_formulas(ours: Any, name: str) -> None:
    optimizer = pellucid.keras.Optimizer(getattr(ours, name)(0.1, **RULES[name]))
    np.testing.assert_allclose(moved(optimizer), expected(name), rtol=1e-5, atol=1e-7)


@on_tensorflow
@pytest.mark.parametrize("name", RULES)
def test_rules_equal_the_seeds_classes(ours: Any, name: str) -> None:
    import tensorflow as tf

    seeds = load("keras_legacy_optimizers")
    legacy, variable = getattr(seeds, name)(0.1, **RULES[name]), tf.Variable(np.zeros(3, "float32"))
    places = []
    for gradient in GRADIENTS:
        legacy.apply_gradients([(tf.constant(gradient), variable)])
        places.append(variable.numpy())
    optimizer = pellucid.keras.Optimizer(getattr(ours, name)(0.1, **RULES[name]))
    np.testing.assert_allclose(moved(optimizer), places, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", RULES)
def test_rules_train_in_fit_and_are_configured(ours: Any, digits: Any, name: str) -> None:
    _, optimizer, losses = ours.train(getattr(ours, name)(0.05), *digits, epochs=8)
    assert losses[-1] < 0.95 * losses[0]
    again = type(optimizer).from_config(optimizer.get_config())
    assert again.stage == optimizer.stage
    with pytest.raises(pellucid.HyperparameterError, match="learning_rate"):
        optimizer.learning_rate = -1.0


def test_file_runs_as_a_program(ours: Any, capsys: Any) -> None:
    ours.main()
    shown = capsys.readouterr().out
    assert "MyDecayingOptimizer" in shown
    assert "Custom parameter value: 0.8" in shown
