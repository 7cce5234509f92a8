"""Views of optimizers that are not ours: torch's own, strangers', wrapped ones, several."""

from __future__ import annotations

import copy
import gc
import json
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import pellucid
from pellucid import HyperparameterError
from pellucid.access import UnknownNameError
from pellucid.schedules import Linear


def model() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2))


def train(net: nn.Module, optimizer: Any, steps: int = 1, seed: int = 0) -> None:
    """Steps with gradients that depend on the number of the step alone."""
    for number in range(steps):
        torch.manual_seed(seed + number)
        optimizer.zero_grad()
        (net(torch.randn(5, 4)) ** 2).sum().backward()
        optimizer.step()


def flat(net: nn.Module) -> torch.Tensor:
    return torch.cat([param.detach().flatten() for param in net.parameters()])


def made(kind: str = "AdamW", **kwargs: Any) -> tuple[nn.Sequential, Any, Any]:
    net = model()
    optimizer = getattr(torch.optim, kind)(net.parameters(), **kwargs)
    return net, optimizer, pellucid.view(optimizer, model=net)


# -- reading -----------------------------------------------------------------------------------


def test_names() -> None:
    net, optimizer, view = made(betas=(0.8, 0.95))
    assert view["lr"] == view["learning_rate"] == view["AdamW/learning_rate"] == 0.001
    assert view["betas"] == (0.8, 0.95)
    assert view["betas[1]"] == view["beta2"] == view["group 0/beta2"] == view["2.*/beta2"] == 0.95
    assert view["foreach"] is None
    train(net, optimizer)
    assert view.state["0.weight/first_moment"] is optimizer.state[net[0].weight]["exp_avg"]
    assert view.state["2.bias/exp_avg_sq"] is optimizer.state[net[2].bias]["exp_avg_sq"]
    found = view.variables()
    assert found["AdamW/epsilon"] == 1e-8
    assert found["0.weight/first_moment"] is optimizer.state[net[0].weight]["exp_avg"]
    assert len(found) == 12 + 4 * 3
    assert json.loads(view.to_json())["groups"][0]["values"]["beta1"] == 0.8
    assert "0.weight" in str(view.tree())


def test_names_without_a_model() -> None:
    net = model()
    view = pellucid.view(torch.optim.SGD(net.named_parameters(), lr=0.1))
    assert view["2.weight/lr"] == 0.1
    plain = pellucid.view(torch.optim.SGD(net.parameters(), lr=0.1))
    assert plain["param_2/lr"] == 0.1


def test_values_that_differ_and_strange_ones() -> None:
    net = model()
    groups: list[dict[str, Any]] = [
        {"params": net[0].parameters(), "lr": 0.5, "name": "first"},
        {"params": net[2].parameters(), "scale": torch.tensor(0.25), "nothing": None,
         "function": len, "mixed": (1, "a"), "object": {"a": 1}, 7: "no text"},
    ]  # fmt: skip
    optimizer = torch.optim.SGD(groups, lr=0.1)
    view = pellucid.view(optimizer, model=net)
    assert view["lr"] == {"first/learning_rate": 0.5, "group 1/learning_rate": 0.1}
    assert view["scale"] == 0.25
    assert view["nothing"] is None
    assert view["mixed"] == (1, "a")
    assert view["object"] == {"a": 1}
    assert str(view)
    json.loads(view.to_json())
    view["scale"] = 0.75
    assert optimizer.param_groups[1]["scale"].item() == 0.75  # the tensor stays
    view["mixed[0]"] = 2
    assert optimizer.param_groups[1]["mixed"] == (2, "a")
    view["nothing"] = 0.3
    with pytest.raises(HyperparameterError, match="allowed is text"):
        view["mixed[1]"] = 5


def test_state_of_any_form() -> None:
    net, optimizer, view = made("SGD", lr=0.1)
    held = optimizer.state[net[0].weight]
    held["Q"] = [torch.ones(2), {"inner": torch.zeros(3)}]
    held["step"], held["object"] = 4, object()
    optimizer.state["all"] = {"count": 1}
    assert view.state["0.weight/Q[0]"] is held["Q"][0]
    assert view.state["0.weight/Q[1].inner"] is held["Q"][1]["inner"]
    assert view.state["SGD/all.count"] == 1
    view.state["0.weight/Q[1].inner"] = 2.0
    assert held["Q"][1]["inner"].tolist() == [2.0] * 3
    view.state["0.weight/step"] = 9
    assert held["step"] == 9
    with pytest.raises(TypeError):
        view.state["0.weight/object"] = 1
    with pytest.raises(ValueError, match="whole number"):
        view.state["0.weight/step"] = 1.5
    assert str(view)
    assert str(view.tree())
    json.loads(view.to_json())
    assert view.to_dict()["updates"] == 9


