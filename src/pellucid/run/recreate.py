"""An optimizer again, from a record's recipe: with its values, without state."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pellucid.declare import revive

if TYPE_CHECKING:
    from pellucid.run.record import Record

__all__ = ["model_of", "optimizer_of"]

KNOWN = frozenset(["torch", "keras", "pellucid"])
"""Packages that are imported for a recipe; a class of others must have been imported."""


def model_of(record: Record) -> Any:
    """The model again, with new weights; see `Record.model`."""
    from pellucid.run.recreate_model import model_of as made

    return made(record)


def optimizer_of(record: Record, model: Any) -> Any:
    """The optimizer again; see `Record.optimizer`.

    Several optimizers come as a list.
    """
    recipe = record.recipes.get("optimizer")
    if recipe is None:
        lost = [one for one in record.missing if one.path.partition("/")[0] == "optimizer"]
        why = "".join(f"\n  {one.path}: {one.why}" for one in lost)
        raise ValueError(
            "the record has no recipe of an optimizer: collect it with optimizer=..." + why
        )
    if "several" in recipe:
        return [_made(one, model) for one in recipe["several"]]
    return _made(recipe, model)


def _made(recipe: Mapping[str, Any], model: Any) -> Any:
    if recipe.get("lost"):
        lines = "".join(f"\n  {where}: {why}" for where, why in recipe["lost"].items())
        raise ValueError(f"the optimizer cannot be built again; what is missing:{lines}")
    makers = {
        "pellucid.torch": _ours,
        "pellucid.numpy": _ours,
        "torch": _torch,
        "keras": _keras,
    }
    if recipe.get("kind") not in makers:
        allowed = ", ".join(makers)
        raise ValueError(f"the recipe's kind is {recipe.get('kind')!r}; allowed are {allowed}")
    try:
        return makers[recipe["kind"]](recipe, model)
    except KeyError as error:
        raise ValueError(f"the recipe of the optimizer is damaged: it has no {error}") from error
    except LookupError as error:
        raise ValueError(f"the optimizer cannot be built again: {error}") from error


def unpacked(value: Any) -> Any:
    """What `pellucid.run.recipes` packed."""
    if isinstance(value, list):
        return [unpacked(one) for one in value]
    if not isinstance(value, Mapping):
        return value
    if set(value) == {"float"}:
        return float(value["float"])
    if set(value) == {"tuple"}:
        return tuple(unpacked(value["tuple"]))
    if set(value) == {"driver"}:
        return revive(unpacked(value["driver"]))
    if set(value) == {"tensor", "dtype"}:
        torch = importlib.import_module("torch")
        return torch.tensor(unpacked(value["tensor"]), dtype=getattr(torch, value["dtype"]))
    return {key: unpacked(one) for key, one in value.items()}


def class_at(path: str) -> Any:
    """The class of an import path ``module:QualName``; of strangers it must be imported."""
    module, _, name = path.partition(":")
    if module.partition(".")[0] in KNOWN:
        importlib.import_module(module)
    found: Any = sys.modules.get(module)
    if found is None:
        raise LookupError(f"the class {path} is not known here: import {module} first")
    for part in name.split("."):
        found = getattr(found, part, None)
    if not isinstance(found, type):
        raise LookupError(f"there is no class {path} here")
    return found


# -- parameters --------------------------------------------------------------------------------


def _parameters(model: Any, arrays: bool) -> dict[str, Any]:
    """A model's parameters by name."""
    if isinstance(model, Mapping):
        return dict(model)
    if not arrays and hasattr(model, "named_parameters"):
        return dict(model.named_parameters())
    allowed = "the parameters by name, a dict" if arrays else "a torch module, or a dict by name"
    raise TypeError(f"model is {type(model).__name__}; allowed is {allowed}")


def _found(recipe: Mapping[str, Any], model: Any, arrays: bool) -> list[list[tuple[str, Any]]]:
    """Each group's (name, parameter) pairs."""
    have = _parameters(model, arrays)
    groups = recipe["groups"]
    wanted = [name for group in groups for name in group["parameters"]]
    if not recipe["named"]:
        if len(groups) > 1:
            raise ValueError(
                "the record has no names of the parameters, which are in several groups: collect "
                "it with model=... beside optimizer=..."
            )
        if len(wanted) != len(have):
            raise ValueError(
                f"the optimizer had {len(wanted)} parameters, without names; the model has "
                f"{len(have)}: {_some(have)}"
            )
        have = dict(zip(wanted, have.values(), strict=True))
    faults = [f"{name!r} is not in the model" for name in wanted if name not in have]
    for group in groups:
        for name, shape in zip(group["parameters"], group["shapes"], strict=True):
            if name in have and list(have[name].shape) != list(shape):
                now = tuple(map(int, have[name].shape))
                faults.append(f"{name!r} has shape {now}, in the record {tuple(shape)}")
    if faults:
        raise ValueError(
            f"the parameters differ from the record's: {'; '.join(faults[:8])}"
            + (f"; and {len(faults) - 8} more" if len(faults) > 8 else "")
            + f" (the model has {_some(have)})"
        )
    return [[(name, have[name]) for name in group["parameters"]] for group in groups]


