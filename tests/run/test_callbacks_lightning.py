"""Lightning's callbacks, in runs of a few steps."""

from __future__ import annotations

import logging
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
    lightning = import_module("lightning.pytorch")
    ours = import_module("pellucid.torch.lightning")

HYPERS = "hyperparameters/"


@pytest.fixture(autouse=True)
def _their_warnings() -> Iterator[None]:
    """Those of the trainer itself are not ours."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


class One(lightning.LightningModule):  # type: ignore[name-defined,misc]
    """A layer whose loss is said to be what a list says, epoch by epoch."""

    def __init__(self, losses: list[float], step_size: int = 0) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.losses, self.step_size = losses, step_size

    def training_step(self, batch: Any, index: int) -> Any:
        self.log("loss", torch.tensor(self.losses[self.current_epoch]))
        return self.layer(batch).mean()

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.5)
        if not self.step_size:
            return optimizer
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, self.step_size, 0.5)]


class Two(One):
    """Two optimizers, each with a step a batch."""

    def __init__(self) -> None:
        super().__init__([1.0])
        self.other = torch.nn.Linear(1, 1)
        self.automatic_optimization = False

    def training_step(self, batch: Any, index: int) -> None:
        for optimizer in self.optimizers():
            optimizer.zero_grad()
            self.manual_backward((self.layer(batch) + self.other(batch)).mean())
            optimizer.step()

    def configure_optimizers(self) -> Any:
        return [
            torch.optim.SGD(self.layer.parameters(), lr=0.1),
            torch.optim.Adam(self.other.parameters(), lr=0.2),
        ]


def fit(module: Any, *callbacks: Any, epochs: int = 1, **how: Any) -> Any:
    how.setdefault("logger", False)
    trainer = lightning.Trainer(
        max_epochs=epochs, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, accelerator="cpu", callbacks=list(callbacks), **how,
    )  # fmt: skip
    trainer.fit(module, torch.utils.data.DataLoader(torch.ones(4, 1), batch_size=1))
    return trainer


class Kept:
    def __init__(self) -> None:
        self.logged: list[tuple[int, dict[str, Any]]] = []
        self.changes: list[Any] = []
        self.closed = False

    def log(self, step: int, values: Any) -> None:
        self.logged.append((step, dict(values)))

    def change(self, entry: Any) -> None:
        self.changes.append(entry)

    def close(self) -> None:
        self.closed = True

    def series(self, name: str) -> list[tuple[int, Any]]:
        return [(step, values.get(name)) for step, values in self.logged]


def test_values_at_each_step_with_metrics() -> None:
    sink = Kept()
    fit(One([3.0]), ours.HyperparameterLogger(sink, every=2, hyperparameters={"seed": 7}))
    assert sink.series(f"{HYPERS}SGD/learning_rate") == [(1, 0.1), (3, 0.1)]
    assert sink.series(f"{HYPERS}seed") == [(1, 7), (3, 7)]
    assert sink.series("loss")[0] == (1, 3.0)
    assert sink.closed


def test_epochs_and_a_scheduler_of_torch() -> None:
    sink = Kept()
    fit(One([3.0, 2.0, 1.0], 1), ours.HyperparameterLogger(sink, every="epoch"), epochs=3)
    assert sink.series(f"{HYPERS}SGD/learning_rate") == [(4, 0.05), (8, 0.025), (12, 0.0125)]
    assert sink.series("epoch") == [(4, 0), (8, 1), (12, 2)]
    assert sink.series("loss") == [(4, 3.0), (8, 2.0), (12, 1.0)]
    (change,) = sink.changes
    assert (change.step, change.source) == (5, "framework scheduler")


def test_accumulated_batches_are_one_step() -> None:
    sink = Kept()
    fit(One([1.0]), ours.HyperparameterLogger(sink), accumulate_grad_batches=2)
    assert [step for step, _ in sink.logged if step] == [1, 2]


def test_several_optimizers() -> None:
    sink = Kept()
    scheduler = ours.HyperparameterScheduler("Adam/beta1", [0.8, 0.7], reason="planned")
    fit(Two(), scheduler, ours.HyperparameterLogger(sink, every="epoch"), epochs=2)
    assert sink.series(f"{HYPERS}SGD/group 0/learning_rate") == [(8, 0.1), (16, 0.1)]
    assert sink.series(f"{HYPERS}Adam/group 0/beta1") == [(8, 0.8), (16, 0.7)]
    assert [(one.step, one.group, one.reason) for one in sink.changes][-1:] == [
        (5, "Adam/group 0", "planned")
    ]


def test_the_trainers_own_loggers(tmp_path: Path) -> None:
    from lightning.pytorch.loggers import CSVLogger

    logger = CSVLogger(tmp_path)
    fit(One([1.0]), ours.HyperparameterLogger(), logger=logger, log_every_n_steps=1)
    table = (Path(logger.log_dir) / "metrics.csv").read_text()
    assert f"{HYPERS}SGD/learning_rate" in table.splitlines()[0]
    assert "SGD/momentum: 0.5" in (Path(logger.log_dir) / "hparams.yaml").read_text()


def test_scheduler_by_step() -> None:
    """With torch's scheduler beside it, another value than the rate."""
    module = One([1.0, 1.0], 1)
    scheduler = ours.HyperparameterScheduler("momentum", lambda n: 0.5 + n / 100, by="step")
    trainer = fit(module, scheduler, epochs=2)
    (optimizer,) = trainer.optimizers
    assert pellucid.view(optimizer)["momentum"] == pytest.approx(0.57)
    steps = [one.step for one in pellucid.journal(optimizer) if one.name == "momentum"]
    assert steps == [2, 3, 4, 5, 6, 7, 8]