# -- writing -----------------------------------------------------------------------------------

CHANGES: list[tuple[str, str, Any, dict[str, Any]]] = [
    ("SGD", "learning_rate", 0.03, {"lr": 0.03}),
    ("SGD", "momentum", 0.7, {"momentum": 0.7}),
    ("SGD", "nesterov", True, {"momentum": 0.9, "nesterov": True}),
    ("AdamW", "betas", (0.5, 0.6), {"betas": (0.5, 0.6)}),
    ("AdamW", "beta2", 0.6, {"betas": (0.9, 0.6)}),
    ("AdamW", "amsgrad", True, {"amsgrad": True}),
    ("RMSprop", "centered", True, {"centered": True}),
    ("Adadelta", "rho", 0.5, {"rho": 0.5}),
    ("Rprop", "eta_plus", 1.5, {"etas": (0.5, 1.5)}),
]


@pytest.mark.parametrize(("kind", "path", "value", "arguments"), CHANGES)
def test_a_write_is_what_the_next_step_uses(
    kind: str, path: str, value: Any, arguments: dict[str, Any]
) -> None:
    begun = {key: arguments[key] for key in ("momentum",) if "nesterov" in arguments}
    net, optimizer, view = made(kind, **begun)
    other, twin, _ = made(kind, **arguments)
    view[path] = value
    train(net, optimizer, 4)
    train(other, twin, 4)
    assert torch.equal(flat(net), flat(other))


@pytest.mark.parametrize(("kind", "path", "slot"), [
    ("AdamW", "amsgrad", "max_exp_avg_sq"), ("Adam", "amsgrad", "max_exp_avg_sq"),
    ("RMSprop", "centered", "grad_avg"), ("RMSprop", "momentum", "momentum_buffer"),
])  # fmt: skip
def test_what_needs_a_slot_that_is_not_there(kind: str, path: str, slot: str) -> None:
    net, optimizer, view = made(kind)
    train(net, optimizer, 2)
    view[path] = True if path != "momentum" else 0.5
    train(net, optimizer, 2)  # torch's class alone would raise a KeyError
    assert optimizer.state[net[0].weight][slot].abs().sum() > 0


BAD: list[tuple[str, Any, type[Exception], str]] = [
    ("lr", float("nan"), HyperparameterError, "finite"),
    ("lr", -1.0, HyperparameterError, "allowed is a finite number and >= 0"),
    ("lr", "fast", HyperparameterError, "allowed is a number"),
    ("lr", None, HyperparameterError, "allowed is a number"),
    ("beta1", 1.0, HyperparameterError, "< 1"),
    ("betas", (0.5,), HyperparameterError, "allowed are 2 values"),
    ("amsgrad", 1.0, HyperparameterError, "True or False"),
    ("lr", lambda step: 0.1, TypeError, "calls no schedule"),
    ("0.weight/lr", 0.1, ValueError, r"view.split\('0.weight'\)"),
    ("weight_dekay", 0.1, UnknownNameError, "did you mean 'weight_decay'"),
    ("first_moment", 0.1, UnknownNameError, "it is state"),
]


@pytest.mark.parametrize(("path", "value", "error", "says"), BAD)
def test_bad_input_changes_nothing(
    path: str, value: Any, error: type[Exception], says: str
) -> None:
    net, optimizer, view = made()
    train(net, optimizer)
    before = repr(optimizer.param_groups)
    with pytest.raises(error, match=says):
        view[path] = value
    with pytest.raises(TypeError, match="reason"):
        view.set("lr", 0.1, reason=3)
    assert repr(optimizer.param_groups) == before
    assert len(view.journal) == 0


def test_of_several_values_all_or_none() -> None:
    net = model()
    shared = torch.tensor(0.1)
    groups = [{"params": net[0].parameters(), "lr": shared}, {"params": net[2].parameters()}]
    optimizer = torch.optim.SGD(groups, lr=shared, foreach=False)
    view = pellucid.view(optimizer, model=net)
    with pytest.raises(ValueError, match="holds too"):
        view["group 0/lr"] = 0.5
    assert shared.item() == pytest.approx(0.1)
    view["lr"] = 0.5
    assert shared.item() == 0.5


