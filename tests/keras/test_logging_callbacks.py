"""Callbacks of `fit` that log hyperparameters as they are, schedule any, or reduce one."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import pellucid
import pellucid.keras
from fitting import STEPS, At, Traces, model_of, train, weight
from pellucid.keras.logging_callbacks import (
    HyperparameterLogger,
    HyperparameterScheduler,
    ReduceOnPlateau,
)
from pellucid.run.sinks import JSONL
from pellucid.schedules import Linear

HYPERS = "hyperparameters/"


class Kept:
    def __init__(self) -> None:
        self.logged: list[tuple[int, dict[str, Any]]] = []
        self.changes: list[Any] = []
        self.initial: list[dict[str, Any]] = []

    def log(self, step: int, values: Any) -> None:
        self.logged.append((step, dict(values)))

    def change(self, entry: Any) -> None:
        self.changes.append(entry)

    def params(self, values: Any) -> None:
        self.initial.append(dict(values))

    def series(self, name: str) -> list[tuple[int, Any]]:
        (full,) = {one for _, values in self.logged for one in values if one.endswith(name)}
        return [(step, values[full]) for step, values in self.logged]


def theirs() -> Any:
    return keras.optimizers.SGD(0.5, momentum=0.5)


def ours() -> Any:
    return pellucid.keras.Optimizer(pellucid.SGD(0.5, momentum=0.5))


BOTH = pytest.mark.parametrize("optimizer", [theirs, ours])


def rates_fall(model: Any) -> At:
    """Halves the rate after each batch."""

    def halve(count: int) -> None:
        pellucid.view(model.optimizer)["learning_rate"] = 0.5 / 2**count

    return At("on_train_batch_end", halve)


@BOTH
def test_values_of_each_batch(optimizer: Any) -> None:
    """Live, on each backend, while `fit` runs."""
    model, sink = model_of(optimizer()), Kept()
    train(model, [HyperparameterLogger(sink, every="batch"), rates_fall(model)])
    assert sink.series("/learning_rate") == [(1, 0.5), (2, 0.25), (3, 0.125), (4, 0.0625)]
    assert [step for step, _ in sink.series("loss")] == [1, 2, 3, 4]
    assert sink.logged[0][1]["loss"] == 0.0
    assert [(one.step, one.new) for one in sink.changes] == [
        (2, 0.25), (3, 0.125), (4, 0.0625), (5, 0.03125),
    ]  # fmt: skip
    (initial,) = sink.initial
    assert initial["epochs"] == 1
    assert initial["batch_size"] == 1


@BOTH
def test_values_of_each_epoch(optimizer: Any, tmp_path: Path) -> None:
    model, path = model_of(optimizer()), tmp_path / "log.jsonl"
    logger = HyperparameterLogger(JSONL(path), hyperparameters={"note": "mine"})
    train(model, [logger, rates_fall(model)], epochs=2)
    train(model, [logger])  # the file is opened again
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    steps = [line for line in lines if "step" in line]
    rate = next(name for name in steps[0] if name.endswith("/learning_rate"))
    assert [(line["step"], line["epoch"]) for line in steps] == [(4, 1), (8, 2), (12, 1)]
    assert [line[rate] for line in steps] == [0.5 / 16, 0.5 / 256, 0.5 / 256]
    assert [line[f"{HYPERS}note"] for line in steps] == ["mine"] * 3
    assert [line[f"{HYPERS}epochs"] for line in steps] == [2, 2, 1]


def test_every_few_batches_and_statistics() -> None:
    model, sink = model_of(theirs()), Kept()
    train(model, [HyperparameterLogger(sink, every=3, statistics=6)], epochs=2)
    assert [step for step, _ in sink.logged] == [1, 4, 7]
    norms = [
        [value for name, value in values.items() if name.endswith("kernel/norm")]
        for _, values in sink.logged
    ]
    # the gradient is 1, so the first step takes 0.5; at the seventh batch statistics come again
    assert norms[0] == [0.5]
    assert norms[1] == []
    assert len(norms[2]) == 1


@BOTH
def test_printed_as_in_the_seed(optimizer: Any, capsys: pytest.CaptureFixture[str]) -> None:
    model = model_of(optimizer())
    train(model, [HyperparameterLogger({"hidden_units": 64}), rates_fall(model)], epochs=2)
    lines = [one for one in capsys.readouterr().out.splitlines() if one.startswith("Epoch")]
    assert len(lines) == 2
    for number, (line, rate) in enumerate(zip(lines, (0.5, 0.5 / 16), strict=True), 1):
        assert line.startswith(f"Epoch {number}: Hyperparameters: {{")
        assert re.search(rf"'learning_rate': {rate}\b", line)
        assert "'epochs': 2, 'batch_size': 1, 'hidden_units': 64" in line


# -- what fit was given ------------------------------------------------------------------------


def given(model: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
    model.fit(*args, verbose=0, callbacks=[HyperparameterLogger(Kept())], **kwargs)
    found: dict[str, Any] = model._pellucid_fit
    return found


def test_what_fit_was_given() -> None:
    x = np.ones((8, 1), "float32")
    model = model_of(theirs())
    found = given(model, x, x, 2, 3, shuffle=False, validation_split=0.25)  # by position
    assert found["batch_size"] == 2
    assert found["epochs"] == 3
    assert found["steps_per_epoch"] == 3
    assert found["validation_split"] == 0.25
    assert found["shuffle"] is False
    assert found["initial_epoch"] == 0
    assert found["class_weight"] is False
    assert found["sample_weight"] is False
    assert found["callbacks"] == ["HyperparameterLogger"]
    found = given(model, x, x, sample_weight=np.ones(8), initial_epoch=1, epochs=2)
    assert (found["batch_size"], found["steps_per_epoch"]) == (32, 1)  # as Keras's default has it
    assert (found["initial_epoch"], found["sample_weight"]) == (1, True)


def test_what_fit_was_given_with_data_that_is_batched() -> None:
    class Batches(keras.utils.PyDataset):  # type: ignore[misc]
        def __len__(self) -> int:
            return 2

        def __getitem__(self, index: int) -> Any:
            return np.ones((4, 1), "float32"), np.ones((4, 1), "float32")

    found = given(model_of(theirs()), Batches())
    assert found["batch_size"] is None
    assert found["steps_per_epoch"] == 2


# -- scheduling --------------------------------------------------------------------------------


@BOTH
def test_scheduler_by_epoch(optimizer: Any) -> None:
    """The first epoch's value acts on the first step, though nothing is built before."""
    model, sink = model_of(optimizer()), Kept()
    scheduler = HyperparameterScheduler("momentum", [0.25, 0.75], reason="planned")
    train(model, [scheduler, HyperparameterLogger(sink, every="batch")], epochs=2)
    assert [value for _, value in sink.series("/momentum")] == [0.25] * STEPS + [0.75] * STEPS
    entries = [one for one in pellucid.journal(model.optimizer) if one.name == "momentum"]
    assert [(one.step, one.old, one.new, one.reason) for one in entries] == [
        (1, 0.5, 0.25, "planned"), (5, 0.25, 0.75, "planned"),
    ]  # fmt: skip
    velocity, wanted = 0.0, 1.0
    for momentum in [0.25] * STEPS + [0.75] * STEPS:
        velocity = momentum * velocity - 0.5  # the gradient is 1
        wanted += velocity
    assert weight(model) == pytest.approx(wanted, rel=1e-5)


