"""Optimizers that are not ours: the catalogues of torch, pytorch_optimizer, heavyball and timm."""

from __future__ import annotations

import inspect
import random
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy
import torch
from torch import nn

STEPS = 3

import torchvision_on_cpu  # noqa: E402, F401, I001  (before those that import it)
import heavyball  # noqa: E402
import pytorch_optimizer  # noqa: E402
import timm.optim  # noqa: E402
from accelerate import Accelerator  # noqa: E402
from lightning.pytorch.core.optimizer import LightningOptimizer  # noqa: E402

heavyball.utils.compile_mode = None


def accelerated(optimizer: Any) -> Any:
    """An ``AcceleratedOptimizer``."""
    return Accelerator(cpu=True).prepare(optimizer)


WRAPPERS = (LightningOptimizer, accelerated)

# -- models, and what a class is constructed with ----------------------------------------------


def dense() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))


def embedded() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Embedding(6, 3, sparse=True), nn.Flatten(), nn.Unflatten(1, (3,)))


def parameters(net: nn.Module) -> Any:
    return list(net.parameters())


def matrices(net: nn.Module) -> Any:
    return [param for param in net.parameters() if param.ndim == 2]


def vectors(net: nn.Module) -> Any:
    return [param for param in net.parameters() if param.ndim != 2]


def with_muon(net: nn.Module) -> Any:
    return [
        {"params": matrices(net), "use_muon": True},
        {"params": vectors(net), "use_muon": False},
    ]


def split(net: nn.Module) -> Any:
    return [
        {"params": matrices(net), "optimizer": heavyball.Muon, "lr": 0.02},
        {"params": vectors(net), "optimizer": heavyball.AdamW, "lr": 0.001},
    ]


def whole(net: nn.Module) -> Any:
    return net


# -- how a class takes a step ------------------------------------------------------------------

Losses = Callable[[], torch.Tensor]


def plain(optimizer: Any, loss: Losses) -> None:
    optimizer.zero_grad()
    loss().backward()
    optimizer.step()


def closure(optimizer: Any, loss: Losses) -> None:
    def again() -> torch.Tensor:
        optimizer.zero_grad()
        found = loss()
        found.backward()
        return found

    optimizer.step(again)


def gradients_and_closure(optimizer: Any, loss: Losses) -> None:
    optimizer.zero_grad()
    loss().backward()

    def again() -> torch.Tensor:
        found = loss()
        found.backward()
        return found

    optimizer.step(again)


def second_order(optimizer: Any, loss: Losses) -> None:
    optimizer.zero_grad()
    with warnings.catch_warnings():  # of the cycle between a parameter and such a gradient
        warnings.filterwarnings("ignore", message="Using backward.. with create_graph=True")
        loss().backward(create_graph=True)
    optimizer.step()
    optimizer.zero_grad()


def loss_alone(optimizer: Any, loss: Losses) -> None:
    optimizer.zero_grad()
    found = loss()
    found.backward()
    optimizer.step(lambda: float(found))


def fused(optimizer: Any, loss: Losses) -> None:
    optimizer.fused_backward(loss(), optimizer.param_groups[0]["lr"])


@dataclass(frozen=True)
class Case:
    """One class of a catalogue, and how it is constructed and used."""

    name: str
    make: Callable[..., Any]
    options: Mapping[str, Any] = field(default_factory=dict)
    given: Callable[[nn.Module], Any] = parameters
    step: Callable[[Any, Losses], None] = plain
    net: Callable[[], nn.Module] = dense
    steps: int = STEPS  # more for those that warm up

    def construct(self, net: nn.Module, **changed: Any) -> Any:
        _seed(1)
        with warnings.catch_warnings():  # of a package that is not needed
            warnings.simplefilter("ignore", ImportWarning)
            optimizer = self.make(self.given(net), **{**self.options, **changed})
        if "ScheduleFree" in type(optimizer).__name__:
            optimizer.train()
        return optimizer

    def train(self, net: nn.Module, optimizer: Any, first: int, steps: int) -> None:
        """Steps whose gradients depend on the number of the step and the parameters alone."""
        for number in range(first, first + steps):
            _seed(number)
            data = torch.randn(5, 4) if self.net is dense else torch.randint(0, 6, (5,))
            _seed(100 + number)
            self.step(optimizer, lambda data=data: _loss(net(data)))  # type: ignore[misc]


def _seed(number: int) -> None:
    torch.manual_seed(number)
    random.seed(number)
    numpy.random.seed(number)  # Kron's


