"""RMSprop: Tieleman & Hinton 2012, lecture 6.5.

Centered: Graves 2013, arXiv:1308.0850, eq. 38-41.
"""

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
    epsilon_inside: bool = False,
    velocity_of: str = "gradient",
    decoupled_weight_decay: bool = False,
    maximize: bool = False,
) -> Result:
    """v = rho v + (1 - rho) g^2; p = p - lr g / (sqrt(v) + epsilon).

    Centered, sqrt(v - m^2), m the mean gradient. With momentum (a schedule counts as some),
    b = momentum b + g / (sqrt(v) + epsilon); p = p - lr b.

    Epsilon inside, as in Graves' eq. 40 and in Keras's RMSprop: g / sqrt(v - m^2 + epsilon). A
    velocity of steps, as in eq. 40-41 (of the other sign) and Keras: b = momentum b + lr g / root;
    p = p - b. A decoupled decay takes lr decay p from p before all that.
    """
    has_velocity = callable(momentum) or momentum != 0
    slots: dict[str, Array] = {}
    zeros = np.zeros_like(param)
    for update, _, grad in updates(grads, maximize):
        lr, r, eps = at(update, learning_rate, rho, epsilon)
        decay, mu = at(update, weight_decay, momentum)
        if decoupled_weight_decay:
            param = param - lr * decay * param
        else:
            grad = grad + decay * param
        old, slots = slots, {}
        slots["second_moment"] = r * old.get("second_moment", zeros) + (1 - r) * grad**2
        variance = slots["second_moment"]
        if centered:
            slots["first_moment"] = r * old.get("first_moment", zeros) + (1 - r) * grad
            variance = variance - slots["first_moment"] ** 2
        root = np.sqrt(variance + eps) if epsilon_inside else np.sqrt(variance) + eps
        if velocity_of == "step":
            moved = lr * grad / root
            if has_velocity:
                moved = slots["velocity"] = mu * old.get("velocity", zeros) + moved
            param = param - moved
            continue
        direction = grad / root
        if has_velocity:
            direction = mu * old.get("velocity", zeros) + direction
            slots["velocity"] = direction
        param = param - lr * direction
    return result(param, slots)
