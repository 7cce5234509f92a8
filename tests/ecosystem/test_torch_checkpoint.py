"""torch.distributed.checkpoint: its state dicts, and folders that it writes and reads."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    get_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
    set_state_dict,
)

import pellucid
import pellucid.torch
from ecosystem.training import assert_same, loss_of, make_model, through_a_file, train
from pellucid.schedules import Cosine

pytestmark = pytest.mark.filterwarnings(
    "ignore:torch.distributed is disabled, unavailable or uninitialized:UserWarning"
)
NO_DECAY = {"*.bias": {"weight_decay": 0.0}}
RATE = Cosine(0.02, steps=10)
RULES: dict[str, Any] = {
    "AdamW": lambda model: pellucid.torch.AdamW(model, lr=RATE, groups=NO_DECAY),
    "AdamW of numbers": lambda model: pellucid.torch.AdamW(model, lr=0.02, groups=NO_DECAY),
    "AMSGrad": lambda model: pellucid.torch.AdamW(model, lr=RATE, amsgrad=True),
    "momentum": lambda model: pellucid.torch.SGD(model, lr=0.02, momentum=0.9),
    "SGD": lambda model: pellucid.torch.SGD(model, lr=0.02),
    "Rprop": lambda model: pellucid.torch.Rprop(model, lr=0.02),
    "chain": lambda model: pellucid.torch.Optimizer(
        model,
        pellucid.chain(
            pellucid.clip_by_global_norm(1.0), pellucid.RAdam(RATE), pellucid.average_weights(0.9)
        ),
    ),
}
FLAT = pytest.mark.parametrize("flat", [False, True])
OF_RULES = pytest.mark.parametrize("rule", RULES)


def options_of(flat: bool) -> StateDictOptions:
    return StateDictOptions(flatten_optimizer_state_dict=flat)


def begun(rule: str, seed: int = 0, steps: int = 0) -> tuple[Any, Any]:
    model = make_model(seed)
    optimizer = RULES[rule](model)
    train(model, optimizer, range(steps))
    return model, optimizer


def assert_same_state(one: tuple[Any, Any], other: tuple[Any, Any]) -> None:
    for first, second in zip(one[0].parameters(), other[0].parameters(), strict=True):
        slots, expected = one[1].state[first], other[1].state[second]
        assert {*slots} == {*expected}
        assert all(torch.equal(slots[name], expected[name]) for name in slots)


def assert_goes_on_alike(one: tuple[Any, Any], other: tuple[Any, Any], first: int) -> None:
    """Four more steps give the same bits, from the same values."""
    assert_same(one[0], other[0])
    for model, optimizer in (one, other):
        train(model, optimizer, range(first, first + 4))
    assert_same(one[0], other[0])
    groups = [
        [{key: held for key, held in group.items() if key != "params"} for group in groups]
        for groups in (one[1].param_groups, other[1].param_groups)
    ]
    assert groups[0] == groups[1]
    assert_same_state(one, other)


@FLAT
@OF_RULES
def test_its_state_dicts(rule: str, flat: bool) -> None:
    options = options_of(flat)
    model, optimizer = begun(rule, steps=3)
    saved = through_a_file(get_optimizer_state_dict(model, optimizer, options=options))
    again, other = begun(rule, seed=1)
    set_model_state_dict(again, through_a_file(get_model_state_dict(model)))
    set_optimizer_state_dict(again, other, saved, options=options)
    assert_goes_on_alike((model, optimizer), (again, other), 3)


@FLAT
@OF_RULES
def test_a_folder(rule: str, flat: bool, tmp_path: Path) -> None:
    """Saved by one run, read in place into the state that a new one was asked for."""
    options = options_of(flat)
    model, optimizer = begun(rule, steps=3)
    its = get_state_dict(model, optimizer, options=options)
    dcp.save({"model": its[0], "optimizer": its[1]}, checkpoint_id=tmp_path)
    again, other = begun(rule, seed=1)
    mine = get_state_dict(again, other, options=options)
    assert other.updates == 0
    dcp.load({"model": mine[0], "optimizer": mine[1]}, checkpoint_id=tmp_path)
    set_state_dict(
        again, other, model_state_dict=mine[0], optim_state_dict=mine[1], options=options
    )
    assert_goes_on_alike((model, optimizer), (again, other), 3)


@FLAT
@OF_RULES
def test_a_run_that_is_saved_is_not_touched(rule: str, flat: bool) -> None:
    """Before its first step, and after each: also where a rule has no state."""
    model, optimizer = begun(rule)
    plain, reference = begun(rule)
    for number in range(4):
        get_optimizer_state_dict(model, optimizer, options=options_of(flat))
        assert optimizer.updates == number
        assert all(param.grad is None for param in model.parameters())
        train(model, optimizer, range(number, number + 1))
        train(plain, reference, range(number, number + 1))
        assert_same(model, plain)
    assert [*pellucid.journal(optimizer)] == [*pellucid.journal(reference)]
    assert_goes_on_alike((model, optimizer), (plain, reference), 4)


@OF_RULES
def test_a_run_that_is_saved_before_its_first_step(rule: str) -> None:
    model, optimizer = begun(rule)
    saved = through_a_file(get_optimizer_state_dict(model, optimizer))
    again, other = begun(rule, seed=1)
    again.load_state_dict(through_a_file(model.state_dict()))
    set_optimizer_state_dict(again, other, saved)
    assert other.updates == 0
    train(again, other, range(4))
    train(model, optimizer, range(4))
    assert_same(again, model)


def test_a_real_first_step_at_a_rate_of_zero_counts() -> None:
    """As with torch's own class: only torch.distributed.checkpoint's wish for state does not."""
    pairs = []
    for make in (pellucid.torch.AdamW, torch.optim.AdamW):
        model = make_model()
        optimizer = make(model.parameters(), lr=0.0)
        for param in model.parameters():
            param.grad = torch.zeros_like(param)
        optimizer.step()
        optimizer.param_groups[0]["lr"] = 0.01
        train(model, optimizer, range(3))
        pairs.append((model, optimizer.state[model[0].weight]["step"]))
    assert pairs[0][1] == pairs[1][1] == 4
    assert_same(pairs[0][0], pairs[1][0], rtol=2e-5, atol=1e-7)


@FLAT
def test_what_is_ours_alone_goes_beside(flat: bool, tmp_path: Path) -> None:
    """Schedules, the journal and the count of updates of a rule that counts none itself."""
    options = options_of(flat)
    model = make_model()
    optimizer = pellucid.torch.SGD(model, lr=RATE, momentum=0.9)
    train(model, optimizer, range(3))
    pellucid.view(optimizer).set("momentum", 0.8, reason="late")
    train(model, optimizer, range(3, 5))
    its = get_state_dict(model, optimizer, options=options)
    own = json.dumps(optimizer.state_dict()["pellucid"])
    saved = {"model": its[0], "optimizer": its[1], "pellucid": own}
    dcp.save(saved, checkpoint_id=tmp_path)

    again = make_model(1)
    other = pellucid.torch.SGD(again, lr=0.5, momentum=0.9)  # the file has the schedule
    mine = get_state_dict(again, other, options=options)
    loaded = {"model": mine[0], "optimizer": mine[1], "pellucid": ""}
    dcp.load(loaded, checkpoint_id=tmp_path)
    set_state_dict(
        again, other, model_state_dict=mine[0], optim_state_dict=mine[1], options=options
    )
    other.load_state_dict({**other.state_dict(), "pellucid": json.loads(loaded["pellucid"])})
    assert other.updates == 5
    assert pellucid.journal(other).at(4) == pellucid.journal(optimizer).at(4)
    assert [*pellucid.journal(other)][:2] == [*pellucid.journal(optimizer)]
    assert_goes_on_alike((model, optimizer), (again, other), 5)


def test_several_optimizers() -> None:
    pairs = []
    for seed in (0, 1):
        model = make_model(seed)
        one = pellucid.torch.AdamW(model[0].named_parameters(), lr=RATE)
        two = pellucid.torch.SGD(model[2].named_parameters(), lr=0.1, momentum=0.9)
        pairs.append((model, (one, two)))

    def steps(model: Any, optimizers: Any, numbers: range) -> None:
        for number in numbers:
            model.zero_grad()
            loss_of(model, number).backward()
            for optimizer in optimizers:
                optimizer.step()

    steps(*pairs[0], range(3))
    saved = through_a_file(get_state_dict(*pairs[0]))
    set_state_dict(*pairs[1], model_state_dict=saved[0], optim_state_dict=saved[1])
    for pair in pairs:
        steps(*pair, range(3, 6))
    assert_same(pairs[0][0], pairs[1][0])


def test_between_torchs_class_and_ours() -> None:
    """What torch.distributed.checkpoint has of one is what it has of the other."""
    model = make_model()
    theirs = torch.optim.AdamW(model.named_parameters(), lr=0.01)
    train(model, theirs, range(3))
    again = make_model(1)
    again.load_state_dict(through_a_file(model.state_dict()))
    ours = pellucid.torch.AdamW(again.named_parameters(), lr=0.5)
    set_optimizer_state_dict(
        again, ours, through_a_file(get_optimizer_state_dict(model, theirs))
    )
    train(model, theirs, range(3, 6))
    train(again, ours, range(3, 6))
    assert_same(again, model, rtol=2e-5, atol=1e-7)


def test_names_of_wrapped_models() -> None:
    """Saved with a compiled model, loaded into one that is not: its functions drop the prefix."""
    model = torch.compile(make_model(), backend="eager")
    optimizer = pellucid.torch.AdamW(model, lr=RATE)
    train(model, optimizer, range(3))
    saved = through_a_file(get_optimizer_state_dict(model, optimizer))
    assert "0.weight" in saved["state"]
    again = make_model(1)
    again.load_state_dict(through_a_file(model._orig_mod.state_dict()))
    other = pellucid.torch.AdamW(again, lr=RATE)
    set_optimizer_state_dict(again, other, saved)
    train(model, optimizer, range(3, 6))
    train(again, other, range(3, 6))
    assert_same(model._orig_mod, again, rtol=1e-6, atol=1e-7)


def test_as_the_readme_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    (section,) = re.findall(r"^### Works with\n(.*?)(?=^##)", readme, re.M | re.S)
    (code,) = re.findall(r"```python\n(.*?)```", section, re.S)
    saving, loading = code.split("\n\n")
    names = {"json": json, "dcp": dcp, "get_state_dict": get_state_dict}
    model = make_model()
    optimizer = pellucid.torch.SGD(model, lr=RATE, momentum=0.9)
    train(model, optimizer, range(3))
    exec(saving, {**names, "model": model, "opt": optimizer})
    again = make_model(1)
    other = pellucid.torch.SGD(again, lr=0.5, momentum=0.9)
    mine = get_state_dict(again, other)
    state = {"model": mine[0], "optimizer": mine[1], "pellucid": ""}
    scope = {**names, "set_state_dict": set_state_dict, "model": again, "opt": other}
    exec(loading, {**scope, "state": state})
    assert other.updates == 3
    assert_goes_on_alike((model, optimizer), (again, other), 3)