def test_override_and_schedulers() -> None:
    net, optimizer, view = made("SGD", lr=0.4)
    with view.override("lr", 0.0, reason="probe"):
        assert optimizer.param_groups[0]["lr"] == 0.0
    assert optimizer.param_groups[0]["lr"] == 0.4
    assert [change.reason for change in view.journal] == ["probe", "end of override: probe"]
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    with pytest.raises(ValueError, match="scheduler="):
        view["lr"] = 0.1
    with_it = pellucid.view(optimizer, scheduler=scheduler)
    with_it["lr"] = 0.1
    train(net, optimizer)
    scheduler.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.05)
    assert "ExponentialLR" in str(with_it)


def test_what_drives_a_value() -> None:
    _, optimizer, view = made("SGD", lr=0.4)
    assert view.schedule("lr") is None
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    assert view.schedule("lr") == "an LR scheduler"
    assert pellucid.view(optimizer, scheduler=scheduler).schedule("lr") is scheduler
    assert view.schedule("momentum") is None


def test_variables_before_the_first_step() -> None:
    import pellucid.numpy

    net = model()
    for optimizer in (pellucid.torch.AdamW(net, amsgrad=True), pellucid.torch.ASGD(net)):
        before = pellucid.view(optimizer).variables()
        assert not optimizer.state
        train(net, optimizer)
        after = pellucid.view(optimizer).variables()
        assert set(before) == set(after)
        for name, value in before.items():
            if "moment" in name:
                assert not value.any()
                assert value.shape == after[name].shape
    plain = pellucid.numpy.Optimizer({"w": net[0].weight.detach().numpy()}, pellucid.Adam())
    assert pellucid.view(plain).variables()["w/first_moment"].shape == (3, 4)
    assert not plain.state


# -- groups and state --------------------------------------------------------------------------


@pytest.mark.parametrize("ours", [False, True])
def test_split(ours: bool) -> None:
    net, other = model(), model()
    if ours:
        optimizer: Any = pellucid.torch.AdamW(net, lr=Linear(0.1, 0.2, 9))
        twin: Any = pellucid.torch.AdamW(other, lr=Linear(0.1, 0.2, 9))
    else:
        optimizer = torch.optim.AdamW(net.parameters(), lr=0.1)
        twin = torch.optim.AdamW(other.parameters(), lr=0.1)
    view = pellucid.view(optimizer, model=net)
    train(net, optimizer, 2)
    train(other, twin, 2)
    assert view.split("*.bias") == ("*.bias",)
    assert view.groups == ("group 0", "*.bias")
    train(net, optimizer, 2, seed=7)
    train(other, twin, 2, seed=7)
    assert torch.equal(flat(net), flat(other))  # a split alone changes nothing
    view["*.bias/weight_decay"] = 0.5
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.01, 0.5]
    train(net, optimizer, 1)
    train(other, twin, 1)
    assert torch.equal(net[0].weight, other[0].weight)
    assert not torch.equal(net[0].bias, other[0].bias)
    with pytest.raises(ValueError, match="whole groups already"):
        view.split("*.bias")
    with pytest.raises(UnknownNameError, match="did you mean"):
        view.split("0.weigth")
    assert len(view.split("0.*")) == 2
    assert view["0.weight/weight_decay"] == 0.01


def test_the_journal_follows_a_split() -> None:
    net = model()
    optimizer = pellucid.torch.AdamW(net, lr=Linear(0.1, 0.2, 10))
    view = pellucid.view(optimizer)
    used = []
    for number in range(6):
        if number == 2:
            view.split("*.bias")
        if number == 4:
            view["*.bias/lr"] = 0.01
        train(net, optimizer)
        used.append([group["lr"] for group in optimizer.param_groups])
    for number, rates in enumerate(used):
        found = view.journal.at(number + 1)
        names = ["group 0/learning_rate", "*.bias/learning_rate"]
        assert [found[name] for name in names if name in found] == rates


def test_split_of_numpys() -> None:
    import numpy as np

    params = {name: np.ones(3) for name in ("a.w", "a.b", "c.w")}
    import pellucid.numpy

    optimizer = pellucid.numpy.Optimizer(params, pellucid.Adam(0.1))
    view = pellucid.view(optimizer)
    grads = {name: np.full(3, 0.5) for name in params}
    optimizer.step(grads)
    assert view.split("a.*") == ("a.*",)
    view["a.*/learning_rate"] = 0.0
    before = {name: param.copy() for name, param in params.items()}
    optimizer.step(grads)
    assert (params["a.w"] == before["a.w"]).all()
    assert (params["c.w"] != before["c.w"]).all()


def test_split_tells_the_scheduler() -> None:
    net, optimizer, view = made("SGD", lr=0.4)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5**step)
    with pytest.raises(ValueError, match="scheduler="):
        view.split("*.bias")
    assert len(optimizer.param_groups) == 1
    pellucid.view(optimizer, model=net, scheduler=scheduler).split("*.bias")
    train(net, optimizer)
    scheduler.step()
    assert [group["lr"] for group in optimizer.param_groups] == [0.2, 0.2]


