"""Checkpoints of torch optimizers load by name, whole or not at all, and keep their dtypes."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import pellucid
import pellucid.torch
from pellucid import SGD, Adam, Lion, average_weights, chain, clip_by_global_norm, route
from pellucid.rule import Rule, hyper, slot
from pellucid.schedules import Cosine, Linear
from pellucid.torch.matching import unwrapped

Tensor = torch.Tensor
SHAPES = {"a.weight": (4, 3), "a.bias": (4,), "b.weight": (2, 4), "b.bias": (2,), "scale": ()}
Params = dict[str, Tensor]


def made(names: Iterable[str] = SHAPES, dtype: torch.dtype = torch.float32) -> Params:
    """Parameters by name; the same name has the same value each time."""
    found = {}
    for name in names:
        drawn = torch.Generator().manual_seed(len(name) + sum(map(ord, unwrapped(name))))
        shape = SHAPES.get(unwrapped(name), (3,))
        found[name] = torch.nn.Parameter(torch.randn(shape, generator=drawn).to(dtype))
    return found


def trained(optimizer: Any, params: Mapping[str, Tensor], updates: int, first: int = 0) -> None:
    """Updates with gradients that depend on the parameter's name and the update's number."""
    for update in range(first, first + updates):
        for name, param in params.items():
            bare = unwrapped(name)
            drawn = torch.Generator().manual_seed(1000 * update + sum(map(ord, bare)))
            param.grad = torch.randn(param.shape, generator=drawn).to(param.dtype)
        optimizer.step()


def pairs(params: Mapping[str, Tensor], names: Iterable[str] | None = None) -> list[Any]:
    return [(name, params[name]) for name in (params if names is None else names)]


def through_a_file(value: Any) -> Any:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


def copied(params: Mapping[str, Tensor], into: Mapping[str, Tensor]) -> None:
    """Give parameters the values of those of the same name, as a model's file would."""
    there = {unwrapped(name): param for name, param in params.items()}
    for name, param in into.items():
        if unwrapped(name) in there:
            param.data.copy_(there[unwrapped(name)])


def snapshot(optimizer: Any) -> Any:
    """All that a refused load must leave, with the identity of what holds it."""
    return {
        "params": [entry.param.detach().clone() for entry in optimizer.entries],
        "state": [
            (id(key), id(held), {k: (id(v), copy.deepcopy(v)) for k, v in held.items()})
            for key, held in optimizer.state.items()
        ],
        "groups": [
            (id(group), {k: copy.deepcopy(v) for k, v in group.items() if k != "params"})
            for group in optimizer.param_groups
        ],
        "members": [[id(param) for param in group["params"]] for group in optimizer.param_groups],
        "names": [entry.name for entry in optimizer.entries],
        "journal": optimizer.journal.to_dict(),
        "numbers": (optimizer.updates, optimizer.seed, dict(optimizer.shared)),
        "drivers": [dict(controls.drivers) for controls in optimizer.controls],
        "seen": [dict(controls.seen) for controls in optimizer.controls],
    }


def equal(one: Any, other: Any) -> bool:
    """Bit for bit, tensors inside of anything."""
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) == len(other) and all(map(equal, one, other))
    return bool(one == other)


def held(optimizer: Any) -> dict[str, dict[str, Any]]:
    """The state by the parameters' names."""
    return {entry.name: optimizer.state.get(entry.param, {}) for entry in optimizer.entries}


def in_order(optimizer: Any) -> dict[str, dict[str, Any]]:
    return {name: held(optimizer)[name] for name in SHAPES}


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
        assert sorted(map(unwrapped, found)) == sorted(SHAPES), how
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
    assert equal(held(other), {name: held(optimizer)[name] for name in SHAPES})


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

NAMES = tuple(SHAPES)
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
    assert report.kept["group 0/weight_decay"] == "0.1 here, 0 there: the file's is of Adam"
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
    assert report.kept["group 0/learning_rate"] == "0.001 here, 0.02 there: the file's is of Adam"


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
    assert report.kept["group 0/learning_rate"].startswith("0.0001 here, 0.001 there")
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
    assert "0.3 here, 0.5 there" in report.kept["group 0/learning_rate"]
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
