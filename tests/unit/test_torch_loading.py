"""Checkpoints of torch optimizers load by name, whole or not at all, and keep their dtypes."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import rich.console
import torch
from checkpoints import (
    NAMES,
    Params,
    copied,
    equal,
    held,
    in_order,
    made,
    pairs,
    snapshot,
    through_a_file,
    trained,
)  # fmt: skip
from hypothesis import given, settings
from hypothesis import strategies as st

import pellucid
import pellucid.torch
from pellucid import SGD, Adam, Lion, average_weights, chain, clip_by_global_norm, route
from pellucid.ops import norm
from pellucid.rule import Rule, hyper, slot
from pellucid.schedules import Cosine, Linear
from pellucid.torch.matching import unwrapped

# -- what is saved -----------------------------------------------------------------------------


def constructions(params: Params) -> dict[str, Any]:
    """Every way to give parameters with their names."""
    make = pellucid.torch
    model = torch.nn.Module()
    for name, param in params.items():
        inner = model
        for part in name.split(".")[:-1]:
            if not hasattr(inner, part):
                inner.add_module(part, torch.nn.Module())
            inner = getattr(inner, part)
        inner.register_parameter(name.rpartition(".")[2], param)  # type: ignore[arg-type]
    later = make.Adam(pairs(params, ["a.weight"]))
    later.add_param_group({"params": pairs(params, [n for n in params if n != "a.weight"])})
    return {
        "a model": make.Adam(model),
        "a compiled model": make.Adam(torch.compile(model, backend="eager")),
        "a rule": make.Optimizer(model, Lion()),
        "pairs": make.Adam(pairs(params)),
        "a generator": make.Adam(model.named_parameters()),
        "group dicts": make.Adam([{"params": pairs(params, ["scale"])},
                                  {"params": pairs(params, [n for n in params if n != "scale"])}]),
        "param_names": make.Adam([{"params": list(params.values()), "param_names": [*params]}]),
        "patterns": make.Adam(model, groups={"*.bias": {"weight_decay": 0.1}}),
        "a route": make.Optimizer(model, route({"a.*": SGD(), "*": chain(Adam())})),
        "added later": later,
    }  # fmt: skip


def test_state_dicts_have_the_names_however_they_were_given() -> None:
    for how, optimizer in constructions(made()).items():
        saved = optimizer.state_dict()
        found = [name for group in saved["param_groups"] for name in group["param_names"]]
        assert sorted(map(unwrapped, found)) == sorted(NAMES), how
        assert found == [entry.name for entry in optimizer.entries], how
        for group in saved["param_groups"]:
            assert len(group["param_names"]) == len(group["params"]), how
        report = optimizer.load_state_dict(saved)
        assert (report.by, report.ok, report.missing, report.dropped) == ("name", True, (), ())
    unnamed = pellucid.torch.Adam(made().values())
    assert all("param_names" not in group for group in unnamed.state_dict()["param_groups"])
    assert unnamed.load_state_dict(unnamed.state_dict()).by == "position"


def test_names_follow_what_is_done_to_the_groups_by_hand() -> None:
    """Torch would write the names that the group was made with, beside fewer parameters."""
    params = made()
    optimizer = pellucid.torch.Adam(pairs(params))
    optimizer.param_groups[0]["params"].reverse()
    moved = optimizer.param_groups[0]["params"].pop()
    optimizer.param_groups.append({**optimizer.param_groups[0], "params": [moved]})
    del optimizer.param_groups[1]["param_names"]
    trained(optimizer, params, 2)
    groups = optimizer.state_dict()["param_groups"]
    assert [group["param_names"] for group in groups] == [
        ["scale", "b.bias", "b.weight", "a.bias"],
        ["a.weight"],
    ]
    other = pellucid.torch.Adam(pairs(made()))
    assert other.load_state_dict(optimizer.state_dict()).by == "name"
    assert equal(held(other), {name: held(optimizer)[name] for name in NAMES})


def test_what_version_2_adds() -> None:
    params = made()
    stage = chain(clip_by_global_norm(1.0), Adam(), average_weights(0.9))
    optimizer = pellucid.torch.Optimizer(pairs(params), stage)
    trained(optimizer, {"a.bias": params["a.bias"]}, 1)
    own = through_a_file(optimizer.state_dict())["pellucid"]
    assert own["version"] == 2
    (group,) = own["groups"]
    assert group["rule"] == "pellucid.rules.adam:Adam"
    assert [path.rpartition(":")[2] for path in group["stages"]] == [
        type(one).__name__ for one in optimizer.controls[0].pipeline.stages
    ]
    assert group["names"]["beta1"] == "betas[0]"
    assert group["names"]["average_weights.decay"] == "average_weights.decay"
    names = ["exp_avg", "exp_avg_sq", "max_exp_avg_sq", "average_weights.average"]
    assert group["slots"] == names
    wanted = {"step", "exp_avg", "exp_avg_sq", "average_weights.average"}
    assert {key: set(slots) for key, slots in own["slots"].items()} == {1: wanted}


# -- by name -----------------------------------------------------------------------------------

SPLITS: dict[str, list[list[str]]] = {
    "as it was": [[*NAMES]],
    "reversed": [[*reversed(NAMES)]],
    "two groups": [["scale", "a.weight"], ["b.bias", "b.weight", "a.bias"]],
    "one each": [[name] for name in NAMES],
}


def arranged(rule: str, params: Params, split: Sequence[Sequence[str]], **values: Any) -> Any:
    groups = [{"params": pairs(params, names)} for names in split]
    return getattr(pellucid.torch, rule)(groups, **values)


@pytest.mark.parametrize("rule", ["AdamW", "SGD", "Rprop", "NAdam", "Lion"])
@pytest.mark.parametrize("before", SPLITS)
@pytest.mark.parametrize("after", SPLITS)
def test_order_and_groups_may_differ(rule: str, before: str, after: str) -> None:
    """Training goes on bit for bit, as it does in the optimizer that was saved."""
    values = {"lr": 0.03, "momentum": 0.9} if rule == "SGD" else {"lr": 0.03}
    params, others = made(), made()
    one = arranged(rule, params, SPLITS[before], **values)
    trained(one, params, 3)
    other = arranged(rule, others, SPLITS[after], lr=0.5)
    copied(params, others)
    report = other.load_state_dict(through_a_file(one.state_dict()))
    assert report.by == "name"
    assert report.ok
    assert report.matched == {name: name for group in SPLITS[after] for name in group}
    for nothing in (report.missing, report.dropped, report.begun, report.types, report.kept):
        assert not nothing
    assert equal({name: held(other)[name] for name in NAMES}, in_order(one))
    assert all(group["lr"] == 0.03 for group in other.param_groups)
    trained(one, params, 3, first=3)
    trained(other, others, 3, first=3)
    for name in NAMES:
        assert torch.equal(params[name], others[name]), name
    assert other.updates == one.updates == 6


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_any_order_and_any_groups(data: st.DataObject) -> None:
    def drawn_split() -> list[list[str]]:
        order = data.draw(st.permutations(NAMES))
        numbers = data.draw(st.lists(st.integers(0, 2), min_size=5, max_size=5))
        split = [[n for n, k in zip(order, numbers, strict=True) if k == one] for one in range(3)]
        return [names for names in split if names]

    params, others = made(), made()
    one = arranged("Adam", params, drawn_split())
    for group in one.param_groups:
        group["weight_decay"] = data.draw(st.sampled_from([0.1, 0.2]))
    trained(one, {name: params[name] for name in NAMES[:3]}, 2)
    other = arranged("Adam", others, drawn_split())
    report = other.load_state_dict(one.state_dict())
    mine, theirs = held(one), held(other)
    assert all(equal(mine[name], theirs[name]) for name in NAMES)
    decay = {n: g["weight_decay"] for g in one.param_groups for n in g["param_names"]}
    for number, group in enumerate(other.param_groups):
        values = {decay[name] for name in group["param_names"]}
        assert group["weight_decay"] == (values.pop() if len(values) == 1 else 0.0)
        kept = f"group {number}/weight_decay" in report.kept
        assert kept == (len({decay[name] for name in group["param_names"]}) == 2)


def test_parameters_that_came_and_went() -> None:
    params = made(["a.weight", "a.bias", "b.weight"])
    one = pellucid.torch.AdamW(pairs(params), lr=0.02)
    trained(one, params, 3)
    saved = through_a_file(one.state_dict())
    others = made(["head.new", "a.bias", "a.weight", "head.bias"])
    other = pellucid.torch.AdamW(pairs(others))
    trained(other, others, 1)
    before = snapshot(other)
    with pytest.raises(ValueError, match="strict=False") as error:
        other.load_state_dict(saved)
    for text in ("has no 'head.new', 'head.bias': here", "has 'b.weight': in the file"):
        assert text in str(error.value)
    assert equal(snapshot(other), before)
    report = other.load_state_dict(saved, strict=False)
    assert report.ok
    assert report.missing == ("head.new", "head.bias")
    assert report.dropped == ("b.weight",)
    assert report.matched == {"a.bias": "a.bias", "a.weight": "a.weight"}
    assert equal(held(other)["a.bias"], held(one)["a.bias"])
    assert others["head.new"] not in other.state
    assert other.updates == 3
    assert other.param_groups[0]["lr"] == 0.02
    fresh = pellucid.torch.AdamW(pairs(made(["head.new"])), lr=0.02)
    new = {"head.new": fresh.param_groups[0]["params"][0]}
    copied(others, new)
    trained(fresh, new, 2, first=7)
    trained(other, others, 2, first=7)
    assert torch.equal(new["head.new"], others["head.new"])  # its own count of steps began at 0


# -- another rule ------------------------------------------------------------------------------


def test_from_adam_to_adamw_moments_are_kept() -> None:
    params = made()
    one = pellucid.torch.Adam(pairs(params), lr=0.02, betas=(0.8, 0.99))
    trained(one, params, 4)
    others = made(reversed(NAMES))
    other = pellucid.torch.AdamW(pairs(others), lr=Cosine(0.01, 100), weight_decay=0.1)
    report = other.load_state_dict(through_a_file(one.state_dict()))
    assert equal({name: held(other)[name] for name in NAMES}, held(one))
    group = other.param_groups[0]
    assert (group["weight_decay"], group["betas"]) == (0.1, (0.9, 0.999))
    assert group["decoupled_weight_decay"] is True
    assert other.controls[0].drivers == {"learning_rate": Cosine(0.01, 100)}
    assert not report.changed
    assert set(report.kept) == {
        f"group 0/{name}"
        for name in ("learning_rate", "beta1", "beta2", "weight_decay", "decoupled_weight_decay")
    }
    assert report.kept["group 0/weight_decay"] == "0.1; the file, of Adam, has 0"
    trained(other, others, 1)
    assert other.param_groups[0]["lr"] == Cosine(0.01, 100)(4)


@pytest.mark.parametrize("named", [True, False])
def test_torchs_adam_into_adamw(named: bool) -> None:
    """Torch's files do not name their rule: Adam's and AdamW's differ by one key."""
    params, others = made(), made()
    theirs = torch.optim.Adam(pairs(params) if named else params.values(), lr=0.02)
    trained(theirs, params, 2)
    other = pellucid.torch.AdamW(pairs(others) if named else others.values(), weight_decay=0.1)
    report = other.load_state_dict(theirs.state_dict())
    assert report.by == ("name" if named else "position")
    assert other.param_groups[0]["decoupled_weight_decay"] is True
    assert other.param_groups[0]["weight_decay"] == 0.1
    assert report.kept["group 0/learning_rate"] == "0.001; the file, of Adam, has 0.02"


