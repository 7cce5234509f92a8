"""Our own optimizers, those of NumPy's and of torch's arrays, as a view reads and writes them."""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from pellucid.access.rates import Put, check_scheduler, kept_rates, new_rates
from pellucid.access.sources import Assignment, Cell, Group, Owner
from pellucid.changes import Journal
from pellucid.controls import Controls, Names
from pellucid.declare import Ref, is_scalar_array
from pellucid.fuse.engine import Entry
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
        return [entry.name for entry in self.entries]

    @property
    def size(self) -> int:
        shape = self.source.optimizer.backend.shape
        return sum(math.prod(shape(entry.param)) for entry in self.entries)

    @property
    def names(self) -> Names:
        return self.controls.names

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

    def __init__(self, optimizer: Host, scheduler: Any = None) -> None:
        if scheduler is not None:
            check_scheduler(scheduler, optimizer)
        self.optimizer, self.scheduler = optimizer, scheduler

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

    def groups(self) -> list[Group]:
        members: list[list[Entry]] = [[] for _ in self.optimizer.controls]
        for entry in self.optimizer.entries:
            members[entry.group].append(entry)
        return [HostGroup(self, index, entries) for index, entries in enumerate(members)]

    # -- state -----------------------------------------------------------------------------

    def owners(self) -> list[Owner]:
        found: list[Owner] = []
        taken: set[str] = set()
        for entry in self.optimizer.entries:
            label = f"{entry.name} ({entry.index})" if entry.name in taken else entry.name
            taken.add(label)
            found.append(Owner(label, entry.name, entry.group, entry))
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

    # -- changing --------------------------------------------------------------------------

    def set(self, assignments: Sequence[Assignment], reason: str) -> None:
        self._check_sharing(assignments)
        self._try(assignments)
        puts = self._new_rates(assignments)
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

    def _check_sharing(self, assignments: Sequence[Assignment]) -> None:
        """Raise if a number would go into a tensor that a group which is not named holds too."""
        named = {(one.group.index, one.full) for one in assignments}
        for one in assignments:
            held = self._controls(one.group).raw(one.full)
            if not hasattr(held, "fill_") or hasattr(one.value, "dtype"):
                continue
            for index, controls in enumerate(self.optimizer.controls):
                if one.full not in controls.names.places or (index, one.full) in named:
                    continue
                if controls.raw(one.full) is held:
                    raise ValueError(
                        f"{one.group.name}/{one.full} is a tensor that {controls.label!r} holds "
                        "too: give this group one of its own, such as torch.tensor("
                        f"{one.value!r}), or change both"
                    )

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
            held.append((controls, full, raw if driver is None else driver, _number(raw)))
            rates += kept_rates(self.scheduler, controls, group.index, full)

        def put_back(reason: str) -> None:
            for controls, full, value, number in held:
                if hasattr(value, "fill_"):  # the tensor that its owner holds, with its number
                    value.fill_(number)
                controls.set(full, value, self.updates + 1, SOURCE, reason)
            for put in rates:
                put()

        return put_back


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


def _number(value: Any) -> Any:
    return float(value) if is_scalar_array(value) else value


def _until(when: Any, begun: bool) -> str:
    """Since when a slot will be there."""
    if not begun:
        return "before the parameter's first update: call step() first"
    if when is None:
        return "before the parameter's next update: call step() first"
    return f"as long as {getattr(when, 'text', None) or when.name} does not hold"
