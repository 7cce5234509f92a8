"""What values the hyperparameters of other people's optimizers take, as far as it is known.

Torch's own classes check their arguments when they are constructed, and never again: here the same
bounds hold for a write. Of strangers, type and finiteness are checked. Nothing here imports torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from pellucid.controls import Place
from pellucid.declare import HyperparameterError, is_scalar_array
from pellucid.ops import is_number

__all__ = ["allowed_value", "check_effect", "follow_in_state"]

SWITCHES = ("foreach", "fused")  # True, False or None: torch chooses
TEXTS: dict[str, tuple[Any, ...]] = {"line_search_fn": ("strong_wolfe", None)}
REAL = frozenset(
    ["learning_rate", "momentum", "weight_decay", "dampening", "epsilon", "rho", "alpha", "beta1",
     "beta2", "beta3", "d", "d0", "eps"]
)  # fmt: skip
"""Names whose value is no count, though it may be written as a whole number."""

BOUNDS: dict[tuple[str, str], tuple[float, float]] = {
    ("*", "learning_rate"): (0.0, math.inf),
    ("*", "weight_decay"): (0.0, math.inf),
    ("*", "momentum"): (0.0, math.inf),
    ("*", "epsilon"): (0.0, math.inf),
    ("*", "beta1"): (0.0, math.nextafter(1.0, 0.0)),
    ("*", "beta2"): (0.0, math.nextafter(1.0, 0.0)),
    ("Adafactor", "beta2_decay"): (-math.inf, 0.0),
    ("Adafactor", "eps[1]"): (0.0, math.inf),
    ("Adafactor", "d"): (1.0, math.inf),
    ("LBFGS", "max_iter"): (1, math.inf),
    ("LBFGS", "max_eval"): (1, math.inf),
    ("LBFGS", "history_size"): (1, math.inf),
    ("Muon", "ns_steps"): (1, 99),
}
"""Of torch's classes that the catalogue lacks: as their constructors check them."""


def _torch_bases(optimizer: Any) -> list[str]:
    """Torch's own classes that an optimizer is made of, the nearest first."""
    bases = type(optimizer).__mro__
    return [
        base.__name__
        for base in bases
        if f"{base.__module__}.".startswith("torch.optim.") and base.__name__ != "Optimizer"
    ]


def allowed_value(
    optimizer: Any, place: Place, full: str, raw: Any, value: Any, where: str
) -> Any:
    """The value as it is to be written; `HyperparameterError` says what is allowed."""
    number = is_number(value) or (is_scalar_array(value) and not isinstance(value, bool))
    if number:
        try:
            finite = math.isfinite(float(value))
        except OverflowError:
            finite = False
        if not finite:
            raise HyperparameterError(f"{where} is {_short(value)}; allowed is a finite number")
    begun = getattr(optimizer, "defaults", {}).get(place.key)
    none = raw is None or (place.position is None and begun is None and place.key in getattr(
        optimizer, "defaults", {}))  # fmt: skip
    if place.key in SWITCHES and (raw is None or isinstance(raw, bool)):
        fits, allowed = value is None or isinstance(value, bool), "True, False or None"
    elif place.key in TEXTS:
        fits = value in TEXTS[place.key] if isinstance(value, str) or value is None else False
        allowed = " or ".join(map(repr, TEXTS[place.key]))
    elif none:
        fits = value is None or number or isinstance(value, (bool, str))
        allowed = "a number, or None"
    elif isinstance(raw, bool):
        fits, allowed = isinstance(value, bool), "True or False"
    elif is_number(raw) or is_scalar_array(raw):
        fits, allowed = number, "a number"
    elif isinstance(raw, str):
        fits, allowed = isinstance(value, str), "text"
    elif hasattr(raw, "shape"):
        fits = type(value) is type(raw) and tuple(value.shape) == tuple(raw.shape)
        allowed = f"a {type(raw).__name__} of shape {tuple(raw.shape)}"
    else:
        fits, allowed = isinstance(value, type(raw)), f"a {type(raw).__name__}"
    if not fits:
        raise HyperparameterError(f"{where} is {_short(value)}; allowed is {allowed}")
    if not number:
        return value
    _check_bounds(optimizer, full, value, where)
    counts = isinstance(raw, int) and not isinstance(raw, bool) and abs(raw) > 1
    if counts and full not in REAL and not _declared(optimizer, full):
        if float(value) != int(value):
            raise HyperparameterError(f"{where} is {value!r}; allowed is a whole number")
        return int(value)
    return float(value) if is_scalar_array(value) else value


