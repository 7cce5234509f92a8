"""A view over every optimizer of torch, pytorch_optimizer, heavyball and timm.

What `param_groups` holds is found under its name, a write is seen by the next step as if the
optimizer had been constructed with it, and state arrays are the live ones.
"""

from __future__ import annotations

import inspect
import json
import math
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from fnmatch import fnmatch
from typing import Any

import pytest
import torch
from torch import nn

import pellucid
from pellucid.controls import FOREIGN

from .optimizers_of_others import CASES, CATALOGUES, WRAPPERS, Case, dense

UNREADABLE: dict[str, str] = {
    "heavyball.PSGDBase": "missing 1 required positional argument",  # a base class
    "heavyball.SOAPBase": "missing 1 required positional argument",  # a base class
    "timm.bnb*": "CUDA required for bitsandbytes",
    "timm.fused*": "CUDA required for APEX",
}
"""What cannot be constructed on a CPU, and what its error says."""

ELSEWHERE: dict[tuple[str, str], str] = {
    ("pytorch_optimizer.adalomo", "weight_decay"): "read from the optimizer's attribute",
    ("pytorch_optimizer.adan", "max_grad_norm"): "read from `defaults`",
    ("pytorch_optimizer.apollodqn", "lr"): "read from the optimizer's attribute",
    ("timm.*lamb*", "max_grad_norm"): "read from `defaults`",
}
"""Values of `param_groups` that the optimizer itself does not read there: no write reaches it."""

REFUSED: dict[tuple[str, str], str] = {
    ("timm.adagrad", "initial_accumulator_value"): "when it is constructed only",
    ("torch.Adagrad", "initial_accumulator_value"): "when it is constructed only",
}
"""Writes that are refused, since torch's class would never read them."""

SOONER = ("torch.ASGD",)
"""Of these a write through the view acts at the next step, a direct one a step later."""

RATES: dict[str, str] = {
    "pytorch_optimizer.a2grad": "lips",  # the rate is its inverse
    "pytorch_optimizer.alig": "max_lr",
    "heavyball.SAMWrapper": "ball",  # a wrapper: the rate is in the optimizer inside
}
"""What is changed where there is no ``lr``."""

INSIDE = "heavyball.SplitOpt"
"""Has no hyperparameter of its own: a list of optimizers, viewed as such below."""

NO_STEP = ("pytorch_optimizer.adalomo", "pytorch_optimizer.lomo")
"""Update during ``fused_backward`` and never call ``step``: their updates cannot be counted."""

DISTRIBUTED = ("pytorch_optimizer.demo", "pytorch_optimizer.distributedmuon")

CANONICAL = {
    "lr": "learning_rate",
    "eps": "epsilon",
    "betas[0]": "beta1",
    "betas[1]": "beta2",
    "betas[2]": "beta3",
}


def excepted(name: str) -> str | None:
    return next((said for some, said in UNREADABLE.items() if fnmatch(name, some)), None)


def elsewhere(name: str, key: str) -> bool:
    return any(fnmatch(name, some) and key == one for some, one in ELSEWHERE)


READABLE = [case for case in CASES if excepted(case.name) is None]
pytestmark = pytest.mark.filterwarnings(
    "ignore:Learning rate changed between steps:UserWarning"  # heavyball's, at the first change
)
each = pytest.mark.parametrize("case", READABLE, ids=lambda case: case.name)


@pytest.fixture(autouse=True)
def _surroundings(request: pytest.FixtureRequest) -> Iterator[None]:
    """One thread, nothing compiled (timm's Kron would), a process group of one where wanted."""
    case = request.node.callspec.params.get("case") if hasattr(request.node, "callspec") else None
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    alone = case is not None and case.name in DISTRIBUTED
    if alone:
        torch.distributed.init_process_group(
            "gloo", store=torch.distributed.HashStore(), rank=0, world_size=1
        )
    with torch.compiler.set_stance("force_eager"):
        yield
    if alone:
        torch.distributed.destroy_process_group()
    torch.set_num_threads(threads)


def flat(net: nn.Module) -> torch.Tensor:
    return torch.cat([param.detach().flatten() for param in net.parameters()])


def same(one: nn.Module, other: nn.Module) -> bool:
    """Bit for bit."""
    return torch.equal(flat(one).view(torch.int32), flat(other).view(torch.int32))


def trained(case: Case, **changed: Any) -> nn.Module:
    net = case.net()
    case.train(net, case.construct(net, **changed), 0, case.steps)
    return net


def is_plain_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def is_tuple(value: Any) -> bool:
    return isinstance(value, (tuple, list)) and bool(value) and all(map(is_plain_number, value))


