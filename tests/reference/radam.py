"""RAdam: Liu et al. 2020, arXiv:1908.03265, Algorithm 2, in the form of torch.optim.RAdam."""

import numpy as np

from .steps import Array, Gradients, Hyperparameter, Result, at, result, updates


def radam(
    param: Array,
    grads: Gradients,
    *,
    learning_rate: Hyperparameter = 1e-3,
    beta1: Hyperparameter = 0.9,
    beta2: Hyperparameter = 0.999,
    epsilon: Hyperparameter = 1e-8,
    weight_decay: Hyperparameter = 0.0,
    decoupled_weight_decay: bool = False,
    maximize: bool = False,
) -> Result:
    """p = p - lr r m' sqrt(1 - beta2^t) / (sqrt(v) + epsilon) once rho > 5, before it p - lr m'.

    The paper's threshold is 4 and it has no epsilon; torch adds epsilon to the uncorrected
    second moment, where Adam adds it to the corrected one.
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
        v = b2 * slots.get("second_moment", zeros) + (1 - b2) * grad**2
        slots = {"first_moment": m, "second_moment": v}
        corrected_m = m / (1 - b1**step)
        rho_inf = 2 / (1 - b2) - 1
        rho = rho_inf - 2 * step * b2**step / (1 - b2**step)
        if rho > 5:
            adaptive = np.sqrt(1 - b2**step) / (np.sqrt(v) + eps)
            r = np.sqrt(((rho - 4) * (rho - 2) * rho_inf) / ((rho_inf - 4) * (rho_inf - 2) * rho))
            param = param - lr * corrected_m * r * adaptive
        else:
            param = param - lr * corrected_m
    return result(param, slots)
