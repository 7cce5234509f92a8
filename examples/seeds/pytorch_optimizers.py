"""Seed 004, "How do I access optimizer parameters in a custom PyTorch optimizer?", running.

Its three optimizers as written there, faults put right and marked ``# mended:``; beside each the
same thing in Pellucid. ``python examples/seeds/pytorch_optimizers.py`` trains both and compares.
"""

from __future__ import annotations

import torch
from torch.optim import Optimizer

import pellucid
import pellucid.torch
from pellucid import SGD, Rule, UpdateTransform, chain, decay_weights, hyper, slot

# -- 1. plain gradient descent ---------------------------------------------------------------


class CustomOptimizer(Optimizer):
    """As in the seed."""

    def __init__(self, params, lr=1e-3, other_param=0.5):
        defaults = dict(lr=lr, other_param=other_param)
        super().__init__(params, defaults)

    @torch.no_grad()  # mended: instead of p.data, which hides the write from autograd
    def step(self, closure=None):
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()

        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                d_p = p.grad
                p.add_(d_p, alpha=-group["lr"])

        return loss


class Custom(Rule):
    """The same: the update alone. ``other_param`` is not read, in the seed either."""

    learning_rate = hyper(1e-3, minimum=0)
    other_param = hyper(0.5)

    def update(self, param, grad):
        return param - self.learning_rate * grad


# -- 2. momentum -----------------------------------------------------------------------------


class MomentumOptimizer(Optimizer):
    """As in the seed."""

    def __init__(self, params, lr=1e-3, momentum=0.9):
        defaults = dict(lr=lr, momentum=momentum)
        super().__init__(params, defaults)

    @torch.no_grad()  # mended: as above
    def step(self, closure=None):
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()

        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                grad = p.grad
                state = self.state[p]
                if "momentum_buffer" not in state:
                    momentum_buffer = torch.zeros_like(p)
                    state["momentum_buffer"] = momentum_buffer
                else:
                    momentum_buffer = state["momentum_buffer"]

                momentum_buffer.mul_(group["momentum"]).add_(grad)
                p.add_(momentum_buffer, alpha=-group["lr"])

        return loss


class Momentum(Rule):
    """The same: state is declared, created and saved for you."""

    learning_rate = hyper(1e-3, minimum=0)
    momentum = hyper(0.9, minimum=0)
    velocity = slot()

    def update(self, param, grad):
        self.velocity = self.momentum * self.velocity + grad
        return param - self.learning_rate * self.velocity


# -- 3. weight decay outside of step ---------------------------------------------------------


class L2DecayOptimizer(Optimizer):
    """As in the seed: the caller must call ``apply_weight_decay`` before each ``step``."""

    def __init__(self, params, lr=1e-3, weight_decay=1e-5):
        defaults = dict(lr=lr, weight_decay=weight_decay)
        super().__init__(params, defaults)

    @torch.no_grad()  # mended: as above
    def apply_weight_decay(self):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                p.mul_(1 - group["lr"] * group["weight_decay"])

    @torch.no_grad()
    def step(self, closure=None):
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()

        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                d_p = p.grad
                p.add_(d_p, alpha=-group["lr"])

        return loss


def decayed(learning_rate: float = 1e-3, weight_decay: float = 1e-5):
    """The same: decay is a stage of the one step, and cannot be forgotten."""
    return chain(SGD(learning_rate), decay_weights(weight_decay))


class ScaleByNorm(UpdateTransform):
    """Beyond the seed: what "modify parameters between gradient and step" usually wants."""

    limit = hyper(1.0, above=0)

    def update(self, param, grad, update):
        from pellucid.ops import minimum, norm

        return update * minimum(1.0, self.limit / (norm(update) + 1e-12))


# -- access, the seed's question -------------------------------------------------------------


def access_by_torch(optimizer: Optimizer) -> dict[str, float]:
    """The seed's way: walk the groups."""
    for group in optimizer.param_groups:
        group["lr"] = group["lr"] * 0.5
    return {f"group {i}/lr": group["lr"] for i, group in enumerate(optimizer.param_groups)}


def access_by_view(optimizer: pellucid.torch.Optimizer) -> dict[str, float]:
    """Pellucid's way: by name, checked, with a reason on record."""
    view = pellucid.view(optimizer)
    view.set("learning_rate", view["learning_rate"] * 0.5, reason="halved, as in seed 004")
    return {"group 0/lr": view["learning_rate"]}


def trained(make_optimizer, steps: int = 50, before_step=None) -> list[torch.Tensor]:
    """The parameters of a small model after some steps on fixed data."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1))
    inputs, targets = torch.randn(64, 8), torch.randn(64, 1)
    optimizer = make_optimizer(model)
    for _ in range(steps):
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(model(inputs), targets).backward()
        if before_step is not None:
            before_step(optimizer)
        optimizer.step()
    return [param.detach().clone() for param in model.parameters()]


PAIRS = {
    "gradient descent": (
        lambda model: CustomOptimizer(model.parameters(), lr=0.05),
        lambda model: pellucid.torch.Optimizer(model, Custom(0.05)),
        None,
    ),
    "momentum": (
        lambda model: MomentumOptimizer(model.parameters(), lr=0.02, momentum=0.9),
        lambda model: pellucid.torch.Optimizer(model, Momentum(0.02, 0.9)),
        None,
    ),
    "weight decay": (
        lambda model: L2DecayOptimizer(model.parameters(), lr=0.05, weight_decay=0.1),
        lambda model: pellucid.torch.Optimizer(model, decayed(0.05, 0.1)),
        lambda optimizer: getattr(optimizer, "apply_weight_decay", lambda: None)(),
    ),
}


def main() -> None:
    """Train with each pair, and show how far apart the two end."""
    for name, (seed, ours, before_step) in PAIRS.items():
        pairs = zip(trained(seed, before_step=before_step), trained(ours), strict=True)
        apart = max((a - b).abs().max().item() for a, b in pairs)
        print(f"{name:18s} largest difference after 50 steps: {apart:.1e}")


if __name__ == "__main__":
    main()
