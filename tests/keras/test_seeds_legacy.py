"""The programs of seeds 000 and 002 do what the seeds' text promises."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from programs import load

pytestmark = pytest.mark.backends("tensorflow")

tf = pytest.importorskip("tensorflow", reason="the programs are TensorFlow's")


@pytest.fixture(scope="module")
def seeds() -> Any:
    return load("keras_legacy_optimizers")


@pytest.fixture
def digits() -> Any:
    random = np.random.default_rng(0)
    x = random.normal(size=(64, 6)).astype("float32")
    return x, x @ random.normal(size=(6, 10)).astype("float32")


def one_step(optimizer: Any, gradient: Any, start: Any) -> Any:
    """A variable after one step from ``start``."""
    variable = tf.Variable(start)
    optimizer.apply_gradients([(tf.constant(gradient), variable)])
    return variable.numpy()


def test_names_and_values_are_printed(seeds: Any, capsys: Any) -> None:
    seeds.print_parameters()
    lines = capsys.readouterr().out.splitlines()
    shown = dict(line.removeprefix("Variable Name: ").split(", Value: ") for line in lines)
    assert float(shown["MyOptimizer/learning_rate"]) == pytest.approx(0.001)
    assert float(shown["MyOptimizer/decay"]) == 0.0
    assert shown["MyOptimizer/iter"] == "0"


def test_an_assigned_learning_rate_acts(seeds: Any, digits: Any, capsys: Any) -> None:
    model, optimizer = seeds.change_learning_rate(*digits)
    assert "Learning rate updated to: 0.001" in capsys.readouterr().out
    assert optimizer.get_slot(model.layers[0].kernel, "m").shape == (6, 10)
    assert any(v.name.endswith("dense/kernel/m") for v in optimizer.variables())
    found = [v for v in optimizer.variables() if v.name == "MyOptimizer/learning_rate"][0]  # noqa: RUF015
    found.assign(0.0)
    before = model.get_weights()
    model.fit(*digits, verbose=0)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    found.assign(0.01)
    model.fit(*digits, verbose=0)
    assert not np.allclose(before[0], model.get_weights()[0])


def test_the_rate_of_the_last_epochs_is_a_tenth(seeds: Any) -> None:
    """With constant gradients, what a step moves is proportional to the rate."""
    optimizer = seeds.MyOptimizer(0.01, beta1=0.0)
    gradient, start = np.float32([1.0, -2.0, 0.5]), np.zeros(3, "float32")
    before = one_step(optimizer, gradient, start)
    rate = [v for v in optimizer.variables() if v.name == "MyOptimizer/learning_rate"][0]  # noqa: RUF015
    rate.assign(0.001)
    after = one_step(optimizer, gradient, start)
    np.testing.assert_allclose(before, -0.01 * gradient, rtol=1e-6)
    np.testing.assert_allclose(after, -0.001 * gradient, rtol=1e-6)


def test_a_custom_parameter_is_found_by_its_name_and_read_by_the_hook(
    seeds: Any, digits: Any, capsys: Any
) -> None:
    model, optimizer, found = seeds.read_custom_parameter()
    assert "Custom parameter value: 0.8" in capsys.readouterr().out
    assert found is optimizer.custom_param
    found.assign(0.0)
    model.build((None, 6))
    before = model.get_weights()
    model.fit(*digits, verbose=0)
    np.testing.assert_array_equal(before[0], model.get_weights()[0])
    optimizer.custom_param = 0.8
    model.fit(*digits, verbose=0)
    assert not np.array_equal(before[0], model.get_weights()[0])


@pytest.mark.parametrize("name", ["MySGD", "MyMomentum", "MyDecayingOptimizer"])
def test_seed_002s_optimizers_train_and_are_configured(seeds: Any, digits: Any, name: str) -> None:
    optimizer = getattr(seeds, name)()
    _, losses = seeds.train(optimizer, *digits, epochs=8)
    assert losses[-1] < 0.95 * losses[0]
    config = optimizer.get_config()
    assert config["learning_rate"] == 0.01
    again = type(optimizer).from_config(config)
    assert again.get_config() == config
    assert getattr(seeds, name)(lr=0.5).get_config()["learning_rate"] == 0.5


def test_seed_002s_numbers(seeds: Any) -> None:
    """Three steps of each against the formula of its text."""
    gradients = np.float32([[1.0, -2.0], [0.5, 4.0], [-3.0, 0.0]])
    sgd, momentum = seeds.MySGD(0.1), seeds.MyMomentum(0.1, 0.9)
    decaying = seeds.MyDecayingOptimizer(0.1, 0.5)
    wanted = [np.zeros(2), np.zeros(2), np.zeros(2)]
    velocity = np.zeros(2)
    variables = [[tf.Variable(np.zeros(2, "float32")) for _ in range(2)] for _ in range(3)]
    for step, gradient in enumerate(gradients, start=1):
        velocity = 0.9 * velocity + gradient
        wanted[0] = wanted[0] - 0.1 * gradient
        wanted[1] = wanted[1] - 0.1 * velocity
        wanted[2] = wanted[2] - 0.1 * 0.5**step * gradient
        for optimizer, pair in zip((sgd, momentum, decaying), variables, strict=True):
            optimizer.apply_gradients((tf.constant(gradient), variable) for variable in pair)
    for pair, expected in zip(variables, wanted, strict=True):
        for variable in pair:  # two variables: a step is counted once
            np.testing.assert_allclose(variable.numpy(), expected, rtol=1e-5, atol=1e-7)
    assert int(decaying.iterations) == 3


@pytest.mark.parametrize("name", ["MySGD", "MyMomentum", "MyDecayingOptimizer"])
def test_sparse_hooks_without_indices_get_the_whole_gradient(seeds: Any, name: str) -> None:
    rows = tf.IndexedSlices(
        tf.constant([[1.0, 2.0], [3.0, -4.0], [0.5, 0.5]]), tf.constant([2, 0, 2]), (4, 2)
    )
    sparse, dense = (tf.Variable(np.ones((4, 2), "float32")) for _ in range(2))
    first, second = getattr(seeds, name)(0.1), getattr(seeds, name)(0.1)
    for _ in range(3):
        first.apply_gradients([(rows, sparse)])
        second.apply_gradients([(tf.convert_to_tensor(rows), dense)])
    np.testing.assert_allclose(sparse.numpy(), dense.numpy(), rtol=1e-6)
    assert not np.allclose(sparse.numpy()[0], 1.0)


def test_seed_000s_sparse_hook_says_what_to_write(seeds: Any) -> None:
    embeddings = tf.Variable(np.ones((4, 2), "float32"), name="embeddings")
    rows = tf.IndexedSlices(tf.constant([[1.0, 2.0]]), tf.constant([2]), (4, 2))
    with pytest.raises(NotImplementedError, match="MyOptimizer does not implement `_resource_app"):
        seeds.MyOptimizer().apply_gradients([(rows, embeddings)])


def test_the_file_runs_as_a_program(seeds: Any, capsys: Any) -> None:
    seeds.main()
    shown = capsys.readouterr().out
    assert "MyDecayingOptimizer" in shown
    assert "Custom parameter value" in shown
