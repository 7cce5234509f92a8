"""Adam with the infinity norm."""

from typing import Any

from pellucid.ops import abs, lerp, maximum
from pellucid.rule import Rule, hyper, slot

__all__ = ["Adamax"]


class Adamax(Rule):
    """Step along the mean gradient, each element divided by its decaying largest size.

        g = grad + weight_decay param
        m = beta1 m + (1 - beta1) g
        u = max(beta2 u, |g| + epsilon)
        param = param - learning_rate / (1 - beta1^t) m / u

    Kingma & Ba 2015, arXiv:1412.6980, Algorithm 2, which has no epsilon: torch adds it inside the
    maximum.
    """

    learning_rate = hyper(2e-3, minimum=0, doc="Step size.")
    beta1 = hyper(0.9, minimum=0, below=1, doc="Decay of the mean gradient.")
    beta2 = hyper(0.999, minimum=0, below=1, doc="Decay of the largest gradient.")
    epsilon = hyper(1e-8, minimum=0, doc="Added to |g|, so that the step stays bounded.")
    weight_decay = hyper(0.0, minimum=0, doc="This times the parameter is added to the gradient.")
    first_moment = slot()
    infinity_norm = slot()

    def update(self, param: Any, grad: Any) -> Any:
        grad = grad + self.weight_decay * param
        self.first_moment = lerp(grad, self.first_moment, self.beta1)
        self.infinity_norm = maximum(self.beta2 * self.infinity_norm, abs(grad) + self.epsilon)
        step_size = self.learning_rate / (1 - self.beta1**self.step)
        return param - step_size * self.first_moment / self.infinity_norm
