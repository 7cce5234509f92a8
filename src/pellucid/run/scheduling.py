"""Any hyperparameter on a schedule, or reduced when a metric stops improving; in plain loops.

What Keras's, Lightning's and Hugging Face's callbacks do, too. All goes through `pellucid.view`,
so it is checked, acts on the next step, and is on record in the journal with its reason.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pellucid.access import View, view
from pellucid.declare import HyperparameterError, is_scalar_array
from pellucid.run.plateau import Plateau, direction_of
from pellucid.schedules import Schedule

__all__ = [
    "HyperparameterScheduler", "ReduceOnPlateau", "Reduction", "Scheduled", "as_function",
    "check_by",
]  # fmt: skip

Function = Callable[[int, Any], float]


def as_function(schedule: Any) -> Function:
    """A schedule as a function of the count and the current value.

    Args:
        schedule: a `pellucid.schedules.Schedule`, one of Keras's, a function of the count (from
            0), or of count and current value, or a list (or array) of numbers, whose last value
            stays.

    Raises:
        TypeError: it is none of these.
    """
    if getattr(schedule, "ndim", None) == 1 and hasattr(schedule, "tolist"):
        schedule = schedule.tolist()
    if isinstance(schedule, Sequence) and not isinstance(schedule, (str, bytes)) and schedule:
        values = list(schedule)
        return lambda count, current: values[min(count, len(values) - 1)]
    if not callable(schedule) or isinstance(schedule, type):
        raise TypeError(
            f"schedule is {schedule!r}; allowed is one of pellucid.schedules or of Keras, a "
            "function of the count from 0 (or of count and current value), or a list of values"
        )
    of_one = isinstance(schedule, Schedule) or _takes(schedule, 1)
    if not of_one and not _takes(schedule, 2):
        raise TypeError(
            f"schedule is {schedule!r}, which takes neither one argument nor two; allowed is a "
            "function of the count from 0, or of count and current value"
        )
    if not of_one:
        return lambda count, current: _number(schedule(count, current))
    return lambda count, current: _number(schedule(count))


def _takes(function: Any, count: int) -> bool:
    try:
        inspect.signature(function).bind(*range(count))
    except TypeError:
        return False
    except ValueError:  # a builtin that tells no signature
        return count == 1
    return True


def _number(value: Any) -> Any:
    return float(value) if is_scalar_array(value) else value


def check_name(name: Any, reason: Any = "") -> None:
    """Raise for what is no path of a hyperparameter, or no reason."""
    if not isinstance(name, str) or not name:
        raise TypeError(f"name is {name!r}; allowed is a path, such as 'learning_rate'")
    if not isinstance(reason, str):
        raise TypeError(f"reason is {reason!r}; allowed is text")


def check_by(by: Any) -> str:
    """Raise for what a schedule cannot count."""
    if by not in ("epoch", "step"):
        raise ValueError(f"by is {by!r}; allowed are 'epoch' and 'step'")
    return str(by)


def current_values(table: View, name: str) -> dict[str, Any]:
    """The value of each group by its path."""
    from pellucid.access.patterns import find

    return {
        f"{one.selected.group.name}/{full}": one.selected.group.value(full)
        for one in find(table._source, name)
        for full in one.fulls
    }


class Scheduled:
    """Sets a hyperparameter from a schedule, where that gives another value than before.

    Args:
        name: its path in `pellucid.view`.
        schedule: what `as_function` takes.
        reason: for the journal; none gives ``"scheduled"``.
    """

    def __init__(self, name: str, schedule: Any, reason: str = "") -> None:
        check_name(name, reason)
        self.name, self.function, self.reason = name, as_function(schedule), reason or "scheduled"
        self._given: Any = None  # the last value
        self._became: list[Any] = []  # what that was when it was read: it may have been rounded

    def set(self, table: View, count: int) -> bool:
        """Write the value of a count; whether it is another than now."""
        now = list(current_values(table, self.name).values())
        value = self.function(count, now[0])
        stands = value == self._given and now == self._became
        if not stands and any(one != value for one in now):
            table.set(self.name, value, reason=self.reason)
            self._given = value
            self._became = list(current_values(table, self.name).values())
            return True
        return False


class HyperparameterScheduler:
    """Sets a hyperparameter from a schedule; `step` once an epoch, or once a step.

    The first value holds from the construction on. Each change is an entry of the journal: for
    one at each step give our own optimizers the schedule itself, ``view["beta1"] = schedule``.

    Args:
        optimizer: what `pellucid.view` takes.
        name: its path there, such as ``"beta1"`` or ``"group 1/weight_decay"``.
        schedule: what `as_function` takes; counts begin at 0.
        reason: for the journal; none gives ``"scheduled"``.
        scheduler: torch's, if one drives the rate besides; see `pellucid.view`.

    >>> import numpy, pellucid, pellucid.numpy
    >>> from pellucid.run.scheduling import HyperparameterScheduler
    >>> optimizer = pellucid.numpy.Optimizer({"weight": numpy.ones(2)}, pellucid.Adam())
    >>> schedule = HyperparameterScheduler(optimizer, "beta1", [0.8, 0.9], reason="warm")
    >>> schedule.step()
    >>> print(pellucid.view(optimizer).journal)
    step 1  group 0/beta1  0.9 → 0.8  (view: warm)
    step 1  group 0/beta1  0.8 → 0.9  (view: warm)
    """

    def __init__(
        self, optimizer: Any, name: str, schedule: Any, *, reason: str = "", scheduler: Any = None
    ) -> None:
        self.scheduled = Scheduled(name, schedule, reason)
        self.view = view(optimizer, scheduler=scheduler)
        self.count = 0
        self._set()

    def step(self, count: int | None = None) -> None:
        """Go on to the next value, or to that of a count."""
        self.count = self.count + 1 if count is None else count
        self._set()

    def _set(self) -> None:
        self.scheduled.set(self.view, self.count)

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.count}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.count = int(state["count"])
        self._set()


class Reduction:
    """Multiplies a hyperparameter by a factor when a metric stops improving.

    Args:
        name: its path in `pellucid.view`.
        factor: between 0 and 1.
        patience: so many metrics without an improvement are waited for.
        min_value: below it no group's value is reduced.
        mode: ``"min"`` where a smaller metric is better, ``"max"`` where a larger one is;
            ``"auto"`` goes by the metric's name.
        cooldown: so many metrics after a reduction do not count.
        min_delta: an improvement is larger than this.
        monitor: what the metric is called; the journal's reasons name it.
    """

    def __init__(
        self,
        name: str = "learning_rate",
        *,
        factor: float = 0.1,
        patience: int = 10,
        min_value: float = 0.0,
        mode: str = "auto",
        cooldown: int = 0,
        min_delta: float = 1e-4,
        monitor: str = "metric",
    ) -> None:
        check_name(name)
        if not isinstance(monitor, str) or not monitor:
            raise TypeError(f"monitor is {monitor!r}; allowed is the name of a metric")
        if not isinstance(factor, (int, float)) or not 0.0 < factor < 1.0:
            raise ValueError(f"factor is {factor!r}; allowed is a number between 0 and 1")
        for given, number in (("min_value", min_value), ("min_delta", min_delta)):
            if not isinstance(number, (int, float)) or number != number:
                raise ValueError(f"{given} is {number!r}; allowed is a number")
        self.name, self.factor, self.min_value, self.monitor = name, factor, min_value, monitor
        self.plateau = Plateau(direction_of(mode, monitor), patience, min_delta, cooldown)

    def step(self, table: View, metric: float) -> bool:
        """Take the next metric; whether the hyperparameter was reduced.

        Raises:
            HyperparameterError: it follows a schedule, or is no number.
            KeyError: there is no such hyperparameter.
        """
        values = current_values(table, self.name)  # a wrong name is told at once
        if not self.plateau.step(metric):
            return False
        waited = max(self.plateau.patience, 1)
        reason = (
            f"{self.monitor} has not improved from {self.plateau.best:g} for {waited} "
            f"{'look' if waited == 1 else 'looks'}"
        )
        reduced = False
        for path, value in values.items():
            driver = table.schedule(path)
            if callable(driver):
                raise HyperparameterError(
                    f"{path} follows {driver!r}, which a reduction would replace: give it a "
                    "number first"
                )
            if isinstance(value, (bool, str)) or value is None:
                raise HyperparameterError(f"{path} is {value!r}; allowed is a number to be reduced")
            new = max(value * self.factor, self.min_value)
            if new < value:
                table.set(path, new, reason=reason)
                reduced = True
        return reduced


class ReduceOnPlateau:
    """A `Reduction` of one optimizer, for plain loops: ``step(metric)`` after each evaluation.

    Args:
        optimizer: what `pellucid.view` takes.
        name, settings: as `Reduction` has them.
        scheduler: torch's, if one drives the rate besides; see `pellucid.view`.
    """

    def __init__(
        self, optimizer: Any, name: str = "learning_rate", *, scheduler: Any = None, **settings: Any
    ) -> None:
        self.reduction = Reduction(name, **settings)
        self.view = view(optimizer, scheduler=scheduler)
        current_values(self.view, name)  # a wrong name is told at once
        _ = self.view.journal  # some optimizers count no steps: it counts from now on

    def step(self, metric: Any) -> bool:
        """Take the next metric; whether the hyperparameter was reduced."""
        number = _number(metric)
        if not isinstance(number, (int, float)):
            raise TypeError(f"metric is {metric!r}; allowed is a number")
        return self.reduction.step(self.view, float(number))

    def state_dict(self) -> dict[str, Any]:
        return self.reduction.plateau.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.reduction.plateau.load_state_dict(dict(state))