def _loss(out: torch.Tensor) -> torch.Tensor:
    return (out**2).sum() + out.sum()


# -- the catalogues ----------------------------------------------------------------------------

SPECIAL: dict[str, dict[str, Any]] = {
    "torch.LBFGS": {"step": closure},
    "torch.Muon": {"given": matrices},
    "torch.SparseAdam": {"net": embedded},
    "pytorch_optimizer.adafactor": {"options": {"relative_step": False}},
    "pytorch_optimizer.adago": {"given": with_muon},
    "pytorch_optimizer.adahessian": {"step": second_order},
    "pytorch_optimizer.adalomo": {"given": whole, "step": fused},
    "pytorch_optimizer.adammini": {"given": whole},
    "pytorch_optimizer.adashift": {"options": {"keep_num": 2}},
    "pytorch_optimizer.adamuon": {"given": with_muon},
    "pytorch_optimizer.alig": {"step": loss_alone, "options": {"max_lr": 1e-4}},
    "pytorch_optimizer.bsam": {"step": gradients_and_closure, "options": {"num_data": 5}},
    "pytorch_optimizer.distributedmuon": {"given": with_muon},
    "pytorch_optimizer.lbfgs": {"step": closure},
    "pytorch_optimizer.lomo": {"given": whole, "step": fused},
    "pytorch_optimizer.magma": {
        "options": {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.01}
    },
    "pytorch_optimizer.muon": {"given": with_muon},
    "pytorch_optimizer.muonclip": {"given": with_muon},
    "pytorch_optimizer.normuon": {"given": with_muon},
    "pytorch_optimizer.radam": {"steps": 8},
    "pytorch_optimizer.ranger21": {"options": {"num_iterations": 10}},
    "pytorch_optimizer.sara": {"options": {"lr": 0.01, "threshold": 1.0}},
    "pytorch_optimizer.schedulefreeradam": {"steps": 8},
    "pytorch_optimizer.sophiah": {"step": second_order},
    "pytorch_optimizer.spectralsphere": {"given": matrices},
    "heavyball.AdamC": {"options": {"max_lr": 0.01}},
    "heavyball.PSGDLRA": {"options": {"rank": 2}},
    "heavyball.SAMWrapper": {"step": closure},
    "heavyball.SplitOpt": {"given": split},
    "timm.adafactor": {"options": {"lr": 0.01}},
    "timm.cadafactor": {"options": {"lr": 0.01}},
    "timm.adahessian": {"step": second_order},
    **{
        f"timm.{name}": {"options": {"lr": 0.01, "momentum": 0.9}}
        for name in ("csgdc", "csgdp", "csgdw", "nesterov", "nesterovw", "nlarc", "nlars", "sgd",
                     "sgdc", "sgdp", "sgdw")
    },
}  # fmt: skip
"""Arguments and ways to step that a class asks for."""


def _case(catalogue: str, name: str, make: Callable[..., Any]) -> Case:
    full = f"{catalogue}.{name}"
    special = dict(SPECIAL.get(full, {}))
    rate = inspect.signature(make).parameters.get("lr")
    if "options" not in special and rate is not None and rate.default is inspect.Parameter.empty:
        special["options"] = {"lr": 0.01}
    return Case(full, make, **special)


def _public(module: Any) -> dict[str, Any]:
    base = torch.optim.Optimizer
    found = {name: getattr(module, name) for name in dir(module) if not name.startswith("_")}
    return {
        name: one
        for name, one in found.items()
        if isinstance(one, type) and issubclass(one, base) and one is not base
    }


def _of_timm(name: str) -> Callable[..., Any]:
    def make(params: Any, **options: Any) -> Any:
        return timm.optim.get_optimizer_class(name)(params, **options)

    try:
        return timm.optim.get_optimizer_class(name)
    except AssertionError:  # says that it needs CUDA: asserted in the test
        return make


CATALOGUES: dict[str, dict[str, Callable[..., Any]]] = {
    "torch": _public(torch.optim),
    "pytorch_optimizer": {
        name: pytorch_optimizer.load_optimizer(name)
        for name in pytorch_optimizer.get_supported_optimizers()
    },
    "heavyball": _public(heavyball),
    "timm": {name: _of_timm(name) for name in timm.optim.list_optimizers()},
}

CASES: list[Case] = [
    _case(catalogue, name, make)
    for catalogue, held in CATALOGUES.items()
    for name, make in held.items()
]