@BOTH
@pytest.mark.parametrize("schedule", [Linear(0.5, 0.0, 8), lambda n: 0.5 * (1 - n / 8), "keras"])
def test_scheduler_by_step(optimizer: Any, schedule: Any) -> None:
    if schedule == "keras":
        schedule = keras.optimizers.schedules.PolynomialDecay(0.5, 8, 0.0)
    model, sink = model_of(optimizer()), Kept()
    scheduler = HyperparameterScheduler("learning_rate", schedule, by="step")
    traces = Traces()
    train(model, [scheduler, HyperparameterLogger(sink, every="batch"), traces])
    assert sink.series("/learning_rate") == [(1, 0.5), (2, 0.4375), (3, 0.375), (4, 0.3125)]
    assert traces.after[-1] == traces.after[0] or keras.backend.backend() == "torch"


@BOTH
def test_a_value_that_is_rounded_is_written_once(optimizer: Any) -> None:
    model = model_of(optimizer())
    train(model, [HyperparameterScheduler("learning_rate", lambda n: 1 / 3)], epochs=3)
    entries = [one for one in pellucid.journal(model.optimizer) if one.name == "learning_rate"]
    assert [one.step for one in entries] == [1]


class Falling(keras.callbacks.Callback):  # type: ignore[misc]
    """Says that the loss is what a list says."""

    def __init__(self, losses: list[float]) -> None:
        super().__init__()
        self.losses = losses

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        logs["said"] = self.losses[epoch]


