"""The step of a torch optimizer: gradients, step counters, the watch for whatever moved."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from pellucid.fuse.engine import Entry, Plan
from pellucid.fuse.pool import threads
from pellucid.fuse.program import program
from pellucid.fuse.trace import Variant
from pellucid.torch.checks import check_memory, check_param, counted, is_counter
from pellucid.torch.grouped import Grouped
from pellucid.torch.groups import follow
from pellucid.torch.names import STEPS, rule_names
from pellucid.torch.watch import Watch

__all__ = ["Stepping"]


class Stepping(Grouped):
    """The part of a torch optimizer that updates parameters."""

    _counters: dict[int, Any]

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
        if not self._quick_step(checked):
            follow(self)
            self._counters.clear()
            self._update(self._gradients(), checked)
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
                if not same or self._sleepers:
                    structure = structure or self._structure(readings)
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

    def _gradients(self) -> dict[int, Any]:
        found = {}
        for entry in self.entries:
            grad = entry.param.grad
            if grad is not None:
                self._check_array(entry, grad, "gradient")
                found[entry.index] = grad
        return found

    def _check_array(self, entry: Entry, array: Any, what: str) -> None:
        param = entry.param
        if not isinstance(array, torch.Tensor):
            raise TypeError(
                f"{what} of {entry.name!r} is {type(array).__name__}; allowed is a tensor"
            )
        if array.layout != torch.strided:
            raise TypeError(
                f"{what} of {entry.name!r} is sparse ({array.layout}); allowed is a dense tensor: "
                "build the layer with sparse=False"
            )
        if array.device.type != "cpu" or param.device.type != "cpu":
            raise TypeError(
                f"{what} of {entry.name!r} is on {array.device}, its parameter on {param.device}; "
                "allowed is the CPU: kernels for other devices are not built yet"
            )
        if array.shape != param.shape or array.dtype != param.dtype:
            raise ValueError(
                f"{what} of {entry.name!r} has shape {tuple(array.shape)} and dtype {array.dtype}; "
                f"its parameter has {tuple(param.shape)} and {param.dtype}: they must be the same"
            )
        if not array.is_conj() and array.numel() and not array.data_ptr():
            raise ValueError(f"{what} of {entry.name!r} has no memory (a null pointer)")
        check_param(entry.name, param)
        check_memory(param, f"parameter {entry.name!r}")
        held = self.state.get(param, {})
        if not isinstance(held, dict):
            raise TypeError(
                f"the state of {entry.name!r} is {type(held).__name__}; allowed is a dict"
            )
        for full, native in self.controls[entry.group].names.slots.items():
            if held.get(native) is not None:
                check_memory(held[native], f"slot {full!r} of {entry.name!r}")

    def _transformed(self, gradients: dict[int, Any]) -> dict[int, Any]:
        """Gradients after the plain functions, which must leave parameters alone."""
        params = {entry.index: entry.param for entry in self.entries}
        versions = {index: param._version for index, param in params.items()}
        made = self._apply_transformers(gradients, params)
        for entry in self.entries:
            if entry.param._version != versions[entry.index]:
                raise ValueError(
                    f"a gradient transformer changed the parameter {entry.name!r}: change "
                    "gradients only; a ParameterTransform changes parameters"
                )
        return made

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
        truth = self.truths(self.readings())[entry.group]
        options = {name: truth[name] for name in entry.pipeline.options}
        shape = tuple(entry.param.shape)
        numbers = {name: value or 0.0 for name, value in truth.items()}
        _, kinds, _ = self.engine.slots(entry, shape, truth, numbers)
        variant = Variant(tuple(sorted(options.items())), tuple(kinds.items()), self.asleep())
        made = program(entry.pipeline, variant, len(shape), "float32")
        return made.segmented.reads_step

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
