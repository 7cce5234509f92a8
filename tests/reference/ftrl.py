"""FTRL-Proximal: McMahan et al. 2013, "Ad click prediction", Algorithm 1, in Keras 3's form."""

import numpy as np

from .steps import Array, Gradients, Hyperparameter, Result, at, result, updates


def ftrl(
    param: Array,
    grads: Gradients,
    *,
    learning_rate: Hyperparameter = 1e-3,
    learning_rate_power: Hyperparameter = -0.5,
    initial_accumulator_value: Hyperparameter = 0.1,
    l1: Hyperparameter = 0.0,
    l2: Hyperparameter = 0.0,
    l2_shrinkage: Hyperparameter = 0.0,
    beta: Hyperparameter = 0.0,
    weight_decay: Hyperparameter = 0.0,
    maximize: bool = False,
) -> Result:
    """p = (clip(z, -l1, l1) - z) / (n^k / lr + 2 l2 + beta / lr), k = -learning_rate_power.

    n = n + g^2; z = z + g + 2 l2_shrinkage p - (n^k - (n - g^2)^k) / lr p.
    As in Keras, n = 0 with beta = l2 = 0 divides 0 by 0, where the paper's p would be 0.
    As there, weight_decay takes lr weight_decay p from p before all that.
    """
    slots: dict[str, Array] = {}
    zeros = np.zeros_like(param)
    for update, _, grad in updates(grads, maximize):
        lr, power, initial = at(
            update, learning_rate, learning_rate_power, initial_accumulator_value
        )
        lambda1, lambda2, shrinkage, b = at(update, l1, l2, l2_shrinkage, beta)
        param = param * (1 - lr * at(update, weight_decay)[0])
        old = slots.get("accumulator", np.full_like(param, initial))
        accumulator = old + grad**2
        sigma = (accumulator**-power - old**-power) / lr
        linear = slots.get("linear", zeros) + (grad + 2 * shrinkage * param) - sigma * param
        slots = {"accumulator": accumulator, "linear": linear}
        quadratic = accumulator**-power / lr + 2 * (lambda2 + b / (2 * lr))
        param = (np.clip(linear, -lambda1, lambda1) - linear) / quadratic
    return result(param, slots)
