"""The hyperparameters and options of Keras's optimizers: where they are, how they are written."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pellucid.declare import is_scalar_array
from pellucid.ops import is_number

__all__ = [
    "Leaf", "Setting", "around_settings", "count_of", "is_variable", "leaves_of", "number_of",
    "own_settings", "restorer", "settings_of",
]  # fmt: skip

RATE = "learning_rate"
STATE = frozenset(["step_counter", "dynamic_scale"])
"""Scalar variables that an optimizer of Keras counts in itself: state, not settings."""


def keras() -> Any:
    """Keras, which whoever has one of its optimizers has loaded."""
    return sys.modules["keras"]


def is_variable(value: Any) -> bool:
    return isinstance(value, keras().Variable)


def number_of(value: Any) -> float:
    """The number that an array of one holds: the shortest decimal that is rounded to it."""
    return float(str(_host(value).reshape(())[()]))


def _host(value: Any) -> Any:
    """A NumPy copy; of what a Variable holds, since its own `__array__` is of NumPy 1's form."""
    return keras().ops.convert_to_numpy(value.value if is_variable(value) else value)


def count_of(optimizer: Any) -> int:
    """Completed updates."""
    return int(_host(optimizer.iterations))


@dataclass(frozen=True)
class Setting:
    """One hyperparameter or option: an attribute of an optimizer."""

    owner: Any
    native: str
    attribute: str

    @property
    def raw(self) -> Any:
        """A plain value, a Variable, or what a learning rate follows."""
        return getattr(self.owner, self.attribute)

    @property
    def is_rate(self) -> bool:
        return self.attribute == "_learning_rate"

    @property
    def driver(self) -> Any:
        """The schedule or callable that a learning rate follows, or None."""
        raw = self.raw
        return raw if self.is_rate and callable(raw) and not is_variable(raw) else None

    @property
    def value(self) -> Any:
        """The number, also of a Variable; of a schedule that of the last update."""
        raw = self.raw
        if self.driver is not None:
            return self._driven(-1)
        return number_of(raw) if is_variable(raw) or is_scalar_array(raw) else raw

    @property
    def next_value(self) -> Any:
        """The number of the next update."""
        return self.value if self.driver is None else self._driven(0)

    def _driven(self, later: int) -> float:
        driver = self.driver
        if isinstance(driver, keras().optimizers.schedules.LearningRateSchedule):
            steps = int(_host(self.owner._iterations))
            found = driver(max(steps + later, 0))
        else:
            found = driver()
        return float(found) if is_number(found) else number_of(found)

    @property
    def place(self) -> tuple[int, str]:
        """What tells that two settings are the same."""
        return id(self.owner), self.attribute

    def write(self, value: Any) -> bool:
        """Put a checked value there; whether a compiled step has to be made anew to see it."""
        if self.is_rate and (self.driver is not None or callable(value)):
            swap_rate(self.owner, value)
            return True
        raw = self.raw
        if is_variable(raw):
            raw.assign(value)
            return False
        if raw is value or (type(raw) is type(value) and raw == value):
            return False
        setattr(self.owner, self.attribute, value)
        return True


@dataclass(frozen=True)
class Leaf:
    """An optimizer that updates variables itself, and those that stand around it, from outside."""

    optimizer: Any
    around: tuple[Any, ...]
    label: str  # of the variables that it updates, where there are several; else empty


def leaves_of(optimizer: Any, around: tuple[Any, ...] = (), label: str = "") -> Iterator[Leaf]:
    """The optimizers inside of Keras's LossScaleOptimizer and MultiOptimizer, or itself."""
    own = keras().optimizers
    inner = getattr(optimizer, "inner_optimizer", None)
    if isinstance(inner, own.Optimizer):
        yield from leaves_of(inner, (*around, optimizer), label)
        return
    several = getattr(own, "MultiOptimizer", None)
    if several is None or not isinstance(optimizer, several):
        yield Leaf(optimizer, around, label)
        return
    table = getattr(optimizer, "_optimizer_map", None)
    named = {}
    if isinstance(table, Mapping):
        default = getattr(table, "default_optimizer", None)
        named = {id(default): "default", **{id(each): key for key, each in table.items()}}
    for inner in optimizer.optimizers:
        yield from leaves_of(inner, (*around, optimizer), named.get(id(inner), ""))


def settings_of(leaf: Leaf) -> dict[str, Setting]:
    """All settings of an optimizer by Keras's name, those of what stands around it included."""
    return around_settings(own_settings(leaf.optimizer), leaf)


