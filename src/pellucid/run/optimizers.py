"""What an optimizer is set to: groups, values, schedules, stages; and how it is built again."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from pellucid.access.sources import Group, Source, source_of, unwrapped
from pellucid.access.writing import model_names
from pellucid.compose import Route, flatten
from pellucid.declare import REQUIRED, Ref
from pellucid.run.constructed import NOTHING, BadArgument, defaults_of, provenance
from pellucid.run.plain import class_name
from pellucid.run.recipes import recipe_of
from pellucid.run.schedulers import add_schedule

if TYPE_CHECKING:
    from pellucid.run.record import Findings, Provenance

__all__ = ["find_optimizer"]

CLOSURES = (
    "optax keeps the arguments of its transformations in closures, where nothing can be read: wrap "
    "the constructor in optax.inject_hyperparams and give (tx, state)"
)
OPTAX = {"b1": "beta1", "b2": "beta2", "b3": "beta3", "eps": "epsilon"}
"""Canonical names by optax's."""


def find_optimizer(
    findings: Findings, optimizer: Any, model: Any = None, scheduler: Any = None
) -> None:
    """Keep what an optimizer is set to now, and the recipe from which it is built again.

    Args:
        findings: those under the optimizer's path.
        optimizer: what `pellucid.view` takes; a list of several has them under ``0``, ``1``; or a
            transformation of optax, alone or with its state, or flax's optimizer.
        model: gives the parameters' names.
        scheduler: taken for the sake of `pellucid.view`'s signature; the groups tell of it.

    Raises:
        BadArgument: it is no optimizer.
    """
    optax = _optax_parts(optimizer)
    if optax is not None:
        _find_optax(findings, *optax)
        return
    if isinstance(optimizer, (list, tuple)):
        if not optimizer:
            raise BadArgument("optimizer is an empty list; allowed are optimizers")
        recipes = []
        for number, one in enumerate(optimizer):
            below = findings.at(str(number))
            optax = _optax_parts(one)
            if optax is not None:
                _find_optax(below, *optax)
                continue
            recipes.append(_find(below, one, model))
        if len(recipes) == len(optimizer) and all(recipes):
            findings.recipe("optimizer", {"several": recipes})
        return
    recipe = _find(findings, optimizer, model)
    if recipe is not None:
        findings.recipe("optimizer", recipe)


def _find(findings: Findings, optimizer: Any, model: Any) -> Mapping[str, Any] | None:
    """Keep one optimizer; its recipe."""
    try:
        source = source_of(optimizer, _fitting(optimizer, model))
    except TypeError as error:
        text = str(error)
        if text.startswith("view got"):
            text = text.replace("view got", "optimizer is", 1)
        raise BadArgument(text) from error
    inner = unwrapped(optimizer)
    findings.add("class", class_name(inner))
    findings.add("name", str(getattr(inner, "name", source.name)))
    findings.add("updates", source.updates)
    hosts = _ours(source)
    if hosts:
        findings.add("stage", ", ".join(repr(one.stage) for one in hosts))
        for one in hosts:
            _find_own(findings, one)
    for group in source.groups():
        _find_group(findings, group, _defaults(source, group))
    return _recipe(findings, inner, source, model)


def _fitting(optimizer: Any, model: Any) -> Any:
    """The model, if it is one of the optimizer's framework: NumPy's arrays have no other names."""
    if model is None or isinstance(model, Mapping):
        return None
    kind = "trainable_variables" if _is_keras(unwrapped(optimizer)) else "named_parameters"
    return model if hasattr(model, kind) else None


def _is_keras(optimizer: Any) -> bool:
    base = getattr(getattr(sys.modules.get("keras"), "optimizers", None), "Optimizer", None)
    return base is not None and isinstance(optimizer, base)


def _ours(source: Source) -> list[Any]:
    """The optimizers of ours in a source."""
    inside = getattr(source, "sources", None) or [source]
    found = [getattr(one, "inner", one.optimizer) for one in inside]
    return [one for one in found if hasattr(one, "stage")]


