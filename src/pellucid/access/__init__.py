"""The view: one read and write table over an optimizer, whatever its framework.

No framework is imported here: an object's own module says how to reach into it.
"""

from __future__ import annotations

from typing import Any

from pellucid.access.errors import UnknownNameError
from pellucid.access.slots import StateTable
from pellucid.access.sources import source_of, unwrapped
from pellucid.access.table import View
from pellucid.changes import Journal

__all__ = ["StateTable", "UnknownNameError", "View", "journal", "view"]


def view(optimizer: Any, model: Any = None, scheduler: Any = None) -> View:
    """A live table of everything in an optimizer: read it, write to it, print it.

    Args:
        optimizer: any optimizer with torch's ``param_groups`` (torch's own, a stranger's, one
            wrapped by Accelerate or Lightning), a `pellucid.torch.Optimizer`, a
            `pellucid.numpy.Optimizer`, or a list of several.
        model: the torch module whose parameters it updates: gives their names, and what
            `View.warnings` needs.
        scheduler: the scheduler that drives its learning rate, if one does (of
            `torch.optim.lr_scheduler` or timm, also wrapped by Accelerate or Lightning): a change
            of the rate then changes the scheduler's base rates too, so that it lasts. Of several
            optimizers, a list.

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
    return View(source_of(optimizer, model, scheduler))


def journal(optimizer: Any, file: Any = None, scheduler: Any = None) -> Journal:
    """The record of every change of an optimizer's hyperparameters.

    Ours keep one anyway. To any other optimizer of torch one is attached, once: from then on it
    looks at the groups before each step. Steps are counted as the optimizer's state tells; a class
    that keeps no count (SGD, LBFGS) is counted from when the journal was attached.

    Args:
        optimizer: what `view` takes, but one.
        file: a path where each entry is also appended at once, as a line of JSON. An existing
            file is continued when the next step begins, whether the checkpoint was loaded before
            or after this call: entries after the loaded update are then marked abandoned.
        scheduler: the scheduler that drives the learning rate, if it leaves no mark in the groups
            (ReduceLROnPlateau): its changes are then told from direct writes.

    Raises:
        TypeError: the object is no optimizer, or tells nobody when it steps.
    """
    source = source_of(optimizer, None, scheduler)
    inner = unwrapped(optimizer)
    if isinstance(inner, (list, tuple)):
        raise TypeError("journal got a list; allowed is one optimizer: call it for each")
    if file is None:
        return source.journal
    in_file = getattr(source, "journal_in", None)
    if in_file is not None:  # Keras's optimizers have no hooks to attach to
        found: Journal = in_file(file)
        return found
    if source.recorded is not None:
        source.journal.to_file(file)
        return source.journal
    from pellucid.access.attached import attach

    return attach(inner, file, scheduler is not None).journal
