"""The README's code about views runs as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

import pellucid
import pellucid.torch

README = Path(__file__).parents[2] / "README.md"


def blocks(heading: str) -> list[str]:
    """The Python blocks of a section."""
    (section,) = re.findall(rf"^## {heading}\n(.*?)(?=^## |\Z)", README.read_text(), re.M | re.S)
    return re.findall(r"```python\n(.*?)```", section, re.S)


@pytest.mark.parametrize("ours", [False, True])
def test_see_and_change(
    ours: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    layers = [torch.nn.Linear(3, 3), torch.nn.Linear(3, 2)]
    model = torch.nn.Sequential()
    model.add_module("encoder", torch.nn.Sequential(*layers[:1]))
    model.add_module("head", layers[1])
    groups = [
        {"params": list(model.encoder.parameters()), "lr": 0.1},
        {"params": list(model.head.parameters())},
    ]
    make = pellucid.torch.AdamW if ours else torch.optim.AdamW
    optimizer, another = make(groups), make(model.parameters())
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 10)
    journal = pellucid.journal(optimizer)
    for _ in range(1200):
        optimizer.zero_grad()
        (model(torch.randn(4, 3)) ** 2).sum().backward()
        optimizer.step()
    scope = {
        "pellucid": pellucid, "model": model, "optimizer": optimizer, "scheduler": scheduler,
        "one_optimizer": optimizer, "another": another,
    }  # fmt: skip
    code = blocks("See and change everything")
    assert len(code) == 2
    for block in code:
        exec(block, scope)
    assert [group["weight_decay"] for group in optimizer.param_groups[:2]] == [0.01, 0.0]
    assert optimizer.param_groups[0]["betas"] == (0.95, 0.999)
    assert "overfits" in capsys.readouterr().out
    assert journal.at(1201)["group 1/weight_decay"] == 0.0
    assert (tmp_path / "run.jsonl").stat().st_size > 100
