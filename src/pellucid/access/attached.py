"""A journal on an optimizer that is not ours: it looks at the groups before each step.

Hooks of `torch.optim.Optimizer` say when a step begins and ends, and when a state is loaded.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Mapping
from typing import Any

from pellucid.access.writing import is_scheduled
from pellucid.changes import Change, Journal
from pellucid.controls import SCHEDULED
from pellucid.declare import is_scalar_array

__all__ = ["Attached", "attach", "attached_to", "detach"]

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
        found.journal.to_file(file)
    found.scheduled = found.scheduled or scheduled
    return found


def detach(optimizer: Any) -> None:
    """Take the journal off again."""
    found = _every.pop(optimizer, None)
    for handle in found.handles if found is not None else ():
        handle.remove()


class Attached:
    """The journal of one optimizer, and what its groups held when last looked at."""

    def __init__(self, optimizer: Any, file: str | os.PathLike[str] | None = None) -> None:
        from pellucid.access.foreign import counted

        self.updates = counted(optimizer)
        self.scheduled = False  # a scheduler of torch drives the rates, which leaves no mark
        self.journal = Journal() if file is None else Journal.open(file, self.updates)
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
        self.held: list[tuple[str, dict[str, Any]]] = []
        self.take(optimizer)
        for label, values in self.held:
            self.journal.begin(self.updates + 1, label, dict(values))

    # -- looking ---------------------------------------------------------------------------

    def take(self, optimizer: Any) -> None:
        """Remember what the groups hold."""
        known = {label for label, _ in self.held}
        self.raw = [*map(_values, optimizer.param_groups)]
        self.held = _plain(optimizer)
        for label, values in self.held if known else ():
            if label not in known:
                self.journal.begin(self.updates + 1, label, dict(values))

    def look(self, optimizer: Any, source: str = "") -> None:
        """Record what was changed since the last look."""
        if not source and self._unchanged(optimizer):
            return
        before = dict(self.held)
        self.take(optimizer)
        for number, (label, values) in enumerate(self.held):
            old = before.get(label, values)
            group = optimizer.param_groups[number]
            for full, value in values.items():
                if full in old and not _same(old[full], value):
                    why = source or self._source(optimizer, group, full)
                    change = Change(self.updates + 1, label, full, old[full], value, why)
                    self.journal.record(change)

    def _unchanged(self, optimizer: Any) -> bool:
        """Whether the groups hold what they held: of a tensor its version tells, not its value,
        for which a GPU would have to be waited for."""
        return [*map(_values, optimizer.param_groups)] == self.raw

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
        if self.begun:  # once, where a class's step calls its base's, which has hooks too
            self.updates += 1
            self.idle = 0 if self.found else self.idle + 1
        self.begun = False

    def _before_load(self, optimizer: Any) -> None:
        self.look(optimizer)

    def _after_load(self, optimizer: Any) -> None:
        from pellucid.access.foreign import counted

        loaded = counted(optimizer)
        if loaded < self.updates:
            self.journal.abandon(loaded)
        self.updates = loaded
        self.look(optimizer, "load")


def _hook(found: Attached, name: str) -> Any:
    """A hook; what is attached holds neither the optimizer nor its parameters."""
    call = getattr(found, name)

    def hook(optimizer: Any, *_: Any) -> None:
        call(optimizer)

    return hook


def _values(group: Mapping[str, Any]) -> list[Any]:
    """Keys and values of a group, but its parameters; of tensors who and in what version."""
    return [
        *group,
        *[
            (id(value), getattr(value, "_version", None)) if hasattr(value, "dtype") else value
            for key, value in group.items()
            if key != "params"
        ],
    ]


def _plain(optimizer: Any) -> list[tuple[str, dict[str, Any]]]:
    """Each group's label and values, canonical names first, as plain data."""
    from pellucid.access.foreign import GroupsSource

    source = GroupsSource(optimizer)
    return [
        (group.name, {full: _value(group.value(full)) for full in group.names.places})
        for group in source.groups()
    ]


def _value(value: Any) -> Any:
    if is_scalar_array(value):
        return float(value)
    return value if value is None or isinstance(value, (bool, int, float, str)) else repr(value)


def _same(one: Any, other: Any) -> bool:
    return bool(one == other) or (one != one and other != other)
