"""The step of a torch optimizer: gradients, step counters, the watch for whatever moved."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from pellucid.fuse.engine import Entry, Plan
from pellucid.fuse.graph import walk
from pellucid.fuse.pool import threads
from pellucid.fuse.trace import UNSCALE
from pellucid.torch.checks import counted, is_counter
from pellucid.torch.gradients import Gradients
from pellucid.torch.groups import follow
from pellucid.torch.names import STEPS, rule_names
from pellucid.torch.preparing import only_prepared
from pellucid.torch.watch import Watch

__all__ = ["Stepping"]


class Stepping(Gradients):
    """The part of a torch optimizer that updates parameters."""

    _counters: dict[int, Any]
    prepared: Any = None  # the state, where it was made for a checkpoint before the first step

    @torch._disable_dynamo  # type: ignore[attr-defined]
    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None, **extras: Any) -> Any:
        """Update all parameters that have a gradient.

        Args:
            closure: computes the loss anew, and the gradients.
            extras: what the stages declare with `extra`, by name: a number, or tensors by
                parameter's name or in the parameters' order. A ``loss`` may come from the closure.

        Returns:
            What the closure returned, or None.

        Raises:
            ValueError, TypeError: what is wrong with a gradient or a hyperparameter. Nothing
                was changed.
        """
        if only_prepared(self):
            return None
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if extras or self.extra_inputs():
            follow(self)
            if loss is not None and "loss" not in extras and "loss" in self.extra_inputs():
                extras["loss"] = loss
            checked = self._checked_extras(extras)
        else:
            checked = {}
        if self._step_found_inf():
            return loss
        scale = self._unscale()
        if scale is not None:
            checked[UNSCALE] = scale
        if not self._quick_step(checked):
            follow(self)
            self._counters.clear()
            if self._update(self._gradients(checked), checked):
                self._note_kinds()
        return loss

    def _quick_step(self, extras: dict[str, Any]) -> bool:
        """The step in which nothing moved: one check of all pointers, one launch."""
        if self.transformers or not self.compiled or any(
            isinstance(value, dict) for value in extras.values()
        ):
            return False
        structure = None
        for position, (watch, plan, known, kept) in enumerate(self._watches):
            if not watch.holds(self.param_groups, self.state):
                continue
            try:
                readings = self.readings()
                same = len(kept) == len(readings) and all(
                    a.base is b.base for a, b in zip(readings, kept, strict=True)
                )
                if not same or self._sleepers or known[0] != (UNSCALE in extras):
                    structure = structure or self._structure(readings, UNSCALE in extras)
                    if structure != known:
                        continue
                self._launch(plan, readings, extras, watch.tensors.bump)
            finally:
                watch.release()
            self._watches.pop(position)
            self._watches.insert(0, (watch, plan, known, tuple(self.readings_kept())))
            return True
        return False

    @property
    def _sleepers(self) -> bool:
        return any(
            stage.every_steps > 1
            for controls in self.controls
            for stage in controls.pipeline.stages
        )

    def _written(self, plan: Plan) -> Callable[[], None]:
        bump = torch.autograd.graph.increment_version
        return lambda: bump([entry.param for entry in plan.entries])

    def _launched(self, plan: Plan) -> None:
        """From the next step on only look whether anything moved."""
        self._watches = [one for one in self._watches if one[1] in self._plans.values()]
        grads = [entry.param.grad for entry in plan.entries]
        if any(grad is not None and grad.layout != torch.strided for grad in grads):
            return
        pointed = plan.held.get(("grad", None), [])
        direct = len(pointed) == len(grads) and all(
            grad is not None and grad.data_ptr() == held.data_ptr()
            for grad, held in zip(grads, pointed, strict=True)
        )
        if self.transformers or plan.staged_in or plan.grad_buffers or not direct:
            return
        if not plan.entries or not all(isinstance(held, dict) for held in self.state.values()):
            return
        active = {id(entry.param) for entry in plan.entries}
        params = [entry.param for entry in plan.entries]
        idle = [entry.param for entry in self.entries if id(entry.param) not in active]
        slots = [array for some in plan.slots for array in some.values()]
        counters = [counter for counter in plan.counters if counter is not None]
        others = [*slots, *counters]
        watch = Watch(params, idle, others, self.param_groups, self.state, plan.launch)
        known = next(key[1] for key, kept in self._plans.items() if kept is plan)
        self._watches = [one for one in self._watches if one[1] is not plan]
        self._watches.insert(0, (watch, plan, known, ()))

    def _by_index(self, given: Any, what: str) -> dict[int, Any]:
        if isinstance(given, Mapping):
            named = dict(given)
            unknown = set(named) - {entry.name for entry in self.entries}
            if unknown:
                raise ValueError(f"{what} for {min(unknown)!r}: no parameter of that name")
        else:
            values = list(given)
            if len(values) != len(self.entries):
                raise ValueError(
                    f"{len(values)} {what}s for {len(self.entries)} parameters: give one for each"
                )
            named = {e.name: value for e, value in zip(self.entries, values, strict=True)}
        found = {}
        for entry in self.entries:
            array = named.get(entry.name)
            if array is None and entry.param.grad is not None:
                raise ValueError(f"{what} of {entry.name!r} is missing: it has a gradient")
            if array is not None:
                self._check_array(entry, array, what)
                found[entry.index] = array
        return found

    # -- step counters ---------------------------------------------------------------------

    def _counts(self, entry: Entry) -> bool:
        """Whether a parameter has its own counter: if its rule reads it, or torch's has one."""
        if STEPS & set(rule_names(entry.pipeline)):
            return True
        asked = self.asked(self.readings(), {})
        made = self.engine.program(entry, {}, self.engine.kinds(entry, asked), asked)
        return any(node.op == "step" for node in walk(made.traced.exact))

    def _held_step(self, entry: Entry) -> Any:
        held = self.state.get(entry.param)
        return None if not held else held.get("step")

    def _step_of(self, entry: Entry) -> Any:
        held = self._held_step(entry)
        if is_counter(held) or (held is None and not self._counts(entry)):
            return held
        made = self._counters.get(entry.index)
        if made is None:
            begun = float(self.updates) if self.state.get(entry.param) else 0.0
            begun = begun if held is None else counted(held, entry.name)
            made = torch.tensor(begun, dtype=torch.float32, device="cpu")
            self._counters[entry.index] = made
        return made

    def _keep_step(self, entry: Entry, counter: Any) -> None:
        held = self.state[entry.param]
        rest = {key: value for key, value in held.items() if key != "step"}
        held.clear()
        held.update({"step": counter, **rest})

    def _advance(self, entry: Entry) -> None:
        counter = self._step_of(entry)
        if counter is None:
            return
        counter += 1
        if counter is not self._held_step(entry):
            self._keep_step(entry, counter)

    def _threads(self) -> int:
        return min(threads(), torch.get_num_threads())
