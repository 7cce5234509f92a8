"""Callbacks for `fit` that log hyperparameters, schedule any of them, or reduce it on a plateau."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import keras

__all__ = ["HyperparameterLogger", "HyperparameterScheduler", "ReduceOnPlateau", "given_to_fit"]

KEPT = (
    "epochs", "initial_epoch", "steps_per_epoch", "validation_split", "validation_steps",
    "validation_batch_size", "validation_freq", "shuffle", "verbose",
)  # fmt: skip
"""Arguments of `fit` that are kept as they are."""

WHETHER = ("class_weight", "sample_weight", "validation_data")
"""Arguments of which only is kept whether they were given."""


def given_to_fit(callback: keras.callbacks.Callback) -> dict[str, Any]:
    """What `fit`, in which this is called, was given, positional arguments too.

    The batch size is that of the data, where `fit` was given none; None where the data tells none.
    """
    found: dict[str, Any] = {}
    params = callback.params or {}
    for key, name in (("epochs", "epochs"), ("steps", "steps_per_epoch")):
        if params.get(key) is not None:
            found[name] = params[key]
    arguments = _arguments_of_fit(callback._model)
    if arguments is None:
        return found
    found.update((name, arguments[name]) for name in KEPT if name in arguments)
    found["steps_per_epoch"] = found.get("steps_per_epoch") or params.get("steps")
    found |= {name: arguments[name] is not None for name in WHETHER if name in arguments}
    found["batch_size"] = _batch_size(arguments)
    listed = arguments.get("callbacks") or ()
    listed = getattr(listed, "callbacks", listed)
    listed = listed if isinstance(listed, (list, tuple)) else [listed]
    found["callbacks"] = [type(one).__name__ for one in listed if type(one).__name__ not in _OWN]
    return found


_OWN = {"History", "ProgbarLogger"}
"""Callbacks that `fit` adds by itself."""


def _arguments_of_fit(model: Any) -> Mapping[str, Any] | None:
    """The local variables of the running `fit` of Keras for this model."""
    frame: Any = sys._getframe()
    while frame is not None:
        module = str(frame.f_globals.get("__name__", ""))
        if frame.f_code.co_name == "fit" and module.startswith("keras."):
            local: Mapping[str, Any] = frame.f_locals
            if local.get("self") is model and "batch_size" in local:
                return local
        frame = frame.f_back
    return None


def _batch_size(arguments: Mapping[str, Any]) -> int | None:
    if arguments["batch_size"] is not None:
        return int(arguments["batch_size"])
    adapter = getattr(arguments.get("epoch_iterator"), "data_adapter", None)
    found = getattr(adapter, "batch_size", None)
    return None if found is None else int(found)


class HyperparameterLogger(keras.callbacks.Callback):  # type: ignore[misc]
    """Logs every hyperparameter of the model's optimizer as it is, with the metrics of `fit`.

    Without sinks it prints, as each epoch begins, the optimizer's hyperparameters, epochs and
    batch size, and your own. What `fit` was given stays in ``model._pellucid_fit``.

    Args:
        sinks: what `pellucid.Logger` takes.
        hyperparameters: values of your own, by name; callables in it are called each time.
        every: ``"epoch"``, ``"batch"``, or the first batch and each so manieth after it.
        statistics: as `pellucid.Logger` has it: with each so manieth of these.

    >>> model.fit(x, y, callbacks=[HyperparameterLogger(CSV("log.csv"))])  # doctest: +SKIP
    """

    def __init__(
        self,
        *sinks: Any,
        hyperparameters: Mapping[str, Any] | None = None,
        every: str | int = "epoch",
        statistics: int | None = None,
    ) -> None:
        super().__init__()
        if len(sinks) == 1 and hyperparameters is None and isinstance(sinks[0], Mapping):
            hyperparameters, sinks = sinks[0], ()  # as seed 003's callback has it
        from pellucid.run.logger import check_every, check_own
        from pellucid.run.sinks import adapt

        self.hyperparameters = check_own(hyperparameters)
        self.sinks = [adapt(one) for one in sinks]
        self.every, self.statistics = check_every(every, "epoch", "batch"), statistics
        self._logger: Any = None
        self._own: dict[str, Any] = {}

    def on_train_begin(self, logs: Any = None) -> None:
        given = given_to_fit(self)
        object.__setattr__(self._model, "_pellucid_fit", given)  # which Keras need not track
        self._own.clear()
        self._own |= {name: given[name] for name in ("epochs", "batch_size") if given.get(name)}
        self._own |= self.hyperparameters
        optimizer = self._model.optimizer
        if self.sinks and (self._logger is None or self._logger.view.optimizer is not optimizer):
            from pellucid.run.logger import Logger

            every = self.every if isinstance(self.every, int) else 1
            self._logger = Logger(
                optimizer, *self.sinks, every=every, statistics=self.statistics,
                hyperparameters=self._own,
            )  # fmt: skip

    def found(self) -> dict[str, Any]:
        """All hyperparameters now: the optimizer's, `fit`'s, and your own."""
        from pellucid.access import view
        from pellucid.run.live_values import LiveValues

        table = view(self._model.optimizer)
        left = f"{table._source.name}/"
        found = {path.removeprefix(left): v for path, v in LiveValues(table).read().items()}
        own = {name: v() if callable(v) else v for name, v in self._own.items()}
        return {**found, **own}

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        if not self.sinks:
            from pellucid.run.plain import plain

            print(f"Epoch {epoch + 1}: Hyperparameters: {plain(self.found())}")
        self._look()

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        if self.every != "epoch":
            self._look()

    def _look(self) -> None:
        """Have what other callbacks wrote on record with the step that uses it."""
        if self._logger is not None and getattr(self._model.optimizer, "built", True):
            _ = self._logger.view.journal

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if self._logger is not None and self.every != "epoch":
            self._logger.log(None, **_metrics(logs))

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if self._logger is not None and self.every == "epoch":
            self._logger.log(None, **{"epoch": epoch + 1, **_metrics(logs)})

    def on_train_end(self, logs: Any = None) -> None:
        if self._logger is not None:
            self._logger.close()


def _metrics(logs: Any) -> dict[str, Any]:
    return {name: value for name, value in (logs or {}).items() if name not in ("self", "step")}


def _skips_validation(monitor: str, given: Mapping[str, Any]) -> bool:
    """Whether a metric is one of validations, which `fit` has, but not after each epoch."""
    validates = given.get("validation_data") or given.get("validation_split")
    return bool(monitor.startswith("val_") and validates and given["validation_freq"] != 1)


class _Waiting(keras.callbacks.Callback):  # type: ignore[misc]
    """A callback that writes to an optimizer as soon as there are variables for it to be built."""

    def _table(self) -> Any:
        """The view of the optimizer; None as long as the model is not built."""
        from pellucid.access import view

        model = self._model
        optimizer = model.optimizer
        if not getattr(optimizer, "built", True):
            if not model.built:
                return None
            strategy = getattr(model, "distribute_strategy", None)  # of TensorFlow's
            with nullcontext() if strategy is None else strategy.scope():
                optimizer.build(model.trainable_variables)  # as Keras does on other backends
        return view(optimizer)


class HyperparameterScheduler(_Waiting):
    """Sets any hyperparameter of the model's optimizer from a schedule, on record in the journal.

    Args:
        name: its path in `pellucid.view`, such as ``"beta_1"`` or ``"group 1/weight_decay"``.
        schedule: one of `pellucid.schedules` or of Keras, a function of the count (or of count
            and current value), or a list, whose last value stays.
        by: ``"epoch"``: the count is the epoch's number; ``"step"``: the completed updates. Both
            from 0.
        reason: for the journal.

    >>> HyperparameterScheduler("beta_1", [0.8, 0.9], reason="warm up")  # doctest: +SKIP
    """

    def __init__(self, name: str, schedule: Any, by: str = "epoch", reason: str = "") -> None:
        super().__init__()
        from pellucid.run.scheduling import Scheduled, check_by

        self.scheduled, self.by = Scheduled(name, schedule, reason), check_by(by)
        self._epoch: int | None = None  # whose value is not set yet

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._epoch = epoch
        if self.by == "epoch":
            self._try()

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self._try()

    def _try(self) -> None:
        """Set the value that is due, if the optimizer is built."""
        by_epoch = self.by == "epoch"
        table = None if by_epoch and self._epoch is None else self._table()
        if table is not None:
            count: Any = self._epoch if by_epoch else table._source.updates
            self.scheduled.set(table, count)
            self._epoch = None


class ReduceOnPlateau(_Waiting):
    """Multiplies any hyperparameter by a factor when a metric of `fit` stops improving.

    Args:
        name: its path in `pellucid.view`.
        monitor: the metric; it is looked at after each epoch.
        factor: between 0 and 1.
        patience: so many epochs without an improvement are waited for.
        min_value: below it no value is reduced.
        mode: ``"min"``, ``"max"``, or ``"auto"``: ``"max"`` for names such as accuracy or auc.
        cooldown: so many epochs after a reduction do not count.
        min_delta: an improvement is larger than this.

    Raises:
        KeyError: `fit` gives no such metric; names those that it gives. Of an epoch without
            validation (``validation_freq``) none is asked for.
    """

    def __init__(
        self,
        name: str = "learning_rate",
        monitor: str = "val_loss",
        factor: float = 0.1,
        patience: int = 10,
        min_value: float = 0.0,
        mode: str = "auto",
        cooldown: int = 0,
        min_delta: float = 1e-4,
    ) -> None:
        super().__init__()
        from pellucid.run.scheduling import Reduction

        self.reduction = Reduction(
            name, factor=factor, patience=patience, min_value=min_value, mode=mode,
            cooldown=cooldown, min_delta=min_delta, monitor=monitor,
        )  # fmt: skip

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        monitor, found = self.reduction.monitor, logs or {}
        if monitor not in found and _skips_validation(monitor, given_to_fit(self)):
            return
        if monitor not in found:
            raise KeyError(f"fit gives no {monitor!r} to monitor; it gives {', '.join(found)}")
        table = self._table()
        if table is not None:
            self.reduction.step(table, float(found[monitor]))
