"""The README's code about records runs as it stands there."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

import pytest
import torch

import pellucid
from pellucid.run.record import Record

README = Path(__file__).parents[2] / "README.md"


def test_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    section = README.read_text(encoding="utf-8").split("## All hyperparameters of a run\n")[1]
    code = re.findall(r"```python\n(.*?)```", section, re.S)[0]
    model = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.ReLU())
    data = torch.utils.data.TensorDataset(torch.zeros(8, 3))
    scope = {
        "pellucid": pellucid,
        "model": model,
        "optimizer": torch.optim.AdamW(model.parameters(), 0.02),
        "loader": torch.utils.data.DataLoader(data, 4),
        "trainer": import_module("accelerate").Accelerator(cpu=True),
    }
    exec(code, scope)
    assert "out_features  5" in capsys.readouterr().out
    record = Record.load("run/record.json")
    assert record["optimizer/groups/group 0/learning_rate"] == 0.02
    assert record["data/batch_size"] == 4
    assert record.entry("loop/epochs").provenance == "declared"
    again = record.optimizer(model)
    assert type(again) is torch.optim.AdamW
    assert again.param_groups[0]["lr"] == 0.02
