"""What a Keras model or layer tells of itself."""

from __future__ import annotations

import contextlib
import functools
import importlib
import inspect
import json
import math
import sys
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

from pellucid.run.capturing import is_module
from pellucid.run.constructors import (
    NOTHING,
    Found,
    Parameter,
    Reading,
    find_arguments,
    importable,
)
from pellucid.run.plain import class_name, plain
from pellucid.run.record import Findings

__all__ = ["find_keras_model"]

_SKIPPED = frozenset({
    "name", "layers", "inputs", "outputs", "input_layers", "output_layers", "build_input_shape",
    "batch_input_shape", "input_tensor", "kwargs",
})  # fmt: skip


def _own(kind: type) -> bool:
    return kind.__module__.partition(".")[0] in ("keras", "tf_keras")


_FAMILIES = ("initializer", "regularizer", "constraint", "activation")


@lru_cache(maxsize=512)
def _default_of(package: str, family: str, text: str | None) -> Any:
    """What a layer has for a default that is a name, as it is recorded."""
    keras = sys.modules[package]
    if family == "activation":
        return _shown(keras.activations.get(text))
    return _shown(getattr(keras, f"{family}s").get(text))


def _default(package: str, parameter: Parameter) -> Any:
    name, value = parameter.name, parameter.default
    family = name.rpartition("_")[2]
    named = isinstance(value, str) or (value is None and family == "activation")
    return _default_of(package, family, value) if named and family in _FAMILIES else value


def _shown(value: Any) -> Any:
    """An object of Keras as its class's name, with its arguments if it has any that are set."""
    if isinstance(value, Mapping) and {"class_name", "config"} <= value.keys():
        return _serialized(value)
    if hasattr(value, "__name__") and not isinstance(value, type):
        return value.__name__ if _own(value) else value
    if _own(type(value)) and not is_module(value) and hasattr(value, "get_config"):
        return _named(type(value).__name__, value.get_config())
    return value


def _serialized(value: Mapping[str, Any]) -> Any:
    """What Keras has written of an object."""
    config, name = value["config"], value["class_name"]
    if not isinstance(config, Mapping):
        return config
    if "build_config" in value or value.get("module") in ("keras.layers", "keras.models"):
        return {"class": name}
    return _named(name, config)


def _named(name: str, config: Mapping[str, Any]) -> Any:
    if "Policy" in name and "name" in config:
        return config["name"]
    held = {key: _shown(one) for key, one in config.items() if one is not None}
    return {"class": name, **held} if held else name


def _read(layer: Any, parameter: Parameter) -> Any:
    """An argument of Keras's own layers, shown: their attributes are what `get_config` writes."""
    if parameter.name == "dtype":
        return layer.dtype_policy.name
    if not _own(type(layer)):
        return NOTHING
    value = getattr(layer, parameter.name, NOTHING)
    if inspect.ismethod(value) or is_module(value):
        return NOTHING
    return _shown(value)


def _reading(layer: Any) -> Reading:
    kind: Any = type(layer)
    usual = _usual_policy(_package(kind))
    return _reading_of(kind, layer.dtype_policy.name if layer.dtype_policy == usual else "")


def _usual_policy(package: str) -> Any:
    keras = sys.modules[package]
    config: Any = getattr(keras, "config", None)
    if hasattr(config, "dtype_policy"):
        return config.dtype_policy()
    return keras.mixed_precision.global_policy()  # tf_keras


@lru_cache(maxsize=512)
def _package(kind: Any) -> str:
    packages = (str(base.__module__).partition(".")[0] for base in kind.__mro__ if _own(base))
    return next(packages)


@lru_cache(maxsize=512)
def _reading_of(kind: Any, dtype: str) -> Reading:
    package = _package(kind)

    @lru_cache(maxsize=512)
    def default(parameter: Parameter) -> Any:
        return _default(package, parameter)

    def of(parameter: Parameter) -> Any:
        try:
            return default(parameter)
        except TypeError:  # it cannot be hashed
            return parameter.default

    also = (
        Parameter("trainable", True, False, False, True),
        Parameter("dtype", dtype, False, False, False),
    )
    passed = _SKIPPED - {"layers", "inputs", "outputs"}
    return Reading(_SKIPPED, _own, _read, of, _shown, also, passed)


def find_keras_model(findings: Findings, model: Any) -> Found:
    """Write what a Keras model has; gives its own arguments."""
    with _tensorflow_left_alone():
        found = _find(findings, model)
        _find_recipe(findings, model)
    return found


@contextlib.contextmanager
def _tensorflow_left_alone() -> Iterator[None]:
    """Where TensorFlow is not loaded, Keras's serialization does not load it: no object is its."""
    try:
        lazy = importlib.import_module("keras.src.utils.module_utils").tensorflow
        known = lazy._available
    except (ImportError, AttributeError):
        yield
        return
    if "tensorflow" in sys.modules:
        yield
        return
    lazy._available = False
    try:
        yield
    finally:
        lazy._available = known


