"""A journal on an optimizer that is not ours: it looks at the groups before each step.

Hooks of `torch.optim.Optimizer` say when a step begins and ends, and when a state is loaded.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pellucid.access.writing import is_scheduled
from pellucid.changes import Change, Journal
from pellucid.controls import SCHEDULED
from pellucid.declare import is_scalar_array
from pellucid.ops import is_number

__all__ = ["Attached", "attach", "attached_to", "told_count"]

_every: weakref.WeakKeyDictionary[Any, Attached] = weakref.WeakKeyDictionary()
HOOKS = (
    ("register_step_pre_hook", "_optimizer_step_pre_hooks", "_before_step"),
    ("register_step_post_hook", "_optimizer_step_post_hooks", "_after_step"),
    ("register_load_state_dict_pre_hook", "_optimizer_load_state_dict_pre_hooks", "_before_load"),
    ("register_load_state_dict_post_hook", "_optimizer_load_state_dict_post_hooks", "_after_load"),
)
"""Torch's method, the attribute that its constructor makes for it, and what is called here."""


def attached_to(optimizer: Any) -> Attached | None:
    """What was attached to an optimizer, or None."""
    try:
        return _every.get(optimizer)
    except TypeError:  # cannot be referred to weakly, or hashed
        return None


def attach(
    optimizer: Any, file: str | os.PathLike[str] | None = None, scheduled: bool = False
) -> Attached:
    """The journal of an optimizer that is not ours, attached once.

    Raises:
        TypeError: the object tells nobody when it steps.
    """
    found = attached_to(optimizer)
    if found is None:
        found = Attached(optimizer, file)
        _every[optimizer] = found
    elif file is not None:
        found.file = file
        found.open_file()
    found.scheduled = found.scheduled or scheduled
    return found


