"""Averages of the parameters: put in and back, read, exported; in the meantime nothing else."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch

import pellucid.torch
from pellucid import SGD, AdamW, ParameterTransform, average_weights, chain, ops, route
from pellucid.rule import hyper, slot

Tensor = torch.Tensor
P = torch.nn.Parameter


def drawn(shape: Any, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


class Net(torch.nn.Module):
    """With a tied parameter, a frozen one and buffers."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = torch.nn.Linear(3, 3)
        self.tied = torch.nn.Linear(3, 3, bias=False)
        self.tied.weight = self.first.weight
        self.norm = torch.nn.BatchNorm1d(3)
        self.fixed = P(torch.ones(3), requires_grad=False)

    def forward(self, x: Any) -> Any:
        return self.norm(self.tied(self.first(x))) * self.fixed


def trained(steps: int = 4, stage: Any = None) -> tuple[Net, Any]:
    net = Net()
    opt = pellucid.torch.Optimizer(net, stage or chain(AdamW(0.05), average_weights(0.5)))
    for _ in range(steps):
        train(net, opt)
    return net, opt


def train(net: Net, opt: Any) -> None:
    opt.zero_grad()
    net(drawn((4, 3), 7)).square().sum().backward()
    opt.step()


def values(net: Any) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in net.named_parameters()}


def same(one: Any, other: Any) -> None:
    torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_averages_are_the_means_that_the_definition_gives() -> None:
    net, opt = trained(0)
    wanted: dict[str, Tensor] = {}
    for _ in range(5):
        before = values(net)
        train(net, opt)
        for name, value in values(net).items():
            last = wanted.get(name, value)  # an average begins as the parameter after the update
            assert name == "fixed" or not torch.equal(value, before[name])
            wanted[name] = 0.5 * last + 0.5 * value
    found = opt.averages()
    assert set(found) == set(wanted) - {"fixed"}
    for name, value in found.items():
        torch.testing.assert_close(value, wanted[name], rtol=1e-5, atol=1e-6)
    value.fill_(7.0)  # it is a copy
    assert not bool((opt.averages()[name] == 7.0).any())


def test_the_block_evaluates_with_averages_and_puts_back() -> None:
    net, opt = trained()
    pointers = [param.data_ptr() for param in net.parameters()]
    before, averages = values(net), opt.averages()
    state = copy.deepcopy({n: opt.state[p] for n, p in net.named_parameters() if p in opt.state})
    versions = {name: param._version for name, param in net.named_parameters()}
    with opt.averaged():
        inside = values(net)
        assert [param.data_ptr() for param in net.parameters()] == pointers
        same(opt.averages(), averages)
        for name, param in net.named_parameters():
            same(inside[name], averages.get(name, before[name]))
            assert (param._version > versions[name]) == (name != "fixed")
    same(values(net), before)
    same({n: opt.state[p] for n, p in net.named_parameters() if p in opt.state}, state)
    assert not torch.equal(before["first.weight"], averages["first.weight"])


def test_training_goes_on_as_if_nothing_had_been() -> None:
    net, opt = trained()
    others, twin = trained()
    for _ in range(3):
        with opt.averaged(), torch.inference_mode():
            net.eval()
            net(drawn((2, 3), 1))
            net.train()
        opt.swap_averages()
        opt.swap_averages()
        train(net, opt)
        train(others, twin)
    same(values(net), values(others))
    same(opt.averages(), twin.averages())


def test_the_quick_path_goes_on(monkeypatch: Any) -> None:
    net, opt = trained()
    looked: list[bool] = []
    quick = type(opt)._quick_step

    def look(self: Any, *more: Any) -> bool:
        looked.append(quick(self, *more))
        return looked[-1]

    monkeypatch.setattr(type(opt), "_quick_step", look)
    train(net, opt)
    with opt.averaged():
        pass
    train(net, opt)
    assert looked == [True, True]


def test_the_block_puts_back_after_an_exception() -> None:
    net, opt = trained()
    before = values(net)
    with pytest.raises(ZeroDivisionError), opt.averaged():
        _ = 1 / 0
    same(values(net), before)
    train(net, opt)
    before = values(net)
    with opt.averaged():
        opt.swap_averages()  # by hand, before the end
        same(values(net), before)
    same(values(net), before)
    train(net, opt)


