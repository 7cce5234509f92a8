"""Lion: Chen et al. 2023, arXiv:2302.06675, Algorithm 2."""

import numpy as np

from .steps import Array, Gradients, Hyperparameter, Result, at, result, updates


def lion(
    param: Array,
    grads: Gradients,
    *,
    learning_rate: Hyperparameter = 1e-4,
    beta1: Hyperparameter = 0.9,
    beta2: Hyperparameter = 0.99,
    weight_decay: Hyperparameter = 0.0,
    maximize: bool = False,
) -> Result:
    """p = p - lr (sign(beta1 m + (1 - beta1) g) + weight_decay p); m = beta2 m + (1 - beta2) g."""
    slots: dict[str, Array] = {}
    for update, _, grad in updates(grads, maximize):
        lr, b1, b2, decay = at(update, learning_rate, beta1, beta2, weight_decay)
        m = slots.get("first_moment", np.zeros_like(param))
        param = param - lr * (np.sign(b1 * m + (1 - b1) * grad) + decay * param)
        slots = {"first_moment": b2 * m + (1 - b2) * grad}
    return result(param, slots)
