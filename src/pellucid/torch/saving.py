"""State dicts, pickles and copies of a torch optimizer."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from pellucid.changes import Journal
from pellucid.compose import Pipeline, Router
from pellucid.controls import Controls
from pellucid.fuse.engine import Entry
from pellucid.host import Host
from pellucid.torch.arrays import TorchBackend
from pellucid.torch.files import KEY, described
from pellucid.torch.grouped import SlotsInState
from pellucid.torch.groups import follow
from pellucid.torch.names import names_of
from pellucid.torch.report import LoadReport
from pellucid.torch.stepping import Stepping

if TYPE_CHECKING:
    from pellucid.torch.loading import Prepared

__all__ = ["Saving"]

PIPELINE = ("stages", "ordinals", "label", "storage")  # what a pipeline is made of


class Saving(Stepping):
    """The part of a torch optimizer that is saved and loaded."""

    def state_dict(self) -> dict[str, Any]:
        """As torch's; what has no place there is plain data under the key ``pellucid``.

        Where parameters were given with names, each group has all of them as ``param_names``.
        """
        follow(self)
        found: dict[str, Any] = super().state_dict()
        if any("param_names" in group for group in self.param_groups):
            for number, group in enumerate(found["param_groups"]):
                names = [entry.name for entry in self.entries if entry.group == number]
                group["param_names"] = names
        found[KEY] = {**described(self, found), **self._own_state()}
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
    def load_state_dict(  # type: ignore[override]  # torch's returns nothing
        self, state_dict: dict[str, Any], strict: bool = True, dry_run: bool = False
    ) -> LoadReport:
        """Load what this class or torch's own saved: by name where both have names.

        By name, order and grouping may differ, names that wrappers of modules changed are
        recognized, and each group takes the hyperparameters on which the file's groups of its
        parameters agree. Else by position, as in torch. Loaded state keeps the file's dtype.
        From a file of another rule only state is taken; hyperparameters stay as they are here.

        Args:
            state_dict: what `state_dict` gave.
            strict: the parameters must be the same, every slot of the file be taken, and none
                be missing. False: what is missing begins anew, what nothing takes is dropped.
            dry_run: only check and report, also what would be refused. Load hooks that are
                called before a load are called, since they may adapt the file.

        Returns:
            What was matched, dropped, kept and changed; it can be printed.

        Raises:
            ValueError, LookupError: what does not fit or is damaged. Nothing was changed.
        """
        from pellucid.torch.loading import prepare

        for name, flag in (("strict", strict), ("dry_run", dry_run)):
            if not isinstance(flag, bool):
                raise TypeError(f"{name} is {flag!r}; allowed is True or False")
        follow(self)
        loaded = dict(state_dict)
        for hook in [*self._optimizer_load_state_dict_pre_hooks.values()]:
            changed = hook(self, loaded)
            loaded = loaded if changed is None else changed
        prepared = prepare(self, loaded, strict)
        if dry_run:
            return replace(prepared.report, dry_run=True)
        if prepared.error is not None:
            raise prepared.error
        self._put(prepared)
        return prepared.report

    def _put(self, prepared: Prepared) -> None:
        """Put a state dict in place that was read and checked."""
        from pellucid.torch.loading import finish_load, groups_of

        for controls in self.controls:
            controls.look(self.updates)
        before = [dict(controls.seen) for controls in self.controls]
        groups = groups_of(self, prepared)
        self.__setstate__({"state": defaultdict(dict, prepared.state), "param_groups": groups})
        finish_load(self, prepared, before)
        for after in [*self._optimizer_load_state_dict_post_hooks.values()]:
            after(self)

    def __getstate__(self) -> dict[str, Any]:
        follow(self)
        state: dict[str, Any] = super().__getstate__()
        state[KEY] = {
            "own": self._own_state_live(),
            "stage": self.stage,
            "transformers": self.transformers,
            "compiled": self.compiled,
            "by_graph": self.by_graph,
            "patterns": self._patterns,
            "switches": self._switches,
            "storage": self.storage,
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
        own = state.pop(KEY, None)
        if own is not None:
            live = own["own"]
            Host.__init__(
                self, TorchBackend(), SlotsInState(self), own["stage"], own["transformers"],
                own["compiled"], live["seed"],
            )  # fmt: skip
            self._patterns, self.by_graph = own["patterns"], own["by_graph"]
            self._switches, self.storage = own["switches"], own["storage"]
            self._router = Router(self.stage, self.storage)
            self._watches, self._counters, self._taken, self.shelf = [], {}, [], []
            self.updates, self.shared = live["updates"], live["shared"]
            self.journal = Journal.from_list(live["journal"])
            self.journal.live = self._completed
        super().__setstate__(state)
        if own is not None:
            if not isinstance(self.state, defaultdict):
                self.state = defaultdict(dict, self.state)
            self._rebuild(own["groups"])

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
