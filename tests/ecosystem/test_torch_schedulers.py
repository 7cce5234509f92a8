"""All schedulers of torch drive our groups as they drive torch's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.optim import lr_scheduler

import pellucid
import pellucid.torch
from ecosystem.training import assert_same, make_model, through_a_file, train

STEPS = 12
Make = Callable[[Any], Any]

SCHEDULERS: dict[str, Make] = {
    "LambdaLR": lambda o: lr_scheduler.LambdaLR(o, [lambda n: 0.9**n, lambda n: 1 / (n + 1)]),
    "MultiplicativeLR": lambda o: lr_scheduler.MultiplicativeLR(o, lambda n: 0.95),
    "StepLR": lambda o: lr_scheduler.StepLR(o, 4, 0.5),
    "MultiStepLR": lambda o: lr_scheduler.MultiStepLR(o, [3, 7], 0.5),
    "ConstantLR": lambda o: lr_scheduler.ConstantLR(o, 0.25, 5),
    "LinearLR": lambda o: lr_scheduler.LinearLR(o, 0.1, 1.0, 6),
    "ExponentialLR": lambda o: lr_scheduler.ExponentialLR(o, 0.9),
    "CosineAnnealingLR": lambda o: lr_scheduler.CosineAnnealingLR(o, 5, 1e-4),
    "CosineAnnealingWarmRestarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 3, 2),
    "PolynomialLR": lambda o: lr_scheduler.PolynomialLR(o, 10, 2.0),
    "CyclicLR": lambda o: lr_scheduler.CyclicLR(o, 1e-4, 1e-2, 3, mode="triangular2"),
    "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(o, [1e-2, 2e-2], total_steps=STEPS + 1),
    "SequentialLR": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.ConstantLR(o, 0.1, 3), lr_scheduler.ExponentialLR(o, 0.9)], [4]
    ),
    "ChainedScheduler": lambda o: lr_scheduler.ChainedScheduler(
        [lr_scheduler.ConstantLR(o, 0.1, 3), lr_scheduler.ExponentialLR(o, 0.9)]
    ),
    "ReduceLROnPlateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=1, factor=0.3),
}
"""Each of torch's schedulers; OneCycleLR and CyclicLR cycle beta1 or the momentum, too."""

OPTIMIZERS: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "AdamW": (pellucid.torch.AdamW, torch.optim.AdamW, {"weight_decay": 0.1}),
    "SGD": (pellucid.torch.SGD, torch.optim.SGD, {"momentum": 0.9, "nesterov": True}),
}
DRIVEN = ("lr", "betas", "momentum", "initial_lr", "max_lr", "min_lr", "base_momentum")


def groups_of(model: Any) -> list[dict[str, Any]]:
    return [{"params": [*model[0].parameters()]}, {"params": [*model[2].parameters()], "lr": 0.02}]


def stepping(scheduler: Any) -> Callable[[int], None]:
    metric = isinstance(scheduler, lr_scheduler.ReduceLROnPlateau)
    return lambda number: scheduler.step(*([1.0] if metric else []))


def run(make: Any, options: dict[str, Any], scheduler_of: Make) -> tuple[Any, Any, list[Any]]:
    """Two groups with rates of their own; what each step found in them."""
    model = make_model()
    optimizer = make(groups_of(model), lr=0.01, **options)
    advance = stepping(scheduler_of(optimizer))
    rows = []

    def after(number: int) -> None:
        groups = optimizer.param_groups
        rows.append([{key: one[key] for key in DRIVEN if key in one} for one in groups])
        advance(number)

    train(model, optimizer, range(STEPS), after)
    return model, optimizer, rows


def test_none_is_left_out() -> None:
    assert {*SCHEDULERS} == {*lr_scheduler.__all__} - {"LRScheduler"}


@pytest.mark.filterwarnings("ignore:The epoch parameter in `scheduler.step:UserWarning")
@pytest.mark.parametrize("rule", OPTIMIZERS)
@pytest.mark.parametrize("name", SCHEDULERS)
def test_same_rates_and_same_parameters(name: str, rule: str) -> None:
    ours, theirs, options = OPTIMIZERS[rule]
    model, optimizer, rows = run(ours, options, SCHEDULERS[name])
    other, reference, expected = run(theirs, options, SCHEDULERS[name])
    assert rows == expected
    assert len({str(row) for row in rows}) > 1  # it does drive something
    assert_same(model, other, rtol=2e-5, atol=1e-7)
    kept = [{key: one[key] for key in DRIVEN if key in one} for one in optimizer.param_groups]
    assert kept == [
        {key: one[key] for key in DRIVEN if key in one} for one in reference.param_groups
    ]


@pytest.mark.filterwarnings("ignore:The epoch parameter in `scheduler.step:UserWarning")
@pytest.mark.parametrize("name", SCHEDULERS)
def test_resumed_with_its_scheduler(name: str) -> None:
    """Optimizer and scheduler, saved in the midst and loaded into new ones, go on bit for bit."""
    model = make_model()
    begun = SCHEDULERS[name](optimizer := pellucid.torch.AdamW(groups_of(model), lr=0.01))
    train(model, optimizer, range(5), stepping(begun))
    again = make_model(1)
    again.load_state_dict(model.state_dict())
    other = pellucid.torch.AdamW(groups_of(again), lr=0.01)
    resumed = SCHEDULERS[name](other)
    other.load_state_dict(through_a_file(optimizer.state_dict()))
    resumed.load_state_dict(begun.state_dict())
    train(model, optimizer, range(5, STEPS), stepping(begun))
    train(again, other, range(5, STEPS), stepping(resumed))
    assert_same(model, again)
    rates = [[group["lr"] for group in one.param_groups] for one in (optimizer, other)]
    assert rates[0] == rates[1]


def test_the_journal_tells_who_wrote() -> None:
    model = make_model()
    optimizer = pellucid.torch.AdamW(model, lr=0.01)
    scheduler = lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=STEPS)
    train(model, optimizer, range(4), lambda number: scheduler.step())
    written = [one for one in pellucid.journal(optimizer) if one.source == "framework scheduler"]
    assert {one.name for one in written} == {"learning_rate", "beta1"}
