"""Our own optimizers, those of NumPy's and of torch's arrays, as a view reads and writes them."""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from pellucid.access.rates import Put, check_scheduler, kept_rates, new_rates
from pellucid.access.sources import Assignment, Cell, Group, Owner
from pellucid.access.splitting import split_store
from pellucid.access.writing import check_sharing, model_names
from pellucid.changes import Journal
from pellucid.controls import Controls, Names
from pellucid.declare import Ref, is_scalar_array
from pellucid.fuse.engine import Entry
from pellucid.fuse.trace import traced_init
from pellucid.host import Host

__all__ = ["HostSource"]

SOURCE = "view"


class HostGroup:
    """One group of our optimizers; see `pellucid.access.sources.Group`."""

    def __init__(self, source: HostSource, index: int, entries: Sequence[Entry]) -> None:
        self.source, self.index, self.entries = source, index, entries
        self.controls: Controls = source.optimizer.controls[index]

    @property
    def name(self) -> str:
        return self.controls.label

    @property
    def rule(self) -> str:
        return type(self.controls.pipeline.rule).__name__

    @property
    def members(self) -> list[str]:
        return [self.source.name_of(entry) for entry in self.entries]

    @property
    def size(self) -> int:
        shape = self.source.optimizer.backend.shape
        return sum(math.prod(shape(entry.param)) for entry in self.entries)

    @property
    def names(self) -> Names:
        return self.controls.names

    def raw(self, full: str) -> Any:
        """The value as the framework's dict holds it."""
        return self.controls.raw(full)

    def value(self, full: str) -> Any:
        """The number in the framework's dict; under a schedule that of the last update."""
        raw = self.controls.raw(full)
        if full in self.controls.pipeline.options:
            return raw
        driver = self.driver(full)
        if isinstance(driver, Ref):
            stage, _ = self.controls.pipeline.hypers[full]
            return self.value(self.controls.pipeline.resolve(stage, driver.name))
        if raw is driver and raw is not None:  # written directly, adopted by the next step
            return float(driver(self.source.updates))
        return float(raw) if is_scalar_array(raw) else raw

    def driver(self, full: str) -> Any:
        """What drives a value; None after a number was written directly, which replaces it."""
        raw = self.controls.raw(full)
        if isinstance(raw, Ref) or (callable(raw) and not is_scalar_array(raw)):
            return raw
        driver = self.controls.drivers.get(full)
        if driver is None or _number(raw) != _number(self.controls.seen[full]):
            return None
        return driver

    def scheduler(self, full: str) -> str:
        if not self.controls.scheduled(full):
            return ""
        given = self.source.scheduler
        return "an LR scheduler" if given is None else type(given).__name__


