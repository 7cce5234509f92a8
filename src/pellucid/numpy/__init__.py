"""NumPy: the embedded default, no framework needed."""

from pellucid.numpy.optimizer import Optimizer

__all__ = ["Optimizer"]
