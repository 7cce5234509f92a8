"""References of one application of the gradient, update and parameter transforms."""

from collections.abc import Callable
from typing import TypeVar

import numpy as np

from .steps import Array

Grads = TypeVar("Grads", list[Array], dict[str, Array])


def clip_by_value(grads: Grads, max_value: float) -> Grads:
    """Limit each element to [-max_value, max_value]."""
    return _each(grads, lambda grad: np.clip(grad, -max_value, max_value))


def clip_by_norm(grad: Array, max_norm: float) -> Array:
    """g min(1, max_norm / ||g||), for one tensor."""
    norm = np.sqrt(np.sum(grad**2))
    return grad * max_norm / norm if norm > max_norm else grad


def clip_by_global_norm(grads: Grads, max_norm: float) -> Grads:
    """g if norm < max_norm, else g / norm max_norm, the norm being that of all gradients together.

    Pascanu et al. 2013, arXiv:1211.5063, Algorithm 1; the comparison is optax's.
    """
    tensors = grads.values() if isinstance(grads, dict) else grads
    norm = np.sqrt(sum(np.sum(grad**2) for grad in tensors))
    return _each(grads, lambda grad: grad if norm < max_norm else grad / norm * max_norm)


def adaptive_clip(
    param: Array, grad: Array, clipping: float = 0.01, epsilon: float = 1e-3
) -> Array:
    """Limit each unit's ||g|| to clipping max(||p||, epsilon).

    Brock et al. 2021, arXiv:2102.06171, eq. 3. The 1e-6 under the division is the authors' code's.
    """
    grad_norm = _unit_norm(grad)
    max_norm = clipping * np.maximum(_unit_norm(param), epsilon)
    clipped = grad * (max_norm / np.maximum(grad_norm, 1e-6))
    return np.where(grad_norm > max_norm, clipped, grad)


def centralize(grad: Array) -> Array:
    """Subtract from each row its mean; vectors stay.

    Yong et al. 2020, arXiv:2004.01461, eq. 1.
    """
    if grad.ndim <= 1:
        return grad
    return np.asarray(grad - np.mean(grad, axis=tuple(range(1, grad.ndim)), keepdims=True))


def normalize(grad: Array, epsilon: float) -> Array:
    """g / (||g|| + epsilon), for one tensor."""
    return np.asarray(grad / (np.sqrt(np.sum(grad**2)) + epsilon))


def decay_weights(update: Array, param: Array, learning_rate: float, w: float) -> Array:
    """update - learning_rate w p."""
    return update - learning_rate * w * param


def average_weights(param: Array, average: Array | None, decay: float) -> Array:
    """decay average + (1 - decay) p; the first average, from None, is p."""
    return param.copy() if average is None else decay * average + (1 - decay) * param


def project_max_norm(param: Array, max_norm: float) -> Array:
    """Shrink each unit whose norm exceeds max_norm to max_norm."""
    norm = _unit_norm(param)
    return np.where(norm > max_norm, param * max_norm / np.where(norm > 0, norm, 1.0), param)


def project_weight_norm(param: Array, norm: float = 1.0) -> Array:
    """Scale each unit to the norm given; a unit of zeros, which has no direction, stays."""
    actual = _unit_norm(param)
    return param * norm / np.where(actual > 0, actual, 1.0)


def _unit_norm(tensor: Array) -> Array:
    """Return the norm of each row, ready to broadcast; of the whole, below two dimensions."""
    axes = tuple(range(1, tensor.ndim)) if tensor.ndim > 1 else None
    return np.asarray(np.sqrt(np.sum(tensor**2, axis=axes, keepdims=True)))


def _each(grads: Grads, function: Callable[[Array], Array]) -> Grads:
    """Apply the function to every gradient."""
    if isinstance(grads, dict):
        return {k: function(grad) for k, grad in grads.items()}
    return [function(grad) for grad in grads]
