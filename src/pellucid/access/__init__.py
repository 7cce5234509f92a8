"""The view: one read and write table over an optimizer, whatever its framework.

No framework is imported here: an object's own module says how to reach into it.
"""

from __future__ import annotations

from typing import Any

from pellucid.access.errors import UnknownNameError
from pellucid.access.slots import StateTable
from pellucid.access.sources import source_of
from pellucid.access.table import View

__all__ = ["StateTable", "UnknownNameError", "View", "view"]


def view(optimizer: Any, scheduler: Any = None) -> View:
    """A live table of everything in an optimizer: read it, write to it, print it.

    Args:
        optimizer: a `pellucid.numpy.Optimizer` or a `pellucid.torch.Optimizer`.
        scheduler: the `torch.optim.lr_scheduler` that drives its learning rate, if one does: a
            change of the rate then changes the scheduler's base rates too, so that it lasts.

    Raises:
        TypeError: the object is none of these.

    >>> import numpy, pellucid, pellucid.numpy
    >>> opt = pellucid.numpy.Optimizer({"weight": numpy.ones(2)}, pellucid.SGD(0.1))
    >>> table = pellucid.view(opt)
    >>> table["learning_rate"] = 0.05
    >>> table.set("weight_decay", 0.01, reason="overfits")
    >>> table["learning_rate"], table["weight_decay"]
    (0.05, 0.01)
    >>> print(table.journal)
    step 1  group 0/learning_rate  0.1 → 0.05  (view)
    step 1  group 0/weight_decay  0 → 0.01  (view: overfits)
    """
    return View(source_of(optimizer, scheduler))