def in_parts(value: Any) -> bool:
    """Whether a tuple's components have names of their own."""
    return (
        isinstance(value, (tuple, list))
        and bool(value)
        and all(one is None or isinstance(one, (int, float, str)) for one in value)
    )


def others(value: Any) -> list[Any]:
    """Values that may stand in a value's place; a constructor decides."""
    if is_tuple(value):
        return [tuple(others(one)[n] for one in value) for n in (0, -1)]
    if not is_plain_number(value) or not math.isfinite(value):
        return []
    if value == 0:
        return [0.01, 1]
    if isinstance(value, int) and abs(value) > 1:
        return [value + 1]
    return [value * 0.9, value * 0.5, value + 1, value * 1.1]


def numeric(case: Case) -> dict[str, Any]:
    """The numbers that a constructor takes and the groups hold, with another value for each."""
    groups = case.construct(case.net()).param_groups
    found = {}
    declared = inspect.signature(case.make).parameters.values()
    for name, value in {**{one.name: one.default for one in declared}, **case.options}.items():
        if not any(name in group and name not in FOREIGN for group in groups):
            continue
        for other in others(value):
            try:
                trained(case, **{name: other})
            except (ValueError, TypeError, RuntimeError):  # not allowed there
                continue
            found[name] = other
            break
    return found


# -- reading -----------------------------------------------------------------------------------


def agrees(read: Any, held: Any) -> bool:
    if isinstance(held, torch.Tensor) and held.numel() == 1:
        held = float(held)
    if read is held or (isinstance(held, float) and math.isnan(held)):
        return read is held or math.isnan(read)
    return not isinstance(held, torch.Tensor) and type(read) is type(held) and read == held


def check_reading(case: Case, net: nn.Module, optimizer: Any) -> int:
    view = pellucid.view(optimizer, model=net)
    count = 0
    for label, group in zip(view.groups, optimizer.param_groups, strict=True):
        for key, held in group.items():
            if key in FOREIGN:
                continue
            count += 1
            if in_parts(held):
                parts = {f"{key}[{n}]": one for n, one in enumerate(held)}
                read = view[f"{label}/{key}"]
                assert isinstance(read, tuple)
                assert read == tuple(held)
            else:
                parts = {key: held}
            for native, one in parts.items():
                assert agrees(view[f"{label}/{native}"], one), native
                full = CANONICAL.get(native)
                if full is not None and full not in group:
                    assert agrees(view[f"{label}/{full}"], one), full
                    assert f"{label}/{full}" in view
    found = view.variables()
    left = [view._source.name] if len(view.groups) == 1 else view.groups
    held = sum(len([path for path in found if path.startswith(f"{one}/")]) for one in left)
    assert held >= count
    assert view._source.name in str(view)
    assert str(view.tree())
    assert json.loads(view.to_json())["optimizer"] == type(optimizer).__name__
    assert isinstance(view.warnings(), list)
    assert len(view.to_pandas()) >= count
    return count


@each
def test_reading(case: Case) -> None:
    """Every value of every group, under its native and its canonical name, at any time."""
    net = case.net()
    optimizer = case.construct(net)
    assert check_reading(case, net, optimizer) > 0
    case.train(net, optimizer, 0, case.steps)
    check_reading(case, net, optimizer)
    assert not same(net, case.net())


# -- writing -----------------------------------------------------------------------------------


def differing(one: Any, other: Any) -> dict[tuple[int, str], Any]:
    """Values of the first's groups that the second's do not have."""
    return {
        (number, key): value
        for number, (group, second) in enumerate(zip(one.param_groups, other.param_groups,
                                                     strict=True))
        for key, value in group.items()
        if key not in FOREIGN and not isinstance(value, torch.Tensor) and value != second[key]
    }  # fmt: skip


@each
def test_a_write_is_as_if_constructed_with_it(case: Case) -> None:
    values = numeric(case)
    assert RATES.get(case.name, "lr") in values or case.name == INSIDE
    start = trained(case)
    for name, value in values.items():
        net = case.net()
        optimizer = case.construct(net)
        view = pellucid.view(optimizer, model=net)
        wanted = differing(case.construct(case.net(), **{name: value}), optimizer)
        assert name in {key for _, key in wanted}
        if (case.name, name) in REFUSED:
            with pytest.raises(ValueError, match=REFUSED[case.name, name]):
                view[name] = value
            continue
        for (number, key), one in wanted.items():
            view[f"{view.groups[number]}/{key}"] = one
        case.train(net, optimizer, 0, case.steps)
        if elsewhere(case.name, name):
            assert not same(net, trained(case, **{name: value}))
            continue
        assert same(net, trained(case, **{name: value})), name
        if name == RATES.get(case.name, "lr"):
            assert not same(net, start)