class HostSource:
    """An optimizer of ours; see `pellucid.access.sources.Source`."""

    def __init__(self, optimizer: Host, model: Any = None, scheduler: Any = None) -> None:
        if scheduler is not None:
            check_scheduler(scheduler, optimizer)
        self.optimizer, self.model, self.scheduler = optimizer, model, scheduler
        self.given_names = model_names(model)
        for controls in optimizer.controls if scheduler is not None else ():
            for full in controls.names.canonical("lr"):  # not every scheduler leaves a mark
                optimizer.journal.scheduled.add((controls.label, full))

    def name_of(self, entry: Entry) -> str:
        """The model's name of a parameter, if a model was given, else the optimizer's."""
        return self.given_names.get(id(entry.param), entry.name)

    @property
    def name(self) -> str:
        return type(self.optimizer).__name__

    @property
    def title(self) -> str:
        return repr(self.optimizer.stage)

    @property
    def updates(self) -> int:
        return self.optimizer.updates

    @property
    def journal(self) -> Journal:
        return self.optimizer.journal

    @property
    def recorded(self) -> Journal | None:
        return self.optimizer.journal

    def groups(self) -> list[Group]:
        members: list[list[Entry]] = [[] for _ in self.optimizer.controls]
        for entry in self.optimizer.entries:
            members[entry.group].append(entry)
        return [HostGroup(self, index, entries) for index, entries in enumerate(members)]

    @property
    def idle(self) -> int:
        """How many of the last steps found no gradient at all."""
        return self.optimizer.idle

    # -- state -----------------------------------------------------------------------------

    def owners(self) -> list[Owner]:
        found: list[Owner] = []
        taken: set[str] = set()
        for entry in self.optimizer.entries:
            name = self.name_of(entry)
            label = f"{name} ({entry.index})" if name in taken else name
            taken.add(label)
            found.append(Owner(label, name, entry.group, entry))
        return found

    def array(self, owner: Owner) -> Any:
        return owner.parameter.param

    def gradient(self, owner: Owner) -> Any:
        return getattr(owner.parameter.param, "grad", None)  # a NumPy array has none

    def cells(self, owner: Owner) -> list[Cell]:
        entry: Entry = owner.parameter
        names, held = self.optimizer.controls[entry.group].names, self._held(entry)
        found = []
        for full, (_, declared) in entry.pipeline.slots.items():
            if declared.scope != "parameter":
                continue
            native = names.slots[full]
            value = held.get(native)
            why = f"{full} of {owner.label!r} does not exist {_until(declared.when, bool(held))}"
            found.append(Cell(owner.label, full, native, value, why, partial(self._put, value)))
        for native, value in held.items():  # such as torch's own count of steps
            if native not in names.slots.values() and hasattr(value, "dtype"):
                put = partial(self._put, value)
                found.append(Cell(owner.label, native, native, value, "", put))
        return found

    def coming(self) -> dict[str, Any]:
        """State that the next update will begin, by path: a copy of its first value."""
        optimizer = self.optimizer
        readings = optimizer.readings()
        asked = optimizer.asked(readings, {})
        found: dict[str, Any] = {}
        for owner in self.owners():
            entry: Entry = owner.parameter
            if self._held(entry):
                continue
            counter = optimizer._step_of(entry)
            if counter is not None:
                found[f"{owner.label}/step"] = counter
            slots, _, _ = optimizer.engine.slots(entry, asked)
            for full, array in slots.items():
                declared = entry.pipeline.slots[full][1]
                if declared.init == "param":
                    optimizer.backend.copy(array, optimizer.backend.real(entry.param))
                elif traced_init(declared):
                    array = None  # it depends on the gradient
                found[f"{owner.label}/{full}"] = array
        return found

    def _held(self, entry: Entry) -> dict[str, Any]:
        """A parameter's slots by native name; torch keys its state by the parameter itself."""
        by_name = type(entry.param).__hash__ is None  # as NumPy's arrays are
        state: Any = self.optimizer.state  # type: ignore[attr-defined]  # every subclass has one
        held: dict[str, Any] = state.get(entry.name if by_name else entry.param, {})
        return held

    def _put(self, into: Any, value: Any) -> None:
        backend = self.optimizer.backend
        if hasattr(value, "dtype"):
            backend.copy(backend.real(into), backend.real(value))
        else:
            backend.fill(into, value)

    def shared_cells(self) -> list[Cell]:
        first: dict[tuple[int, str], str] = {}
        for controls in self.optimizer.controls:
            pipeline = controls.pipeline
            for full, (stage, declared) in pipeline.slots.items():
                if declared.scope == "optimizer":
                    ordinal = pipeline.ordinals[pipeline.stages.index(stage)]
                    first.setdefault((ordinal, full), controls.label)
        times = Counter(full for _, full in first)
        found = []
        for (ordinal, full), label in first.items():
            owner = self.name if times[full] == 1 else label
            value = self.optimizer.shared.get((ordinal, full))
            why = f"{full} does not exist before the first update: call step() first"
            found.append(Cell(owner, full, full, value, why, partial(self._share, ordinal, full)))
        return found

    def _share(self, ordinal: int, full: str, value: float) -> None:
        self.optimizer.shared[ordinal, full] = float(value)

    def reset(self, owners: Sequence[Owner], full: str | None) -> None:
        """Let state begin anew; see `View.reset`."""
        if full is None:
            for owner in owners:
                self._held(owner.parameter).clear()  # the next update begins it, and the step
            self.optimizer.forget_plans()
            return
        doomed: list[tuple[dict[str, Any], str, Cell]] = []
        for owner in owners:
            held = self._held(owner.parameter)
            for cell in self.cells(owner):
                if cell.value is not None and full in (cell.full, cell.native):
                    doomed.append((held, cell.native, cell))
        if not doomed:
            raise ValueError(f"no state {full!r} to reset: there is none before the first step")
        for held, native, cell in doomed:
            names = self.optimizer.controls[self._entry(cell, owners).group].names
            if native in names.slots.values():
                del held[native]  # the next update begins it
            else:
                cell.put(0)
        self.optimizer.forget_plans()

    @staticmethod
    def _entry(cell: Cell, owners: Sequence[Owner]) -> Entry:
        found: Entry = next(one.parameter for one in owners if one.label == cell.owner)
        return found

    # -- changing --------------------------------------------------------------------------

    def check(self, assignments: Sequence[Assignment]) -> list[Put]:
        """Raise unless all may be written; what is to be written beside them."""
        check_sharing(assignments, self.groups())
        self._try(assignments)
        return self._new_rates(assignments)

    def set(self, assignments: Sequence[Assignment], reason: str) -> None:
        puts = self.check(assignments)
        for one in assignments:
            self._controls(one.group).set(one.full, one.value, self.updates + 1, SOURCE, reason)
        for put in puts:
            put()

    def _controls(self, group: Group) -> Controls:
        controls: Controls = self.optimizer.controls[group.index]
        return controls

    def _new_rates(self, assignments: Sequence[Assignment]) -> list[Put]:
        """What is to be written to a framework's scheduler; an error if it would undo a change."""
        return [
            put
            for one in assignments
            for put in new_rates(
                self.scheduler, self._controls(one.group), one.group.index, one.full, one.value
            )
        ]

    def _try(self, assignments: Sequence[Assignment]) -> None:
        """Set all on copies of the groups: what fails there fails before anything is changed."""
        copies: dict[int, Controls] = {}
        for one in assignments:
            index = one.group.index
            if index not in copies:
                copies[index] = _detached(self._controls(one.group))
            copies[index].set(one.full, one.value, self.updates + 1, SOURCE, "")

    def keep(self, targets: Sequence[tuple[Group, str]]) -> Callable[[str], None]:
        held = []
        rates: list[Put] = []
        for group, full in targets:
            controls = self._controls(group)
            raw = controls.raw(full)
            driver = group.driver(full)
            members = {id(e.param) for e in self.optimizer.entries if e.group == group.index}
            value = raw if driver is None else driver
            held.append((members, full, value, _number(raw)))
            rates += kept_rates(self.scheduler, controls, group.index, full)

        def put_back(reason: str) -> None:
            for members, full, value, number in held:
                if hasattr(value, "fill_"):  # the tensor that its owner holds, with its number
                    value.fill_(number)
                # a split may have made several groups of one
                for index in dict.fromkeys(
                    entry.group for entry in self.optimizer.entries if id(entry.param) in members
                ):
                    controls = self.optimizer.controls[index]
                    if full in controls.names.places:
                        controls.set(full, value, self.updates + 1, SOURCE, reason)
            for put in rates:
                put()

        return put_back

    def split(self, group: Group, members: Sequence[str], label: str) -> None:
        """Move some parameters of a group into one of their own; see `View.split`."""
        optimizer: Any = self.optimizer
        old = self._controls(group)
        moved = [
            entry
            for entry in optimizer.entries
            if entry.group == group.index and self.name_of(entry) in members
        ]
        by_name = isinstance(old.store["params"][0], str)  # as NumPy's groups have them
        chosen = [
            one
            for one in old.store["params"]
            if any(one == entry.name if by_name else one is entry.param for entry in moved)
        ]
        groups, scheduled = optimizer.param_groups, "initial_lr" in old.store
        store = split_store(groups, group.index, chosen, label, self.scheduler, scheduled)
        optimizer.controls.append(_twin(old, label, store, self.updates))
        if by_name:
            identities = {id(entry) for entry in moved}
            number = len(optimizer.controls) - 1
            optimizer.entries[:] = [
                replace(entry, group=number) if id(entry) in identities else entry
                for entry in optimizer.entries
            ]
        else:
            from pellucid.torch.groups import follow

            follow(optimizer)
        optimizer.forget_plans()


def _detached(controls: Controls) -> Controls:
    """A copy whose changes reach nothing of the original's."""
    made = copy.copy(controls)
    made.store = {
        key: float(value) if is_scalar_array(value) else value
        for key, value in controls.store.items()
    }
    made.drivers, made.seen = dict(controls.drivers), dict(controls.seen)
    made.journal = Journal()
    return made


def _twin(controls: Controls, label: str, store: Any, updates: int) -> Controls:
    """The controls of a group that was split off."""
    made = copy.copy(controls)
    made.label, made.store = label, store
    made._last = made._unstored = None
    made.drivers, made.seen = dict(controls.drivers), dict(controls.seen)
    made.enter(updates)
    return made


def _number(value: Any) -> Any:
    return float(value) if is_scalar_array(value) else value


def _until(when: Any, begun: bool) -> str:
    """Since when a slot will be there."""
    if not begun:
        return "before the parameter's first update: call step() first"
    if when is None:
        return "before the parameter's next update: call step() first"
    return f"as long as {getattr(when, 'text', None) or when.name} does not hold"
