"""One hyperparameter of a Keras optimizer: a tracked Variable, and what drives it.

A Variable is live in a compiled step on every backend, so each hyperparameter is one. A schedule
or a callable stands beside it; then the Variable holds what the last step used.
"""

from __future__ import annotations

import inspect
import operator
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import keras
import numpy
from keras.src import backend
from keras.src.backend.common.stateless_scope import in_stateless_scope

from pellucid.declare import (
    Hyper,
    HyperparameterError,
    Option,
    Ref,
    check_value,
    is_scalar_array,
)
from pellucid.keras.distributed import one_copy
from pellucid.keras.namespaces import decimal
from pellucid.ops import is_number
from pellucid.schedules import Schedule

if TYPE_CHECKING:
    from pellucid.keras.optimizer import Optimizer

__all__ = [
    "Choice", "Hyperparameter", "HyperparameterVariable", "WithoutCount", "number_of", "on_host",
]  # fmt: skip


def as_it_is(function: Any) -> Any:
    """A method that compiled code calls as it is.

    A user's `tf.function` rewrites others; `torch.compile` would trace the interpreter, for
    minutes, instead of calling the fused kernel.
    """
    if keras.backend.backend() == "torch":
        import torch

        return torch._disable_dynamo(function)  # type: ignore[attr-defined]
    if keras.backend.backend() != "tensorflow":
        return function
    import tensorflow as tf

    return tf.autograph.experimental.do_not_convert(function)


def number_of(value: Any) -> float:
    """The number that a float32 stands for: the shortest decimal that is rounded to it."""
    return float(str(on_host(value).reshape(())[()]))


def on_host(value: Any) -> Any:
    """A Variable's or an array's content as a NumPy array."""
    held = value.value if isinstance(value, keras.Variable) else value
    return numpy.asarray(keras.ops.convert_to_numpy(one_copy(held)))


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
            dtype=stored_dtype(),
            trainable=False,
            autocast=False,
            aggregation="only_first_replica",
            name=name,
        )

    @property
    def value(self) -> Any:
        """The number as the backend's array; in a running `fit` on JAX, the trainer's."""
        if self._value is None and not in_stateless_scope():
            self.owner.optimizer.before_write()
        return super().value

    @property
    def donated(self) -> bool:
        """Whether a jitted step of JAX took the array and has not given it back."""
        deleted = getattr(self._value, "is_deleted", None)
        return deleted is not None and bool(deleted())

    @as_it_is
    def assign(self, value: Any) -> Any:
        """Set the hyperparameter: acts at the next step, compiled or not.

        Raises:
            HyperparameterError: the number is not allowed; the old one is kept.
        """
        if self.owner.optimizer.applying:  # Keras chooses between old and new state on JAX
            self.put(value)
        elif in_program():
            self.owner.set_in_program(value)
        elif self.donated:  # nobody can tell what it was
            number = self.owner.declared.check(plain_number(value, self.owner), self.owner.where)
            self.put(number)
            self.owner.seen = number
        elif _by_trainer() or self.owner.is_own_state(value):
            self.put(value)
        else:
            self.owner.set(plain_number(value, self.owner), "assignment")
        return self.value

    @as_it_is
    def assign_add(self, value: Any) -> Any:
        return self.assign(self.value + value)

    @as_it_is
    def assign_sub(self, value: Any) -> Any:
        return self.assign(self.value - value)

    def put(self, value: Any) -> None:
        """Set the Variable without more ado."""
        if keras.backend.backend() == "jax":  # a weak type would have a jitted step traced anew
            from jax.lax import convert_element_type

            value = convert_element_type(value, self.dtype)
        super().assign(value)


def stored_dtype() -> str:
    """The type of a hyperparameter's Variable: never a 16-bit one, in which 0.999 is 1."""
    wide = keras.config.floatx() == "float64"
    if wide and keras.backend.backend() == "jax":
        import jax

        wide = bool(jax.config.jax_enable_x64)
    return "float64" if wide else "float32"


def in_program() -> bool:
    """Whether a step is being traced: what is written now is written each time that it runs."""
    if in_stateless_scope():
        return True
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return not tf.executing_eagerly()
    return False


def _by_trainer() -> bool:
    """Whether Keras's trainer on JAX writes its state back: values that were checked before."""
    if keras.backend.backend() != "jax":
        return False
    from keras.src.backend.jax.trainer import JAXTrainer

    frame: Any = sys._getframe(2)
    code = JAXTrainer.jax_state_sync.__code__
    return any(
        caller is not None and caller.f_code is code for caller in (frame, frame.f_back)
    )


def plain_number(value: Any, owner: Hyperparameter) -> Any:
    """The number that a Variable or an array stands for; anything else as it is.

    Raises:
        HyperparameterError: an array of several numbers, or of none.
    """
    if isinstance(value, keras.Variable):
        value = value.value
    if isinstance(value, (list, tuple)) or (
        hasattr(value, "dtype") and not callable(value) and not isinstance(value, type)
    ):
        array = numpy.asarray(value) if isinstance(value, (list, tuple)) else on_host(value)
        if array.size != 1 or (
            array.dtype.kind not in "iuf" and str(array.dtype) != "bfloat16"
        ):
            raise HyperparameterError(
                f"{owner.where} is {value!r:.80}; allowed is one number: "
                f"{owner.declared.allowed()}"
            )
        return number_of(array)
    return value


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
        if in_program():
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
        if not self.optimizer.built or not core.decides_slots(self.full):
            return False
        return core.undecided_slots(self.full) if some_number else bool(core.missing_slots())

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
        if in_program():
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


def values_of(cells: Mapping[str, Hyperparameter], updates: int) -> dict[str, float]:
    """A group's numbers for the update after ``updates`` completed ones."""
    return {full: cell.at(updates) for full, cell in cells.items()}
