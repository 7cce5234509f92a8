"""The record of torch programs equals lists written by hand of what they set."""

from __future__ import annotations

import math
from importlib import import_module
from typing import Any

import numpy
import pytest
import torch

import pellucid
import pellucid.numpy
import pellucid.torch
from pellucid.run.collecting import collect
from pellucid.run.record import Record
from pellucid.schedules import Cosine


def model() -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 1))


def below(record: Record, path: str) -> dict[str, tuple[Any, str, str]]:
    return {
        key.removeprefix(f"{path}/"): (one.value, one.provenance, one.source)
        for key, one in record.entries.items()
        if key.startswith(f"{path}/")
    }


def curve(values: list[float]) -> dict[str, Any]:
    steps = [0, 1, 2, 5, 10, 20, 30, 50, 75, 100, 150, 200, 300, 500, 750, 1000, 1500, 2000, 3000,
             5000, 7500, 10000, 20000, 50000, 100000]  # fmt: skip
    return {"steps": steps, "values": [*values, *[values[-1]] * (len(steps) - len(values))]}


# -- optimizers --------------------------------------------------------------------------------


def test_torchs_own_with_two_groups() -> None:
    net = model()
    weights = [param for param in net.parameters() if param.ndim > 1]
    biases = [param for param in net.parameters() if param.ndim == 1]
    optimizer = torch.optim.AdamW(
        [{"params": weights}, {"params": biases, "weight_decay": 0.0, "name": "biases"}],
        lr=2e-3,
        betas=(0.9, 0.95),
    )
    found = below(collect(model=net, optimizer=optimizer), "optimizer")

    def group(decay: tuple[float, str], parameters: list[str], size: int) -> dict[str, Any]:
        return {
            "learning_rate": (0.002, "observed", "AdamW.lr"),
            "beta1": (0.9, "default", "AdamW.betas[0]"),
            "beta2": (0.95, "observed", "AdamW.betas[1]"),
            "epsilon": (1e-08, "default", "AdamW.eps"),
            "weight_decay": (*decay, "AdamW.weight_decay"),
            "amsgrad": (False, "default", "AdamW.amsgrad"),
            "maximize": (False, "default", "AdamW.maximize"),
            "foreach": (None, "default", "AdamW.foreach"),
            "capturable": (False, "default", "AdamW.capturable"),
            "differentiable": (False, "default", "AdamW.differentiable"),
            "fused": (None, "default", "AdamW.fused"),
            "decoupled_weight_decay": (True, "observed", "AdamW.decoupled_weight_decay"),
            "parameters": (parameters, "observed", ""),
            "size": (size, "observed", ""),
        }

    first = group((0.01, "default"), ["0.weight", "1.weight"], 16)
    second = group((0.0, "observed"), ["0.bias", "1.bias"], 5)
    assert found == {
        "class": ("torch.optim.adamw.AdamW", "observed", ""),
        "name": ("AdamW", "observed", ""),
        "updates": (0, "observed", ""),
        **{f"groups/group 0/{key}": one for key, one in first.items()},
        **{f"groups/biases/{key}": one for key, one in second.items()},
    }


def test_ours_with_stages_and_schedules() -> None:
    stage = pellucid.chain(
        pellucid.clip_by_global_norm(1.0), pellucid.SGD(Cosine(0.1, 100), momentum=0.9)
    )
    optimizer = pellucid.torch.Optimizer(
        model(), stage, groups={"*.bias": {"learning_rate": 0.5}}, seed=3
    )
    record = collect(optimizer=optimizer)
    found = below(record, "optimizer")
    cosine = {"class": "Cosine", "start": 0.1, "steps": 100, "end": 0.0}
    assert found["class"][0] == "pellucid.torch.optimizer.Optimizer"
    assert found["stage"][0] == repr(stage)
    assert found["seed"] == (3, "observed", "Optimizer.seed")
    assert found["compiled"] == (True, "default", "Optimizer.compiled")
    assert {key: one[:2] for key, one in found.items() if key.startswith("stages/clip")} == {
        "stages/clip_by_global_norm/class": ("pellucid.transforms.clip_by_global_norm", "observed"),
        "stages/clip_by_global_norm/max_norm": (1.0, "observed"),
    }
    assert found["stages/SGD/momentum"] == (0.9, "observed", "SGD.momentum")
    assert found["stages/SGD/nesterov"] == (False, "default", "SGD.nesterov")
    assert found["groups/group 0/learning_rate"] == (0.1, "observed", "SGD.lr")
    assert found["groups/group 0/momentum"] == (0.9, "observed", "SGD.momentum")
    assert found["groups/group 0/weight_decay"] == (0.0, "default", "SGD.weight_decay")
    assert found["groups/*.bias/learning_rate"] == (0.5, "observed", "SGD.lr")
    assert found["groups/*.bias/parameters"][0] == ["0.bias", "1.bias"]
    schedules = {key: one[0] for key, one in found.items() if key.startswith("schedules/")}
    sampled = [0.05 * (1 + math.cos(math.pi * n / 100)) for n in (0, 1, 2, 5, 10, 20, 30, 50, 75)]
    assert schedules["schedules/group 0/learning_rate/config"] == cosine
    given = schedules["schedules/group 0/learning_rate/curve"]
    assert given["steps"] == curve([0.0])["steps"]
    assert given["values"] == pytest.approx(curve([*sampled, 0.0])["values"])
    assert set(schedules) == {
        "schedules/group 0/learning_rate/config",
        "schedules/group 0/learning_rate/curve",
    }
    assert record.missing == tuple(
        one for one in record.missing if not one.path.startswith("optimizer")
    )


