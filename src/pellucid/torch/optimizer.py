"""A real `torch.optim.Optimizer` that runs a rule as one fused kernel."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import torch

from pellucid.changes import Journal
from pellucid.compose import Composed, Router, flatten, transformers_of
from pellucid.controls import Controls
from pellucid.host import Host, check_patterns
from pellucid.storage import Storage
from pellucid.torch.arrays import TorchBackend, TorchNamespace
from pellucid.torch.checks import listed
from pellucid.torch.grouped import KEYS, SlotsInState
from pellucid.torch.names import names_of
from pellucid.torch.surgery import Surgery

__all__ = ["KEYS", "Optimizer"]


class Optimizer(Surgery):
    """Updates parameters by a rule, a chain or a route, as one fused multi-tensor kernel.

    Args:
        params: a model, parameters, (name, parameter) pairs, or group dicts with overrides by
            torch's or canonical names.
        stage: what updates them.
        groups: overrides by pattern of the parameters' names: ``{"*.bias": {"weight_decay": 0}}``;
            the first match wins. Names come with a model or named parameters.
        gradient_transformers: functions of a list of (gradient, parameter) pairs that give such
            a list, called before the stages; a pair that is left out skips its parameter.
        compiled: False runs ``update`` line by line on tensors, for a debugger.
        seed: of random numbers, from 0.
        rounding: of parameters in bfloat16 and float16. ``"nearest"``: small updates are lost;
            ``"stochastic"``: up or down, so that the mean is right, from seed and step;
            ``"kahan"``: what a rounding loses is kept, in a slot of the parameter's type.
        state_dtype: of new slots of a parameter's shape. ``"float32"``: float32, or the
            parameter's if that is wider; ``"bfloat16"``; ``"param"``: the parameter's.
        sparse: what a sparse gradient means. ``"dense"``: the numbers of a dense one;
            ``"lazy"``: only rows with a gradient are read and written; ``"catch_up"``: and the
            slots of such a row first decay by what they missed since it was last touched (the
            parameter's own missed moves are not made up for).

    ``param_groups``, ``state`` and ``state_dict`` carry torch's names and go both ways between
    this class and torch's own for the same rule.
    """

    xp: Any = TorchNamespace()

    def __init__(
        self,
        params: Any,
        stage: Composed,
        *,
        groups: Mapping[Any, Mapping[str, Any]] | None = None,
        gradient_transformers: Iterable[Any] = (),
        compiled: bool = True,
        seed: int = 0,
        rounding: Literal["nearest", "stochastic", "kahan"] = "nearest",
        state_dtype: Literal["float32", "bfloat16", "param"] = "float32",
        sparse: Literal["dense", "lazy", "catch_up"] = "dense",
    ) -> None:
        self.storage = Storage(rounding, state_dtype, sparse)
        flatten(stage)
        functions = (*gradient_transformers, *transformers_of(stage))
        Host.__init__(self, TorchBackend(), SlotsInState(self), stage, functions, compiled, seed)
        self._patterns = dict(groups or {})
        self._router = Router(stage, self.storage)
        self._watches, self._counters, self._taken, self.shelf = [], {}, [], []
        torch.optim.Optimizer.__init__(self, listed(params), {})
        names = [entry.name for entry in self.entries]
        self._router.check_used(names)
        check_patterns(self._patterns, self._taken, names)
        self.defaults = self._defaults()

    def _defaults(self) -> dict[str, Any]:
        """As torch's classes have them, where one rule serves all parameters."""
        pipelines = {id(controls.pipeline): controls.pipeline for controls in self.controls}
        if len(pipelines) > 1:
            return {}
        (pipeline,) = pipelines.values()
        scratch: dict[str, Any] = {}
        Controls("defaults", pipeline, names_of(pipeline), scratch, pipeline.given, Journal())
        return {**scratch, **self._switches}

    def schedule(
        self,
        path: str,
        value: Any,
        *,
        split: bool = False,
        scheduler: Any = None,
        reason: str = "",
    ) -> None:
        """Give a hyperparameter a schedule from the next update on; `pellucid.view` sets it.

        It gets the number of completed updates, and is part of the state dict: a run that is
        loaded goes on with it.

        Args:
            path: what to change, ``"weight_decay"`` in all groups or, of some,
                ``"decoder.*/weight_decay"``: a pattern of names must then name whole groups.
            value: a schedule, any callable of the completed updates, a `ref`, or a number.
            split: whether parameters that are a part of a group get one of their own first. A
                scheduler of torch counts the groups, and has then to be given.
            scheduler: torch's scheduler that drives the learning rates, if there is one.
            reason: why, for the journal.

        Raises:
            UnknownNameError, HyperparameterError, ValueError: as `View.set`; nothing was changed.

        >>> import torch, pellucid.torch
        >>> from pellucid.schedules import Linear
        >>> model = torch.nn.Linear(2, 2)
        >>> opt = pellucid.torch.AdamW(model)
        >>> opt.schedule("bias/weight_decay", Linear(0.1, 0.0, 1000), split=True)
        >>> [group["weight_decay"] for group in opt.param_groups]
        [0.01, 0.1]
        """
        from pellucid.access import view

        view(self, scheduler=scheduler).set(path, value, reason, split=split)

    def __repr__(self) -> str:
        return f"pellucid.torch.{type(self).__name__} of {self.stage!r}\n{super().__repr__()}"