@pytest.mark.parametrize("kind", ["SGD", "AdamW", "RMSprop", "Adagrad", "Rprop", "ASGD"])
@pytest.mark.parametrize("ours", [False, True])
def test_reset_is_a_new_beginning(kind: str, ours: bool) -> None:
    """After a reset of all state training goes on as with a new optimizer."""
    arguments = {"lr": 0.01, **({"momentum": 0.9} if kind == "SGD" else {})}
    classes: Any = pellucid.torch if ours else torch.optim
    net = model()
    optimizer = getattr(classes, kind)(net.parameters(), **arguments)
    train(net, optimizer, 3)
    other = model()
    other.load_state_dict(net.state_dict())
    twin = getattr(classes, kind)(other.parameters(), **arguments)
    pellucid.view(optimizer, model=net).reset("*")
    train(net, optimizer, 3)
    train(other, twin, 3)
    assert torch.equal(flat(net), flat(other))


@pytest.mark.parametrize("ours", [False, True])
def test_reset_of_one_slot(ours: bool) -> None:
    net = model()
    optimizer: Any = (pellucid.torch if ours else torch.optim).AdamW(net.named_parameters())
    view = pellucid.view(optimizer)
    with pytest.raises((ValueError, UnknownNameError)):
        view.reset("0.weight/exp_avg")
    train(net, optimizer, 2)
    second = view.state["0.weight/second_moment"].clone()
    view.reset("0.*/first_moment")
    left = optimizer.state[net[0].weight].get("exp_avg")
    assert left is None or not left.any()
    assert torch.equal(view.state["0.weight/second_moment"], second)
    assert view.state["2.weight/first_moment"].any()
    train(net, optimizer)
    with pytest.raises((ValueError, UnknownNameError)):
        view.reset("0.weight/nothing")


# -- the journal -------------------------------------------------------------------------------


def test_journal_of_another_optimizer(tmp_path: Path) -> None:
    net, optimizer, view = made("AdamW", lr=0.1)
    journal = pellucid.journal(optimizer, file=tmp_path / "run.jsonl")
    assert pellucid.journal(optimizer) is journal
    train(net, optimizer, 2)
    optimizer.param_groups[0]["lr"] = 0.2  # found before step 3
    train(net, optimizer, 1)
    view.set("weight_decay", 0.3, reason="overfits")  # step 4
    train(net, optimizer, 1)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
    for _ in range(3):
        train(net, optimizer)
        scheduler.step()
    train(net, optimizer)  # step 8
    saved = optimizer.state_dict()
    optimizer.param_groups[0]["weight_decay"] = 0.9
    optimizer.load_state_dict(saved)
    found = [(one.step, one.name, one.source, one.reason) for one in journal]
    assert found == [
        (3, "learning_rate", "direct write", ""),
        (4, "weight_decay", "view", "overfits"),
        (6, "learning_rate", "framework scheduler", ""),
        (9, "weight_decay", "direct write", ""),
        (9, "weight_decay", "load", ""),
    ]
    assert [journal.at(step)["group 0/learning_rate"] for step in range(1, 9)] == [
        0.1, 0.1, 0.2, 0.2, 0.2, 0.1, 0.05, 0.025
    ]  # fmt: skip
    again = type(journal).from_file(tmp_path / "run.jsonl")
    assert again.at(7) == journal.at(7)
    assert [str(one) for one in again] == [str(one) for one in journal]


@pytest.mark.parametrize("ours", [False, True])
def test_plateaus_are_told_from_direct_writes(ours: bool) -> None:
    net = model()
    optimizer: Any = (pellucid.torch if ours else torch.optim).SGD(net.parameters(), lr=0.4)
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, factor=0.5)
    journal = pellucid.journal(optimizer, scheduler=plateau)
    for _ in range(3):
        train(net, optimizer)
        plateau.step(1.0)
    train(net, optimizer)
    assert {change.source for change in journal} == {"framework scheduler"}


def test_journal_of_a_rate_that_is_a_tensor() -> None:
    net = model()
    rate = torch.tensor(0.1)
    optimizer = torch.optim.AdamW(net.parameters(), lr=rate)
    journal = pellucid.journal(optimizer)
    train(net, optimizer, 2)
    rate.fill_(0.2)
    train(net, optimizer)
    train(net, optimizer)
    optimizer.param_groups[0]["lr"] = torch.tensor(0.3)
    train(net, optimizer)
    assert [(one.step, one.source) for one in journal] == [(3, "direct write"), (5, "direct write")]
    assert journal.at(5)["group 0/learning_rate"] == pytest.approx(0.3)


