"""Where a log goes: files read back by what reads them, and fakes of others' loggers."""

from __future__ import annotations

import csv
import errno
import io
import json
import math
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

import pellucid
from pellucid.changes import Change
from pellucid.run.live_table import TerminalSink, sparkline
from pellucid.run.logger import Logger
from pellucid.run.sinks import CSV, JSONL, TensorBoard, Terminal, adapt

CHANGE = Change(2, "group 0", "learning_rate", 0.1, 0.05, "view", "slower")
LINE = "step 2  group 0/learning_rate  0.1 → 0.05  (view: slower)"
RATE = "hyperparameters/SGD/learning_rate"


def trained(*sinks: Any, **how: Any) -> None:
    """Three steps with rates 0.1, 0.05, 0.05, and losses 3, 2, 1."""
    parameter = torch.nn.Parameter(torch.ones(2))
    parameter.grad = torch.ones(2)
    optimizer = torch.optim.SGD([parameter], lr=0.1, momentum=0.5)
    with Logger(optimizer, *sinks, **how) as logger:
        for loss in (3.0, 2.0, 1.0):
            optimizer.step()
            logger.log(loss=loss)
            if loss == 3.0:
                pellucid.view(optimizer).set("learning_rate", 0.05, reason="slower")


# -- JSON lines ------------------------------------------------------------------------------


def test_jsonl(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    trained(JSONL(path))
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [next(iter(line)) for line in lines] == ["params", "step", "change", "step", "step"]
    assert lines[0]["params"]["SGD/momentum"] == 0.5
    steps = [line for line in lines if "step" in line]
    assert [(one["step"], one[RATE], one["loss"]) for one in steps] == [
        (1, 0.1, 3.0), (2, 0.05, 2.0), (3, 0.05, 1.0),
    ]  # fmt: skip
    change = lines[2]["change"]
    assert (change["step"], change["old"], change["new"], change["reason"]) == (
        2, 0.1, 0.05, "slower",
    )  # fmt: skip


def test_jsonl_of_odd_values_and_a_torn_line(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 0}\n{"step": 1, "lo')  # of a run that was killed
    sink = JSONL(path)
    sink.log(1, {"loss": math.nan, "thing": {1, 2}})
    sink.close()
    sink.log(2, {"loss": math.inf})  # opens it again; nothing but a number to be made JSON
    sink.close()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert lines == [
        {"step": 0}, {"step": 1, "loss": "nan", "thing": [1, 2]}, {"step": 2, "loss": "inf"},
    ]  # fmt: skip


def test_jsonl_leaves_another_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("my notes, a line without an end")
    with pytest.raises(ValueError, match=r"begins with 'my notes.*give another path"):
        JSONL(path)
    assert path.read_text() == "my notes, a line without an end"


def test_two_logs_in_one_file_and_a_full_disk(tmp_path: Path) -> None:
    """What the other wrote since is no part of the line that is taken back."""
    path = tmp_path / "log.jsonl"
    first, second = JSONL(path), JSONL(path)
    first.log(1, {})
    second.log(2, {})
    whole = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    for room in (0, 100):
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole) + room, limits[1]))
        try:
            with pytest.raises(OSError, match="could not be written to") as caught:
                first.log(3, {"text": "x" * 400})
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert caught.value.errno == errno.EFBIG
        assert path.read_bytes() == whole


def test_what_utf8_has_not(tmp_path: Path) -> None:
    """Such as the name of a file that is not UTF-8."""
    path = tmp_path / "log.jsonl"
    JSONL(path).log(1, {"data": "a\udc80é"})
    assert json.loads(path.read_text()) == {"step": 1, "data": "a\udc80é"}


