"""State dicts that are damaged, of a later release or for something else change nothing."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from checkpoints import NAMES, equal, made, pairs, snapshot, trained

import pellucid.torch
from pellucid import Adam, average_weights, chain
from pellucid.schedules import Linear

Change = Callable[[Any], Any]


def make(named: bool, params: Any) -> Any:
    stage = chain(Adam(Linear(0.01, 0.02, 10)), average_weights(0.9))
    return pellucid.torch.Optimizer(pairs(params) if named else params.values(), stage)


def slots(number: int, **values: Any) -> Change:
    return lambda saved: saved["state"][number].update(values)


def own(**values: Any) -> Change:
    return lambda saved: saved["pellucid"].update(values)


def group(**values: Any) -> Change:
    return lambda saved: saved["param_groups"][0].update(values)


def parameter_twice(saved: Any) -> None:
    saved["param_groups"][0]["params"][1] = 0


def group_lost_its_last(saved: Any) -> None:
    saved["param_groups"][0]["params"].pop()
    saved["param_groups"][0].get("param_names", [0]).pop()


NAN, INF = float("nan"), float("inf")
SPARSE = torch.ones(4).to_sparse()

ALWAYS: dict[str, tuple[Change, str]] = {
    "NaN step": (slots(1, step=torch.tensor(NAN)), r"the step tensor\(nan\) for parameter 1"),
    "infinite step": (slots(1, step=torch.tensor(INF)), r"the step tensor\(inf\)"),
    "negative step": (slots(1, step=torch.tensor(-1.0)), r"the step tensor\(-1.\)"),
    "half a step": (slots(1, step=2.5), r"the step 2.5 .* a count of updates"),
    "steps": (slots(1, step=torch.ones(2)), r"the step tensor\(\[1., 1.\]\)"),
    "a step of text": (slots(1, step="3"), "the step '3'"),
    "later version": (own(version=3), "version 3, written by a later release; .* up to 2"),
    "version 0": (own(version=0), "damaged part 'pellucid'"),
    "version of text": (own(version="2"), "damaged part 'pellucid'"),
    "own part no dict": (lambda saved: saved.update(pellucid=[1]), "damaged part 'pellucid'"),
    "negative updates": (own(updates=-1), "damaged part 'pellucid'"),
    "seed": (own(seed=-1), "damaged part 'pellucid'"),
    **{
        f"own part without {key}": (lambda saved, k=key: saved["pellucid"].pop(k), "damaged part")
        for key in ("updates", "seed", "schedules", "shared", "journal", "groups", "slots")
    },
    "groups told": (own(groups=[]), "has groups for 0 groups in its part 'pellucid', 1"),
    "schedules": (own(schedules=[{}, {}]), "has schedules for 2 groups"),
    "a group told by text": (own(groups=["Adam"]), "damaged part"),
    "state lost": (lambda saved: saved["state"].pop(2), "has no 'step' and .* it is truncated"),
    "all state lost": (lambda saved: saved["state"].clear(), "it is truncated"),
    "a slot lost": (
        lambda saved: saved["state"][3].pop("average_weights.average"),
        r"has no 'average_weights.average' for parameter 3.* truncated",
    ),
    "slot is None": (slots(3, exp_avg=None), "has no 'exp_avg' for parameter 3.* truncated"),
    "no params": (lambda saved: saved["param_groups"][0].pop("params"), "no 'params' in its"),
    "params no list": (group(params=7), "no 'params' in its group 0"),
    "twice": (parameter_twice, "truncated|lists the parameter 0 2 times"),
    "list": (slots(1, exp_avg=[0.0] * 4), "'exp_avg' of shape list for parameter 1"),
    "integers": (slots(1, exp_avg=torch.ones(4, dtype=torch.int64)), "dtype torch.int64 .* allow"),
    "booleans": (slots(1, exp_avg=torch.ones(4) > 0), "of dtype torch.bool"),
    "complex": (slots(1, exp_avg=torch.ones(4, dtype=torch.complex64)), "dtype torch.complex64"),
    "sparse": (slots(1, exp_avg=SPARSE), "as torch.sparse_coo .* allowed is a dense tensor"),
    "meta": (slots(1, exp_avg=torch.ones(4, device="meta")), "without memory"),
    "expanded": (slots(1, exp_avg=torch.ones(1).expand(4)), "is expanded"),
    "rate": (group(lr=-1), r"'lr'\) is -1"),
    "NaN rate": (group(lr=NAN), r"'lr'\) is nan"),
    "betas": (group(betas=(0.9,)), "allowed are 2 numbers"),
    "near miss": (group(weight_decai=1), "did you mean"),
    "no state": (lambda saved: saved.pop("state"), "no optimizer's state dict"),
    "state no dict": (lambda saved: saved.update(state=[]), "no optimizer's state dict"),
    "groups no list": (lambda saved: saved.update(param_groups=3), "no optimizer's state dict"),
    "slots no dict": (lambda saved: saved["state"].update({1: [1]}), "has list for parameter 1"),
}  # fmt: skip
"""Refused, strict or not."""

NAMED: dict[str, tuple[Change, str]] = {
    "two of a name": (
        group(param_names=["scale", "scale", *NAMES[2:]]), "two parameters named 'scale'",
    ),
    "too few names": (group(param_names=["scale"]), "allowed are 5 texts, one for each"),
    "names no text": (group(param_names=[1, 2, 3, 4, 5]), "allowed are 5 texts"),
    "group truncated": (group_lost_its_last, "state of parameter 4, which no group lists"),
}  # fmt: skip

STRICTLY: dict[str, tuple[Change, str]] = {
    "shape": (slots(1, exp_avg=torch.ones(5)), r"'exp_avg' of shape \(5,\) for parameter 1 "),
    "a slot more": (slots(1, exp_inf=torch.ones(4)), "a slot 'exp_inf' for parameter 1"),
    "shared": (own(shared=[[0, "distance", 1.0]]), "the slot 'distance' of all parameters"),
    "stale": (lambda saved: saved["state"].update({9: {}}), "has the state of 9, which is none"),
}  # fmt: skip
"""Refused with strict=True."""

EVERY = [
    *((name, change, named, strict) for name, change in ALWAYS.items()
      for named in (True, False) for strict in (True, False)),
    *((name, change, True, strict) for name, change in NAMED.items() for strict in (True, False)),
    *((name, change, named, True) for name, change in STRICTLY.items() for named in (True, False)),
]  # fmt: skip


@pytest.mark.parametrize(
    ("change", "named", "strict"),
    [one[1:] for one in EVERY],
    ids=[f"{name}-{'named' if named else 'unnamed'}-{strict}" for name, _, named, strict in EVERY],
)
def test_a_refused_load_leaves_everything_as_it_was(
    change: tuple[Change, str], named: bool, strict: bool
) -> None:
    source = make(named, params := made())
    trained(source, params, 3)
    saved = copy.deepcopy(source.state_dict())
    change[0](saved)
    mine, twins = made(), made()
    optimizer, twin = make(named, mine), make(named, twins)
    for some, one in ((mine, optimizer), (twins, twin)):
        trained(one, some, 2)
        one.param_groups[0]["betas"] = (0.5, 0.9)  # not yet in the journal
    before, file = snapshot(optimizer), copy.deepcopy(saved)
    report = optimizer.load_state_dict(saved, strict=strict, dry_run=True)
    assert equal(snapshot(optimizer), before)
    assert not report.ok
    assert report.dry_run
    with pytest.raises(ValueError, match=change[1]) as error:
        optimizer.load_state_dict(saved, strict=strict)
    assert equal(snapshot(optimizer), before)
    assert equal_files(saved, file)  # nor was the file changed
    for problem in report.problems:
        assert problem in str(error.value)
    trained(optimizer, mine, 2, first=2)
    trained(twin, twins, 2, first=2)
    assert equal([*mine.values()], [*twins.values()])
    assert optimizer.journal.to_dict() == twin.journal.to_dict()
    assert optimizer.updates == twin.updates == 4


def equal_files(one: Any, other: Any) -> bool:
    """NaN is itself here, and sparse and meta tensors are told by their text."""
    if isinstance(one, torch.Tensor):
        plain = one.layout == torch.strided and not one.is_meta
        return str(one) == str(other) and (not plain or one.dtype == other.dtype)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal_files(one[k], other[k]) for k in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(equal_files, one, other))
    return repr(one) == repr(other)


@pytest.mark.parametrize("name", STRICTLY)
def test_what_only_strict_refuses(name: str) -> None:
    source = make(True, params := made())
    trained(source, params, 3)
    saved = copy.deepcopy(source.state_dict())
    STRICTLY[name][0](saved)
    optimizer = make(True, mine := made())
    trained(optimizer, mine, 1)
    report = optimizer.load_state_dict(saved, strict=False)
    assert report.ok
    assert report.dropped
    trained(optimizer, mine, 1)
    assert optimizer.updates == 4
    saved = copy.deepcopy(optimizer.state_dict())
    assert optimizer.load_state_dict(saved).dropped == ()


def test_a_shape_that_differs() -> None:
    source = make(True, params := made())
    trained(source, params, 3)
    others = made()
    others["a.bias"] = torch.nn.Parameter(torch.ones(6))
    optimizer = make(True, others)
    with pytest.raises(ValueError, match=r"of shape \(4,\) .* expected is \(6,\)"):
        optimizer.load_state_dict(source.state_dict())
    report = optimizer.load_state_dict(source.state_dict(), strict=False)
    assert report.begun["a.bias"] == "exp_avg_sq has shape (4,) in the file, (6,) here"
    assert others["a.bias"] not in optimizer.state
    assert set(report.dropped) == {
        f"a.bias/{name}" for name in ("step", "exp_avg", "exp_avg_sq", "average_weights.average")
    }
    for name in NAMES:
        if name != "a.bias":
            assert equal(source.state[params[name]], optimizer.state[others[name]])
    trained(optimizer, others, 1)


def test_a_hook_may_take_out_parameters_on_purpose() -> None:
    """The file then says less than it did, and no more than it has."""
    source = make(True, params := made())
    trained(source, params, 3)
    optimizer = make(True, made(NAMES[:4]))

    def without_the_last(_: Any, saved: Any) -> Any:
        saved = copy.deepcopy(saved)
        group_lost_its_last(saved)
        del saved["state"][4]
        return saved

    optimizer.register_load_state_dict_pre_hook(without_the_last)
    assert optimizer.load_state_dict(source.state_dict()).ok


def test_flags() -> None:
    optimizer = make(True, made())
    for flags in ({"strict": "no"}, {"dry_run": 1}):
        with pytest.raises(TypeError, match="allowed is True or False"):
            optimizer.load_state_dict(optimizer.state_dict(), **flags)


def test_an_error_lists_a_few_of_many_problems() -> None:
    names = [f"layer.{number}" for number in range(300)]
    one, other = (pellucid.torch.Adam(pairs(made(some))) for some in (names, names[:1]))
    trained(one, dict(zip(names, one.param_groups[0]["params"], strict=True)), 1)
    saved = one.state_dict()
    with pytest.raises(ValueError, match=r"'layer.8', ... 299 in all") as error:
        other.load_state_dict(saved)
    assert len(str(error.value)) < 1000
    for slots in saved["state"].values():
        slots["step"] = torch.tensor(NAN)
    assert len(one.load_state_dict(saved, dry_run=True).problems) == 300
    with pytest.raises(ValueError, match=r"for 300 reasons:(.|\n)*and 292 more") as error:
        one.load_state_dict(saved)
    assert len(str(error.value).splitlines()) == 10
