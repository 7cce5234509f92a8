"""NAdam: Dozat 2016, "Incorporating Nesterov momentum into Adam", Algorithm 2."""

import numpy as np

from .steps import Array, Gradients, Hyperparameter, Result, at, result, updates


def nadam(
    param: Array,
    grads: Gradients,
    *,
    learning_rate: Hyperparameter = 2e-3,
    beta1: Hyperparameter = 0.9,
    beta2: Hyperparameter = 0.999,
    epsilon: Hyperparameter = 1e-8,
    weight_decay: Hyperparameter = 0.0,
    momentum_decay: Hyperparameter = 4e-3,
    decoupled_weight_decay: bool = False,
    maximize: bool = False,
) -> Result:
    """p = p - lr m' / (sqrt(v') + epsilon), m' looking one step ahead.

    mu_t = beta1 (1 - 0.96^(t momentum_decay) / 2), M_t = mu_1 ... mu_t,
    m' = mu_(t+1) m / (1 - M_(t+1)) + (1 - mu_t) g / (1 - M_t).
    """
    slots: dict[str, Array] = {}
    zeros = np.zeros_like(param)
    for update, step, grad in updates(grads, maximize):
        lr, b1, b2 = at(update, learning_rate, beta1, beta2)
        eps, decay, mu_decay = at(update, epsilon, weight_decay, momentum_decay)
        if decoupled_weight_decay:
            param = param - lr * decay * param
        else:
            grad = grad + decay * param
        mu = b1 * (1 - 0.5 * 0.96 ** (step * mu_decay))
        mu_next = b1 * (1 - 0.5 * 0.96 ** ((step + 1) * mu_decay))
        mu_product = slots.get("mu_product", np.ones(())) * mu
        m = b1 * slots.get("first_moment", zeros) + (1 - b1) * grad
        v = b2 * slots.get("second_moment", zeros) + (1 - b2) * grad**2
        slots = {"mu_product": mu_product, "first_moment": m, "second_moment": v}
        ahead = mu_next * m / (1 - mu_product * mu_next) + (1 - mu) * grad / (1 - mu_product)
        param = param - lr * ahead / (np.sqrt(v / (1 - b2**step)) + eps)
    return result(param, slots)