def test_a_rate_that_is_written_at_each_step_is_one_entry() -> None:
    net = model()
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.1)
    journal = pellucid.journal(optimizer)
    for number in range(20):
        optimizer.param_groups[0]["lr"] = 0.1 / (1 + number)
        train(net, optimizer)
    (one,) = journal
    assert (one.step, one.until, one.source) == (2, 20, "direct write")
    assert [journal.at(n + 1)["group 0/learning_rate"] for n in range(20)] == [
        0.1 / (1 + number) for number in range(20)
    ]
    with pytest.raises(ValueError, match="no update 21"):
        journal.at(21)


def resumed(path: Path, kind: str, before: bool) -> Any:
    """Ten steps with a change at the sixth, a checkpoint, and another process that goes on."""
    net, first, view = made(kind, lr=0.1)
    pellucid.journal(first, file=path)
    train(net, first, 5)
    view["lr"] = 0.05
    train(net, first, 5)
    saved = copy.deepcopy(first.state_dict())
    other, second, _ = made(kind, lr=0.1)
    if before:
        journal = pellucid.journal(second, file=path)
    second.load_state_dict(saved)
    if not before:
        journal = pellucid.journal(second, file=path)
    train(other, second, 1)
    return journal


@pytest.mark.parametrize("kind", ["AdamW", "SGD", "RMSprop"])
@pytest.mark.parametrize("before", [False, True])
def test_a_file_is_continued(tmp_path: Path, kind: str, before: bool) -> None:
    """Whether it is opened before the checkpoint is loaded, or after."""
    journal = resumed(tmp_path / "run.jsonl", kind, before)
    assert [(one.step, one.new, one.abandoned) for one in journal] == [(6, 0.05, False)]
    assert journal.at(5)["group 0/learning_rate"] == 0.1
    assert journal.at(7)["group 0/learning_rate"] == 0.05


def test_a_load_of_a_class_without_a_count_keeps_the_history() -> None:
    net, optimizer, view = made("SGD", lr=0.1, momentum=0.9)
    journal = pellucid.journal(optimizer)
    train(net, optimizer, 3)
    view["lr"] = 0.05
    train(net, optimizer, 2)
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    view["lr"] = 0.01
    train(net, optimizer)
    assert [(one.step, one.abandoned) for one in journal] == [(4, False), (6, False)]
    assert [journal.at(n)["group 0/learning_rate"] for n in (3, 4, 6)] == [0.1, 0.05, 0.01]


def test_steps_that_a_scaler_skips_are_not_counted() -> None:
    net = model()
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.1, fused=True)
    pellucid.journal(optimizer)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    for number in range(5):
        optimizer.zero_grad()
        scaler.scale((net(torch.randn(5, 4)) ** 2).sum()).backward()
        if number in (1, 3):
            net[0].weight.grad.fill_(torch.inf)
        scaler.step(optimizer)
        scaler.update()
    assert pellucid.view(optimizer).to_dict()["updates"] == 3
    assert optimizer.state[net[0].weight]["step"] == 3


def test_values_inside_lists_and_renamed_groups() -> None:
    net, optimizer, _ = made("AdamW")
    optimizer.param_groups[0]["betas"] = [0.9, 0.99]
    journal = pellucid.journal(optimizer)
    train(net, optimizer)
    optimizer.param_groups[0]["betas"][0] = 0.5
    train(net, optimizer)
    assert journal.at(2)["group 0/beta1"] == 0.5
    optimizer.param_groups[0]["name"] = "all"
    train(net, optimizer)
    assert "all/beta1" in journal.at(3)
    assert "group 0/beta1" not in journal.at(3)
    assert "group 0/beta1" in journal.at(2)
    groups = [{"params": [p], "name": n} for p, n in zip(net.parameters(), ["x", "x (2)", "x", ""],
                                                         strict=True)]  # fmt: skip
    assert len(set(pellucid.view(torch.optim.SGD(groups)).groups)) == 4


def test_closures_give_no_false_alarm() -> None:
    net = model()
    optimizer = torch.optim.LBFGS(net.parameters())
    pellucid.journal(optimizer)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = (net(torch.ones(5, 4)) ** 2).sum()
        loss.backward()
        return loss

    optimizer.zero_grad()
    optimizer.step(closure)
    assert kinds(optimizer, net) == set()


def test_the_journal_keeps_nothing_alive() -> None:
    net, optimizer, view = made()
    pellucid.journal(optimizer)
    gone = weakref.ref(optimizer)
    del optimizer, view
    train(net, torch.optim.SGD(net.parameters(), lr=0.1))
    gc.collect()
    assert gone() is None


