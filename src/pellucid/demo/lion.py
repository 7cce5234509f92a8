"""The rule that the demo trains with, as its paper prints it."""

from typing import Any

from pellucid.ops import lerp, sign
from pellucid.rule import Rule, hyper, slot


class Lion(Rule):
    """Chen et al. 2023, arXiv:2302.06675, Algorithm 2."""

    learning_rate = hyper(3e-3, minimum=0)
    beta1 = hyper(0.9, minimum=0, below=1)
    beta2 = hyper(0.99, minimum=0, below=1)
    weight_decay = hyper(1.0, minimum=0)
    first_moment = slot()

    def update(self, param: Any, grad: Any) -> Any:
        update = sign(lerp(grad, self.first_moment, self.beta1))
        self.first_moment = lerp(grad, self.first_moment, self.beta2)
        return param - self.learning_rate * (update + self.weight_decay * param)
