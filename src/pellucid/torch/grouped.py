"""Parameter groups of a torch optimizer: made, named, split by route and ``groups=``."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import count
from typing import Any

import torch

from pellucid.changes import Journal
from pellucid.compose import Pipeline, Router, matches
from pellucid.controls import Controls, overrides
from pellucid.fuse.engine import Entry, Plan
from pellucid.host import Host
from pellucid.storage import Storage
from pellucid.torch.checks import check_param, check_switches
from pellucid.torch.groups import Shelved, follow
from pellucid.torch.names import names_of
from pellucid.torch.watch import Watch

__all__ = ["KEYS", "Grouped", "SlotsInState"]

KEYS: dict[str, Any] = {
    "foreach": None,
    "capturable": False,
    "differentiable": False,
    "fused": None,
}


class SlotsInState:
    """Slots in ``optimizer.state`` under torch's names."""

    def __init__(self, optimizer: Grouped) -> None:
        self.optimizer = optimizer

    def get(self, entry: Entry, full: str) -> Any:
        held = self.optimizer.state.get(entry.param)
        names = self.optimizer.controls[entry.group].names
        return None if held is None else held.get(names.slots[full])

    def put(self, entry: Entry, full: str, array: Any) -> None:
        names = self.optimizer.controls[entry.group].names
        self.optimizer.state[entry.param][names.slots[full]] = array