def test_a_rule_with_half_of_the_slots_begins_anew_with_its_step() -> None:
    """A new second moment beside an old step would not be bias-corrected: steps 30 times too
    long."""
    params, others = made(), made()
    stage = [chain(rule(1e-3), average_weights(0.9)) for rule in (Lion, Adam)]
    one = pellucid.torch.Optimizer(pairs(params), stage[0])
    trained(one, params, 50)
    other = pellucid.torch.Optimizer(pairs(others), stage[1])
    saved = one.state_dict()
    with pytest.raises(ValueError, match="has no 'exp_avg_sq' and 'step' for parameter 0"):
        other.load_state_dict(saved)
    report = other.load_state_dict(saved, strict=False)
    assert report.begun["a.bias"] == (
        "the file has no exp_avg_sq, step beside exp_avg, average_weights.average"
    )
    assert "a.bias/exp_avg" in report.dropped
    assert "a.bias/average_weights.average" not in report.dropped
    assert set(held(other)["a.bias"]) == {"average_weights.average", "step"}
    assert equal(
        held(other)["a.bias"]["average_weights.average"],
        held(one)["a.bias"]["average_weights.average"],
    )
    fresh_params = made()
    fresh = pellucid.torch.Optimizer(pairs(fresh_params), stage[1])
    trained(fresh, fresh_params, 2, first=50)
    trained(other, others, 2, first=50)
    for name in NAMES:
        assert torch.equal(others[name], fresh_params[name])
        assert float(held(other)[name]["step"]) == 2


