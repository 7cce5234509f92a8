"""Adamax: Kingma & Ba 2015, arXiv:1412.6980, Algorithm 2."""

import numpy as np

from .steps import Array, Gradients, Hyperparameter, Result, at, result, updates


def adamax(
    param: Array,
    grads: Gradients,
    *,
    learning_rate: Hyperparameter = 2e-3,
    beta1: Hyperparameter = 0.9,
    beta2: Hyperparameter = 0.999,
    epsilon: Hyperparameter = 1e-8,
    weight_decay: Hyperparameter = 0.0,
    epsilon_inside: bool = True,
    decoupled_weight_decay: bool = False,
    maximize: bool = False,
) -> Result:
    """u = max(beta2 u, |g| + epsilon); p = p - lr m / ((1 - beta1^t) u).

    The paper has no epsilon; torch adds it inside the maximum. Not inside, as in Keras's Adamax:
    u = max(beta2 u, |g|); p = p - lr m / ((1 - beta1^t) (u + epsilon)). A decoupled decay takes
    lr decay p from p before all that.
    """
    slots: dict[str, Array] = {}
    zeros = np.zeros_like(param)
    for update, step, grad in updates(grads, maximize):
        lr, b1, b2 = at(update, learning_rate, beta1, beta2)
        eps, decay = at(update, epsilon, weight_decay)
        if decoupled_weight_decay:
            param = param - lr * decay * param
        else:
            grad = grad + decay * param
        m = b1 * slots.get("first_moment", zeros) + (1 - b1) * grad
        u = np.maximum(b2 * slots.get("infinity_norm", zeros), np.abs(grad) + eps * epsilon_inside)
        slots = {"first_moment": m, "infinity_norm": u}
        param = param - lr / (1 - b1**step) * m / (u if epsilon_inside else u + eps)
    return result(param, slots)