@BOTH
def test_reduce_on_plateau(optimizer: Any) -> None:
    model = model_of(optimizer())
    reduce = ReduceOnPlateau("momentum", "said", factor=0.5, patience=2, min_value=0.2)
    losses = [3.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0]
    train(model, [Falling(losses), reduce], epochs=len(losses))
    entries = [one for one in pellucid.journal(model.optimizer) if one.name == "momentum"]
    assert [(one.step, one.new) for one in entries] == [
        (17, 0.25), (25, pytest.approx(0.2)),
    ]  # fmt: skip
    assert entries[0].reason == "said has not improved from 2 for 2 looks"


def test_epochs_without_validation_are_not_looked_at() -> None:
    x = np.ones((2, 1), "float32")
    model = model_of(theirs())
    reduce = ReduceOnPlateau("momentum", factor=0.5, patience=1, min_delta=1e9)
    how = {"validation_data": (x, x), "validation_freq": 2}
    model.fit(x, x, epochs=6, verbose=0, callbacks=[reduce], **how)
    entries = [one for one in pellucid.journal(model.optimizer) if one.name == "momentum"]
    assert [one.new for one in entries] == [0.25, 0.125]  # after the second and third look
    with pytest.raises(KeyError, match="no 'val_mae'"):
        model.fit(x, x, verbose=0, callbacks=[ReduceOnPlateau(monitor="val_mae")],
                  validation_data=(x, x))
    with pytest.raises(KeyError, match="no 'mae'"):
        model.fit(x, x, verbose=0, callbacks=[ReduceOnPlateau(monitor="mae")], **how)
    with pytest.raises(KeyError, match="no hyperparameter or option 'momentumm'"):
        model.fit(x, x, verbose=0, callbacks=[ReduceOnPlateau("momentumm", "loss")])


def test_a_larger_accuracy_is_better() -> None:
    model = model_of(theirs())
    assert ReduceOnPlateau(monitor="val_accuracy").reduction.plateau.mode == "max"
    assert ReduceOnPlateau(monitor="val_loss").reduction.plateau.mode == "min"
    with pytest.raises(KeyError, match="no 'val_loss' to monitor; it gives loss"):
        train(model, [ReduceOnPlateau()])


def test_a_model_without_a_shape_is_waited_for() -> None:
    """Its variables are made by the first batch."""
    model = keras.Sequential([keras.layers.Dense(1, use_bias=False, kernel_initializer="ones")])
    model.compile(theirs(), "mse")
    sink = Kept()
    scheduler = HyperparameterScheduler("momentum", [0.25])
    train(model, [scheduler, HyperparameterLogger(sink, every="batch")])
    assert sink.series("/momentum")[-1] == (4, 0.25)


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="every is 'step'; allowed are 'epoch', 'batch'"):
        HyperparameterLogger(every="step")
    with pytest.raises(TypeError, match="is no sink"):
        HyperparameterLogger(object())
    with pytest.raises(TypeError, match="hyperparameters is 3"):
        HyperparameterLogger(hyperparameters=3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="by is 'batch'"):
        HyperparameterScheduler("momentum", [0.1], by="batch")
    with pytest.raises(TypeError, match="schedule is 'linear'"):
        HyperparameterScheduler("momentum", "linear")
    with pytest.raises(pellucid.HyperparameterError, match="learning_rate"):
        train(model_of(ours()), [HyperparameterScheduler("learning_rate", [-1.0])])


@BOTH
def test_a_write_of_another_callback_is_on_record_with_its_step(optimizer: Any) -> None:
    model, sink = model_of(optimizer()), Kept()
    rates = keras.callbacks.LearningRateScheduler(lambda epoch: 0.5 / (epoch + 1))
    train(model, [rates, HyperparameterLogger(sink)], epochs=2)
    changes = [(one.step, one.new) for one in sink.changes if one.old != one.new]
    assert changes == [(5, 0.25)]  # ours records that 0.5 was assigned, too