class Attached:
    """The journal of one optimizer, and what its groups held when last looked at."""

    def __init__(self, optimizer: Any, file: str | os.PathLike[str] | None = None) -> None:
        if file is not None:
            if os.path.exists(file):
                Journal.from_file(file)  # before anything is changed: it may be someone else's
            with open(file, "ab"):  # a file that cannot be written is no surprise for a later step
                pass
        told = told_count(optimizer)
        self.told = told is not None  # else a load tells no count either
        self._updates = told or 0
        self._skips: list[Any] = []  # of a gradient scaler: whether it made torch skip a step
        self.file = file  # opened when training goes on: a checkpoint may be loaded before
        self.scheduled = False  # a scheduler of torch drives the rates, which leaves no mark
        self.journal = Journal()
        self.journal.live = self._now
        self.idle = 0  # the last steps that found no gradient
        self.where = 0, 0  # a parameter that had a gradient: its group and its place there
        self.begun = self.found = False  # a step, and whether it found one
        self.handles: list[Any] = []
        for register, needed, own in HOOKS:
            method = getattr(optimizer, register, None)
            if method is None or not hasattr(optimizer, needed):
                if "load" in register and self.handles:  # a load is then seen at the next step
                    continue
                for handle in self.handles:
                    handle.remove()
                raise TypeError(
                    f"a journal cannot be attached to {type(optimizer).__name__}: it lacks "
                    f"torch.optim.Optimizer's {register}, by which steps are noticed; attach it "
                    "to the optimizer inside, or call super().__init__ in its constructor"
                )
            self.handles.append(method(_hook(self, own)))
        self.held: list[_Held] = []
        self.take(optimizer)

    # -- counting --------------------------------------------------------------------------

    @property
    def updates(self) -> int:
        """Completed updates; a scaler's answers are waited for when someone asks."""
        for skip in self._skips:
            self._updates -= bool(skip)
        self._skips.clear()
        return self._updates

    def _now(self) -> int:
        return self.updates

    # -- looking ---------------------------------------------------------------------------

    def open_file(self) -> None:
        """Training goes on from here: the file's later entries are abandoned."""
        file, self.file = self.file, None
        if file is None:
            return
        if not self.told and os.path.exists(file):
            self._updates = max(self.updates, Journal.from_file(file).reached)
        self.journal.to_file(file)

    def take(self, optimizer: Any) -> None:
        """Remember what the groups hold."""
        before = [held.label for held in self.held]
        self.held = _all_held(optimizer)
        now = [held.label for held in self.held]
        for label in before:
            if label not in now:
                self.journal.end(self.updates + 1, label)
        for held in self.held:
            if held.label not in before:
                self.journal.begin(self.updates + 1, held.label, dict(held.values))

    def look(self, optimizer: Any, source: str = "") -> None:
        """Record what was changed since the last look."""
        groups = optimizer.param_groups
        if len(groups) == len(self.held) and all(map(_Held.has_form_of, self.held, groups)):
            for group, held in zip(groups, self.held, strict=True):
                self._look_at(optimizer, group, held, source)
        else:
            self._look_anew(optimizer, source)

    def _look_at(
        self, optimizer: Any, group: Mapping[str, Any], held: _Held, source: str
    ) -> None:
        """Look at a group with the keys that it had."""
        keys, values = held.raw
        if not source and held.fixed:  # the short way: nothing can change inside a value
            now = [*map(group.get, keys)]
            if now == values:
                return
        else:
            now = _raw(group)[1]
        fixed = held.fixed
        for key, old, new in zip(keys, values, now, strict=True):
            if source or old != new:
                self._compare(optimizer, group, held, key, source)
                fixed = fixed and _immutable(group[key])
        if held.fixed and fixed and not source:
            held.raw = keys, now
        else:
            held.raw, held.fixed = _raw(group), _is_fixed(group)

    def _compare(
        self, optimizer: Any, group: Mapping[str, Any], held: _Held, key: str, source: str
    ) -> None:
        """Record what differs in one key of a group."""
        value = group[key]
        for full, position in held.places.get(key, ()):
            new = _value(value if position is None else value[position])
            self._note(optimizer, group, held.label, full, held.values.get(full), new, source)
            held.values[full] = new

    def _look_anew(self, optimizer: Any, source: str) -> None:
        """Other groups or other keys: all of them are read."""
        before = self.held
        self.take(optimizer)
        if len(before) != len(self.held):
            known = {held.label: held for held in before}
            before = [known.get(held.label, held) for held in self.held]
        for group, old, held in zip(optimizer.param_groups, before, self.held, strict=True):
            for full, value in held.values.items():
                if full in old.values:
                    if held.label != old.label:  # it has another name: its history begins there
                        continue
                    self._note(optimizer, group, held.label, full, old.values[full], value, source)

    def _note(
        self, optimizer: Any, group: Any, label: str, full: str, old: Any, new: Any, source: str
    ) -> None:
        if _same(old, new):
            return
        why, step = source or self._source(optimizer, group, full), self.updates + 1
        if not self.journal.goes_on(step, label, full, new, why):
            self.journal.record(Change(step, label, full, old, new, why))

    def _source(self, optimizer: Any, group: Mapping[str, Any], full: str) -> str:
        scheduled = self.scheduled or is_scheduled(optimizer, group, "initial_lr")
        if full == "learning_rate" and scheduled:
            return "framework scheduler"
        driven = full in ("momentum", "beta1") and any(
            key in group for key in SCHEDULED if key != "initial_lr"
        )
        return "framework scheduler" if driven else "direct write"

    # -- hooks -----------------------------------------------------------------------------

    def _before_step(self, optimizer: Any) -> None:
        if self.file is not None:
            self.open_file()
        self.look(optimizer)
        self.found = self._finds_gradient(optimizer.param_groups)
        self.begun = True

    def _finds_gradient(self, groups: Any) -> bool:
        """Whether any parameter has a gradient; the one that had it last is asked first."""
        number, place = self.where
        if number < len(groups) and place < len(groups[number]["params"]) and (
            groups[number]["params"][place].grad is not None
        ):
            return True
        for number, group in enumerate(groups):
            for place, param in enumerate(group["params"]):
                if param.grad is not None:
                    self.where = number, place
                    return True
        return False

    def _after_step(self, optimizer: Any) -> None:
        if not self.begun:  # once, where a class's step calls its base's, which has hooks too
            return
        self.begun = False
        self._updates += 1
        skipped = getattr(optimizer, "found_inf", None)  # a scaler's, during a fused step
        if skipped is not None:
            self._skips.append(skipped)
            if len(self._skips) > 256:
                self.updates  # noqa: B018
        # a closure computes gradients after the step has begun
        found = self.found or self._finds_gradient(optimizer.param_groups)
        self.idle = 0 if found else self.idle + 1

    def _before_load(self, optimizer: Any) -> None:
        self.look(optimizer)

    def _after_load(self, optimizer: Any) -> None:
        loaded = told_count(optimizer)
        if loaded is not None:
            self.told = True
            if loaded < self.updates:
                self.journal.abandon(loaded)
            self._updates = loaded
        self.look(optimizer, "load")


