"""What each of two processes of a data-parallel run does; `test_torch_distributed` compares."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.nn.parallel import DistributedDataParallel

import pellucid.torch
from ecosystem.training import batch, make_model, through_a_file
from pellucid.schedules import Cosine

__all__ = ["RANKS", "SCENARIOS", "Forked", "run_rank", "shard", "sharded_steps"]

RANKS = 2
RATE = Cosine(0.02, steps=10)


class Forked(nn.Module):
    """Two heads of which a batch uses one, by its number."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.heads = nn.ModuleList([nn.Linear(4, 2), nn.Linear(4, 2)])

    def forward(self, inputs: torch.Tensor, head: int) -> Any:
        return self.heads[head](inputs)


def shard(number: int, rank: int) -> torch.Tensor:
    """A rank's part of a batch."""
    return batch(number)[rank::RANKS]


def sharded_steps(model: Any, optimizer: Any, rank: int, numbers: range) -> None:
    for number in numbers:
        optimizer.zero_grad()
        (model(shard(number, rank)) ** 2).mean().backward()
        optimizer.step()


def plain(rank: int, folder: Path) -> nn.Module:
    """Gradients that are views into the buckets that are sent; a schedule of ours."""
    model = DistributedDataParallel(make_model(rank), gradient_as_bucket_view=True)
    optimizer = pellucid.torch.AdamW(model, lr=RATE)
    assert optimizer.param_groups[0]["param_names"][0] == "module.0.weight"
    sharded_steps(model, optimizer, rank, range(5))
    found: nn.Module = model.module
    return found


def clipped(rank: int, folder: Path) -> nn.Module:
    """With the global norm clipped in the step, of gradients that are already averaged."""
    model = DistributedDataParallel(make_model())
    stage = pellucid.chain(pellucid.clip_by_global_norm(0.01), pellucid.SGD(1.0, momentum=0.9))
    sharded_steps(model, pellucid.torch.Optimizer(model, stage), rank, range(5))
    found: nn.Module = model.module
    return found


def unused(rank: int, folder: Path) -> nn.Module:
    model = DistributedDataParallel(Forked(), find_unused_parameters=True)
    optimizer = pellucid.torch.AdamW(model, lr=0.01)
    for number in range(5):
        optimizer.zero_grad()
        (model(shard(number, rank), number % 2) ** 2).mean().backward()
        optimizer.step()
    found: nn.Module = model.module
    return found


def accumulated(rank: int, folder: Path) -> nn.Module:
    model = DistributedDataParallel(make_model())
    optimizer = pellucid.torch.AdamW(model, lr=RATE)
    for number in range(0, 6, 2):
        optimizer.zero_grad()
        with model.no_sync():
            (model(shard(number, rank)) ** 2).mean().backward()
        (model(shard(number + 1, rank)) ** 2).mean().backward()
        optimizer.step()
    found: nn.Module = model.module
    return found


def zero(rank: int, folder: Path) -> nn.Module:
    """State divided among the ranks; gathered on the first, saved, and gone on with."""
    from torch.distributed.optim import ZeroRedundancyOptimizer  # which warns of torch.jit

    pairs = []
    for bucket_view in (False, True):
        torch.manual_seed(0)
        model = DistributedDataParallel(make_model())
        optimizer = ZeroRedundancyOptimizer(
            model.parameters(), pellucid.torch.AdamW, parameters_as_bucket_view=bucket_view, lr=0.01
        )
        pairs.append((model, optimizer))
        sharded_steps(model, optimizer, rank, range(3))
    (model, optimizer), (_, other) = pairs
    own = {id(param) for group in optimizer.optim.param_groups for param in group["params"]}
    assert 0 < len(own) < 4
    optimizer.consolidate_state_dict(to=0)
    sent = [optimizer.state_dict() if rank == 0 else None]
    dist.broadcast_object_list(sent, src=0)
    other.load_state_dict(through_a_file(sent[0]))
    for pair in pairs:
        sharded_steps(*pair, rank, range(3, 5))
    for one, two in zip(*(pair[0].parameters() for pair in pairs), strict=True):
        assert torch.equal(one, two)
    found: nn.Module = model.module
    return found


def saved(rank: int, folder: Path) -> nn.Module:
    """A checkpoint that both ranks write."""
    model = DistributedDataParallel(make_model())
    optimizer = pellucid.torch.AdamW(model, lr=RATE)
    sharded_steps(model, optimizer, rank, range(3))
    its = get_state_dict(model, optimizer)
    torch.distributed.checkpoint.save(
        {"model": its[0], "optimizer": its[1]}, checkpoint_id=folder / "checkpoint"
    )
    sharded_steps(model, optimizer, rank, range(3, 5))
    found: nn.Module = model.module
    return found


def flattened(rank: int, folder: Path) -> nn.Module:
    """Parameters flattened and divided by FSDP; on from its state dicts, bit for bit."""
    from torch.distributed.fsdp import FullyShardedDataParallel

    def begun(seed: int, whole: bool) -> tuple[Any, Any]:
        device = torch.device("cpu")
        model = FullyShardedDataParallel(
            make_model(seed), use_orig_params=whole, device_id=device
        )
        return model, pellucid.torch.AdamW(model, lr=RATE)

    for whole in (False, True):
        model, optimizer = begun(0, whole)
        sharded_steps(model, optimizer, rank, range(3))
        its = copy.deepcopy(get_state_dict(model, optimizer))
        again, other = begun(1, whole)
        set_state_dict(again, other, model_state_dict=its[0], optim_state_dict=its[1])
        for pair in ((model, optimizer), (again, other)):
            sharded_steps(*pair, rank, range(3, 5))
        for one, two in zip(model.parameters(), again.parameters(), strict=True):
            assert torch.equal(one, two)
    found = make_model()
    with FullyShardedDataParallel.summon_full_params(model):
        for param, full in zip(found.parameters(), model.parameters(), strict=True):
            param.data.copy_(full)
    return found


SCENARIOS: dict[str, Callable[[int, Path], nn.Module]] = {
    one.__name__: one for one in (plain, clipped, unused, accumulated, zero, flattened, saved)
}


def refuse_dtensors() -> None:
    """DTensors are refused when the optimizer is made."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    model = make_model()
    fully_shard(model, mesh=init_device_mesh("cpu", (RANKS,)))
    with pytest.raises(TypeError, match=r"'0\.weight' is a DTensor.* FullyShardedDataParallel"):
        pellucid.torch.AdamW(model, lr=0.01)


def run_rank(rank: int, folder: Path) -> None:
    """All scenarios, one after the other; their parameters and errors go into a file."""
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=RANKS)
    try:
        found = {name: run(rank, folder).state_dict() for name, run in SCENARIOS.items()}
        refuse_dtensors()
        torch.save(found, folder / f"{rank}.pt")
    finally:
        dist.destroy_process_group()