@pytest.mark.parametrize("kind", [JSONL, CSV])
def test_a_full_disk(kind: Any, tmp_path: Path) -> None:
    """Earlier lines stay whole, and the error says what to do."""
    path = tmp_path / "log"
    sink = kind(path)
    values = {"text": "x" * 400}
    for step in range(2):
        sink.log(step, values)
    whole = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole) + 100, limits[1]))
    try:
        with pytest.raises(OSError, match=r"its earlier lines are whole\. Make room"):
            sink.log(2, values)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == whole
    sink.log(3, values)  # there is room again
    sink.close()
    assert path.read_bytes()[: len(whole)] == whole
    assert len(path.read_text().splitlines()) == len(whole.splitlines()) + 1


def test_a_device_without_room() -> None:
    with pytest.raises(OSError, match="/dev/full could not be written to"):
        JSONL("/dev/full").log(1, {})


# -- CSV -------------------------------------------------------------------------------------


def rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_csv_columns_grow(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    sink = CSV(path)
    sink.log(1, {"a": 0.5})
    first = path.read_bytes()
    assert first == b"step,a\n1,0.5\n"  # written at once
    sink.log(2, {"b": 'x,"y', "a": 0.25})
    sink.log(3, {"b": None})
    assert rows(path) == [
        {"step": "1", "a": "0.5", "b": ""},
        {"step": "2", "a": "0.25", "b": 'x,"y'},
        {"step": "3", "a": "", "b": ""},
    ]
    sink.close()
    again = CSV(path)  # continued
    again.log(4, {"b": "last"})
    again.close()
    assert rows(path)[3] == {"step": "4", "a": "", "b": "last"}
    assert len(rows(path)) == 4


def test_csv_of_a_run(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    trained(CSV(path))
    assert [(row["step"], row[RATE], row["loss"]) for row in rows(path)] == [
        ("1", "0.1", "3.0"), ("2", "0.05", "2.0"), ("3", "0.05", "1.0"),
    ]  # fmt: skip


def test_csv_refuses_another_file(tmp_path: Path) -> None:
    path = tmp_path / "other.csv"
    for content in ("name,age\n", "name,age\nbob,3", "steps,a\n1,2"):  # a last line without end
        path.write_text(content)
        with pytest.raises(ValueError, match="not with 'step'"):
            CSV(path)
        assert path.read_text() == content
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="not with 'step'"):
        CSV(path)
    with pytest.raises(TypeError, match="path is None"):
        CSV(None)  # type: ignore[arg-type]


def test_csv_refuses_what_a_file_would_replace() -> None:
    with pytest.raises(ValueError, match="no plain file"):
        CSV(os.devnull)


def test_csv_without_values_is_continued(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    for step in (1, 2):
        sink = CSV(path)
        sink.log(step, {})
        sink.close()
    assert path.read_text() == "step\n1\n2\n"


def test_two_tables_in_one_file(tmp_path: Path) -> None:
    """Each row stands under its own columns, whoever made them."""
    path = tmp_path / "log.csv"
    first, second = CSV(path), CSV(path)
    first.log(1, {"a": 1})
    second.log(1, {"b": 2})
    first.log(2, {"a": 3})
    second.log(2, {"b": 4})
    found = [(row["step"], row["a"], row["b"]) for row in rows(path)]
    assert found == [("1", "1", ""), ("1", "", "2"), ("2", "3", ""), ("2", "", "4")]
    path.unlink()  # taken away while it is open
    first.log(3, {"a": 5})
    assert path.read_text() == "step,a\n3,5\n"
    other = tmp_path / "other.csv"
    other.write_text("step,b\n3,5\n")  # as long as that one
    other.replace(path)
    first.log(4, {"a": 6})
    assert path.read_text() == "step,b,a\n3,5,\n4,,6\n"
    path.write_text("step,c\n")  # in place
    first.log(5, {"c": 7})
    assert path.read_text() == "step,c\n5,7\n"


def test_csv_grows_behind_a_link(tmp_path: Path) -> None:
    target, link = tmp_path / "there.csv", tmp_path / "log.csv"
    link.symlink_to(target)
    sink = CSV(link)
    sink.log(1, {"a": 1})
    sink.log(2, {"b": 1})
    assert link.is_symlink()
    assert target.read_text() == "step,a,b\n1,1,\n2,,1\n"


def test_csv_cuts_a_torn_row(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("step,a\n1,0.5\n2,0.")
    sink = CSV(path)
    sink.log(2, {"a": 0.25})
    assert path.read_text() == "step,a\n1,0.5\n2,0.25\n"


def test_a_full_disk_while_columns_grow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "log.csv"
    sink = CSV(path)
    sink.log(1, {"a": 1})
    whole = path.read_bytes()

    def full(number: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"No space left.*Make room") as caught:
        sink.log(2, {"b": 1})
    assert caught.value.errno == errno.ENOSPC
    assert path.read_bytes() == whole
    assert [one.name for one in tmp_path.iterdir()] == ["log.csv"]
    monkeypatch.undo()
    sink.log(2, {"b": 1})
    assert path.read_text() == "step,a,b\n1,1,\n2,,1\n"


# -- TensorBoard -----------------------------------------------------------------------------


def read(folder: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder))
    found.Reload()
    return found


def check_events(folder: Path) -> None:
    from tensorboard.plugins.hparams import metadata
    from tensorboard.util import tensor_util

    found = read(folder)
    scalars = [(one.step, one.value) for one in found.Scalars(RATE)]
    assert scalars == [(1, pytest.approx(0.1)), (2, pytest.approx(0.05)), (3, pytest.approx(0.05))]
    assert [one.value for one in found.Scalars("loss")] == [3.0, 2.0, 1.0]
    assert "hyperparameters/SGD/nesterov" not in found.Tags()["scalars"]
    (text,) = found.Tensors("changes/group 0/learning_rate")
    assert text.step == 2
    assert tensor_util.make_ndarray(text.tensor_proto).item().decode() == LINE
    hparams = found.SummaryMetadata(metadata.SESSION_START_INFO_TAG).plugin_data.content
    started = metadata.parse_session_start_info_plugin_data(hparams)
    values = dict(started.hparams.items())
    assert values["SGD/learning_rate"].number_value == 0.1
    assert values["SGD/nesterov"].bool_value is False
    assert values["SGD/foreach"].string_value == "None"
    assert values["epochs"].number_value == 3
    content = found.SummaryMetadata(metadata.EXPERIMENT_TAG).plugin_data.content
    experiment = metadata.parse_experiment_plugin_data(content)
    assert [one.name.tag for one in experiment.metric_infos] == ["loss"]
    assert {one.name for one in experiment.hparam_infos} == set(values)
    ended = found.SummaryMetadata(metadata.SESSION_END_INFO_TAG).plugin_data.content
    assert metadata.parse_session_end_info_plugin_data(ended).end_time_secs > 0


def test_tensorboard(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    trained(TensorBoard(tmp_path), hyperparameters={"epochs": 3})
    check_events(tmp_path)


def test_torchs_summary_writer(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(tmp_path)
    trained(writer, hyperparameters={"epochs": 3})
    writer.add_scalar("mine", 1.0, 1)  # it stays the user's
    writer.close()
    check_events(tmp_path)
    assert "mine" in read(tmp_path).Tags()["scalars"]


def test_tensorboard_refuses() -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    with pytest.raises(TypeError, match="TensorBoard got 3"):
        TensorBoard(3)


# -- the terminal ----------------------------------------------------------------------------


def terminal(live: bool) -> tuple[TerminalSink, io.StringIO]:
    stream = io.StringIO()
    console = Console(file=stream, width=100, force_terminal=live, highlight=False)
    return Terminal(console), stream


def test_no_terminal_shows_changes_only() -> None:
    sink, stream = terminal(False)
    trained(sink)
    assert stream.getvalue() == LINE + "\n"


def test_live_table() -> None:
    sink, stream = terminal(True)
    parameters = [torch.nn.Parameter(torch.ones(1)) for _ in range(2)]
    groups = [{"params": [one], "lr": 0.1 * (n + 1)} for n, one in enumerate(parameters)]
    logger = Logger(torch.optim.SGD(groups, momentum=0.5), sink)
    logger.log(1, loss=3.0)
    logger.log(2, loss=1.0)
    sink.change(CHANGE)
    logger.close()
    plain = Console(file=io.StringIO(), width=100)
    plain.print(sink.table())
    lines = [line.rstrip() for line in plain.file.getvalue().splitlines()]  # type: ignore[attr-defined]
    assert lines[0] == "step 2"
    found = {" ".join(line.split()) for line in lines}
    assert {"loss 1 █▁", "momentum (all 2) 0.5 ▁▁", LINE.replace("  ", " ")} <= found
    assert {"group 0/learning_rate 0.1 ▁▁", "group 1/learning_rate 0.2 ▁▁"} <= found
    assert not any("nesterov" in line for line in found)
    assert "learning_rate" in stream.getvalue()  # it was drawn


def test_a_long_table_is_cut_and_drawn_on_demand() -> None:
    stream = io.StringIO()
    sink = Terminal(Console(file=stream, width=100), live=True)  # though it is no terminal
    sink.log(1, {f"metric {n}": 1.0 for n in range(30)})
    sink.close()
    assert "metric 23" in stream.getvalue()
    assert "metric 24" not in stream.getvalue()
    assert "and 6 more" in stream.getvalue()


def test_a_metric_that_comes_now_and_then_stays_in_the_table() -> None:
    sink, _ = terminal(True)
    sink.log(1, {"val_loss": 0.5, "loss": 2.0, "hyperparameters/SGD/old": 1.0})
    sink.log(2, {"loss": 1.0})
    sink.close()
    assert sink.values == {"val_loss": 0.5, "loss": 1.0}
    assert sink.step == 2


def test_the_table_is_drawn_while_another_thread_logs() -> None:
    """What is drawn is from one moment."""
    sink, _ = terminal(True)
    path = "hyperparameters/SGD/learning_rate"
    sink.log(1, {path: 0.5})
    sink.close()
    past = sink.past

    class Meanwhile(dict):  # type: ignore[type-arg]
        def get(self, name: str, default: Any = None) -> Any:
            sink.values = {}
            sink.changes.append(CHANGE)
            return past.get(name, default)

    sink.past = Meanwhile(past)
    path_two = "hyperparameters/SGD/momentum"
    sink.values = {path: 0.5, path_two: 0.25}
    plain = Console(file=io.StringIO(), width=100)
    plain.print(sink.table())
    shown = plain.file.getvalue()  # type: ignore[attr-defined]
    assert "momentum" in shown
    assert "0.25" in shown


FORGETFUL = """
import io, torch, pellucid
from rich.console import Console
from pellucid.run.sinks import Terminal
sink = Terminal(Console(force_terminal=True, width=80))
logger = pellucid.Logger(torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.1), sink)
logger.log(1, loss=1.0)
logger.log(77, loss=0.5)
"""


def test_a_program_that_does_not_close() -> None:
    """The last step is drawn, and the cursor is there again."""
    ended = subprocess.run([sys.executable, "-c", FORGETFUL], capture_output=True, check=True)
    shown = ended.stdout.decode()
    assert "step 77" in shown
    assert shown.rindex("\x1b[?25h") > shown.rindex("\x1b[?25l")
    assert not ended.stderr


def test_sparkline_of_the_largest_and_the_least() -> None:
    assert sparkline([1e308, 0.0, -1e308]) == "█▅▁"
    assert sparkline([0.0, 5e-324]) == "▁▁"
    assert sparkline([10**400, 1.0, 2.0]) == " ▁█"


def test_sparkline() -> None:
    assert sparkline([]) == ""
    assert sparkline([5.0, 5.0]) == "▁▁"
    assert sparkline([0.0, math.nan, 7.0]) == "▁ █"
    assert sparkline([0.0, 5.0], ascii_only=True) == "_#"


# -- others' loggers: fakes with their methods' own signatures ---------------------------------


class Config(dict):  # type: ignore[type-arg]
    def update(self, d: Any, allow_val_change: Any = None) -> None:  # type: ignore[override]
        super().update(d)


class WandbRun:
    def __init__(self) -> None:
        self.config, self.rows = Config(), []  # type: ignore[var-annotated]

    def log(self, data: Any, step: int | None = None, commit: bool | None = None) -> None:
        self.rows.append((step, data))


class Mlflow:
    def __init__(self) -> None:
        self.rows: list[Any] = []
        self.params: dict[str, Any] = {}
        self.tags: dict[str, Any] = {}

    def log_metrics(
        self, metrics: Any, step: Any = None, synchronous: Any = None, run_id: Any = None
    ) -> None:
        assert all(type(value) in (int, float) for value in metrics.values())
        self.rows.append((step, metrics))

    def log_params(self, params: Any, synchronous: Any = None, run_id: Any = None) -> None:
        assert not self.params, "MLflow refuses a changed parameter"
        self.params = params

    def set_tag(self, key: str, value: Any, synchronous: Any = None) -> None:
        self.tags[key] = value


class LightningLogger:
    def __init__(self) -> None:
        self.rows: list[Any] = []
        self.params: dict[str, Any] = {}

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        self.rows.append((step, metrics))

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        self.params = params


def steps_and_rates(logged: list[Any]) -> list[Any]:
    return [(step, values[RATE], values["loss"]) for step, values in logged]


WANTED = [(1, 0.1, 3.0), (2, 0.05, 2.0), (3, 0.05, 1.0)]


def test_a_run_of_wandb() -> None:
    run = WandbRun()
    trained(run)
    assert steps_and_rates(run.rows) == WANTED
    assert run.rows[1][1]["changes/group 0/learning_rate"] == LINE
    assert "changes/group 0/learning_rate" not in run.rows[2][1]
    assert run.config["SGD/learning_rate"] == 0.1
    assert run.config["SGD/nesterov"] is False
    sink = adapt(run)
    sink.log(4, {})
    sink.change(CHANGE)
    sink.close()  # what came after the last step goes with that
    assert run.rows[-1] == (4, {"changes/group 0/learning_rate": LINE})


def test_mlflow() -> None:
    mlflow = Mlflow()
    trained(mlflow)
    assert steps_and_rates(mlflow.rows) == WANTED
    assert mlflow.params["SGD/learning_rate"] == 0.1
    assert mlflow.tags == {"change 2 group 0/learning_rate": LINE}
    sink = adapt(mlflow)
    sink.log(1, {"*.bias[0]/lr": 1.0})
    assert mlflow.rows[-1] == (1, {"_.bias_0_/lr": 1.0})  # MLflow refuses such names


def test_a_logger_of_lightning() -> None:
    logger = LightningLogger()
    trained(logger)
    assert steps_and_rates(logger.rows) == WANTED
    assert logger.params["SGD/momentum"] == 0.5


def test_a_function_and_a_sink_of_ones_own() -> None:
    logged: list[Any] = []

    class Mine:
        def log(self, step: int, values: Any) -> None:
            logged.append((step, values))

    trained(Mine(), lambda step, values: logged.append((step, values)))
    assert steps_and_rates(logged[::2]) == WANTED
    assert steps_and_rates(logged[1::2]) == WANTED
    mine = Mine()
    assert adapt(mine) is mine
    for wrong in (object(), lambda values: None, None):
        with pytest.raises(TypeError, match="is no sink: allowed are"):
            adapt(wrong)
