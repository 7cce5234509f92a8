"""What an estimator of scikit-learn, or one that is made like those, tells of itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pellucid.run.constructors import Found, Reading, find_arguments
from pellucid.run.plain import class_name
from pellucid.run.record import Findings

__all__ = ["find_sklearn_model"]


def find_sklearn_model(findings: Findings, model: Any) -> Found:
    """Write an estimator's parameters, and those of the estimators inside under ``layers``."""
    found = _own(findings.at("arguments"), model, "")
    seen = {id(model): ""}
    for name, value in _inside(model):
        path = name.replace("__", ".")
        if id(value) in seen:
            findings.add(f"layers/{path}/same_as", seen[id(value)] or "(the model itself)")
            continue
        seen[id(value)] = path
        findings.add(f"layers/{path}/class", class_name(value))
        _own(findings, value, f"layers/{path}")
    return found


def _own(findings: Findings, one: Any, path: str) -> Found:
    values: Mapping[str, Any] = one.get_params(deep=False)
    reading = Reading(own=_sklearns, shown=_shown)
    return find_arguments(findings, one, path, reading, values)


def _sklearns(kind: type) -> bool:
    return kind.__module__.partition(".")[0] == "sklearn"


def _inside(model: Any) -> list[tuple[str, Any]]:
    held = model.get_params(deep=True)
    return [(name, value) for name, value in held.items() if _is_estimator(value)]


def _is_estimator(value: Any) -> bool:
    return callable(getattr(value, "get_params", None)) and not isinstance(value, type)


def _shown(value: Any) -> Any:
    """An estimator by its class, also in a pipeline's steps."""
    if _is_estimator(value):
        return {"class": class_name(value)}
    if isinstance(value, (list, tuple)) and any(
        isinstance(one, tuple) and any(map(_is_estimator, one)) for one in value
    ):
        return [[_shown(part) for part in one] for one in value]
    return value
