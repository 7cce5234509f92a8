"""Hugging Face's callbacks, in runs of a few steps."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

import pellucid

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import_module("torchvision_on_cpu")
    transformers = import_module("transformers")
    ours = import_module("pellucid.torch.transformers")

HYPERS = "hyperparameters/"


@pytest.fixture(autouse=True)
def _their_warnings() -> Iterator[None]:
    """Those of the Trainer itself are not ours."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


class Model(torch.nn.Module):
    """One weight, 1 at first, and all inputs and labels 1: a loss of 0."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1, bias=False)
        torch.nn.init.ones_(self.layer.weight)

    def forward(self, x: Any = None, labels: Any = None) -> dict[str, Any]:
        prediction = self.layer(x)
        return {"loss": ((prediction - labels) ** 2).mean(), "logits": prediction}


def fit(tmp_path: Path, *callbacks: Any, **how: Any) -> Any:
    """Three epochs of four steps, the rate falling from 0.1 to 0 in equal steps."""
    data = [{"x": torch.ones(1), "labels": torch.ones(1)} for _ in range(8)]
    arguments = transformers.TrainingArguments(
        tmp_path, num_train_epochs=3, per_device_train_batch_size=2, learning_rate=0.1,
        use_cpu=True, disable_tqdm=True, save_strategy="no", report_to=[], log_level="error",
        **{"logging_steps": 4, **how},
    )  # fmt: skip
    trainer = transformers.Trainer(
        Model(), arguments, train_dataset=data, eval_dataset=data, callbacks=list(callbacks)
    )
    trainer.train()
    return trainer


class Kept:
    def __init__(self) -> None:
        self.logged: list[tuple[int, dict[str, Any]]] = []
        self.changes: list[Any] = []
        self.closed = 0

    def log(self, step: int, values: Any) -> None:
        self.logged.append((step, dict(values)))

    def change(self, entry: Any) -> None:
        self.changes.append(entry)

    def close(self) -> None:
        self.closed += 1

    def series(self, name: str) -> list[tuple[int, Any]]:
        return [(step, values.get(name)) for step, values in self.logged]


def test_with_the_trainers_own_logs(tmp_path: Path) -> None:
    sink = Kept()
    fit(tmp_path, ours.HyperparameterLogger(sink, hyperparameters={"seed": 7}))
    *trained, end = sink.series("loss")
    assert [(step, loss) for step, loss in trained] == [(4, 0.0), (8, 0.0), (12, 0.0)]
    assert end[0] == 12  # of the whole run
    rates = [value for _, value in sink.series(f"{HYPERS}group 0/learning_rate")]
    assert rates[:3] == pytest.approx([0.1 * 8 / 12, 0.1 * 4 / 12, 0.0])
    assert sink.series(f"{HYPERS}seed")[0] == (4, 7)
    assert {one.source for one in sink.changes} == {"framework scheduler"}
    assert sink.closed == 1


def test_at_each_step(tmp_path: Path) -> None:
    sink = Kept()
    fit(tmp_path, ours.HyperparameterLogger(sink, every=3))
    assert [step for step, _ in sink.logged] == [1, 4, 7, 10]
    assert [value for _, value in sink.series(f"{HYPERS}group 0/learning_rate")] == pytest.approx(
        [0.1 * left / 12 for left in (11, 8, 5, 2)]
    )


def test_scheduler_by_epoch(tmp_path: Path) -> None:
    sink = Kept()
    scheduler = ours.HyperparameterScheduler("beta1", [0.8, 0.7, 0.6], reason="planned")
    fit(tmp_path, scheduler, ours.HyperparameterLogger(sink))
    assert sink.series(f"{HYPERS}group 0/beta1")[:3] == [(4, 0.8), (8, 0.7), (12, 0.6)]
    planned = [one for one in sink.changes if one.reason == "planned" and one.group == "group 0"]
    assert [(one.step, one.new) for one in planned][-2:] == [(5, 0.7), (9, 0.6)]


def test_scheduler_of_the_rate_itself(tmp_path: Path) -> None:
    """The Trainer's own scheduler goes on from there."""
    sink = Kept()
    scheduler = ours.HyperparameterScheduler(
        "learning_rate", lambda n, now: now if n < 6 else 0.6, by="step"
    )
    fit(tmp_path, scheduler, ours.HyperparameterLogger(sink, every=1))
    rates = dict(sink.series(f"{HYPERS}group 0/learning_rate"))
    assert rates[5] == pytest.approx(0.1 * 7 / 12)
    assert rates[7] == pytest.approx(0.6 * 5 / 6)  # of a scheduler that was at 6 of 12 steps


def test_reduce_on_plateau(tmp_path: Path) -> None:
    reduce = ours.ReduceOnPlateau("beta2", "loss", patience=1, factor=0.5)
    trainer = fit(tmp_path, reduce, eval_strategy="epoch")
    view = pellucid.view(trainer.optimizer)
    assert view["group 0/beta2"] == pytest.approx(0.999 / 4)
    entries = [one for one in pellucid.journal(trainer.optimizer) if one.name == "beta2"]
    found = [(one.step, one.reason) for one in entries if one.group == "group 0"]
    why = "loss has not improved from 0 for 1 look"
    assert found == [(9, why), (13, why)]


def test_bad_input(tmp_path: Path) -> None:
    with pytest.raises(KeyError, match=r"no 'accuracy' to monitor; it gives eval_loss"):
        fit(tmp_path, ours.ReduceOnPlateau(monitor="accuracy"), eval_strategy="epoch")
    with pytest.raises(ValueError, match="every is 'epoch'; allowed are 'log'"):
        ours.HyperparameterLogger(every="epoch")
    with pytest.raises(ValueError, match="factor is 0"):
        ours.ReduceOnPlateau(factor=0)
    with pytest.raises(TypeError, match="name is 3"):
        ours.HyperparameterScheduler(3, [0.1])
