"""Resilient backpropagation."""

from typing import Any

from pellucid.ops import clip, sign, where
from pellucid.rule import Rule, hyper, ref, slot

__all__ = ["Rprop"]


class Rprop(Rule):
    """Step by the gradient's sign alone, each element by a step size of its own.

        s = s eta_plus where grad kept its sign, s eta_minus where it turned, within the limits
        g = 0 where it turned, else grad; g is the next update's previous gradient
        param = param - s sign(g)

    Riedmiller & Braun 1993, "A direct adaptive method for faster backpropagation learning", in the
    form of `torch.optim.Rprop`: where the gradient turned, the parameter stands still. For full
    batches: noise turns signs.
    """

    learning_rate = hyper(1e-2, minimum=0, doc="The step size before the first update.")
    eta_minus = hyper(0.5, above=0, below=1, doc="Factor of a step size after a turn.")
    eta_plus = hyper(1.2, above=1, doc="Factor of a step size without a turn.")
    minimum_step = hyper(1e-6, minimum=0, doc="The smallest step size.")
    maximum_step = hyper(50.0, minimum=0, doc="The largest step size.")
    previous_gradient = slot()
    step_size = slot(ref("learning_rate"))

    def update(self, param: Any, grad: Any) -> Any:
        agreement = sign(grad) * sign(self.previous_gradient)  # of signs: no underflow
        turned = agreement < 0
        factor = where(turned, self.eta_minus, where(agreement > 0, self.eta_plus, 1.0))
        self.step_size = clip(self.step_size * factor, self.minimum_step, self.maximum_step)
        self.previous_gradient = where(turned, 0.0, grad)
        return param - self.step_size * sign(self.previous_gradient)
