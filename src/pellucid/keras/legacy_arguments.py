"""What a legacy optimizer's constructor takes, and which attributes are a subclass's own."""

from __future__ import annotations

from typing import Any

__all__ = ["Unset", "check_arguments", "declared_below"]

ARGUMENTS = ("clipnorm", "clipvalue", "global_clipnorm", "lr", "decay")


class Unset:
    """A class attribute that is not there until an instance sets it; Keras has a property here."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, instance: Any, owner: type) -> Any:
        if instance is None:
            return self
        raise AttributeError(
            f"{type(instance).__name__} has no {self.name!r}: set it in __init__ with "
            f"self._set_hyper({self.name!r}, value)."
        )


def declared_below(owner: type, base: type, name: str) -> bool:
    """Whether a subclass of `base` has a method or property of the name."""
    for parent in owner.__mro__:
        if parent is base:
            return False
        if name in vars(parent):
            return True
    return False


def check_arguments(owner: str, name: Any, given: dict[str, Any]) -> None:
    """Whether `Optimizer.__init__` can take its arguments."""
    if name is not None and not isinstance(name, str):
        raise TypeError(
            f"{owner}: the first argument of the legacy Optimizer's __init__ is its name, a "
            f"string; received {name!r}. Write super().__init__(name, **kwargs)."
        )
    for argument, value in given.items():
        if argument not in ARGUMENTS:
            raise TypeError(
                f"{owner}: unexpected argument {argument}={value!r}. The legacy Optimizer takes "
                f"{', '.join(ARGUMENTS)}, gradient_aggregator and gradient_transformers; a "
                "hyperparameter of a subclass is an argument of the subclass's __init__."
            )
        if value is not None and value < 0:
            raise ValueError(f"{owner}: {argument} must be at least 0; received {value!r}.")
    if given.get("clipnorm") is not None and given.get("global_clipnorm") is not None:
        raise ValueError(
            f"{owner}: clipnorm={given['clipnorm']} and global_clipnorm="
            f"{given['global_clipnorm']} exclude each other; give one."
        )