def test_the_tables_name_what_there_is() -> None:
    """Each exception is one, and no row has become superfluous."""
    names = [case.name for case in CASES]
    for some in [*UNREADABLE, *(one for one, _ in ELSEWHERE), *RATES, INSIDE, *NO_STEP,
                 *DISTRIBUTED]:  # fmt: skip
        assert any(fnmatch(name, some) for name in names), some
    for case in READABLE:
        for some, key in ELSEWHERE:
            if fnmatch(case.name, some):
                assert key in numeric(case), (case.name, key)
    count = Counter(case.name.partition(".")[0] for case in READABLE)
    assert {name: len(held) - count[name] for name, held in CATALOGUES.items()} == {
        "torch": 0, "pytorch_optimizer": 0, "heavyball": 2, "timm": 15,
    }  # fmt: skip


@pytest.mark.parametrize(
    "case", [case for case in CASES if excepted(case.name)], ids=lambda case: case.name
)
def test_what_cannot_be_constructed(case: Case) -> None:
    with pytest.raises((TypeError, AssertionError), match=excepted(case.name)):
        case.construct(case.net())


# -- a change while it trains, and the journal -------------------------------------------------

COMMON = ("lr", "betas", "eps", "weight_decay", "momentum", "max_lr", "lips", "ball")


SLOTS = {("pytorch_optimizer.aggmo", "betas")}
"""What decides which slots there are cannot be changed once they are made."""


def changes(case: Case, optimizer: Any) -> dict[tuple[int, str], Any]:
    """New values of the usual hyperparameters, by group and native key."""
    return {
        (number, key): others(group[key])[0]
        for number, group in enumerate(optimizer.param_groups)
        for key in COMMON
        if key in group and others(group[key]) and (case.name, key) not in SLOTS
        if key != "momentum" or group[key] != 0  # at 0 there is no slot for it
    }


def recorded(journal: Any, step: int, source: str) -> set[tuple[str, str, Any]]:
    return {
        (one.group, one.name, one.new)
        for one in journal
        if one.step == step and one.source == source
    }


@each
def test_a_change_while_it_trains(case: Case) -> None:
    """A write to the groups and one through the view do the same, and both are on record."""
    nets = [case.net(), case.net()]
    direct, viewed = (case.construct(net) for net in nets)
    journals = [pellucid.journal(one) for one in (direct, viewed)]
    for net, one in zip(nets, (direct, viewed), strict=True):
        case.train(net, one, 0, 1)
    wanted = changes(case, direct)
    assert wanted or case.name == INSIDE
    view = pellucid.view(viewed, model=nets[1])
    if case.name == "torch.Rprop":  # which reads its rate at the first update only
        (rate,) = (at for at in wanted if at[1] == "lr")
        with pytest.raises(ValueError, match="first update only"):
            view["lr"] = wanted.pop(rate)
    expected = set()
    for (number, key), value in wanted.items():
        group = direct.param_groups[number]
        group[key] = type(group[key])(value) if is_tuple(value) else value
        view.set(f"{view.groups[number]}/{key}", value, reason="test")
        parts = {f"{key}[{n}]": one for n, one in enumerate(value)} if is_tuple(value) else {
            key: value
        }  # fmt: skip
        for native, one in parts.items():
            full = CANONICAL.get(native, native)
            expected.add((view.groups[number], native if full in group else full, one))
    for net, one in zip(nets, (direct, viewed), strict=True):
        case.train(net, one, 1, case.steps - 1)
    assert same(*nets) != (case.name in SOONER)
    step = 1 if case.name in NO_STEP else 2
    assert expected <= recorded(journals[1], step, "view")
    if case.name in NO_STEP:  # nobody has looked yet
        pellucid.view(direct).set("lr", 0.5)
    found = recorded(journals[0], step, "direct write")
    for group, name, one in expected - found:  # the first of a run of its own changes
        assert journals[0].at(step)[f"{group}/{name}"] == one


