"""A file that is loaded before the optimizer is built: what is set since wins, and errors stay."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import pellucid
import pellucid.keras
from pellucid import schedules
from pellucid.keras.host_values import on_host

X = np.random.default_rng(0).normal(size=(32, 4)).astype("float32")
Y = X.sum(1, keepdims=True)


def model(optimizer: Any) -> Any:
    made = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1, name="dense")])
    made.compile(optimizer, "mse")
    return made


@pytest.fixture
def saved(tmp_path: Path) -> str:
    path = str(tmp_path / "trained.weights.h5")
    trained = model(pellucid.keras.Adam(0.01))
    trained.fit(X, Y, batch_size=16, verbose=0)
    trained.save_weights(path)
    return path


def test_what_is_set_between_a_load_and_the_build_stays(saved: str) -> None:
    optimizer = pellucid.keras.Adam(0.01)
    again = model(optimizer)
    again.load_weights(saved)
    optimizer.learning_rate = 0.0
    optimizer.beta_1 = schedules.Linear(0.3, 0.4, 100)
    optimizer.amsgrad = True
    before = again.get_weights()
    again.fit(X, Y, batch_size=16, verbose=0)
    for one, other in zip(before, again.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert int(on_host(optimizer.iterations)) == 4
    config = optimizer.get_config()
    assert (config["learning_rate"], config["amsgrad"]) == (0.0, True)
    assert optimizer.setting("beta_1").driver == schedules.Linear(0.3, 0.4, 100)
    changed = {change.name: change.old for change in pellucid.journal(optimizer)}
    assert changed["learning_rate"] == 0.01


def test_without_a_write_the_files_values_hold(saved: str) -> None:
    optimizer = pellucid.keras.Adam(0.5, beta_1=0.1)
    again = model(optimizer)
    again.load_weights(saved)
    again.fit(X, Y, batch_size=16, verbose=0)
    config = optimizer.get_config()
    assert (config["learning_rate"], config["beta_1"]) == (0.01, 0.9)


def test_what_does_not_fit_is_said_at_each_step(saved: str) -> None:
    again = model(pellucid.keras.SGD(0.01, momentum=0.9))
    again.load_weights(saved)
    with pytest.raises(ValueError, match=r"momentum|Adam"):
        again.fit(X, Y, batch_size=16, verbose=0)
    for _ in range(2):  # where a trainer is compiled, it is Keras that goes on failing
        with pytest.raises((ValueError, RuntimeError)):
            again.fit(X, Y, batch_size=16, verbose=0)


def test_a_rate_that_a_program_writes_at_each_step_is_one_entry() -> None:
    optimizer = pellucid.keras.Adam(0.01)
    trained = model(optimizer)
    for step in range(6):
        optimizer.learning_rate = 0.01 / (step + 1)
        trained.train_on_batch(X, Y)
    (run,) = pellucid.journal(optimizer)
    assert (run.step, run.until) == (2, 6)
    at = [pellucid.journal(optimizer).at(step)["group 0/learning_rate"] for step in range(2, 7)]
    np.testing.assert_allclose(at, [0.01 / (step + 1) for step in range(1, 6)])
