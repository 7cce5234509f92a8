"""The README's code about views and PyTorch runs as it stands there."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch

import pellucid
import pellucid.torch
from pellucid.rules import CATALOGUE

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


def test_16_bit_storage() -> None:
    scope = {"pellucid": pellucid, "torch": torch, "model": Small()}
    exec(block("16-bit storage"), scope)
    model, opt = scope["model"], scope["opt"]
    trained(model, opt)
    state = opt.state[model.head.weight]
    names = ("exp_avg", "exp_avg_sq", "compensation")
    assert {state[name].dtype for name in names} == {model.head.weight.dtype} == {torch.bfloat16}


@pytest.mark.parametrize(
    ("make", "beta2", "left"),
    [
        (torch.optim.AdamW, 0.999, 1.0),
        (lambda *a, **k: pellucid.torch.AdamW(*a, state_dtype="bfloat16", **k), 0.999, 1.0),
        (lambda *a, **k: pellucid.torch.AdamW(*a, state_dtype="param", **k), 0.999, 1.0),
        (pellucid.torch.AdamW, 0.999, 0.999**500),
        (lambda *a, **k: pellucid.torch.AdamW(*a, state_dtype="param", **k), 0.99, 0.99**500),
    ],
    ids=["torch", "bfloat16", "param", "float32", "smaller beta2"],
)
def test_a_second_moment_in_bfloat16_never_falls(make: Any, beta2: float, left: float) -> None:
    """Of gradients that are gone for 500 steps, with Adam's usual beta2; a smaller one lets it."""
    param = torch.nn.Parameter(torch.ones(256, dtype=torch.bfloat16))
    opt = make([param], lr=1e-3, betas=(0.9, beta2))
    param.grad = torch.randn(256, generator=torch.Generator().manual_seed(0)).bfloat16()
    opt.step()
    first = opt.state[param]["exp_avg_sq"].double().clone()
    param.grad = torch.zeros_like(param)
    for _ in range(500):
        opt.step()
    ratio = opt.state[param]["exp_avg_sq"].double() / first
    tolerance = {1.0: 0.0, 0.999**500: 1e-4}.get(left, 0.5)
    torch.testing.assert_close(ratio, torch.full_like(ratio, left), rtol=tolerance, atol=0.0)


def test_sparse_gradients() -> None:
    model = Small()
    scope = {
        "pellucid": pellucid, "torch": torch, "model": model, "route": pellucid.route,
        "RowwiseAdagrad": pellucid.RowwiseAdagrad, "AdamW": pellucid.AdamW,
    }  # fmt: skip
    exec(block("Sparse gradients"), scope)
    before = model.embed.weight.detach().clone()
    trained(model, scope["opt"])
    moved = (model.embed.weight.detach() != before).any(dim=1)
    assert moved.tolist() == [row < 12 for row in range(50)]
    assert scope["opt"].state[model.embed.weight]["sum"].shape == (50, 1)


CATCH_UP = {
    "SGD", "Adam", "AdamW", "NAdam", "RAdam", "RMSprop", "Adagrad", "RowwiseAdagrad", "Adadelta",
    "Lion", "Signum",
}  # fmt: skip


@pytest.mark.parametrize("name", CATALOGUE)
def test_which_rules_take_sparse_gradients(name: str) -> None:
    """All of them lazily; those that the README lists catch up, the others raise."""
    for mode in ("lazy", "catch_up"):
        param = torch.nn.Parameter(torch.randn(8, 4))
        opt = getattr(pellucid.torch, name)([param], sparse=mode)
        param.grad = torch.sparse_coo_tensor(
            torch.tensor([[1, 3]]), torch.ones(2, 4), (8, 4), check_invariants=True
        )
        if mode == "lazy" or name in CATCH_UP:
            opt.step()
        else:
            with pytest.raises(pellucid.RuleError, match="use sparse='lazy' or sparse='dense'"):
                opt.step()


def test_amp() -> None:
    """An update for each batch but those whose gradients overflow, at which the scale is halved."""
    torch.manual_seed(0)
    model = Small()
    before = model.head.weight.detach().clone()
    scope = {
        "pellucid": pellucid, "torch": torch, "model": model, "chain": pellucid.chain,
        "clip_by_global_norm": pellucid.clip_by_global_norm, "AdamW": pellucid.AdamW,
        "batches": [torch.arange(12)] * 3,
    }  # fmt: skip
    exec(block("AMP"), scope)
    scale = scope["scaler"].get_scale()
    assert scope["opt"].updates == 3 - math.log2(65536.0 / scale) > 0
    assert not torch.equal(model.head.weight, before)
    scaled = model.head.bias.grad.clone()
    scope["scaler"].unscale_(scope["opt"])
    torch.testing.assert_close(model.head.bias.grad * scale, scaled)


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
