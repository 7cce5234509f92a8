"""PyTorch: rules as `torch.optim.Optimizer`s."""

from pellucid.torch.optimizer import Optimizer

__all__ = ["Optimizer"]
