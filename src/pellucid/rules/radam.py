"""Adam with a rectified adaptive step."""

from typing import Any

from pellucid.ops import lerp, sqrt, square, where
from pellucid.rule import Rule, hyper, option, slot
from pellucid.rules.weight_decay import decayed

__all__ = ["RAdam"]


class RAdam(Rule):
    """Adam, with a plain step along the mean gradient until the second moment is reliable.

        m = beta1 m + (1 - beta1) g
        v = beta2 v + (1 - beta2) g^2
        rho_inf = 2 / (1 - beta2) - 1,  rho = rho_inf - 2 t beta2^t / (1 - beta2^t)
        r = sqrt((rho - 4) (rho - 2) rho_inf / ((rho_inf - 4) (rho_inf - 2) rho))
        a = r sqrt(1 - beta2^t) / (sqrt(v) + epsilon) if rho > 5, else 1
        param = param - learning_rate a m / (1 - beta1^t)

    g = grad + weight_decay param. decoupled_weight_decay: g = grad, and learning_rate weight_decay
    param is subtracted from the parameter. Liu et al. 2020, arXiv:1908.03265, Algorithm 2, in the
    form of `torch.optim.RAdam`: the threshold is 5, not 4, and epsilon is added to the uncorrected
    root.
    """

    learning_rate = hyper(1e-3, minimum=0, doc="Step size.")
    beta1 = hyper(0.9, minimum=0, below=1, doc="Decay of the mean gradient.")
    beta2 = hyper(0.999, minimum=0, below=1, doc="Decay of the mean squared gradient.")
    epsilon = hyper(1e-8, minimum=0, doc="Added to the root, so that the step stays bounded.")
    weight_decay = hyper(0.0, minimum=0, doc="Pull towards zero.")
    decoupled_weight_decay = option(False, doc="Decay the parameter itself, not by its gradient.")
    first_moment = slot()
    second_moment = slot()

    def update(self, param: Any, grad: Any) -> Any:
        param, grad = decayed(self, param, grad)
        self.first_moment = lerp(grad, self.first_moment, self.beta1)
        self.second_moment = lerp(square(grad), self.second_moment, self.beta2)
        power = self.beta2**self.step
        rho_inf = 2 / (1 - self.beta2) - 1
        rho = rho_inf - 2 * self.step * power / (1 - power)
        r = sqrt((rho - 4) * (rho - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * rho))
        adaptive = r * sqrt(1 - power) / (sqrt(self.second_moment) + self.epsilon)
        step_size = self.learning_rate / (1 - self.beta1**self.step)
        return param - step_size * self.first_moment * where(rho > 5, adaptive, 1.0)
