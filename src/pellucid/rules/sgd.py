"""Stochastic gradient descent, with momentum."""

from typing import Any

from pellucid.ops import where
from pellucid.rule import Rule, hyper, option, slot

__all__ = ["SGD"]


class SGD(Rule):
    """Step against the gradient, or against a velocity that accumulates gradients.

        g = grad + weight_decay param
        v = momentum v + (1 - dampening) g;  at a parameter's first update v = g
        param = param - learning_rate v;  nesterov: param - learning_rate (g + momentum v)

    Sutskever et al. 2013, "On the importance of initialization and momentum in deep learning",
    eq. 1-4, in the form of `torch.optim.SGD`: the rate stands outside the velocity.
    """

    learning_rate = hyper(1e-3, minimum=0, doc="Step size.")
    momentum = hyper(0.0, minimum=0, doc="Share of the velocity that is kept; 0: no velocity.")
    dampening = hyper(0.0, minimum=0, maximum=1, doc="Share of each gradient left out.")
    weight_decay = hyper(0.0, minimum=0, doc="This times the parameter is added to the gradient.")
    nesterov = option(False, doc="Step from where the velocity leads.")
    velocity = slot(when=momentum != 0)

    def update(self, param: Any, grad: Any) -> Any:
        grad = direction = grad + self.weight_decay * param
        if self.has("velocity"):
            velocity = self.momentum * self.velocity + (1 - self.dampening) * grad
            self.velocity = where(self.is_new("velocity"), grad, velocity)
            direction = grad + self.momentum * self.velocity if self.nesterov else self.velocity
        return param - self.learning_rate * direction
