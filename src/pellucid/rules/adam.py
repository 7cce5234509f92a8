"""Adam and its AMSGrad variant."""

from typing import Any

from pellucid.ops import lerp, maximum, sqrt, square
from pellucid.rule import Rule, hyper, option, slot
from pellucid.rules.weight_decay import decayed

__all__ = ["Adam"]


class Adam(Rule):
    """Step along the mean gradient, each element divided by the root of its mean square.

        g = grad + weight_decay param
        m = beta1 m + (1 - beta1) g
        v = beta2 v + (1 - beta2) g^2
        param = param - learning_rate (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + epsilon)

    Kingma & Ba 2015, arXiv:1412.6980, Algorithm 1. amsgrad: Reddi et al. 2018, arXiv:1904.09237,
    Algorithm 2, the largest v being corrected as in torch. decoupled_weight_decay: Loshchilov &
    Hutter 2019, arXiv:1711.05101, Algorithm 2; then g = grad, and learning_rate weight_decay param
    is subtracted from the parameter. corrected="rate" is the order of computation that Kingma &
    Ba's section 2 ends with, as in Keras, where epsilon is added to the uncorrected root:

        param = param - learning_rate sqrt(1 - beta2^t) / (1 - beta1^t) m / (sqrt(v) + epsilon)
    """

    learning_rate = hyper(1e-3, minimum=0, doc="Step size.")
    beta1 = hyper(0.9, minimum=0, below=1, doc="Decay of the mean gradient.")
    beta2 = hyper(0.999, minimum=0, below=1, doc="Decay of the mean squared gradient.")
    epsilon = hyper(1e-8, minimum=0, doc="Added to the root, so that the step stays bounded.")
    weight_decay = hyper(0.0, minimum=0, doc="Pull towards zero.")
    amsgrad = option(False, doc="Divide by the largest second moment so far.")
    decoupled_weight_decay = option(False, doc="Decay the parameter itself, not by its gradient.")
    corrected = option("moments", choices=("moments", "rate"), doc="What the bias is taken out of.")
    first_moment = slot()
    second_moment = slot()
    max_second_moment = slot(when=amsgrad)

    def update(self, param: Any, grad: Any) -> Any:
        param, grad = decayed(self, param, grad)
        self.first_moment = lerp(grad, self.first_moment, self.beta1)
        self.second_moment = second_moment = lerp(square(grad), self.second_moment, self.beta2)
        if self.amsgrad:
            second_moment = maximum(self.max_second_moment, second_moment)
            self.max_second_moment = second_moment
        step_size = self.learning_rate / (1 - self.beta1**self.step)
        correction = 1 - self.beta2**self.step
        if self.corrected == "rate":
            step_size = step_size * sqrt(correction)
        else:
            second_moment = second_moment / correction
        return param - step_size * self.first_moment / (sqrt(second_moment) + self.epsilon)
