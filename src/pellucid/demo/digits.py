"""Scikit-learn's handwritten digits: 1797 images of 8 x 8 pixels, a fifth of them held out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy

__all__ = ["Digits", "load_digits"]

BATCH = 64


@dataclass(frozen=True)
class Digits:
    """Images, float32 (n, 8, 8) from 0 to 1, and labels, int64 (n,)."""

    images: Any
    labels: Any
    held_out_images: Any
    held_out_labels: Any

    def batches(self, epoch: int) -> Iterator[tuple[Any, Any]]:
        """Training images, shuffled and moved as the epoch's number alone says."""
        random = numpy.random.default_rng(epoch)
        order = random.permutation(len(self.labels))
        for start in range(0, len(order), BATCH):
            chosen = order[start : start + BATCH]
            yield _moved(self.images[chosen], random), self.labels[chosen]


def load_digits() -> Digits:
    """The data set, which scikit-learn brings along: nothing is downloaded."""
    try:
        from sklearn.datasets import load_digits as load
    except ImportError as error:
        raise ImportError(
            f"the demo needs scikit-learn ({error}): pip install 'pellucid[demo]'"
        ) from None
    data = load()
    images = (data.images / 16).astype("float32")
    labels = data.target.astype("int64")
    held_out = numpy.arange(len(labels)) % 5 == 0
    return Digits(images[~held_out], labels[~held_out], images[held_out], labels[held_out])


def _moved(images: Any, random: numpy.random.Generator) -> Any:
    """Each image shifted down and across by up to half a pixel, between neighbouring pixels."""
    for axis, shift in zip((1, 2), random.uniform(-0.5, 0.5, (2, len(images), 1, 1)), strict=True):
        before, after = [(0, 0)] * 3, [(0, 0)] * 3
        before[axis], after[axis] = (1, 0), (0, 1)
        inside = [slice(None)] * 3
        inside[axis] = slice(None, -1)
        behind = numpy.pad(images, before)[tuple(inside)]
        inside[axis] = slice(1, None)
        ahead = numpy.pad(images, after)[tuple(inside)]
        share = numpy.abs(shift).astype("float32")
        images = (1 - share) * images + share * numpy.where(shift > 0, behind, ahead)
    return images
