"""State before the first step, which torch.distributed.checkpoint asks for by making a step.

Before it saves or loads an optimizer that has no state yet, it sets every rate to 0, gives zeros
for gradients and calls ``step``. Taken for a step, this would count as an update, replace a
schedule of the rate by the 0, and let stages without a rate change the parameters: so it is
recognized, and makes slots at their first values instead.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import torch

from pellucid.torch.groups import follow

if TYPE_CHECKING:
    from pellucid.torch.stepping import Stepping

__all__ = ["only_prepared"]

CALLER = ("torch.distributed.checkpoint.state_dict", "_init_optim_state")
DEPTH = 16  # frames between it and a step: hooks, wrappers


def only_prepared(optimizer: Stepping) -> bool:
    """Whether this is no step but torch.distributed.checkpoint's wish for state, now fulfilled.

    If nothing is then loaded, a first step begins without that state.
    """
    if optimizer.state:
        if optimizer.state is optimizer.prepared:
            optimizer.state.clear()
            optimizer.prepared = None
        return False
    if any(_moves(group.get("lr", 0.0)) for group in optimizer.param_groups) or not _is_asked():
        return False
    follow(optimizer)
    _prepare(optimizer)
    optimizer.prepared = optimizer.state
    return True


def _moves(rate: Any) -> bool:
    if isinstance(rate, torch.Tensor) and rate.numel() == 1:
        rate = rate.item()
    return not isinstance(rate, (int, float)) or rate != 0


def _is_asked() -> bool:
    frame: Any = sys._getframe(1)
    for _ in range(DEPTH):
        if frame is None:
            return False
        if (frame.f_globals.get("__name__"), frame.f_code.co_name) == CALLER:
            return True
        frame = frame.f_back
    return False


def _prepare(optimizer: Stepping) -> None:
    """Slots at their first values, and counters at 0, of parameters that have a gradient."""
    zeros = [group.get("lr") for group in optimizer.param_groups]
    try:
        for controls in optimizer.controls:  # a slot may begin at the rate
            for full, place in controls.names.places.items():
                if place.key == "lr":
                    controls.store["lr"] = controls.seen[full]
        asked = optimizer.asked(optimizer.readings(), {})
    finally:
        for group, zero in zip(optimizer.param_groups, zeros, strict=True):
            if zero is not None:
                group["lr"] = zero
    for entry in optimizer.entries:
        if entry.param.grad is None:
            continue
        counter = optimizer._step_of(entry)
        slots, _, new = optimizer.engine.slots(entry, asked)
        for full in slots:
            if full in new:
                if entry.pipeline.slots[full][1].init == "param":
                    optimizer.backend.copy(slots[full], entry.param)
                optimizer.arrays.put(entry, full, slots[full])
        if counter is not None:
            optimizer._keep_step(entry, counter)
    optimizer._counters.clear()
