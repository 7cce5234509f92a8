"""RMSprop: Tieleman & Hinton 2012, lecture 6.5; centered: Graves 2013, arXiv:1308.0850."""

import numpy as np

from .steps import Array, Gradients, Hyperparameter, Result, at, result, updates


def rmsprop(
    param: Array,
    grads: Gradients,
    *,
    learning_rate: Hyperparameter = 1e-2,
    rho: Hyperparameter = 0.99,
    epsilon: Hyperparameter = 1e-8,
    weight_decay: Hyperparameter = 0.0,
    momentum: Hyperparameter = 0.0,
    centered: bool = False,
    maximize: bool = False,
) -> Result:
    """v = rho v + (1 - rho) g^2; p = p - lr g / (sqrt(v) + epsilon).

    Centered, sqrt(v - m^2), m the mean gradient. With momentum (a schedule counts as some),
    b = momentum b + g / (sqrt(v) + epsilon); p = p - lr b.
    """
    has_velocity = callable(momentum) or momentum != 0
    slots: dict[str, Array] = {}
    zeros = np.zeros_like(param)
    for update, _, grad in updates(grads, maximize):
        lr, r, eps = at(update, learning_rate, rho, epsilon)
        decay, mu = at(update, weight_decay, momentum)
        grad = grad + decay * param
        old, slots = slots, {}
        slots["second_moment"] = r * old.get("second_moment", zeros) + (1 - r) * grad**2
        variance = slots["second_moment"]
        if centered:
            slots["first_moment"] = r * old.get("first_moment", zeros) + (1 - r) * grad
            variance = variance - slots["first_moment"] ** 2
        direction = grad / (np.sqrt(variance) + eps)
        if has_velocity:
            direction = mu * old.get("velocity", zeros) + direction
            slots["velocity"] = direction
        param = param - lr * direction
    return result(param, slots)
