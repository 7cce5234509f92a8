"""Seed 003's programs, and Pellucid's own way for them."""

from __future__ import annotations

import numpy as np
import pytest

from programs import load


@pytest.mark.backends("tensorflow")
def test_the_seeds_programs(capsys: pytest.CaptureFixture[str]) -> None:
    seeds = load("tensorflow_hyperparameters")
    assert seeds.direct_access().hidden_units == 64
    assert "Hidden units: 64" in capsys.readouterr().out
    _, optimizer = seeds.training_loop(epochs=2)
    assert int(optimizer.iterations) == 16
    told = capsys.readouterr().out.splitlines()
    assert told[-1].startswith("Epoch 2/2, Learning rate: 0.001")
    assert told[-1].endswith("Batch Size: 32")
    seeds.custom_callback(epochs=2)
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("Epoch 2: Hyperparameters: {'learning_rate': 0.001")


def test_what_a_model_was_made_with() -> None:
    found = load("keras_hyperparameters").direct_access()
    assert found.hidden_units == 64
    assert found.activation == "relu"
    units = [one.units for one in found.layers.values()]
    assert units == [64, 1]


def test_live_values_and_a_record(capsys: pytest.CaptureFixture[str]) -> None:
    record = load("keras_hyperparameters").everything(epochs=3)
    lines = [one for one in capsys.readouterr().out.splitlines() if one.startswith("Epoch")]
    rates = [float(one.split("'learning_rate': ")[1].split(",")[0]) for one in lines]
    np.testing.assert_allclose(rates, [0.001, 0.0005, 0.000125])
    assert "'seed': 0" in lines[0]
    assert "'batch_size': 32" in lines[0]
    assert record["model/arguments/hidden_units"] == 64
    assert record.entry("model/arguments/activation").provenance == "default"
    assert record["optimizer/groups/group 0/learning_rate"] == 0.000125
    assert record["loop/seed"] == 0
    fit = {path.rpartition("/")[2]: one for path, one in record.items() if "/fit/" in path}
    assert fit["batch_size"] == 32
    assert fit["epochs"] == 3
