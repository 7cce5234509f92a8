"""The README's code about logging runs as it stands there."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import keras
import numpy
import pytest

import pellucid
import pellucid.keras
from pellucid.schedules import Linear

README = Path(__file__).parents[2] / "README.md"


def test_logging(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    section = README.read_text(encoding="utf-8").split("## All hyperparameters of a run\n")[1]
    code = re.findall(r"```python\n(.*?)```", section, re.S)[1]
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    model.compile(pellucid.keras.AdamW(0.01, weight_decay=0.1), loss="mse")
    model.optimizer.build(model.trainable_variables)
    random = numpy.random.default_rng(0)
    x, y = random.normal(size=(16, 3)), random.normal(size=(16, 1))
    fit = model.fit
    monkeypatch.setattr(
        model, "fit", lambda *given, **more: fit(*given, verbose=0, validation_split=0.5, **more)
    )
    exec(code, {
        "pellucid": pellucid, "optimizer": model.optimizer, "model": model, "loss": 0.5,
        "x": x, "y": y, "Linear": Linear,
    })  # fmt: skip
    lines = [*map(json.loads, (tmp_path / "run.jsonl").read_text().splitlines())]
    assert [one["loss"] for one in lines if "loss" in one] == [0.5]
    assert any((tmp_path / "logs").iterdir())
    with open(tmp_path / "run.csv", newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["hyperparameters/fold"] == "3"
    assert float(row[next(key for key in row if key.endswith("learning_rate"))]) == 0.01