# -- groups ------------------------------------------------------------------------------------


def _find_group(findings: Findings, group: Group, defaults: Mapping[str, Any]) -> None:
    at = findings.at(f"groups/{group.name}")
    names = group.names
    for full in names.places:
        native, driver = names.native(full), group.driver(full)
        source = f"{group.rule}.{native}"
        by = group.scheduler(full)
        if by:
            source += f", driven by {by}"
        try:
            value = group.value(full)
        except Exception as error:  # a schedule of the user's
            at.miss(full, f"{type(error).__name__}: {error}")
            continue
        kind: Provenance = "observed"
        if driver is None and not by:
            kind = provenance(value, defaults.get(full, NOTHING))
        at.add(full, f"= {driver.name}" if isinstance(driver, Ref) else value, kind, source)
        if driver is not None and not isinstance(driver, Ref):
            add_schedule(findings.at(f"schedules/{group.name}/{full}"), driver, _config(driver))
    at.add("parameters", list(group.members))
    at.add("size", group.size)


def _config(driver: Any) -> Any:
    """A schedule's identity and arguments; None: as any value has them."""
    config = getattr(driver, "get_config", None)
    if config is None:
        return None
    try:
        found = dict(config())
    except Exception:  # a stranger's schedule
        return None
    return found if "class" in found else {"class": class_name(driver), **found}


def _defaults(source: Source, group: Group) -> dict[str, Any]:
    """The defaults of a group's values: of the optimizer's own class, else of the stages."""
    found: dict[str, Any] = {}
    pipeline: Any = getattr(getattr(group, "controls", None), "pipeline", None)
    pipeline = pipeline or getattr(getattr(group, "group", None), "pipeline", None)
    if pipeline is not None:
        for full, (_, declared) in {**pipeline.hypers, **pipeline.options}.items():
            if declared.default is not REQUIRED:
                found[full] = declared.default
    given = [defaults_of(type(one)) for one in _classes(source, group)]
    for full, place in group.names.places.items():
        for some in given:
            default = some.get(place.key, NOTHING)
            if default is NOTHING:
                continue
            if place.position is not None:
                inside = isinstance(default, (tuple, list)) and place.position < len(default)
                default = default[place.position] if inside else NOTHING
            if default is not NOTHING and not _is_placeholder(pipeline, full, default):
                found[full] = default
                break
    return found


def _is_placeholder(pipeline: Any, full: str, default: Any) -> bool:
    """Whether a constructor's None stands for what the stage has."""
    return pipeline is not None and default is None and full in pipeline.hypers


def _classes(source: Source, group: Group) -> list[Any]:
    leaf = getattr(group, "leaf", None)
    return [source.optimizer] if leaf is None else [leaf.optimizer, *leaf.around]


# -- ours --------------------------------------------------------------------------------------


def _find_own(findings: Findings, optimizer: Any) -> None:
    """Stages as they were constructed, and the options of the optimizer itself."""
    for path, stage in _stages(optimizer.stage):
        at = findings.at(f"stages/{path}")
        at.add("class", class_name(stage))
        if stage.every_steps > 1:
            at.add("every", stage.every_steps)
        for name, value in stage.values.items():
            default = stage.declared.arguments[name].default
            at.add(name, value, provenance(value, default), f"{type(stage).__name__}.{name}")
    kind = type(optimizer).__name__
    seed = getattr(optimizer, "seed", None)
    core = getattr(optimizer, "core", None)
    seed = getattr(core, "seed", seed)
    storage = getattr(optimizer, "storage", None)
    for name, value, default in (
        ("seed", seed, 0),
        ("compiled", getattr(optimizer, "compiled", None), True),
        ("rounding", getattr(storage, "rounding", None), "nearest"),
        ("state_dtype", getattr(storage, "state_dtype", None), "float32"),
        ("sparse", getattr(storage or optimizer, "sparse", None), "dense"),
    ):
        if value is not None:
            findings.add(name, value, provenance(value, default), f"{kind}.{name}")
    given = getattr(optimizer, "transformers", None)
    functions = given if given is not None else optimizer._transformers.what
    if functions:
        findings.add("gradient_transformers", list(functions))


