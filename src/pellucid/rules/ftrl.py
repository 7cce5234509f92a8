"""Follow the regularized leader."""

from typing import Any

from pellucid.ops import clip, power, square
from pellucid.rule import Rule, hyper, ref, slot

__all__ = ["FTRL"]


class FTRL(Rule):
    """Minimize the sum of all linearized losses, regularized: weights become exactly zero.

        n' = n + grad^2,  k = -learning_rate_power
        z = z + grad + 2 l2_shrinkage param - (n'^k - n^k) / learning_rate param
        param = (clip(z, -l1, l1) - z) / ((n'^k + beta) / learning_rate + 2 l2)

    FTRL-Proximal: McMahan et al. 2013, "Ad click prediction: a view from the trenches",
    Algorithm 1, in Keras 3's form, which adds l2_shrinkage and the power. The first value of the
    parameter has little effect: it enters through z alone. So does weight_decay, as in Keras:
    learning_rate weight_decay param is subtracted from the parameter before all that.
    """

    learning_rate = hyper(1e-3, above=0, doc="Step size; 0 would divide by zero.")
    learning_rate_power = hyper(-0.5, maximum=0, doc="How the rate falls with the accumulator.")
    initial_accumulator_value = hyper(0.1, minimum=0, doc="Where the sum of squares starts.")
    l1 = hyper(0.0, minimum=0, doc="L1 penalty: |z| up to this gives a weight of exactly zero.")
    l2 = hyper(0.0, minimum=0, doc="L2 penalty.")
    l2_shrinkage = hyper(0.0, minimum=0, doc="L2 penalty on the gradient alone, as a decay.")
    beta = hyper(0.0, minimum=0, doc="The paper's beta: holds back the first steps.")
    weight_decay = hyper(0.0, minimum=0, doc="This times learning_rate is the share removed.")
    accumulator = slot(ref("initial_accumulator_value"))
    linear = slot()

    def update(self, param: Any, grad: Any) -> Any:
        param = param - self.learning_rate * self.weight_decay * param
        old = power(self.accumulator, -self.learning_rate_power)
        self.accumulator = self.accumulator + square(grad)
        new = power(self.accumulator, -self.learning_rate_power)
        shrunk = grad + 2 * self.l2_shrinkage * param
        self.linear = self.linear + shrunk - (new - old) / self.learning_rate * param
        quadratic = new / self.learning_rate + (2 * self.l2 + self.beta / self.learning_rate)
        return (clip(self.linear, -self.l1, self.l1) - self.linear) / quadratic