def _some(names: Any, most: int = 8) -> str:
    listed = [*map(str, names)]
    more = f" and {len(listed) - most} more" if len(listed) > most else ""
    return ", ".join(listed[:most]) + more


# -- what builds it ----------------------------------------------------------------------------


class _Members:
    """A predicate of parameters: those of one group."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = frozenset(names)

    def __call__(self, name: str, param: Any) -> bool:
        return name in self.names


def _ours(recipe: Mapping[str, Any], model: Any) -> Any:
    from pellucid.compose import Chain, composed_from_config, flatten

    in_torch = recipe["kind"] == "pellucid.torch"
    found = _found(recipe, model, arrays=not in_torch)
    stage: Any = composed_from_config(unpacked(recipe["stage"]))
    functions = tuple(unpacked(recipe["functions"]))
    if functions:
        stage = Chain(functions, flatten(stage))
    groups = {
        _Members(group["parameters"]): {
            full: unpacked(value) for full, value in group["values"].items()
        }
        for group in recipe["groups"]
    }
    pairs = [pair for group in found for pair in group]
    arguments: dict[str, Any] = {
        "groups": groups,
        "gradient_transformers": tuple(unpacked(recipe["gradient_transformers"])),
        "compiled": recipe["compiled"],
        "seed": recipe["seed"],
    }
    if in_torch:
        from pellucid.torch.optimizer import Optimizer

        kind = class_at(recipe["class"])
        made: Any = kind.__new__(kind)  # one of a rule's name has its values in the groups
        Optimizer.__init__(made, pairs, stage, **arguments, **recipe["storage"])
    else:
        from pellucid.numpy import Optimizer as NumpyOptimizer

        have = _parameters(model, arrays=True)
        named = {name for name, _ in pairs}
        made = NumpyOptimizer({n: a for n, a in have.items() if n in named}, stage, **arguments)
    made.journal.initial.clear()
    for controls, group in zip(made.controls, recipe["groups"], strict=True):
        controls.label = controls.store["name"] = group["name"]
        controls.store.update({key: unpacked(one) for key, one in group["others"].items()})
        if in_torch and group["name"].startswith("group "):
            del controls.store["name"]
        controls.enter(0)
    return made


def _torch(recipe: Mapping[str, Any], model: Any) -> Any:
    import inspect

    found = _found(recipe, model, arrays=False)
    kind = class_at(recipe["class"])
    taken = inspect.signature(kind).parameters
    defaults = {key: unpacked(one) for key, one in recipe["defaults"].items()}
    groups = [
        {"params": [param for _, param in pairs], **unpacked(group["options"])}
        for pairs, group in zip(found, recipe["groups"], strict=True)
    ]
    return kind(groups, **{key: one for key, one in defaults.items() if key in taken})


def _keras(recipe: Mapping[str, Any], model: Any) -> Any:
    import keras

    made = keras.saving.deserialize_keras_object(unpacked(recipe["config"]))
    variables = getattr(model, "trainable_variables", None)
    if variables is None:
        raise TypeError(
            f"model is {type(model).__name__}; allowed is a Keras model or layer (it has "
            "trainable_variables)"
        )
    _check_variables(recipe, variables)
    places = [variables[n] for n in recipe.get("exclude_places", ())]
    if places or "exclude_names" in recipe:
        pattern = recipe.get("exclude_names")
        made.exclude_from_weight_decay(places, None if pattern is None else [pattern])
    if variables:
        made.build(variables)
    return made


def _check_variables(recipe: Mapping[str, Any], variables: Sequence[Any]) -> None:
    """Raise unless the model's variables have the shapes of the record; names may be numbered."""
    wanted = list(zip(recipe["parameters"], recipe["shapes"], strict=True))
    if not wanted:
        return
    have = [(one.path, [int(n) for n in one.shape]) for one in variables]
    faults = [
        f"{name!r} has shape {tuple(shape)}, in the record {old!r} has {tuple(before)}"
        for (name, shape), (old, before) in zip(have, wanted, strict=False)
        if shape != before
    ]
    if len(have) != len(wanted):
        faults.append(f"the model has {len(have)} variables, the record {len(wanted)}")
    if faults:
        raise ValueError(f"the parameters differ from the record's: {'; '.join(faults[:8])}")
