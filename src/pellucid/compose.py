"""Stages put together: `chain`, `route`, `every`, and the pipeline that one parameter runs."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Any

from pellucid.declare import Extra, Hyper, Option, Slot
from pellucid.rule import ORDER, Rule, RuleError, Stage, stage_class
from pellucid.storage import PLAIN, Storage

__all__ = ["Chain", "Composed", "Pipeline", "Route", "chain", "every", "route"]

Transformer = Callable[[list[tuple[Any, Any]]], Iterable[tuple[Any, Any]]]
"""A plain function of a list of (gradient, parameter) pairs, which gives such a list."""

Pattern = str | Callable[[str, Any], bool]


@dataclass(frozen=True)
class Route:
    """Which stage updates which parameter; made by `route`."""

    branches: tuple[tuple[Pattern, Any], ...]

    def __repr__(self) -> str:
        inside = ", ".join(f"{pattern!r}: {stage!r}" for pattern, stage in self.branches)
        return f"route({{{inside}}})"

    def get_config(self) -> dict[str, Any]:
        """All branches as plain JSON data."""
        for pattern, _ in self.branches:
            if not isinstance(pattern, str):
                raise ValueError(f"the predicate {pattern!r} of a route has no configuration")
        return {"route": [[pattern, stage.get_config()] for pattern, stage in self.branches]}


@dataclass(frozen=True)
class Chain:
    """Stages in the order in which data flows; made by `chain`."""

    transformers: tuple[Transformer, ...]
    stages: tuple[Stage | Route, ...]

    def __repr__(self) -> str:
        inside = [getattr(function, "__name__", repr(function)) for function in self.transformers]
        return f"chain({', '.join([*inside, *map(repr, self.stages)])})"

    def get_config(self) -> dict[str, Any]:
        """All stages as plain JSON data."""
        if self.transformers:
            raise ValueError(
                f"the plain function {self.transformers[0]!r} in a chain has no configuration: "
                "pass it again as gradient_transformers= when the optimizer is constructed"
            )
        return {"chain": [stage.get_config() for stage in self.stages]}


Composed = Stage | Route | Chain


def composed_from_config(config: Mapping[str, Any]) -> Composed:
    """The stage, chain or route that a ``get_config()`` described."""
    if "chain" in config:
        return chain(*map(composed_from_config, config["chain"]))
    if "route" in config:
        return route({pattern: composed_from_config(one) for pattern, one in config["route"]})
    return Stage.from_config(config)


def chain(*stages: Any) -> Composed:
    """Compose one rule (or a route of rules) and any other stages into one program.

    Args:
        stages: plain functions of (gradient, parameter) pairs, then gradient transforms, the
            rule, update transforms, parameter transforms: the order in which data flows.

    >>> from pellucid import chain, clip_by_global_norm, SGD
    >>> chain(clip_by_global_norm(1.0), SGD(0.1))
    chain(clip_by_global_norm(max_norm=1.0), SGD(learning_rate=0.1))
    """
    transformers: list[Transformer] = []
    flat: list[Stage | Route] = []
    for stage in stages:
        inner = stage.stages if isinstance(stage, Chain) else (stage,)
        if isinstance(stage, Chain):
            transformers.extend(stage.transformers)
        for one in inner:
            if isinstance(one, (Stage, Route)):
                flat.append(one)
            elif inspect.isclass(one) or not callable(one):
                raise TypeError(
                    f"chain takes stages and plain functions, got {one!r}"
                    + (f"; construct it: {one.__name__}()" if inspect.isclass(one) else "")
                )
            elif flat:
                raise ValueError(
                    f"the plain function {one!r} stands after {flat[-1]!r}: plain functions are "
                    "taken first; write a GradientTransform to change a gradient later"
                )
            else:
                transformers.append(one)
    kinds = [stage.kind if isinstance(stage, Stage) else "rule" for stage in flat]
    if kinds.count("rule") != 1:
        raise ValueError(
            f"a chain has one rule (or a route of rules), this one has {kinds.count('rule')}: "
            f"{flat!r}"
        )
    places = [ORDER.index(kind) for kind in kinds]
    for before, after in zip(range(len(flat)), range(1, len(flat)), strict=False):
        if places[before] > places[after]:
            raise ValueError(
                f"{flat[after]!r} is {_a(kinds[after])} and stands after {flat[before]!r}, "
                f"{_a(kinds[before])}; the order is {', '.join(ORDER)}"
            )
    _check_names(flat)
    if not transformers and len(flat) == 1:
        return flat[0]
    return Chain(tuple(transformers), tuple(flat))


def _a(kind: str) -> str:
    return f"an {kind}" if kind[0] in "aeiou" else f"a {kind}"


def _check_names(stages: list[Stage | Route]) -> None:
    seen: set[str] = set()
    for stage in stages:
        if isinstance(stage, Stage) and stage.kind != "rule":
            if stage.name in seen:
                raise ValueError(
                    f"two stages are named {stage.name!r}: give one a name, "
                    f"{type(stage).__name__}(..., name='...')"
                )
            seen.add(stage.name)


def route(branches: Mapping[Pattern, Composed]) -> Route:
    """Choose by name which stage updates which parameter: one optimizer, one checkpoint.

    Args:
        branches: from a pattern (``fnmatch`` on the parameter's full name) or a predicate
            ``(name, parameter) -> bool`` to a rule or a chain. The first match wins.
    """
    if not branches:
        raise ValueError("route takes at least one branch, such as {'*': SGD()}")
    for pattern, stage in branches.items():
        if not isinstance(pattern, str) and not callable(pattern):
            raise TypeError(f"route's keys are patterns or predicates, got {pattern!r}")
        if isinstance(stage, Stage) and stage.kind != "rule":
            raise ValueError(f"route's branch {pattern!r} has no rule: {stage!r}")
        if not isinstance(stage, (Stage, Chain, Route)):
            raise TypeError(f"route's branch {pattern!r} is no stage: {stage!r}")
    return Route(tuple(branches.items()))


def every(k: int, stage: Stage) -> Stage:
    """Let a stage take part in each k-th update only; in the others data passes by it.

    Args:
        k: a whole number from 1: the stage runs in the updates number k, 2 k, ...
        stage: a gradient, update or parameter transform.
    """
    if not isinstance(k, int) or isinstance(k, bool) or k < 1:
        raise ValueError(f"every(k={k!r}): allowed is a whole number from 1")
    if not isinstance(stage, Stage) or stage.kind == "rule":
        raise TypeError(
            f"every takes a gradient, update or parameter transform, got {stage!r}; a rule that "
            "acts in each k-th update uses ops.where on self.step"
        )
    return stage._replace(every=k)


def matches(pattern: Pattern, name: str, param: Any = None) -> bool:
    """Whether a pattern or predicate holds for a parameter; `*` crosses dots and slashes."""
    return fnmatchcase(name, pattern) if isinstance(pattern, str) else bool(pattern(name, param))


@dataclass(frozen=True)
class Pipeline:
    """The stages that one parameter runs through, in order: exactly one is a rule."""

    stages: tuple[Stage, ...]
    ordinals: tuple[int, ...] = ()
    label: str = ""
    storage: Storage = PLAIN

    @cached_property
    def rule(self) -> Rule:
        return next(stage for stage in self.stages if isinstance(stage, Rule))

    def __reduce__(self) -> Any:
        return type(self), tuple(getattr(self, field.name) for field in fields(self))

    def full(self, stage: Stage, name: str) -> str:
        """The full name of what a stage declares: bare for the rule, else ``stage.name``."""
        return name if stage.kind == "rule" else f"{stage.name}.{name}"

    def _all(self, what: str) -> Iterator[tuple[str, tuple[Stage, Any]]]:
        for stage in (self.rule, *(s for s in self.stages if s is not self.rule)):
            for name, declared in getattr(stage.declared, what).items():
                yield self.full(stage, name), (stage, declared)

    @cached_property
    def hypers(self) -> dict[str, tuple[Stage, Hyper]]:
        return dict(self._all("hypers"))

    @cached_property
    def options(self) -> dict[str, tuple[Stage, Option]]:
        return dict(self._all("options"))

    @cached_property
    def slots(self) -> dict[str, tuple[Stage, Slot]]:
        return {**dict(self._all("slots")), **self.companions}

    @cached_property
    def companions(self) -> dict[str, tuple[Stage, Slot]]:
        """Slots that are there for the storage, not declared by a stage."""
        return self.storage.companions(dict(self._all("slots")), self.rule)

    @cached_property
    def extras(self) -> dict[str, tuple[Stage, Extra]]:
        return {declared.name: (stage, declared) for _, (stage, declared) in self._all("extras")}

    @cached_property
    def given(self) -> dict[str, Any]:
        """All hyperparameters and options as the stages were constructed with them."""
        return {
            full: stage.values[declared.name]
            for full, (stage, declared) in {**self.hypers, **self.options}.items()
        }

    @cached_property
    def shared(self) -> tuple[tuple[tuple[int, str], Stage, Slot], ...]:
        """Optimizer-wide slots: (number of the stage, full name), stage, declaration."""
        return tuple(
            ((self.ordinals[self.stages.index(stage)], full), stage, declared)
            for full, (stage, declared) in self.slots.items()
            if declared.scope == "optimizer"
        )

    def resolve(self, stage: Stage, target: str) -> str:
        """The full name that a `ref` in a stage means: its own hyperparameter, or the rule's."""
        own = self.full(stage, target)
        found = own if own in self.hypers else target
        if found not in self.hypers:
            raise RuleError(
                f"ref({target!r}) in {stage!r}: no hyperparameter of that name; "
                f"there are {', '.join(self.hypers)}"
            )
        return found


def flatten(composed: Composed) -> tuple[Stage | Route, ...]:
    """The stages of a chain, or the one stage."""
    if isinstance(composed, Chain):
        return composed.stages
    if not isinstance(composed, (Stage, Route)):
        hint = f"; construct it: {composed.__name__}()" if inspect.isclass(composed) else ""
        raise TypeError(
            f"an optimizer takes a rule, a chain or a route, got {composed!r}{hint}"
        )
    if isinstance(composed, Stage) and composed.kind != "rule":
        raise TypeError(
            f"{composed!r} is a {composed.kind}, no rule: put it beside one, "
            f"chain(..., Adam(), ...)"
        )
    return (composed,)


def transformers_of(composed: Composed) -> tuple[Transformer, ...]:
    """The plain functions that stand first in a chain."""
    return composed.transformers if isinstance(composed, Chain) else ()


class Router:
    """Finds each parameter's pipeline; equal paths through the routes share one."""

    def __init__(self, composed: Composed, storage: Storage | None = None) -> None:
        self._top, self.storage = flatten(composed), storage or PLAIN
        self._ordinals: dict[int, int] = {}
        self._pipelines: dict[tuple[int, ...], Pipeline] = {}
        self._used: set[tuple[int, int]] = set()
        self._routes: list[Route] = []
        self._number(self._top)

    def _number(self, stages: tuple[Stage | Route, ...]) -> None:
        for stage in stages:
            if isinstance(stage, Route):
                self._routes.append(stage)
                for pattern, branch in stage.branches:
                    if transformers_of(branch):
                        raise ValueError(
                            f"route's branch {pattern!r} has a plain function: plain functions "
                            "see all gradients, so put them first in the whole chain"
                        )
                    self._number(flatten(branch))
            else:
                self._ordinals.setdefault(id(stage), len(self._ordinals))

    def pipeline(self, name: str, param: Any) -> Pipeline:
        """The pipeline of the parameter of that name."""
        stages: list[Stage] = []
        labels: list[str] = []
        self._descend(self._top, name, param, stages, labels)
        return self._made(stages, labels)

    def pipelines(self) -> list[Pipeline]:
        """All pipelines that parameters may run, in the order of the branches."""
        return [self._made(stages, labels) for stages, labels in self._paths(self._top)]

    def _paths(self, top: tuple[Stage | Route, ...]) -> list[tuple[list[Stage], list[str]]]:
        paths: list[tuple[list[Stage], list[str]]] = [([], [])]
        for stage in top:
            ways: list[tuple[list[Stage], list[str]]] = []
            if isinstance(stage, Route):
                for number, (pattern, branch) in enumerate(stage.branches):
                    label = pattern if isinstance(pattern, str) else f"branch {number}"
                    inside = self._paths(flatten(branch))
                    ways.extend((stages, [label, *labels]) for stages, labels in inside)
            else:
                ways.append(([stage], []))
            paths = [
                ([*stages, *more], [*labels, *extra])
                for stages, labels in paths
                for more, extra in ways
            ]
        return paths

    def _made(self, stages: list[Stage], labels: list[str]) -> Pipeline:
        key = tuple(map(id, stages))
        if key not in self._pipelines:
            order = sorted(stages, key=lambda stage: ORDER.index(stage.kind))
            _check_names(list(order))
            ordinals = tuple(self._ordinals[id(stage)] for stage in order)
            label = "/".join(labels)
            self._pipelines[key] = Pipeline(tuple(order), ordinals, label, self.storage)
        return self._pipelines[key]

    def _descend(
        self,
        top: tuple[Stage | Route, ...],
        name: str,
        param: Any,
        stages: list[Stage],
        labels: list[str],
    ) -> None:
        for stage in top:
            if not isinstance(stage, Route):
                stages.append(stage)
                continue
            for number, (pattern, branch) in enumerate(stage.branches):
                if matches(pattern, name, param):
                    self._used.add((id(stage), number))
                    labels.append(pattern if isinstance(pattern, str) else f"branch {number}")
                    self._descend(flatten(branch), name, param, stages, labels)
                    break
            else:
                known = ", ".join(repr(pattern) for pattern, _ in stage.branches)
                raise ValueError(
                    f"no branch of the route takes the parameter {name!r} (patterns: {known}); "
                    "add a last branch '*'"
                )

    def check_used(self, names: Iterable[str]) -> None:
        """Raise if a pattern of a route took no parameter."""
        for one in self._routes:
            for number, (pattern, _) in enumerate(one.branches):
                if (id(one), number) not in self._used:
                    raise ValueError(
                        f"route's pattern {pattern!r} takes no parameter: each name matches an "
                        f"earlier pattern or none (parameters: {_some(names)})"
                    )


def _some(names: Iterable[str], most: int = 8) -> str:
    listed = list(names)
    more = f", ... ({len(listed)} in all)" if len(listed) > most else ""
    return ", ".join(listed[:most]) + more


def relabelled(pipeline: Pipeline, label: str) -> Pipeline:
    """The same pipeline under another label."""
    return replace(pipeline, label=label)


__all__ += ["Router", "composed_from_config", "flatten", "matches", "stage_class"]