class Grouped(Host, torch.optim.Optimizer):
    """The part of a torch optimizer that keeps groups and their parameters."""

    _switches: dict[str, Any] = KEYS
    _patterns: dict[Any, Mapping[str, Any]]
    _router: Router
    _taken: list[Any]
    _watches: list[tuple[Watch, Plan, Any, tuple[Any, ...]]]
    shelf: list[Shelved]
    storage: Storage

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters, as in torch; a route or ``groups=`` may split them into several groups.

        Args:
            param_group: ``params`` and overrides by torch's or canonical names; other keys are
                kept and left alone.

        Raises:
            ValueError, TypeError: what is wrong; nothing was added.
        """
        if not isinstance(param_group, dict):
            raise TypeError(f"a parameter group is a dict, got {type(param_group).__name__}")
        if "params" not in param_group:
            raise ValueError("a parameter group needs the key 'params': a list of parameters")
        follow(self)
        given = {key: value for key, value in param_group.items() if key != "params"}
        members, named = self._named(param_group["params"], given.pop("param_names", None))
        split: dict[tuple[int, Any], list[tuple[str, Any]]] = {}
        pipelines: dict[int, Pipeline] = {}
        for name, param in members:
            pipeline = self._router.pipeline(name, param)
            pipelines[id(pipeline)] = pipeline
            chosen = next((p for p in self._patterns if matches(p, name, param)), None)
            split.setdefault((id(pipeline), chosen), []).append((name, param))
        prepared = []
        for (identity, chosen), some in split.items():
            pipeline = pipelines[identity]
            values, foreign = self._values(pipeline, chosen, given)
            prepared.append((pipeline, chosen, some, values, foreign))
        for pipeline, chosen, some, values, foreign in prepared:
            self._taken.append(chosen)
            label = self._label(pipeline, chosen, foreign)
            self._add(pipeline, label, some, named, values, foreign)

    def pipeline_of(self, name: str, param: Any) -> Pipeline:
        """The stages that update a parameter of this name."""
        return self._router.pipeline(name, param)

    @staticmethod
    def check_param(name: Any, param: Any) -> None:
        """Raise unless a parameter can be updated."""
        check_param(name, param)

    def _named(self, params: Any, names: Any) -> tuple[list[tuple[str, Any]], bool]:
        """(name, parameter) pairs of a group, checked, and whether the user named them."""
        if isinstance(params, (set, frozenset)):
            raise TypeError("params is a set, whose order differs between runs: give a list")
        listed = [params] if isinstance(params, torch.Tensor) else list(params)
        if names is not None:
            listed = list(zip(names, listed, strict=True))
        taken = {entry.name for entry in self.entries}
        unused = (n for n in map("param_{}".format, count(len(self.entries))) if n not in taken)
        known = {id(entry.param): entry.name for entry in self.entries}
        found: list[tuple[str, Any]] = []
        named = bool(listed) and isinstance(listed[0], (tuple, list))
        for one in listed:
            if isinstance(one, (tuple, list)) != named or (named and len(one) != 2):
                raise ValueError(
                    "some parameters of a group have names and some have none: give (name, "
                    "parameter) pairs for all of them or for none"
                )
            name, param = one if named else (next(unused), one)
            if not named and self._patterns:
                raise ValueError(
                    "groups= needs names: pass the model or model.named_parameters() instead of "
                    "model.parameters()"
                )
            check_param(name, param)
            if id(param) in known:
                raise ValueError(
                    f"parameter {name!r} is given twice, first as {known[id(param)]!r}: "
                    "give each parameter once"
                )
            known[id(param)] = name
            found.append((name, param))
        if not found:
            raise ValueError("a parameter group is empty: give at least one parameter")
        if self.param_groups and named != ("param_names" in self.param_groups[0]):
            raise ValueError(
                "all optimizer param groups should be with/without names: this one is "
                f"{'with' if named else 'without'}, unlike the others"
            )
        return found, named

    def _values(
        self, pipeline: Pipeline, chosen: Any, given: dict[str, Any]
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """A group's values by full name, and the keys that are someone else's."""
        names = names_of(pipeline)
        ours = {key: value for key, value in given.items() if names.canonical(key)}
        foreign = {key: value for key, value in given.items() if key not in ours}
        values = dict(pipeline.given)
        values.update(overrides(pipeline, names, ours, "param group", ()))
        if chosen is not None:
            where = f"groups[{chosen!r}]"
            values.update(overrides(pipeline, names, self._patterns[chosen], where, ()))
        scratch: dict[str, Any] = {**self._switches, **foreign}
        check_switches(scratch)
        Controls("param group", pipeline, names, scratch, values, Journal()).read(0)
        return values, foreign

    def _label(self, pipeline: Pipeline, chosen: Any, foreign: Mapping[str, Any]) -> str:
        parts = [str(foreign["name"])] if "name" in foreign else []
        if pipeline.label:
            parts.append(pipeline.label)
        if chosen is not None:
            parts.append(chosen if isinstance(chosen, str) else "predicate")
        label = " & ".join(parts)
        taken = {controls.label for controls in self.controls}
        return label if label and label not in taken else self.free_label()

    def free_label(self) -> str:
        """The name of a group that has none."""
        taken = {controls.label for controls in self.controls}
        number = len(self.controls)
        while f"group {number}" in taken:
            number += 1
        return f"group {number}"

    def _add(
        self,
        pipeline: Pipeline,
        label: str,
        members: list[tuple[str, Any]],
        named: bool,
        values: Mapping[str, Any],
        foreign: Mapping[str, Any],
    ) -> None:
        params: list[Any] = list(members) if named else [param for _, param in members]
        store: dict[str, Any] = {"params": params, **self._switches, **foreign}
        if not label.startswith("group "):
            store["name"] = label
        kept, self.defaults = self.defaults, {}  # which would go into the group
        try:
            super().add_param_group(store)
        finally:
            self.defaults = kept
        store = self.param_groups[-1]
        self.controls.append(
            Controls(label, pipeline, names_of(pipeline), store, values, self.journal)
        )
        self.controls[-1].enter(self.updates)
        for name, param in members:
            self.entries.append(
                Entry(len(self.entries), name, param, len(self.controls) - 1, pipeline)
            )
        self.forget_plans()

    def forget_plans(self) -> None:
        """Arrays were replaced: look at all of them again."""
        super().forget_plans()
        self._watches.clear()
