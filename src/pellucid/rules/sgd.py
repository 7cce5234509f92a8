"""Stochastic gradient descent, with momentum."""

from typing import Any

from pellucid.ops import where
from pellucid.rule import Rule, hyper, option, slot
from pellucid.rules.weight_decay import decayed

__all__ = ["SGD"]


class SGD(Rule):
    """Step against the gradient, or against a velocity that accumulates gradients.

        g = grad + weight_decay param
        v = momentum v + (1 - dampening) g;  at a parameter's first update v = g
        param = param - learning_rate v;  nesterov: param - learning_rate (g + momentum v)

    In the form of `torch.optim.SGD`: the rate stands outside the velocity. velocity_of="step" is
    the form of Sutskever et al. 2013, "On the importance of initialization and momentum in deep
    learning", eq. 1-4, and of Keras, where the velocity is what is added to the parameter:

        s = -learning_rate g
        v = momentum v + (1 - dampening) s;  v is 0 before a parameter's first update
        param = param + v;  nesterov: param + momentum v + s

    decoupled_weight_decay: g = grad, and learning_rate weight_decay param is subtracted from the
    parameter.
    """

    learning_rate = hyper(1e-3, minimum=0, doc="Step size.")
    momentum = hyper(0.0, minimum=0, doc="Share of the velocity that is kept; 0: no velocity.")
    dampening = hyper(0.0, minimum=0, maximum=1, doc="Share of each gradient left out.")
    weight_decay = hyper(0.0, minimum=0, doc="Pull towards zero.")
    nesterov = option(False, doc="Step from where the velocity leads.")
    velocity_of = option(
        "gradient", choices=("gradient", "step"), doc="What the velocity sums: a step has the rate."
    )
    decoupled_weight_decay = option(False, doc="Decay the parameter itself, not by its gradient.")
    velocity = slot(when=momentum != 0)

    def update(self, param: Any, grad: Any) -> Any:
        param, grad = decayed(self, param, grad)
        of_step = self.velocity_of == "step"
        part = moved = -self.learning_rate * grad if of_step else grad
        if self.has("velocity"):
            velocity = self.momentum * self.velocity + (1 - self.dampening) * part
            self.velocity = velocity if of_step else where(self.is_new("velocity"), part, velocity)
            moved = part + self.momentum * self.velocity if self.nesterov else self.velocity
        return param + moved if of_step else param - self.learning_rate * moved