def test_slots_that_this_rule_has_not_are_dropped() -> None:
    params, others = made(), made()
    one = pellucid.torch.Adam(pairs(params), amsgrad=True)
    trained(one, params, 2)
    other = pellucid.torch.Optimizer(pairs(others), Lion(1e-4))
    with pytest.raises(ValueError, match=r"'exp_avg_sq' and 'max_exp_avg_sq' for parameter 0 "):
        other.load_state_dict(one.state_dict())
    report = other.load_state_dict(one.state_dict(), strict=False)
    assert set(held(other)["scale"]) == {"exp_avg", "step"}
    assert report.dropped[:2] == ("a.weight/exp_avg_sq", "a.weight/max_exp_avg_sq")
    assert report.kept["group 0/learning_rate"] == "0.0001; the file, of Adam, has 0.001"
    trained(other, others, 2)
    for key in ("eps", "amsgrad"):
        assert key not in other.param_groups[0]


class Slow(Rule):
    """A rule of a user's own."""

    learning_rate = hyper(0.1)
    memory = slot()

    def update(self, param: Any, grad: Any) -> Any:
        self.memory = self.memory + grad
        return param - self.learning_rate * self.memory


def test_slots_of_a_users_rule_and_of_stages_are_known_from_the_file() -> None:
    params, others = made(), made()
    stage = chain(clip_by_global_norm(Linear(1.0, 2.0, 10)), Slow(), average_weights(0.9))
    one = pellucid.torch.Optimizer(pairs(params), stage)
    trained(one, params, 2)
    one.state[params["scale"]]["mine"] = 3
    other = pellucid.torch.Optimizer(pairs(others), Slow(0.7))
    with pytest.raises(ValueError, match=r"a slot 'average_weights.average' for parameter 0"):
        other.load_state_dict(one.state_dict())
    report = other.load_state_dict(through_a_file(one.state_dict()), strict=False)
    assert set(held(other)["scale"]) == {"memory", "mine"}
    assert other.param_groups[0]["lr"] == 0.1
    assert set(report.dropped) == {
        *(f"{name}/average_weights.average" for name in NAMES),
        "group 0/clip_by_global_norm.max_norm",
        "group 0/average_weights.decay",
    }
    assert not [key for key in other.param_groups[0] if "." in key]
    back = pellucid.torch.Optimizer(pairs(made()), stage)
    report = back.load_state_dict(other.state_dict())  # a stage more: it begins anew
    assert report.begun["scale/average_weights.average"] == "the file has none"
    third = pellucid.torch.AdamW(pairs(made()))
    report = third.load_state_dict(other.state_dict(), strict=False)
    assert held(third)["scale"] == {"mine": 3, "step": torch.tensor(0.0)}
    assert "scale/memory" in report.dropped


