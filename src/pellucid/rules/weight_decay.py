"""Weight decay of a rule, of either kind."""

from typing import Any

from pellucid.rule import Rule

__all__ = ["decayed"]


def decayed(rule: Rule, param: Any, grad: Any) -> tuple[Any, Any]:
    """The parameter and the gradient that a rule with ``weight_decay`` goes on with.

    Coupled, weight_decay param is added to the gradient. With ``decoupled_weight_decay``,
    learning_rate weight_decay param is subtracted from the parameter: Loshchilov & Hutter 2019,
    arXiv:1711.05101, Algorithm 2, where the rate of the decay is the learning rate.
    """
    if rule.decoupled_weight_decay:
        return param - rule.learning_rate * rule.weight_decay * param, grad
    return param, grad + rule.weight_decay * param
