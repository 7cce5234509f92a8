"""Whether anything moved since the last step: every tensor and every slot, at each step.

Looking through Python costs more than the update of a small tensor: where torch's C functions can
be had (`pellucid.torch.handles`), compiled loops look; else Python does, one by one.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter, is_, itemgetter
from typing import Any

import numpy
import torch

from pellucid.fuse.launch import Launch
from pellucid.torch.handles import handles_of
from pellucid.torch.objects import Objects

__all__ = ["Watch"]

_gradient_of = attrgetter("grad")
_params_of = itemgetter("params")
_pointer_of = torch.Tensor.data_ptr


def _layout(tensor: Any) -> tuple[Any, ...]:
    if tensor is None or tensor.layout != torch.strided:
        return (tensor,)  # none of these is ever equal to a dense tensor's
    lazy = tensor.is_conj(), tensor.is_neg()
    return type(tensor), tensor.dtype, tensor.device, tensor.shape, tensor.stride(), lazy


class _OneByOne:
    """What `Handles` does, in Python."""

    def __init__(self, params: Sequence[Any], others: Sequence[Any], idle: Sequence[Any]) -> None:
        self.params, self.idle = list(params), list(idle)
        self.tensors = [*params, *others]
        self.layouts = [*map(_layout, self.tensors)]
        self.pointers = [*map(_pointer_of, self.tensors)]
        self.grads = [*map(_gradient_of, self.params)]
        self.grad_layouts = [*map(_layout, self.grads)]

    def hold(self) -> bool:
        """Whether all is as it was, and each parameter that had a gradient has one like it."""
        self.grads = [*map(_gradient_of, self.params)]
        return (
            not any(param.grad is not None for param in self.idle)
            and [*map(_layout, self.grads)] == self.grad_layouts
            and [*map(_layout, self.tensors)] == self.layouts
            and [*map(_pointer_of, self.tensors)] == self.pointers
            and all(grad.data_ptr() for grad in self.grads if grad.numel())
        )

    @property
    def gradients_at(self) -> Any:
        """The gradients' pointers, as `hold` found them."""
        return numpy.array([*map(_pointer_of, self.grads)], numpy.int64)

    def release(self) -> None:
        """Let go of the gradients."""
        self.grads.clear()

    def bump(self) -> None:
        """Note for autograd that the parameters were written to."""
        torch.autograd.graph.increment_version(self.params)


class Watch:
    """Everything that a launch of torch tensors relies on."""

    def __init__(
        self,
        params: Sequence[Any],
        idle: Sequence[Any],
        others: Sequence[Any],
        groups: list[dict[str, Any]],
        state: Any,
        launch: Launch,
    ) -> None:
        """Args:
        params: parameters of the launch, in its order, each with a gradient.
        idle: the optimizer's other parameters, which have none.
        others: all arrays of the state that the launch writes, and step counters.
        groups: the optimizer's ``param_groups``.
        state: the optimizer's state: its values are dicts.
        launch: what is pointed at the gradients.
        """
        self.groups, self.state, self.launch = groups, state, launch
        self.lists = [group["params"] for group in groups]
        self.objects = Objects([groups, *self.lists], [state, *state.values()])
        self.alive = [tensor.detach() for tensor in (*params, *others)]  # their memory
        self.tensors = handles_of(params, others, idle) or _OneByOne(params, others, idle)

    def holds(self, groups: Any, state: Any) -> bool:
        """Whether all is as it was; the launch then points at this step's gradients.

        They stay in memory until `release`.
        """
        if state is not self.state or groups is not self.groups:
            return False
        if not self.objects.hold():  # and so there are as many groups as there were
            return False
        try:
            if not all(map(is_, map(_params_of, groups), self.lists)):
                return False
        except KeyError:
            return False
        if not self.tensors.hold():
            return False
        self.launch.set_addresses(("grad", None), self.tensors.gradients_at)
        return True

    def release(self) -> None:
        """The launch is over: gradients need not stay in memory."""
        self.tensors.release()