def test_every_file_of_torch_is_known_as_of_the_same_rule() -> None:
    for name in ("SGD", "Adam", "AdamW", "NAdam", "RAdam", "Adamax", "RMSprop", "Adagrad",
                 "Adadelta", "Rprop", "ASGD"):  # fmt: skip
        params = made()
        theirs = getattr(torch.optim, name)(pairs(params), lr=0.037)
        trained(theirs, params, 2)
        ours = getattr(pellucid.torch, name)(pairs(made(reversed(NAMES))))
        report = ours.load_state_dict(theirs.state_dict())
        assert not report.kept, name
        assert not report.begun, name
        assert ours.param_groups[0]["lr"] == 0.037, name
        assert (report.by, report.ok) == ("name", True)


def test_a_file_of_another_rule_of_torchs() -> None:
    params = made()
    theirs = torch.optim.RMSprop(pairs(params), lr=0.5, alpha=0.7)
    trained(theirs, params, 2)
    ours = pellucid.torch.Adadelta(pairs(made()), lr=0.3)
    report = ours.load_state_dict(theirs.state_dict(), strict=False)
    assert "alpha" not in ours.param_groups[0]
    assert ours.param_groups[0]["lr"] == 0.3
    kept = "0.3; the file, of a rule with 'momentum', has 0.5"
    assert report.kept["group 0/learning_rate"] == kept
    assert report.begun["scale"] == "the file has no acc_delta beside step, square_avg"
    assert not held(ours)["scale"]


# -- wrapped names -----------------------------------------------------------------------------

WRAPPED: dict[str, Callable[[str], str]] = {
    "DDP": lambda name: f"module.{name}",
    "compile": lambda name: f"_orig_mod.{name}",
    "FSDP": lambda name: f"_fsdp_wrapped_module.{name}",
    "checkpoint": lambda name: ".".join(
        [*name.split(".")[:-1], "_checkpoint_wrapped_module", name.split(".")[-1]]
    ),
    "several": lambda name: "module._orig_mod." + name.replace("a.", "a._orig_mod."),
}


@pytest.mark.parametrize("side", ["file", "here", "both"])
@pytest.mark.parametrize("wrapper", WRAPPED)
def test_wrapped_names(wrapper: str, side: str) -> None:
    wrap = WRAPPED[wrapper]
    params = made(wrap(n) if side != "here" else n for n in NAMES)
    other_wrap = WRAPPED["compile"] if side == "both" else wrap
    others = made(other_wrap(n) if side != "file" else n for n in reversed(NAMES))
    one = pellucid.torch.Adam(pairs(params))
    trained(one, params, 2)
    other = pellucid.torch.Adam(pairs(others))
    report = other.load_state_dict(one.state_dict())
    there = {unwrapped(name): state for name, state in held(one).items()}
    for name, state in held(other).items():
        assert equal(state, there[unwrapped(name)])
        assert unwrapped(report.matched[name]) == unwrapped(name)
    assert [entry.name for entry in other.entries] == [*others]  # it keeps its own names
    assert other.param_groups[0]["param_names"] == [*others]


