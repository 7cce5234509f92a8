"""Data-parallel training in two processes that exchange gradients by gloo, on the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

import pellucid.torch
from ecosystem import ranks
from ecosystem.training import assert_same, batch, make_model, train

CLOSE = {"rtol": 2e-5, "atol": 1e-6}


def whole(name: str) -> torch.nn.Module:
    """One process with the whole batch."""
    if name == "unused":
        model: Any = ranks.Forked()
        optimizer = pellucid.torch.AdamW(model, lr=0.01)
        for number in range(5):
            optimizer.zero_grad()
            (model(batch(number), number % 2) ** 2).mean().backward()
            optimizer.step()
        return model
    model = make_model()
    if name == "clipped":
        stage = pellucid.chain(pellucid.clip_by_global_norm(0.01), pellucid.SGD(1.0, momentum=0.9))
        train(model, pellucid.torch.Optimizer(model, stage), range(5))
    elif name == "accumulated":
        optimizer = pellucid.torch.AdamW(model, lr=ranks.RATE)
        for number in range(0, 6, 2):
            optimizer.zero_grad()
            for one in (number, number + 1):
                (model(batch(one)) ** 2).mean().backward()
            optimizer.step()
    else:
        rate = 0.01 if name == "zero" else ranks.RATE
        train(model, pellucid.torch.AdamW(model, lr=rate), range(5))
    return model


def resumed(folder: Path) -> torch.nn.Module:
    """The checkpoint of two ranks, gone on with in one process."""
    model = make_model(1)
    optimizer = pellucid.torch.AdamW(model, lr=ranks.RATE)
    its = get_state_dict(model, optimizer)
    dcp.load({"model": its[0], "optimizer": its[1]}, checkpoint_id=folder / "checkpoint")
    set_state_dict(model, optimizer, model_state_dict=its[0], optim_state_dict=its[1])
    assert optimizer.updates == 3
    train(model, optimizer, range(3, 5))
    return model


@pytest.mark.filterwarnings(
    "ignore:torch.distributed is disabled, unavailable or uninitialized:UserWarning"
)
def test_two_ranks(tmp_path: Path) -> None:
    """Both end bit-equal, and as one process with the whole batch; one spawn for all scenarios."""
    torch.multiprocessing.spawn(ranks.run_rank, (tmp_path,), nprocs=ranks.RANKS)
    one, two = (torch.load(tmp_path / f"{rank}.pt") for rank in range(ranks.RANKS))
    assert [*one] == [*two] == [*ranks.SCENARIOS]
    for name in ranks.SCENARIOS:
        assert [*one[name]] == [*two[name]]
        for key in one[name]:
            assert torch.equal(one[name][key], two[name][key]), (name, key)
        model = ranks.Forked() if name == "unused" else make_model()
        model.load_state_dict(one[name])
        assert_same(model, whole(name), **CLOSE)
    model = make_model()
    model.load_state_dict(one["saved"])
    assert_same(resumed(tmp_path), model, **CLOSE)