def test_autograd_sees_the_exchange() -> None:
    param = P(drawn((3,), 0))
    opt = pellucid.torch.Optimizer([param], chain(SGD(0.1), average_weights(0.5)))
    param.grad = torch.ones(3)
    opt.step()
    loss = (param * param).sum()
    with opt.averaged(), pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_meanwhile_nothing_takes_averages_for_parameters() -> None:
    net, opt = trained()
    saved = opt.state_dict()
    before, wanted = values(net), copy.deepcopy(saved)
    calls: list[int] = []

    def closure() -> float:
        calls.append(1)
        return 0.0

    actions: list[Callable[[], Any]] = [
        opt.step, lambda: opt.step(closure), opt.state_dict, lambda: opt.load_state_dict(saved),
        lambda: copy.deepcopy(opt), lambda: pickle.dumps(opt),
        lambda: opt.resize("first.weight", 2),
        lambda: opt.replace("first.weight", P(torch.ones(3, 3))), lambda: opt.reset("*"),
        lambda: opt.freeze("*"), lambda: opt.unfreeze("*"), lambda: opt.remove("*"),
        lambda: opt.averaged().__enter__(),
    ]  # fmt: skip
    with opt.averaged():
        inside = values(net)
        for action in actions:
            with pytest.raises(RuntimeError, match=r"hold their averages: leave the block"):
                action()
            same(values(net), inside)
    assert not calls
    same(values(net), before)
    same(opt.state_dict()["state"], wanted["state"])
    train(net, opt)


def test_of_several_averages_one_is_named() -> None:
    stage = chain(SGD(0.1), average_weights(0.5, name="fast"), average_weights(0.9, name="slow"))
    net, opt = trained(stage=stage)
    for ask in (opt.averages, opt.swap_averages, lambda: opt.averaged_state_dict(net)):
        with pytest.raises(ValueError, match=r"'fast\.average', 'slow\.average'.*slot="):
            ask()
    fast, slow = opt.averages("fast"), opt.averages(slot="slow.average")
    assert not torch.equal(fast["first.bias"], slow["first.bias"])
    same(fast["first.bias"], opt.state[net.first.bias]["fast.average"])
    with opt.averaged("slow"):
        same(net.first.bias.detach(), slow["first.bias"])
        same(opt.averages("fast"), fast)
        same(opt.averages("slow"), slow)
    with pytest.raises(ValueError, match="no average of the parameters named 'medium'"):
        opt.averages("medium")


def test_without_averages_the_error_says_what_to_chain() -> None:
    net, opt = trained(stage=AdamW())
    for ask in (opt.averages, opt.swap_averages, lambda: opt.averaged_state_dict(net)):
        with pytest.raises(ValueError, match=r"chain\(AdamW\(\), average_weights\(0\.999\)\)"):
            ask()
    with pytest.raises(ValueError, match="keeps no average"), opt.averaged():
        pass
    train(net, opt)


def test_before_the_first_step_parameters_keep_their_values() -> None:
    net, opt = trained(0)
    before = values(net)
    assert opt.averages() == {}
    with opt.averaged():
        same(values(net), before)
        with pytest.raises(RuntimeError, match="averages"):
            opt.step()
    train(net, opt)


def test_a_rule_without_averages_in_a_route() -> None:
    net = Net()
    stage = route({"*weight": chain(SGD(0.1), average_weights(0.5)), "*": SGD(0.1)})
    opt = pellucid.torch.Optimizer(net, stage)
    for _ in range(3):
        train(net, opt)
    assert set(opt.averages()) == {"first.weight", "norm.weight"}
    before = values(net)
    with opt.averaged():
        same(net.first.bias.detach(), before["first.bias"])
        assert not torch.equal(net.first.weight, before["first.weight"])


