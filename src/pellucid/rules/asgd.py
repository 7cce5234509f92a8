"""Averaged stochastic gradient descent."""

from typing import Any

from pellucid.ops import lerp, maximum
from pellucid.rule import Rule, hyper, ref, slot

__all__ = ["ASGD"]


class ASGD(Rule):
    """Step against the gradient with a falling rate, and keep the average of the parameters.

        g = grad + weight_decay param
        param = param - eta (g + lambd param)
        average = average + mu (param - average)
        for the next update: eta = learning_rate / (1 + lambd learning_rate t)^alpha,
        mu = 1 / max(1, t - t0)

    Polyak & Juditsky 1992, "Acceleration of stochastic approximation by averaging", in the form of
    `torch.optim.ASGD`. At first eta = learning_rate and mu = 1, so a change of the rate acts one
    update late.
    """

    learning_rate = hyper(1e-2, minimum=0, doc="The first step size.")
    lambd = hyper(1e-4, minimum=0, doc="Decay, both of the parameter and of the rate.")
    alpha = hyper(0.75, minimum=0, doc="Power with which the rate falls.")
    t0 = hyper(1e6, minimum=0, doc="After this many updates the averaging starts.")
    weight_decay = hyper(0.0, minimum=0, doc="This times the parameter is added to the gradient.")
    eta = slot(ref("learning_rate"), shape="scalar")
    mu = slot(1.0, shape="scalar")
    average = slot()

    def update(self, param: Any, grad: Any) -> Any:
        grad = grad + self.weight_decay * param
        new = param - self.eta * (grad + self.lambd * param)
        self.average = lerp(self.average, new, self.mu)
        growth = 1 + self.lambd * self.learning_rate * self.step
        self.eta = self.learning_rate / growth**self.alpha
        self.mu = 1 / maximum(1, self.step - self.t0)
        return new
