"""RMSprop, plain and centered."""

from typing import Any

from pellucid.ops import lerp, maximum, sqrt, square
from pellucid.rule import Rule, hyper, option, slot
from pellucid.rules.weight_decay import decayed

__all__ = ["RMSprop"]


class RMSprop(Rule):
    """Divide the gradient by the root of its mean square.

        g = grad + weight_decay param
        v = rho v + (1 - rho) g^2
        d = g / (sqrt(v) + epsilon);  centered: sqrt(v - m^2), m = rho m + (1 - rho) g
        param = param - learning_rate d;  with momentum: learning_rate b, b = momentum b + d

    Tieleman & Hinton 2012, "Neural networks for machine learning", lecture 6.5. centered: Graves
    2013, arXiv:1308.0850, eq. 38-41. As in torch, epsilon stands outside the root, and the rate
    outside the velocity. epsilon_inside, as in Graves and Keras: sqrt(v + epsilon) and
    sqrt(v - m^2 + epsilon). velocity_of="step", as in Keras: b = momentum b + learning_rate d,
    param - b. decoupled_weight_decay: g = grad, and learning_rate weight_decay param is subtracted
    from the parameter.
    """

    learning_rate = hyper(1e-2, minimum=0, doc="Step size.")
    rho = hyper(0.99, minimum=0, below=1, doc="Decay of the mean squared gradient.")
    epsilon = hyper(1e-8, minimum=0, doc="Added to the root, so that the step stays bounded.")
    weight_decay = hyper(0.0, minimum=0, doc="Pull towards zero.")
    momentum = hyper(0.0, minimum=0, doc="Share of the velocity that is kept; 0: no velocity.")
    centered = option(False, doc="Divide by the deviation from the mean gradient.")
    epsilon_inside = option(False, doc="Add epsilon under the root.")
    velocity_of = option(
        "gradient", choices=("gradient", "step"), doc="What the velocity sums: a step has the rate."
    )
    decoupled_weight_decay = option(False, doc="Decay the parameter itself, not by its gradient.")
    second_moment = slot()
    first_moment = slot(when=centered)
    velocity = slot(when=momentum != 0)

    def update(self, param: Any, grad: Any) -> Any:
        param, grad = decayed(self, param, grad)
        self.second_moment = variance = lerp(square(grad), self.second_moment, self.rho)
        if self.centered:
            self.first_moment = lerp(grad, self.first_moment, self.rho)
            # Never negative but by rounding, of which torch makes NaN.
            variance = maximum(variance - square(self.first_moment), 0.0)
        inside = self.epsilon_inside
        root = sqrt(variance + self.epsilon) if inside else sqrt(variance) + self.epsilon
        of_step = self.velocity_of == "step"
        moved = self.learning_rate * (grad / root) if of_step else grad / root
        if self.has("velocity"):
            self.velocity = moved = self.momentum * self.velocity + moved
        return param - (moved if of_step else self.learning_rate * moved)
