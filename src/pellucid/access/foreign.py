"""Any optimizer with ``param_groups``: torch's own and strangers', as a view reads and writes it.

What is known of such a class is what its groups and its state hold. Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from typing import Any

from pellucid.access.allowed import allowed_value, check_effect, follow_in_state
from pellucid.access.attached import Attached, attach, attached_to, told_count
from pellucid.access.containers import DEPTH, Leaf, inner, leaves_of, put_into, refuse
from pellucid.access.rates import Put, check_scheduler, kept_rates, new_rates
from pellucid.access.sources import Assignment, Cell, Group, Owner
from pellucid.access.splitting import split_store
from pellucid.access.writing import check_sharing, is_scheduled, labels, model_names
from pellucid.changes import Change, Journal
from pellucid.controls import FOREIGN, SCHEDULED, Names, Place
from pellucid.declare import Ref, is_scalar_array

__all__ = ["GroupsSource", "has_groups"]

SOURCE = "view"

BEGUN: dict[tuple[str, str], tuple[str, float]] = {
    ("Adam", "amsgrad"): ("max_exp_avg_sq", 0.0),
    ("AdamW", "amsgrad"): ("max_exp_avg_sq", 0.0),
    ("RMSprop", "centered"): ("grad_avg", 0.0),
    ("RMSprop", "momentum"): ("momentum_buffer", 0.0),
}
"""Slots that a class of torch makes with a parameter's first update only, by what asks for them."""


def has_groups(one: Any) -> bool:
    """Whether an object has parameter groups as torch's optimizers have them."""
    groups = getattr(one, "param_groups", None)
    return isinstance(groups, list) and all(
        isinstance(group, dict) and "params" in group for group in groups
    )


def _classes(optimizer: Any) -> list[str]:
    return [base.__name__ for base in type(optimizer).__mro__]


def _is_simple(value: Any) -> bool:
    return value is None or isinstance(value, (bool, int, float, str)) or is_scalar_array(value)


class GroupOfDict:
    """One of ``param_groups``; see `pellucid.access.sources.Group`."""

    def __init__(self, source: GroupsSource, index: int, label: str, members: list[str]) -> None:
        self.source, self.index, self.members = source, index, members
        self.label = self.name = label
        self.store: dict[str, Any] = source.optimizer.param_groups[index]

    @property
    def rule(self) -> str:
        return self.source.name

    @property
    def size(self) -> int:
        return sum(_numel(param) for param in self.store["params"])

    @cached_property
    def names(self) -> Names:
        """Canonical names of what the group's dict has."""
        table = self.source.canonical
        places: dict[str, Place] = {}
        for key, value in self.store.items():
            if not isinstance(key, str) or key in FOREIGN:
                continue
            parts = isinstance(value, (tuple, list)) and value and all(map(_is_simple, value))
            found = [Place(key, n) for n in range(len(value))] if parts else [Place(key)]
            for place in found:
                native = key if place.position is None else f"{key}[{place.position}]"
                full = table.get(native, native)
                taken = full != native and (full in self.store or full in places)
                places[native if taken else full] = place
        return Names(places, self.source.slot_names)

    def raw(self, full: str) -> Any:
        """The value as the group's dict holds it."""
        place = self.names.places[full]
        value = self.store[place.key]
        return value if place.position is None else value[place.position]

    def value(self, full: str) -> Any:
        raw = self.raw(full)
        return float(raw) if is_scalar_array(raw) else raw

    def driver(self, full: str) -> Any:
        raw = self.raw(full)
        return raw if callable(raw) and not is_scalar_array(raw) else None

    def where(self, full: str) -> str:
        """How errors name a value of this group."""
        native = self.names.native(full)
        return f"{self.name}/{full}" + (f" ({native!r})" if native != full else "")

    def scheduled(self, full: str) -> bool:
        """Whether a scheduler of torch drives a value, as the keys that it left show."""
        native = self.names.native(full)
        return any(
            native in some and is_scheduled(self.source.optimizer, self.store, key)
            for key, some in SCHEDULED.items()
        )

    def scheduler(self, full: str) -> str:
        given = self.source.scheduler
        if not self.scheduled(full) and (given is None or self.names.native(full) != "lr"):
            return ""
        return "an LR scheduler" if given is None else type(given).__name__

    def write(self, full: str, value: Any) -> None:
        """Put a checked value where the class reads it."""
        place, raw = self.names.places[full], self.raw(full)
        if hasattr(raw, "fill_") and is_scalar_array(raw) and not hasattr(value, "dtype"):
            raw.fill_(float(value))  # the tensor stays the one that its owner holds
        elif place.position is None:
            self.store[place.key] = value
        else:
            held = self.store[place.key]
            parts = [*held]
            parts[place.position] = value
            self.store[place.key] = parts if isinstance(held, list) else tuple(parts)


