"""Lion: evolved sign momentum."""

from typing import Any

from pellucid.ops import lerp, sign
from pellucid.rule import Rule, hyper, slot

__all__ = ["Lion"]


class Lion(Rule):
    """Step along the sign of an interpolated momentum.

        c = beta1 m + (1 - beta1) grad
        m = beta2 m + (1 - beta2) grad
        param = param - learning_rate (sign(c) + weight_decay param)

    Chen et al. 2023, arXiv:2302.06675, Algorithm 2.
    """

    learning_rate = hyper(1e-4, minimum=0, doc="Step size: that of every element.")
    beta1 = hyper(0.9, minimum=0, below=1, doc="Share of the momentum in the direction.")
    beta2 = hyper(0.99, minimum=0, below=1, doc="Decay of the momentum.")
    weight_decay = hyper(0.0, minimum=0, doc="This times learning_rate is the share removed.")
    first_moment = slot()

    def update(self, param: Any, grad: Any) -> Any:
        direction = sign(lerp(grad, self.first_moment, self.beta1))
        self.first_moment = lerp(grad, self.first_moment, self.beta2)
        return param - self.learning_rate * (direction + self.weight_decay * param)
