"""What a Keras optimizer consists of: hyperparameters, groups and programs.

It holds no Keras logic: `pellucid.keras.Optimizer` is the Keras object, this is what is in it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import keras

from pellucid.compose import Composed, Pipeline, Router, matches
from pellucid.controls import Names, overrides
from pellucid.declare import HyperparameterError, Ref
from pellucid.fuse.engine import slot_kind
from pellucid.fuse.program import Program, program
from pellucid.fuse.trace import Variant
from pellucid.host import check_patterns
from pellucid.keras.arguments import DECAYS
from pellucid.keras.hypers import Choice, Hyperparameter
from pellucid.keras.names import names_of

if TYPE_CHECKING:
    from pellucid.keras.optimizer import Optimizer

__all__ = ["Core", "Group", "Parameter", "path_of"]

Setting = Hyperparameter | Choice
EXCLUDED = "excluded from weight decay"


@dataclass
class Group:
    """Parameters that share hyperparameter values; before `Core.build`, a branch without any."""

    label: str
    pipeline: Pipeline
    names: Names
    cells: dict[str, Hyperparameter]
    choices: dict[str, Choice]
    members: list[int] = field(default_factory=list)

    def setting(self, full: str) -> Setting:
        return self.cells[full] if full in self.cells else self.choices[full]

    @property
    def settings(self) -> dict[str, Setting]:
        return {**self.cells, **self.choices}

    def truth(self) -> dict[str, Any]:
        """What ``when=`` asks: numbers (None: a schedule) and options."""
        numbers = {
            full: cell.number if cell.driver is None or cell.target is not None else None
            for full, cell in self.cells.items()
        }
        return {**numbers, **{full: choice.value for full, choice in self.choices.items()}}


@dataclass
class Parameter:
    """One variable that the optimizer updates."""

    index: int
    name: str  # its path
    variable: Any
    group: int
    slots: dict[str, Any] = field(default_factory=dict)  # full name → Keras Variable

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.variable.shape)

    @property
    def dtype(self) -> str:
        return str(keras.backend.standardize_dtype(self.variable.dtype))


def path_of(variable: Any) -> str:
    """A variable's name: Keras's path, or a TensorFlow variable's name without its ``:0``."""
    path = getattr(variable, "path", None)
    return str(path) if path is not None else str(variable.name).partition(":")[0]


