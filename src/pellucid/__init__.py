"""Write an optimizer's update rule once; see and change everything in any optimizer."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pellucid.access import journal as journal
    from pellucid.access import view as view
    from pellucid.access.difference import diff as diff
    from pellucid.compose import chain as chain
    from pellucid.compose import every as every
    from pellucid.compose import route as route
    from pellucid.conformance import check as check
    from pellucid.declare import extra as extra
    from pellucid.declare import hyper as hyper
    from pellucid.declare import option as option
    from pellucid.declare import ref as ref
    from pellucid.declare import slot as slot
    from pellucid.explanation import explain as explain
    from pellucid.rule import GradientTransform as GradientTransform
    from pellucid.rule import ParameterTransform as ParameterTransform
    from pellucid.rule import Rule as Rule
    from pellucid.rule import UpdateTransform as UpdateTransform
    from pellucid.rules import *  # noqa: F403
    from pellucid.run.capturing import capture as capture
    from pellucid.run.collecting import collect as collect
    from pellucid.run.logger import Logger as Logger
    from pellucid.run.record import Record as Record
    from pellucid.run.simple import hyperparameters as hyperparameters
    from pellucid.transforms import *  # noqa: F403

__version__ = "0.1.0"

_HOMES: dict[str, tuple[str, ...]] = {
    "pellucid.access": ("journal", "view"),
    "pellucid.access.difference": ("diff",),
    "pellucid.compose": ("chain", "every", "route"),
    "pellucid.conformance": ("check",),
    "pellucid.declare": ("HyperparameterError", "extra", "hyper", "option", "ref", "slot"),
    "pellucid.explanation": ("explain",),
    "pellucid.ops": ("RuleError",),
    "pellucid.rule": (
        "GradientTransform",
        "ParameterTransform",
        "Rule",
        "Stage",
        "UpdateTransform",
    ),
    "pellucid.rules": (
        "ASGD",
        "CATALOGUE",
        "FTRL",
        "SGD",
        "Adadelta",
        "Adagrad",
        "Adam",
        "AdamW",
        "Adamax",
        "Lion",
        "NAdam",
        "RAdam",
        "RMSprop",
        "RowwiseAdagrad",
        "Rprop",
        "Signum",
    ),
    "pellucid.run.capturing": ("capture",),
    "pellucid.run.collecting": ("collect",),
    "pellucid.run.logger": ("Logger",),
    "pellucid.run.record": ("Record",),
    "pellucid.run.simple": ("hyperparameters",),
    "pellucid.transforms": (
        "adaptive_clip",
        "add_noise",
        "average_weights",
        "centralize",
        "clip_by_global_norm",
        "clip_by_norm",
        "clip_by_value",
        "decay_weights",
        "normalize",
        "project",
        "scale",
        "skip_nonfinite",
    ),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module 'pellucid' has no attribute {name!r}")


__all__ = sorted(_HOME)
