"""What a stage declares: hyperparameters, options, slots and extra inputs.

A declaration knows its name, its bounds and how to check a value, and nothing of where values
live.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pellucid.ops import RuleError, is_number

if TYPE_CHECKING:
    from pellucid.rule import Stage

REQUIRED: Any = type("Required", (), {"__repr__": lambda self: "<required>"})()


class HyperparameterError(ValueError):
    """A hyperparameter or an option was given a value that it does not accept."""


class UndeclaredError(RuleError, AttributeError):
    """A stage was asked for something that its class does not declare."""


@dataclass(frozen=True)
class Ref:
    """The value of another hyperparameter of the same group: see `ref`."""

    name: str


Value = float | Callable[[int], float] | Ref | Any
"""What a hyperparameter takes: a number, a schedule or a callable of the step, a `ref`, or a
scalar array of a framework."""


def ref(name: str) -> Ref:
    """Tie a hyperparameter, or a slot's first value, to the hyperparameter ``name``.

    >>> ref("learning_rate")
    Ref(name='learning_rate')
    """
    if not isinstance(name, str) or not name:
        raise TypeError(f"ref takes the name of a hyperparameter, got {name!r}")
    return Ref(name)


@dataclass(frozen=True)
class Condition:
    """When a slot exists: a comparison of one hyperparameter with a number."""

    hyper: Hyper
    holds: Callable[[Any], bool]
    comparison: str

    @property
    def name(self) -> str:
        return self.hyper.name  # known once the class body has ended

    @property
    def text(self) -> str:
        return f"{self.name} {self.comparison}"

    def __bool__(self) -> bool:
        raise RuleError(f"the condition `{self.text}` is for slot(when=...), not for Python's if")


class Declaration:
    """What a stage's class body may declare; knows its own name."""

    name: str = ""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def read(self, stage: Stage) -> Any:
        raise NotImplementedError

    def __get__(self, stage: Stage | None, owner: type) -> Any:
        return self if stage is None else self.read(stage)

    def __set__(self, stage: Stage, value: Any) -> None:
        raise RuleError(
            f"{type(stage).__name__}.{self.name} is not assigned: a stage is a description. "
            f"Construct another, {type(stage).__name__}({self.name}={value!r}), or change the "
            f"optimizer that runs: pellucid.view(optimizer)[{self.name!r}] = ..."
        )


class Hyper(Declaration):
    """A number that the update reads; made by `hyper`."""

    def __init__(
        self,
        default: Any,
        minimum: float | None,
        above: float | None,
        maximum: float | None,
        below: float | None,
        doc: str,
    ) -> None:
        self.default = default
        self.minimum, self.above, self.maximum, self.below = minimum, above, maximum, below
        self.__doc__ = self.doc = doc
        if is_number(default):
            self.check(default, "the default of a hyper()")

    def allowed(self) -> str:
        """What values are allowed, in words."""
        bounds = [
            f"{sign} {bound:g}"
            for sign, bound in (
                (">=", self.minimum),
                (">", self.above),
                ("<=", self.maximum),
                ("<", self.below),
            )
            if bound is not None
        ]
        return " and ".join(["a finite number", *bounds])

    def check(self, value: float, where: str) -> float:
        """The value as a float, or a `HyperparameterError` that begins with ``where``."""
        try:
            number = float(value)
        except OverflowError:  # a whole number beyond float64
            number = math.inf
        if self.fits(number):
            return number
        raise HyperparameterError(f"{where} is {value!r:.60}; allowed is {self.allowed()}")

    def fits(self, number: float) -> bool:
        """Whether a number is finite and within the bounds."""
        return (
            math.isfinite(number)
            and (self.minimum is None or number >= self.minimum)
            and (self.above is None or number > self.above)
            and (self.maximum is None or number <= self.maximum)
            and (self.below is None or number < self.below)
        )

    def read(self, stage: Stage) -> Any:
        return stage._read_hyper(self)

    def _compare(self, sign: str, other: Any, holds: Callable[[Any], bool]) -> Condition:
        if not is_number(other):
            raise TypeError(f"a hyperparameter's condition compares with a number, got {other!r}")
        return Condition(self, holds, f"{sign} {other:g}")

    __hash__ = object.__hash__

    def __ne__(self, other: object) -> Any:
        return self._compare("!=", other, lambda value: value != other)

    def __eq__(self, other: object) -> Any:
        if isinstance(other, Hyper):
            return self is other
        return self._compare("==", other, lambda value: value == other)

    def __gt__(self, other: float) -> Condition:
        return self._compare(">", other, lambda value: bool(value > other))

    def __lt__(self, other: float) -> Condition:
        return self._compare("<", other, lambda value: bool(value < other))


