"""Adam, AMSGrad and AdamW.

Kingma & Ba 2015, arXiv:1412.6980, Algorithm 1; Reddi et al. 2018, arXiv:1904.09237, Algorithm 2;
Loshchilov & Hutter 2019, arXiv:1711.05101, Algorithm 2. Corrected by the rate: Kingma & Ba 2015,
the formula that ends section 2, which is what Keras's Adam computes.
"""

from functools import partial

import numpy as np

from .steps import Array, Gradients, Hyperparameter, Result, at, result, updates


def adam(
    param: Array,
    grads: Gradients,
    *,
    learning_rate: Hyperparameter = 1e-3,
    beta1: Hyperparameter = 0.9,
    beta2: Hyperparameter = 0.999,
    epsilon: Hyperparameter = 1e-8,
    weight_decay: Hyperparameter = 0.0,
    amsgrad: bool = False,
    decoupled_weight_decay: bool = False,
    corrected: str = "moments",
    maximize: bool = False,
) -> Result:
    """p = p - lr m' / (sqrt(v') + epsilon), m' and v' being the bias-corrected moments.

    As in torch, AMSGrad takes the maximum of the uncorrected second moments and corrects that.
    Corrected by the rate, p = p - lr_t m / (sqrt(v) + epsilon-hat), where
    lr_t = lr sqrt(1 - beta2^t) / (1 - beta1^t), and v is the largest so far with AMSGrad.
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
        largest = np.maximum(slots.get("max_second_moment", zeros), v)
        slots = {"first_moment": m, "second_moment": v}
        if amsgrad:
            slots["max_second_moment"] = largest
        if corrected == "rate":
            lr_t = lr * np.sqrt(1 - b2**step) / (1 - b1**step)
            param = param - lr_t * m / (np.sqrt(largest if amsgrad else v) + eps)
            continue
        corrected_m = m / (1 - b1**step)
        corrected_v = (largest if amsgrad else v) / (1 - b2**step)
        param = param - lr * corrected_m / (np.sqrt(corrected_v) + eps)
    return result(param, slots)


adamw = partial(adam, weight_decay=0.01, decoupled_weight_decay=True)
