"""TensorBoard's event files, by its own writer: scalars, changes as text, and the HParams page."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any

from pellucid.changes import Change
from pellucid.run.sinks import numbers_of

__all__ = ["TensorBoardSink"]


class TensorBoardSink:
    """Scalars at each step, a text for each change, the initial values as hyperparameters.

    Args:
        folder_or_writer: a folder, or a `torch.utils.tensorboard.SummaryWriter`, which stays open.

    Raises:
        ImportError: tensorboard is not installed.
    """

    def __init__(self, folder_or_writer: Any) -> None:
        self._own = isinstance(folder_or_writer, (str, os.PathLike))
        if not self._own and not hasattr(folder_or_writer, "add_scalar"):
            raise TypeError(
                f"TensorBoard got {folder_or_writer!r}; allowed is a folder's path, or torch's "
                "SummaryWriter"
            )
        self._folder = os.fspath(folder_or_writer) if self._own else ""
        self.writer: Any = None if self._own else folder_or_writer
        self._open()
        self._initial: Mapping[str, Any] | None = None
        self._begun = False

    def _open(self) -> None:
        """Open a file for events, where there is none or it was closed."""
        if self.writer is not None:
            return
        try:
            from tensorboard.summary.writer.event_file_writer import EventFileWriter
        except ImportError as error:
            raise ImportError(
                "TensorBoard(...) needs the package tensorboard: pip install tensorboard"
            ) from error
        self.writer = EventFileWriter(self._folder)

    def _add(self, summary: Any, step: int = 0) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        event = Event(wall_time=time.time(), step=step, summary=summary)
        self._open()
        if self._own:
            self.writer.add_event(event)
        else:
            self.writer._get_file_writer().event_writer.add_event(event)

    def log(self, step: int, values: Mapping[str, Any]) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary

        numbers = numbers_of(values)
        if self._initial is not None:
            self._hparams(self._initial, [name for name in numbers if _is_metric(name)])
            self._initial = None
        scalars = [
            Summary.Value(tag=name, simple_value=value) for name, value in numbers.items()
        ]
        self._add(Summary(value=scalars), step)

    def change(self, entry: Change) -> None:
        from tensorboard.plugins.text.summary_v2 import text_pb

        self._add(text_pb(f"changes/{entry.group}/{entry.name}", str(entry)), entry.step)

    def params(self, values: Mapping[str, Any]) -> None:
        self._initial = values  # written with the first metrics, whose names the page shows

    def _hparams(self, values: Mapping[str, Any], metrics: list[str]) -> None:
        from tensorboard.plugins.hparams import summary_v2

        kept = {name: _kept(value) for name, value in values.items()}
        columns = [summary_v2.HParam(name) for name in kept]
        shown = [summary_v2.Metric(name) for name in metrics]
        self._add(summary_v2.hparams_config_pb(columns, shown))
        self._add(summary_v2.hparams_pb(kept))
        self._begun = True

    def _end(self) -> None:
        """Say on the HParams page that the run has ended."""
        from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2, summary_v2

        ended = plugin_data_pb2.SessionEndInfo(
            status=api_pb2.Status.STATUS_SUCCESS, end_time_secs=time.time()
        )
        data = plugin_data_pb2.HParamsPluginData(session_end_info=ended)
        self._add(summary_v2._summary_pb(metadata.SESSION_END_INFO_TAG, data))

    def close(self) -> None:
        if self._initial is not None:
            self._hparams(self._initial, [])
            self._initial = None
        if self._begun:
            self._end()
            self._begun = False
        if not self._own:
            self.writer.flush()
        elif self.writer is not None:
            self.writer.close()
            self.writer = None


def _is_metric(name: str) -> bool:
    return not name.startswith(("hyperparameters/", "statistics/"))


def _kept(value: Any) -> Any:
    """What the HParams page can hold: a number, True or False, or text."""
    return value if isinstance(value, (bool, int, float, str)) else str(value)