def test_models_in_their_wrappers() -> None:
    class Wrapper(torch.nn.Module):  # as DataParallel and DDP hold a model
        def __init__(self, module: torch.nn.Module) -> None:
            super().__init__()
            self.module = module

    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Linear(3, 3))
    compiled = Wrapper(torch.compile(copy.deepcopy(model), backend="eager"))  # type: ignore[arg-type]
    one, other = pellucid.torch.Adam(compiled), pellucid.torch.Adam(model)
    for param in compiled.parameters():
        param.grad = torch.full_like(param, float(param.numel()))
    one.step()
    report = other.load_state_dict(one.state_dict())
    assert report.matched["0.weight"] == "module._orig_mod.0.weight"
    assert [float(s["exp_avg"].flatten()[0]) for s in other.state.values()] == pytest.approx(
        [0.9, 0.3, 0.9, 0.3]
    )


def test_an_exact_name_wins() -> None:
    names = ["module.a.bias", "a.bias"]
    params, others = made(names), made(reversed(names))
    one, other = (pellucid.torch.Adam(pairs(some)) for some in (params, others))
    params["a.bias"].grad = torch.ones(4)
    one.step()
    other.load_state_dict(one.state_dict())
    assert others["a.bias"] in other.state
    assert others["module.a.bias"] not in other.state


@pytest.mark.parametrize(
    ("here", "there"),
    [
        (["a.bias"], ["module.a.bias", "_orig_mod.a.bias"]),
        (["module.a.bias", "_orig_mod.a.bias"], ["a.bias"]),
        (["module.a.bias", "a.bias"], ["_orig_mod.a.bias", "a.bias"]),
    ],
)
@pytest.mark.parametrize("strict", [True, False])
def test_names_that_are_the_same_without_wrappers(
    here: list[str], there: list[str], strict: bool
) -> None:
    one, other = (pellucid.torch.Adam(pairs(made(names))) for names in (there, here))
    before = snapshot(other)
    with pytest.raises(ValueError, match=r"without what wrappers add .* are the same name"):
        other.load_state_dict(one.state_dict(), strict=strict)
    assert equal(snapshot(other), before)


# -- by position -------------------------------------------------------------------------------


@pytest.mark.parametrize("ours", [True, False])
@pytest.mark.parametrize("named", [(False, False), (True, False), (False, True)])
def test_without_names_on_both_sides_by_position(ours: bool, named: tuple[bool, bool]) -> None:
    params, others = made(), made()
    make = pellucid.torch.Adam if ours else torch.optim.Adam
    one = make(pairs(params) if named[0] else params.values())
    trained(one, params, 2)
    other = pellucid.torch.Adam(pairs(others) if named[1] else others.values())
    report = other.load_state_dict(one.state_dict())
    assert report.by == "position"
    for mine, theirs in zip(params.values(), others.values(), strict=True):
        assert equal(one.state[mine], other.state[theirs])
    names = [entry.name for entry in other.entries]
    if named == (True, False):  # as in torch it takes the file's names
        assert names == other.param_groups[0]["param_names"] == [*NAMES]
        other.add_param_group({"params": [("more", made(["x"])["x"])]})
        assert other.load_state_dict(other.state_dict()).by == "name"
    elif named == (False, True):
        assert names == other.param_groups[0]["param_names"] == [*NAMES]
    else:
        assert names == [f"param_{number}" for number in range(5)]
        assert "param_names" not in other.param_groups[0]


def test_two_models_with_the_same_names_load_by_position() -> None:
    """Such as the two of a GAN in one optimizer: their names tell nothing."""
    nets = [made(), made()]
    saved = None
    for _ in range(2):
        optimizer = pellucid.torch.Adam([{"params": pairs(net)} for net in nets])
        if saved is not None:
            assert optimizer.load_state_dict(saved).by == "position"
            assert float(optimizer.state[nets[1]["scale"]]["exp_avg"]) == pytest.approx(0.3)
            assert nets[0]["scale"] not in optimizer.state
        for param in nets[1].values():
            param.grad = torch.full_like(param, 3.0)
        optimizer.step()
        saved = optimizer.state_dict()
    with pytest.raises(ValueError, match=r"two parameters named 'a.weight'"):
        pellucid.torch.Adam(pairs(made())).load_state_dict(saved)


def test_a_file_of_version_1() -> None:
    """As the first release with a part of ours wrote it."""
    params, others = made(), made(reversed(NAMES))
    one = pellucid.torch.AdamW(pairs(params), lr=Cosine(0.1, 20))
    trained(one, params, 3)
    saved = one.state_dict()
    for key in ("version", "groups", "slots"):
        del saved["pellucid"][key]
    other = pellucid.torch.AdamW(pairs(others))
    report = other.load_state_dict(through_a_file(saved))
    assert report.by == "name"
    assert (other.updates, other.controls[0].drivers) == (3, {"learning_rate": Cosine(0.1, 20)})
    assert equal({name: held(other)[name] for name in NAMES}, held(one))


# -- hyperparameters and schedules of groups ---------------------------------------------------


