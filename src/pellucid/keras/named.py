"""``pellucid.keras.<Name>``: each rule with Keras's argument names, defaults and arithmetic."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import keras

from pellucid.compose import Pipeline
from pellucid.keras.checks import check_names
from pellucid.keras.config import config_of, revived_argument, with_values
from pellucid.keras.drivers import as_driver
from pellucid.keras.names import CLASSES, keras_arguments, names_of
from pellucid.keras.optimizer import Optimizer
from pellucid.rule import Rule
from pellucid.rules import CATALOGUE

__all__ = ["NAMED"]

SHARED: dict[str, Any] = {
    "clipnorm": None,
    "clipvalue": None,
    "global_clipnorm": None,
    "use_ema": False,
    "ema_momentum": 0.99,
    "ema_overwrite_frequency": None,
    "loss_scale_factor": None,
    "gradient_accumulation_steps": None,
    "name": None,
    "groups": None,
    "gradient_transformers": (),
    "sparse": "dense",
    "seed": 0,
}
"""What all classes take, by keyword as in Keras, and what is ours."""


def signature_of(rule: type[Rule]) -> inspect.Signature:
    """The constructor's signature: Keras's order, then what is ours by keyword."""
    arguments = keras_arguments(rule)
    arguments.setdefault("weight_decay", None)
    either, keyword = inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY
    taken = [
        inspect.Parameter(name, keyword if name == "maximize" else either, default=value)
        for name, value in sorted(arguments.items(), key=lambda item: item[0] == "maximize")
    ]
    more = [inspect.Parameter(name, keyword, default=value) for name, value in SHARED.items()]
    return inspect.Signature([*taken, *more])


def _named(name: str, rule: type[Rule]) -> type[Optimizer]:
    signature = signature_of(rule)
    pipeline = Pipeline((rule(),), (0,))
    names = names_of(pipeline)
    own = {key: names.canonical(key)[0] for key in signature.parameters if names.canonical(key)}

    def __init__(self: Optimizer, *args: Any, **kwargs: Any) -> None:
        check_names(name, kwargs, [*signature.parameters])
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{name}({', '.join(signature.parameters)}): {error}") from None
        bound.apply_defaults()
        given = dict(bound.arguments)
        shared = {key: given[key] for key in SHARED}
        decay = given.get("weight_decay")
        values = {own[key]: given[key] for key in given if key in own}
        if decay is None:
            values.pop("weight_decay", None)
        stage = rule(**{key: as_driver(_float(value)) for key, value in values.items()})
        if "weight_decay" not in own:
            shared["weight_decay"] = decay
        Optimizer.__init__(self, stage, **shared)

    def get_config(self: Optimizer) -> dict[str, Any]:
        found = config_of(self)
        del found["stage"]
        for key, default in keras_arguments(rule).items():
            if default is None and found.get(key) == 0.0:
                found[key] = None  # as Keras has it: no decay
        return {key: found[key] for key in found if key in signature.parameters or found[key]}

    def from_config(
        cls: type[Optimizer], config: Mapping[str, Any], custom_objects: Any = None
    ) -> Optimizer:
        given = {key: revived_argument(key, value) for key, value in config.items()}
        values, parts = given.pop("values", {}), given.pop("parts", {})
        return with_values(cls(**given), values, parts)

    made: type[Optimizer] = type(
        name,
        (Optimizer,),
        {
            "__init__": __init__,
            "get_config": get_config,
            "from_config": classmethod(from_config),
            "__doc__": _document(rule, signature),
            "__module__": "pellucid.keras",
            "__signature__": signature,
        },
    )
    return keras.saving.register_keras_serializable("pellucid")(made)  # type: ignore[no-any-return]


def _float(value: Any) -> Any:
    """Whole numbers as floats, which rules compare with their defaults."""
    return float(value) if type(value) is int else value


def _document(rule: type[Rule], signature: inspect.Signature) -> str:
    text = (rule.__doc__ or "").partition("\n\nArguments:")[0]
    pipeline = Pipeline((rule(),), (0,))
    names = names_of(pipeline)
    every: dict[str, Any] = {**pipeline.hypers, **pipeline.options}
    lines = [
        f"    {names.native(full)}: {declared.allowed()}. {declared.doc}".rstrip()
        for full, (_, declared) in every.items()
    ]
    shared = ", ".join(key for key in SHARED if key in signature.parameters)
    return "\n".join(
        [text, "", "Arguments, under Keras's names:", *lines, f"    {shared}: see `Optimizer`."]
    )


NAMED: dict[str, type[Optimizer]] = {
    CLASSES.get(name, name): _named(CLASSES.get(name, name), rule)
    for name, rule in CATALOGUE.items()
}
for _ours, _theirs in CLASSES.items():
    NAMED[_ours] = NAMED[_theirs]
