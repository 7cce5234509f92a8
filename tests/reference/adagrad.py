"""Adagrad: Duchi et al. 2011, JMLR 12, diagonal form; row-wise: FBGEMM's exact row-wise Adagrad.

As in Keras's Adagrad: epsilon inside the root, and decoupled decay (lr decay p is taken from p
first).
"""

import numpy as np

from .steps import Array, Gradients, Hyperparameter, Result, at, result, updates


def adagrad(
    param: Array,
    grads: Gradients,
    *,
    learning_rate: Hyperparameter = 1e-2,
    learning_rate_decay: Hyperparameter = 0.0,
    weight_decay: Hyperparameter = 0.0,
    initial_accumulator_value: Hyperparameter = 0.0,
    epsilon: Hyperparameter = 1e-10,
    epsilon_inside: bool = False,
    decoupled_weight_decay: bool = False,
    maximize: bool = False,
) -> Result:
    """a = a + g^2; p = p - lr / (1 + (t - 1) learning_rate_decay) g / (sqrt(a) + epsilon)."""
    slots: dict[str, Array] = {}
    for update, step, grad in updates(grads, maximize):
        lr, lr_decay, decay = at(update, learning_rate, learning_rate_decay, weight_decay)
        initial, eps = at(update, initial_accumulator_value, epsilon)
        if decoupled_weight_decay:
            param = param - lr * decay * param
        else:
            grad = grad + decay * param
        accumulator = slots.get("accumulator", np.full_like(param, initial)) + grad**2
        slots = {"accumulator": accumulator}
        rate = lr / (1 + (step - 1) * lr_decay)
        root = np.sqrt(accumulator + eps) if epsilon_inside else np.sqrt(accumulator) + eps
        param = param - rate * grad / root
    return result(param, slots)


def rowwise_adagrad(
    param: Array,
    grads: Gradients,
    *,
    learning_rate: Hyperparameter = 1e-2,
    learning_rate_decay: Hyperparameter = 0.0,
    weight_decay: Hyperparameter = 0.0,
    initial_accumulator_value: Hyperparameter = 0.0,
    epsilon: Hyperparameter = 1e-10,
    epsilon_inside: bool = False,
    decoupled_weight_decay: bool = False,
    maximize: bool = False,
) -> Result:
    """Adagrad with one accumulator a row `x[i, ...]`: a = a + mean of g^2 over the row.

    The accumulator has shape (n, 1, ..., 1), (n,) for a vector, () for a scalar.
    """
    slots: dict[str, Array] = {}
    axes = tuple(range(1, np.ndim(param)))
    for update, step, grad in updates(grads, maximize):
        lr, lr_decay, decay = at(update, learning_rate, learning_rate_decay, weight_decay)
        initial, eps = at(update, initial_accumulator_value, epsilon)
        if decoupled_weight_decay:
            param = param - lr * decay * param
        else:
            grad = grad + decay * param
        squares = np.mean(grad**2, axis=axes, keepdims=True)
        accumulator = slots.get("accumulator", np.full_like(squares, initial)) + squares
        slots = {"accumulator": accumulator}
        rate = lr / (1 + (step - 1) * lr_decay)
        root = np.sqrt(accumulator + eps) if epsilon_inside else np.sqrt(accumulator) + eps
        param = param - rate * grad / root
    return result(param, slots)
