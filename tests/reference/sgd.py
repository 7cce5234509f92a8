"""Stochastic gradient descent: Sutskever et al. 2013, and in the form of torch.optim.SGD."""

import numpy as np

from .steps import Array, Gradients, Hyperparameter, Result, at, result, updates


def sgd(
    param: Array,
    grads: Gradients,
    *,
    learning_rate: Hyperparameter = 1e-3,
    momentum: Hyperparameter = 0.0,
    dampening: Hyperparameter = 0.0,
    weight_decay: Hyperparameter = 0.0,
    nesterov: bool = False,
    velocity_of: str = "gradient",
    decoupled_weight_decay: bool = False,
    maximize: bool = False,
) -> Result:
    """v = momentum v + (1 - dampening) g, at first v = g; p = p - lr v.

    With `nesterov`, p = p - lr (g + momentum v). There is a velocity if momentum is not 0; a
    schedule counts as not 0 even where its value is (torch bypasses its buffer there).

    A velocity of steps is the paper's (eq. 1: v = mu v - lr g, eq. 2: p = p + v, v at first 0), to
    which (1 - dampening) is put before lr g. With `nesterov`, Keras's form: p = p + mu v - lr g.
    A decoupled decay takes lr decay p from p before all that (Loshchilov & Hutter 2019).
    """
    has_velocity = callable(momentum) or momentum != 0
    slots: dict[str, Array] = {}
    for update, _, grad in updates(grads, maximize):
        lr, mu, damp, decay = at(update, learning_rate, momentum, dampening, weight_decay)
        if decoupled_weight_decay:
            param = param - lr * decay * param
        else:
            grad = grad + decay * param
        if velocity_of == "step":
            if has_velocity:
                old = slots.get("velocity", np.zeros_like(param))
                slots = {"velocity": mu * old - (1 - damp) * lr * grad}
                look_ahead = mu * slots["velocity"] - lr * grad
                param = param + (look_ahead if nesterov else slots["velocity"])
            else:
                param = param - lr * grad
            continue
        direction = grad
        if has_velocity:
            velocity = mu * slots["velocity"] + (1 - damp) * grad if slots else grad
            direction = grad + mu * velocity if nesterov else velocity
            slots = {"velocity": velocity}
        param = param - lr * direction
    return result(param, slots)
