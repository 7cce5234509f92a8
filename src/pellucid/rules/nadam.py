"""Adam with Nesterov momentum."""

from typing import Any

from pellucid.ops import lerp, sqrt, square
from pellucid.rule import Rule, hyper, option, slot
from pellucid.rules.weight_decay import decayed

__all__ = ["NAdam"]


class NAdam(Rule):
    """Adam, with a mean gradient that looks one step ahead.

        mu_t = beta1 (1 - 0.96^(t momentum_decay) / 2),  M_t = mu_1 ... mu_t
        m = beta1 m + (1 - beta1) g
        v = beta2 v + (1 - beta2) g^2
        m' = mu_(t+1) m / (1 - M_(t+1)) + (1 - mu_t) g / (1 - M_t)
        param = param - learning_rate m' / (sqrt(v / (1 - beta2^t)) + epsilon)

    g = grad + weight_decay param. decoupled_weight_decay: g = grad, and learning_rate weight_decay
    param is subtracted from the parameter. Dozat 2016, "Incorporating Nesterov momentum into Adam",
    Algorithm 2, in the form of `torch.optim.NAdam`.
    """

    learning_rate = hyper(2e-3, minimum=0, doc="Step size.")
    beta1 = hyper(0.9, minimum=0, below=1, doc="Decay of the mean gradient.")
    beta2 = hyper(0.999, minimum=0, below=1, doc="Decay of the mean squared gradient.")
    epsilon = hyper(1e-8, minimum=0, doc="Added to the root, so that the step stays bounded.")
    weight_decay = hyper(0.0, minimum=0, doc="Pull towards zero.")
    momentum_decay = hyper(4e-3, minimum=0, doc="How fast mu rises from beta1 / 2 to beta1.")
    decoupled_weight_decay = option(False, doc="Decay the parameter itself, not by its gradient.")
    mu_product = slot(1.0, shape="scalar")
    first_moment = slot()
    second_moment = slot()

    def update(self, param: Any, grad: Any) -> Any:
        param, grad = decayed(self, param, grad)
        mu, mu_next = self._mu(self.step), self._mu(self.step + 1)
        self.mu_product = product = self.mu_product * mu
        self.first_moment = lerp(grad, self.first_moment, self.beta1)
        self.second_moment = lerp(square(grad), self.second_moment, self.beta2)
        of_moment, of_grad = mu_next / (1 - product * mu_next), (1 - mu) / (1 - product)
        ahead = of_moment * self.first_moment + of_grad * grad
        root = sqrt(self.second_moment / (1 - self.beta2**self.step)) + self.epsilon
        return param - self.learning_rate * ahead / root

    def _mu(self, step: Any) -> Any:
        return self.beta1 * (1 - 0.5 * 0.96 ** (step * self.momentum_decay))
