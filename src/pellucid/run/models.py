"""What any model tells of itself: its class, its size, and the arguments of all its layers."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from pellucid.run.constructors import Found, Reading, find_arguments, find_recipe
from pellucid.run.plain import class_name
from pellucid.run.record import Findings

__all__ = ["find_model", "framework_of"]

KINDS: dict[tuple[str, str], str] = {
    ("torch", "Module"): "torch",
    ("keras", "Layer"): "keras",
    ("tf_keras", "Layer"): "keras",
    ("flax", "Pytree"): "nnx",  # from flax 0.12; before, Object
    ("flax", "Object"): "nnx",
    ("flax", "Module"): "linen",
    ("equinox", "Module"): "equinox",
    ("sklearn", "BaseEstimator"): "sklearn",
}
"""What makes a class a model, by the package and name of a base class."""

FINDERS: dict[str, str] = {
    "torch": "torch_models:find_torch_model",
    "keras": "keras_models:find_keras_model",
    "nnx": "jax_models:find_nnx_model",
    "linen": "jax_models:find_linen_model",
    "equinox": "jax_models:find_equinox_model",
    "sklearn": "sklearn_models:find_sklearn_model",
}

WRAPPERS = {
    "OptimizedModule": "_orig_mod",
    "DataParallel": "module",
    "DistributedDataParallel": "module",
}


def framework_of(model: Any) -> str:
    """Which of the frameworks a model is of; empty for none. Loads none."""
    found = {
        KINDS.get((kind.__module__.partition(".")[0], kind.__name__), "")
        for kind in type(model).__mro__
    } - {""}
    # on Keras's torch and JAX backends a layer is a torch module or a Pytree, too
    return next((one for one in ("keras", "nnx", *FINDERS) if one in found), "")


def unwrapped(model: Any) -> Any:
    """The module inside torch's wrappers: of `torch.compile`, of data-parallel training."""
    while type(model).__name__ in WRAPPERS and type(model).__module__.startswith("torch."):
        model = getattr(model, WRAPPERS[type(model).__name__])
    return model


def find_model(findings: Findings, model: Any) -> None:
    """Write what a model has: ``class``, ``parameters``, ``arguments``, ``layers``, ...

    A model of no known framework is its class and its constructor's arguments.
    """
    model = unwrapped(model)
    findings.add("class", class_name(model))
    framework = framework_of(model)
    try:
        found = _finder(framework)(findings, model)
    except Exception as error:  # a stranger's object
        findings.miss("layers", f"reading {class_name(model)} failed: {error!r:.300}")
        return
    if "model" not in findings.recipes:
        find_recipe(findings, model, found)


def _finder(framework: str) -> Callable[[Findings, Any], Found]:
    if not framework:
        return lambda findings, model: find_arguments(
            findings.at("arguments"), model, "", Reading()
        )
    module, _, name = FINDERS[framework].partition(":")
    found: Callable[[Findings, Any], Found] = getattr(
        importlib.import_module(f"pellucid.run.{module}"), name
    )
    return found
