"""The node of a graph in which a parameter's gradient arrives.

Autograd makes it at the first use of a parameter and keeps it while anything holds it: a loss of
the last step, for one. It expects the shape that the parameter had then.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd.graph import get_gradient_edge

__all__ = ["is_held", "retire"]

MARK = "pellucid"


def _node(param: Any) -> Any:
    """The node; made, if there is none."""
    wanted = param.requires_grad
    param.requires_grad_(True)  # else autograd gives none, also where a graph holds one
    try:
        return get_gradient_edge(param).node
    finally:
        param.requires_grad_(wanted)


def is_held(param: Any) -> bool:
    """Whether something holds the node: then it is the same when it is asked for again."""
    _node(param).metadata[MARK] = True
    return _node(param).metadata.pop(MARK, False) is True


def retire(param: Any, name: str) -> None:
    """Have autograd make another node at the next use; to the old one no gradient may come.

    The parameter's data are empty afterwards.
    """
    if is_held(param):

        def refuse(*_: Any) -> None:
            raise RuntimeError(
                f"{name!r} was resized after this graph was built: run the forward pass again "
                "before backward()"
            )

        _node(param).register_prehook(refuse)
    other = torch.float32 if param.dtype == torch.float64 else torch.float64
    device = param.device
    param.data = torch.empty(0, dtype=other, device=device)  # of another type: the node is dropped