def test_functions_are_sampled_only_if_that_leaves_no_trace() -> None:
    calls = []

    def counted(step: int) -> float:
        calls.append(step)
        return 0.1

    held = 0.5
    optimizer = pellucid.torch.Optimizer(
        model(),
        pellucid.Adam(counted, beta1=lambda step: held),
        groups={"*.bias": {"learning_rate": lambda step: 1 / (step + 1)}},
    )
    calls.clear()
    record = collect(optimizer=optimizer)
    assert calls == []
    lost = {one.path: one.why for one in record.missing}
    assert "uses append" in lost["optimizer/schedules/group 0/learning_rate/curve"]
    assert record["optimizer/schedules/group 0/beta1/config"]["holds"] == {"held": 0.5}
    assert record["optimizer/schedules/group 0/beta1/curve"] == curve([0.5])
    given = record["optimizer/schedules/*.bias/learning_rate/curve"]["values"]
    assert given[:5] == [1.0, 0.5, 1 / 3, 1 / 6, 1 / 11]


def test_arrays_and_references() -> None:
    optimizer = pellucid.numpy.Optimizer(
        {"w": numpy.ones(3)}, pellucid.Adam(0.1, beta1=pellucid.ref("beta2"), beta2=0.9)
    )
    optimizer.step({"w": numpy.ones(3)})
    found = below(collect(optimizer=optimizer), "optimizer")
    assert found["updates"][0] == 1
    assert found["groups/group 0/beta1"] == ("= beta2", "observed", "Adam.beta1")
    assert found["groups/group 0/learning_rate"] == (0.1, "observed", "Adam.learning_rate")
    assert found["groups/group 0/epsilon"] == (1e-08, "default", "Adam.epsilon")


def test_several_are_numbered() -> None:
    net = model()
    record = collect(
        model=net,
        optimizer=[
            torch.optim.SGD(net[0].parameters(), lr=0.1),
            torch.optim.SGD(net[1].parameters(), lr=0.2),
        ],
    )
    assert record["optimizer/0/groups/group 0/learning_rate"] == 0.1
    assert record["optimizer/1/groups/group 0/learning_rate"] == 0.2
    assert record["optimizer/1/groups/group 0/parameters"] == ["1.weight", "1.bias"]


def test_a_class_of_a_strangers() -> None:
    class Mine(torch.optim.Optimizer):
        def __init__(self, params: Any, lr: float = 0.1, *, gamma: float = 2.0) -> None:
            super().__init__(params, {"lr": lr, "gamma": gamma})

    found = below(collect(optimizer=Mine(model().parameters(), lr=0.3)), "optimizer")
    assert found["groups/group 0/learning_rate"] == (0.3, "observed", "Mine.lr")
    assert found["groups/group 0/gamma"] == (2.0, "default", "Mine.gamma")
    assert found["groups/group 0/parameters"][0] == [f"param_{n}" for n in range(4)]


