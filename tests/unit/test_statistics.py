"""Statistics, against plain NumPy in float64; and the flags, each provoked and each absent."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy
import pytest
import torch
from rich.console import Console

import pellucid
import pellucid.numpy
import pellucid.torch
from pellucid import SGD, Adam, AdamW, Lion, RMSprop
from pellucid.access import View
from pellucid.access.sources import Cell, Owner
from pellucid.access.statistics import Statistics
from pellucid.compose import Pipeline
from pellucid.controls import canonical_names
from pellucid.demo.digits import load_digits
from pellucid.fuse import measure
from pellucid.fuse.pool import set_num_threads

# -- numbers -----------------------------------------------------------------------------------


def doubles(array: Any) -> Any:
    """In float64, complex numbers as pairs."""
    if isinstance(array, torch.Tensor):
        array = array.detach()
        array = torch.view_as_real(array) if array.is_complex() else array
        return array.double().numpy().copy().reshape(-1)
    array = numpy.array(array)
    if array.dtype.kind == "c":
        array = numpy.stack([array.real, array.imag], -1)
    return array.astype(numpy.float64).reshape(-1)


def norm(x: Any) -> float:
    return math.sqrt(math.fsum((x * x).tolist()))


MAKERS: dict[str, Callable[[Any], Any]] = {
    "numpy float32": lambda r: r.standard_normal((700, 401)).astype("float32"),
    "numpy float64": lambda r: r.standard_normal((50, 20)),
    "numpy fortran": lambda r: numpy.asfortranarray(r.standard_normal((30, 20)).astype("float32")),
    "numpy empty": lambda r: numpy.zeros((0, 3), "float32"),
    "numpy scalar": lambda r: numpy.array(1.5, "float32"),
    "torch float32": lambda r: torch.from_numpy(r.standard_normal((700, 401))).float(),
    "torch float64": lambda r: torch.from_numpy(r.standard_normal((30, 20))),
    "torch bfloat16": lambda r: torch.from_numpy(r.standard_normal((90, 80))).bfloat16(),
    "torch float16": lambda r: torch.from_numpy(r.standard_normal((9, 8))).half(),
    "torch transposed": lambda r: torch.from_numpy(r.standard_normal((30, 20))).float().t(),
    "torch empty": lambda r: torch.zeros((3, 0)),
    "torch scalar": lambda r: torch.tensor(1.5),
    "torch complex": lambda r: torch.from_numpy(
        r.standard_normal((30, 20)) + 1j * r.standard_normal((30, 20))
    ).to(torch.complex64),
}


class TorchAdam:
    """A `Source` for one parameter in torch's own Adam, which takes every dtype."""

    name = "Adam"

    def __init__(self, param: Any) -> None:
        self.param, self.index, self.members = param, 0, ["p"]
        self.optimizer = torch.optim.Adam([param], lr=0.01, betas=(0.9, 0.9), eps=1e-4)
        self.names = canonical_names(Pipeline((Adam(),)))

    @property
    def updates(self) -> int:
        return int(self.optimizer.state[self.param].get("step", 0))

    def owners(self) -> list[Owner]:
        return [Owner("p", "p", 0, self.param)]

    def array(self, owner: Owner) -> Any:
        return owner.parameter

    def gradient(self, owner: Owner) -> Any:
        return owner.parameter.grad

    def cells(self, owner: Owner) -> list[Cell]:
        held = self.optimizer.state[self.param]
        names = {"first_moment": "exp_avg", "second_moment": "exp_avg_sq", "step": "step"}
        return [Cell("p", full, n, held.get(n), "", lambda _: None) for full, n in names.items()]

    def shared_cells(self) -> list[Cell]:
        return []

    def groups(self) -> list[Any]:
        return [self]

    def value(self, full: str) -> Any:
        values = {"learning_rate": 0.01, "beta2": torch.tensor(0.9, dtype=torch.float64)}
        return values.get(full, {"epsilon": 1e-4, "weight_decay": object()}.get(full))


