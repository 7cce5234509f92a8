"""Adadelta: Zeiler 2012, arXiv:1212.5701, Algorithm 1."""

import numpy as np

from .steps import Array, Gradients, Hyperparameter, Result, at, result, updates


def adadelta(
    param: Array,
    grads: Gradients,
    *,
    learning_rate: Hyperparameter = 1.0,
    rho: Hyperparameter = 0.9,
    epsilon: Hyperparameter = 1e-6,
    weight_decay: Hyperparameter = 0.0,
    decoupled_weight_decay: bool = False,
    maximize: bool = False,
) -> Result:
    """p = p - lr d, d = sqrt(u + epsilon) / sqrt(v + epsilon) g.

    v = rho v + (1 - rho) g^2 before it, u = rho u + (1 - rho) d^2 after it. The paper has no lr. A
    decoupled decay takes lr decay p from p before all that, as in Keras's Adadelta.
    """
    slots: dict[str, Array] = {}
    zeros = np.zeros_like(param)
    for update, _, grad in updates(grads, maximize):
        lr, r, eps, decay = at(update, learning_rate, rho, epsilon, weight_decay)
        if decoupled_weight_decay:
            param = param - lr * decay * param
        else:
            grad = grad + decay * param
        v = r * slots.get("second_moment", zeros) + (1 - r) * grad**2
        u = slots.get("update_moment", zeros)
        delta = np.sqrt(u + eps) / np.sqrt(v + eps) * grad
        u = r * u + (1 - r) * delta**2
        slots = {"second_moment": v, "update_moment": u}
        param = param - lr * delta
    return result(param, slots)