def test_averages_of_asgd_and_of_a_stage_of_ones_own() -> None:
    class swing(ParameterTransform):
        share = hyper(0.25)
        average = slot("param")

        def update(self, param: Any, previous: Any) -> Any:
            self.average = ops.lerp(param, self.average, self.share)
            return param

    net = Net()
    opt = pellucid.torch.ASGD(net, lr=0.1, t0=1.0)
    other, mine = trained(0, chain(SGD(0.1), swing()))
    for _ in range(4):
        train(net, opt)
        train(other, mine)
    same(opt.averages()["first.bias"], opt.state[net.first.bias]["ax"])
    same(mine.averages()["first.bias"], mine.state[other.first.bias]["swing.average"])
    with opt.averaged():
        same(net.first.bias.detach(), opt.averages()["first.bias"])
        assert not torch.equal(net.first.bias, opt.state[net.first.bias]["ax"])


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex64])
def test_layouts_and_types(dtype: torch.dtype) -> None:
    wide = P(drawn((2, 4, 3, 3), 0, dtype).contiguous(memory_format=torch.channels_last))
    gaps = P(drawn((4, 6), 1, dtype)[:, ::2])
    one = P(drawn((), 2, dtype))
    empty = P(drawn((0, 3), 2, dtype))
    params = [wide, gaps, one, empty]
    opt = pellucid.torch.Optimizer(params, chain(SGD(0.1), average_weights(0.5)))
    for seed in range(3):
        for param in params:
            param.grad = drawn(param.shape, seed, dtype)
        opt.step()
    before, averages = [p.detach().clone() for p in params], opt.averages()
    with opt.averaged():
        for number, param in enumerate(params):
            same(param.detach(), averages[f"param_{number}"])
    for param, value in zip(params, before, strict=True):
        same(param.detach(), value)
    same(opt.averages(), averages)
    assert wide.is_contiguous(memory_format=torch.channels_last)


def test_an_average_of_another_type() -> None:
    """The parameter is rounded to its own type inside; both are bit for bit as before after."""
    param = P(drawn((5,), 0))
    opt = pellucid.torch.Optimizer([param], chain(SGD(0.1), average_weights(0.5)))
    param.grad = torch.ones(5)
    opt.step()
    exact = drawn((5,), 3, torch.float64)
    opt.state[param]["average_weights.average"] = exact.clone()
    before = param.detach().clone()
    with opt.averaged():
        same(param.detach(), exact.float())
        same(opt.averages()["param_0"], exact)
    same(param.detach(), before)
    same(opt.state[param]["average_weights.average"], exact)


@pytest.mark.parametrize("rounding", ["nearest", "kahan"])
def test_16_bit_parameters_go_on_bit_for_bit(rounding: Any) -> None:
    params = [P(drawn((4, 3), 0, torch.bfloat16)) for _ in range(2)]
    stage = chain(AdamW(1e-3), average_weights(0.9))
    opt, twin = (pellucid.torch.Optimizer([p], stage, rounding=rounding) for p in params)
    for seed in range(6):
        for param in params:
            param.grad = drawn((4, 3), seed, torch.bfloat16)
        opt.step()
        twin.step()
        with opt.averaged():
            same(params[0].detach(), twin.averages()["param_0"].to(torch.bfloat16))
    same(params[0].detach(), params[1].detach())
    same(opt.state[params[0]], twin.state[params[1]])
    assert opt.averages()["param_0"].dtype == torch.float32


def test_what_is_written_inside_becomes_the_average() -> None:
    net, opt = trained()
    before = values(net)
    opt.swap_averages()
    with torch.no_grad():
        net.first.bias.fill_(3.0)
    opt.swap_averages()
    same(values(net), before)
    same(opt.averages()["first.bias"], torch.full((3,), 3.0))


def test_other_data_inside_are_refused_and_can_be_put_right() -> None:
    net, opt = trained()
    before = values(net)
    opt.swap_averages()
    held = net.first.bias.data
    net.first.bias.data = torch.zeros(4)
    with pytest.raises(RuntimeError, match=r"shape \(3,\).*given other data"):
        opt.swap_averages()
    net.first.bias.data = held
    opt.swap_averages()
    same(values(net), before)