@pytest.mark.parametrize("kind", MAKERS)
def test_every_number(kind: str) -> None:
    random = numpy.random.default_rng(3)
    param = MAKERS[kind](random)
    in_torch = isinstance(param, torch.Tensor)
    parts = 2 if "complex" in kind else 1
    raw = random.standard_normal((*param.shape, parts)) * 10.0 ** random.integers(
        -9, 2, (*param.shape, parts)
    )
    rule = Adam(0.01, beta2=0.9, epsilon=1e-4)
    if in_torch:
        param.requires_grad_()
        grad = torch.from_numpy(raw)
        grad = torch.view_as_complex(grad) if parts == 2 else grad[..., 0]
        grad = grad.to(param.dtype)
        param.grad = grad
        half = param.dtype in (torch.bfloat16, torch.float16)
        source: Any = TorchAdam(param) if half else None
        optimizer: Any = source or pellucid.torch.Optimizer([("p", param)], rule)
    else:
        grad = raw[..., 0].astype(param.dtype)
        optimizer = pellucid.numpy.Optimizer({"p": param}, rule)
    view = View(optimizer) if isinstance(optimizer, TorchAdam) else pellucid.view(optimizer)
    optimizer = view.optimizer
    step: Callable[[], Any] = optimizer.step if in_torch else lambda: optimizer.step({"p": grad})
    step()
    before = doubles(param)
    with view.measure(None if in_torch else {"p": grad}) as found:
        step()
    one = found["p"]
    assert not found.notes
    assert found.updates == 1
    after, change, g = doubles(param), doubles(param) - before, doubles(grad)
    moments = {full: doubles(view.state[f"p/{full}"]) for full in ("first_moment", "second_moment")}

    near = {"rel": 1e-12, "abs": 0}
    assert one.norm == pytest.approx(norm(after), **near)
    assert one.grad_norm == pytest.approx(norm(g), **near)
    assert one.update_norm == pytest.approx(norm(change), **near)
    assert one.slots == pytest.approx({full: norm(x) for full, x in moments.items()}, **near)
    assert one.nonfinite == {}
    assert not one.grad_missing
    assert one.shape == tuple(param.shape)
    assert one.numbers == math.prod(param.shape)
    assert one.dtype == str(param.dtype).rpartition(".")[2]
    assert one.bytes == sum([param.nbytes, *(view.state[path].nbytes for path in view.state)])
    if not len(after):
        assert one.update_ratio is one.cosine is one.rate_quantiles is one.epsilon_share is None
        return
    assert one.update_ratio == pytest.approx(norm(change) / norm(after), **near)
    cosine = -(change * g).sum() / (norm(change) * norm(g))
    assert one.cosine == pytest.approx(cosine, rel=1e-9)
    v = moments["second_moment"] / (1 - 0.9**2)
    assert one.epsilon_share == pytest.approx((numpy.sqrt(v) < 1e-4).mean(), abs=2 / len(v))
    rates = 0.01 / (numpy.sqrt(v) + 1e-4)
    positions = [0, 0.25, 0.5, 0.75, 1]
    assert one.rate_quantiles is not None
    sample = rates[:: measure._stride(len(v))]
    if "transposed" not in kind and "fortran" not in kind:  # a sample goes along memory
        assert one.rate_quantiles == pytest.approx(numpy.quantile(sample, positions), rel=1e-9)
    if len(v) <= measure.SAMPLE:
        assert one.rate_quantiles == pytest.approx(numpy.quantile(rates, positions), rel=1e-9)
    else:  # in between lie about as many as should
        below = [(rates <= rate).mean() for rate in one.rate_quantiles]
        assert below == pytest.approx(positions, abs=0.04)
    assert view.statistics()["p"].slots == one.slots


