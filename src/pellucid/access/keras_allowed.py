"""What Keras's own optimizers allow: kinds, bounds, and writes that would do nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pellucid.declare import Hyper, HyperparameterError, hyper, is_scalar_array
from pellucid.ops import is_number

__all__ = ["allowed_value", "check_effect", "is_keras"]

ANY = "*"
NONE = frozenset(
    ["weight_decay", "clipnorm", "clipvalue", "global_clipnorm", "loss_scale_factor",
     "ema_overwrite_frequency", "gradient_accumulation_steps"]
)  # fmt: skip
"""What is None unless it is asked for, and may be None again."""
WHOLE = frozenset(
    ["ema_overwrite_frequency", "gradient_accumulation_steps", "dynamic_growth_steps",
     "warmup_steps", "ns_steps"]
)  # fmt: skip
CLIPS = ("clipnorm", "clipvalue", "global_clipnorm")
BOUNDS: Mapping[tuple[str, str], Hyper] = {
    (ANY, "learning_rate"): hyper(0.1, minimum=0),
    (ANY, "weight_decay"): hyper(0.1, minimum=0),
    (ANY, "clipnorm"): hyper(1.0, above=0),
    (ANY, "clipvalue"): hyper(1.0, above=0),
    (ANY, "global_clipnorm"): hyper(1.0, above=0),
    (ANY, "loss_scale_factor"): hyper(1.0, above=0),
    (ANY, "ema_momentum"): hyper(0.9, minimum=0, maximum=1),
    (ANY, "ema_overwrite_frequency"): hyper(1, minimum=1),
    (ANY, "gradient_accumulation_steps"): hyper(2, minimum=2),
    ("LossScaleOptimizer", "initial_scale"): hyper(1.0, above=0),
    ("LossScaleOptimizer", "dynamic_growth_steps"): hyper(1, minimum=1),
    ("SGD", "momentum"): hyper(0.0, minimum=0, maximum=1),
    ("Lion", "beta_1"): hyper(0.9, above=0, maximum=1),
    ("Lamb", "beta_1"): hyper(0.9, minimum=0, below=1),
    ("Lamb", "beta_2"): hyper(0.9, minimum=0, below=1),
    ("Lamb", "epsilon"): hyper(0.1, minimum=0),
    ("ScheduleFreeAdamW", "beta_1"): hyper(0.9, above=0, below=1),
    ("ScheduleFreeAdamW", "beta_2"): hyper(0.9, minimum=0, below=1),
    ("ScheduleFreeAdamW", "epsilon"): hyper(0.1, minimum=0),
    ("ScheduleFreeAdamW", "warmup_steps"): hyper(0, minimum=0),
    ("Muon", "momentum"): hyper(0.9, minimum=0, below=1),
    ("Muon", "adam_beta_1"): hyper(0.9, minimum=0, below=1),
    ("Muon", "adam_beta_2"): hyper(0.9, minimum=0, below=1),
    ("Muon", "adam_lr_ratio"): hyper(0.1, minimum=0),
    ("Muon", "epsilon"): hyper(0.1, minimum=0),
    ("Muon", "ns_steps"): hyper(5, minimum=1),
    ("Adafactor", "epsilon_1"): hyper(0.1, minimum=0),
    ("Adafactor", "epsilon_2"): hyper(0.1, minimum=0),
    ("Adafactor", "clip_threshold"): hyper(1.0, above=0),
    ("Adafactor", "beta_2_decay"): hyper(-0.8, maximum=0),
    ("Ftrl", "learning_rate_power"): hyper(-0.5, maximum=0),
}
"""By class and Keras's name: as Keras checks them, or as its formula needs them. What is not here
has the bounds of the rule of that name."""

NEEDS: Mapping[tuple[str, str], str] = {
    ("SGD", "momentum"): "momentums",
    ("RMSprop", "momentum"): "_momentums",
    ("RMSprop", "centered"): "_average_gradients",
    ("Adam", "amsgrad"): "_velocity_hats",
    (ANY, "use_ema"): "_model_variables_moving_average",
    (ANY, "gradient_accumulation_steps"): "_accumulated_gradients",
}
"""Where the state is kept that a setting needs if it is neither 0 nor False; `build` makes it."""
AT_BUILD: Mapping[tuple[str, str], str] = {
    ("Adagrad", "initial_accumulator_value"): "view.state['*/accumulator']",
    ("Ftrl", "initial_accumulator_value"): "view.state['*/accumulator']",
    ("LossScaleOptimizer", "initial_scale"): "view.state['LossScaleOptimizer/dynamic_scale']",
}
"""What is read when the optimizer is built only, and what to assign to instead."""


def is_keras(kind: type) -> bool:
    """Whether a class is one of Keras's own."""
    return f"{kind.__module__}.".startswith("keras.src.optimizers.")


