"""Callbacks for `fit`."""

from __future__ import annotations

from typing import Any

import keras

__all__ = ["JournalCallback"]


class JournalCallback(keras.callbacks.Callback):  # type: ignore[misc]
    """Keeps the journal of the model's optimizer: looks for changes at each batch and epoch.

    So a change by another callback, such as `LearningRateScheduler` or `ReduceLROnPlateau`, is
    on record with the first step that used it. Put it last, for changes of the same event.

    Args:
        file: a path where each entry is also written at once; see `pellucid.journal`. An existing
            file is continued: load the checkpoint before `fit`.
        batches: False looks at epochs only. On JAX a look at a batch has the trainer hand its
            state over, some microseconds a variable.

    >>> model.fit(x, y, callbacks=[pellucid.keras.callbacks.JournalCallback()])  # doctest: +SKIP
    """

    def __init__(self, file: Any = None, batches: bool = True) -> None:
        super().__init__()
        if not isinstance(batches, bool):
            raise TypeError(f"batches is {batches!r}; allowed is True or False")
        self.file, self.batches = file, batches

    def _look(self) -> None:
        import pellucid

        pellucid.journal(self._model.optimizer)

    def on_train_begin(self, logs: Any = None) -> None:
        import pellucid

        pellucid.journal(self._model.optimizer, file=self.file)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._look()

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        if self.batches:
            self._look()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if self.batches:
            self._look()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self._look()