def test_a_step_that_calls_its_base() -> None:
    """torch puts hooks around both; the journal counts one step."""

    class Wrapped(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            return super().step(closure)

    case = next(case for case in CASES if case.name == "torch.SGD")
    case.construct(dense())  # torch puts hooks around a class's step with its first instance
    net = dense()
    optimizer = Wrapped(net.parameters(), lr=0.1)
    journal = pellucid.journal(optimizer)
    case.train(net, optimizer, 0, 2)
    optimizer.param_groups[0]["lr"] = 0.2
    case.train(net, optimizer, 2, 1)
    assert [(one.step, one.new) for one in journal] == [(3, 0.2)]


# -- state -------------------------------------------------------------------------------------


def arrays(held: Any, depth: int = 0) -> Iterator[torch.Tensor]:
    """All arrays inside a state, wherever they are."""
    if isinstance(held, torch.Tensor):
        yield held
    elif isinstance(held, Mapping):
        for one in held.values():
            yield from arrays(one, depth + 1)
    elif isinstance(held, (list, tuple, set, deque)):
        for one in held:
            yield from arrays(one, depth + 1)
    elif hasattr(held, "__dict__") and depth < 8 and not callable(held):
        yield from arrays(vars(held), depth + 1)


@each
def test_state_is_live(case: Case) -> None:
    """Every array of the state is in the view, is the object itself, and can be written."""
    net = case.net()
    optimizer = case.construct(net)
    case.train(net, optimizer, 0, case.steps)
    view = pellucid.view(optimizer, model=net)
    own = {id(param) for param in net.parameters()}
    live = {id(one): one for one in arrays(dict(optimizer.state)) if id(one) not in own}
    seen = {path: view.state[path] for path in view.state}
    assert live.keys() <= {id(one) for one in seen.values()}
    for path, array in seen.items():
        if id(array) not in live or array.numel() == 0:
            continue
        before = array.detach().clone()
        view.state[path] = 1
        assert bool((array.detach() == 1).all()), path
        view.state[path] = before
        assert torch.equal(array.detach(), before), path
        assert view.state[path] is array


# -- wrappers, and several ---------------------------------------------------------------------


@pytest.mark.parametrize("wrap", WRAPPERS)
@pytest.mark.parametrize("kind", ["AdamW", "SGD", "Adagrad"])
def test_wrapped(wrap: Any, kind: str) -> None:
    """A view of a wrapper is one of the optimizer inside, and a write is seen by its step."""
    nets = [dense(), dense()]
    inner, plain = (getattr(torch.optim, kind)(net.parameters(), lr=0.01) for net in nets)
    wrapper = wrap(inner)
    view = pellucid.view(wrapper, model=nets[0])
    journal = pellucid.journal(wrapper)
    assert view.optimizer is inner
    assert view[f"{kind}/learning_rate"] == view["lr"] == 0.01
    case = next(case for case in CASES if case.name == f"torch.{kind}")
    case.train(nets[0], inner, 0, 1)
    case.train(nets[1], plain, 0, 1)
    view["learning_rate"] = plain.param_groups[0]["lr"] = 0.02
    case.train(nets[0], inner, 1, 2)
    case.train(nets[1], plain, 1, 2)
    assert same(*nets)
    assert [(one.step, one.new) for one in journal] == [(2, 0.02)]
    assert journal is view.journal is pellucid.view(inner).journal
    assert all(view.state[path] is pellucid.view(inner, nets[0]).state[path] for path in view.state)


def test_several() -> None:
    """A list of optimizers of three packages."""
    named = {case.name: case for case in CASES}
    kinds = [named[name] for name in ("torch.SGD", "pytorch_optimizer.lion", "timm.lamb")]
    nets = [dense() for _ in kinds]
    optimizers = [case.construct(net) for case, net in zip(kinds, nets, strict=True)]
    view = pellucid.view(optimizers)
    for one in optimizers:
        name = type(one).__name__
        assert view[f"{name}/learning_rate"] == one.param_groups[0]["lr"]
        view[f"{name}/group 0/lr"] = 0.25
        assert one.param_groups[0]["lr"] == 0.25
    assert view["lr"] == 0.25
    view["lr"] = 0.125
    for case, net, one in zip(kinds, nets, optimizers, strict=True):
        case.train(net, one, 0, case.steps)
        assert same(net, trained(case, lr=0.125))
    live = {id(array) for one in optimizers for array in arrays(dict(one.state))}
    assert live <= {id(view.state[path]) for path in view.state}
    json.loads(view.to_json())
    assert str(view)
    assert str(view.tree())


def test_optimizers_inside_another() -> None:
    """heavyball's SplitOpt and SAMWrapper: the view is of what is inside."""
    split = next(case for case in CASES if case.name == INSIDE)
    nets = [split.net(), split.net()]
    viewed, direct = (split.construct(net) for net in nets)
    view = pellucid.view(viewed.optimizers, model=nets[0])
    assert view["AdamW/lr"] == 0.001
    view["AdamW/lr"] = direct.optimizers[1].param_groups[0]["lr"] = 0.1
    split.train(nets[0], viewed, 0, 3)
    split.train(nets[1], direct, 0, 3)
    assert same(*nets)
    assert not same(nets[0], trained(split))
    sam = next(case for case in CASES if case.name == "heavyball.SAMWrapper")
    inner = sam.construct(nets[0]).wrapped_optimizer
    assert pellucid.view(inner)["learning_rate"] == inner.param_groups[0]["lr"]
