"""Signum: Bernstein et al. 2018, arXiv:1802.04434, Algorithm 2; momentum 0 is signSGD, its 1."""

import numpy as np

from .steps import Array, Gradients, Hyperparameter, Result, at, result, updates


def signum(
    param: Array,
    grads: Gradients,
    *,
    learning_rate: Hyperparameter = 1e-4,
    momentum: Hyperparameter = 0.9,
    weight_decay: Hyperparameter = 0.0,
    maximize: bool = False,
) -> Result:
    """m = momentum m + (1 - momentum) g; p = p - lr (sign(m) + weight_decay p)."""
    slots: dict[str, Array] = {}
    for update, _, grad in updates(grads, maximize):
        lr, mu, decay = at(update, learning_rate, momentum, weight_decay)
        m = mu * slots.get("first_moment", np.zeros_like(param)) + (1 - mu) * grad
        slots = {"first_moment": m}
        param = param - lr * (np.sign(m) + decay * param)
    return result(param, slots)