class Core:
    """Settings, groups, slots and programs of one optimizer."""

    def __init__(
        self,
        optimizer: Optimizer,
        stage: Composed,
        groups: Mapping[Any, Mapping[str, Any]] | None,
        seed: int,
    ) -> None:
        self.optimizer, self.stage, self.seed = optimizer, stage, seed
        self.patterns = dict(groups or {})
        self.router = Router(stage)
        self.shared: dict[tuple[int, str], Any] = {}  # optimizer-wide slots
        self.begun: Any = None  # which slots have taken part in an update, where that is asked
        self.flags: dict[tuple[int, str], int] = {}  # (parameter, slot) → place in `begun`
        self.parameters: list[Parameter] = []
        self.groups: list[Group] = []
        self.held: dict[str, Any] = {}  # by path: what a configuration has for groups to come
        self.parts: dict[str, list[int]] = {}  # groups that were split off, and of which members
        self.looked = 0  # completed updates when the journal was looked at last
        self._cells: dict[tuple[int, str], Hyperparameter] = {}
        self._choices: dict[tuple[int, str], Choice] = {}
        pipelines = self.router.pipelines()
        self.branches = [self._branch(one, len(pipelines) > 1) for one in pipelines]
        self.resolve_refs()
        self._check_patterns()

    # -- settings --------------------------------------------------------------------------

    def _branch(self, pipeline: Pipeline, labelled: bool) -> Group:
        """The settings of one pipeline; a stage that stands in several has the same in all."""
        names, given = names_of(pipeline), pipeline.given
        group = Group(pipeline.label, pipeline, names, {}, {})
        for full, (stage, declared) in pipeline.hypers.items():
            ordinal = pipeline.ordinals[pipeline.stages.index(stage)]
            key = (ordinal, full)
            label = pipeline.label if labelled and self._branched(stage) else ""
            if key not in self._cells:
                self._cells[key] = Hyperparameter(
                    self.optimizer, declared, full, names.native(full), label, given[full]
                )
            group.cells[full] = self._cells[key]
        for full, (stage, option) in pipeline.options.items():
            key = (pipeline.ordinals[pipeline.stages.index(stage)], full)
            label = pipeline.label if labelled and self._branched(stage) else ""
            if key not in self._choices:
                self._choices[key] = Choice(
                    self.optimizer, option, full, names.native(full), label, given[full]
                )
            group.choices[full] = self._choices[key]
        return group

    def _branched(self, stage: Any) -> bool:
        """Whether a stage stands in one branch alone."""
        return sum(stage in one.stages for one in self.router.pipelines()) == 1

    def _check_patterns(self) -> None:
        """The overrides of ``groups=`` before there are parameters: each fits some branch."""
        for pattern, given in self.patterns.items():
            if not isinstance(pattern, str) and not callable(pattern):
                raise TypeError(
                    f"groups: the key {pattern!r} is no pattern of variables' paths, such as "
                    "'*/bias', and no function of (path, variable)"
                )
            if not isinstance(given, Mapping):
                raise TypeError(
                    f"groups[{pattern!r}] is {given!r}; allowed is a dict from names to values"
                )
            errors = []
            for branch in self.branches:
                try:
                    self.overrides(branch, pattern, given)
                except HyperparameterError as error:
                    errors.append(error)
            if len(errors) == len(self.branches):
                raise errors[0]

    def branch_for(self, pattern: Any, given: Mapping[str, Any]) -> Group:
        """The first branch that has all that ``groups=`` gives for a pattern."""
        for branch in self.branches:
            try:
                self.overrides(branch, pattern, given)
            except HyperparameterError:
                continue
            return branch
        return self.branches[0]

    def overrides(self, group: Group, pattern: Any, given: Mapping[str, Any]) -> dict[str, Any]:
        where = f"groups[{pattern!r}]"
        aliased = {self.optimizer.alias(group, key): value for key, value in given.items()}
        return overrides(group.pipeline, group.names, aliased, where, ())

    @property
    def cells(self) -> list[Hyperparameter]:
        """All hyperparameters, each once: the optimizer's own, then those of groups."""
        found: dict[int, Hyperparameter] = {}
        for group in [*self.branches, *self.groups]:
            for cell in group.cells.values():
                found.setdefault(id(cell), cell)
        return [*found.values()]

    def resolve_refs(self) -> None:
        """Tie hyperparameters that are a `ref` to those that they name."""
        for group in [*self.branches, *self.groups]:
            for full, cell in group.cells.items():
                if not isinstance(cell.driver, Ref):
                    cell.target = None
                    continue
                stage, _ = group.pipeline.hypers[full]
                target = group.cells[group.pipeline.resolve(stage, cell.driver.name)]
                if isinstance(target.driver, Ref):
                    raise HyperparameterError(f"{cell.where} is {cell.driver!r}, itself a ref")
                cell.target = target

    # -- building --------------------------------------------------------------------------

    def build(self, variables: Sequence[Any]) -> None:
        """Form groups of variables; `make_slots` gives them state."""
        members: dict[tuple[int, Any], list[int]] = {}
        found: dict[int, Group] = {}
        by_pipeline = {id(branch.pipeline): branch for branch in self.branches}
        names = [path_of(variable) for variable in variables]
        chosen_ones = []
        for index, (name, variable) in enumerate(zip(names, variables, strict=True)):
            pipeline = self.router.pipeline(name, variable)
            found[id(pipeline)] = by_pipeline[id(pipeline)]
            chosen = next((p for p in self.patterns if matches(p, name, variable)), None)
            chosen_ones.append(chosen)
            spared = self.optimizer.spared(variable)
            members.setdefault((id(pipeline), chosen, spared), []).append(index)  # type: ignore[arg-type]
        self.router.check_used(names)
        check_patterns(self.patterns, chosen_ones, names)
        self.parameters = []
        groups: list[Group] = []
        for (identity, chosen, spared), indices in members.items():  # type: ignore[misc]
            branch = found[identity]
            group = self._group(branch, chosen, spared, len(self.branches) > 1, groups)
            group.members = indices
            groups.append(group)
        self.groups = groups
        owner = {index: number for number, one in enumerate(groups) for index in one.members}
        self.parameters = [
            Parameter(index, name, variable, owner[index])
            for index, (name, variable) in enumerate(zip(names, variables, strict=True))
        ]
        self._split_again()
        self._check_held()
        self.resolve_refs()

    def clear(self) -> None:
        """Be as before `build`."""
        self.shared, self.begun, self.flags = {}, None, {}
        self.parameters, self.groups = [], []

    def _group(
        self, branch: Group, chosen: Any, spared: bool, routed: bool, groups: list[Group]
    ) -> Group:
        parts = [branch.label] if routed and branch.label else []
        if chosen is not None:
            parts.append(chosen if isinstance(chosen, str) else "predicate")
        if spared:
            parts.append(EXCLUDED)
        label = " & ".join(parts) or f"group {len(groups)}"
        if label in {group.label for group in groups}:
            label = f"{label} ({len(groups)})"
        given = {} if chosen is None else self.overrides(branch, chosen, self.patterns[chosen])
        if spared:
            given.update({full: 0.0 for full in DECAYS if full in branch.cells})
        made = Group(label, branch.pipeline, branch.names, {**branch.cells}, {**branch.choices})
        for full, value in {**given, **self._held_for(made)}.items():
            self.override(made, full, value)
        return made

    def _held_for(self, group: Group) -> dict[str, Any]:
        """What a configuration has for a group, by full name."""
        found = {}
        for path, value in self.held.items():
            place, _, name = path.rpartition("/")
            for full in group.names.canonical(name) if place == group.label else ():
                found[full] = value
        return found

    def _check_held(self) -> None:
        """Raise if a configuration has a value for what no group has."""
        named = {group.label: group.names for group in self.groups}
        for path in self.held:
            place, _, name = path.rpartition("/")
            # `exclude_from_weight_decay` is called anew: no configuration tells of it
            if EXCLUDED not in place and not (place in named and named[place].canonical(name)):
                raise ValueError(
                    f"{self.optimizer.name}: the configuration has a value for {path!r}, and no "
                    f"group has that hyperparameter (groups: {', '.join(named)})"
                )

    def _split_again(self) -> None:
        """Form the groups that a configuration tells were split off."""
        for label, members in [*self.parts.items()]:
            whole = [one for one in self.groups if {*members} < {*one.members}]
            if not whole:
                raise ValueError(
                    f"{self.optimizer.name}: the configuration has a group {label!r} of the "
                    f"variables number {members}, and no group of these variables has all of them"
                )
            made = self.split(whole[0], members, label)
            for full, value in self._held_for(made).items():
                self.override(made, full, value)

    def override(self, group: Group, full: str, value: Any) -> None:
        """Give a group a value of its own; so have those that are a `ref` to it."""
        native = group.names.native(full)
        tied = [
            (name, cell.driver)
            for name, cell in group.cells.items()
            if name != full and isinstance(cell.driver, Ref)
            and self._target(group, name, cell.driver) == full
        ]  # fmt: skip
        if full in group.cells:
            declared = group.pipeline.hypers[full][1]
            group.cells[full] = Hyperparameter(
                self.optimizer, declared, full, native, group.label, value
            )
        else:
            option = group.pipeline.options[full][1]
            checked = option.check(value, f"{self.optimizer.name}/{group.label}/{native}")
            group.choices[full] = Choice(
                self.optimizer, option, full, native, group.label, checked
            )
        for name, driver in tied:
            self.override(group, name, driver)

    @staticmethod
    def _target(group: Group, full: str, driver: Ref) -> str:
        """The full name of the hyperparameter that a `ref` means in a group."""
        stage, _ = group.pipeline.hypers[full]
        return group.pipeline.resolve(stage, driver.name)

    def split(self, group: Group, members: Iterable[int], label: str) -> Group:
        """Move parameters of a group into a last one, which shares its values.

        What the group has for itself the new one has for itself, too.
        """
        branch = next(one for one in self.branches if one.pipeline is group.pipeline)
        moved = set(members)
        made = Group(label, group.pipeline, group.names, {**group.cells}, {**group.choices})
        for full, setting in group.settings.items():
            if setting is not branch.setting(full):
                held = setting.value if isinstance(setting, Choice) else setting.driver
                number = setting.number if isinstance(setting, Hyperparameter) else None
                self.override(made, full, number if held is None else held)
        made.members = [index for index in group.members if index in moved]
        group.members = [index for index in group.members if index not in moved]
        self.groups.append(made)
        for index in made.members:
            self.parameters[index].group = len(self.groups) - 1
        self.parts[label] = [*made.members]
        return made

    # -- programs --------------------------------------------------------------------------

    def sleepers(self) -> dict[str, int]:
        """Stages that take part in some updates only: name and interval."""
        return {
            stage.name: stage.every_steps
            for group in self.branches
            for stage in group.pipeline.stages
            if stage.every_steps > 1
        }

    def program(self, parameter: Parameter, asleep: Iterable[str], compute: str = "") -> Program:
        """What updates a parameter."""
        group = self.groups[parameter.group]
        options = {full: choice.value for full, choice in group.choices.items()}
        where = f"of {parameter.name!r}"
        kinds = tuple(
            (full, slot_kind(declared, parameter.shape, f"slot {full!r} {where}"))
            for full, (_, declared) in group.pipeline.slots.items()
            if full in parameter.slots
        )
        variant = Variant(tuple(sorted(options.items())), kinds, frozenset(asleep))
        chosen = compute or ("float64" if parameter.dtype == "float64" else "float32")
        storage = tuple(
            (("slot", full), str(slot.dtype))
            for full, slot in parameter.slots.items()
            if str(slot.dtype) != parameter.dtype
        )
        return program(group.pipeline, variant, len(parameter.shape), chosen, storage)

    @property
    def extras(self) -> dict[str, str]:
        """Inputs that the stages declare: name and shape."""
        return {
            name: declared.shape
            for group in self.branches
            for name, (_, declared) in group.pipeline.extras.items()
        }