def test_a_stranger_without_hooks() -> None:
    class Stranger:
        def __init__(self, params: Any) -> None:
            self.param_groups = [{"params": list(params), "lr": 0.1}]
            self.state: dict[Any, Any] = {}

    stranger = Stranger(model().parameters())
    view = pellucid.view(stranger)
    assert view["learning_rate"] == 0.1
    with pytest.raises(TypeError, match="journal cannot be attached to Stranger"):
        pellucid.journal(stranger)


# -- several, wrapped --------------------------------------------------------------------------


def test_several() -> None:
    net = model()
    first = torch.optim.SGD(net[0].parameters(), lr=0.1, momentum=0.9)
    second = pellucid.torch.AdamW(net[2].named_parameters(), lr=0.2)
    view = pellucid.view([first, second], model=net)
    assert view.groups == ("SGD/group 0", "AdamW/group 0")
    assert view["SGD/lr"] == view["0.*/lr"] == 0.1
    with pytest.raises(HyperparameterError):
        view["lr"] = -1.0
    assert first.param_groups[0]["lr"] == 0.1
    view["lr"] = 0.3
    assert (first.param_groups[0]["lr"], second.param_groups[0]["lr"]) == (0.3, 0.3)
    train(net, first)
    assert view.state["0.weight/velocity"] is first.state[net[0].weight]["momentum_buffer"]
    assert [change.group for change in view.journal] == ["SGD/group 0", "AdamW/group 0"]
    twins = pellucid.view([first, torch.optim.SGD(net[2].parameters(), lr=0.5)])
    assert twins["SGD 1/lr"] == 0.5
    assert str(twins)
    with pytest.raises(ValueError, match="empty list"):
        pellucid.view([])


@pytest.mark.parametrize("name", ["optimizer", "_optimizer"])
def test_wrapped(name: str) -> None:
    class Wrapper:
        def __init__(self, inner: Any) -> None:
            setattr(self, name, inner)

    _, optimizer, _ = made("SGD", lr=0.1)
    view = pellucid.view(Wrapper(optimizer))
    view["lr"] = 0.2
    assert optimizer.param_groups[0]["lr"] == 0.2
    assert view.optimizer is optimizer


# -- warnings ----------------------------------------------------------------------------------


def kinds(optimizer: Any, net: Any = None) -> set[str]:
    return {one.kind for one in pellucid.view(optimizer, model=net).warnings()}


@pytest.mark.parametrize("ours", [False, True])
def test_a_healthy_run_has_no_warnings(ours: bool) -> None:
    for kind in ("SGD", "AdamW", "RMSprop", "Adagrad"):
        net = model()
        optimizer = getattr(pellucid.torch if ours else torch.optim, kind)(net.parameters())
        assert kinds(optimizer, net) == set()
        train(net, optimizer, 3)
        optimizer.zero_grad()
        assert kinds(optimizer, net) == set()


WRONG: dict[str, Callable[[nn.Sequential, Any], Any]] = {
    "range": lambda net, opt: opt.param_groups[0].update(lr=30.0),
    "frozen": lambda net, opt: net[0].bias.requires_grad_(False),
    "untouched": lambda net, opt: opt.state.pop(net[0].bias),
    "unknown": lambda net, opt: net.append(nn.Linear(2, 2)),
    "still": lambda net, opt: opt.param_groups[0].update(lr=0.0),
    "twice": lambda net, opt: opt.param_groups[0]["params"].append(net[0].bias),
}


@pytest.mark.parametrize("kind", WRONG)
def test_warnings(kind: str) -> None:
    net, optimizer, _ = made("AdamW")
    train(net, optimizer, 2)
    WRONG[kind](net, optimizer)
    assert kinds(optimizer, net) == {kind}
    (one, *_) = pellucid.view(optimizer, model=net).warnings()
    shown = " ".join(str(pellucid.view(optimizer, model=net)).split())
    assert f"! {one}" in shown


@pytest.mark.parametrize("ours", [False, True])
def test_steps_without_gradients_and_a_load(ours: bool) -> None:
    net = model()
    optimizer: Any = (pellucid.torch if ours else torch.optim).SGD(net.parameters(), lr=0.1)
    view = pellucid.view(optimizer, model=net)
    pellucid.journal(optimizer)
    optimizer.step()
    assert kinds(optimizer, net) == {"still"}
    train(net, optimizer)
    assert kinds(optimizer, net) == set()
    saved = optimizer.state_dict()
    optimizer.param_groups[0]["lr"] = 0.2
    optimizer.load_state_dict(saved)
    (one,) = view.warnings()
    assert one.kind == "load"
    assert "0.2" in str(one)


