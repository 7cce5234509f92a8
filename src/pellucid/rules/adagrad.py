"""Adagrad, with one accumulator an element."""

from typing import Any

from pellucid.ops import sqrt, square
from pellucid.rule import Rule, hyper, option, ref, slot
from pellucid.rules.weight_decay import decayed

__all__ = ["Adagrad"]


class Adagrad(Rule):
    """Divide the gradient by the root of the sum of all its squares so far.

        g = grad + weight_decay param
        a = a + g^2
        rate = learning_rate / (1 + (t - 1) learning_rate_decay)
        param = param - rate g / (sqrt(a) + epsilon)

    Duchi et al. 2011, JMLR 12, "Adaptive subgradient methods", Figure 1, the diagonal form; the
    decay of the rate is torch's. epsilon_inside, as in Keras: sqrt(a + epsilon).
    decoupled_weight_decay: g = grad, and learning_rate weight_decay param is subtracted from the
    parameter.
    """

    learning_rate = hyper(1e-2, minimum=0, doc="Step size.")
    learning_rate_decay = hyper(0.0, minimum=0, doc="Share of the first rate that each step costs.")
    weight_decay = hyper(0.0, minimum=0, doc="Pull towards zero.")
    initial_accumulator_value = hyper(0.0, minimum=0, doc="Where the sum of squares starts.")
    epsilon = hyper(1e-10, minimum=0, doc="Added to the root, so that the step stays bounded.")
    epsilon_inside = option(False, doc="Add epsilon under the root.")
    decoupled_weight_decay = option(False, doc="Decay the parameter itself, not by its gradient.")
    accumulator = slot(ref("initial_accumulator_value"))

    def update(self, param: Any, grad: Any) -> Any:
        param, grad = decayed(self, param, grad)
        self.accumulator = self.accumulator + self._squares(grad)
        rate = self.learning_rate / (1 + (self.step - 1) * self.learning_rate_decay)
        if self.epsilon_inside:
            return param - rate * grad / sqrt(self.accumulator + self.epsilon)
        return param - rate * grad / (sqrt(self.accumulator) + self.epsilon)

    def _squares(self, grad: Any) -> Any:
        return square(grad)
