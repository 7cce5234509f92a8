"""One hyperparameter of a Keras optimizer: a tracked Variable, and what drives it.

A Variable is live in a compiled step on every backend, so each hyperparameter is one. A schedule
or a callable stands beside it; then the Variable holds what the last step used.
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import keras
import numpy
from keras.src import backend

from pellucid.declare import (
    Hyper,
    HyperparameterError,
    Option,
    Ref,
    check_value,
    is_scalar_array,
)
from pellucid.keras.namespaces import decimal
from pellucid.ops import is_number
from pellucid.schedules import Schedule

if TYPE_CHECKING:
    from pellucid.keras.optimizer import Optimizer

__all__ = [
    "Choice", "Hyperparameter", "HyperparameterVariable", "WithoutCount", "number_of", "on_host",
]  # fmt: skip


def number_of(value: Any) -> float:
    """The number that a float32 stands for: the shortest decimal that is rounded to it."""
    return float(str(on_host(value).reshape(())[()]))


def on_host(value: Any) -> Any:
    """A Variable's or an array's content as a NumPy array."""
    held = value.value if isinstance(value, keras.Variable) else value
    return numpy.asarray(keras.ops.convert_to_numpy(held))


@dataclass(frozen=True)
class WithoutCount:
    """A callable without arguments, as Keras has them for learning rates, as one of the step."""

    function: Callable[[], Any]

    def __call__(self, count: Any) -> float:
        return number_of(self.function())

    def get_config(self) -> dict[str, Any]:
        raise ValueError(f"{self.function!r} is a plain callable: it has no configuration")


def as_driver(value: Any) -> Any:
    """A callable as what is called with the number of completed updates."""
    if isinstance(value, (Schedule, keras.optimizers.schedules.LearningRateSchedule, Ref)):
        return value
    if not callable(value) or isinstance(value, type) or is_scalar_array(value):
        return value
    try:
        inspect.signature(value).bind(0)
    except TypeError:
        return WithoutCount(value)
    except ValueError:  # a builtin that tells no signature
        return value
    return value


class HyperparameterVariable(keras.Variable):  # type: ignore[misc]
    """A scalar Variable of Keras that checks what is assigned to it, and keeps a record."""

    def __init__(self, owner: Hyperparameter, number: float, name: str) -> None:
        self.owner = owner
        super().__init__(
            number,
            dtype=keras.config.floatx(),
            trainable=False,
            autocast=False,
            aggregation="only_first_replica",
            name=name,
        )

    def assign(self, value: Any) -> Any:
        """Set the hyperparameter: acts at the next step, compiled or not.

        Raises:
            HyperparameterError: the number is not allowed; the old one is kept.
        """
        if is_number(value) or isinstance(value, (numpy.ndarray, numpy.generic)):
            self.owner.set(float(value), "assignment")
        elif self.owner.by_machine(value):
            self.put(value)
        else:
            self.owner.set(number_of(value), "assignment")
        return self.value

    def assign_add(self, value: Any) -> Any:
        return self.assign(self.value + value)

    def assign_sub(self, value: Any) -> Any:
        return self.assign(self.value - value)

    def put(self, value: Any) -> None:
        """Set the Variable without more ado."""
        super().assign(value)


class Hyperparameter:
    """A number that updates read, for one or several groups of an optimizer.

    Args:
        optimizer: whose it is.
        declared: bounds and default.
        full, native: its names, canonical and Keras's.
        label: of the group or branch that it belongs to; empty for the optimizer's own.
        value: a number, a schedule, a callable of the step, a `ref`.
    """

    def __init__(
        self, optimizer: Optimizer, declared: Hyper, full: str, native: str, label: str, value: Any
    ) -> None:
        self.optimizer, self.declared = optimizer, declared
        self.full, self.native, self.label = full, native, label
        self.driver: Any = None
        self.target: Hyperparameter | None = None  # of a `ref`
        self._known: tuple[Any, Any, float] = (None, None, 0.0)
        value = check_value(declared, as_driver(value), self.where)
        if not is_number(value) and not is_scalar_array(value):
            self.driver = value
        first = 0.0 if isinstance(value, Ref) else value
        if self.driver is not None and not isinstance(value, Ref):
            first = number_of(value(0))
        with backend.name_scope(optimizer.name, caller=optimizer):
            self.variable = HyperparameterVariable(
                self, number_of(first) if is_scalar_array(first) else float(first), native
            )
        if label:
            self.variable._path = f"{optimizer.name}/{label}/{native}"
        self.seen = self.number if self.driver is None else None

    @property
    def where(self) -> str:
        """How errors name it."""
        place = f"{self.optimizer.name}/{self.label}/" if self.label else f"{self.optimizer.name}/"
        known = f" ({self.full!r})" if self.full != self.native else ""
        return f"{place}{self.native}{known}"

    @property
    def path(self) -> str:
        return str(self.variable.path)

    # -- reading ---------------------------------------------------------------------------

    @property
    def number(self) -> float:
        """The number that the Variable holds, as it was written: 0.999, not its float32."""
        held = self.variable._value
        version = getattr(held, "_version", None)  # torch's count of writes
        if version is None or self._known[:2] != (id(held), version):
            self._known = id(held), version, number_of(self.variable.value)
        return self._known[2]

    def at(self, updates: int) -> float:
        """The number of the update after ``updates`` completed ones, on the host."""
        if self.target is not None:
            return self.target.at(updates)
        if self.driver is None:
            return self.number
        number = number_of_call(self.driver, updates)
        if not self.declared.fits(number):
            self.declared.check(number, f"{self.where} from {self.driver!r} at step {updates}")
        return number

    def traced(self, xp: Any, updates: Any, real_updates: Any) -> Any:
        """The number in a step that may be compiled: float64 of shape ().

        Args:
            xp: the backend's namespace.
            updates: completed ones, a float64 of shape ().
            real_updates: Keras's iteration, which counts micro-batches, for Keras's schedules.
        """
        driver = self.driver
        if self.target is not None:
            return self.target.traced(xp, updates, real_updates)
        if driver is None:
            return xp.number(decimal(xp, keras.ops.convert_to_tensor(self.variable.value)))
        if isinstance(driver, Schedule):
            return xp.number(xp.wide(driver.value(updates, xp)))
        if isinstance(driver, keras.optimizers.schedules.LearningRateSchedule):
            return xp.number(xp.wide(keras.ops.convert_to_tensor(driver(real_updates))))
        return xp.number(xp.called(driver, updates))

    def by_machine(self, value: Any) -> bool:
        """Whether an array is written by a trainer or a program, not by a person at a prompt.

        JAX's trainer writes all Variables back when it synchronises; a traced value is checked
        when the step runs.
        """
        if keras.backend.backend() == "jax":
            return True
        if keras.backend.backend() == "tensorflow":
            import tensorflow as tf

            traced = tf.is_tensor(value) and not hasattr(value, "numpy")
            if traced and self.driver is not None:
                raise HyperparameterError(
                    f"{self.where} follows {self.driver!r}: inside a compiled function it cannot "
                    "be replaced by a number; assign the number outside"
                )
            return traced
        return False

    # -- changing --------------------------------------------------------------------------

    def set(self, value: Any, source: str, reason: str = "") -> None:
        """Check a value, write it, and put the change on record."""
        checked = check_value(self.declared, as_driver(value), self.where)
        self.optimizer.before_write()
        old = self.shown()
        if is_number(checked) or is_scalar_array(checked):
            number = number_of(checked) if is_scalar_array(checked) else float(checked)
            self.variable.put(number)
            self.seen = self.number
            if self.driver is not None:
                self.driver = self.target = None
                self.optimizer.restructured()
        else:
            before = self.driver, self.target
            self.driver, self.target = checked, None
            try:
                self.optimizer.core.resolve_refs()
                number = self.at(self.optimizer.updates)
            except Exception:
                self.driver, self.target = before
                raise
            self.variable.put(number)
            self.optimizer.restructured()
        self.optimizer.changed(self, old, source, reason)

    def shown(self) -> float:
        """The number that the journal has for now."""
        try:
            return self.at(self.optimizer.updates)
        except HyperparameterError:
            return self.number

    def fits(self, xp: Any, value: Any) -> Any:
        """Whether a traced number is within the bounds."""
        declared, good = self.declared, xp.isfinite(value)
        for bound, holds in (
            (declared.minimum, operator.ge),
            (declared.above, operator.gt),
            (declared.maximum, operator.le),
            (declared.below, operator.lt),
        ):
            if bound is not None:
                good = xp.logical_and(good, holds(value, bound))
        return good


def number_of_call(driver: Any, updates: int) -> float:
    """What a schedule gives for the update after ``updates`` completed ones."""
    value = driver(updates)
    return float(value) if is_number(value) else number_of(value)


@dataclass
class Choice:
    """An option: a structural choice, plain Python while a step is traced."""

    optimizer: Optimizer
    declared: Option
    full: str
    native: str
    label: str
    value: Any

    @property
    def where(self) -> str:
        place = f"{self.optimizer.name}/{self.label}/" if self.label else f"{self.optimizer.name}/"
        return f"{place}{self.native}"

    def set(self, value: Any, source: str, reason: str = "") -> None:
        """Check a choice, keep it, have compiled steps made anew, and record it."""
        checked = self.declared.check(value, self.where)
        if checked == self.value:
            return
        self.optimizer.before_write()
        old, self.value = self.value, checked
        try:
            self.optimizer.restructured()
        except Exception:
            self.value = old
            raise
        self.optimizer.changed(self, old, source, reason)

    def shown(self) -> Any:
        return self.value


def values_of(cells: Mapping[str, Hyperparameter], updates: int) -> dict[str, float]:
    """A group's numbers for the update after ``updates`` completed ones."""
    return {full: cell.at(updates) for full, cell in cells.items()}