def test_optax() -> None:
    optax = import_module("optax")
    parameters = {"w": numpy.ones(3, "float32")}
    plain = collect(optimizer=optax.adam(1e-3))
    assert plain["optimizer/class"] == "optax._src.base.GradientTransformationExtraArgs"
    assert "inject_hyperparams" in {one.path: one.why for one in plain.missing}["optimizer/groups"]
    chain = optax.chain(
        optax.clip_by_global_norm(1.0), optax.inject_hyperparams(optax.adam)(1e-3, b1=0.8)
    )
    record = collect(optimizer=(chain, chain.init(parameters)))
    assert {path: one.value for path, one in record.entries.items() if "/groups/" in path} == {
        "optimizer/groups/group 0/learning_rate": 0.001,
        "optimizer/groups/group 0/beta1": 0.8,
        "optimizer/groups/group 0/beta2": 0.999,
        "optimizer/groups/group 0/epsilon": 1e-08,
        "optimizer/groups/group 0/eps_root": 0.0,
    }
    assert record["optimizer/updates"] == 0


# -- schedulers --------------------------------------------------------------------------------


def optimizer() -> torch.optim.Optimizer:
    return torch.optim.SGD(model().parameters(), lr=0.1, momentum=0.9)


def halved(epoch: int) -> float:
    return 0.5**epoch


