"""Walk through the gradients of one parameter, with the hyperparameter values of each update."""

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Gradients = Sequence[Array | None]
Hyperparameter = float | Callable[[int], float]
Result = tuple[Array, dict[str, Array]]


def updates(grads: Gradients, maximize: bool) -> Iterator[tuple[int, int, Array]]:
    """Yield `(update, step, grad)` for every gradient that is not None.

    `update` counts the optimizer's completed updates from 0, those without a gradient included;
    `step` counts this parameter's own updates from 1. `grad` is negated to maximize.
    """
    step = 0
    for update, grad in enumerate(grads):
        if grad is None:
            continue
        step += 1
        grad = np.asarray(grad, dtype=np.float64)
        yield update, step, -grad if maximize else grad


def at(update: int, *hyperparameters: Hyperparameter) -> list[float]:
    """Return the values at `update`; a callable is a schedule of the completed updates."""
    return [h(update) if callable(h) else h for h in hyperparameters]


def result(param: npt.ArrayLike, slots: Mapping[str, npt.ArrayLike]) -> Result:
    """Return new float64 arrays, also where NumPy's arithmetic made a scalar of a 0-d array."""
    return np.array(param, dtype=np.float64), {
        name: np.array(value, dtype=np.float64) for name, value in slots.items()
    }