def _find(findings: Findings, model: Any) -> Found:
    found = find_arguments(findings.at("arguments"), model, "", _reading(model), Config(model))
    unbuilt = [] if model.built else [model.name]
    for path, layer, same in _walk(model):
        if not path:
            continue
        here = f"layers/{path}"
        if same is not None:
            findings.add(f"{here}/same_as", same or "(the model itself)")
            continue
        findings.add(f"{here}/class", class_name(layer))
        find_arguments(findings, layer, here, _reading(layer), Config(layer))
        if not layer.built:
            unbuilt.append(path)
            findings.miss(f"{here}/parameters", "the layer is not built: call it on data, or build")
            continue
        inner = {id(one) for child in _children(layer) for one in child.weights}
        _count(findings, f"{here}/", [one for one in layer.weights if id(one) not in inner])
    if unbuilt:
        names = ", ".join(unbuilt[:5]) + (", ..." if len(unbuilt) > 5 else "")
        why = f"not built yet: {names}; call the model on data, or build it with an input shape"
        findings.miss("parameters", why)
    else:
        learned = sum(_size(one) for one in model.trainable_weights)
        _count(findings, "", model.weights, learned)
    return found


class Config(Mapping[str, Any]):
    """A layer's configuration, written when it is first looked at; empty if it cannot be."""

    def __init__(self, layer: Any) -> None:
        self._layer = layer

    @functools.cached_property
    def _content(self) -> Mapping[str, Any]:
        try:
            config = self._layer.get_config()
        except Exception:  # it takes what cannot be serialized
            return {}
        return config if isinstance(config, Mapping) else {}

    def __getitem__(self, key: str) -> Any:
        return self._content[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._content)

    def __len__(self) -> int:
        return len(self._content)


def _children(layer: Any) -> list[Any]:
    """The layers right inside of one; a Sequential's without its input."""
    layers = getattr(layer, "layers", None)
    if not isinstance(layers, list):
        layers = list(layer._flatten_layers(include_self=False, recursive=False))
    return layers


def _walk(model: Any) -> Iterator[tuple[str, Any, str | None]]:
    """Each layer with its path of names, in order; one that was there already, where it was."""
    seen: dict[int, str] = {}
    waiting: list[tuple[str, Any]] = [("", model)]
    while waiting:
        path, layer = waiting.pop()
        if id(layer) in seen:
            yield path, layer, seen[id(layer)]
            continue
        seen[id(layer)] = path
        yield path, layer, None
        names: dict[str, int] = {}
        inner = []
        for child in _children(layer):
            names[child.name] = names.get(child.name, 0) + 1
            again = f"#{names[child.name]}" if names[child.name] > 1 else ""
            name = child.name + again
            inner.append((f"{path}.{name}" if path else name, child))
        waiting += reversed(inner)


def _size(variable: Any) -> int:
    return math.prod(int(length) for length in variable.shape)


def _count(
    findings: Findings, prefix: str, variables: list[Any], learned: int | None = None
) -> None:
    """Write how many numbers variables have, all and by dtype."""
    if not variables and learned is None:
        return
    dtypes: dict[str, int] = {}
    for one in variables:
        dtype = getattr(one.dtype, "name", str(one.dtype))
        dtypes[dtype] = dtypes.get(dtype, 0) + _size(one)
    findings.add(f"{prefix}parameters", sum(dtypes.values()))
    if learned is not None:
        findings.add("trainable", learned)
    findings.add(f"{prefix}dtypes", dtypes)


def _find_recipe(findings: Findings, model: Any) -> None:
    """Keep Keras's own configuration, where all that it names can be found again."""
    keras = sys.modules.get("keras")
    if keras is None or not isinstance(model, keras.layers.Layer):
        return
    try:
        config = keras.saving.serialize_keras_object(model)
        config.pop("compile_config", None)  # the optimizer has a recipe of its own
        config = json.loads(json.dumps(config, allow_nan=False))
    except Exception:  # it takes what cannot be serialized
        return
    if not (_own(type(model)) or importable(type(model)) or config.get("registered_name")):
        return
    lacks = list(dict.fromkeys(_lacking(config)))
    how = {"kind": "missing", "lacks": lacks} if lacks else {"kind": "keras", "config": config}
    findings.recipe("model", how)


def _lacking(config: Any) -> Iterator[str]:
    """What in a configuration cannot be found again."""
    if isinstance(config, list):
        for one in config:
            yield from _lacking(one)
    if not isinstance(config, dict):
        return
    name, module = config.get("class_name"), config.get("module")
    if name == "__lambda__":
        yield "a lambda: use a function of a module, registered with Keras"
    elif name == "function":
        yield f"the function {config.get('config')}: register it with Keras"
    elif module and name and not module.startswith("keras"):
        kind = getattr(sys.modules.get(module), name, None)
        if not isinstance(kind, type) or module == "__main__":
            yield f"{module}.{name} cannot be imported: define it at the top level of a module"
    for key, one in config.items():
        if isinstance(one, str) and plain(one, key) != one:
            yield f"the argument {key!r} of {name}, a secret or a long text"
        yield from _lacking(one)
