"""Hugging Face Accelerate: `prepare`, `accumulate`, clipping, `save_state` and `load_state`."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim import lr_scheduler

import pellucid
import pellucid.torch
from ecosystem.training import assert_same, batch, make_model
from pellucid.schedules import Linear

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import_module("torchvision_on_cpu")
    accelerate = import_module("accelerate")

CLOSE = {"rtol": 2e-5, "atol": 1e-6}
BATCHES = 8


def forget() -> None:
    """Accelerate keeps one state for all accelerators of a process."""
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
    accelerate.state.GradientState._reset_state()


@pytest.fixture(autouse=True)
def _forgotten() -> Iterator[None]:
    yield
    forget()


class Run:
    """A script as Accelerate's documentation has it."""

    def __init__(self, make: Any, seed: int = 0, clip: float = 0.0, **how: Any) -> None:
        forget()
        self.accelerator, self.clip = accelerate.Accelerator(cpu=True, **how), clip
        model = make_model(seed)
        optimizer = make(model)
        data = torch.utils.data.DataLoader([batch(n) for n in range(BATCHES)], batch_size=None)
        scheduler = lr_scheduler.StepLR(optimizer, 2, 0.5)
        prepared = self.accelerator.prepare(model, optimizer, data, scheduler)
        self.model, self.optimizer, self.data, self.scheduler = prepared

    @property
    def plain(self) -> Any:
        return self.accelerator.unwrap_model(self.model)

    def epoch(self) -> None:
        for inputs in self.data:
            with self.accelerator.accumulate(self.model):
                loss = (self.model(inputs).float() ** 2).mean()
                self.accelerator.backward(loss)
                if self.clip and self.accelerator.sync_gradients:
                    self.accelerator.clip_grad_norm_(self.model.parameters(), self.clip)
                self.optimizer.step()
                self.scheduler.step()
                self.optimizer.zero_grad()


def adamw(model: Any) -> Any:
    return pellucid.torch.AdamW(model.parameters(), lr=0.02)


def torchs(model: Any) -> Any:
    return torch.optim.AdamW(model.parameters(), lr=0.02)


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"clip": 0.05},
        {"gradient_accumulation_steps": 3},  # the last batches of an epoch are a step, too
        {"mixed_precision": "bf16"},
        {"step_scheduler_with_optimizer": False},
    ],
    ids=str,
)
def test_as_with_torchs_own(how: dict[str, Any]) -> None:
    ours = Run(adamw, **how)
    ours.epoch()
    theirs = Run(torchs, **how)
    theirs.epoch()
    assert_same(ours.plain, theirs.plain, **CLOSE)
    assert ours.scheduler.get_last_lr() == theirs.scheduler.get_last_lr()
    updates = -(-BATCHES // how.get("gradient_accumulation_steps", 1))
    assert ours.optimizer.optimizer.updates == updates


RULES: dict[str, Any] = {
    "AdamW": adamw,
    "AdamW by name": lambda model: pellucid.torch.AdamW(
        model, lr=0.02, groups={"*.bias": {"weight_decay": 0.0}}
    ),
    "a schedule of ours": lambda model: pellucid.torch.SGD(
        model, lr=0.1, momentum=Linear(0.9, 0.5, steps=20)
    ),
}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("safe", [True, False])
def test_saved_and_loaded(rule: str, safe: bool, tmp_path: Path) -> None:
    """A run that goes on from a folder ends as the run that wrote it, bit for bit."""
    whole = Run(RULES[rule])
    whole.epoch()
    whole.accelerator.save_state(str(tmp_path), safe_serialization=safe)
    whole.epoch()
    again = Run(RULES[rule], seed=1)
    again.accelerator.load_state(str(tmp_path))
    optimizer = again.optimizer.optimizer
    assert optimizer.updates == BATCHES
    again.epoch()
    assert_same(again.plain, whole.plain)
    journals = [pellucid.journal(run.optimizer) for run in (whole, again)]
    assert journals[0].at(2 * BATCHES) == journals[1].at(2 * BATCHES)
    assert again.scheduler.get_last_lr() == whole.scheduler.get_last_lr()


def test_a_view_of_what_was_prepared() -> None:
    run = Run(adamw)
    run.epoch()
    view = pellucid.view(run.optimizer, scheduler=run.scheduler)
    view["lr"] = 0.1
    assert run.optimizer.param_groups[0]["lr"] == 0.1
    run.epoch()
    assert run.optimizer.optimizer.updates == 2 * BATCHES
