"""Keras's own optimizers and strangers' subclasses, as a view reads and writes them.

What is known of such a class is what `get_config` names and what its Variables are. Keras freezes
its plain attributes into a compiled step; whatever is written here has the steps of the models
that train with the optimizer made anew.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from pellucid.access.keras_allowed import allowed_value, check_effect, leaves_state
from pellucid.access.keras_foreign_groups import KerasGroup
from pellucid.access.keras_journal import Watched, watch, watched
from pellucid.access.keras_settings import (
    Leaf,
    Setting,
    count_of,
    keras,
    leaves_of,
    restorer,
)
from pellucid.access.keras_slots import State, begin_anew, cell, path_of, state_of
from pellucid.access.sources import Assignment, Cell, Group, Owner
from pellucid.access.writing import labels
from pellucid.changes import Journal
from pellucid.declare import Ref, is_scalar_array

__all__ = ["KerasSource", "check_foreign", "check_given", "outer_state"]


def check_given(model: Any, scheduler: Any) -> None:
    """Raise for what does not belong to an optimizer of Keras."""
    if scheduler is not None:
        raise TypeError(
            f"scheduler is a {type(scheduler).__name__}; allowed is None with Keras's "
            "optimizers: theirs are callbacks, or schedules in the learning rate's place"
        )
    if model is not None and not hasattr(model, "trainable_variables"):
        raise TypeError(
            f"model is {type(model).__name__}; allowed is a Keras model or layer (it has "
            "trainable_variables)"
        )


def outer_state(outer: Any) -> dict[str, Any]:
    """What a LossScaleOptimizer counts; its rate and its iteration are not used."""
    held = {id(one) for one in outer._variables}
    return {
        name.strip("_"): one
        for name, one in vars(outer).items()
        if id(one) in held and name not in ("_iterations", "_learning_rate")
    }


def check_foreign(optimizer: Any) -> None:
    """Raise for an optimizer of ours: it knows more of itself than Keras's classes do."""
    for leaf in leaves_of(optimizer):
        for base in type(leaf.optimizer).__mro__:
            if base.__module__.startswith("pellucid.keras.legacy"):
                break  # made as Keras's old ones: its hyperparameters are attributes, all live
            if base.__module__.startswith("pellucid.keras"):
                inside = f", inside of a {type(optimizer).__name__}" if leaf.around else ""
                raise TypeError(
                    f"view got {type(leaf.optimizer).__name__}, an optimizer of Pellucid's{inside};"
                    " allowed are Keras's own and strangers' classes: read and write its "
                    "hyperparameters as its attributes and items, optimizer['learning_rate']"
                )