def _short(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) < 60 else f"{shown[:57]}..."


def _declared(optimizer: Any, full: str) -> Any:
    """The catalogue's declaration of a hyperparameter of torch's own classes."""
    from pellucid.rules import CATALOGUE

    for name in _torch_bases(optimizer):
        rule = CATALOGUE.get(name)
        if rule is not None:
            return rule.declared.hypers.get(full)
    return None


def _check_bounds(optimizer: Any, full: str, value: Any, where: str) -> None:
    declared = _declared(optimizer, full)
    if declared is not None:
        declared.check(float(value), where)
        return
    for name in [*_torch_bases(optimizer), "*"] if _torch_bases(optimizer) else ():
        bounds = BOUNDS.get((name, full))
        if bounds is not None and not bounds[0] <= float(value) <= bounds[1]:
            low, high = bounds
            words = [f">= {low:g}"] * (low > -math.inf) + [f"<= {high:g}"] * (high < math.inf)
            if full in ("beta1", "beta2"):
                words = [">= 0", "< 1"]
            raise HyperparameterError(
                f"{where} is {value!r}; allowed is a finite number {' and '.join(words)}"
            )


def check_effect(optimizer: Any, group: Any, new: Mapping[str, Any]) -> None:
    """Raise where torch's class would not use a new value, or could not.

    Args:
        optimizer: the optimizer.
        group: the group, with what it holds now.
        new: what is to be written, by full name.
    """
    bases = _torch_bases(optimizer)
    if not bases:
        return
    kind, names = bases[0], group.names.places

    def will_be(full: str, default: Any = None) -> Any:
        return new[full] if full in new else group.value(full) if full in names else default

    begun = any(optimizer.state.get(param) for param in group.store["params"])
    if kind == "Rprop" and "learning_rate" in new and begun:
        raise ValueError(
            f"{group.where('learning_rate')}: Rprop reads it at a parameter's first update only, so"
            " the change would do nothing: assign to view.state['*/step_size'], or begin anew with"
            " view.reset('*') first"
        )
    if kind == "Adagrad" and "initial_accumulator_value" in new:
        raise ValueError(
            f"{group.where('initial_accumulator_value')}: Adagrad reads it when it is constructed "
            "only, so the change would do nothing: construct another, or assign to "
            "view.state['*/accumulator']"
        )
    if kind == "SGD" and will_be("nesterov") is True and set(new) & {
        "nesterov", "momentum", "dampening"
    } and not (will_be("momentum", 0) > 0 and will_be("dampening", 0) == 0):  # fmt: skip
        raise ValueError(
            f"{group.name}: nesterov=True takes a momentum above 0 and a dampening of 0; they are "
            f"{will_be('momentum')!r} and {will_be('dampening')!r}: change these first"
        )
    if new.get("capturable") is True and any(
        param.device.type == "cpu" for param in group.store["params"]
    ):
        raise ValueError(
            f"{group.where('capturable')}: parameters on the CPU cannot be captured, and the next "
            "step would fail"
        )


def follow_in_state(optimizer: Any, store: Mapping[str, Any]) -> None:
    """Bring what a class of torch computed from hyperparameters for its next update up to date.

    ASGD keeps ``eta``, which it forms at the end of each update: without this a change would act
    one update late.
    """
    if "ASGD" not in _torch_bases(optimizer):
        return
    for param in store["params"]:
        held = optimizer.state.get(param)
        if held and "eta" in held and "step" in held:
            step, rate = float(held["step"]), float(store["lr"])
            decay = (1 + float(store["lambd"]) * rate * step) ** float(store["alpha"])
            if step > 0:
                held["eta"].fill_(rate / decay)
