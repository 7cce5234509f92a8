"""Adam with the infinity norm."""

from typing import Any

from pellucid.ops import abs, lerp, maximum
from pellucid.rule import Rule, hyper, option, slot
from pellucid.rules.weight_decay import decayed

__all__ = ["Adamax"]


class Adamax(Rule):
    """Step along the mean gradient, each element divided by its decaying largest size.

        g = grad + weight_decay param
        m = beta1 m + (1 - beta1) g
        u = max(beta2 u, |g| + epsilon)
        param = param - learning_rate / (1 - beta1^t) m / u

    Kingma & Ba 2015, arXiv:1412.6980, Algorithm 2, which has no epsilon: torch adds it inside the
    maximum. Without epsilon_inside, as in Keras: u = max(beta2 u, |g|), and the division is by
    u + epsilon. decoupled_weight_decay: g = grad, and learning_rate weight_decay param is
    subtracted from the parameter.
    """

    learning_rate = hyper(2e-3, minimum=0, doc="Step size.")
    beta1 = hyper(0.9, minimum=0, below=1, doc="Decay of the mean gradient.")
    beta2 = hyper(0.999, minimum=0, below=1, doc="Decay of the largest gradient.")
    epsilon = hyper(1e-8, minimum=0, doc="Added to |g| or to u, so that the step stays bounded.")
    weight_decay = hyper(0.0, minimum=0, doc="Pull towards zero.")
    epsilon_inside = option(True, doc="Add epsilon inside the maximum, not to its result.")
    decoupled_weight_decay = option(False, doc="Decay the parameter itself, not by its gradient.")
    first_moment = slot()
    infinity_norm = slot()

    def update(self, param: Any, grad: Any) -> Any:
        param, grad = decayed(self, param, grad)
        self.first_moment = lerp(grad, self.first_moment, self.beta1)
        size = abs(grad) + self.epsilon if self.epsilon_inside else abs(grad)
        self.infinity_norm = norm = maximum(self.beta2 * self.infinity_norm, size)
        step_size = self.learning_rate / (1 - self.beta1**self.step)
        divisor = norm if self.epsilon_inside else norm + self.epsilon
        return param - step_size * self.first_moment / divisor
