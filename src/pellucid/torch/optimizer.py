"""A real `torch.optim.Optimizer` that runs a rule as one fused kernel."""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch

from pellucid.changes import Journal
from pellucid.compose import Composed, Pipeline, Router, flatten, matches, transformers_of
from pellucid.controls import Controls, overrides
from pellucid.fuse.engine import DTYPES, Entry, Plan
from pellucid.fuse.pool import threads
from pellucid.fuse.program import program
from pellucid.fuse.trace import Variant
from pellucid.host import Host, check_patterns
from pellucid.torch.arrays import TorchBackend, TorchNamespace
from pellucid.torch.groups import Shelved, follow
from pellucid.torch.names import STEPS, names_of, rule_names
from pellucid.torch.watch import Watch

__all__ = ["Optimizer"]

KEYS: dict[str, Any] = {
    "foreach": None,
    "capturable": False,
    "differentiable": False,
    "fused": None,
}
"""Torch's switches between implementations: kept in groups, since torch's classes read them."""
STATE_KEY = "pellucid"
PIPELINE = ("stages", "ordinals", "label")  # what a pipeline is made of


class _State:
    """Slots in ``optimizer.state`` under torch's names."""

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer = optimizer

    def get(self, entry: Entry, full: str) -> Any:
        held = self.optimizer.state.get(entry.param)
        names = self.optimizer.controls[entry.group].names
        return None if held is None else held.get(names.slots[full])

    def put(self, entry: Entry, full: str, array: Any) -> None:
        names = self.optimizer.controls[entry.group].names
        self.optimizer.state[entry.param][names.slots[full]] = array


class Optimizer(Host, torch.optim.Optimizer):
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

    ``param_groups``, ``state`` and ``state_dict`` carry torch's names and go both ways between
    this class and torch's own for the same rule.
    """

    xp: Any = TorchNamespace()
    _switches: dict[str, Any] = KEYS
    _arriving: Any = None  # what a state dict that is being loaded has for us alone

    def __init__(
        self,
        params: Any,
        stage: Composed,
        *,
        groups: Mapping[Any, Mapping[str, Any]] | None = None,
        gradient_transformers: Iterable[Any] = (),
        compiled: bool = True,
        seed: int = 0,
    ) -> None:
        flatten(stage)
        functions = (*gradient_transformers, *transformers_of(stage))
        Host.__init__(self, TorchBackend(), _State(self), stage, functions, compiled, seed)
        self._patterns = dict(groups or {})
        self._router = Router(stage)
        self._watches: list[tuple[Watch, Plan, Any, tuple[Any, ...]]] = []
        self._counters: dict[int, Any] = {}
        self._taken: list[Any] = []
        self.shelf: list[Shelved] = []
        torch.optim.Optimizer.__init__(self, _listed(params), {})
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

    # -- groups ----------------------------------------------------------------------------

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
        _check_param(name, param)

    def _named(self, params: Any, names: Any) -> tuple[list[tuple[str, Any]], bool]:
        """(name, parameter) pairs of a group, checked, and whether the user named them."""
        if isinstance(params, (set, frozenset)):
            raise TypeError("params is a set, whose order differs between runs: give a list")
        listed = [params] if isinstance(params, torch.Tensor) else list(params)
        if names is not None:
            listed = list(zip(names, listed, strict=True))
        count = len(self.entries)
        known = {id(entry.param): entry.name for entry in self.entries}
        found: list[tuple[str, Any]] = []
        named = bool(listed) and isinstance(listed[0], (tuple, list))
        for number, one in enumerate(listed):
            if isinstance(one, (tuple, list)) != named or (named and len(one) != 2):
                raise ValueError(
                    "some parameters of a group have names and some have none: give (name, "
                    "parameter) pairs for all of them or for none"
                )
            name, param = one if named else (f"param_{count + number}", one)
            if not named and self._patterns:
                raise ValueError(
                    "groups= needs names: pass the model or model.named_parameters() instead of "
                    "model.parameters()"
                )
            _check_param(name, param)
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
        _check_switches(scratch)
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

    # -- the step --------------------------------------------------------------------------

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
        _check_param(entry.name, param)
        _check_memory(param, f"parameter {entry.name!r}")
        held = self.state.get(param, {})
        if not isinstance(held, dict):
            raise TypeError(
                f"the state of {entry.name!r} is {type(held).__name__}; allowed is a dict"
            )
        for full, native in self.controls[entry.group].names.slots.items():
            if held.get(native) is not None:
                _check_memory(held[native], f"slot {full!r} of {entry.name!r}")

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
        if _is_counter(held) or (held is None and not self._counts(entry)):
            return held
        made = self._counters.get(entry.index)
        if made is None:
            begun = float(self.updates) if self.state.get(entry.param) else 0.0
            begun = begun if held is None else _counted(held, entry.name)
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

    # -- files -----------------------------------------------------------------------------

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
                self, TorchBackend(), _State(self), own["stage"], own["transformers"],
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

    def __repr__(self) -> str:
        return f"pellucid.torch.{type(self).__name__} of {self.stage!r}\n{super().__repr__()}"


def _listed(params: Any) -> Any:
    """What torch's constructor takes: a model stands for its named parameters."""
    if isinstance(params, torch.nn.Module):
        named = list(params.named_parameters())
        if not named:
            raise ValueError("the model has no parameters: an optimizer needs at least one")
        return named
    if isinstance(params, torch.Tensor):
        raise TypeError("params is one tensor; allowed is a model or an iterable: pass [tensor]")
    listed = list(params)
    if not listed:
        raise ValueError("params is empty: an optimizer needs at least one parameter")
    return listed


