"""Averaged SGD: Polyak & Juditsky 1992, in the form of torch.optim.ASGD (Bottou's sgd 2.0)."""

import numpy as np

from .steps import Array, Gradients, Hyperparameter, Result, at, result, updates


def asgd(
    param: Array,
    grads: Gradients,
    *,
    learning_rate: Hyperparameter = 1e-2,
    lambd: Hyperparameter = 1e-4,
    alpha: Hyperparameter = 0.75,
    t0: Hyperparameter = 1e6,
    weight_decay: Hyperparameter = 0.0,
    maximize: bool = False,
) -> Result:
    """p = (1 - lambd eta) p - eta g; average = average + mu (p - average).

    Then, for the next step, eta = lr / (1 + lambd lr t)^alpha and mu = 1 / max(1, t - t0). Before
    the first, eta = lr and mu = 1: a scheduled rate acts on step 1, and then one step late.
    """
    slots: dict[str, Array] = {}
    zeros = np.zeros_like(param)
    for update, step, grad in updates(grads, maximize):
        lr, shrink, power = at(update, learning_rate, lambd, alpha)
        start, decay = at(update, t0, weight_decay)
        eta = slots.get("eta", np.array(lr))
        mu = slots.get("mu", np.ones(()))
        grad = grad + decay * param
        param = (1 - shrink * eta) * param - eta * grad
        average = slots.get("average", zeros)
        average = param if mu == 1 else average + mu * (param - average)
        eta = np.array(lr / (1 + shrink * lr * step) ** power)
        slots = {"eta": eta, "mu": np.array(1 / max(1, step - start)), "average": average}
    return result(param, slots)
