"""Adagrad, with one accumulator a row: for embedding tables."""

from typing import Any

from pellucid.ops import mean, square
from pellucid.rule import ref, slot
from pellucid.rules.adagrad import Adagrad

__all__ = ["RowwiseAdagrad"]


class RowwiseAdagrad(Adagrad):
    """Adagrad, with one sum of squares for each row ``param[i]``: 1 / columns of the memory.

        a = a + mean of g^2 over the row
        param = param - rate g / (sqrt(a) + epsilon)

    g and rate are those of `Adagrad`. The exact row-wise Adagrad of FBGEMM's table-batched
    embeddings; Mudigere et al. 2022, arXiv:2104.05158.
    """

    accumulator = slot(ref("initial_accumulator_value"), shape="row")

    def _squares(self, grad: Any) -> Any:
        return mean(square(grad), over="row")
