"""Stochastic gradient descent: Sutskever et al. 2013, in the form of torch.optim.SGD."""

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
    maximize: bool = False,
) -> Result:
    """v = momentum v + (1 - dampening) g, at first v = g; p = p - lr v.

    With `nesterov`, p = p - lr (g + momentum v). There is a velocity if momentum is not 0; a
    schedule counts as not 0 even where its value is (torch bypasses its buffer there).
    """
    has_velocity = callable(momentum) or momentum != 0
    slots: dict[str, Array] = {}
    for update, _, grad in updates(grads, maximize):
        lr, mu, damp, decay = at(update, learning_rate, momentum, dampening, weight_decay)
        grad = grad + decay * param
        direction = grad
        if has_velocity:
            velocity = mu * slots["velocity"] + (1 - damp) * grad if slots else grad
            direction = grad + mu * velocity if nesterov else velocity
            slots = {"velocity": velocity}
        param = param - lr * direction
    return result(param, slots)