class Option(Declaration):
    """A structural choice; made by `option`."""

    def __init__(self, default: Any, choices: tuple[Any, ...], doc: str) -> None:
        self.default, self.choices = default, choices
        self.__doc__ = self.doc = doc

    def allowed(self) -> str:
        """What values are allowed, in words."""
        return "one of " + ", ".join(repr(choice) for choice in self.choices)

    def check(self, value: Any, where: str) -> Any:
        """The value, or a `HyperparameterError` that begins with ``where``."""
        for choice in self.choices:
            if value == choice and isinstance(value, bool) == isinstance(choice, bool):
                return choice
        raise HyperparameterError(f"{where} is {value!r}; allowed is {self.allowed()}")

    def read(self, stage: Stage) -> Any:
        return stage._read_option(self)


SlotShape = (
    Literal["param", "row", "column", "scalar"] | Callable[[tuple[int, ...]], tuple[int, ...]]
)


class Slot(Declaration):
    """State of the optimizer; made by `slot`."""

    def __init__(
        self,
        init: Any,
        shape: SlotShape,
        dtype: str | None,
        when: Condition | Option | None,
        scope: Literal["parameter", "optimizer"],
        doc: str,
    ) -> None:
        self.init, self.shape, self.dtype, self.scope = init, shape, dtype, scope
        self.when = when
        self.__doc__ = self.doc = doc

    def read(self, stage: Stage) -> Any:
        return stage._inside(self.name).slot(self)

    def __set__(self, stage: Stage, value: Any) -> None:
        stage._inside(self.name).assign(self, value)

    def present(self, values: Mapping[str, Any]) -> bool:
        """Whether the slot exists, given hyperparameters' numbers (or True) and options."""
        if self.when is None:
            return True
        if isinstance(self.when, Option):
            return bool(values[self.when.name])
        value = values[self.when.name]
        return True if value is None else self.when.holds(value)


class Extra(Declaration):
    """An input of the step beside gradients; made by `extra`."""

    def __init__(self, shape: Literal["param", "scalar"], doc: str) -> None:
        self.shape = shape
        self.__doc__ = self.doc = doc

    def read(self, stage: Stage) -> Any:
        return stage._inside(self.name).extra(self)


def hyper(
    default: Any = REQUIRED,
    *,
    minimum: float | None = None,
    above: float | None = None,
    maximum: float | None = None,
    below: float | None = None,
    doc: str = "",
) -> Any:
    """Declare a hyperparameter: a number that the update reads, and that is always live.

    Args:
        default: a number, a schedule or a `ref`; without one the argument is required.
        minimum, above, maximum, below: bounds; ``minimum`` and ``maximum`` are allowed values.
        doc: one sentence for ``help``.
    """
    return Hyper(default, minimum, above, maximum, below, doc)


def option(default: Any, *, choices: tuple[Any, ...] = (False, True), doc: str = "") -> Any:
    """Declare a structural choice: a plain Python value in ``update``; a change re-traces.

    Args:
        default: the choice that holds unless another is given.
        choices: all that is allowed.
        doc: one sentence for ``help``.
    """
    if default not in choices:
        raise HyperparameterError(f"the default {default!r} of an option() is none of {choices!r}")
    return Option(default, tuple(choices), doc)


def slot(
    init: Any = 0.0,
    *,
    shape: SlotShape = "param",
    dtype: Literal["float32", "float64"] | None = None,
    when: Any = None,
    scope: Literal["parameter", "optimizer"] = "parameter",
    doc: str = "",
) -> Any:
    """Declare state that is kept from one update to the next.

    Args:
        init: the value before a parameter's first update: a number, ``"param"``, ``"grad"`` (as
            this stage receives them), a `ref` to a hyperparameter, or a function of
            (stage, param, grad), written with `pellucid.ops`.
        shape: ``"param"``; ``"row"``: (n, 1, ...), one value for each ``param[i]``; ``"column"``:
            (1, ...), one for each ``param[:, j, ...]``; ``"scalar"``: (); or a function from the
            parameter's shape to the slot's, which must be one of these.
        dtype: the storage's type; None is the parameter's.
        when: a condition, such as ``momentum != 0``, or an option: the slot is absent until it
            first holds. Ask ``self.has("name")`` before using such a slot.
        scope: ``"optimizer"``: one number shared by all parameters that the stage updates.
        doc: one sentence for ``help``.
    """
    if not (is_number(init) or isinstance(init, Ref) or init in ("param", "grad")):
        if not callable(init):
            raise RuleError(
                f"slot(init={init!r}): allowed is a number, 'param', 'grad', ref(...) or a "
                "function of (stage, param, grad)"
            )
        if scope == "optimizer":
            raise RuleError("slot(scope='optimizer') starts at a number or at ref(...)")
    if not callable(shape) and shape not in ("param", "row", "column", "scalar"):
        raise RuleError(
            f"slot(shape={shape!r}): allowed is 'param', 'row', 'column', 'scalar' or a function "
            "from the parameter's shape to one of these shapes"
        )
    if dtype not in (None, "float32", "float64"):
        raise RuleError(f"slot(dtype={dtype!r}): allowed is None, 'float32' or 'float64'")
    if when is not None and not isinstance(when, (Condition, Option)):
        raise RuleError(
            f"slot(when={when!r}): allowed is a comparison of a declared hyperparameter with a "
            "number, such as `momentum != 0`, or a declared option"
        )
    if scope not in ("parameter", "optimizer"):
        raise RuleError(f"slot(scope={scope!r}): allowed is 'parameter' or 'optimizer'")
    return Slot(init, shape, dtype, when, scope, doc)


