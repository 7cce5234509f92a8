"""What a record says of trainers that have run: Lightning, Hugging Face, Accelerate."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from pellucid.run.collecting import collect
from pellucid.run.record import Findings
from pellucid.run.trainers import find_trainer


@pytest.fixture(scope="module", autouse=True)
def _torchvision() -> None:
    """Lightning and transformers import it."""
    import_module("torchvision_on_cpu")


@pytest.fixture(autouse=True)
def _their_warnings() -> Iterator[None]:
    """Those of the trainers themselves are not ours."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def found(trainer: Any) -> tuple[dict[str, Any], dict[str, str], dict[str, str]]:
    findings = Findings()
    find_trainer(findings, trainer)
    return (
        {path: one.value for path, one in findings.entries.items()},
        {path: one.provenance for path, one in findings.entries.items()},
        {one.path: one.why for one in findings.missing},
    )


# -- Lightning ---------------------------------------------------------------------------------


def lightning_run(tmp_path: Path) -> tuple[Any, Any, Any]:
    """A GAN of two linear layers: two optimizers, one with a scheduler."""
    lightning = import_module("lightning.pytorch")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)

    class Gan(lightning.LightningModule):  # type: ignore[misc]
        def __init__(self, width: int = 4) -> None:
            super().__init__()
            self.save_hyperparameters()
            self.automatic_optimization = False
            self.generator = torch.nn.Linear(2, width)
            self.critic = torch.nn.Linear(width, 1)

        def training_step(self, batch: Any, index: int) -> None:
            for one in self.optimizers():
                loss = self.critic(self.generator(batch[0])).square().mean()
                one.zero_grad()
                self.manual_backward(loss)
                one.step()

        def configure_optimizers(self) -> Any:
            first = torch.optim.Adam(self.generator.parameters(), lr=0.01, betas=(0.5, 0.9))
            second = torch.optim.SGD(self.critic.parameters(), lr=0.02)
            decay = torch.optim.lr_scheduler.StepLR(first, 3)
            return [first, second], [{"scheduler": decay, "interval": "step", "frequency": 2}]

    class Noisy(lightning.Callback):  # type: ignore[misc]
        def __init__(self, scale: float = 0.1, *, api_key: str = "") -> None:
            self.scale, self.api_key = scale, api_key

    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(torch.ones(8, 2)), batch_size=4
    )
    trainer = lightning.Trainer(
        max_epochs=2, accelerator="cpu", devices=1, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, log_every_n_steps=1,
        default_root_dir=tmp_path, callbacks=[Noisy(0.3, api_key="abc")], num_sanity_val_steps=0,
        limit_train_batches=2, deterministic=True, precision="32-true",
    )  # fmt: skip
    module = Gan(width=3)
    trainer.fit(module, loader)
    return trainer, module, loader


def test_lightning_with_two_optimizers(tmp_path: Path) -> None:
    try:
        trainer, module, loader = lightning_run(tmp_path)
        record = collect(model=module, data=loader, trainer=trainer)
    finally:
        torch.use_deterministic_algorithms(False)
    held = {path: one for path, one in record.entries.items() if path.startswith("trainer/")}
    values = {path.removeprefix("trainer/"): one.value for path, one in held.items()}
    given = {
        "max_epochs": 2,
        "num_sanity_val_steps": 0,
        "log_every_n_steps": 1,
        "limit_train_batches": 2,
        "precision": "32-true",
        "deterministic": True,
    }
    assert {path: values[path] for path in given} == given
    assert all(held[f"trainer/{path}"].provenance == "observed" for path in given)
    defaults = {
        "max_steps": -1,
        "accumulate_grad_batches": 1,
        "gradient_clip_val": None,
        "gradient_clip_algorithm": None,
        "num_nodes": 1,
        "check_val_every_n_epoch": 1,
        "overfit_batches": 0.0,
        "fast_dev_run": False,
        "benchmark": False,
    }
    assert {path: values[path] for path in defaults} == defaults
    assert all(held[f"trainer/{path}"].provenance == "default" for path in defaults)
    assert values["devices"] == 1
    assert values["accelerator"].endswith("CPUAccelerator")
    assert values["strategy"].endswith("SingleDeviceStrategy")
    assert values["callbacks/Noisy/scale"] == 0.3
    assert values["callbacks/Noisy/api_key"] == "***"
    # what it holds besides
    assert record["optimizer/0/groups/group 0/learning_rate"] == 0.01 * 0.1**0
    assert record["optimizer/0/groups/group 0/beta1"] == 0.5
    assert record["optimizer/0/groups/group 0/parameters"] == ["generator.weight", "generator.bias"]
    assert record["optimizer/1/class"] == "torch.optim.sgd.SGD"
    assert record["optimizer/1/groups/group 0/learning_rate"] == 0.02
    assert (record["scheduler/interval"], record["scheduler/frequency"]) == ("step", 2)
    assert record["scheduler/step_size"] == 3
    assert record["data/batch_size"] == 4
    assert record["model/class"].endswith("Gan")


# -- Hugging Face ------------------------------------------------------------------------------


