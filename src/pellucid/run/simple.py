"""The simple answer to: what are the hyperparameters of this model?"""

from __future__ import annotations

from typing import Any

from pellucid.run.models import find_model, framework_of
from pellucid.run.plain import class_name
from pellucid.run.record import Findings, Values, nested

__all__ = ["hyperparameters"]

_SIZES = ("parameters", "dtypes")
_SECTIONS = ("layers", "config", "hparams", "optimizer")


def hyperparameters(model: Any, optimizer: Any = None) -> Values:
    """A model's hyperparameters, nested, by attributes: ``found.hidden_units``,
    ``found.layers["0"].units``, ``found.optimizer``.

    The model's own arguments stand at the top; one that is called as a section is
    (``layers``, ``config``, ``hparams``, ``optimizer``) stands under ``arguments``. Where the
    values come from, the counts, and what could not be read is told by `collect`.

    Args:
        model: of Keras, torch, flax, equinox or scikit-learn.
        optimizer: of any of these; that of a compiled Keras model is found without it.

    Raises:
        TypeError: this is no model.
    """
    _check(model)
    findings = Findings()
    find_model(findings.at("model"), model)
    if optimizer is None:
        optimizer = _compiled(model)
    flat = {}
    for path, entry in findings.entries.items():
        section, _, rest = path.removeprefix("model/").partition("/")
        if section == "arguments" and rest.partition("/")[0] not in _SECTIONS:
            flat[rest] = entry.value
        elif section in ("arguments", *_SECTIONS) and rest.rpartition("/")[2] not in _SIZES:
            flat[f"{section}/{rest}"] = entry.value
    if optimizer is not None:
        from pellucid.run.optimizers import find_optimizer

        found = Findings()
        find_optimizer(found.at("optimizer"), optimizer, model)
        flat |= {path: entry.value for path, entry in found.entries.items()}
    return nested(flat)


def _check(model: Any) -> None:
    if framework_of(model):
        return
    allowed = "allowed is a model of Keras, torch, flax, equinox or scikit-learn"
    if isinstance(model, type):
        raise TypeError(f"hyperparameters was given the class {class_name(model)}; {allowed}: "
                        f"an object, such as {model.__name__}(...)")  # fmt: skip
    if hasattr(model, "param_groups") or hasattr(model, "apply_gradients"):
        raise TypeError(
            "hyperparameters was given an optimizer as its model; "
            "use hyperparameters(model, optimizer), or pellucid.view(optimizer)"
        )
    from pellucid.run.capturing import arguments_of

    if arguments_of(model) is None:
        raise TypeError(f"hyperparameters was given {_short(model)}; {allowed}")


def _short(model: Any) -> str:
    if model is None or isinstance(model, (bool, int, float, str)):
        return repr(model)[:80]
    return f"an object of {class_name(model)}"


def _compiled(model: Any) -> Any:
    """The optimizer of a compiled Keras model."""
    if framework_of(model) != "keras":
        return None
    try:
        return getattr(model, "optimizer", None)
    except Exception:
        return None