def test_same_for_any_number_of_threads() -> None:
    random = numpy.random.default_rng(0)
    params = {
        name: random.standard_normal(shape).astype("float32")
        for name, shape in {"a": (1200, 1300), "b": (7,), "c": (300000,)}.items()
    }
    grads = {name: random.standard_normal(p.shape).astype("float32") for name, p in params.items()}
    found = []
    for threads in (1, 3):
        set_num_threads(threads)
        try:
            optimizer = pellucid.numpy.Optimizer({n: p.copy() for n, p in params.items()}, Adam())
            with pellucid.view(optimizer).measure(grads) as one:
                optimizer.step(grads)
            found.append(one.to_json())
        finally:
            set_num_threads(None)
    assert found[0] == found[1]


def test_beyond_the_range_of_squares() -> None:
    """Norms of float64 numbers whose squares overflow or vanish."""
    for size in (1e200, 1e-200, 1e-300):
        param = numpy.array([3.0, 4.0]) * size
        optimizer = pellucid.numpy.Optimizer({"p": param}, SGD(1.0))
        grad = numpy.array([3.0, 4.0]) * size
        with pellucid.view(optimizer).measure({"p": grad}) as found:
            optimizer.step({"p": grad / 2})
        one = found["p"]
        assert one.norm == pytest.approx(2.5 * size, rel=1e-14, abs=0)
        assert one.update_norm == pytest.approx(2.5 * size, rel=1e-14, abs=0)
        assert one.grad_norm == pytest.approx(5 * size, rel=1e-14, abs=0)
        assert one.cosine == pytest.approx(1.0)
        assert not one.nonfinite


def test_rates_of_other_rules() -> None:
    """RMSprop corrects nothing; AMSGrad divides by the largest; SGD has the learning rate."""
    rates = {}
    for name, rule in {
        "rmsprop": RMSprop(0.1, rho=0.5, epsilon=0.0),
        "amsgrad": Adam(0.1, beta2=0.5, epsilon=0.0, amsgrad=True),
        "sgd": SGD(0.1),
    }.items():
        optimizer = pellucid.numpy.Optimizer({"p": numpy.ones(3)}, rule)
        optimizer.step([numpy.full(3, 2.0)])
        optimizer.step([numpy.full(3, 1.0)])
        found = pellucid.view(optimizer).statistics()["p"].rate_quantiles
        assert found is not None
        assert len(set(found)) == 1
        rates[name] = found[0]
    assert rates["sgd"] == 0.1
    assert rates["rmsprop"] == pytest.approx(0.1 / math.sqrt(0.5 * 2 + 0.5))
    assert rates["amsgrad"] == pytest.approx(0.1 / math.sqrt(2 / 0.75))


def test_samples_miss_no_column() -> None:
    for rows, columns in ((768, 3072), (50257, 768), (4096, 4096), (5000, 1)):
        stride = measure._stride(rows * columns)
        assert len(range(0, rows * columns, stride)) <= measure.SAMPLE
        seen = {i % columns for i in range(0, rows * columns, stride)}
        assert len(seen) >= min(columns, 0.5 * measure.SAMPLE)


# -- flags -------------------------------------------------------------------------------------