# -- what the next step would not use ----------------------------------------------------------


def test_a_tensor_of_its_own() -> None:
    net = model()
    shared = torch.tensor(0.1)
    groups = [{"params": net[0].parameters()}, {"params": net[2].parameters()}]
    optimizer = torch.optim.SGD(groups, lr=shared, foreach=False)
    view = pellucid.view(optimizer, model=net)
    view["group 0/lr"] = torch.tensor(0.5)
    assert view["lr"] == {
        "group 0/learning_rate": 0.5, "group 1/learning_rate": pytest.approx(0.1)
    }  # fmt: skip


def test_asgd_uses_a_rate_at_once() -> None:
    net, optimizer, view = made("ASGD")
    train(net, optimizer, 3)
    view["lr"] = 0.0
    before = flat(net)
    train(net, optimizer)
    assert torch.equal(flat(net), before)


NO_EFFECT: list[tuple[str, str, Any, str]] = [
    ("Rprop", "lr", 0.5, "first update only"),
    ("Adagrad", "initial_accumulator_value", 5.0, "constructed only"),
    ("SGD", "nesterov", True, "momentum above 0"),
    ("AdamW", "capturable", True, "next step would fail"),
]


@pytest.mark.parametrize(("kind", "path", "value", "says"), NO_EFFECT)
def test_what_would_do_nothing_is_refused(kind: str, path: str, value: Any, says: str) -> None:
    net, optimizer, view = made(kind)
    train(net, optimizer)
    before = repr(optimizer.param_groups)
    with pytest.raises(ValueError, match=says):
        view[path] = value
    assert repr(optimizer.param_groups) == before


@pytest.mark.parametrize("ours", [False, True])
def test_override_over_a_load_and_a_split(ours: bool) -> None:
    net = model()
    optimizer: Any = (pellucid.torch if ours else torch.optim).AdamW(net.named_parameters(), lr=0.1)
    view = pellucid.view(optimizer)
    train(net, optimizer)
    with view.override("lr", 0.0):
        optimizer.load_state_dict(optimizer.state_dict())
    assert view["lr"] == 0.1
    with view.override("lr", 0.2):
        view.split("0.weight")
    assert view["lr"] == 0.1
    with pytest.raises(TypeError, match="reason"), view.override("lr", 0.5, reason=0):  # type: ignore[arg-type]
        pass
    assert view["lr"] == 0.1


class Sub(torch.optim.AdamW):
    """A class of a user's."""


OUT_OF_BOUNDS: list[tuple[Any, str, Any]] = [
    (Sub, "lr", -5.0), (Sub, "beta1", 5.0), (torch.optim.SparseAdam, "betas", (0.5, 2.5)),
    (torch.optim.Muon, "momentum", -1.0), (torch.optim.LBFGS, "lr", -1.0),
    (torch.optim.LBFGS, "max_iter", -3), (torch.optim.LBFGS, "history_size", 2.5),
    (torch.optim.LBFGS, "line_search_fn", 3), (torch.optim.Adafactor, "d", -1.0),
    (torch.optim.AdamW, "foreach", 3), (torch.optim.AdamW, "fused", "no"),
    (torch.optim.AdamW, "lr", 10**400),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "path", "value"), OUT_OF_BOUNDS)
def test_bounds_of_classes_without_a_catalogue_entry(kind: Any, path: str, value: Any) -> None:
    optimizer = kind([torch.nn.Parameter(torch.ones(2, 2))])
    before = repr(optimizer.param_groups)
    with pytest.raises(HyperparameterError, match="allowed is"):
        pellucid.view(optimizer)[path] = value
    assert repr(optimizer.param_groups) == before


def test_what_is_none_can_be_so_again() -> None:
    optimizer = torch.optim.LBFGS([torch.nn.Parameter(torch.ones(2))])
    view = pellucid.view(optimizer)
    for value in ("strong_wolfe", None):
        view["line_search_fn"] = value
        assert optimizer.param_groups[0]["line_search_fn"] == value
    view["history_size"] = 50.0
    assert type(optimizer.param_groups[0]["history_size"]) is int
    with pytest.raises(ValueError, match="cannot be split"):
        pellucid.view(torch.optim.LBFGS(list(model().parameters()))).split("param_0")


def test_a_rate_that_is_a_whole_number_and_an_array() -> None:
    class Stranger(torch.optim.Optimizer):
        def __init__(self, params: Any, lr: Any = 2) -> None:
            super().__init__(params, {"lr": lr, "big": torch.ones(3)})

    view = pellucid.view(Stranger(model().parameters()))
    assert not view.warnings()  # its author's own default
    view["lr"] = 0.25
    assert view["lr"] == 0.25
    with pytest.raises(HyperparameterError, match="of shape"):
        view["big"] = torch.ones(2)
    assert not view.warnings()