def _stages(composed: Any, above: str = "") -> Iterator[tuple[str, Any]]:
    """Stages by name; those of a route's branch below its pattern."""
    taken: set[str] = set()
    for number, stage in enumerate(flatten(composed)):
        if isinstance(stage, Route):
            for pattern, branch in stage.branches:
                label = pattern if isinstance(pattern, str) else getattr(
                    pattern, "__name__", "predicate"
                )
                yield from _stages(branch, f"{above}{label}/")
            continue
        name = stage.name if stage.name not in taken else f"{stage.name} ({number})"
        taken.add(name)
        yield above + name, stage


# -- how to build it again ---------------------------------------------------------------------


def _recipe(
    findings: Findings, optimizer: Any, source: Source, model: Any
) -> Mapping[str, Any] | None:
    names: dict[int, str] = {}
    variables: list[Any] = []
    if _is_keras(optimizer):
        variables = list(getattr(optimizer, "_trainable_variables", ()))
        if not variables or len(getattr(optimizer, "optimizers", ())) > 1:
            variables = list(getattr(model, "trainable_variables", variables))
    elif hasattr(model, "named_parameters"):
        names = model_names(model)
    try:
        recipe = recipe_of(optimizer, names, variables)
    except Exception as error:  # of a stranger's class
        findings.miss("recipe", f"{type(error).__name__}: {error}")
        return None
    for where, why in recipe.get("lost", {}).items():
        findings.miss(f"recipe/{where}", why)
    return recipe


# -- optax -------------------------------------------------------------------------------------


def _optax_parts(one: Any) -> tuple[Any, Any] | None:
    """A transformation of optax and its state, as far as either was given."""
    if _is_transformation(one):
        return one, None
    if isinstance(one, tuple) and len(one) == 2 and _is_transformation(one[0]):
        return one[0], one[1]
    inner = getattr(one, "tx", None)  # of flax: nnx.Optimizer, TrainState
    return (inner, getattr(one, "opt_state", None)) if _is_transformation(inner) else None


def _is_transformation(one: Any) -> bool:
    return isinstance(one, tuple) and getattr(one, "_fields", ())[:2] == ("init", "update")


def _find_optax(findings: Findings, transformation: Any, state: Any) -> None:
    findings.add("class", class_name(transformation))
    findings.add("init", transformation.init)
    found = list(_injected(state, "")) if state is not None else []
    for number, (label, inside) in enumerate(found):
        at = findings.at(f"groups/{label or f'group {number}'}")
        for native, value in inside.hyperparams.items():
            at.add(OPTAX.get(native, native), _number(value), "observed", f"hyperparams.{native}")
        if getattr(inside, "count", None) is not None:
            findings.add("updates", _number(inside.count))
    if not found:
        findings.miss("groups", CLOSURES)
    findings.miss("recipe", "a transformation of optax cannot be built again: " + CLOSURES)


def _injected(state: Any, label: str, level: int = 0) -> Iterator[tuple[str, Any]]:
    """The states of `optax.inject_hyperparams`, by the label of a multi_transform."""
    if isinstance(getattr(state, "hyperparams", None), Mapping):
        yield label, state
        return
    if level > 12:
        return
    if isinstance(state, Mapping):
        for key, one in state.items():
            yield from _injected(one, str(key), level + 1)
    elif isinstance(state, (tuple, list)):
        for one in state:
            yield from _injected(one, label, level + 1)


def _number(value: Any) -> Any:
    """The number of an array or of flax's variable; a float32 as its shortest decimal."""
    held = getattr(value, "value", value) if hasattr(value, "raw_value") else value
    if hasattr(held, "dtype") and not tuple(held.shape):
        import numpy

        number = float(str(numpy.asarray(held)[()]))
        whole = numpy.issubdtype(numpy.asarray(held).dtype, numpy.integer)
        return int(number) if whole and math.isfinite(number) else number
    return held