def _numel(param: Any) -> int:
    try:
        return int(param.numel())
    except (ValueError, RuntimeError, AttributeError):  # not initialized yet
        return 0


class GroupsSource:
    """An optimizer of torch or of strangers; see `pellucid.access.sources.Source`."""

    def __init__(self, optimizer: Any, model: Any = None, scheduler: Any = None) -> None:
        if scheduler is not None:
            check_scheduler(scheduler, optimizer)
        self.optimizer, self.model, self.scheduler = optimizer, model, scheduler
        self.given_names = model_names(model)
        known = attached_to(optimizer)
        if known is not None and scheduler is not None:
            known.scheduled = True

    @property
    def name(self) -> str:
        return type(self.optimizer).__name__

    @property
    def title(self) -> str:
        kind = type(self.optimizer)
        return f"{kind.__module__}.{kind.__qualname__}"

    @property
    def updates(self) -> int:
        known = attached_to(self.optimizer)
        return known.updates if known is not None else told_count(self.optimizer) or 0

    @property
    def journal(self) -> Journal:
        return self.attached.journal

    @property
    def recorded(self) -> Journal | None:
        """The journal, if one is attached."""
        known = attached_to(self.optimizer)
        return None if known is None else known.journal

    @property
    def attached(self) -> Attached:
        return attach(self.optimizer, scheduled=self.scheduler is not None)

    @property
    def idle(self) -> int:
        """How many of the last steps found no gradient at all, as far as was looked."""
        known = attached_to(self.optimizer)
        return 0 if known is None else known.idle

    # -- names -----------------------------------------------------------------------------

    @cached_property
    def canonical(self) -> Mapping[str, str]:
        """Canonical names by native ones, as far as they are known for this class."""
        from pellucid.torch.names import canonical_of

        return canonical_of(tuple(_classes(self.optimizer)))

    @property
    def slot_names(self) -> dict[str, str]:
        """Native names of the slots that the state has now, by canonical ones."""
        for held in getattr(self.optimizer, "state", {}).values():
            if isinstance(held, Mapping) and held:
                table = self.canonical
                return {table.get(str(key), str(key)): str(key) for key in held}
        return {}

    def groups(self) -> list[Group]:
        every = self.optimizer.param_groups
        named = labels([group.get("name") for group in every])
        members: list[list[str]] = [[] for _ in every]
        for owner in self.owners():
            members[owner.group].append(owner.label)
        return [GroupOfDict(self, n, named[n], members[n]) for n in range(len(every))]

    def bare_groups(self) -> list[GroupOfDict]:
        """The groups without their parameters' names."""
        every = self.optimizer.param_groups
        named = labels([group.get("name") for group in every])
        return [GroupOfDict(self, n, named[n], []) for n in range(len(every))]

    def owners(self) -> list[Owner]:
        found: list[Owner] = []
        taken: set[str] = set()
        for number, group in enumerate(self.optimizer.param_groups):
            own = group.get("param_names")
            for place, param in enumerate(group["params"]):
                name = self.given_names.get(id(param))
                if name is None and isinstance(own, (list, tuple)) and place < len(own):
                    name = str(own[place])
                name = name or f"param_{len(found)}"
                label = f"{name} ({len(found)})" if name in taken else name
                taken.add(label)
                found.append(Owner(label, label, number, param))
        return found

    def array(self, owner: Owner) -> Any:
        return owner.parameter

    def gradient(self, owner: Owner) -> Any:
        return getattr(owner.parameter, "grad", None)

    # -- state -----------------------------------------------------------------------------

    def cells(self, owner: Owner) -> list[Cell]:
        held = self.optimizer.state
        try:
            state = held.get(owner.parameter)
        except (AttributeError, TypeError):
            return []
        if state is None:
            return []
        if not isinstance(state, Mapping):
            return [Cell(owner.label, "state", "state", state, "", partial(refuse, "state"))]
        table = self.canonical
        return [
            Cell(owner.label, table.get(leaf.name, leaf.name), leaf.name, leaf.value, "", leaf.put)
            for leaf in leaves_of(state, "", DEPTH)
        ]

    def shared_cells(self) -> list[Cell]:
        params = {id(owner.parameter) for owner in self.owners()}
        found = []
        for key, value in getattr(self.optimizer, "state", {}).items():
            if id(key) in params:
                continue
            label = key if isinstance(key, str) else f"state of a {type(key).__name__}"
            put = partial(put_into, self.optimizer.state, key, value)
            leaf = Leaf(label, value, put)
            some = inner(leaf, DEPTH) if isinstance(value, (dict, list, tuple)) else [leaf]
            found += [Cell(self.name, one.name, one.name, one.value, "", one.put) for one in some]
        return found

    def reset(self, owners: Sequence[Owner], full: str | None) -> None:
        """Let state begin anew; see `View.reset`."""
        cells = {id(owner): self.cells(owner) for owner in owners}
        if full is None:
            fresh = [self._fresh(owner) for owner in owners]
            for owner, state in zip(owners, fresh, strict=True):
                if state is None:
                    self.optimizer.state.pop(owner.parameter, None)
                else:
                    self.optimizer.state[owner.parameter] = state
            return
        puts = []
        for owner in owners:
            for cell in cells[id(owner)]:
                if full in (cell.full, cell.native):
                    if cell.native not in ZEROED:
                        raise ValueError(
                            f"{cell.path}: how {self.name} begins {cell.native!r} is not known "
                            f"here: reset all of the parameter's state, "
                            f"view.reset({owner.label!r}), or assign to view.state[{cell.path!r}]"
                        )
                    puts.append(cell)
        if not puts:
            raise ValueError(f"no state {full!r} to reset: there is none before the first step")
        for cell in puts:
            cell.put(0)

    def _fresh(self, owner: Owner) -> dict[str, Any] | None:
        """The state of a new parameter, of classes that make it when they are constructed."""
        if "Adagrad" not in _classes(self.optimizer) or not self.title.startswith("torch.optim."):
            return None
        group = self.optimizer.param_groups[owner.group]
        held = self.optimizer.state.get(owner.parameter, {})
        begun = {
            key: value.detach().clone() for key, value in held.items() if hasattr(value, "detach")
        }
        for key, value in begun.items():
            value.fill_(group["initial_accumulator_value"] if key == "sum" else 0)
        return begun or None

    # -- changing --------------------------------------------------------------------------

    def check(self, assignments: Sequence[Assignment]) -> list[Put]:
        """Raise unless all may be written; what is to be written beside them."""
        check_sharing(assignments, self.groups())
        puts: list[Put] = []
        together: dict[int, dict[str, Any]] = {}
        for one in assignments:
            group: Any = one.group
            value = self._checked(group, one.full, one.value)
            together.setdefault(group.index, {})[one.full] = value
            puts += new_rates(self.scheduler, group, group.index, one.full, one.value)
        for group in self.groups():
            if group.index in together:
                check_effect(self.optimizer, group, together[group.index])
        return puts

    def set(self, assignments: Sequence[Assignment], reason: str) -> None:
        if not isinstance(reason, str):
            raise TypeError(f"reason is {reason!r}; allowed is text")
        puts = self.check(assignments)
        attached = self.attached  # every change is on record
        attached.look(self.optimizer)
        for one in assignments:
            group: Any = one.group
            value = self._checked(group, one.full, one.value)
            self._begin_slots(group, one.full, value)
            self._write(attached, group, one.full, value, reason)
        for put in puts:
            put()
        attached.take(self.optimizer)

    def _write(
        self, attached: Attached, group: GroupOfDict, full: str, value: Any, reason: str
    ) -> None:
        """Write a checked value, and put on record what it changed."""
        old = _shown(group.value(full))
        group.write(full, value)
        follow_in_state(self.optimizer, group.store)
        new = _shown(group.value(full))
        if old != new:
            attached.journal.record(
                Change(attached.updates + 1, group.label, full, old, new, SOURCE, reason)
            )

    def _checked(self, group: GroupOfDict, full: str, value: Any) -> Any:
        raw, where = group.raw(full), group.where(full)
        if isinstance(value, Ref) or (callable(value) and not is_scalar_array(value)):
            raise TypeError(
                f"{where} is {value!r}; {self.name} takes numbers: it calls no schedule. Use a "
                "scheduler of torch, or a pellucid.torch.Optimizer, where any hyperparameter has "
                "schedules"
            )
        checked = allowed_value(self.optimizer, group.names.places[full], full, raw, value, where)
        if hasattr(value, "dtype") and hasattr(raw, "fill_"):
            return value  # a tensor of its own
        return checked

    def _begin_slots(self, group: GroupOfDict, full: str, value: Any) -> None:
        """Make what torch's own class will look for in states that it has made without it."""
        asked = BEGUN.get((self.name, full))
        if asked is None or not value or not self.title.startswith("torch.optim."):
            return
        native, number = asked
        for param in group.store["params"]:
            held = self.optimizer.state.get(param)
            if held and native not in held:
                like = next((v for v in held.values() if getattr(v, "shape", None) == param.shape),
                            param)
                held[native] = like.detach().clone().fill_(number)

    def keep(self, targets: Sequence[tuple[Group, str]]) -> Callable[[str], None]:
        held: list[tuple[set[int], str, Any]] = []
        rates: list[Put] = []
        for group, full in targets:
            one: Any = group
            members = {id(param) for param in one.store["params"]}
            held.append((members, full, one.value(full)))
            rates += kept_rates(self.scheduler, one, one.index, full)

        def put_back(reason: str) -> None:
            attached = self.attached
            attached.look(self.optimizer)
            for members, full, value in held:
                for one in self.bare_groups():  # a load or a split may have made others of them
                    mine = any(id(param) in members for param in one.store["params"])
                    if not mine or full not in one.names.places or one.value(full) == value:
                        continue
                    self._write(attached, one, full, value, reason)
            for put in rates:
                put()
            attached.take(self.optimizer)

        return put_back

    def split(self, group: Group, members: Sequence[str], label: str) -> None:
        """Move some parameters of a group into one of their own; see `View.split`."""
        if "LBFGS" in self.name:
            raise ValueError(f"{self.name} takes one group: it cannot be split")
        chosen = [
            owner.parameter
            for owner in self.owners()
            if owner.group == group.index and owner.label in members
        ]
        groups = self.optimizer.param_groups
        scheduled = is_scheduled(self.optimizer, groups[group.index], "initial_lr")
        split_store(groups, group.index, chosen, label, self.scheduler, scheduled)
        known = attached_to(self.optimizer)
        if known is not None:
            known.take(self.optimizer)


ZEROED = frozenset(
    ["exp_avg", "exp_avg_sq", "max_exp_avg_sq", "momentum_buffer", "exp_inf", "square_avg",
     "grad_avg", "acc_delta", "prev"]
)  # fmt: skip
"""Slots that begin at zero in every class of torch that has them."""


def _shown(value: Any) -> Any:
    return value if value is None or isinstance(value, (bool, int, float, str)) else repr(value)
