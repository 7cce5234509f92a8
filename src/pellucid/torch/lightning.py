"""Callbacks of Lightning that log hyperparameters, schedule any of them, or reduce it.

All of a module's optimizers are seen; where there are several, the view's paths begin with theirs:
``"Adam 0/learning_rate"``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning.pytorch import Callback

__all__ = ["HyperparameterLogger", "HyperparameterScheduler", "ReduceOnPlateau"]


def _view(trainer: Any) -> Any:
    """The view of the trainer's optimizers, with the schedulers that drive them."""
    from pellucid.access import view

    optimizers, schedulers = trainer.optimizers, []
    for config in trainer.lr_scheduler_configs:
        if getattr(config.scheduler, "optimizer", None) in optimizers:
            schedulers.append(config.scheduler)
    if len(optimizers) == 1:
        return view(optimizers[0], scheduler=schedulers[0] if schedulers else None)
    return view(list(optimizers), scheduler=schedulers or None)


class HyperparameterLogger(Callback):  # type: ignore[misc]
    """Logs every hyperparameter of every optimizer as it is.

    Args:
        sinks: what `pellucid.Logger` takes; they are given the trainer's metrics, too. Without
            any, the trainer's own loggers, which have those; without these, the terminal.
        every: ``"epoch"``, or the first step and each so manieth after it.
        hyperparameters: values of your own, by name; callables in it are called each time.
        statistics: as `pellucid.Logger` has it: with each so manieth of these.
    """

    def __init__(
        self,
        *sinks: Any,
        every: str | int = 1,
        hyperparameters: Mapping[str, Any] | None = None,
        statistics: int | None = None,
    ) -> None:
        from pellucid.run.logger import check_every, check_own
        from pellucid.run.sinks import adapt

        self.every = check_every(every, "epoch")
        self.hyperparameters, self.statistics = check_own(hyperparameters), statistics
        self.sinks = [adapt(one) for one in sinks]
        self._logger: Any = None
        self._step = -1

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        if not trainer.is_global_zero:
            return
        from pellucid.run.logger import Logger

        own = self.sinks or list(trainer.loggers)
        self._logger = Logger(
            trainer.optimizers,
            *own,
            every=1 if self.every == "epoch" else self.every,
            statistics=self.statistics,
            hyperparameters=self.hyperparameters,
            model=pl_module,
        )

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self.every != "epoch" and trainer.global_step != self._step:  # not while accumulating
            self._log(trainer)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        if self.every == "epoch":
            self._log(trainer, epoch=trainer.current_epoch)

    def _log(self, trainer: Any, **more: Any) -> None:
        self._step = trainer.global_step
        if self._logger is not None:
            metrics = dict(trainer.callback_metrics) if self.sinks else {}
            metrics.pop("step", None)
            self._logger.log(trainer.global_step, **{**more, **metrics})

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        self.teardown(trainer, pl_module, "fit")

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        logger, self._logger = self._logger, None
        if logger is not None:
            logger.close()


class _Recorded(Callback):  # type: ignore[misc]
    """A callback whose changes are on record with the steps of the whole run."""

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        _ = _view(trainer).journal  # some optimizers count no steps: it counts from now on


class HyperparameterScheduler(_Recorded):
    """Sets any hyperparameter from a schedule, on record in the journal.

    Args:
        name: its path in `pellucid.view` of the trainer's optimizers.
        schedule: one of `pellucid.schedules`, a function of the count (or of count and current
            value), or a list, whose last value stays.
        by: ``"epoch"``: the count is the epoch's number; ``"step"``: the trainer's steps. Both
            from 0.
        reason: for the journal.
    """

    def __init__(self, name: str, schedule: Any, by: str = "epoch", reason: str = "") -> None:
        from pellucid.run.scheduling import Scheduled, check_by

        self.scheduled, self.by = Scheduled(name, schedule, reason), check_by(by)

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        if self.by == "epoch":
            self.scheduled.set(_view(trainer), trainer.current_epoch)

    def on_train_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        if self.by == "step":
            self.scheduled.set(_view(trainer), trainer.global_step)


class ReduceOnPlateau(_Recorded):
    """Multiplies any hyperparameter by a factor when a logged metric stops improving.

    Args:
        name: its path in `pellucid.view` of the trainer's optimizers.
        monitor: the metric, as the module logs it; looked at after each validation, or, where the
            trainer has none or the metric comes after it only, after each epoch.
        settings: ``factor, patience, min_value, mode, cooldown, min_delta``; see
            `pellucid.run.scheduling.Reduction`.

    Raises:
        KeyError: there is no such metric; names those that there are.
    """

    def __init__(
        self, name: str = "learning_rate", monitor: str = "val_loss", **settings: Any
    ) -> None:
        from pellucid.run.scheduling import Reduction

        self.reduction = Reduction(name, monitor=monitor, **settings)
        self._of_epochs = False  # the metric is made when an epoch ends, after its validation

    def _look(self, trainer: Any) -> None:
        metrics, monitor = trainer.callback_metrics, self.reduction.monitor
        if monitor not in metrics:
            known = ", ".join(metrics) or "nothing"
            raise KeyError(f"the trainer has no {monitor!r} to monitor; it has {known}")
        self.reduction.step(_view(trainer), float(metrics[monitor]))

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        self._of_epochs |= self.reduction.monitor not in trainer.callback_metrics
        if not self._of_epochs:
            self._look(trainer)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        if self._of_epochs or not trainer.enable_validation:
            self._look(trainer)

    def state_dict(self) -> dict[str, Any]:
        return self.reduction.plateau.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.reduction.plateau.load_state_dict(state_dict)

    @property
    def state_key(self) -> str:
        """Several of these are told apart in a checkpoint."""
        return f"{type(self).__qualname__}[{self.reduction.name}, {self.reduction.monitor}]"
