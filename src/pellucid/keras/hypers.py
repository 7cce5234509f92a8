"""One hyperparameter of a Keras optimizer: a tracked Variable, and what drives it.

A Variable is live in a compiled step on every backend, so each hyperparameter is one. A schedule
or a callable stands beside it; then the Variable holds what the last step used.
"""

from __future__ import annotations

import operator
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
from pellucid.keras.drivers import WithoutCount, as_driver, number_of_call
from pellucid.keras.host_values import number_of, plain_number
from pellucid.keras.hyper_variable import HyperparameterVariable, stored_dtype
from pellucid.keras.namespaces import decimal
from pellucid.keras.slots import decides_slots, missing_slots, undecided_slots
from pellucid.keras.tracing import eager
from pellucid.ops import is_number
from pellucid.schedules import Schedule

if TYPE_CHECKING:
    from pellucid.keras.optimizer import Optimizer

__all__ = ["Choice", "Hyperparameter", "note_written"]


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
        self._known: tuple[Any, float] = (None, 0.0)
        value = check_value(declared, as_driver(value), self.where)
        if not is_number(value) and not is_scalar_array(value):
            self.driver = value
        first = 0.0 if isinstance(value, Ref) else value
        if self.driver is not None and not isinstance(value, Ref):
            first = number_of(value(0))
        first = number_of(first) if is_scalar_array(first) else float(first)
        if not isinstance(value, Ref):
            self.check_stored(first)
        with backend.name_scope(optimizer.name, caller=optimizer):
            self.variable = HyperparameterVariable(self, first, native)
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
        raw = float(held) if keras.backend.backend() == "torch" else None
        if raw is None or raw != self._known[0]:
            self._known = raw, number_of(self.variable.value)
        return self._known[1]

    def check_stored(self, number: float) -> None:
        """Raise unless what the Variable will hold of a number is allowed, too.

        Raises:
            HyperparameterError: rounding leads out of the bounds, to infinity, or to 0.
        """
        with numpy.errstate(over="ignore", under="ignore"):
            rounded = float(numpy.dtype(stored_dtype()).type(number))
        if not self.declared.fits(rounded) or (rounded == 0.0) != (number == 0.0):
            raise HyperparameterError(
                f"{self.where} is {number!r}, which {stored_dtype()} rounds to {rounded!r}; "
                f"allowed is {self.declared.allowed()}: give a number that it can hold"
            )

    def at(self, updates: int) -> float:
        """The number of the update after ``updates`` completed ones, on the host."""
        if self.target is not None:
            return self.target.at(updates)
        if self.driver is None:
            number = self.number
            if not self.declared.fits(number):  # written past `assign`
                self.declared.check(number, self.where)
            return number
        number = number_of_call(self.driver, self.count_of(self.driver, updates))
        if not self.declared.fits(number):
            self.declared.check(number, f"{self.where} from {self.driver!r} at step {updates}")
        return number

    def count_of(self, driver: Any, updates: int) -> int:
        """What a driver is called with: Keras's own schedules count micro-batches, too."""
        each = self.optimizer.gradient_accumulation_steps or 1
        keras_own = isinstance(driver, keras.optimizers.schedules.LearningRateSchedule)
        return updates * each + each - 1 if keras_own else updates

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
        return xp.number(xp.called(self.called, updates))

    def called(self, updates: int) -> float:
        """What a function of the step gives in a compiled step, on the host; it goes on record."""
        from pellucid.keras.journal import note_call

        number = float(self.driver(updates))
        note_call(self, updates, number)
        return number

    def is_own_state(self, value: Any) -> bool:
        """Whether an array is what a jitted loop of a user's own has computed, on JAX.

        Such a loop writes the optimizer's state back; that must not replace what drives a value.

        Raises:
            HyperparameterError: it is another number than the one that a schedule gave.
        """
        if keras.backend.backend() != "jax" or self.driver is None or not hasattr(value, "devices"):
            return False
        driver, updates = self.target or self, self.optimizer.updates
        if isinstance(driver.driver, WithoutCount):
            return True
        known = [driver.number]
        if driver.driver is not None:
            counts = [driver.count_of(driver.driver, max(u, 0)) for u in (updates, updates - 1)]
            known += [number_of_call(driver.driver, count) for count in counts]
        if not any(numpy.isclose(float(value), one, rtol=1e-5) for one in known):
            raise HyperparameterError(
                f"{self.where} follows {self.driver!r}, and {float(value):g} is not what that "
                "gives now: to have a number instead, assign a Python number; state of another "
                "step needs that step's `iterations` first"
            )
        return True

    # -- changing --------------------------------------------------------------------------

    def set(self, value: Any, source: str, reason: str = "") -> None:
        """Check a value, write it, and put the change on record."""
        if not eager():
            self.set_in_program(value)
            return
        checked = check_value(self.declared, as_driver(plain_number(value, self)), self.where)
        self.optimizer.before_write()
        old = self.shown()
        if is_number(checked):
            self.check_stored(float(checked))
        before = self.driver, self.target
        number = self.number
        try:
            self._set_checked(checked)
        except Exception:
            self.driver, self.target = before
            self.variable.put(number)
            self.optimizer.core.resolve_refs()
            raise
        note_written(self)
        self.optimizer.changed(self, old, source, reason)

    def _set_checked(self, value: Any) -> None:
        if is_number(value):
            self.variable.put(float(value))
            self.seen = self.number
            if self.driver is not None:
                self.driver = self.target = None
                self.optimizer.restructured(f"{self.where} is a number")
            elif self.lacks_slots():
                self.optimizer.restructured(f"{self.where} needs more slots")
            return
        self.driver, self.target = value, None
        self.optimizer.core.resolve_refs()
        self.variable.put(self.at(self.optimizer.updates))
        self.optimizer.restructured(f"{self.where} follows {value!r}")

    def set_in_program(self, value: Any) -> None:
        """Write a number each time that a compiled program runs, in which this is called.

        Its bounds are looked at by the step that reads it.

        Raises:
            HyperparameterError: what cannot change in a compiled program.
        """
        if isinstance(value, keras.Variable):
            value = value.value
        outside = "inside a compiled function that cannot change: assign it outside"
        if self.driver is not None:
            raise HyperparameterError(f"{self.where} follows {self.driver!r}; {outside}")
        if self.lacks_slots(some_number=True):
            raise HyperparameterError(
                f"{self.where} decides which slots there are, and some are missing; {outside}"
            )
        if not hasattr(value, "dtype"):
            value = check_value(self.declared, value, self.where)
        if callable(value):
            raise HyperparameterError(f"{self.where} is {value!r}; {outside}")
        if numpy.prod(tuple(getattr(value, "shape", ())), dtype=int) != 1:
            raise HyperparameterError(f"{self.where} is {value!r}; allowed is one number")
        if hasattr(value, "dtype"):
            value = keras.ops.reshape(keras.ops.cast(value, self.variable.dtype), ())
        self.variable.put(value)

    def lacks_slots(self, some_number: bool = False) -> bool:
        """Whether slots should exist, by this number, and do not.

        Args:
            some_number: ask for any number that this may become in a compiled program.
        """
        core = self.optimizer.core
        if not self.optimizer.built or not decides_slots(core, self.full):
            return False
        return undecided_slots(core, self.full) if some_number else bool(missing_slots(core))

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


def note_written(setting: Hyperparameter | Choice) -> None:
    """Remember what is set between a load and the build for which it waits."""
    beside = setting.optimizer.pellucid
    if beside.waiting is not None and setting not in beside.written:
        beside.written.append(setting)


@dataclass(eq=False)
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
        if not eager():
            raise HyperparameterError(
                f"{self.where} cannot change inside a compiled function: assign it outside"
            )
        self.optimizer.before_write()
        old, self.value = self.value, checked
        try:
            self.optimizer.restructured(f"{self.where} is {checked!r}")
        except Exception:
            self.value = old
            raise
        note_written(self)
        self.optimizer.changed(self, old, source, reason)

    def shown(self) -> Any:
        return self.value
