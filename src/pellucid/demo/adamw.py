"""The rule that the demo trains with, as its paper prints it."""

from typing import Any

from pellucid.ops import lerp, sqrt, square
from pellucid.rule import Rule, hyper, slot


class AdamW(Rule):
    """Loshchilov & Hutter 2019, arXiv:1711.05101, Algorithm 2; the decay is times the rate."""

    learning_rate = hyper(2e-3, minimum=0)
    beta1 = hyper(0.9, minimum=0, below=1)
    beta2 = hyper(0.999, minimum=0, below=1)
    epsilon = hyper(1e-8, minimum=0)
    weight_decay = hyper(1e-2, minimum=0)
    first_moment = slot()
    second_moment = slot()

    def update(self, param: Any, grad: Any) -> Any:
        self.first_moment = lerp(grad, self.first_moment, self.beta1)
        self.second_moment = lerp(square(grad), self.second_moment, self.beta2)
        mean = self.first_moment / (1 - self.beta1**self.step)
        root = sqrt(self.second_moment / (1 - self.beta2**self.step))
        step = mean / (root + self.epsilon) + self.weight_decay * param
        return param - self.learning_rate * step
