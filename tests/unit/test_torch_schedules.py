"""Schedules of any hyperparameter, per group, by name pattern, in the one checkpoint."""

from __future__ import annotations

import copy
import doctest
import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.optim import lr_scheduler

import pellucid
import pellucid.torch
import pellucid.torch.optimizer
from pellucid import SGD, AdamW, HyperparameterError, chain, clip_by_global_norm, ref, route
from pellucid.access.errors import UnknownNameError
from pellucid.schedules import Cosine, Exponential, Linear, WarmUp

Tensor = torch.Tensor


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder = torch.nn.Linear(3, 4)
        self.decoder = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 2))

    def forward(self, x: Any) -> Any:
        return self.decoder(torch.tanh(self.encoder(x)))


def train(net: Net, opt: Any, steps: int = 1) -> None:
    for step in range(steps):
        opt.zero_grad()
        x = torch.randn(4, 3, generator=torch.Generator().manual_seed(opt.updates + step))
        net(x).square().sum().backward()
        opt.step()


def same(one: Any, other: Any) -> None:
    torch.testing.assert_close(one, other, rtol=0, atol=0)


def groups_of(opt: Any) -> list[dict[str, Any]]:
    return [{k: v for k, v in group.items() if k != "params"} for group in opt.param_groups]


def test_a_running_optimizer_gets_a_schedule_for_a_part_of_a_group() -> None:
    net = Net()
    opt = pellucid.torch.AdamW(net, lr=0.01)
    train(net, opt, 3)
    opt.schedule("decoder.*/weight_decay", Linear(0.3, 0.0, 10), split=True, reason="fades")
    assert [len(group["params"]) for group in opt.param_groups] == [2, 4]
    assert opt.param_groups[1]["name"] == "decoder.*"
    seen = []
    for _ in range(4):
        train(net, opt)
        seen.append([group["weight_decay"] for group in opt.param_groups])
    wanted = Linear(0.3, 0.0, 10)
    assert seen == [[0.01, wanted(count)] for count in (3, 4, 5, 6)]
    entry = opt.journal[-1]
    assert (entry.step, entry.until, entry.reason) == (4, 7, "fades")
    assert entry.key == ("decoder.*", "weight_decay")
    opt.schedule("decoder.*/weight_decay", Linear(0.1, 0.2, 5), split=True)  # a group by now
    assert len(opt.param_groups) == 2
    opt.schedule("weight_decay", 0.05)
    train(net, opt)
    assert [group["weight_decay"] for group in opt.param_groups] == [0.05, 0.05]


def test_the_schedule_acts_as_if_written_in_the_constructor() -> None:
    schedule = WarmUp(3, Cosine(0.05, 12))
    net, other = Net(), Net()
    opt = pellucid.torch.AdamW(net)
    opt.schedule("*bias/lr", schedule, split=True)
    opt.schedule("*bias/betas", (Linear(0.5, 0.9, 10), 0.99))
    twin = pellucid.torch.AdamW(
        other,
        groups={"*bias": {"lr": schedule, "beta1": Linear(0.5, 0.9, 10), "beta2": 0.99}},
    )
    for _ in range(15):
        train(net, opt)
        train(other, twin)
        for one, two in zip(net.parameters(), other.parameters(), strict=True):
            same(one, two)


def test_without_split_a_part_of_a_group_is_refused() -> None:
    net = Net()
    opt = pellucid.torch.AdamW(net)
    train(net, opt)
    with pytest.raises(ValueError, match=r"names 4 of the 6 parameters of 'group 0'.*view\.split"):
        opt.schedule("decoder.*/weight_decay", Linear(0.3, 0.0, 10))
    assert len(opt.param_groups) == 1


CASES: list[tuple[str, Any, dict[str, Any], type[Exception], str]] = [
    ("decodr.*/lr", 0.1, {}, UnknownNameError, r"'decodr\.\*' is no optimizer, no group"),
    ("decoder.*/rate", 0.1, {}, UnknownNameError, "no hyperparameter or option 'rate'"),
    ("decoder.*/beta1", Linear(1.2, 0.5, 3), {}, HyperparameterError, "1.2"),
    ("decoder.*/beta1", 1.5, {}, HyperparameterError, "1.5"),
    ("decoder.*/beta1", "high", {}, HyperparameterError, "'high'"),
    ("decoder.*/betas", (0.9,), {}, HyperparameterError, "allowed are 2 values"),
    ("decoder.*/lr", 0.1, {"reason": 3}, TypeError, "reason is 3"),
    ("decoder.*/lr", ref("rate"), {}, Exception, "rate"),
    (3, 0.1, {}, TypeError, "a path is text"),  # type: ignore[list-item]
]


@pytest.mark.parametrize(("path", "value", "more", "kind", "match"), CASES)
def test_a_refusal_splits_nothing(
    path: str, value: Any, more: dict[str, Any], kind: type[Exception], match: str
) -> None:
    net = Net()
    opt = pellucid.torch.AdamW(net)
    train(net, opt)
    before, entries = groups_of(opt), len(opt.journal)
    with pytest.raises(kind, match=match):
        opt.schedule(path, value, split=True, **more)
    assert groups_of(opt) == before
    assert len(opt.journal) == entries
    train(net, opt)


