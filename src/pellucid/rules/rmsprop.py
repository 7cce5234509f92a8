"""RMSprop, plain and centered."""

from typing import Any

from pellucid.ops import lerp, maximum, sqrt, square
from pellucid.rule import Rule, hyper, option, slot

__all__ = ["RMSprop"]


class RMSprop(Rule):
    """Divide the gradient by the root of its mean square.

        g = grad + weight_decay param
        v = rho v + (1 - rho) g^2
        d = g / (sqrt(v) + epsilon);  centered: sqrt(v - m^2), m = rho m + (1 - rho) g
        param = param - learning_rate d;  with momentum: learning_rate b, b = momentum b + d

    Tieleman & Hinton 2012, "Neural networks for machine learning", lecture 6.5. centered: Graves
    2013, arXiv:1308.0850, eq. 38-41. As in torch, epsilon stands outside the root.
    """

    learning_rate = hyper(1e-2, minimum=0, doc="Step size.")
    rho = hyper(0.99, minimum=0, below=1, doc="Decay of the mean squared gradient.")
    epsilon = hyper(1e-8, minimum=0, doc="Added to the root, so that the step stays bounded.")
    weight_decay = hyper(0.0, minimum=0, doc="This times the parameter is added to the gradient.")
    momentum = hyper(0.0, minimum=0, doc="Share of the velocity that is kept; 0: no velocity.")
    centered = option(False, doc="Divide by the deviation from the mean gradient.")
    second_moment = slot()
    first_moment = slot(when=centered)
    velocity = slot(when=momentum != 0)

    def update(self, param: Any, grad: Any) -> Any:
        grad = grad + self.weight_decay * param
        self.second_moment = variance = lerp(square(grad), self.second_moment, self.rho)
        if self.centered:
            self.first_moment = lerp(grad, self.first_moment, self.rho)
            # Never negative but by rounding, of which torch makes NaN.
            variance = maximum(variance - square(self.first_moment), 0.0)
        direction = grad / (sqrt(variance) + self.epsilon)
        if self.has("velocity"):
            self.velocity = direction = self.momentum * self.velocity + direction
        return param - self.learning_rate * direction