def classes_of(optimizer: Any) -> list[str]:
    """Keras's own classes that an optimizer is made of, the nearest first."""
    return [base.__name__ for base in type(optimizer).__mro__ if is_keras(base)]


def _rows(optimizer: Any, native: str) -> Iterator[tuple[str, str]]:
    yield from ((name, native) for name in classes_of(optimizer))
    yield ANY, native


def allowed_value(owner: Any, native: str, full: str, raw: Any, value: Any, where: str) -> Any:
    """The value as it is to be written; `HyperparameterError` says what is allowed."""
    number = is_number(value) or (is_scalar_array(value) and not isinstance(value, bool))
    none = native in NONE and not (native == "weight_decay" and "AdamW" in classes_of(owner))
    if isinstance(raw, bool):
        fits, allowed = isinstance(value, bool), "True or False"
    elif native in NONE or is_number(raw) or is_scalar_array(raw) or native == "learning_rate":
        none = none or (raw is None and native not in NONE)
        fits = number or (value is None and none)
        allowed = "a number, or None" if none else "a number"
    elif isinstance(raw, str):
        fits, allowed = isinstance(value, str), "text"
    else:  # a stranger's, of which nothing is known
        fits, allowed = value is None or number or isinstance(value, (bool, str)), "a plain value"
    if not fits:
        raise HyperparameterError(f"{where} is {_short(value)}; allowed is {allowed}")
    if not number:
        return value
    return _number(owner, native, full, raw, value, where)


def _number(owner: Any, native: str, full: str, raw: Any, value: Any, where: str) -> Any:
    try:
        found = float(value)
    except OverflowError:
        found = float("inf")
    declared = _declared(owner, native, full) or hyper(0.0)
    declared.check(found, where)
    whole = native in WHOLE or (isinstance(raw, int) and abs(raw) > 1)
    if not whole:
        return found
    if found != int(found):
        raise HyperparameterError(f"{where} is {value!r}; allowed is a whole number")
    return int(found)


def _short(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) < 60 else f"{shown[:57]}..."


def _declared(owner: Any, native: str, full: str) -> Any:
    """The bounds of a hyperparameter: of the table, else of the catalogue's rule."""
    from pellucid.keras.names import CLASSES
    from pellucid.rules import CATALOGUE

    ours = {keras: name for name, keras in CLASSES.items()}
    for name in classes_of(owner):
        if (name, native) in BOUNDS:
            return BOUNDS[name, native]
        rule = CATALOGUE.get(ours.get(name, name))
        if rule is not None and full in rule.declared.hypers:
            return rule.declared.hypers[full]
    return BOUNDS.get((ANY, native))


def check_effect(owner: Any, native: str, new: Mapping[str, Any], where: str) -> None:
    """Raise where Keras's class would not use a new value, or could not.

    Args:
        owner: the optimizer.
        native: what is to be written.
        new: all that is to be written to the owner, by Keras's name.
        where: how errors name it.
    """
    value = new[native]
    if native in CLIPS and value is not None:
        others = {name: new.get(name, getattr(owner, name, None)) for name in CLIPS}
        given = [name for name, one in others.items() if one is not None and name != native]
        if given:
            raise ValueError(
                f"{where}: Keras clips by one of clipnorm, clipvalue and global_clipnorm, and "
                f"{given[0]} is {others[given[0]]!r}: set that to None first"
            )
    if not getattr(owner, "built", False):
        return
    for row in _rows(owner, native):
        if row in AT_BUILD:
            raise ValueError(
                f"{where}: {row[0]} reads it when it is built only, so the change would do "
                f"nothing: assign to {AT_BUILD[row]}, or construct another"
            )
        needed = NEEDS.get(row)
        if needed is not None and value and not getattr(owner, needed, None):
            raise ValueError(
                f"{where} is {value!r}, which needs state that {type(owner).__name__} makes when "
                f"it is built, and it was built without: construct another with {native}={value!r}"
                ", or set it before the first step"
            )


def leaves_state(owner: Any, native: str, value: Any) -> bool:
    """Whether state stays behind that an optimizer of the new configuration would not have."""
    rows = [row for row in _rows(owner, native) if row in NEEDS]
    return not value and any(getattr(owner, NEEDS[row], None) for row in rows)