def test_a_pattern_that_means_a_group_and_a_part_of_another() -> None:
    """Afterwards the path means the same parameters as before."""
    net, (one, other) = Net(), (torch.nn.Parameter(torch.ones(2)) for _ in range(2))
    groups = [
        {"params": list(net.encoder.named_parameters(prefix="encoder"))},
        {"params": list(net.decoder.named_parameters(prefix="encoder.more")), "lr": 0.2},
        {"params": [("encoder", one), ("head", other)]},
    ]
    opt = pellucid.torch.AdamW(groups)
    opt.schedule("encoder*/weight_decay", Linear(0.5, 0.0, 9), split=True)
    assert [group["weight_decay"] for group in opt.param_groups] == [0.5, 0.5, 0.01, 0.5]
    opt.schedule("encoder*/weight_decay", 0.25)
    assert [group["weight_decay"] for group in opt.param_groups] == [0.25, 0.25, 0.01, 0.25]


def test_a_scheduler_of_torch_learns_of_the_split() -> None:
    net = Net()
    opt = pellucid.torch.AdamW(net, lr=0.1)
    scheduler = lr_scheduler.ExponentialLR(opt, 0.5)
    train(net, opt)
    before = groups_of(opt)
    with pytest.raises(ValueError, match="scheduler"):
        opt.schedule("decoder.*/weight_decay", Linear(0.3, 0.0, 10), split=True)
    assert groups_of(opt) == before
    opt.schedule("decoder.*/weight_decay", Linear(0.3, 0.0, 10), split=True, scheduler=scheduler)
    for _ in range(3):
        train(net, opt)
        scheduler.step()
    assert [group["lr"] for group in opt.param_groups] == [0.0125, 0.0125]
    assert opt.param_groups[1]["weight_decay"] == Linear(0.3, 0.0, 10)(3)


# -- one checkpoint ----------------------------------------------------------------------------


def scheduled_in_groups(net: Net) -> Any:
    return pellucid.torch.AdamW(
        net,
        lr=WarmUp(4, Cosine(0.05, 30)),
        groups={
            "*.bias": {"weight_decay": Linear(0.2, 0.0, 20), "eps": Exponential(1e-4, 0.9, 1)},
            "decoder.*": {"beta2": Linear(0.9, 0.999, 25)},
        },
    )


def scheduled_in_stages(net: Net) -> Any:
    decoder = chain(clip_by_global_norm(Linear(2.0, 0.1, 20)), SGD(0.1, momentum=0.5))
    stage = route({"encoder.*": AdamW(Cosine(0.05, 30)), "*": decoder})
    return pellucid.torch.Optimizer(net, stage, groups={"*.0.*": {"momentum": Linear(0, 0.9, 12)}})


def scheduled_while_running(net: Net) -> Any:
    opt = pellucid.torch.AdamW(net, lr=0.05)
    opt.schedule("decoder.*/weight_decay", Linear(0.3, 0.0, 15), split=True)
    opt.schedule("encoder.bias/beta1", Linear(0.5, 0.9, 15), split=True)
    opt.schedule("lr", WarmUp(4, Cosine(0.05, 30)))
    return opt


MAKERS = [scheduled_in_groups, scheduled_in_stages, scheduled_while_running]


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("steps", [0, 1, 7])
def test_a_loaded_run_goes_on_bit_for_bit(make: Callable[[Net], Any], steps: int) -> None:
    net = Net()
    opt = make(net)
    train(net, opt, steps)
    file = io.BytesIO()
    torch.save({"model": net.state_dict(), "optimizer": opt.state_dict()}, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=True)
    fresh = Net()
    again = make(fresh)
    fresh.load_state_dict(loaded["model"])
    again.load_state_dict(loaded["optimizer"])
    for _ in range(12):
        train(net, opt)
        train(fresh, again)
        assert groups_of(opt) == groups_of(again)
        for one, two in zip(net.parameters(), fresh.parameters(), strict=True):
            same(one, two)
    assert opt.updates == again.updates == steps + 12
    same(list(opt.state.values()), list(again.state.values()))


def test_the_schedules_of_the_file_replace_those_of_the_script() -> None:
    """Also where the fresh optimizer has numbers, or other schedules."""
    net, fresh = Net(), Net()
    groups = {"decoder.*": {"weight_decay": Linear(0.3, 0.0, 15)}}
    opt = pellucid.torch.AdamW(net, lr=Cosine(0.05, 30), groups=groups)
    train(net, opt, 3)
    again = pellucid.torch.AdamW(fresh, lr=0.3, groups={"decoder.*": {"weight_decay": 0.5}})
    again.schedule("eps", Linear(1e-3, 1e-8, 3))
    fresh.load_state_dict(net.state_dict())
    again.load_state_dict(copy.deepcopy(opt.state_dict()))
    for _ in range(5):
        train(net, opt)
        train(fresh, again)
        assert groups_of(opt) == groups_of(again)
    for one, two in zip(net.parameters(), fresh.parameters(), strict=True):
        same(one, two)


def test_the_docstring_runs() -> None:
    schedule = pellucid.torch.optimizer.Optimizer.schedule
    (example,) = doctest.DocTestFinder(recurse=False).find(schedule, "schedule")
    assert doctest.DocTestRunner().run(example) == doctest.TestResults(0, 6)
