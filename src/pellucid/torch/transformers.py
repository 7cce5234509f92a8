"""Callbacks of Hugging Face's Trainer that log hyperparameters, schedule any, or reduce it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import TrainerCallback

__all__ = ["HyperparameterLogger", "HyperparameterScheduler", "ReduceOnPlateau"]


def _view(given: Mapping[str, Any]) -> Any:
    """The view of the Trainer's optimizer, with the scheduler that drives it."""
    from pellucid.access import view

    return view(given["optimizer"], scheduler=given.get("lr_scheduler"))


class HyperparameterLogger(TrainerCallback):  # type: ignore[misc]
    """Logs every hyperparameter of the Trainer's optimizer as it is.

    Args:
        sinks: what `pellucid.Logger` takes; without any, the terminal.
        every: ``"log"``: whenever the Trainer logs, with its metrics; or the first step and each
            so manieth after it.
        hyperparameters: values of your own, by name; callables in it are called each time.
        statistics: as `pellucid.Logger` has it: with each so manieth of these.
    """

    def __init__(
        self,
        *sinks: Any,
        every: str | int = "log",
        hyperparameters: Mapping[str, Any] | None = None,
        statistics: int | None = None,
    ) -> None:
        from pellucid.run.logger import check_every, check_own
        from pellucid.run.sinks import adapt

        self.every = check_every(every, "log")
        self.hyperparameters, self.statistics = check_own(hyperparameters), statistics
        self.sinks = [adapt(one) for one in sinks]
        self._logger: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        if not state.is_world_process_zero:
            return
        from pellucid.run.logger import Logger

        self._logger = Logger(
            given["optimizer"],
            *self.sinks,
            every=1 if self.every == "log" else self.every,
            statistics=self.statistics,
            hyperparameters=self.hyperparameters,
            model=given.get("model"),
        )

    def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        if self._logger is not None and self.every != "log":
            self._logger.log(state.global_step)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **given: Any) -> None:
        if self._logger is not None and self.every == "log":
            metrics = {name: value for name, value in (logs or {}).items() if name != "step"}
            self._logger.log(state.global_step, **metrics)

    def on_train_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        logger, self._logger = self._logger, None
        if logger is not None:
            logger.close()


class _Recorded(TrainerCallback):  # type: ignore[misc]
    """A callback whose changes are on record with the steps of the whole run."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        _ = _view(given).journal  # some optimizers count no steps: it counts from now on


class HyperparameterScheduler(_Recorded):
    """Sets any hyperparameter from a schedule, on record in the journal.

    The Trainer's own scheduler overwrites the learning rate at each step: of that one, the change
    goes into what it scales.

    Args:
        name: its path in `pellucid.view` of the Trainer's optimizer.
        schedule: one of `pellucid.schedules`, a function of the count (or of count and current
            value), or a list, whose last value stays.
        by: ``"epoch"``: the count is the epoch's number; ``"step"``: completed steps. Both from 0.
        reason: for the journal.
    """

    def __init__(self, name: str, schedule: Any, by: str = "epoch", reason: str = "") -> None:
        from pellucid.run.scheduling import Scheduled, check_by

        self.scheduled, self.by = Scheduled(name, schedule, reason), check_by(by)

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        if self.by == "epoch":
            self.scheduled.set(_view(given), int(state.epoch or 0))

    def on_step_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        if self.by == "step":
            self.scheduled.set(_view(given), state.global_step)


class ReduceOnPlateau(_Recorded):
    """Multiplies any hyperparameter by a factor when a metric of evaluations stops improving.

    Args:
        name: its path in `pellucid.view` of the Trainer's optimizer.
        monitor: the metric, with or without ``eval_``.
        settings: ``factor, patience, min_value, mode, cooldown, min_delta``; see
            `pellucid.run.scheduling.Reduction`.

    Raises:
        KeyError: the evaluation gives no such metric; names those that it gives.
    """

    def __init__(
        self, name: str = "learning_rate", monitor: str = "eval_loss", **settings: Any
    ) -> None:
        from pellucid.run.scheduling import Reduction

        self.reduction = Reduction(name, monitor=monitor, **settings)

    def on_evaluate(
        self, args: Any, state: Any, control: Any, metrics: Any = None, **given: Any
    ) -> None:
        if given.get("optimizer") is None:  # trainer.evaluate() outside of training
            return
        found, monitor = metrics or {}, self.reduction.monitor
        name = monitor if monitor in found else f"eval_{monitor}"
        if name not in found:
            known = ", ".join(found) or "nothing"
            raise KeyError(f"the evaluation gives no {monitor!r} to monitor; it gives {known}")
        self.reduction.step(_view(given), float(found[name]))
