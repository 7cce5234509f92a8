"""State dicts, pickles and copies of a torch optimizer."""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from typing import Any

import torch

from pellucid.changes import Journal
from pellucid.compose import Pipeline, Router
from pellucid.controls import Controls
from pellucid.fuse.engine import Entry
from pellucid.host import Host
from pellucid.torch.arrays import TorchBackend
from pellucid.torch.grouped import SlotsInState
from pellucid.torch.groups import follow
from pellucid.torch.names import names_of
from pellucid.torch.stepping import Stepping

__all__ = ["Saving"]

STATE_KEY = "pellucid"
PIPELINE = ("stages", "ordinals", "label")  # what a pipeline is made of


class Saving(Stepping):
    """The part of a torch optimizer that is saved and loaded."""

    _arriving: Any = None  # what a state dict that is being loaded has for us alone

    def state_dict(self) -> dict[str, Any]:
        """As torch's; what has no place there is plain data under the key ``pellucid``."""
        follow(self)
        found: dict[str, Any] = super().state_dict()
        found[STATE_KEY] = self._own_state()
        return found

    def _own_state(self) -> dict[str, Any]:
        return {
            "updates": self.updates,
            "seed": self.seed,
            "schedules": [controls.state() for controls in self.controls],
            "shared": [[ordinal, full, value] for (ordinal, full), value in self.shared.items()],
            "journal": self.journal.to_dict(),
        }

    @torch._disable_dynamo  # type: ignore[attr-defined]
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what this class or torch's own for the same rule saved, by position.

        Raises:
            ValueError: what differs in groups, slots or shapes. Nothing was changed.
        """
        from pellucid.torch.files import checked_own, checked_state

        follow(self)
        hooks = self._optimizer_load_state_dict_pre_hooks
        loaded = dict(state_dict)
        for hook in [*hooks.values()]:
            changed = hook(self, loaded)
            loaded = loaded if changed is None else changed
        fitting = checked_state(self, loaded)
        self._arriving = checked_own(self, fitting, loaded.get(STATE_KEY))
        for controls in self.controls:
            controls.look(self.updates)
        self._optimizer_load_state_dict_pre_hooks = OrderedDict()  # they were called
        try:
            super().load_state_dict(fitting)
        finally:
            self._optimizer_load_state_dict_pre_hooks = hooks
            self._arriving = None

    def __getstate__(self) -> dict[str, Any]:
        follow(self)
        state: dict[str, Any] = super().__getstate__()
        state[STATE_KEY] = {
            "own": self._own_state_live(),
            "stage": self.stage,
            "transformers": self.transformers,
            "compiled": self.compiled,
            "by_graph": self.by_graph,
            "patterns": self._patterns,
            "switches": self._switches,
            "groups": [
                (
                    controls.label,
                    dict(controls.drivers),
                    dict(controls.seen),
                    [entry.name for entry in self.entries if entry.group == number],
                    tuple(getattr(controls.pipeline, key) for key in PIPELINE),
                )
                for number, controls in enumerate(self.controls)
            ],
        }
        return state

    def _own_state_live(self) -> dict[str, Any]:
        return {
            "updates": self.updates,
            "seed": self.seed,
            "shared": dict(self.shared),
            "journal": self.journal.to_dict(),
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        own = state.pop(STATE_KEY, None)
        if own is not None:
            live = own["own"]
            Host.__init__(
                self, TorchBackend(), SlotsInState(self), own["stage"], own["transformers"],
                own["compiled"], live["seed"],
            )  # fmt: skip
            self._patterns, self.by_graph = own["patterns"], own["by_graph"]
            self._switches = own["switches"]
            self._router = Router(self.stage)
            self._watches, self._counters, self._taken, self.shelf = [], {}, [], []
            self.updates, self.shared = live["updates"], live["shared"]
            self.journal = Journal.from_list(live["journal"])
            self.journal.live = self._completed
        super().__setstate__(state)
        if own is not None:
            if not isinstance(self.state, defaultdict):
                self.state = defaultdict(dict, self.state)
            self._rebuild(own["groups"])
        elif self._arriving is not None:
            from pellucid.torch.files import finish_load

            finish_load(self, self._arriving)

    def _rebuild(self, groups: list[tuple[str, dict[str, Any], Any, list[str], Any]]) -> None:
        """Controls and entries for groups that were pickled or copied."""
        for number, (label, drivers, seen, names, stages) in enumerate(groups):
            store = self.param_groups[number]
            first = store["params"][0] if names else None
            pipeline = self._router.pipeline(names[0], first) if names else Pipeline(*stages)
            native = names_of(pipeline)
            controls = Controls(label, pipeline, native, {}, pipeline.given, self.journal)
            controls.store, controls.drivers, controls.seen = store, dict(drivers), dict(seen)
            self.controls.append(controls)
            for name, param in zip(names, store["params"], strict=True):
                self.entries.append(Entry(len(self.entries), name, param, number, pipeline))
