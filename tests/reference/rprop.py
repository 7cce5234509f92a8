"""Rprop: Riedmiller & Braun 1993, in the form of torch.optim.Rprop."""

import numpy as np

from .steps import Array, Gradients, Hyperparameter, Result, at, result, updates


def rprop(
    param: Array,
    grads: Gradients,
    *,
    learning_rate: Hyperparameter = 1e-2,
    eta_minus: Hyperparameter = 0.5,
    eta_plus: Hyperparameter = 1.2,
    minimum_step: Hyperparameter = 1e-6,
    maximum_step: Hyperparameter = 50.0,
    maximize: bool = False,
) -> Result:
    """Grow the step where the gradient kept its sign; where it turned, shrink it and stand still.

    After a turn the previous gradient counts as 0. The learning rate is the first step size.
    """
    slots: dict[str, Array] = {}
    zeros = np.zeros_like(param)
    for update, _, grad in updates(grads, maximize):
        lr, minus, plus = at(update, learning_rate, eta_minus, eta_plus)
        smallest, largest = at(update, minimum_step, maximum_step)
        agreement = grad * slots.get("previous_gradient", zeros)
        factor = np.where(agreement > 0, plus, np.where(agreement < 0, minus, 1.0))
        step_size = slots.get("step_size", np.full_like(param, lr)) * factor
        step_size = np.clip(step_size, smallest, largest)
        grad = np.where(agreement < 0, 0.0, grad)
        slots = {"previous_gradient": grad, "step_size": step_size}
        param = param - np.sign(grad) * step_size
    return result(param, slots)