@dataclass
class _Held:
    """What a group held."""

    label: str
    values: dict[str, Any]  # by full name, as plain data
    places: dict[str, list[tuple[str, int | None]]]  # full names and positions, by key
    raw: tuple[list[Any], list[Any]]
    fixed: bool  # whether no value can change inside

    def __post_init__(self) -> None:
        self.parts = [(k, len(some)) for k, some in self.places.items() if some[0][1] is not None]

    def has_form_of(self, group: Mapping[str, Any]) -> bool:
        """Whether a group has the keys that this one had, and tuples as long as its."""
        keys = self.raw[0]
        if len(group) != len(keys) + 1 or not all(map(group.__contains__, keys)):
            return False
        return all(
            isinstance(group[key], (tuple, list)) and len(group[key]) == count
            for key, count in self.parts
        )


def _is_fixed(group: Mapping[str, Any]) -> bool:
    return all(_immutable(value) for key, value in group.items() if key != "params")


def _immutable(value: Any) -> bool:
    return value is None or isinstance(value, (bool, int, float, str)) or (
        type(value) is tuple and all(map(_immutable, value))
    )


def _hook(found: Attached, name: str) -> Any:
    """A hook; what is attached holds neither the optimizer nor its parameters."""
    call = getattr(found, name)

    def hook(optimizer: Any, *_: Any) -> None:
        call(optimizer)

    return hook


def _raw(group: Mapping[str, Any]) -> tuple[list[Any], list[Any]]:
    """Keys and values of a group, but its parameters, as they are compared at each step."""
    keys = [key for key in group if key != "params"]
    return keys, [_comparable(group[key]) for key in keys]


def _comparable(value: Any) -> Any:
    """What tells that a value is another: of a tensor its version, not its value, for which a
    GPU would have to be waited for; of what can change inside, what is inside."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if type(value) is tuple:
        return tuple(map(_comparable, value))
    if isinstance(value, (list, tuple)):
        return [*map(_comparable, value)]
    if hasattr(value, "_version"):
        return id(value), value._version
    if hasattr(value, "tobytes"):
        return value.tobytes()
    return repr(value) if isinstance(value, (dict, set)) else (id(value),)


def _all_held(optimizer: Any) -> list[_Held]:
    from pellucid.access.foreign import GroupsSource

    found = []
    for group in GroupsSource(optimizer).bare_groups():
        names = group.names
        places: dict[str, list[tuple[str, int | None]]] = {}
        for full, place in names.places.items():
            places.setdefault(place.key, []).append((full, place.position))
        values = {full: _value(group.value(full)) for full in names.places}
        store = group.store
        found.append(_Held(group.name, values, places, _raw(store), _is_fixed(store)))
    return found


def _value(value: Any) -> Any:
    if is_scalar_array(value):
        return float(value)
    return value if value is None or isinstance(value, (bool, int, float, str)) else repr(value)


def _same(one: Any, other: Any) -> bool:
    return bool(one == other) or (one != one and other != other)


def told_count(optimizer: Any) -> int | None:
    """The number of updates that state or groups tell; None where none is told.

    Counters of groups may begin at 1, and a ``k`` may be a hyperparameter: ``defaults`` tell.
    """
    found: list[int] = []
    for held in getattr(optimizer, "state", {}).values():
        step: Any = held.get("step") if isinstance(held, Mapping) else None
        if step is not None and (is_number(step) or is_scalar_array(step)):
            found.append(int(step))
    for group in optimizer.param_groups:
        for key in ("step", "k"):
            if is_number(group.get(key)):
                begun: Any = getattr(optimizer, "defaults", {}).get(key)
                if key == "step" or begun is not None:
                    found.append(int(group[key]) - (int(begun) if is_number(begun) else 0))
    return max(found, default=None)