def hugging_face(tmp_path: Path, **more: Any) -> Any:
    transformers = import_module("transformers")
    config = transformers.BertConfig(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8,
        vocab_size=11, max_position_embeddings=6,
    )  # fmt: skip
    network = transformers.BertForSequenceClassification(config)
    data = [{"input_ids": torch.tensor([1, 2, 3]), "labels": torch.tensor(n % 2)}
            for n in range(10)]  # fmt: skip
    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path), per_device_train_batch_size=2, gradient_accumulation_steps=2,
        num_train_epochs=2, learning_rate=3e-4, lr_scheduler_type="linear", warmup_steps=1,
        weight_decay=0.01, report_to=[], save_strategy="no", disable_tqdm=True, use_cpu=True,
        logging_strategy="no", seed=5, hub_token="abc", dataloader_pin_memory=False, **more,
    )  # fmt: skip
    return transformers.Trainer(model=network, args=arguments, train_dataset=data)


def test_hugging_face(tmp_path: Path) -> None:
    trainer = hugging_face(tmp_path)
    values, provenances, missed = found(trainer)
    given = {
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 2,
        "num_train_epochs": 2,
        "learning_rate": 3e-4,
        "warmup_steps": 1,
        "weight_decay": 0.01,
        "seed": 5,
        "hub_token": "***",
        "use_cpu": True,
    }
    assert {key: values[f"arguments/{key}"] for key in given} == given
    assert all(provenances[f"arguments/{key}"] == "observed" for key in given)
    defaults = {
        "lr_scheduler_type": "linear",
        "max_steps": -1,
        "max_grad_norm": 1.0,
        "adam_beta1": 0.9,
        "adam_epsilon": 1e-8,
        "bf16": False,
        "fp16": False,
        "per_device_eval_batch_size": 8,
    }
    assert {key: values[f"arguments/{key}"] for key in defaults} == defaults
    assert all(provenances[f"arguments/{key}"] == "default" for key in defaults)
    assert values["train_batch_size"] == 2
    assert values["total_steps"] == 6  # 5 batches, of two each an update: 3 an epoch
    assert "callbacks/DefaultFlowCallback/class" in values
    assert missed == {}
    trainer.train()
    assert trainer.state.max_steps == 6
    record = collect(trainer=trainer)
    assert record.entry("trainer/total_steps").source == "Trainer.state.max_steps"
    assert record["optimizer/groups/group 0/weight_decay"] == 0.01
    assert record["optimizer/groups/group 1/weight_decay"] == 0.0
    assert record["optimizer/updates"] == 6
    for one in record["scheduler/lr_lambda"]:  # of each group
        assert one["kwargs"] == {"num_warmup_steps": 1, "num_training_steps": 6}
    assert record["scheduler/last_epoch"] == 6


def test_training_arguments_alone_and_steps_given(tmp_path: Path) -> None:
    values, provenances, _ = found(hugging_face(tmp_path, max_steps=7).args)
    assert values["class"].endswith("TrainingArguments")
    assert values["arguments/max_steps"] == 7
    assert values["train_batch_size"] == 2
    assert provenances["arguments/output_dir"] == "observed"
    values, _, _ = found(hugging_face(tmp_path, max_steps=7))
    assert values["total_steps"] == 7


# -- Accelerate and callbacks ------------------------------------------------------------------


def test_accelerate(tmp_path: Path) -> None:
    accelerate = import_module("accelerate")
    values, provenances, missed = found(
        accelerate.Accelerator(gradient_accumulation_steps=4, cpu=True)
    )
    assert values["gradient_accumulation_steps"] == 4
    assert values["mixed_precision"] == "no"
    assert values["num_processes"] == 1
    assert values["distributed_type"] == "NO"
    assert values["split_batches"] is False
    assert values["device"] == "cpu"
    assert provenances["step_scheduler_with_optimizer"] == "default"
    assert missed == {}


class Callback:
    """As the frameworks call theirs."""


class Stop(Callback):
    def __init__(self, patience: int = 3, monitor: str = "loss") -> None:
        self.patience, self.monitor, self.model = patience, monitor, object()


def test_callbacks_of_one_class_are_numbered() -> None:
    values, provenances, _ = found([Stop(), Stop(5)])
    assert values == {
        "callbacks/Stop/class": f"{__name__}.Stop",
        "callbacks/Stop/patience": 3,
        "callbacks/Stop/monitor": "loss",
        "callbacks/Stop 2/class": f"{__name__}.Stop",
        "callbacks/Stop 2/patience": 5,
        "callbacks/Stop 2/monitor": "loss",
    }
    assert provenances["callbacks/Stop/patience"] == "default"
    assert provenances["callbacks/Stop 2/patience"] == "observed"
    assert found(Stop(7))[0]["callbacks/Stop/patience"] == 7


@pytest.mark.parametrize("trainer", [3, [], [3], SimpleNamespace()])
def test_what_is_no_trainer(trainer: Any) -> None:
    with pytest.raises(TypeError, match=r"^trainer is .*; allowed is Lightning's Trainer"):
        found(trainer)
