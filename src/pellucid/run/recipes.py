"""How an optimizer is built again, as plain JSON data; `pellucid.run.recreate` reads it.

Infinite numbers, tuples and tensors of one number are told by a dict with one key. What has no
description stands under ``lost``, each with why.
"""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from pellucid.access.sources import source_of
from pellucid.compose import Chain, Composed, transformers_of
from pellucid.controls import FOREIGN
from pellucid.declare import Ref, is_scalar_array, plain_value
from pellucid.ops import is_number
from pellucid.run.plain import plain

__all__ = ["recipe_of"]


def recipe_of(optimizer: Any, names: Mapping[int, str], variables: Sequence[Any]) -> dict[str, Any]:
    """How an optimizer is built again.

    Args:
        optimizer: one of ours, torch's or Keras's.
        names: parameters' names by identity, of torch's.
        variables: the parameters that one of Keras's updates, as far as they are known.
    """
    host, keras = sys.modules.get("pellucid.host"), sys.modules.get("keras")
    if host is not None and isinstance(optimizer, host.Host):
        return _ours(optimizer, names)
    base = getattr(getattr(keras, "optimizers", None), "Optimizer", None)
    if base is not None and isinstance(optimizer, base):
        return _keras(optimizer, variables)
    return _torch(optimizer, names)


def path_of(kind: type) -> str:
    """A class's import path, ``module:QualName``."""
    return f"{kind.__module__}:{kind.__qualname__}"


class _Packer:
    """Values as JSON data; what has none is remembered."""

    def __init__(self) -> None:
        self.lost: dict[str, str] = {}

    def __call__(self, value: Any, where: str) -> Any:
        try:
            if isinstance(value, str) and plain(value, where.rpartition("/")[2]) != value:
                raise ValueError(f"{where} is a secret or a long text: construct it yourself")
            return self.packed(value, where)
        except (TypeError, ValueError) as error:
            self.lost[where] = str(error)
            return None

    def packed(self, value: Any, where: str) -> Any:
        if value is None or isinstance(value, (bool, str)):
            return value
        if isinstance(value, int):
            return int(value)
        if isinstance(value, float):
            return float(value) if math.isfinite(value) else {"float": str(float(value))}
        if is_scalar_array(value) and type(value).__module__.startswith("torch"):
            dtype = str(value.dtype).removeprefix("torch.")
            return {"tensor": self.packed(value.item(), where), "dtype": dtype}
        if is_scalar_array(value) or is_number(value):
            return self.packed(float(value), where)
        if isinstance(value, tuple):
            return {"tuple": [self.packed(one, where) for one in value]}
        if isinstance(value, list):
            return [self.packed(one, where) for one in value]
        if isinstance(value, Mapping):
            return {str(key): self.packed(one, where) for key, one in value.items()}
        if isinstance(value, Ref) or callable(value):
            return self.packed({"driver": plain_value(value, where)}, where)
        raise ValueError(f"{where} is a {type(value).__qualname__}, which has no description")

    def finished(self, recipe: dict[str, Any]) -> dict[str, Any]:
        return {**recipe, "lost": self.lost} if self.lost else recipe


# -- ours on NumPy and torch -------------------------------------------------------------------


def _ours(optimizer: Any, names: Mapping[int, str]) -> dict[str, Any]:
    pack = _Packer()
    kind = type(optimizer)
    in_torch = sys.modules.get("pellucid.torch.optimizer")
    torch = in_torch is not None and isinstance(optimizer, in_torch.Optimizer)
    if kind.__module__ not in ("pellucid.torch", "pellucid.torch.optimizer",
                               "pellucid.numpy.optimizer"):  # fmt: skip
        pack.lost["class"] = f"{path_of(kind)} is a class of your own: construct it yourself"
    stage = optimizer.stage
    count = len(optimizer.transformers) - len(transformers_of(stage))
    plain = {
        what: [pack(one, f"{what}[{n}]") for n, one in enumerate(functions)]
        for what, functions in (
            ("gradient_transformers", optimizer.transformers[:count]),
            ("functions", transformers_of(stage)),
        )
    }
    return pack.finished({
        "kind": "pellucid.torch" if torch else "pellucid.numpy",
        "class": path_of(kind),
        "stage": _stage(stage, pack),
        **plain,
        "compiled": optimizer.compiled,
        "seed": optimizer.seed,
        **({"storage": asdict(optimizer.storage)} if torch else {}),
        "named": all(not one.name.startswith("param_") or id(one.param) in names
                     for one in optimizer.entries),
        "groups": [
            _own_group(group, names, pack) for group in source_of(optimizer).groups()
        ],
    })  # fmt: skip


