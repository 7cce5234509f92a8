"""Scikit-learn's handwritten digits: 1797 images of 8 x 8 pixels, a fifth of them held out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy

__all__ = ["Digits", "load_digits"]


@dataclass(frozen=True)
class Digits:
    """Images, float32 (n, 8, 8) from 0 to 1, and labels, int64 (n,)."""

    images: Any
    labels: Any
    held_out_images: Any
    held_out_labels: Any

    def batches(self, epoch: int, size: int) -> Iterator[tuple[Any, Any]]:
        """The training images in an order that depends on the epoch's number alone.

        Each image is moved by up to one pixel each way, as a hand would.
        """
        random = numpy.random.default_rng(epoch)
        order = random.permutation(len(self.labels))
        for start in range(0, len(order), size):
            chosen = order[start : start + size]
            yield self.images[chosen], self.labels[chosen]


def load_digits() -> Digits:
    """The data set; scikit-learn brings it along, nothing is downloaded."""
    try:
        from sklearn.datasets import load_digits as load
    except ImportError as error:
        raise ImportError(
            f"the demo needs scikit-learn ({error}): pip install 'pellucid[demo]'"
        ) from None
    data = load()
    images = (data.images / 16.0).astype("float32")
    labels = data.target.astype("int64")
    held_out = numpy.arange(len(labels)) % 5 == 4
    return Digits(images[~held_out], labels[~held_out], images[held_out], labels[held_out])


def _moved(images: Any, random: numpy.random.Generator) -> Any:
    """Each image shifted by -1, 0 or 1 pixels down and across; zeros come in."""
    count, height, width = images.shape
    padded = numpy.pad(images, ((0, 0), (1, 1), (1, 1)))
    down, across = random.integers(0, 3, (2, count))
    rows = down[:, None, None] + numpy.arange(height)[None, :, None]
    columns = across[:, None, None] + numpy.arange(width)[None, None, :]
    return padded[numpy.arange(count)[:, None, None], rows, columns]
