"""What every optimizer of eager arrays does in a step, whatever its framework.

Read values, plain functions, plan, launch, commit: all that can fail comes before the commit.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import is_
from typing import Any

import numpy

from pellucid.changes import Journal
from pellucid.compose import Composed, Transformer
from pellucid.controls import Controls, Reading
from pellucid.declare import Ref
from pellucid.fuse.engine import Asked, Backend, Engine, Entry, Plan, State, same_layout
from pellucid.fuse.interpret import NumpyNamespace
from pellucid.fuse.launch import Step
from pellucid.fuse.pool import threads
from pellucid.fuse.rows import Rows
from pellucid.fuse.trace import UNSCALE
from pellucid.inputs import check_extras, transformed
from pellucid.ops import is_number

__all__ = ["Host", "check_patterns"]

KEPT_PLANS = 4  # such as the two sets of gradients of alternating losses


class Host:
    """The part of an optimizer that NumPy's and torch's share."""

    def __init__(
        self,
        backend: Backend,
        state: State,
        stage: Composed,
        transformers: Sequence[Transformer],
        compiled: bool,
        seed: int,
    ) -> None:
        for function in transformers:
            if not callable(function):
                raise TypeError(f"gradient_transformers has {function!r}, which is no function")
        if not isinstance(compiled, bool):
            raise TypeError(f"compiled is {compiled!r}; allowed is True or False")
        if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0 or seed >= 1 << 63:
            raise ValueError(f"seed is {seed!r}; allowed is a whole number from 0, below 2**63")
        self.stage, self.transformers = stage, tuple(transformers)
        self.compiled, self.seed = compiled, seed
        self.backend, self.arrays = backend, state
        self.engine = Engine(backend, state, seed)
        self.journal = Journal()
        self.journal.live = self._completed
        self.controls: list[Controls] = []
        self.entries: list[Entry] = []
        self.updates = 0  # completed
        self.idle = 0  # the last of them, in which no parameter had a gradient
        self.shared: dict[tuple[int, str], float] = {}
        self.by_graph = False  # with compiled=False: interpret graphs instead of running lines
        self._plans: dict[Any, Plan] = {}

    xp: Any = NumpyNamespace()

    def _completed(self) -> int:
        return self.updates

    # -- what a framework does its own way ---------------------------------------------------

    @abstractmethod
    def _transformed(self, gradients: dict[int, Any]) -> dict[int, Any]:
        """Gradients after the plain functions."""

    def _step_of(self, entry: Entry) -> Any:
        """A parameter's own step counter, where the framework counts so."""
        return None

    def _keep_step(self, entry: Entry, counter: Any) -> None:
        """Put a counter into the state, where it is not there yet."""

    def _held_step(self, entry: Entry) -> Any:
        """The counter that is in the state, or None."""
        return None

    def _advance(self, entry: Entry) -> None:
        """Count an update of a parameter that no kernel counted."""

    def _threads(self) -> int:
        return threads()

    def _written(self, plan: Plan) -> Callable[[], None] | None:
        """What to call while a plan's kernels write to the parameters."""
        return None

    def _launched(self, plan: Plan) -> None:
        """A plan that had to be looked for has run."""

    # -- the step ----------------------------------------------------------------------------

    def readings(self) -> list[Reading]:
        """Each group's values for the next update, checked."""
        return [controls.read(self.updates) for controls in self.controls]

    def readings_kept(self) -> list[Reading]:
        """The readings that the next step gets again if nobody writes to a group."""
        return [controls.kept for controls in self.controls if controls.kept is not None]

    def _update(self, gradients: dict[int, Any], extras: dict[str, Any]) -> bool:
        """One update with these gradients, by entry's index; False if it was vetoed."""
        readings = self.readings()
        if self.transformers:
            gradients = self._transformed(gradients)
        self._check_complete(gradients, extras)
        self.idle = 0 if gradients else self.idle + 1
        asked = self.asked(readings, gradients, UNSCALE in extras)
        if not self.compiled:
            step = self._step(readings, extras)
            done = self._interpreted(gradients, readings, asked, step, extras)
            if done:
                self._commit(readings, step)
            return done
        plan = self._plan(gradients, readings, asked)
        self._point(plan, gradients, extras)
        done = self._launch(plan, readings, extras, self._written(plan))
        if done:
            self._launched(plan)
        return done

    def _step(self, readings: Sequence[Reading], extras: Mapping[str, Any]) -> Step:
        numbers = {name: value for name, value in extras.items() if is_number(value)}
        values = [reading.values for reading in readings]
        return Step(values, self.updates, self._shared_slots(readings), numbers)

    def _launch(
        self,
        plan: Plan,
        readings: Sequence[Reading],
        extras: Mapping[str, Any],
        meanwhile: Callable[[], None] | None,
    ) -> bool:
        """Run the kernels, and then let the step stand; False if it was vetoed."""
        step = self._step(readings, extras)
        done = plan.run(step, self._threads(), meanwhile)
        if done:
            self._commit_slots(plan)
            self._commit(readings, step)
        return done

    def _commit_slots(self, plan: Plan) -> None:
        for entry, full, array in plan.pending:
            self.arrays.put(entry, full, array)
        plan.pending.clear()
        for entry, counter in plan.new_counters:
            self._keep_step(entry, counter)
        plan.new_counters.clear()

    def _commit(self, readings: Sequence[Reading], step: Step) -> None:
        for controls, reading in zip(self.controls, readings, strict=True):
            controls.commit(reading)
        self.shared = step.shared
        self.updates += 1

    def _interpreted(
        self,
        gradients: dict[int, Any],
        readings: Sequence[Reading],
        asked: Asked,
        step: Step,
        extras: Mapping[str, Any],
    ) -> bool:
        from pellucid.fuse.eager import eager_update

        return eager_update(self, gradients, readings, asked, step, extras)

    # -- plans -------------------------------------------------------------------------------

    def asleep(self) -> frozenset[str]:
        """Stages that take no part in the next update, by `every`."""
        return frozenset(
            stage.name
            for controls in self.controls
            for stage in controls.pipeline.stages
            if stage.every_steps > 1 and (self.updates + 1) % stage.every_steps
        )

    def truths(self, readings: Sequence[Reading]) -> list[dict[str, Any]]:
        """Of each group: what ``when=`` asks: numbers (None: a schedule) and options."""
        return [
            {
                **{
                    full: None if self._drives(controls, full) else value
                    for full, value in reading.values.items()
                },
                **reading.options,
            }
            for controls, reading in zip(self.controls, readings, strict=True)
        ]

    @staticmethod
    def _drives(controls: Controls, full: str) -> bool:
        driver = controls.drivers.get(full)
        return driver is not None and not isinstance(driver, Ref)

    def asked(
        self, readings: Sequence[Reading], gradients: Mapping[int, Any], scaled: bool = False
    ) -> Asked:
        """What a plan depends on beside the arrays."""
        sparse = frozenset(i for i, grad in gradients.items() if isinstance(grad, Rows))
        return Asked(
            [reading.options for reading in readings],
            self.truths(readings),
            [reading.values for reading in readings],
            self.asleep(),
            scaled,
            sparse,
            self._grad_dtypes(gradients),
        )

    def _grad_dtypes(self, gradients: Mapping[int, Any]) -> dict[int, str]:
        """The types of gradients that are not their parameters', by entry."""
        return {}

    def _structure(self, readings: Sequence[Reading], scaled: bool) -> tuple[Any, ...]:
        """Everything but the arrays that a plan depends on."""
        whens: list[Any] = []
        for controls, truth in zip(self.controls, self.truths(readings), strict=True):
            if controls.pipeline.storage.sparse == "catch_up":
                whens.append(tuple(value == 0.0 for value in truth.values()))
            for stage, declared in controls.pipeline.slots.values():
                if declared.when is not None:
                    own = {
                        name: truth[controls.pipeline.full(stage, name)]
                        for name in stage.declared.arguments
                    }
                    whens.append(declared.present(own))
        options = tuple(tuple(reading.options.values()) for reading in readings)
        return scaled, options, tuple(whens), self.asleep()

    def _plan(
        self, gradients: dict[int, Any], readings: Sequence[Reading], asked: Asked
    ) -> Plan:
        arrays = (tuple(gradients), asked.sparse, *sorted(asked.grad_dtypes.items()))
        key = (arrays, self._structure(readings, asked.scaled))
        plan = self._plans.get(key)
        if plan is not None and self._still_holds(plan):
            return plan
        self._plans = {k: kept for k, kept in self._plans.items() if self._still_holds(kept)}
        active = [entry for entry in self.entries if entry.index in gradients]
        plan = self.engine.plan(active, asked, self._step_of)
        plan.new_counters = [
            (entry, counter)
            for entry, counter in zip(plan.entries, plan.counters, strict=True)
            if counter is not self._held_step(entry)
        ]
        while len(self._plans) >= KEPT_PLANS:
            del self._plans[next(iter(self._plans))]
        self._plans[key] = plan
        return plan

    def _still_holds(self, plan: Plan) -> bool:
        """Whether the arrays that a plan writes are still the parameters' and the state's."""
        counters = map(self._held_step, plan.entries)
        return self.engine.holds(plan) and all(map(is_, counters, plan.counters))

    def forget_plans(self) -> None:
        """Arrays were replaced: look at all of them again."""
        self._plans.clear()

    def _point(self, plan: Plan, gradients: dict[int, Any], extras: Mapping[str, Any]) -> None:
        """Point the plan at this step's gradients and extra inputs."""
        rows = [gradients[entry.index] for entry in plan.entries]
        if any(isinstance(one, Rows) for one in rows):
            plan.launch.set_rows(rows)
        self._point_at(plan, ("grad", None), gradients)
        for name, value in extras.items():
            if not is_number(value):
                self._point_at(plan, ("extra", name), value)

    def _point_at(self, plan: Plan, key: tuple[str, str | None], arrays: dict[int, Any]) -> None:
        backend = self.backend
        held = []
        for position, entry in enumerate(plan.entries):
            given = arrays[entry.index]
            if isinstance(given, Rows):
                held.append(given.values)
                continue
            array, param = backend.real(given), backend.real(entry.param)
            buffer = plan.grad_buffers.get(position) if key[0] == "grad" else None
            if buffer is not None and backend.dtype(buffer) == backend.dtype(array):
                backend.copy(buffer, array)
                array = buffer
            elif position in plan.grad_buffers:
                array = backend.contiguous(array)
            elif not same_layout(
                backend.shape(param), backend.strides(array), backend.strides(param)
            ):
                array = backend.like(param, array)
            held.append(array)
        plan.held[key] = held  # alive until the next step
        addresses = numpy.array([backend.address(array) for array in held], numpy.int64)
        plan.launch.set_addresses(key, addresses)

    # -- extra inputs and shared slots -------------------------------------------------------

    def extra_inputs(self) -> dict[str, str]:
        """What the stages declare with `extra`: name and shape."""
        return {
            name: declared.shape
            for controls in self.controls
            for name, (_, declared) in controls.pipeline.extras.items()
        }

    def _checked_extras(self, given: Mapping[str, Any]) -> dict[str, Any]:
        wanted = self.extra_inputs()
        check_extras("step", wanted, given)
        checked: dict[str, Any] = {}
        for name, shape in wanted.items():
            if shape == "scalar":
                try:
                    checked[name] = float(given[name])
                except (TypeError, ValueError):
                    raise TypeError(f"{name} is {given[name]!r}; allowed is a number") from None
            else:
                checked[name] = self._by_index(given[name], name)
        return checked

    def _check_complete(self, gradients: Mapping[int, Any], extras: Mapping[str, Any]) -> None:
        """Raise if a parameter that has a gradient lacks an extra input."""
        for name, given in extras.items():
            for entry in () if is_number(given) else self.entries:
                if entry.index in gradients and entry.index not in given:
                    raise TypeError(
                        f"step needs {name} for {entry.name!r}, too: that parameter has a gradient"
                    )

    @abstractmethod
    def _by_index(self, given: Any, what: str) -> dict[int, Any]:
        """Arrays by entry's index, checked against the parameters."""

    def _shared_slots(self, readings: Sequence[Reading]) -> dict[tuple[int, str], float]:
        """Optimizer-wide slots; those that are new begin at their first value."""
        shared = dict(self.shared)
        for controls, reading in zip(self.controls, readings, strict=True):
            pipeline = controls.pipeline
            for key, stage, declared in pipeline.shared:
                if key in shared:
                    continue
                init = declared.init
                shared[key] = (
                    reading.values[pipeline.resolve(stage, init.name)]
                    if isinstance(init, Ref)
                    else float(init)
                )
        return shared

    # -- plain functions ---------------------------------------------------------------------

    def _apply_transformers(
        self, gradients: dict[int, Any], params: Mapping[int, Any]
    ) -> dict[int, Any]:
        owner = {id(params[entry.index]): entry for entry in self.entries}
        names = {identity: entry.name for identity, entry in owner.items()}
        active = [entry.index for entry in self.entries if entry.index in gradients]
        pairs = [(gradients[index], params[index]) for index in active]
        for function in self.transformers:
            pairs = transformed(function, pairs, lambda param: names.get(id(param)))
        found: dict[int, Any] = {}
        for grad, param in pairs:
            entry = owner[id(param)]
            self._check_array(entry, grad, "transformed gradient")
            found[entry.index] = grad
        return {entry.index: found[entry.index] for entry in self.entries if entry.index in found}

    @abstractmethod
    def _check_array(self, entry: Entry, array: Any, what: str) -> None:
        """Raise if an array does not fit a parameter."""


def check_patterns(
    groups: Mapping[Any, Any], used: Iterable[Any], names: Iterable[str]
) -> None:
    """Raise if a pattern of ``groups=`` took no parameter."""
    taken = list(used)
    for pattern in groups:
        if not any(pattern is one or pattern == one for one in taken):
            listed = list(names)
            shown = ", ".join(listed[:8]) + (", ..." if len(listed) > 8 else "")
            raise ValueError(
                f"groups: the pattern {pattern!r} takes no parameter: each name matches an "
                f"earlier pattern or none (parameters: {shown})"
            )
