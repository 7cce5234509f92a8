"""The README's code about views and PyTorch runs as it stands there."""

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


def block(subheading: str) -> str:
    """The one Python block of a subsection."""
    text = README.read_text()
    (section,) = re.findall(rf"^### {subheading}\n(.*?)(?=^##|\Z)", text, re.M | re.S)
    (found,) = re.findall(r"```python\n(.*?)```", section, re.S)
    return str(found)


class Small(torch.nn.Module):
    """With all names of the README's examples."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.encoder = torch.nn.Embedding(50, 4), torch.nn.Linear(4, 4)
        self.decoder, self.head = torch.nn.Linear(4, 4), torch.nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.head(self.decoder(self.encoder(self.embed(x))))
        return found


def trained(model: Small, opt: torch.optim.Optimizer, steps: int = 3) -> None:
    for _ in range(steps):
        opt.zero_grad()
        model(torch.arange(12)).square().sum().backward()
        opt.step()


def test_state_surgery() -> None:
    model = Small()
    opt = pellucid.torch.AdamW(model, lr=0.1)
    trained(model, opt)
    other = torch.nn.Parameter(model.head.weight.detach().clone())
    keep = torch.arange(60) % 2 == 0
    scope = {"opt": opt, "keep": keep, "rows": torch.ones(5, 4), "other": other}
    exec(block("State surgery"), scope)
    assert model.embed.weight.shape == opt.state[model.embed.weight]["exp_avg"].shape == (35, 4)
    assert float(opt.state[other]["step"]) == 3
    assert not model.embed.weight.requires_grad
    assert model.encoder.weight.requires_grad
    assert model.head.bias not in opt.state
    model.head.weight = other
    trained(model, opt, 1)
    assert float(opt.state[model.encoder.weight]["step"]) == 1


def test_averages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model, seen = Small(), []
    scope = {
        "pellucid": pellucid, "torch": torch, "chain": pellucid.chain, "AdamW": pellucid.AdamW,
        "average_weights": pellucid.average_weights, "model": model, "train": trained,
        "evaluate": lambda net: seen.append(net.head.weight.detach().clone()),
    }  # fmt: skip
    exec(block("Averages"), scope)
    saved = torch.load("averaged.pt", weights_only=True)
    assert torch.equal(saved["head.weight"], seen[0])
    assert not torch.equal(model.head.weight, seen[0])


def test_schedules() -> None:
    from pellucid.schedules import Linear, WarmUp

    model = Small()
    opt = pellucid.torch.AdamW(model)
    trained(model, opt)
    exec(block("Schedules"), {"opt": opt, "Linear": Linear, "WarmUp": WarmUp})
    trained(model, opt)
    decays = [group["weight_decay"] for group in opt.param_groups]
    assert decays == [0.01, Linear(0.1, 0.0, 10_000)(5)]
    assert opt.journal[-1].reason == "large batches"


def test_checkpoints_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    def small(**heads: torch.nn.Module) -> torch.nn.Module:
        made = torch.nn.Module()
        made.embed, made.encoder = torch.nn.Embedding(50, 4), torch.nn.Linear(4, 4)
        for name, head in heads.items():
            made.add_module(name, head)
        return made

    heads = {name: torch.nn.Linear(4, 2, bias=False) for name in ("head", "old_head")}
    wrapped = torch.nn.Module()
    wrapped.add_module("module", small(**heads))
    old = pellucid.torch.Adam(wrapped, lr=0.01)
    for param in wrapped.parameters():
        param.grad = torch.ones_like(param)
    old.step()
    scope = {
        "pellucid": pellucid, "model": small(head=torch.nn.Linear(4, 2)), "saved": old.state_dict(),
    }  # fmt: skip
    exec(block("Checkpoints by name"), scope)
    refused, _, loaded = capsys.readouterr().out.partition("4 of 5 parameters matched by name: l")
    assert refused.startswith("4 of 5 parameters matched by name: refused")
    (section,) = re.findall(r"### Checkpoints by name\n(.*?)\n##", README.read_text(), re.S)
    assert f"4 of 5 parameters matched by name: l{loaded}" in section
