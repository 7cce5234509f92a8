"""Gradients and parameters to test with; every value is exactly representable in float32."""

import numpy as np

from .steps import Array


def awkward_gradients(shape: tuple[int, ...], steps: int, seed: int) -> list[Array]:
    """Return gradients that a wrong rule stumbles over.

    Each element has a scale of its own, log-uniform from 1e-12 to 1e4 (stratified, so that few
    elements cover the range too), within which it varies by half a decade either way. Signs are
    drawn anew at every step, one value in eight is exactly zero, and the middle step is all zero.
    """
    rng = np.random.default_rng(seed)
    size = int(np.prod(shape))
    scale = rng.permutation((np.arange(size) + rng.random(size)) / max(size, 1)) * 16 - 12
    grads = []
    for step in range(steps):
        magnitude = 10.0 ** np.clip(scale + rng.uniform(-0.5, 0.5, size), -12, 4)
        grad = rng.choice([-1.0, 1.0], size) * magnitude
        grad[rng.random(size) < 1 / 8] = 0.0
        if steps > 2 and step == steps // 2:
            grad[:] = 0.0
        grads.append(_float32_values(grad.reshape(shape)))
    return grads


def mild_gradients(shape: tuple[int, ...], steps: int, seed: int) -> list[Array]:
    """Return standard normal gradients."""
    rng = np.random.default_rng(seed)
    return [_float32_values(rng.standard_normal(shape)) for _ in range(steps)]


def initial_parameter(shape: tuple[int, ...], seed: int) -> Array:
    """Return a standard normal parameter, from another stream than the gradients' of that seed."""
    return _float32_values(np.random.default_rng([seed, 1]).standard_normal(shape))


def _float32_values(values: Array | float) -> Array:
    return np.asarray(values, dtype=np.float32).astype(np.float64)
