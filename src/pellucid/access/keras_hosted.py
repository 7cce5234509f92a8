"""Our own Keras optimizers, as a view reads and writes them, inside of `fit` too.

A group that shares a hyperparameter with others gets its own when it alone is written to. Before
`build` there are no groups of variables: the branches of the stages and the patterns of
``groups=`` stand for them.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from pellucid.access.keras_foreign import check_given, outer_state
from pellucid.access.keras_groups import KerasHostGroup, PlannedGroup
from pellucid.access.keras_settings import Leaf, is_variable
from pellucid.access.keras_slots import cell, put_into
from pellucid.access.keras_values import checked_all, keep, write_all
from pellucid.access.sources import Assignment, Cell, Group, Owner
from pellucid.changes import Journal
from pellucid.compose import matches

__all__ = ["KerasHostSource"]

AVERAGE, ACCUMULATOR = "average", "gradient_accumulator"
"""State of Keras's own: the weights' average of use_ema, and summed gradients."""


class KerasHostSource:
    """An optimizer of ours; see `pellucid.access.sources.Source`."""

    def __init__(
        self, optimizer: Any, leaf: Leaf, model: Any = None, scheduler: Any = None
    ) -> None:
        check_given(model, scheduler)
        self.optimizer, self.leaf = optimizer, leaf
        self.model = model

    @property
    def inner(self) -> Any:
        """The optimizer itself, inside of what stands around it."""
        return self.leaf.optimizer

    @property
    def core(self) -> Any:
        return self.inner.core

    def synchronise(self) -> None:
        """Have the Variables hold true values; see `pellucid.keras.trainers`."""
        self.inner.before_write()

    @property
    def name(self) -> str:
        return type(self.optimizer).__name__

    @property
    def title(self) -> str:
        around = "".join(f"{type(outer).__name__} of " for outer in self.leaf.around)
        return f"{around}{self.inner.stage!r}"

    @property
    def updates(self) -> int:
        return int(self.inner.updates)

    @property
    def journal(self) -> Journal:
        found: Journal = self.inner.journal
        return found

    @property
    def recorded(self) -> Journal | None:
        return self.journal

    @property
    def refused(self) -> str:
        """What a compiled step found out of its bounds, so that it did nothing; or nothing."""
        return str(self.inner.complaint())

    def stored(self, group: KerasHostGroup, full: str) -> None:
        """ValueError if a file cannot hold what drives a value."""
        from pellucid.keras.config import plain_setting

        with warnings.catch_warnings():  # of a lambda Keras warns when it is saved
            warnings.simplefilter("ignore")
            plain_setting(group.setting(full))

    # -- groups ----------------------------------------------------------------------------

    def groups(self) -> list[Group]:
        _ = self.journal  # what was written past us is on record before it is shown
        return [*self.plain_groups()]

    def plain_groups(self) -> list[KerasHostGroup]:
        """The groups; nothing is recorded."""
        if not self.inner.built:
            return self._planned()
        self.synchronise()
        core = self.core
        return [
            KerasHostGroup(n, self.leaf, one, [core.parameters[i] for i in one.members])
            for n, one in enumerate(core.groups)
        ]

    def _planned(self) -> list[KerasHostGroup]:
        """What stands for groups before there are variables; those of a model, if it was given."""
        core = self.core
        places: list[tuple[Any, Any]] = [(branch, None) for branch in core.branches]
        for pattern, given in core.patterns.items():
            places.append((core.branch_for(pattern, given), pattern))
        members: list[list[Any]] = [[] for _ in places]
        for parameter in self._future():
            members[parameter.group].append(parameter)
        return [
            KerasHostGroup(n, self.leaf, branch, members[n])
            if pattern is None
            else PlannedGroup(n, self.leaf, branch, members[n], pattern)
            for n, (branch, pattern) in enumerate(places)
        ]

    def _future(self) -> list[Any]:
        """The parameters that the optimizer will have, as far as the model tells."""
        from pellucid.keras.core import Parameter, path_of

        core, found = self.core, []
        patterns = [*core.patterns]
        for index, variable in enumerate(getattr(self.model, "trainable_variables", ())):
            path = path_of(variable)
            pipeline = core.router.pipeline(path, variable)
            number = next(n for n, one in enumerate(core.branches) if one.pipeline is pipeline)
            for place, pattern in enumerate(patterns):
                if matches(pattern, path, variable):
                    number = len(core.branches) + place
                    break
            found.append(Parameter(index, path, variable, number))
        return found

    # -- state -----------------------------------------------------------------------------

    def owners(self) -> list[Owner]:
        found: list[Owner] = []
        taken: set[str] = set()
        for one in self.core.parameters if self.inner.built else self._future():
            label = f"{one.name} ({one.index})" if one.name in taken else one.name
            taken.add(label)
            found.append(Owner(label, one.name, one.group, one))
        return found

    def array(self, owner: Owner) -> Any:
        self.synchronise()
        return owner.parameter.variable

    def gradient(self, owner: Owner) -> Any:
        """Of a torch parameter its gradient; other backends keep none."""
        variable = owner.parameter.variable
        return getattr(variable.value, "grad", None) if is_variable(variable) else None

    def cells(self, owner: Owner) -> list[Cell]:
        self.synchronise()
        parameter = owner.parameter
        group = self.plain_groups()[owner.group].group
        found = []
        for full, (_, declared) in group.pipeline.slots.items():
            if declared.scope != "parameter":
                continue
            held = parameter.slots.get(full)
            why = f"{full} of {owner.label!r} does not exist {self._until(declared.when)}"
            why = why if held is None else ""
            put, native = partial(self._put, parameter, full), group.names.slots[full]
            found.append(Cell(owner.label, full, native, held, why, put))
        for native, variables in self._own_of_keras().items():
            held = variables[parameter.index]
            if held is not None:
                found.append(cell(owner.label, native, native, held, self))
        return found

    def _own_of_keras(self) -> dict[str, list[Any]]:
        kept = {
            AVERAGE: getattr(self.inner, "_model_variables_moving_average", None),
            ACCUMULATOR: getattr(self.inner, "_accumulated_gradients", None),
        }
        return {name: [*held] for name, held in kept.items() if held}

    def _until(self, when: Any) -> str:
        if not self.inner.built:
            return "before the optimizer is built: call build(variables), or train one step"
        condition = getattr(when, "text", None) or getattr(when, "name", when)
        return f"as long as {condition} does not hold"

    def _put(self, parameter: Any, full: str, value: Any) -> None:
        """Write a checked value into a slot; then it has begun."""
        put_into(self, parameter.slots[full], value)
        self._set_begun(parameter, full, 1.0)

    def _set_begun(self, parameter: Any, full: str, begun: float) -> None:
        from pellucid.keras.host_values import on_host

        place = self.core.flags.get((parameter.index, full))
        if place is not None:
            flags = on_host(self.core.begun).copy()
            flags[place] = begun
            self.core.begun.assign(flags)

    def shared_cells(self) -> list[Cell]:
        self.synchronise()
        found = [cell(self.name, "iteration", "iteration", self.inner._iterations, self)]
        fulls = [full for _, full in self.core.shared]
        for (ordinal, full), variable in self.core.shared.items():
            several = fulls.count(full) > 1
            owner = self._branch_with(ordinal, full) if several else self.name
            found.append(cell(owner, full, full, variable, self))
        for outer in self.leaf.around:
            for native, one in outer_state(outer).items():
                found.append(cell(type(outer).__name__, native, native, one, self))
        return found

    def _branch_with(self, ordinal: int, full: str) -> str:
        """The group that tells optimizer-wide slots of one name apart."""
        for group in self.plain_groups():
            pipeline = group.group.pipeline
            if any(key == (ordinal, full) for key, _, _ in pipeline.shared):
                return group.name
        return self.name

    def reset(self, owners: Sequence[Owner], full: str | None) -> None:
        """Let state begin anew; see `View.reset`. All parameters' updates are counted as one."""
        from pellucid.keras.slots import first_value

        self.synchronise()
        wanted = [
            (owner, one)
            for owner in owners
            for one in self.cells(owner)
            if one.value is not None and full in (None, one.full, one.native)
        ]
        if not wanted and full is not None:
            raise ValueError(f"no state {full!r} to reset: there is none before the first step")
        for owner, one in wanted:
            parameter = owner.parameter
            declared = self.core.groups[parameter.group].pipeline.slots.get(one.full)
            if declared is not None and one.full in parameter.slots:
                first = first_value(self.core, parameter, one.full, declared[1])
                put_into(self, one.value, first)
                self._set_begun(parameter, one.full, 0.0)
            else:  # Keras's own: an average begins with the weights
                put_into(self, one.value, parameter.variable if one.full == AVERAGE else 0.0)

    # -- changing --------------------------------------------------------------------------

    def check(self, assignments: Sequence[Assignment]) -> list[tuple[KerasHostGroup, str, Any]]:
        """Raise unless all may be written; what is to be written."""
        return checked_all(self, assignments)

    def set(self, assignments: Sequence[Assignment], reason: str) -> None:
        if not isinstance(reason, str):
            raise TypeError(f"reason is {reason!r}; allowed is text")
        self.synchronise()
        checked = self.check(assignments)
        put_back = self.keep([(one.group, one.full) for one in assignments])
        try:
            write_all(self, checked, reason)
        except BaseException:
            put_back("undone: it failed")
            raise

    def keep(self, targets: Sequence[tuple[Group, str]]) -> Callable[[str], None]:
        self.synchronise()
        return keep(self, targets)

    def split(self, group: Group, members: Sequence[str], label: str) -> None:
        """Move some parameters of a group into one of their own; see `View.split`."""
        if not self.inner.built:
            raise ValueError(
                f"{self.name} is not built: there are no groups of variables to split; call "
                "build(model.trainable_variables) first, or give groups= to the constructor"
            )
        from pellucid.keras.regroup import split

        chosen = [
            owner.parameter.index
            for owner in self.owners()
            if owner.group == group.index and owner.name in members
        ]
        split(self.inner, self.core.groups[group.index], chosen, label)