def test_reduce_on_plateau() -> None:
    reduce = ours.ReduceOnPlateau("momentum", "loss", patience=2, factor=0.5)
    trainer = fit(One([2.0, 1.0, 1.0, 1.0, 1.0]), reduce, epochs=5)
    entries = list(pellucid.journal(trainer.optimizers[0]))
    assert [(one.step, one.new) for one in entries] == [(17, 0.25)]
    assert entries[0].reason == "loss has not improved from 1 for 2 looks"
    again = ours.ReduceOnPlateau("momentum", "loss", patience=2, factor=0.5)
    again.load_state_dict(reduce.state_dict())
    assert again.state_dict() == {"best": 1.0, "waited": 1, "cooling": 0}
    assert again.state_key == "ReduceOnPlateau[momentum, loss]"


def test_reduce_on_plateau_after_validation() -> None:
    class Validated(One):
        def validation_step(self, batch: Any, index: int) -> None:
            self.log("val_loss", torch.tensor(1.0))

        def val_dataloader(self) -> Any:
            return torch.utils.data.DataLoader(torch.ones(1, 1))

    trainer = fit(Validated([1.0] * 3), ours.ReduceOnPlateau(patience=1), epochs=3)
    assert pellucid.view(trainer.optimizers[0])["learning_rate"] == pytest.approx(0.001)


def test_reduce_on_plateau_by_a_metric_of_the_whole_epoch() -> None:
    """It is there when the epoch has ended, after the validation."""

    class Both(One):
        def training_step(self, batch: Any, index: int) -> Any:
            loss = torch.tensor(self.losses[self.current_epoch])
            self.log("train_loss", loss, on_step=False, on_epoch=True)
            return self.layer(batch).mean()

        def validation_step(self, batch: Any, index: int) -> None:
            self.log("val_loss", torch.tensor(1.0))

        def val_dataloader(self) -> Any:
            return torch.utils.data.DataLoader(torch.ones(1, 1))

    reduce = ours.ReduceOnPlateau("momentum", "train_loss", patience=1, factor=0.5)
    trainer = fit(Both([3.0, 2.0, 2.0]), reduce, epochs=3)
    entries = list(pellucid.journal(trainer.optimizers[0]))
    assert [(one.step, one.new) for one in entries] == [(13, 0.25)]
    with pytest.raises(KeyError, match="no 'acc' to monitor"):
        fit(Both([1.0]), ours.ReduceOnPlateau("momentum", "acc"))


def test_bad_input() -> None:
    with pytest.raises(KeyError, match="no 'val_loss' to monitor; it has loss"):
        fit(One([1.0]), ours.ReduceOnPlateau())
    with pytest.raises(ValueError, match="every is 'batch'; allowed are 'epoch'"):
        ours.HyperparameterLogger(every="batch")
    with pytest.raises(ValueError, match="by is 'batch'"):
        ours.HyperparameterScheduler("momentum", [0.1], by="batch")
    with pytest.raises(TypeError, match="is no sink"):
        ours.HyperparameterLogger(3)
    with pytest.raises(KeyError, match="no hyperparameter or option 'beta9'"):
        fit(One([1.0]), ours.HyperparameterScheduler("beta9", [0.1]))


def test_sinks_are_closed_after_a_failure() -> None:
    class Fails(One):
        def training_step(self, batch: Any, index: int) -> Any:
            if index == 2:
                raise RuntimeError("on purpose")
            return super().training_step(batch, index)

    sink = Kept()
    with pytest.raises(RuntimeError, match="on purpose"):
        fit(Fails([1.0]), ours.HyperparameterLogger(sink))
    assert [step for step, _ in sink.logged] == [1, 2]
    assert sink.closed
