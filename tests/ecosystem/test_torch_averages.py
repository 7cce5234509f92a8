"""torch.optim.swa_utils: averaged models beside our optimizer, and the rate that goes with them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler, swa_utils

import pellucid
import pellucid.torch
from ecosystem.training import assert_same, batch, make_model, through_a_file, train

CLOSE = {"rtol": 2e-5, "atol": 1e-7}


def averaged(make: Any) -> tuple[nn.Module, Any, Any]:
    """As torch's documentation has it: from half the run on average, at a rate of its own."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))
    optimizer = make(model.parameters(), lr=0.05, momentum=0.9)
    average = swa_utils.AveragedModel(model)
    cosine = lr_scheduler.CosineAnnealingLR(optimizer, T_max=10)
    swa = swa_utils.SWALR(optimizer, anneal_epochs=3, swa_lr=0.01)

    def after(number: int) -> None:
        if number >= 5:
            average.update_parameters(model)
            swa.step()
        else:
            cosine.step()

    train(model, optimizer, range(10), after)
    swa_utils.update_bn([batch(number) for number in range(10)], average)
    return model, average, optimizer


def test_stochastic_weight_averages() -> None:
    model, average, optimizer = averaged(pellucid.torch.SGD)
    other, expected, reference = averaged(torch.optim.SGD)
    assert_same(model, other, **CLOSE)
    assert_same(average, expected, **CLOSE)
    assert int(average.n_averaged) == 5
    rates = [one.param_groups[0] for one in (optimizer, reference)]
    assert rates[0]["lr"] == rates[1]["lr"] == 0.01
    assert rates[0]["swa_lr"] == 0.01
    source = {one.source for one in pellucid.journal(optimizer) if one.name == "learning_rate"}
    assert "framework scheduler" in source


@pytest.mark.parametrize("foreach", [True, False])
def test_moving_averages(foreach: bool) -> None:
    """Averages in the optimizer's own pass are those of torch's averaged model."""
    decay = 0.9
    model = make_model()
    stage = pellucid.chain(pellucid.AdamW(0.01), pellucid.average_weights(decay))
    optimizer = pellucid.torch.Optimizer(model, stage)
    function = (
        {"multi_avg_fn": swa_utils.get_ema_multi_avg_fn(decay)}
        if foreach
        else {"avg_fn": swa_utils.get_ema_avg_fn(decay)}
    )
    average = swa_utils.AveragedModel(model, **function)
    train(model, optimizer, range(6), lambda number: average.update_parameters(model))
    slots = [optimizer.state[param] for param in model.parameters()]
    for slot, expected in zip(slots, average.module.parameters(), strict=True):
        torch.testing.assert_close(slot["average_weights.average"], expected.detach(), **CLOSE)


def test_the_averaged_model_may_be_trained_on() -> None:
    """An optimizer over a copy of the model that torch's utility holds."""
    model = make_model()
    train(model, pellucid.torch.SGD(model, lr=0.1), range(3))
    average = swa_utils.AveragedModel(model)
    optimizer = pellucid.torch.SGD(average, lr=0.1)
    assert optimizer.param_groups[0]["param_names"][0] == "module.0.weight"
    train(average, optimizer, range(3, 6))
    train(model, pellucid.torch.SGD(model, lr=0.1), range(3, 6))
    assert_same(average.module, model)
    again = swa_utils.AveragedModel(make_model(1))
    again.load_state_dict(through_a_file(average.state_dict()))
    assert_same(again, average)
