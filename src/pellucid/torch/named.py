"""``pellucid.torch.<Name>``: each catalogue rule with torch's argument names and defaults."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from pellucid.compose import Pipeline
from pellucid.controls import Names, overrides
from pellucid.rule import Rule
from pellucid.rules import CATALOGUE
from pellucid.torch.names import names_of
from pellucid.torch.optimizer import KEYS, Optimizer

__all__ = ["NAMED", "signature_of"]

_OURS: dict[str, Any] = {
    "groups": None,
    "gradient_transformers": (),
    "compiled": True,
    "seed": 0,
    "rounding": "nearest",
    "state_dtype": "float32",
    "sparse": "dense",
}


def _native_defaults(pipeline: Pipeline, names: Names) -> dict[str, Any]:
    """Torch's keys with the rule's defaults: ``betas`` is a tuple."""
    found: dict[str, Any] = {}
    declared: dict[str, Any] = {**pipeline.hypers, **pipeline.options}
    for full, place in names.places.items():
        if full in names.unknown:
            continue
        default = declared[full][1].default
        if place.position is None:
            found[place.key] = default
        else:
            found[place.key] = (*found.get(place.key, ()), default)
    return found


def signature_of(rule: type[Rule]) -> inspect.Signature:
    """The constructor's signature: torch's order, then what is ours by keyword."""
    pipeline = Pipeline((rule(),), (0,))
    parameter = inspect.Parameter
    native = _native_defaults(pipeline, names_of(pipeline))
    maximize = native.pop("maximize")
    either = parameter.POSITIONAL_OR_KEYWORD
    return inspect.Signature(
        [
            parameter("params", either),
            *(parameter(key, either, default=value) for key, value in native.items()),
            *(
                parameter(key, parameter.KEYWORD_ONLY, default=value)
                for key, value in {"maximize": maximize, **KEYS, **_OURS}.items()
            ),
        ]
    )


def _named(rule: type[Rule]) -> type[Optimizer]:
    signature = signature_of(rule)
    pipeline = Pipeline((rule(),), (0,))
    names = names_of(pipeline)

    def __init__(self: Optimizer, *args: Any, **kwargs: Any) -> None:
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{rule.__name__}{_shown(signature)}: {error}") from None
        given: Mapping[str, Any] = bound.arguments
        ours = {key: given[key] for key in given if key in _OURS}
        switches = {key: given[key] for key in given if key in KEYS}
        values = {key: value for key, value in given.items() if key in _keys}
        stage = rule(**overrides(pipeline, names, values, rule.__name__, ()))
        self._switches = {**KEYS, **switches}
        Optimizer.__init__(self, given["params"], stage, **ours)

    _keys = set(_native_defaults(pipeline, names))
    __init__.__signature__ = signature  # type: ignore[attr-defined]
    made = type(
        rule.__name__,
        (Optimizer,),
        {
            "__init__": __init__,
            "__doc__": _document(rule, signature),
            "__module__": "pellucid.torch",
            "__signature__": signature,
        },
    )
    return made


def _shown(signature: inspect.Signature) -> str:
    return f"({', '.join(signature.parameters)})"


def _document(rule: type[Rule], signature: inspect.Signature) -> str:
    text = (rule.__doc__ or "").partition("\n\nArguments:")[0]
    pipeline = Pipeline((rule(),), (0,))
    names = names_of(pipeline)
    lines = []
    every: dict[str, Any] = {**pipeline.hypers, **pipeline.options}
    for full, (_, declared) in every.items():
        if full in names.unknown:
            continue
        lines.append(f"    {names.native(full)}: {declared.allowed()}. {declared.doc}".rstrip())
    return "\n".join(
        [
            text,
            "",
            "Arguments, under torch's names:",
            "    params, groups, gradient_transformers, compiled, seed, rounding, state_dtype,",
            "    sparse: see `Optimizer`.",
            *lines,
            "    foreach, fused: accepted; the update is always one fused kernel.",
            "    capturable, differentiable: False; True raises, since it cannot be had.",
        ]
    )


NAMED: dict[str, type[Optimizer]] = {name: _named(rule) for name, rule in CATALOGUE.items()}
