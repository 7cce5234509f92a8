"""A record's model again, with new weights."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from pellucid.run.record import Record

__all__ = ["model_of"]


def model_of(record: Record) -> Any:
    """The model that a record describes, built anew.

    Raises:
        ValueError: something for it is missing: lists what.
    """
    how = record.recipes.get("model")
    if not isinstance(how, Mapping):
        raise ValueError(
            "the record has no model: give collect one, model=..., when the record is made"
        )
    builders = {"keras": _of_keras, "class": _of_class}
    if how.get("kind") not in builders:
        lacks = [str(one) for one in how.get("lacks", ())] or [f"how to build {how.get('kind')!r}"]
        raise ValueError(
            "the model cannot be built again; missing: " + "; ".join(lacks) + ". Arguments that a "
            "class does not keep are captured by @pellucid.capture above it"
        )
    return builders[how["kind"]](how)


def _of_keras(how: Mapping[str, Any]) -> Any:
    try:
        import keras
    except ImportError as error:
        raise ValueError(f"the model is one of Keras, which cannot be imported: {error}") from error
    try:
        return keras.saving.deserialize_keras_object(how["config"])
    except Exception as error:
        raise ValueError(f"Keras could not build the model: {error}") from error


def _of_class(how: Mapping[str, Any]) -> Any:
    kind = _class(str(how.get("class", "")))
    try:
        return kind(*how.get("args", ()), **how.get("kwargs", {}))
    except Exception as error:
        raise ValueError(
            f"{how['class']} could not be built from the record's arguments: "
            f"{type(error).__name__}: {error}"
        ) from error


def _class(where: str) -> type:
    """The class at ``module:name``, and nothing but a class."""
    module, _, name = where.partition(":")
    if not module or not name or not all(part.isidentifier() for part in name.split(".")):
        raise ValueError(f"the record names {where!r} as the model's class; it is module:Name")
    try:
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"the model's class {where} cannot be imported: {error}") from error
    if not isinstance(found, type):
        raise ValueError(f"{where} is no class, so it cannot be the model's")
    return found