class Net(torch.nn.Module):
    def __init__(self, zero: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = torch.nn.Linear(64, 64)
        self.second = torch.nn.Linear(64, 32)
        self.norm = torch.nn.LayerNorm(32)
        self.head = torch.nn.Linear(32, 10)
        self.unused = torch.nn.Linear(3, 3)
        if zero:
            torch.nn.init.zeros_(self.head.weight)
            for layer in (self.first, self.second, self.head):
                torch.nn.init.zeros_(layer.bias)

    def forward(self, x: Any) -> Any:
        x = torch.relu(self.second(torch.relu(self.first(x.flatten(1)))))
        return self.head(self.norm(x))

    def used(self) -> list[tuple[str, Any]]:
        return [(n, p) for n, p in self.named_parameters() if "unused" not in n]


def batches(count: int) -> Iterator[tuple[Any, Any]]:
    digits, epoch = load_digits(), 0
    while True:
        for images, labels in digits.batches(epoch):
            if not count:
                return
            count -= 1
            yield torch.from_numpy(images), torch.from_numpy(labels)
        epoch += 1


def backward(model: Net, batch: tuple[Any, Any]) -> None:
    model.zero_grad()
    torch.nn.functional.cross_entropy(model(batch[0]), batch[1]).backward()


RULES: dict[str, Any] = {
    "SGD": lambda rate: SGD(0.05 * rate, momentum=0.9),
    "Adam": lambda rate: Adam(1e-3 * rate),
    "AdamW": lambda rate: AdamW(1e-3 * rate),
    "Lion": lambda rate: Lion(learning_rate=3e-4 * rate),
}
TAKEN = (1, 2, 10, 60)


@pytest.mark.parametrize("zero", [False, True], ids=["usual", "zeros"])
@pytest.mark.parametrize("rule", RULES)
def test_healthy_runs_have_no_flags(rule: str, zero: bool) -> None:
    model = Net(zero)
    ours = pellucid.torch.Optimizer(model.used(), RULES[rule](1))
    arrays = {n: p.detach().numpy().copy() for n, p in model.used()}
    in_numpy = pellucid.numpy.Optimizer(arrays, RULES[rule](1))
    views = pellucid.view(ours), pellucid.view(in_numpy)
    assert not [view.statistics().flags for view in views if view.statistics().flags]
    for number, batch in enumerate(batches(60), 1):
        backward(model, batch)
        grads = {n: p.grad.numpy().copy() for n, p in model.used()}
        if number not in TAKEN:
            ours.step()
            in_numpy.step(grads)
            continue
        with views[0].measure() as one, views[1].measure() as other:
            ours.step()
            in_numpy.step(grads)
        with_gradients = views[1].statistics(grads)
        told = [one, other, with_gradients, *(view.statistics() for view in views)]
        assert [str(flag) for each in told for flag in each.flags] == [], number
        assert not any(each.notes for each in told)
        ours.zero_grad()
        assert not views[0].statistics().flags
        assert len(one) == len(other) == 8


DEFAULTS = ("RMSprop", "Adagrad", "Adadelta", "Rprop")


@pytest.mark.parametrize("ours", [False, True], ids=["torch", "pellucid"])
@pytest.mark.parametrize("rule", DEFAULTS)
def test_healthy_runs_at_the_defaults_of_torch(rule: str, ours: bool) -> None:
    """RMSprop's first updates are ten times its rate; Rprop leaves out what changes its sign."""
    model = Net()
    params = [param for _, param in model.used()]
    optimizer: Any = (
        pellucid.torch.Optimizer(model.used(), getattr(pellucid, rule)())
        if ours
        else getattr(torch.optim, rule)(params)
    )
    view = pellucid.view(optimizer) if ours else pellucid.view(optimizer, model=model)
    told = [str(flag) for flag in view.statistics().flags]
    for number, batch in enumerate(batches(61)):
        backward(model, batch)
        if number not in (0, 1, 2, 9, 10, 11, 59, 60):
            optimizer.step()
            continue
        with view.measure() as found:
            optimizer.step()
        told += [f"{number}: {flag}" for one in (found, view.statistics()) for flag in one.flags]
    assert told == []


@pytest.mark.parametrize("after", [10, 40])
@pytest.mark.parametrize("rule", RULES)
def test_rate_100_times_too_high(rule: str, after: int) -> None:
    model = Net()
    optimizer = pellucid.torch.Optimizer(model.used(), RULES[rule](1))
    view = pellucid.view(optimizer)
    *some, last = batches(after + 1)
    for batch in some:
        backward(model, batch)
        optimizer.step()
    backward(model, last)
    view["learning_rate"] = view["learning_rate"] * 100
    with view.measure() as found:
        optimizer.step()
    flagged = {flag.parameter for flag in found.flags if flag.kind == "rate"}
    assert flagged >= {"first.weight", "second.weight"}
    assert {flag.kind for flag in found.flags} == {"rate"}
    assert "lower the learning rate" in found.flags[0].text


def test_rate_in_the_first_updates() -> None:
    """A rate is called too high there only if it is so ten times over."""
    for rate, wanted in ((0.1, False), (1.0, True)):
        model = Net()
        optimizer = pellucid.torch.Optimizer(model.used(), Adam(rate))
        backward(model, next(batches(1)))
        with pellucid.view(optimizer).measure() as found:
            optimizer.step()
        assert bool(found.flags) == wanted
        assert {flag.kind for flag in found.flags} <= {"rate"}


def trained(steps: int = 3, rule: Any = None, **change: Any) -> tuple[Net, Any, Any]:
    model = Net()
    params = list(model.named_parameters()) if change.get("all") else model.used()
    optimizer = pellucid.torch.Optimizer(params, rule or AdamW(1e-3))
    for batch in batches(steps):
        backward(model, batch)
        optimizer.step()
    return model, optimizer, pellucid.view(optimizer)


def kinds(found: Statistics) -> set[tuple[str, str]]:
    return {(flag.kind, flag.parameter) for flag in found.flags}


def test_injected_nan() -> None:
    model, optimizer, view = trained()
    with torch.no_grad():
        model.second.weight.view(-1)[[3, 5]] = torch.tensor([float("nan"), float("inf")])
        optimizer.state[model.head.bias]["exp_avg"][2] = -float("inf")
        model.first.bias.grad[1] = float("nan")
    found = view.statistics()
    assert kinds(found) == {
        ("nonfinite", "second.weight"), ("nonfinite", "head.bias"), ("nonfinite", "first.bias"),
    }  # fmt: skip
    assert found["second.weight"].nonfinite == {"parameter": 2}
    assert found["head.bias"].nonfinite == {"first_moment": 1}
    assert found["first.bias"].nonfinite == {"gradient": 1}
    assert not math.isfinite(found["second.weight"].norm or 0)
    assert "2 of 2,048 in the parameter" in str(found)
    with view.measure() as found:
        optimizer.step()
    assert found["first.bias"].nonfinite == {
        "parameter": 1, "gradient": 1, "first_moment": 1, "second_moment": 1,
    }  # fmt: skip
    assert ("nonfinite", "first.bias") in kinds(found)
    assert not {flag.kind for flag in found.flags} - {"nonfinite"}
    read = json.loads(found.to_json())
    assert read["parameters"]["first.bias"]["norm"] == "nan"


@pytest.mark.parametrize("rule", [SGD(0.05), AdamW(1e-3)], ids=["SGD", "AdamW"])
def test_frozen_layers(rule: Any) -> None:
    model, optimizer, view = trained(rule=rule)
    batch = next(batches(1))

    def flagged() -> set[tuple[str, str]]:
        with view.measure() as found:
            optimizer.step()
        return kinds(found)

    backward(model, batch)
    assert flagged() == set()
    view.reset("first.weight")  # it never had any other gradient than zero
    for _ in range(2):
        backward(model, batch)
        model.first.weight.grad.zero_()
        found = flagged()
    assert found == {("frozen", "first.weight")}
    backward(model, batch)
    model.first.weight.grad = None  # in this step: another branch may have had it
    assert flagged() == set()


def test_frozen_on_purpose() -> None:
    """As in LoRA: no fault, but said."""
    model, optimizer, view = trained()
    model.first.requires_grad_(False)
    backward(model, next(batches(1)))
    with view.measure() as found:
        optimizer.step()
    note = "2 parameters are frozen (requires_grad is False)"
    for one in (found, view.statistics()):
        assert not one.flags
        assert one.notes == [note]
    model.first.bias.requires_grad_(True)
    assert view.statistics().notes == ["1 parameter is frozen (requires_grad is False)"]


class Experts(torch.nn.Module):
    """Of which each batch uses one, in turn."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.experts = torch.nn.ModuleList(torch.nn.Linear(64, 10) for _ in range(3))

    def forward(self, x: Any, number: int) -> Any:
        return self.experts[number % 2](x.flatten(1))  # the third one is never used


@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.AdamW(p, 1e-3),
        lambda p: torch.optim.RMSprop(p, 1e-3),
        lambda p: torch.optim.SGD(p, 0.05),
        lambda p: torch.optim.SGD(p, 0.05, momentum=0.9),
        lambda p: pellucid.torch.Optimizer(p, AdamW(1e-3)),
        lambda p: pellucid.torch.Optimizer(p, SGD(0.05)),
    ],
)
def test_experts_in_turn(make: Callable[[Any], Any]) -> None:
    model = Experts()
    optimizer = make(model.parameters())
    view = pellucid.view(optimizer, model=model)
    never = {("unused", "experts.2.weight"), ("unused", "experts.2.bias")}
    for number, (images, labels) in enumerate(batches(24), 1):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(images, number), labels).backward()
        with view.measure() as found:
            optimizer.step()
        assert kinds(found) <= (never if number >= 10 else set()), number
    # without state nothing tells that it was never used, nor torch's SGD how many updates it made
    assert kinds(found) == (never if any("step" in one for one in view.state) else set())


def pair() -> tuple[Any, Any, Any, Any]:
    torch.manual_seed(0)
    generator, judge = torch.nn.Linear(4, 8), torch.nn.Linear(8, 1)
    return generator, judge, torch.randn(16, 4), torch.randn(16, 8)


@pytest.mark.parametrize("kind", ["Adam", "SGD", "ours"])
def test_two_optimizers_in_turn(kind: str) -> None:
    """Who made no update in the block has nothing that is frozen."""
    generator, judge, noise, truth = pair()
    made: list[Any] = [
        pellucid.torch.Optimizer(one, Adam(1e-3))
        if kind == "ours"
        else getattr(torch.optim, kind)(one.parameters(), 1e-3)
        for one in (generator, judge)
    ]
    view = pellucid.view(made)
    for number in range(24):
        for stepped in made:
            for one in made:
                one.zero_grad()
            fake = judge(generator(noise))
            (fake.square().mean() - judge(truth).mean()).backward()  # both have gradients
            with view.measure() as found:
                stepped.step()
            assert not found.flags, number
            assert found.updates == 1


def test_rounding_is_verified() -> None:
    half = torch.nn.Parameter(torch.full((64,), 3.0, dtype=torch.bfloat16))
    wide = torch.nn.Parameter(torch.ones(64))
    for make, rate, wanted in (
        (torch.optim.AdamW, 1e-6, True),
        (torch.optim.SGD, 1e-6, True),
        (torch.optim.AdamW, 1.0, False),  # put back by whom it may be: not by rounding
    ):
        optimizer = make([half, wide], rate, weight_decay=0.0)
        view = pellucid.view(optimizer)
        half.grad, wide.grad = torch.ones_like(half), torch.ones_like(wide)
        before = half.detach().clone()
        with view.measure() as found:
            optimizer.step()
            with torch.no_grad():
                half.copy_(before)
        texts = [flag.text for flag in found.flags if flag.kind == "frozen"]
        assert bool(texts) == wanted, make
        assert all("below the rounding of bfloat16" in text for text in texts)


def test_rprop_that_skips() -> None:
    first, second = torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.Rprop([first, second], 1e-9, step_sizes=(1e-12, 50))
    view = pellucid.view(optimizer)
    for sign in (1.0, 1.0, -1.0):  # it leaves out a number whose gradient changes its sign
        first.grad, second.grad = torch.full((2,), sign), torch.ones(2)
        with view.measure() as found:
            optimizer.step()
            with torch.no_grad():
                second.add_(1e-3)
        assert not found.flags


def test_warm_up_from_zero() -> None:
    """A rate of 0 that a scheduler or a schedule holds is meant."""
    model = Net()
    theirs = torch.optim.AdamW(
        [{"params": model.first.parameters()}, {"params": model.head.parameters()}], 1e-3
    )
    scheduler = torch.optim.lr_scheduler.LambdaLR(theirs, [lambda n: float(n > 1), lambda n: 1.0])
    ours = pellucid.torch.Optimizer(
        [("first.weight", model.first.weight), ("head.weight", model.head.weight)],
        AdamW(1e-3),
        groups={"first.*": {"learning_rate": lambda step: 1e-3 * (step > 2)}},
    )
    for optimizer, after in ((theirs, scheduler.step), (ours, lambda: None)):
        view = pellucid.view(optimizer)
        for batch in batches(3):
            backward(model, batch)
            with view.measure() as found:
                optimizer.step()
                after()
            assert not found.flags


def test_rate_of_zero_without_a_scheduler() -> None:
    model = Net()
    groups = [
        {"params": model.first.parameters(), "lr": 0.0}, {"params": model.head.parameters()},
    ]  # fmt: skip
    optimizer = torch.optim.AdamW(groups, 1e-3)
    backward(model, next(batches(1)))
    with pellucid.view(optimizer, model=model).measure() as found:
        optimizer.step()
    assert kinds(found) == {("frozen", "first.weight"), ("frozen", "first.bias")}


def test_group_without_a_rate_is_frozen() -> None:
    model = Net()
    optimizer = pellucid.torch.Optimizer(
        model.used(), AdamW(1e-3), groups={"first.*": {"learning_rate": 0.0}}
    )
    view = pellucid.view(optimizer)
    backward(model, next(batches(1)))
    with view.measure() as found:
        optimizer.step()
    assert kinds(found) == {("frozen", "first.weight"), ("frozen", "first.bias")}
    assert "is 0" in found.flags[0].text
    view["learning_rate"] = 0.0  # of all, as at the start of a warm-up: nothing to say
    with view.measure() as found:
        optimizer.step()
    assert not found.flags


def test_zero_gradient_for_good_is_frozen() -> None:
    """Weight decay moves it, and nothing else."""
    model = Net()
    optimizer = pellucid.torch.Optimizer(model.used(), AdamW(1e-3))
    view = pellucid.view(optimizer)
    for number, batch in enumerate(batches(2)):
        backward(model, batch)
        model.first.weight.grad.zero_()
        with view.measure() as found:
            optimizer.step()
        assert kinds(found) == ({("frozen", "first.weight")} if number else set())
    assert found["first.weight"].untouched == ["first_moment", "second_moment"]
    assert found["first.bias"].untouched == []


@pytest.mark.parametrize("rule", RULES)
def test_unused_parameter(rule: str) -> None:
    assert not kinds(trained(9, all=True, rule=RULES[rule](1))[2].statistics())  # too early
    model, optimizer, view = trained(10, all=True, rule=RULES[rule](1))
    wanted = {("unused", "unused.weight"), ("unused", "unused.bias")}
    assert kinds(view.statistics()) == wanted
    assert view.statistics()["unused.bias"].grad_missing
    with view.measure() as found:
        optimizer.step()
    assert kinds(found) == wanted
    assert kinds(pellucid.view(pellucid.torch.Optimizer(model, Adam())).statistics()) == set()


def test_unused_parameter_in_numpy() -> None:
    params = {"a": numpy.ones(3), "b": numpy.ones(3)}
    optimizer = pellucid.numpy.Optimizer(params, Adam())
    view = pellucid.view(optimizer)
    for _ in range(10):
        assert kinds(view.statistics()) == set()
        optimizer.step({"a": numpy.ones(3)})
    assert kinds(view.statistics()) == {("unused", "b")}
    assert view.statistics()["b"].untouched == ["first_moment", "second_moment"]
    assert kinds(view.statistics({"a": numpy.ones(3)})) == {("unused", "b")}
    assert kinds(view.statistics([numpy.ones(3), numpy.ones(3)])) == set()
    with pytest.raises(ValueError, match="no parameter of that name"):
        view.statistics({"c": numpy.ones(3)})


# -- gradients of the block --------------------------------------------------------------------


def test_gradients_are_those_of_the_step() -> None:
    model, optimizer, view = trained()
    one, other = batches(2)
    backward(model, one)
    first = norm(doubles(model.first.weight.grad))
    with view.measure() as found:
        optimizer.step()
        optimizer.zero_grad()
    assert found["first.weight"].grad_norm == pytest.approx(first)
    with view.measure() as found:
        backward(model, other)
        second = norm(doubles(model.first.weight.grad))
        optimizer.step()
        optimizer.zero_grad()
    assert found["first.weight"].grad_norm == pytest.approx(second)
    assert first != second
    backward(model, one)
    with view.measure() as found:
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)
    assert found["first.weight"].grad_norm is None
    assert not found.flags
    assert "zeroed" in found.notes[0] or "cleared" in found.notes[0]


def test_an_error_in_the_block_is_passed_on() -> None:
    _, _, view = trained()
    with pytest.raises(RuntimeError, match="mine"), view.measure() as found:
        raise RuntimeError("mine")
    assert not found
    with view.measure() as found:
        pass
    assert found.updates == 0
    assert not found.flags


def test_measured_inside_each_other() -> None:
    _, optimizer, view = trained()
    with view.measure():  # the memory of its copy is used again, by one at a time
        pass
    with view.measure() as outer:
        optimizer.step()
        with view.measure() as inner:
            optimizer.step()
    assert (inner.updates, outer.updates) == (1, 2)
    small, large = inner["first.weight"].update_norm, outer["first.weight"].update_norm
    assert small is not None
    assert large is not None
    assert 1.5 * small < large < 2.5 * small


# -- strange things and showing ----------------------------------------------------------------


def test_what_cannot_be_measured_is_noted() -> None:
    a, b = torch.nn.Parameter(torch.ones(4, 3)), torch.nn.Parameter(torch.ones(2))
    optimizer = pellucid.torch.Optimizer([("a", a), ("b", b)], SGD(0.1, momentum=0.9))
    a.grad, b.grad = torch.ones(4, 3), torch.ones(2)
    optimizer.step()
    optimizer.state[a]["codes"] = torch.zeros(3, dtype=torch.uint8)
    optimizer.state[a]["far"] = torch.zeros(3, device="meta")
    optimizer.state[a]["sparse"] = torch.eye(3).to_sparse()
    optimizer.state[b]["spread"] = torch.ones(1).expand(4)
    optimizer.state[b]["nothing"] = torch.zeros(2, 0)
    with pellucid.view(optimizer).measure() as found:
        pass
    assert found["a"].slots["sparse"] == pytest.approx(math.sqrt(3))
    assert found["b"].slots["spread"] == 2
    assert found["b"].slots["nothing"] == 0
    assert not {"codes", "far"} & set(found["a"].slots)
    assert [note.split(" was")[0] for note in found.notes] == ["a: codes", "a: far"]
    a.grad = torch.ones(4, 3).to_sparse()
    assert pellucid.view(optimizer).statistics()["a"].grad_norm == pytest.approx(math.sqrt(12))


def test_shown() -> None:
    model, optimizer, view = trained()
    with torch.no_grad():
        model.head.bias[0] = float("nan")
    with view.measure() as found:
        optimizer.step()
    assert next(iter(found.rows))[0] == "head.bias"  # the worst first
    ratios = [one.update_ratio for _, one in found.rows[1:]]
    assert ratios == sorted(ratios, reverse=True)
    shown = str(found)
    assert "nonfinite: head.bias: NaN" in " ".join(shown.split())
    assert "measured over 1 update" in " ".join(shown.split())
    assert all(name in shown for name in found)
    assert "first_moment" in shown
    assert max(map(len, shown.splitlines())) <= 80
    out = io.StringIO()
    Console(file=out, width=200).print(found)
    assert out.getvalue().count("head.bias") == 2  # one table, and the flag
    page = found._repr_html_()
    assert ">head.bias</th>" in page
    assert "<script" not in page
    assert json.loads(found.to_json()) == found.to_dict()
    assert list(found) == [name for name, _ in model.used()]
    assert "nothing measured yet" in repr(Statistics("SGD"))
