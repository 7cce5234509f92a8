"""An optimizer from a record takes the same ten steps, bit for bit."""

from __future__ import annotations

import json
import re
from typing import Any

import numpy
import pytest
import torch

import pellucid
import pellucid.numpy
import pellucid.torch
from pellucid.run.collecting import collect
from pellucid.run.record import Record
from pellucid.schedules import Cosine, WarmUp


def model() -> torch.nn.Module:
    torch.manual_seed(1)
    return torch.nn.Sequential(torch.nn.Linear(5, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2))


def train(net: torch.nn.Module, optimizer: Any, steps: int = 10) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    for _ in range(steps):
        for param in net.parameters():
            param.grad = torch.randn(param.shape, generator=generator)
        optimizer.step()
    return [param.detach().clone() for param in net.parameters()]


def stored(record: Record) -> Record:
    """The record as a file gives it."""
    return Record.from_dict(json.loads(record.to_json()))


def halves(step: int) -> float:
    return 0.1 * 0.5**step


def scaled(pairs: Any) -> Any:
    return [(gradient * 0.5, param) for gradient, param in pairs]


def two_groups(net: torch.nn.Module) -> list[dict[str, Any]]:
    decay = [param for param in net.parameters() if param.ndim > 1]
    none = [param for param in net.parameters() if param.ndim == 1]
    return [{"params": decay, "weight_decay": 0.1}, {"params": none, "lr": 0.3, "name": "biases"}]


OPTIMIZERS: dict[str, Any] = {
    "torch AdamW": lambda net: torch.optim.AdamW(net.parameters(), lr=0.02, betas=(0.8, 0.95)),
    "torch groups": lambda net: torch.optim.SGD(two_groups(net), lr=0.05, momentum=0.9),
    "torch tensor lr": lambda net: torch.optim.Adam(
        net.parameters(), lr=torch.tensor(0.02), foreach=False
    ),
    "torch defaults only": lambda net: torch.optim.Adagrad(
        net.parameters(), initial_accumulator_value=0.5
    ),
    "ours by name": lambda net: pellucid.torch.AdamW(
        net, lr=0.02, betas=(0.8, 0.95), groups={"*.bias": {"weight_decay": 0.0, "lr": 0.1}}
    ),
    "ours, schedules": lambda net: pellucid.torch.Optimizer(
        net,
        pellucid.chain(
            pellucid.clip_by_global_norm(1.0),
            pellucid.SGD(WarmUp(3, Cosine(0.1, 8)), momentum=halves),
        ),
        groups={"0.*": {"learning_rate": Cosine(0.3, 20)}},
    ),
    "ours, a route": lambda net: pellucid.torch.Optimizer(
        net,
        pellucid.route({"*.bias": pellucid.SGD(0.1), "*": pellucid.AdamW(0.02)}),
        groups={"2.*": {"learning_rate": 0.5}},
        seed=7,
        compiled=False,
    ),
    "ours, stored its own way": lambda net: pellucid.torch.AdamW(
        net, lr=0.02, state_dtype="bfloat16", sparse="lazy", rounding="kahan"
    ),
    "ours, a function": lambda net: pellucid.torch.Optimizer(
        net, pellucid.Lion(0.01), gradient_transformers=[scaled]
    ),
    "ours, a reference": lambda net: pellucid.torch.Optimizer(
        net, pellucid.Adam(0.02, beta1=pellucid.ref("beta2"), beta2=0.9)
    ),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_ten_steps_bit_for_bit(name: str) -> None:
    first, second = model(), model()
    optimizer = OPTIMIZERS[name](first)
    record = stored(collect(model=first, optimizer=optimizer))
    again = record.optimizer(second)
    assert type(again) is type(optimizer)
    started = [one.clone() for one in first.parameters()]
    for old, new in zip(train(first, optimizer), train(second, again), strict=True):
        assert torch.equal(old, new)
    assert not any(map(torch.equal, started, first.parameters()))
    assert [group.name for group in pellucid.view(again)._source.groups()] == [
        group.name for group in pellucid.view(optimizer)._source.groups()
    ]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_record_of_the_second_equals_the_first(name: str) -> None:
    net = model()
    optimizer = OPTIMIZERS[name](net)
    record = collect(model=net, optimizer=optimizer)
    again = collect(model=net, optimizer=record.optimizer(net))
    mine = {path: one for path, one in record.entries.items() if path.startswith("optimizer/")}
    theirs = {path: one for path, one in again.entries.items() if path.startswith("optimizer/")}
    for one in (mine, theirs):  # the stages as constructed: values given by torch's names are there
        for path in [path for path in one if path.startswith("optimizer/stage")]:
            del one[path]
    assert theirs == mine


def test_values_changed_since_construction_are_kept() -> None:
    first, second = model(), model()
    optimizer = pellucid.torch.AdamW(first, lr=0.02)
    pellucid.view(optimizer)["learning_rate"] = 0.3
    again = collect(optimizer=optimizer).optimizer(second)
    assert again.param_groups[0]["lr"] == 0.3
    for old, new in zip(train(first, optimizer), train(second, again), strict=True):
        assert torch.equal(old, new)


def test_several_optimizers() -> None:
    first, second = model(), model()

    def made(net: Any) -> list[Any]:
        return [
            torch.optim.SGD(net[0].parameters(), lr=0.1),
            pellucid.torch.Adam(net[2].named_parameters(prefix="2"), lr=0.2),
        ]

    optimizers = made(first)
    again = stored(collect(model=first, optimizer=optimizers)).optimizer(second)
    assert [type(one) for one in again] == [torch.optim.SGD, pellucid.torch.Adam]
    for _ in range(10):
        for net, some in ((first, optimizers), (second, again)):
            for number, param in enumerate(net.parameters()):
                param.grad = torch.full_like(param, 0.1 * number - 0.2)
            for one in some:
                one.step()
    assert all(map(torch.equal, first.parameters(), second.parameters()))


def test_arrays() -> None:
    def arrays() -> dict[str, Any]:
        return {"a.w": numpy.ones((2, 3)), "b.w": numpy.full(4, 2.0), "a.b": numpy.zeros(3)}

    first, second = arrays(), arrays()
    optimizer = pellucid.numpy.Optimizer(
        first,
        pellucid.route({"a.*": pellucid.RMSprop(Cosine(0.1, 9)), "*": pellucid.SGD(0.1)}),
        groups={"*.b": {"learning_rate": 0.7}},
    )
    again = stored(collect(optimizer=optimizer)).optimizer(second)
    assert [one.label for one in again.controls] == [one.label for one in optimizer.controls]
    rng = numpy.random.default_rng(0)
    for _ in range(10):
        grads = {name: rng.normal(size=array.shape) for name, array in first.items()}
        optimizer.step(grads)
        again.step(grads)
    for name, array in first.items():
        assert numpy.array_equal(array, second[name])
        assert not numpy.array_equal(array, arrays()[name])


def test_a_schedulers_start_is_kept() -> None:
    """A scheduler writes the warm-up's rate; one that is made anew begins with the same base."""
    first, second = model(), model()
    optimizer = torch.optim.SGD(first.parameters(), lr=0.1)
    torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: step / 10)
    assert optimizer.param_groups[0]["lr"] == 0.0
    again = collect(optimizer=optimizer).optimizer(second)
    scheduler = torch.optim.lr_scheduler.LambdaLR(again, lambda step: step / 10)
    again.step()
    scheduler.step()
    assert again.param_groups[0]["lr"] == 0.1 * (1 / 10)