def test_an_assignment_of_the_same_value_is_no_change() -> None:
    _, _, view = made("AdamW", lr=0.1)
    view["lr"] = 0.1
    assert len(view.journal) == 0


def test_a_scheduled_resume_is_as_it_is_meant() -> None:
    net, optimizer, _ = made("AdamW", lr=0.1)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10)
    pellucid.journal(optimizer)
    for _ in range(4):
        train(net, optimizer)
        scheduler.step()
    saved = copy.deepcopy(optimizer.state_dict())
    other, second, _ = made("AdamW", lr=0.1)
    torch.optim.lr_scheduler.CosineAnnealingLR(second, 10)
    pellucid.journal(second)
    second.load_state_dict(saved)
    assert kinds(second, other) == set()


def test_a_schedule_that_no_checkpoint_holds() -> None:
    optimizer = pellucid.torch.AdamW(model(), lr=lambda step: 0.1)
    assert kinds(optimizer) == {"unsaved"}


def test_a_load_of_an_earlier_state_abandons_what_came_after() -> None:
    net, optimizer, view = made("AdamW", lr=0.1)
    journal = pellucid.journal(optimizer)
    train(net, optimizer, 2)
    saved = copy.deepcopy(optimizer.state_dict())
    train(net, optimizer, 2)
    view["weight_decay"] = 0.5  # at step 5
    train(net, optimizer)
    optimizer.load_state_dict(saved)
    train(net, optimizer)
    found = [(one.step, one.source, one.abandoned) for one in journal]
    assert (5, "view", True) in found
    assert journal.at(3)["group 0/weight_decay"] == 0.01
    with pytest.raises(ValueError, match="no update 4"):
        journal.at(4)


def test_a_direct_write_before_one_through_the_view_is_on_record() -> None:
    net, optimizer, view = made("AdamW", lr=0.1)
    pellucid.journal(optimizer)
    optimizer.param_groups[0]["lr"] = 0.2
    view["lr"] = 0.3
    train(net, optimizer)
    assert [(one.old, one.new, one.source) for one in view.journal] == [
        (0.1, 0.2, "direct write"), (0.2, 0.3, "view")
    ]  # fmt: skip


def test_a_reset_of_adagrad_begins_where_its_constructor_does() -> None:
    net = model()
    optimizer = torch.optim.Adagrad(net.parameters(), lr=0.01, initial_accumulator_value=0.5)
    train(net, optimizer, 2)
    pellucid.view(optimizer, model=net).reset("*")
    assert optimizer.state[net[0].weight]["sum"].unique().tolist() == [0.5]
    assert optimizer.state[net[0].weight]["step"] == 0


def test_torchs_names_of_state_in_numpy() -> None:
    import numpy as np

    import pellucid.numpy

    optimizer = pellucid.numpy.Optimizer({"w": np.ones(2)}, pellucid.Adam())
    optimizer.step({"w": np.ones(2)})
    state = pellucid.view(optimizer).state
    assert state["w/exp_avg"] is optimizer.state["w"]["first_moment"]
    with pytest.raises(UnknownNameError):
        state["w/momentum_buffer"]


def test_a_tuple_of_another_length_and_another_value_at_once() -> None:
    optimizer = torch.optim.SGD([{"params": model().parameters(), "pair": (1.0, 2.0)}], lr=0.1)
    journal = pellucid.journal(optimizer)
    optimizer.param_groups[0].update(pair=(1.0, 2.0, 3.0), lr=0.2, weight_decay=0.5)
    optimizer.step()
    optimizer.step()
    assert sorted((one.name, one.new) for one in journal) == [
        ("learning_rate", 0.2), ("weight_decay", 0.5)
    ]  # fmt: skip


def test_arguments_of_a_wrong_kind(tmp_path: Path) -> None:
    net, optimizer, view = made("AdamW")
    with pytest.raises(TypeError, match="pattern is 3; allowed is text"):
        view.split(3)  # type: ignore[arg-type]
    with pytest.raises(OSError, match="nowhere"):  # now, and not in the first step
        pellucid.journal(optimizer, file=tmp_path / "nowhere" / "run.jsonl")
    train(net, optimizer)
    with pytest.raises(TypeError, match="step is 'x'; allowed is the number"):
        pellucid.journal(optimizer).at("x")  # type: ignore[arg-type]
    assert len(optimizer.param_groups) == 1
