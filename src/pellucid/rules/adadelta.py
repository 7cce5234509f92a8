"""Adadelta."""

from typing import Any

from pellucid.ops import lerp, sqrt, square
from pellucid.rule import Rule, hyper, option, slot
from pellucid.rules.weight_decay import decayed

__all__ = ["Adadelta"]


class Adadelta(Rule):
    """Scale the gradient by the ratio of two roots: of the mean squared update and gradient.

        g = grad + weight_decay param
        v = rho v + (1 - rho) g^2
        d = sqrt(u + epsilon) / sqrt(v + epsilon) g
        u = rho u + (1 - rho) d^2
        param = param - learning_rate d

    Zeiler 2012, arXiv:1212.5701, Algorithm 1, which has no learning rate. decoupled_weight_decay:
    g = grad, and learning_rate weight_decay param is subtracted from the parameter.
    """

    learning_rate = hyper(1.0, minimum=0, doc="Step size; the paper's is 1.")
    rho = hyper(0.9, minimum=0, below=1, doc="Decay of both mean squares.")
    epsilon = hyper(1e-6, minimum=0, doc="Added to both mean squares: it sets the first steps.")
    weight_decay = hyper(0.0, minimum=0, doc="Pull towards zero.")
    decoupled_weight_decay = option(False, doc="Decay the parameter itself, not by its gradient.")
    second_moment = slot()
    update_moment = slot()

    def update(self, param: Any, grad: Any) -> Any:
        param, grad = decayed(self, param, grad)
        self.second_moment = lerp(square(grad), self.second_moment, self.rho)
        ratio = sqrt(self.update_moment + self.epsilon) / sqrt(self.second_moment + self.epsilon)
        delta = ratio * grad
        self.update_moment = lerp(square(delta), self.update_moment, self.rho)
        return param - self.learning_rate * delta
