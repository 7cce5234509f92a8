"""Constructor arguments of losses and schedulers: found, captured, or listed as missing."""

from __future__ import annotations

from typing import Any

import torch

import pellucid
from pellucid.run.collecting import collect
from pellucid.run.record import Record


def optimizer() -> torch.optim.Optimizer:
    return torch.optim.SGD(torch.nn.Linear(2, 2).parameters(), lr=0.1, momentum=0.9)


def below(record: Record) -> dict[str, tuple[Any, str]]:
    """The loss's values and provenances."""
    return {
        path.removeprefix("loss/"): (one.value, one.provenance)
        for path, one in record.entries.items()
        if path.startswith("loss/")
    }


class Focal(torch.nn.Module):
    def __init__(self, alpha: float, gamma: float = 2.0) -> None:
        super().__init__()
        self.alpha = alpha


def test_arguments_that_a_loss_does_not_keep_are_missed() -> None:
    record = collect(loss=Focal(0.5))
    assert below(record)["alpha"] == (0.5, "observed")
    [why] = [one.why for one in record.missing if one.path == "loss/gamma"]
    assert "Focal keeps no 'gamma': put @pellucid.capture above the class" in why
    with pellucid.capture():
        loss = Focal(0.5)
    assert below(collect(loss=loss)) == {
        "class": ("test_collect_arguments.Focal", "observed"),
        "alpha": (0.5, "declared"),
        "gamma": (2.0, "default"),
    }


def test_a_tensor_that_a_loss_has() -> None:
    record = collect(loss=torch.nn.CrossEntropyLoss(weight=torch.ones(3)))
    assert record["loss/weight"]["shape"] == [3]
    assert not [one for one in record.missing if one.path.startswith("loss")]


def test_a_scheduler_that_ends_has_the_curve_until_then() -> None:
    made = torch.optim.lr_scheduler.OneCycleLR(optimizer(), max_lr=1.0, total_steps=7)
    record = collect(scheduler=made)
    assert record["scheduler/curve"]["steps"] == list(range(8))  # torch allows one more
    lost = {one.path for one in record.missing}
    assert {"scheduler/max_lr", "scheduler/pct_start", "scheduler/div_factor"} <= lost


def test_what_a_scheduler_keeps_for_each_group() -> None:
    schedulers = torch.optim.lr_scheduler
    assert collect(scheduler=schedulers.ReduceLROnPlateau(optimizer(), min_lr=0.1))[
        "scheduler/min_lr"
    ] == 0.1  # fmt: skip
    cyclic = schedulers.CyclicLR(optimizer(), 0.1, 1.0, cycle_momentum=False)
    assert collect(scheduler=cyclic)["scheduler/max_lr"] == 1.0


@pellucid.capture
def train(rate: float, steps: int = 3) -> None:
    """A function of the user's."""


def test_what_a_function_was_given_is_declared() -> None:
    train(0.1)
    record = collect()
    at = f"functions/{__name__}:train"
    assert (record.entry(f"{at}/rate").value, record.entry(f"{at}/rate").provenance) == (
        0.1, "declared",
    )  # fmt: skip
    assert record.entry(f"{at}/steps").provenance == "default"
