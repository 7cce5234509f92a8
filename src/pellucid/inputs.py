"""What a user hands to a step beside gradients, checked: functions of pairs, and extra inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

__all__ = ["check_extras", "check_list", "transformed"]


def transformed(
    function: Callable[..., Any],
    pairs: list[tuple[Any, Any]],
    name_of: Callable[[Any], str | None],
    noun: str = "parameter",
) -> list[tuple[Any, Any]]:
    """What a plain function makes of (gradient, parameter) pairs; what it leaves out is skipped.

    Args:
        name_of: a parameter's name; None of what is no parameter.
        noun: what the framework calls a parameter.

    Raises:
        TypeError, ValueError: the function gave no pairs, or foreign or doubled ones.
    """
    name = getattr(function, "__name__", repr(function))
    allowed, seen = {id(param) for _, param in pairs}, set[int]()
    made = function(list(pairs))
    if not isinstance(made, Iterable):
        raise TypeError(
            f"the gradient transformer {name} gave {type(made).__name__}; allowed is a list of "
            f"(gradient, {noun}) pairs: return it"
        )
    kept = []
    for pair in made:
        if not isinstance(pair, tuple) or len(pair) != 2:
            raise TypeError(
                f"the gradient transformer {name} gave {type(pair).__name__}; allowed is a list "
                f"of (gradient, {noun}) pairs"
            )
        gradient, param = pair
        if id(param) not in allowed:
            known = name_of(param)
            what = "a foreign array" if known is None else repr(known)
            raise ValueError(
                f"the gradient transformer {name} gave a pair for {what}, which it was not given: "
                f"keep the {noun}s that came in, matched by identity"
            )
        if id(param) in seen:
            raise ValueError(
                f"the gradient transformer {name} gave two pairs for {name_of(param)!r}"
            )
        seen.add(id(param))
        if gradient is not None:
            kept.append((gradient, param))
    return kept


def check_extras(call: str, wanted: Mapping[str, str], given: Mapping[str, Any]) -> None:
    """Raise unless a call is given just the extra inputs that the stages declare.

    Args:
        call: what takes them: ``step`` or ``apply``.
        wanted: name and shape of each that is declared.
    """
    for name in given:
        if name not in wanted:
            known = ", ".join(wanted) or "none"
            raise TypeError(f"{call} has no input {name!r} (declared by the stages: {known})")
    for name in wanted:
        if name not in given:
            raise TypeError(f"{call} needs {name}=..., an input that the stages declare")


def check_list(
    name: str, given: Any, params: Sequence[Any], name_of: Callable[[Any], str], noun: str
) -> None:
    """Raise unless an extra input is a list of one array for each parameter; see `transformed`."""
    if not isinstance(given, Sequence) or isinstance(given, (str, bytes)):
        raise TypeError(
            f"{name} is {type(given).__name__}; allowed is a list of arrays, one for each {noun} "
            "that the optimizer was built with, in that order"
        )
    if len(given) != len(params):
        shown = ", ".join(map(name_of, params[:8])) + (", ..." if len(params) > 8 else "")
        raise ValueError(
            f"{name} is a list of length {len(given)}; allowed is {len(params)}: one array for "
            f"each {noun} that the optimizer was built with, in that order ({shown})"
        )