def _check_param(name: Any, param: Any) -> None:
    if not isinstance(name, str):
        raise TypeError(f"a parameter's name is {name!r}; allowed is text")
    if not isinstance(param, torch.Tensor):
        raise TypeError(f"parameter {name!r} is {type(param).__name__}; allowed is a tensor")
    if param.layout != torch.strided:
        raise TypeError(f"parameter {name!r} is sparse ({param.layout}); allowed is a dense tensor")
    real = {torch.complex64: "float32", torch.complex128: "float64"}.get(param.dtype)
    if real is None and str(param.dtype).removeprefix("torch.") not in DTYPES:
        raise TypeError(
            f"parameter {name!r} is {param.dtype}; allowed are float32, float64, complex64 and "
            "complex128: convert the model, such as model.float()"
        )
    if param.numel() and any(
        n > 1 and s == 0 for n, s in zip(param.shape, param.stride(), strict=True)
    ):
        raise ValueError(
            f"parameter {name!r} is expanded: several elements share memory; use its .clone()"
        )
    if param.is_conj() or param.is_neg():
        raise ValueError(
            f"parameter {name!r} is a lazily conjugated or negated view: use its "
            ".resolve_conj().resolve_neg()"
        )
    if param.requires_grad and not param.is_leaf and not param.retains_grad:
        raise ValueError("can't optimize a non-leaf Tensor")


def _check_memory(array: Any, what: str) -> None:
    """Raise unless a kernel can write a tensor."""
    if not isinstance(array, torch.Tensor):
        raise TypeError(f"{what} is {type(array).__name__}; allowed is a tensor")
    if array.layout != torch.strided or array.device.type != "cpu":
        raise TypeError(
            f"{what} is {array.layout} on {array.device}; allowed is a dense tensor on the CPU"
        )
    if array.is_conj() or array.is_neg():
        raise ValueError(f"{what} is a lazily conjugated or negated view: use a .clone()")
    if not array.numel():
        return
    if not array.data_ptr():
        raise ValueError(f"{what} has no memory (a null pointer)")
    if any(n > 1 and s == 0 for n, s in zip(array.shape, array.stride(), strict=True)):
        raise ValueError(f"{what} is expanded: several elements share memory; use a .clone()")


def _is_counter(value: Any) -> bool:
    """Whether a kernel can count in this tensor: torch's own form on the CPU."""
    return (
        isinstance(value, torch.Tensor)
        and value.dtype == torch.float32
        and value.dim() == 0
        and value.device.type == "cpu"
        and bool(value.data_ptr())
    )


def _counted(value: Any, name: str) -> float:
    """The number of updates that something else than a proper counter holds."""
    try:
        count = float(value)
    except (TypeError, ValueError, RuntimeError):
        count = -1.0
    if not 0 <= count < 1 << 62:
        raise ValueError(f"the step of {name!r} is {value!r}; allowed is a count of updates")
    return count


def _check_switches(store: Mapping[str, Any]) -> None:
    if store.get("differentiable"):
        raise ValueError(
            "differentiable=True cannot be had: the update is a fused kernel outside autograd; "
            "leave it False"
        )
    if store.get("capturable"):
        raise ValueError(
            "capturable=True cannot be had: there is no CUDA graph on the CPU; leave it False"
        )