class KerasSource:
    """An optimizer of Keras that is not ours; see `pellucid.access.sources.Source`."""

    def __init__(self, optimizer: Any, model: Any = None, scheduler: Any = None) -> None:
        check_given(model, scheduler)
        check_foreign(optimizer)
        self.optimizer, self.given = optimizer, model

    def synchronise(self) -> None:
        """Have the variables hold true values; see `pellucid.keras.trainers`."""
        from pellucid.keras.trainers import synchronise

        synchronise(self.optimizer)

    @property
    def name(self) -> str:
        return type(self.optimizer).__name__

    @property
    def title(self) -> str:
        kind = type(self.optimizer)
        public = getattr(keras().optimizers, kind.__name__, None) is kind
        title = f"keras.optimizers.{self.name}" if public else f"{kind.__module__}.{self.name}"
        inner = [type(leaf.optimizer).__name__ for leaf in self.leaves if leaf.around]
        return f"{title} of {', '.join(inner)}" if inner else title

    @property
    def updates(self) -> int:
        self.synchronise()
        return count_of(self.optimizer)

    @property
    def journal(self) -> Journal:
        return self.watched.journal

    @property
    def recorded(self) -> Journal | None:
        """The journal, if there is one."""
        known = watched(self.optimizer)
        if known is None:
            return None
        known.look(self)
        return known.journal

    @property
    def watched(self) -> Watched:
        return watch(self)

    def journal_in(self, file: Any) -> Journal:
        """The journal, which is also written to a file."""
        journal = self.journal
        if file is not None:
            journal.to_file(file)
        return journal

    # -- what there is ---------------------------------------------------------------------

    @property
    def leaves(self) -> list[Leaf]:
        return [*leaves_of(self.optimizer)]

    def groups(self) -> list[Group]:
        known = watched(self.optimizer)
        if known is not None:
            known.look(self)
        return [*self.plain_groups()]

    def plain_groups(self) -> list[KerasGroup]:
        """The groups; nothing is recorded."""
        self.synchronise()
        members: list[list[Owner]] = [[] for _ in self.leaves]
        for owner in self.owners():
            members[owner.group].append(owner)
        named = labels([leaf.label for leaf in self.leaves])
        return [
            KerasGroup(
                index, named[index], leaf, [one.label for one in members[index]],
                sum(math.prod(one.parameter[1].shape) for one in members[index]),
            )
            for index, leaf in enumerate(self.leaves)
        ]  # fmt: skip

    def owners(self) -> list[Owner]:
        found: list[Owner] = []
        taken: set[str] = set()
        for number, leaf in enumerate(self.leaves):
            for place, variable in enumerate(self._trained(leaf)):
                name = path_of(variable)
                label = f"{name} ({len(found)})" if name in taken else name
                taken.add(label)
                found.append(Owner(label, name, number, (place, variable)))
        return found

    def _trained(self, leaf: Leaf) -> Sequence[Any]:
        """The variables of an optimizer; before it is built those of the model, if it was given."""
        built = list(getattr(leaf.optimizer, "_trainable_variables", ()))
        if built or self.given is None or len(self.leaves) > 1:
            return built
        return list(self.given.trainable_variables)

    def array(self, owner: Owner) -> Any:
        self.synchronise()
        return owner.parameter[1]

    def gradient(self, owner: Owner) -> Any:
        return None  # Keras's optimizers keep none

    def _states(self) -> list[State]:
        self.synchronise()
        return [state_of(leaf) for leaf in self.leaves]

    def cells(self, owner: Owner) -> list[Cell]:
        from pellucid.keras.names import canonical_slots_of

        leaf = self.leaves[owner.group]
        self.synchronise()
        slots, place = state_of(leaf).slots, owner.parameter[0]
        if place >= len(slots):
            return []
        table = canonical_slots_of(tuple(base.__name__ for base in type(leaf.optimizer).__mro__))
        return [
            cell(owner.label, table.get(native, native), native, one, self)
            for native, one in slots[place].items()
        ]

    def shared_cells(self) -> list[Cell]:
        found: dict[int, Cell] = {}
        groups = self.plain_groups()
        for group in groups:
            left = self.name if len(groups) == 1 else group.name
            for native, one in state_of(group.leaf).shared.items():
                found.setdefault(id(one), cell(left, native, native, one, self))
            for outer in group.leaf.around:
                for native, one in outer_state(outer).items():
                    label = type(outer).__name__
                    found.setdefault(id(one), cell(label, native, native, one, self))
        return [*found.values()]

    def reset(self, owners: Sequence[Owner], full: str | None) -> None:
        """Let state begin anew; see `View.reset`. Keras counts all variables' steps as one."""
        wanted = []
        for owner in owners:
            for one in self.cells(owner):
                if full is None or full in (one.full, one.native):
                    leaf = self.leaves[owner.group].optimizer
                    wanted.append((leaf, one.native, one.value, owner.parameter[1]))
        if not wanted and full is not None:
            raise ValueError(f"no state {full!r} to reset: there is none before the first step")
        begin_anew(self, wanted)

    def split(self, group: Group, members: Sequence[str], label: str) -> None:
        raise ValueError(
            f"{self.name}: Keras's optimizers have one group and cannot be split; construct a "
            "keras.optimizers.MultiOptimizer, or a pellucid.keras.Optimizer with groups="
        )

    # -- changing --------------------------------------------------------------------------

    def check(self, assignments: Sequence[Assignment]) -> list[tuple[KerasGroup, str, Any]]:
        """Raise unless all may be written; what is to be written."""
        found: list[tuple[KerasGroup, str, Any]] = []
        for one in assignments:
            group: Any = one.group
            found.append((group, one.full, self._checked(group, one.full, one.value)))
        self._check_sharing(found)
        new: dict[int, dict[str, Any]] = {}
        for group, full, value in found:
            setting = group.settings[full]
            new.setdefault(id(setting.owner), {})[setting.native] = value
        for group, full, _ in found:
            setting = group.settings[full]
            together = new[id(setting.owner)]
            check_effect(setting.owner, setting.native, together, group.where(full))
        return found

    def _checked(self, group: KerasGroup, full: str, value: Any) -> Any:
        setting, where = group.settings[full], group.where(full)
        if setting.is_rate and isinstance(
            value, keras().optimizers.schedules.LearningRateSchedule
        ):
            return value
        if isinstance(value, Ref) or (callable(value) and not is_scalar_array(value)):
            raise TypeError(
                f"{where} is {value!r}; allowed is a number"
                + (", or a schedule of keras.optimizers.schedules" if setting.is_rate else "")
                + f": {self.name} would call no other, or once only, when its step is compiled; a "
                "pellucid.keras.Optimizer takes schedules and callables for any hyperparameter"
            )
        raw = setting.value if setting.driver is not None else setting.raw
        return allowed_value(setting.owner, setting.native, full, raw, value, where)

    def _check_sharing(self, found: Sequence[tuple[KerasGroup, str, Any]]) -> None:
        """Raise if a value is written for some of the groups that share it only."""
        named = {(group.index, group.settings[full].place) for group, full, _ in found}
        for group, full, _ in found:
            place = group.settings[full].place
            for other in self.plain_groups() if len(self.leaves) > 1 else ():
                theirs = other.settings.get(full)
                if theirs is not None and theirs.place == place and (
                    (other.index, place) not in named
                ):  # fmt: skip
                    raise ValueError(
                        f"{group.where(full)} is shared with {other.name!r}: set {full!r} for all"
                    )

    def set(self, assignments: Sequence[Assignment], reason: str) -> None:
        if not isinstance(reason, str):
            raise TypeError(f"reason is {reason!r}; allowed is text")
        self.synchronise()
        checked = self.check(assignments)
        known = self.watched
        known.look(self)
        self._write([(group.settings[full], value) for group, full, value in checked])
        known.look(self, "view", reason)

    def _write(self, pairs: Sequence[tuple[Setting, Any]]) -> None:
        """Write all, and have compiled steps made anew where they hold an old value."""
        from pellucid.keras.trainers import rebuild

        undo = [restorer(setting) for setting, _ in pairs]
        frozen: list[str] = []
        try:
            for setting, value in pairs:
                if setting.write(value):
                    frozen.append(setting.native)
            models = rebuild(self.optimizer) if frozen else 0
        except BaseException:
            for restore in reversed(undo):
                restore()
            raise
        if frozen:
            self._warn(frozen, models)
        for setting, value in pairs:
            if leaves_state(setting.owner, setting.native, value):
                warnings.warn(
                    f"{type(setting.owner).__name__} keeps the state that it made for "
                    f"{setting.native}, which an optimizer of the new configuration has not: a "
                    "file that is saved now does not load its state; set it back before saving",
                    stacklevel=5,
                )

    def _warn(self, frozen: Sequence[str], models: int) -> None:
        """Say so where a compiled step may hold an old value that nobody here can reach."""
        from pellucid.keras.trainers import trainers_of

        compiles = keras().backend.backend() in ("tensorflow", "jax")
        if not compiles or models or not count_of(self.optimizer):
            return
        if not trainers_of(self.optimizer):  # else its model is not compiled yet
            warnings.warn(
                f"{', '.join(frozen)}: no Keras model trains with this {self.name}. If a "
                "tf.function or jax.jit of your own runs its steps, it holds the old value: make "
                "that function anew",
                stacklevel=6,
            )

    def keep(self, targets: Sequence[tuple[Group, str]]) -> Callable[[str], None]:
        self.synchronise()
        held = []
        for group, full in targets:
            one: Any = group
            setting = one.settings[full]
            driver = setting.driver
            held.append((setting, driver if driver is not None else setting.value))

        def put_back(reason: str) -> None:
            self.synchronise()
            known = self.watched
            known.look(self)
            self._write([(s, v) for s, v in held if (s.driver or s.value) != v])
            known.look(self, "view", reason)

        return put_back