def test_an_average_that_does_not_fit() -> None:
    net, opt = trained()
    before = values(net)
    opt.state[net.norm.bias]["average_weights.average"] = torch.zeros(4)
    for ask in (opt.averages, opt.swap_averages):
        with pytest.raises(ValueError, match=r"of 'norm.bias' has shape \(4,\).*\(3,\)"):
            ask()
    same(values(net), before)
    opt.state[net.norm.bias]["average_weights.average"] = torch.zeros(1).expand(3)
    with pytest.raises(ValueError, match="expanded"):
        opt.swap_averages()
    same(values(net), before)


def test_parameters_that_share_memory_are_put_back() -> None:
    base = drawn((4,), 0)
    a, b = P(base), P(base)
    opt = pellucid.torch.Optimizer([a, b], chain(SGD(0.1), average_weights(0.5)))
    for seed in range(3):
        a.grad, b.grad = drawn((4,), seed), drawn((4,), seed + 5)
        opt.step()
    before, averages = a.detach().clone(), opt.averages()
    with opt.averaged():
        assert not torch.equal(a, before)
    same(a.detach(), before)
    same(opt.averages(), averages)


# -- export ------------------------------------------------------------------------------------


def test_the_export_is_a_state_dict_of_the_model() -> None:
    net, opt = trained()
    before, averages = values(net), opt.averages()
    found = opt.averaged_state_dict(net)
    plain = net.state_dict()
    assert list(found) == list(plain)
    assert found._metadata == plain._metadata
    for name in ("first.weight", "tied.weight"):
        same(found[name], averages["first.weight"])
    for name in ("fixed", "norm.running_mean", "norm.num_batches_tracked"):
        same(found[name], plain[name])
    for name, average in averages.items():
        same(found[name], average)
    same(values(net), before)
    other = Net()
    other.load_state_dict(found)
    with opt.averaged():
        net.eval(), other.eval()
        same(net(drawn((2, 3), 1)), other(drawn((2, 3), 1)))
        same(opt.averaged_state_dict(net), found)
    found["first.bias"].zero_()
    same(opt.averages(), averages)


def test_the_export_has_the_names_and_types_of_the_model() -> None:
    net, opt = trained()
    wrapped = torch.nn.Sequential(net)
    assert "0.first.bias" in opt.averaged_state_dict(wrapped)
    exact = drawn((3,), 0, torch.float64)
    opt.state[net.first.bias]["average_weights.average"] = exact
    same(opt.averaged_state_dict(net)["first.bias"], exact.float())
    same(opt.averages()["first.bias"], exact)
    unnamed = pellucid.torch.Optimizer(net.parameters(), chain(SGD(0.1), average_weights(0.5)))
    train(net, unnamed)
    assert set(unnamed.averaged_state_dict(net)) == set(net.state_dict())


def test_the_export_refuses_another_model() -> None:
    _, opt = trained()
    with pytest.raises(ValueError, match="no parameter of this Net is in the optimizer"):
        opt.averaged_state_dict(Net())
    with pytest.raises(TypeError, match="model is list"):
        opt.averaged_state_dict([])


def test_averages_are_part_of_the_checkpoint() -> None:
    net, opt = trained()
    fresh = Net()
    again = pellucid.torch.Optimizer(fresh, chain(AdamW(0.05), average_weights(0.5)))
    fresh.load_state_dict(net.state_dict())
    again.load_state_dict(copy.deepcopy(opt.state_dict()))
    same(again.averages(), opt.averages())
    for _ in range(2):
        train(net, opt)
        train(fresh, again)
    same(again.averages(), opt.averages())
    with again.averaged(), opt.averaged():
        same(values(fresh), values(net))


def test_names_that_two_parameters_share() -> None:
    a, b = P(drawn((2,), 0)), P(drawn((2,), 1))
    opt = pellucid.torch.Optimizer([a, b], chain(SGD(0.1), average_weights(0.5)))
    opt.entries[1].name = "param_0"
    a.grad, b.grad = torch.ones(2), torch.ones(2)
    opt.step()
    assert list(opt.averages()) == ["param_0", "param_0 (1)"]
