"""A log of all hyperparameters of an optimizer as they are at each step, for a plain loop."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from types import TracebackType
from typing import Any, Self

from pellucid.access import view
from pellucid.changes import Change
from pellucid.declare import is_scalar_array
from pellucid.run.live_values import LiveValues, source_parts
from pellucid.run.plain import MASK, is_secret, plain
from pellucid.run.sinks import Terminal, adapt

__all__ = ["Logger", "check_every", "check_own", "flat_statistics"]

HYPERPARAMETERS, STATISTICS = "hyperparameters/", "statistics/"
"""How the names of values begin; a metric's name is as it is given."""


class Logger:
    """Hands hyperparameters, changes of them and metrics to sinks, at each call of `log`.

    A hyperparameter is ``hyperparameters/<path>``, its path being the view's; a metric has its own
    name; a statistic is ``statistics/<parameter>/<name>``. Values are read when `log` is called:
    of a schedule, the number that the last update used. An optimizer of Keras that is not built
    yet is waited for: until it is, metrics are passed on alone.

    Args:
        optimizer: what `pellucid.view` takes; also a list of several.
        sinks: where it goes: `Terminal`, `TensorBoard`, `CSV`, `JSONL`, what `adapt` takes, such as
            a run of W&B, ``mlflow`` or a logger of Lightning, or anything with
            ``log(step, values)``. Without any, `Terminal`.
        every: pass on the first call of `log` and each so manieth after it.
        statistics: with the first call and each so manieth after it, the view's statistics, too.
        hyperparameters: values of your own, by name; callables in it are called each time.
        model, scheduler: as `pellucid.view` takes them.

    >>> import numpy, pellucid, pellucid.numpy
    >>> from pellucid.run.logger import Logger
    >>> optimizer = pellucid.numpy.Optimizer({"weight": numpy.ones(2)}, pellucid.SGD(0.1))
    >>> seen = []
    >>> with Logger(optimizer, lambda step, values: seen.append((step, values))) as logger:
    ...     _ = optimizer.step([numpy.ones(2)])
    ...     logger.log(loss=0.5)
    >>> seen[0][0], seen[0][1]["hyperparameters/Optimizer/learning_rate"], seen[0][1]["loss"]
    (1, 0.1, 0.5)
    """

    def __init__(
        self,
        optimizer: Any,
        *sinks: Any,
        every: int = 1,
        statistics: int | None = None,
        hyperparameters: Mapping[str, Any] | None = None,
        model: Any = None,
        scheduler: Any = None,
    ) -> None:
        self.every = _count("every", every)
        self.statistics = None if statistics is None else _count("statistics", statistics)
        self.hyperparameters = check_own(hyperparameters)
        adapted = [adapt(one) for one in sinks]  # before a journal is attached to anything
        if isinstance(optimizer, (list, tuple)) and len(optimizer) == 1:
            optimizer = optimizer[0]
        self.view = view(optimizer, model, scheduler)
        self.sinks = adapted or [Terminal()]
        self._log_to = [sink.log for sink in self.sinks]
        self._change_to = _methods(self.sinks, "change")
        every_one = optimizer if isinstance(optimizer, (list, tuple)) else [optimizer]
        self._waits_for = [one for one in every_one if not getattr(one, "built", True)]
        self._sources = [source for source, _ in source_parts(self.view)]
        self._live = LiveValues(self.view, HYPERPARAMETERS)
        self._changes = [_Changes(one, label) for one, label in source_parts(self.view)]
        self._calls = 0
        self._told = False  # the initial values were handed on

    def log(self, step: int | None = None, **metrics: Any) -> None:
        """Hand everything on as it is now.

        Args:
            step: its number; None takes the optimizer's completed updates.
            metrics: numbers by name. Names that are no Python names: ``log(**{"val/loss": 0.5})``.
        """
        number, self._calls = self._calls, self._calls + 1
        if number % self.every:
            return
        values = self._values()
        for name, value in metrics.items():
            kind = type(value)
            values[name] = value if kind is float or kind is int else _number(value)
        if self.statistics is not None and number % self.statistics == 0 and self._ready:
            values.update(flat_statistics(self.view.statistics()))
        at = self.step if step is None else _step(step)
        if not self._told and self._ready:
            self._tell_initial(values)
        self._hand_changes()
        for log in self._log_to:
            log(at, values)

    @property
    def step(self) -> int:
        """Completed updates of the optimizer; where nobody counts them, calls of `log`."""
        if not self._ready:
            return 0
        counted = [source.updates for source, one in zip(self._sources, self._changes, strict=True)
                   if one.kept]
        return int(max(counted)) if counted else self._calls

    @property
    def _ready(self) -> bool:
        """Whether every optimizer is built."""
        if self._waits_for:
            self._waits_for = [one for one in self._waits_for if not one.built]
        return not self._waits_for

    def _values(self) -> dict[str, Any]:
        """A new dict of all hyperparameters, the user's included."""
        values = dict(self._live.read()) if self._ready else {}
        for name, value in self.hyperparameters.items():
            given = value() if callable(value) else value
            values[HYPERPARAMETERS + name] = _masked(name, given)
        return values

    def _tell_initial(self, values: Mapping[str, Any]) -> None:
        self._told = True
        start = len(HYPERPARAMETERS)
        initial = {
            name[start:]: plain(value, name.rpartition("/")[2])
            for name, value in values.items()
            if name.startswith(HYPERPARAMETERS)
        }
        for tell in _methods(self.sinks, "params"):
            tell(initial)

    def _hand_changes(self) -> None:
        if not self._ready:
            return
        for changes in self._changes:
            for entry in changes.new():
                for change in self._change_to:
                    change(entry)

    def close(self) -> None:
        """Hand on the last changes, and close the sinks; `log` opens them again."""
        with ExitStack() as stack:  # each is closed, though another fails
            for close in reversed(_methods(self.sinks, "close")):
                stack.callback(close)
            self._hand_changes()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class _Changes:
    """The entries of one optimizer's journal that were not handed on yet."""

    def __init__(self, source: Any, label: str) -> None:
        self.source, self.label = source, label
        self.kept = True
        self.known: set[tuple[Any, ...]] = set()
        try:
            journal = source.journal
        except TypeError:  # an optimizer that tells nobody when it steps
            self.kept = False
            return
        self.seen = len(journal)
        self.known.update(map(_identity, journal))

    def new(self) -> Iterator[Change]:
        if not self.kept:
            return
        journal = self.source.journal
        if len(journal) == self.seen:
            return
        goes_on = self._goes_on(journal)
        begun = self.seen if goes_on else 0
        self.seen = len(journal)
        for place in range(begun, len(journal)):
            entry = journal[place]
            # of two equal ones the second is new, as after a way there and back within a step
            if entry.abandoned or (not goes_on and _identity(entry) in self.known):
                continue
            self.known.add(_identity(entry))
            yield replace(entry, group=f"{self.label}{entry.group}") if self.label else entry

    def _goes_on(self, journal: Any) -> bool:
        """Whether what was seen stands as it did: a resume sorts and marks the entries anew."""
        if len(journal) < self.seen:
            return False
        last = journal[self.seen - 1] if self.seen else None
        return last is None or (not last.abandoned and _identity(last) in self.known)


