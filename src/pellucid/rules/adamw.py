"""Adam with decoupled weight decay."""

from pellucid.rule import hyper, option
from pellucid.rules.adam import Adam

__all__ = ["AdamW"]


class AdamW(Adam):
    """Adam, with the parameter itself decayed: the decay is not divided by the gradient's size.

        param = param - learning_rate (m' / (sqrt(v') + epsilon) + weight_decay param)

    m' and v' are the corrected moments of `Adam`. Loshchilov & Hutter 2019, arXiv:1711.05101,
    Algorithm 2, where the rate of the decay is the learning rate, as in torch.
    """

    weight_decay = hyper(0.01, minimum=0, doc="This times learning_rate is the share removed.")
    decoupled_weight_decay = option(True, doc="Decay the parameter itself, not by its gradient.")