def around_settings(own: Mapping[str, Setting], leaf: Leaf) -> dict[str, Setting]:
    """An optimizer's settings, and those of what stands around it."""
    found = dict(own)
    for outer in reversed(leaf.around):
        if hasattr(outer, "inner_optimizer"):
            found.pop("loss_scale_factor", None)  # Keras sets it to None: it would scale twice
            found |= {
                name: Setting(outer, name, name)
                for name in outer.get_config()
                if _is_simple(getattr(outer, name, name == "name")) and name != "name"
            }
        elif "loss_scale_factor" in found:  # which a MultiOptimizer hands to all
            found["loss_scale_factor"] = Setting(outer, "loss_scale_factor", "loss_scale_factor")
    return found


def own_settings(optimizer: Any) -> dict[str, Setting]:
    """What `get_config` names and an attribute holds, and scalar Variables among attributes."""
    found = {}
    for name in _names(optimizer):
        if name == RATE and hasattr(optimizer, "_learning_rate"):
            found[name] = Setting(optimizer, name, "_learning_rate")
            continue
        for attribute in (name, f"_{name}"):
            if _is_simple(_attribute(optimizer, attribute)):
                found[name] = Setting(optimizer, name, attribute)
                break
    held = {setting.attribute for setting in found.values()}
    for attribute, value in vars(optimizer).items():
        hidden = attribute.startswith("_") or attribute in held or attribute in STATE
        if not hidden and _is_scalar(value) and "float" in str(value.dtype):
            found[attribute] = Setting(optimizer, attribute, attribute)
    return found


def _names(optimizer: Any) -> list[str]:
    """The names of the configuration; where that fails, of the constructor's parameters."""
    try:
        names = [*optimizer.get_config()]
    except Exception:  # a stranger's, or a learning rate that cannot be serialised
        made = [vars(base).get("__init__") for base in type(optimizer).__mro__[:-1]]
        given = [inspect.signature(one).parameters for one in made if one is not None]
        names = [*dict.fromkeys(name for one in given for name in one)]
    return [name for name in names if name not in ("name", "self", "args", "kwargs")]


_MISSING: Any = object()


def _attribute(optimizer: Any, name: str) -> Any:
    try:
        return getattr(optimizer, name, _MISSING)
    except Exception:  # a property of a stranger's
        return _MISSING


def _is_scalar(value: Any) -> bool:
    return is_variable(value) and tuple(value.shape) == ()


def _is_simple(value: Any) -> bool:
    if value is None or isinstance(value, (bool, int, float, str)):
        return True
    return _is_scalar(value) if is_variable(value) else is_scalar_array(value)


# -- numbers and schedules -----------------------------------------------------------------


def swap_rate(optimizer: Any, value: Any) -> None:
    """Put a number in a schedule's place, a schedule in a number's, or in another's.

    Keras itself refuses the first. The optimizer's variables are then those that an optimizer of
    its configuration has, in the same order, so that files fit.
    """
    from pellucid.keras.tracking import keep_only

    others = [one for one in optimizer._variables if one is not optimizer._learning_rate]
    made = value if callable(value) else _rate_variable(optimizer, value)
    if is_variable(made):
        at = next((n + 1 for n, v in enumerate(others) if v is optimizer._iterations), 0)
        others.insert(at, made)
    keep_only(optimizer, others)
    _put_rate(optimizer, made)


def _put_rate(optimizer: Any, rate: Any) -> None:
    del optimizer._learning_rate  # TensorFlow's checkpoints would go on to hold it
    optimizer._learning_rate = rate


def _rate_variable(optimizer: Any, number: float) -> Any:
    from keras.src import backend

    with backend.name_scope(optimizer.name, caller=optimizer):
        return keras().Variable(
            number,
            name=RATE,
            dtype=keras().config.floatx(),
            trainable=False,
            aggregation="only_first_replica",
        )


def restorer(setting: Setting) -> Callable[[], None]:
    """What puts a setting back as it is now: the same Variable, too."""
    from pellucid.keras.tracking import keep_only

    owner, raw = setting.owner, setting.raw
    number = number_of(raw) if is_variable(raw) else None
    variables = [*owner._variables]

    def restore() -> None:
        if setting.is_rate and setting.raw is not raw:
            keep_only(owner, variables)
            _put_rate(owner, raw)
        if number is not None:
            raw.assign(number)
        elif not setting.is_rate:
            setting.write(raw)

    return restore
