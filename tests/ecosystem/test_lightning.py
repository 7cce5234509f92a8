"""Lightning's Trainer and Fabric with our optimizers: a module as one writes it for torch's own."""

from __future__ import annotations

import logging
import warnings
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim import lr_scheduler

import pellucid
import pellucid.torch
from ecosystem.training import assert_same, batch, loss_of, make_model, train
from pellucid.schedules import Cosine, Linear

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import_module("torchvision_on_cpu")
    lightning = import_module("lightning.pytorch")
    callbacks = import_module("lightning.pytorch.callbacks")
    loggers = import_module("lightning.pytorch.loggers")
    fabrics = import_module("lightning.fabric")

CLOSE = {"rtol": 2e-5, "atol": 1e-6}
EPOCH = 4  # batches


pytestmark = [
    pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated"),
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`, callbacks used"),
]


@pytest.fixture(autouse=True)
def _quiet() -> None:
    for name in ("pytorch", "fabric"):
        logging.getLogger(f"lightning.{name}").setLevel(logging.ERROR)


class Batches(torch.utils.data.Dataset[torch.Tensor]):
    def __len__(self) -> int:
        return EPOCH

    def __getitem__(self, number: int) -> torch.Tensor:
        return batch(number)


class Module(lightning.LightningModule):  # type: ignore[name-defined,misc]
    """A rate that a scheduler halves each epoch, and momentum on a schedule of ours."""

    def __init__(self, make: Any = pellucid.torch.AdamW, seed: int = 0, **options: Any) -> None:
        super().__init__()
        self.model, self.make, self.options = make_model(seed), make, options

    def training_step(self, inputs: Any, index: int) -> Any:
        loss = (self.model(inputs) ** 2).mean()
        self.log("loss", loss)
        return loss

    def train_dataloader(self) -> Any:
        return torch.utils.data.DataLoader(Batches(), batch_size=None)

    def configure_optimizers(self) -> Any:
        optimizer = self.make(self.model.parameters(), lr=0.02, **self.options)
        return [optimizer], [lr_scheduler.StepLR(optimizer, 1, 0.5)]


def trainer(folder: Path, epochs: int, *more: Any, **how: Any) -> Any:
    how.setdefault("logger", False)
    how.setdefault("enable_checkpointing", False)
    return lightning.Trainer(
        max_epochs=epochs, accelerator="cpu", enable_progress_bar=False, callbacks=[*more],
        enable_model_summary=False, default_root_dir=folder, log_every_n_steps=1, **how,
    )  # fmt: skip


def fit(folder: Path, epochs: int = 2, make: Any = pellucid.torch.AdamW, **how: Any) -> Any:
    module = Module(make)
    trainer(folder, epochs, **how).fit(module)
    return module


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"gradient_clip_val": 0.1},
        {"gradient_clip_val": 0.01, "gradient_clip_algorithm": "value"},
        {"accumulate_grad_batches": 2},
        {"precision": "bf16-mixed"},
    ],
    ids=str,
)
def test_as_with_torchs_own(how: dict[str, Any], tmp_path: Path) -> None:
    ours, theirs = (
        fit(tmp_path, make=make, **how) for make in (pellucid.torch.AdamW, torch.optim.AdamW)
    )
    assert_same(ours.model, theirs.model, **CLOSE)
    optimizer = ours.trainer.optimizers[0]
    assert optimizer.updates == 8 // how.get("accumulate_grad_batches", 1)
    assert optimizer.param_groups[0]["lr"] == 0.005


def test_what_the_monitor_logs(tmp_path: Path) -> None:
    """Rates and momenta at each step, under its usual names."""
    logger = loggers.CSVLogger(tmp_path)
    monitor = callbacks.LearningRateMonitor("step", log_momentum=True, log_weight_decay=True)
    run = trainer(tmp_path, 2, monitor, logger=logger)
    run.fit(Module(weight_decay=0.1))
    rows = (Path(logger.log_dir) / "metrics.csv").read_text().splitlines()
    assert {"lr-AdamW", "lr-AdamW-momentum", "lr-AdamW-weight_decay"} <= {*rows[0].split(",")}
    column = rows[0].split(",").index("lr-AdamW")
    rates = [float(row.split(",")[column]) for row in rows[1:] if row.split(",")[column]]
    assert rates == [0.02] * 4 + [0.01] * 4
    assert monitor.lrs["lr-AdamW"] == rates
    assert monitor.last_momentum_values == {"lr-AdamW-momentum": 0.9}


def resumed(folder: Path, make: Any, options: Any) -> tuple[Any, Any]:
    """A run in one go, and one with a stop after an epoch, from the file that was kept there."""
    keep = callbacks.ModelCheckpoint(folder, filename="{epoch}", save_top_k=-1)
    whole = Module(make, **options)
    trainer(folder, 3, keep, enable_checkpointing=True).fit(whole)
    again = Module(make, seed=1, **options)
    trainer(folder, 3).fit(again, ckpt_path=folder / "epoch=0.ckpt", weights_only=True)
    return whole, again


@pytest.mark.parametrize(
    ("make", "options"),
    [
        (pellucid.torch.AdamW, {"weight_decay": 0.1}),
        (pellucid.torch.AdamW, {"weight_decay": Cosine(0.1, steps=9)}),
        (pellucid.torch.SGD, {"momentum": Linear(0.9, 0.5, steps=9)}),
    ],
    ids=["AdamW", "a schedule of ours", "SGD"],
)
def test_resumed_from_a_checkpoint(make: Any, options: Any, tmp_path: Path) -> None:
    whole, again = resumed(tmp_path, make, options)
    assert_same(again.model, whole.model)
    one, two = (module.trainer.optimizers[0] for module in (whole, again))
    assert one.updates == two.updates == 12
    assert one.param_groups[0]["lr"] == two.param_groups[0]["lr"] == 0.0025
    journals = [pellucid.journal(optimizer) for optimizer in (one, two)]
    assert journals[0].at(3) == journals[1].at(3)
    assert journals[0].at(12) == journals[1].at(12)


class Adversaries(Module):
    """Two optimizers by hand, one of which steps every other batch, with its own scheduler."""

    def __init__(self, make: Any) -> None:
        super().__init__(make)
        self.other = make_model(1)
        self.automatic_optimization = False

    def training_step(self, inputs: Any, index: int) -> None:
        first, second = self.optimizers()
        self.toggle_optimizer(first)
        first.zero_grad()
        self.manual_backward((self.model(inputs) ** 2).mean())
        self.clip_gradients(first, gradient_clip_val=0.1, gradient_clip_algorithm="norm")
        first.step()
        self.untoggle_optimizer(first)
        self.manual_backward((self.other(inputs) ** 2).mean())
        if index % 2:
            second.step()
            second.zero_grad()
            self.lr_schedulers().step()

    def configure_optimizers(self) -> Any:
        first = self.make(self.model.parameters(), lr=0.02)
        second = self.make(self.other.parameters(), lr=0.1)
        return [first, second], [lr_scheduler.ExponentialLR(second, 0.9)]


def test_several_optimizers_by_hand(tmp_path: Path) -> None:
    modules = []
    for make in (pellucid.torch.AdamW, torch.optim.AdamW):
        module = Adversaries(make)
        trainer(tmp_path, 2).fit(module)
        modules.append(module)
    ours, theirs = modules
    assert [one.updates for one in ours.trainer.optimizers] == [8, 4]
    assert_same(ours.model, theirs.model, **CLOSE)
    assert_same(ours.other, theirs.other, **CLOSE)


def test_weight_averaging_and_early_stops(tmp_path: Path) -> None:
    """Its callbacks that replace the scheduler or the weights."""
    modules = []
    for make in (pellucid.torch.SGD, torch.optim.SGD):
        module = Module(make)
        swa = callbacks.StochasticWeightAveraging(swa_lrs=0.01, swa_epoch_start=1)
        stop = callbacks.EarlyStopping("loss", patience=10, check_on_train_epoch_end=True)
        trainer(tmp_path, 3, swa, stop).fit(module)
        modules.append(module)
    assert_same(modules[0].model, modules[1].model, **CLOSE)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_fabric(precision: str, tmp_path: Path) -> None:
    """`setup`, `backward`, `clip_gradients`, `save` and `load`; on from there, bit for bit."""
    fabric = fabrics.Fabric(accelerator="cpu", devices=1, precision=precision)

    def begun(seed: int) -> tuple[Any, Any]:
        model = make_model(seed)
        found: tuple[Any, Any] = fabric.setup(model, pellucid.torch.AdamW(model, lr=0.01))
        return found

    def steps(model: Any, optimizer: Any, numbers: range) -> None:
        for number in numbers:
            optimizer.zero_grad()
            fabric.backward(loss_of(model, number))
            fabric.clip_gradients(model, optimizer, max_norm=0.1)
            optimizer.step()

    model, optimizer = begun(0)
    steps(model, optimizer, range(3))
    fabric.save(tmp_path / "state.ckpt", {"model": model, "optimizer": optimizer})
    again, other = begun(1)
    fabric.load(tmp_path / "state.ckpt", {"model": again, "optimizer": other})
    for pair in ((model, optimizer), (again, other)):
        steps(*pair, range(3, 6))
    assert_same(again, model)
    if precision == "32-true":
        plain = make_model()
        clip = torch.nn.utils.clip_grad_norm_
        reference = torch.optim.AdamW(plain.parameters(), lr=0.01)
        reference.register_step_pre_hook(lambda *_: clip(plain.parameters(), 0.1) and None)
        train(plain, reference, range(6))
        assert_same(again.module, plain, **CLOSE)