def _identity(entry: Change) -> tuple[Any, ...]:
    values = repr(entry.old), repr(entry.new)
    return entry.step, entry.group, entry.name, entry.source, entry.reason, *values


def flat_statistics(found: Any) -> dict[str, float]:
    """The numbers of `pellucid.View.statistics` by ``statistics/<parameter>/<name>``."""
    flat: dict[str, float] = {}
    for label, one in found.items():
        numbers = {name: getattr(one, name) for name in _NUMBERS}
        numbers |= {f"{slot}_norm": norm for slot, norm in one.slots.items()}
        if one.rate_quantiles:
            numbers["median_rate"] = one.rate_quantiles[2]
        numbers["nonfinite"] = sum(one.nonfinite.values())
        flat.update({
            f"{STATISTICS}{label}/{name}": value
            for name, value in numbers.items()
            if value is not None
        })
    return flat


_NUMBERS = ("norm", "grad_norm", "update_norm", "update_ratio", "cosine", "epsilon_share")


# -- what is given -------------------------------------------------------------------------


def _methods(sinks: list[Any], name: str) -> list[Callable[..., Any]]:
    return [method for sink in sinks if (method := getattr(sink, name, None)) is not None]


def _count(name: str, value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name} is {value!r}; allowed is a whole number of steps from 1")
    return value


def check_every(every: Any, *words: str) -> Any:
    """Raise unless ``every`` is one of some words, or a number of steps."""
    if every not in words and (type(every) is not int or every < 1):
        texts = ", ".join(map(repr, words))
        raise ValueError(f"every is {every!r}; allowed are {texts}, and a number of steps from 1")
    return every


def _step(step: Any) -> int:
    try:
        return operator.index(step)
    except TypeError:
        raise TypeError(
            f"step is {step!r}; allowed is a whole number, or None for the optimizer's updates; "
            "metrics go by name: log(loss=0.5), log(**metrics)"
        ) from None


def check_own(given: Any) -> Mapping[str, Any]:
    """A user's own hyperparameters; raises unless they are a mapping from names."""
    if given is None:
        return {}
    if not isinstance(given, Mapping) or not all(isinstance(name, str) for name in given):
        raise TypeError(
            f"hyperparameters is {given!r}; allowed is a mapping from names to values or to "
            "functions that give them"
        )
    return given


def _masked(name: str, value: Any) -> Any:
    return MASK if is_secret(name) and value is not None else _number(value)


def _number(value: Any) -> Any:
    """The number of an array that holds one; anything else as it is."""
    if not is_scalar_array(value):
        return value
    return value.item() if hasattr(value, "item") else float(value)
