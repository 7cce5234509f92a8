"""Signum: the sign of the momentum."""

from typing import Any

from pellucid.ops import lerp, sign
from pellucid.rule import Rule, hyper, slot

__all__ = ["Signum"]


class Signum(Rule):
    """Step along the sign of the mean gradient; without momentum this is signSGD.

        m = momentum m + (1 - momentum) grad
        param = param - learning_rate (sign(m) + weight_decay param)

    Bernstein et al. 2018, arXiv:1802.04434, Algorithm 2.
    """

    learning_rate = hyper(1e-4, minimum=0, doc="Step size: that of every element.")
    momentum = hyper(0.9, minimum=0, below=1, doc="Decay of the mean gradient.")
    weight_decay = hyper(0.0, minimum=0, doc="This times learning_rate is the share removed.")
    first_moment = slot()

    def update(self, param: Any, grad: Any) -> Any:
        self.first_moment = lerp(grad, self.first_moment, self.momentum)
        direction = sign(self.first_moment)
        return param - self.learning_rate * (direction + self.weight_decay * param)