# -- what cannot be ----------------------------------------------------------------------------


def test_parameters_that_differ_are_named() -> None:
    record = collect(optimizer=pellucid.torch.SGD(model(), lr=0.1))
    other = torch.nn.Sequential(torch.nn.Linear(5, 3), torch.nn.Tanh())
    wanted = (
        "the parameters differ from the record's: '2.weight' is not in the model; '2.bias' is not "
        "in the model; '0.weight' has shape (3, 5), in the record (4, 5); '0.bias' has shape "
        "(3,), in the record (4,) (the model has 0.weight, 0.bias)"
    )
    with pytest.raises(ValueError, match=re.escape(wanted)):
        record.optimizer(other)


def test_without_names_the_order_counts() -> None:
    net = model()
    record = collect(optimizer=torch.optim.SGD(net.parameters(), lr=0.1))
    assert len(record.optimizer(net).param_groups[0]["params"]) == 4
    with pytest.raises(ValueError, match="had 4 parameters, without names; the model has 2"):
        record.optimizer(torch.nn.Linear(5, 4))
    grouped = collect(optimizer=torch.optim.SGD(two_groups(net), lr=0.1))
    with pytest.raises(ValueError, match=r"no names of the parameters.*collect it with model="):
        grouped.optimizer(net)


def test_what_is_lost_is_listed() -> None:
    optimizer = pellucid.torch.Optimizer(
        model(), pellucid.SGD(lambda step: 0.1), gradient_transformers=[lambda pairs: pairs]
    )
    record = collect(optimizer=optimizer)
    lost = [one.path for one in record.missing if one.path.startswith("optimizer")]
    assert lost == [
        "optimizer/recipe/gradient_transformers[0]",
        "optimizer/recipe/stage",
        "optimizer/recipe/group 0/learning_rate",
    ]
    with pytest.raises(ValueError, match=r"(?s)cannot be built again; what is missing:.*learning"):
        stored(record).optimizer(model())


def test_no_optimizer_in_the_record() -> None:
    with pytest.raises(ValueError, match="has no recipe of an optimizer: collect it with"):
        collect(epochs=3).optimizer(model())


def test_a_class_that_is_not_loaded_is_not_imported() -> None:
    record = collect(model=(net := model()), optimizer=torch.optim.SGD(net.parameters(), lr=0.1))
    record.recipes["optimizer"] = {**record.recipes["optimizer"], "class": "antigravity:SGD"}
    with pytest.raises(ValueError, match="antigravity:SGD is not known here: import antigravity"):
        record.optimizer(net)
    record.recipes["optimizer"] = {**record.recipes["optimizer"], "class": "torch.optim:Nothing"}
    with pytest.raises(ValueError, match=r"there is no class torch\.optim:Nothing here"):
        record.optimizer(net)


def test_a_model_that_is_none() -> None:
    record = collect(optimizer=torch.optim.SGD(model().parameters(), lr=0.1))
    with pytest.raises(TypeError, match="model is int; allowed is a torch module"):
        record.optimizer(3)


def test_secrets_are_in_no_recipe() -> None:
    net = model()
    optimizer = torch.optim.SGD([{"params": net.parameters(), "api_key": "hunter2"}], lr=0.1)
    record = collect(model=net, optimizer=optimizer)
    assert "hunter2" not in record.to_json()
    with pytest.raises(ValueError, match="group 0/api_key is a secret or a long text"):
        record.optimizer(net)