def test_groups_take_what_the_files_groups_agree_on() -> None:
    params, others = made(), made()
    one = pellucid.torch.AdamW(
        [
            {"params": pairs(params, NAMES[:2]), "lr": Cosine(0.1, 50), "betas": (0.8, 0.99)},
            {"params": pairs(params, NAMES[2:4]), "lr": Cosine(0.1, 50), "betas": (0.7, 0.99)},
            {
                "params": pairs(params, NAMES[4:]),
                "lr": 0.3,
                "weight_decay": Linear(0.1, 0, 9),
                "betas": (0.9, 0.99),
            },
        ]
    )
    trained(one, params, 3)
    other = pellucid.torch.AdamW(
        [
            {"params": pairs(others, ["b.weight", "a.weight"]), "betas": (0.5, 0.6)},
            {"params": pairs(others, ["scale", "b.bias"]), "lr": Linear(1, 0, 9), "eps": 1e-5},
            {"params": pairs(others, ["a.bias"])},
        ]
    )
    report = other.load_state_dict(through_a_file(one.state_dict()))
    first, second, third = other.param_groups
    cosine = Cosine(0.1, 50)
    assert (first["lr"], first["betas"]) == (cosine(2), (0.5, 0.99))
    assert (second["lr"], second["weight_decay"], second["eps"]) == (1.0, 0.01, 1e-8)
    assert second["betas"] == (0.9, 0.99)
    assert third["betas"] == (0.8, 0.99)
    assert [dict(controls.drivers) for controls in other.controls] == [
        {"learning_rate": cosine},
        {"learning_rate": Linear(1, 0, 9)},
        {"learning_rate": cosine},
    ]
    assert set(report.kept) == {
        "group 0/beta1", "group 1/learning_rate", "group 1/beta1", "group 1/weight_decay",
    }  # fmt: skip
    assert report.kept["group 0/beta1"] == (
        "0.5; the file's groups of its parameters have 0.7 and 0.8"
    )
    assert report.changed["group 1/epsilon"] == (1e-5, 1e-8)
    assert report.changed["group 0/beta2"] == (0.6, 0.99)
    trained(other, others, 1)
    assert [group["lr"] for group in other.param_groups] == [
        cosine(3), Linear(1, 0, 9)(3), cosine(3),
    ]  # fmt: skip


def test_a_schedule_and_a_number_do_not_agree_though_they_are_alike_now() -> None:
    params, others = made(), made()
    one = arranged("SGD", params, [NAMES[:3], NAMES[3:]], lr=0.1)
    pellucid.view(one)["group 0/lr"] = Cosine(0.1, 50)
    trained(one, params, 1)
    assert [group["lr"] for group in one.param_groups] == [0.1, 0.1]
    other = pellucid.torch.SGD(pairs(others), lr=0.1)
    report = other.load_state_dict(one.state_dict())
    assert [*report.kept] == ["group 0/learning_rate"]
    assert other.controls[0].drivers == {}


def test_a_group_of_new_parameters_keeps_its_own() -> None:
    params = made(NAMES[:2])
    one = pellucid.torch.AdamW(pairs(params), lr=0.5)
    trained(one, params, 1)
    others = made()
    other = arranged("AdamW", others, [["a.weight", "a.bias"], NAMES[2:]], lr=0.1)
    report = other.load_state_dict(one.state_dict(), strict=False)
    assert [group["lr"] for group in other.param_groups] == [0.5, 0.1]
    assert report.kept == {"group 1": "the file has none of its parameters"}


