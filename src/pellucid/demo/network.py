"""A network of one hidden layer in NumPy, its gradients written out."""

from __future__ import annotations

from typing import Any

import numpy

__all__ = ["accuracy", "loss_and_gradients", "new_parameters"]

Parameters = dict[str, Any]


def new_parameters(hidden: int = 256, seed: int = 0) -> Parameters:
    """Weights of 64 pixels → hidden units → 10 digits, in float32, scaled by He et al. 2015."""
    random = numpy.random.default_rng(seed)

    def weights(inputs: int, outputs: int) -> Any:
        scale = (2.0 / inputs) ** 0.5
        return (scale * random.standard_normal((inputs, outputs))).astype("float32")

    return {
        "hidden.weight": weights(64, hidden),
        "hidden.bias": numpy.zeros(hidden, "float32"),
        "output.weight": weights(hidden, 10),
        "output.bias": numpy.zeros(10, "float32"),
    }


def _forward(params: Parameters, images: Any) -> tuple[Any, Any, Any]:
    """Inputs (n, 64), hidden activations (n, hidden) and scores (n, 10)."""
    inputs = images.reshape(len(images), -1)
    hidden = numpy.maximum(inputs @ params["hidden.weight"] + params["hidden.bias"], 0)
    return inputs, hidden, hidden @ params["output.weight"] + params["output.bias"]


def loss_and_gradients(params: Parameters, images: Any, labels: Any) -> tuple[float, Parameters]:
    """The mean cross-entropy of a batch, and its derivative by each parameter."""
    inputs, hidden, scores = _forward(params, images)
    exponentials = numpy.exp(scores - scores.max(1, keepdims=True))
    probabilities = exponentials / exponentials.sum(1, keepdims=True)
    rows = numpy.arange(len(labels))
    loss = -numpy.log(probabilities[rows, labels] + 1e-30).mean()

    by_scores = probabilities
    by_scores[rows, labels] -= 1
    by_scores /= numpy.float32(len(labels))
    by_hidden = (by_scores @ params["output.weight"].T) * (hidden > 0)
    return float(loss), {
        "hidden.weight": inputs.T @ by_hidden,
        "hidden.bias": by_hidden.sum(0),
        "output.weight": hidden.T @ by_scores,
        "output.bias": by_scores.sum(0),
    }


def accuracy(params: Parameters, images: Any, labels: Any) -> float:
    """The share of images whose digit has the highest score."""
    return float((_forward(params, images)[2].argmax(1) == labels).mean())