def extra(shape: Literal["param", "scalar"] = "param", *, doc: str = "") -> Any:
    """Declare an input that is passed to ``step`` by its name, such as a Hessian estimate.

    Args:
        shape: ``"param"``: one array for each parameter; ``"scalar"``: one number, such as the
            loss.
        doc: one sentence for ``help``.
    """
    if shape not in ("param", "scalar"):
        raise RuleError(f"extra(shape={shape!r}): allowed is 'param' or 'scalar'")
    return Extra(shape, doc)


def is_scalar_array(value: Any) -> bool:
    """Whether a value is a framework's array of one number (NumPy, torch, Keras, JAX)."""
    if isinstance(value, (str, bytes)) or not hasattr(value, "dtype"):
        return False
    return all(extent == 1 for extent in value.shape)


def check_value(declared: Hyper, value: Any, where: str) -> Any:
    """A hyperparameter's value as it is kept: a float, or what drives it, if it is allowed.

    A scalar array stays what it is, after its number was checked; so does anything callable
    (whose first value is checked if it takes an update's number) and a `Ref`.
    """
    if is_number(value):
        return declared.check(value, where)
    if is_scalar_array(value):
        declared.check(value, where)
        return value
    if isinstance(value, Ref):
        return value
    if callable(value) and not isinstance(value, type):
        try:
            first = float(value(0))
        except Exception as error:
            raise HyperparameterError(
                f"{where} is {value!r}, which fails for update 0: {error!r}. A schedule takes the "
                "number of completed updates and gives a number"
            ) from error
        declared.check(first, f"{where}, {value!r} at step 0,")
        return value
    raise HyperparameterError(
        f"{where} is {value!r}; allowed is {declared.allowed()}, a schedule, a callable of the "
        "step, a scalar array or ref(...)"
    )


@dataclass(frozen=True)
class Foreign:
    """How a framework describes its own schedules and functions."""

    plain: Callable[[Any, str], Any]  # (value, where); None: it has nothing to say of that
    revived: Callable[[Any], Any]


FOREIGN: ContextVar[Foreign | None] = ContextVar("FOREIGN", default=None)
"""What a framework sets while it writes or reads a configuration of its own."""


def plain_value(value: Any, where: str) -> Any:
    """A hyperparameter's value as plain JSON data; `revive` reads it back."""
    if is_number(value):
        return value
    foreign = FOREIGN.get()
    found = None if foreign is None else foreign.plain(value, where)
    if found is not None:
        return {"foreign": found}
    if is_scalar_array(value):
        return float(value)
    if isinstance(value, Ref):
        return {"ref": value.name}
    if hasattr(value, "get_config"):
        return {"schedule": value.get_config()}
    name, module = getattr(value, "__qualname__", ""), getattr(value, "__module__", "")
    if name and "<" not in name and module in sys.modules:
        return {"function": f"{module}:{name}"}
    raise ValueError(
        f"{where} is {value!r}, which has no configuration: use a schedule of "
        "pellucid.schedules, or a function defined at the top level of a module"
    )


def revive(value: Mapping[str, Any]) -> Any:
    """What `plain_value` described: nothing is imported for it."""
    if "ref" in value:
        return Ref(value["ref"])
    if "foreign" in value:
        foreign = FOREIGN.get()
        if foreign is None:
            raise LookupError(f"{value['foreign']!r:.80} is a framework's own: load it with that")
        return foreign.revived(value["foreign"])
    if "schedule" in value:
        from pellucid.schedules import schedule_from_config

        return schedule_from_config(value["schedule"])
    if "keras" in value:  # a schedule of Keras's, in its own form
        made: Any = sys.modules.get("pellucid.keras.journal")
        if made is None:
            raise LookupError("a schedule of Keras's is read by pellucid.keras: import it first")
        return made.schedule_of_keras(value["keras"])
    module, _, name = value["function"].partition(":")
    found: Any = sys.modules.get(module)
    if found is None:
        raise LookupError(f"the function {module}:{name} is not known here: import {module} first")
    for part in name.split("."):
        found = getattr(found, part)
    return found