def test_keys_of_schedulers_and_of_others_load_with_the_group() -> None:
    params, others = made(), made()
    one = arranged("SGD", params, [NAMES[:3], NAMES[3:]], lr=0.5, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.StepLR(one, 1, 0.5)
    trained(one, params, 1)
    scheduler.step()
    for number, group in enumerate(one.param_groups):
        group |= {"mine": {"of": "everyone"}, "lr_scale": number}
    other = pellucid.torch.SGD(pairs(others), lr=0.1, momentum=0.9)
    report = other.load_state_dict(through_a_file(one.state_dict()))
    group = other.param_groups[0]
    assert (group["lr"], group["initial_lr"], group["mine"]) == (0.25, 0.5, {"of": "everyone"})
    assert "lr_scale" not in group
    assert report.kept == {"group 0/lr_scale": "the file's groups have 0 and 1"}
    one.param_groups[0]["mine"]["of"] = "me"
    assert group["mine"]["of"] == "everyone"


def test_names_of_groups_stay_and_the_journal_ends_those_that_are_gone() -> None:
    params, others = made(), made()
    one = pellucid.torch.AdamW(pairs(params), groups={"*.bias": {"lr": 0.3}})
    trained(one, params, 2)
    one.param_groups[1]["lr"] = 0.4
    trained(one, params, 1)
    other = pellucid.torch.AdamW(pairs(others), groups={"b.*": {"lr": 0.7}})
    other.load_state_dict(through_a_file(one.state_dict()))
    assert [controls.label for controls in other.controls] == ["group 0", "b.*"]
    assert [group.get("name") for group in other.param_groups] == [None, "b.*"]
    trained(other, others, 1)
    assert other.journal.at(3)["*.bias/learning_rate"] == 0.4
    assert not [path for path in other.journal.at(4) if path.startswith("*.bias")]
    assert other.journal.at(4)["b.*/learning_rate"] == 0.7
    again = pellucid.torch.AdamW(pairs(made()), groups={"b.*": {"lr": 0.7}})
    again.load_state_dict(through_a_file(other.state_dict()))
    assert again.journal.at(3) == other.journal.at(3)


class Travelled(Rule):
    """Counts in a slot of all parameters how far it went."""

    learning_rate = hyper(0.1)
    distance = slot(1.0, scope="optimizer")

    def update(self, param: Any, grad: Any) -> Any:
        self.distance = self.distance + norm(grad, over="all")
        return param - self.learning_rate * grad / self.distance


def test_slots_of_all_parameters_find_their_stage() -> None:
    params, others = made(), made()
    one = pellucid.torch.Optimizer(pairs(params), Travelled())
    trained(one, params, 2)
    (value,) = one.shared.values()
    assert value > 1.0
    other = pellucid.torch.Optimizer(pairs(others), chain(clip_by_global_norm(9.0), Travelled()))
    report = other.load_state_dict(through_a_file(one.state_dict()))
    assert report.ok
    assert other.shared == {(1, "distance"): value}
    plain = pellucid.torch.Optimizer(pairs(made()), pellucid.SGD())
    assert plain.load_state_dict(one.state_dict(), dry_run=True).problems == (
        "loaded state dict has the slot 'distance' of all parameters, which is none here",
    )
    report = plain.load_state_dict(one.state_dict(), strict=False)
    assert report.dropped == ("the slot 'distance' of all parameters",)
    assert plain.shared == {}


# -- dtypes ------------------------------------------------------------------------------------


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("stored", ["float64", "float32", "bfloat16", "float16"])
@pytest.mark.parametrize("param", ["float64", "float32", "bfloat16"])
def test_a_load_never_changes_a_dtype(param: str, stored: str, named: bool) -> None:
    """Torch would convert all that floats to the parameter's type."""
    params, others = (made(dtype=getattr(torch, param)) for _ in range(2))
    stage = chain(pellucid.NAdam(), average_weights(0.9))
    given = [pairs(some) if named else [*some.values()] for some in (params, others)]
    one, other = (pellucid.torch.Optimizer(some, stage) for some in given)
    trained(one, params, 3)
    saved = through_a_file(one.state_dict())
    for slots in saved["state"].values():
        for name in set(slots) - {"step"}:
            slots[name] = slots[name].to(getattr(torch, stored))
    report = other.load_state_dict(saved)
    for number, state in enumerate(other.state[param] for param in others.values()):
        assert equal(dict(sorted(state.items())), dict(sorted(saved["state"][number].items())))
        assert state["exp_avg"].dtype == getattr(torch, stored)
    new = "float64" if param == "float64" else "float32"
    where = "a.bias" if named else "param_1"
    assert report.types.get(f"{where}/exp_avg") == (None if stored == new else (stored, new))
    assert (f"{where}/mu_product" in report.types) == (stored != "float32")
    trained(other, others, 1)
    assert all(
        other.state[one]["exp_avg"].dtype == getattr(torch, stored) for one in others.values()
    )


def test_complex_parameters_take_complex_slots_only() -> None:
    make = pellucid.torch.Adam
    param, other = (torch.nn.Parameter(torch.ones(3, dtype=torch.complex64)) for _ in range(2))
    one, two = make([("z", param)]), make([("z", other)])
    param.grad = torch.full((3,), 1 + 2j)
    one.step()
    saved = through_a_file(one.state_dict())
    assert not two.load_state_dict(saved).types
    assert equal(two.state[other], one.state[param])
    saved["state"][0]["exp_avg"] = saved["state"][0]["exp_avg"].real.clone()
    with pytest.raises(ValueError, match=r"dtype torch.float32 .* which is complex"):
        two.load_state_dict(saved)


# -- reports and dry runs ----------------------------------------------------------------------


def test_a_dry_run_changes_nothing_and_tells_what_a_load_would() -> None:
    params, others = made(NAMES[:4]), made(NAMES[1:])
    one = pellucid.torch.Adam(pairs(params), lr=0.2)
    trained(one, params, 2)
    other = pellucid.torch.AdamW(pairs(others))
    trained(other, others, 1)
    other.param_groups[0]["lr"] = 0.7
    calls = []
    other.register_load_state_dict_pre_hook(lambda *_: calls.append("before"))
    other.register_load_state_dict_post_hook(lambda *_: calls.append("after"))
    before, saved = snapshot(other), one.state_dict()
    tried = other.load_state_dict(saved, strict=False, dry_run=True)
    refused = other.load_state_dict(saved, dry_run=True)
    assert equal(snapshot(other), before)
    assert calls == ["before", "before"]
    assert (tried.ok, tried.problems, refused.ok, len(refused.problems)) == (True, (), False, 2)
    done = other.load_state_dict(saved, strict=False)
    assert calls[2:] == ["before", "after"]
    for name in ("by", "matched", "missing", "dropped", "begun", "types", "changed", "kept"):
        assert getattr(done, name) == getattr(tried, name) == getattr(refused, name), name
    assert (done.dry_run, tried.dry_run) == (False, True)
    nothing = other.load_state_dict({"weight": torch.ones(1)}, dry_run=True)
    assert nothing.problems == (
        "this is no optimizer's state dict: it has no 'param_groups' and 'state'",
    )


def test_a_report_is_printed_as_lines() -> None:
    params, others = made([*NAMES[:4], "gone"]), made(WRAPPED["DDP"](n) for n in NAMES)
    one = pellucid.torch.Adam(pairs(params), lr=0.2)
    trained(one, params, 2)
    other = pellucid.torch.Adam(pairs(others))
    report = other.load_state_dict(one.state_dict(), strict=False)
    lines = str(report).splitlines()
    assert lines[0] == "4 of 5 parameters matched by name: loaded"
    assert report.rows()[0] == (
        "matched",
        "module.a.weight, module.a.bias, module.b.weight, ... 4 in all",
        "wrapped otherwise in the file: a.weight",
    )
    assert report.rows()[1:3] == [
        ("missing", "module.scale", "not in the file: begins anew"),
        ("dropped", "gone", "in the file: nothing here takes it"),
    ]
    assert lines[-1].split() == ["changed", "group", "0/learning_rate", "0.001", "→", "0.2"]
    assert repr(report) == str(report)
    assert "4 of 5" in console_text(report)
    refused = other.load_state_dict(one.state_dict(), dry_run=True)
    assert str(refused).splitlines()[0] == "4 of 5 parameters matched by name: refused"
    assert "[bold]" in str(pellucid.torch.LoadReport(by="name", missing=("[bold]x[/bold]",)))
    many = pellucid.torch.LoadReport(by="name", missing=tuple(f"layer.{n}" for n in range(500)))
    assert len(str(many).splitlines()) == 2
    assert "500 in all" in str(many)


def console_text(shown: Any) -> str:
    console = rich.console.Console(file=io.StringIO(), width=100)
    console.print(shown)
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def test_hooks_and_copies_beside_a_load() -> None:
    params, others = made(), made(reversed(NAMES))
    one = pellucid.torch.Adam(pairs(params), lr=Cosine(0.1, 9))
    trained(one, params, 2)
    other = pellucid.torch.Adam(pairs(others))
    other.load_state_dict(one.state_dict())
    for copy_of in (copy.deepcopy(other), pickle.loads(pickle.dumps(other))):
        report = copy_of.load_state_dict(one.state_dict(), dry_run=True)
        assert (report.by, report.ok) == ("name", True)
        assert not report.changed
        assert equal({name: held(copy_of)[name] for name in NAMES}, in_order(one))


def test_a_file_without_any_count_begins_schedules_anew_and_says_so() -> None:
    """As torch.distributed.checkpoint keeps it of a rule without a ``step``."""
    param = torch.nn.Parameter(torch.ones(3))
    for rate, said in ((Cosine(0.1, 10), {"group 0/learning_rate"}), (0.1, set())):
        optimizer = pellucid.torch.SGD([param], lr=rate, momentum=0.9)
        param.grad = torch.ones(3)
        for _ in range(4):
            optimizer.step()
        saved = {key: value for key, value in optimizer.state_dict().items() if key != "pellucid"}
        fresh = pellucid.torch.SGD([param], lr=rate, momentum=0.9)
        report = fresh.load_state_dict(saved)
        assert {path for path, why in report.kept.items() if "no count of updates" in why} == said
        assert fresh.updates == 0


@pytest.mark.parametrize(
    ("choice", "words"),
    [({"rounding": "kahan"}, "rounding='kahan'"), ({"sparse": "catch_up"}, "sparse='catch_up'")],
)
def test_a_file_of_another_storage_says_which(choice: dict[str, str], words: str) -> None:
    table = torch.nn.Parameter(torch.ones(4, 2, dtype=torch.bfloat16))
    one = pellucid.torch.Adam([table], **choice)
    table.grad = torch.ones(4, 2, dtype=torch.bfloat16)
    table.grad = table.grad.to_sparse(1) if "sparse" in choice else table.grad
    one.step()
    other = pellucid.torch.Adam([table])
    with pytest.raises(ValueError, match=f"load it into an optimizer with {words}"):
        other.load_state_dict(one.state_dict())
    assert other.load_state_dict(one.state_dict(), strict=False).dropped
    same = pellucid.torch.Adam([table], **choice)
    assert same.load_state_dict(one.state_dict()).ok