def _stage(stage: Composed, pack: _Packer) -> Any:
    """The stages without the plain functions, and with numbers alone: groups have the rest."""
    if isinstance(stage, Chain):
        stage = Chain((), stage.stages)
    try:
        return pack.packed(stage.get_config(), "stage")
    except ValueError as error:
        pack.lost["stage"] = str(error)
        return None


def _own_group(group: Any, names: Mapping[int, str], pack: _Packer) -> dict[str, Any]:
    controls = group.controls
    values = {}
    for full in controls.names.places:
        driver = group.driver(full) if full in controls.pipeline.hypers else None
        held = group.raw(full) if driver is None else driver
        values[full] = pack(held, f"{group.name}/{full}")
    ours = {*controls.names.native_keys(), "params", "param_names", "name"}
    others = {key: one for key, one in controls.store.items() if key not in ours}
    return {
        "name": group.name,
        "parameters": [names.get(id(one.param), one.name) for one in group.entries],
        "shapes": [list(map(int, one.param.shape)) for one in group.entries],
        "values": values,
        "others": {key: pack(one, f"{group.name}/{key}") for key, one in others.items()},
    }


# -- torch's own and strangers' ----------------------------------------------------------------


def _torch(optimizer: Any, names: Mapping[int, str]) -> dict[str, Any]:
    pack = _Packer()
    groups, named, count = [], True, 0
    for number, group in enumerate(optimizer.param_groups):
        where = f"group {number}"
        own = group.get("param_names")
        found = []
        for place, param in enumerate(group["params"]):
            name = names.get(id(param)) or (str(own[place]) if own else None)
            named = named and name is not None
            found.append(name or f"param_{count}")
            count += 1
        options = {
            key: pack(one, f"{where}/{key}") for key, one in group.items()
            if key not in FOREIGN or key == "name"
        }  # fmt: skip
        shapes = [list(map(int, param.shape)) for param in group["params"]]
        groups.append({"parameters": found, "shapes": shapes, "options": options})
    defaults = getattr(optimizer, "defaults", {})
    return pack.finished({
        "kind": "torch",
        "class": path_of(type(optimizer)),
        "named": named,
        "defaults": {key: pack(one, f"defaults/{key}") for key, one in defaults.items()},
        "groups": groups,
    })


# -- Keras -------------------------------------------------------------------------------------


def _has_lambda(config: Any) -> bool:
    if isinstance(config, Mapping):
        return config.get("class_name") == "__lambda__" or any(map(_has_lambda, config.values()))
    return isinstance(config, list) and any(map(_has_lambda, config))


def _keras(optimizer: Any, variables: Sequence[Any]) -> dict[str, Any]:
    pack = _Packer()
    keras = sys.modules["keras"]
    try:
        with warnings.catch_warnings():  # of lambdas, which are refused below
            warnings.simplefilter("ignore")
            config = pack.packed(keras.saving.serialize_keras_object(optimizer), "config")
    except (TypeError, ValueError, NotImplementedError) as error:
        config = None
        pack.lost["config"] = str(error)
    if _has_lambda(config):
        config = None
        pack.lost["config"] = "a lambda is not built from a file: use a function with a name"
    found: dict[str, Any] = {
        "kind": "keras",
        "config": config,
        "parameters": [one.path for one in variables],
        "shapes": [[None if n is None else int(n) for n in one.shape] for one in variables],
    }
    excluded = getattr(optimizer, "_exclude_from_weight_decay_pattern", None)
    keys = getattr(optimizer, "_exclude_from_weight_decay", None) or ()
    if excluded is not None:
        found["exclude_names"] = excluded.pattern
    if keys:
        places = [n for n, one in enumerate(variables) if optimizer._var_key(one) in keys]
        found["exclude_places"] = places
        if len(places) < len(keys):
            pack.lost["exclude_from_weight_decay"] = "its variables are not known: give model=..."
    return pack.finished(found)
