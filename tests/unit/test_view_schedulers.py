"""Views with the schedulers of Accelerate, Lightning and timm; torch's names; several at once."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy
import pytest
import torch

import pellucid
import pellucid.numpy
from pellucid import SGD, Adam, HyperparameterError
from pellucid.access import UnknownNameError

STEP = torch.optim.lr_scheduler.StepLR


@pytest.fixture(scope="module")
def others() -> Any:
    """The libraries whose schedulers are tried, as the conformance tests import them."""
    return import_module("conformance.optimizers_of_others")


def sgd(rate: float = 0.2, groups: int = 1, **more: Any) -> torch.optim.SGD:
    params = [torch.nn.Parameter(torch.ones(2)) for _ in range(groups)]
    for param in params:
        param.grad = torch.ones(2)
    return torch.optim.SGD([{"params": [one], **more} for one in params], rate)


# -- wrappers ----------------------------------------------------------------------------------


def test_accelerates_scheduler(others: Any) -> None:
    raw = sgd()
    _, optimizer, scheduler = others.Accelerator(cpu=True).prepare(
        torch.nn.Linear(2, 1), raw, STEP(raw, 1, 0.5)
    )
    for made in (scheduler, STEP(optimizer, 1, 0.5), scheduler.scheduler):
        view = pellucid.view(optimizer, scheduler=made)
        view["lr"] = 0.1
        assert raw.param_groups[0]["lr"] == raw.param_groups[0]["initial_lr"] == 0.1
    assert scheduler.scheduler.base_lrs == [0.1]
    assert scheduler.get_last_lr() == [0.1]
    with pellucid.view(optimizer, scheduler=scheduler).override("lr", 0.4):
        assert scheduler.scheduler.base_lrs == [0.4]
    assert scheduler.scheduler.base_lrs == [0.1]
    pair = pellucid.view([optimizer, sgd()], scheduler=scheduler)
    pair["SGD 0/group 0/lr"] = 0.3
    assert scheduler.scheduler.base_lrs == [0.3]
    with pytest.raises(ValueError, match="StepLR of another optimizer"):
        pellucid.view(sgd(), scheduler=scheduler)


def test_lightnings_config(others: Any) -> None:
    types = import_module("lightning.pytorch.utilities.types")
    optimizer = sgd()
    config = types.LRSchedulerConfig(STEP(optimizer, 1, 0.5))
    pellucid.view(others.LightningOptimizer(optimizer), scheduler=config)["lr"] = 0.1
    assert config.scheduler.base_lrs == [0.1]
    with pytest.raises(TypeError, match=r"torch\.optim\.lr_scheduler or timm\.scheduler"):
        pellucid.view(optimizer, scheduler=types.LRSchedulerConfig(None))


# -- timm --------------------------------------------------------------------------------------

TIMM: dict[str, tuple[str, dict[str, Any]]] = {
    "cosine": ("CosineLRScheduler", {"t_initial": 10}),
    "cosine with a floor": ("CosineLRScheduler", {"t_initial": 10, "lr_min": 0.01}),
    "cosine after a warm-up": (
        "CosineLRScheduler",
        {"t_initial": 10, "lr_min": 0.01, "warmup_t": 4, "warmup_lr_init": 0.001},
    ),
    "cosine, decaying": (
        "CosineLRScheduler",
        {"t_initial": 3, "cycle_decay": 0.5, "cycle_limit": 4, "warmup_t": 4},
    ),
    "step": ("StepLRScheduler", {"decay_t": 2, "warmup_t": 4, "warmup_lr_init": 0.001}),
    "multistep": ("MultiStepLRScheduler", {"decay_t": [3, 5]}),
    "poly": ("PolyLRScheduler", {"t_initial": 10, "lr_min": 0.01, "warmup_t": 4}),
    "tanh": (
        "TanhLRScheduler",
        {"t_initial": 10, "lr_min": 0.01, "warmup_t": 4, "warmup_lr_init": 0.001},
    ),
    "tanh after its warm-up": (
        "TanhLRScheduler",
        {"t_initial": 10, "lb": -3.0, "warmup_t": 4, "warmup_prefix": True},
    ),
    "wsd": (
        "WSDLRScheduler",
        {"t_initial": 6, "decay_t": 3, "lr_min": 0.01, "warmup_t": 3, "warmup_lr_init": 0.001},
    ),
    "wsd, rsqrt": (
        "WSDLRScheduler",
        {"t_initial": 6, "decay_t": 3, "warmup_t": 3, "stable_fn": "rsqrt"},
    ),
    "with noise": ("StepLRScheduler", {"decay_t": 2, "noise_range_t": 0}),
}


def timms(others: Any, name: str, rate: float, **more: Any) -> tuple[Any, Any]:
    kind, keywords = TIMM[name]
    optimizer = sgd(rate, 2, **more)
    return optimizer, getattr(import_module("timm.scheduler"), kind)(optimizer, **keywords)


@pytest.mark.parametrize("name", TIMM)
@pytest.mark.parametrize("at", [1, 3, 5])
@pytest.mark.parametrize("scaled", [False, True])
def test_timms_scheduler_goes_on(others: Any, name: str, at: int, scaled: bool) -> None:
    more = {"lr_scale": 0.5} if scaled else {}
    optimizer, scheduler = timms(others, name, 0.2, **more)
    twin, other = timms(others, name, 0.1, **more)  # as if it had begun with half the base
    view = pellucid.view(optimizer, scheduler=scheduler)
    first = optimizer.param_groups[0]
    for t in range(1, 9):
        optimizer.step()
        scheduler.step(t)
        other.step(t)
        if t == at:
            view["group 0/lr"] = twin.param_groups[0]["lr"]
            assert scheduler.base_values == pytest.approx([0.1, 0.2], rel=1e-9)
            assert first["initial_lr"] == pytest.approx(0.1, rel=1e-9)
        if t >= at:
            assert first["lr"] == pytest.approx(twin.param_groups[0]["lr"], rel=1e-9)
    untouched = timms(others, name, 0.2, **more)
    untouched[1].step(8)
    assert optimizer.param_groups[1]["lr"] == untouched[0].param_groups[1]["lr"]


def test_timms_plateau(others: Any) -> None:
    optimizer = sgd(0.2, 2)
    with pytest.warns(FutureWarning):
        scheduler = import_module("timm.scheduler").PlateauLRScheduler(
            optimizer, decay_rate=0.5, patience_t=0, noise_range_t=3
        )
    view = pellucid.view(optimizer, scheduler=scheduler)
    scheduler.step(1, 1.0)
    view["lr"] = 0.1
    scheduler.step(2, 0.5)
    assert view["lr"] == 0.05
    scheduler.step(3, 0.6)  # now with noise
    noisy = view["lr"]
    view["lr"] = noisy / 2
    scheduler.step(4)
    scheduler.noise_range_t = None
    scheduler.step(5)
    assert view["lr"] == pytest.approx(0.0125)


def test_timms_scheduler_is_put_back_and_learns_of_a_split(others: Any) -> None:
    params = [torch.nn.Parameter(torch.ones(2)) for _ in range(2)]
    optimizer = torch.optim.SGD(params, 0.2)
    scheduler = import_module("timm.scheduler").CosineLRScheduler(optimizer, 10, warmup_t=4)
    scheduler.step(2)
    view = pellucid.view(optimizer, scheduler=scheduler)
    held = list(scheduler.base_values), list(scheduler.warmup_steps)
    with view.override("lr", 0.0):
        scheduler.step(3)
        assert view["lr"] == 0.0
    assert (scheduler.base_values, scheduler.warmup_steps) == held
    view["lr"] = 0.0
    view["lr"] = 0.1
    assert (scheduler.base_values, view["lr"]) == ([0.1], 0.1)
    view.split("param_1")
    view["param_1/lr"] = 0.05
    assert scheduler.base_values == pytest.approx([0.1, 0.05])
    scheduler.step(7)
    rates = [group["lr"] for group in optimizer.param_groups]
    assert rates[0] == pytest.approx(2 * rates[1])


@pytest.mark.parametrize(
    ("keywords", "rate", "told"),
    [
        ({"warmup_t": 4, "warmup_lr_init": 0.01}, 0.1, "step the scheduler first"),
        ({"lr_min": 0.01}, 0.001, "lr_min=0.01"),
        ({"lr_min": 0.01, "cycle_decay": 0.5}, 0.1, "cycle_decay=0.5"),
        ({"lr_min": 0.01, "noise_range_t": 3}, 0.1, "noise_range_t=3"),
    ],
)
def test_where_timms_scheduler_cannot_go_on(
    others: Any, keywords: dict[str, Any], rate: float, told: str
) -> None:
    optimizer = sgd()
    scheduler = import_module("timm.scheduler").CosineLRScheduler(optimizer, 10, **keywords)
    before = optimizer.param_groups[0]["lr"], list(scheduler.base_values)
    with pytest.raises(ValueError, match=told):
        pellucid.view(optimizer, scheduler=scheduler)["lr"] = rate
    assert (optimizer.param_groups[0]["lr"], scheduler.base_values) == before
    scheduler.param_group_field = "momentum"
    with pytest.raises(ValueError, match="of 'momentum'"):
        pellucid.view(optimizer, scheduler=scheduler)


# -- torch's usual names -----------------------------------------------------------------------


def numpys(stage: Any = None) -> pellucid.numpy.Optimizer:
    return pellucid.numpy.Optimizer({"w": numpy.ones(2)}, stage or Adam(0.1))


def test_usual_names() -> None:
    optimizer = numpys()
    view = pellucid.view(optimizer)
    assert view["lr"] == view["group 0/lr"] == 0.1
    view["lr"], view["w/eps"], view["betas"] = 0.2, 1e-6, (0.7, 0.8)
    assert (view["learning_rate"], view["epsilon"]) == (0.2, 1e-6)
    assert view["betas"] == (view["beta1"], view["beta2"]) == (0.7, 0.8)
    assert view["betas[1]"] == 0.8
    assert view.journal[0].name == "learning_rate"
    with pytest.raises(HyperparameterError, match="2 values, for beta1, beta2"):
        view["betas"] = 0.9
    with pytest.raises(UnknownNameError, match=r"view.state\['w/first_moment'\]"):
        view["w/exp_avg"]
    with pytest.raises(UnknownNameError, match="did you mean 'learning_rate'"):
        view["learning_rat"]
    view = pellucid.view(numpys(pellucid.RMSprop(0.1, rho=0.9)))
    assert view["alpha"] == 0.9
    with pytest.raises(UnknownNameError):
        view["betas"]
    with pytest.raises(UnknownNameError):
        pellucid.view(numpys(SGD(0.1)))["alpha"]


def test_a_usual_name_means_all_of_several() -> None:
    view = pellucid.view([sgd(0.1), numpys()])
    view["lr"] = 0.3
    assert view["SGD/lr"] == view["Optimizer/lr"] == 0.3


# -- texts -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "kind"),
    [(-1.0, HyperparameterError), (float("nan"), HyperparameterError), (len, TypeError)],
)
def test_an_error_of_several_names_the_optimizer(value: Any, kind: type[Exception]) -> None:
    view = pellucid.view([sgd(), sgd()])
    with pytest.raises(kind, match=r"^SGD 1/group 0/learning_rate \('lr'\) is "):
        view["SGD 1/group 0/lr"] = value
    both = [sgd(), sgd()]
    STEP(both[1], 1)
    with pytest.raises(ValueError, match=r"^SGD 1/group 0/learning_rate .* driven by") as found:
        pellucid.view(both)["lr"] = 0.1
    assert type(found.value) is ValueError
    assert both[0].param_groups[0]["lr"] == 0.2


def test_a_callable_of_a_stranger_is_shown_once() -> None:
    lines = repr(pellucid.view(sgd(callback=len))).splitlines()
    (line,) = [one for one in lines if one.startswith("callback")]
    assert line.split() == ["callback", "len"]