def test_step_lr() -> None:
    one = optimizer()
    scheduler = torch.optim.lr_scheduler.StepLR(one, 10, gamma=0.5)
    record = collect(optimizer=one, scheduler=scheduler)
    found = below(record, "scheduler")
    sampled = found.pop("curve")[0]
    assert found == {
        "class": ("torch.optim.lr_scheduler.StepLR", "observed", ""),
        "step_size": (10, "observed", "StepLR.step_size"),
        "gamma": (0.5, "observed", "StepLR.gamma"),
        "base_lrs": ([0.1], "observed", "StepLR.base_lrs"),
        "last_epoch": (0, "observed", "StepLR.last_epoch"),
    }
    assert sampled["steps"] == list(range(100))
    assert sampled["values"] == pytest.approx([0.1 * 0.5 ** (n // 10) for n in range(100)])
    assert scheduler.last_epoch == 0
    assert one.param_groups[0]["lr"] == 0.1
    told = record.entry("optimizer/groups/group 0/learning_rate")
    assert (told.provenance, told.source) == ("observed", "SGD.lr, driven by an LR scheduler")


def schedulers(one: Any) -> dict[str, Any]:
    kinds: Any = torch.optim.lr_scheduler
    warm = kinds.LinearLR(one, 0.1, total_iters=5)
    cold = kinds.ExponentialLR(one, 0.9)
    return {
        "lambda": kinds.LambdaLR(one, halved),
        "cosine": kinds.CosineAnnealingLR(one, 20, eta_min=0.01),
        "warm restarts": kinds.CosineAnnealingWarmRestarts(one, 7),
        "cycle": kinds.CyclicLR(one, 0.01, 0.2, step_size_up=9),
        "one cycle": kinds.OneCycleLR(one, 0.3, total_steps=200),
        "multi step": kinds.MultiStepLR(one, [3, 8]),
        "sequential": kinds.SequentialLR(one, [warm, cold], [5]),
        "chained": kinds.ChainedScheduler(
            [kinds.ConstantLR(one, 0.5), kinds.ExponentialLR(one, 0.9)]
        ),
    }


@pytest.mark.parametrize("name", schedulers(optimizer()))
def test_curves_are_what_the_scheduler_then_does(name: str) -> None:
    one = optimizer()
    scheduler = {}
    kinds = schedulers(one)
    scheduler = kinds[name]
    for group in one.param_groups:  # the others have left their marks
        group["lr"] = group["initial_lr"]
    record = collect(scheduler=scheduler)
    before = [dict(group) for group in one.param_groups]
    one.step()
    given = []
    for _ in range(100):
        given.append(one.param_groups[0]["lr"])
        scheduler.step()
    assert record["scheduler/curve"]["values"] == given
    assert before[0]["lr"] == given[0]


def test_identities_of_chained_and_lambdas() -> None:
    found = schedulers(optimizer())
    record = collect(scheduler=found["sequential"])
    assert record["scheduler/milestones"] == [5]
    assert record["scheduler/schedulers/0/start_factor"] == 0.1
    assert record["scheduler/schedulers/1/class"] == "torch.optim.lr_scheduler.ExponentialLR"
    told = collect(scheduler=found["lambda"])["scheduler/lr_lambda"]
    assert told["function"].endswith("test_collect_torch:halved")
    assert told["at"].startswith("test_collect_torch.py:")


def test_a_metric_has_no_curve() -> None:
    one = optimizer()
    record = collect(scheduler=torch.optim.lr_scheduler.ReduceLROnPlateau(one, patience=3))
    assert record["scheduler/patience"] == 3
    assert record.entry("scheduler/factor").provenance == "default"
    lost = {missing.path: missing.why for missing in record.missing}
    assert lost["scheduler/curve"] == "it depends on the metric that step() is given"


def test_groups_have_a_curve_each_and_lists_are_numbered() -> None:
    net = model()
    one = torch.optim.SGD([{"params": net[0].parameters(), "name": "first"},
                           {"params": net[1].parameters(), "lr": 1.0}], lr=0.1)  # fmt: skip
    scheduler = torch.optim.lr_scheduler.LambdaLR(one, [halved, lambda epoch: 1.0])
    record = collect(scheduler=[scheduler, {"scheduler": scheduler, "interval": "step"}])
    assert record["scheduler/0/curve/first"]["values"][:2] == [0.1, 0.05]
    assert record["scheduler/0/curve/group 1"]["values"] == [1.0] * 100
    assert record["scheduler/1/interval"] == "step"


def test_timm() -> None:
    import_module("torchvision_on_cpu")
    timm = import_module("timm.scheduler")
    scheduler = timm.CosineLRScheduler(optimizer(), t_initial=50, lr_min=0.01, warmup_t=5,
                                       warmup_lr_init=0.001)  # fmt: skip
    record = collect(scheduler=scheduler)
    values = record["scheduler/curve"]["values"]
    assert values[:3] == pytest.approx([0.001, 0.0208, 0.0406])
    assert values[99] == 0.01
    assert record["scheduler/base_values"] == [0.1]
    assert record["scheduler/t_initial"] == 50


# -- collect itself ----------------------------------------------------------------------------


def test_loss_and_loop() -> None:
    loss = torch.nn.CrossEntropyLoss(label_smoothing=0.1)
    record = collect(loss={"main": loss, "other": "mse", "own": halved}, epochs=3, api_key="abc")
    assert below(record, "loop") == {
        "epochs": (3, "declared", "an argument of collect"),
        "api_key": ("***", "declared", "an argument of collect"),
    }
    assert record["loss/main/label_smoothing"] == 0.1
    assert record.entry("loss/main/reduction").provenance == "default"
    assert record["loss/other"] == "mse"
    assert record["loss/own"]["function"].endswith(":halved")
    assert record.created[:2] == "20"


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("model", 3, "a model of Keras, torch, flax nnx, equinox or scikit-learn"),
        ("optimizer", 3, "an optimizer of Pellucid's, torch's"),
        ("optimizer", [], "allowed are optimizers"),
        ("optimizer", torch.optim.SGD, "pass an optimizer that was constructed"),
        ("data", 3, "a DataLoader of torch"),
        ("loss", 3, "a function, an object that is called"),
        ("scheduler", 3, "a scheduler of torch or timm"),
        ("trainer", 3, "Lightning's Trainer"),
    ],
)
def test_bad_arguments_are_named(name: str, value: Any, allowed: str) -> None:
    with pytest.raises(TypeError, match=allowed) as caught:
        collect(**{name: value})
    assert str(caught.value).startswith(f"{name} is ")


def test_a_fault_in_one_section_loses_none_of_the_others() -> None:
    class Broken(torch.nn.MSELoss):
        @property
        def reduction(self) -> str:  # type: ignore[override]
            raise RuntimeError("no")

        @reduction.setter
        def reduction(self, value: str) -> None: ...

    class Faulty:
        def __iter__(self) -> Any:
            return iter(())

        def __len__(self) -> int:
            raise RuntimeError("no length today")

    class Worse:
        base_lrs = (1,)
        optimizer = property(lambda self: 1 / 0)

        def __getattr__(self, name: str) -> Any:
            raise ZeroDivisionError(name)

    record = collect(loss=Broken(), data=Faulty(), scheduler=Worse(), epochs=2)
    assert record["loop/epochs"] == 2
    lost = {one.path: one.why for one in record.missing}
    assert lost["scheduler"].startswith("reading it failed: ZeroDivisionError")
    assert "RuntimeError" in lost["data/length"]


def test_a_thousand_layers_are_quick() -> None:
    import time

    net = torch.nn.Sequential(*[torch.nn.Linear(2, 2) for _ in range(1000)])
    one = pellucid.torch.AdamW(net)
    collect(model=net, optimizer=one)
    times = []
    for _ in range(5):
        begun = time.perf_counter()
        collect(model=net, optimizer=one)
        times.append(time.perf_counter() - begun)
    assert min(times) < 0.5
