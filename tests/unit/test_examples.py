"""The seeds' programs run, and equal their Pellucid forms."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import torch

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def load(name: str) -> ModuleType:
    """An example as a module."""
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / "seeds" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


seeds = load("pytorch_optimizers")


@pytest.mark.parametrize("name", seeds.PAIRS)
def test_a_seeds_optimizer_equals_its_pellucid_form(name: str) -> None:
    seed, ours, before_step = seeds.PAIRS[name]
    expected = seeds.trained(seed, before_step=before_step)
    start = seeds.trained(seed, steps=0)
    for a, b, first in zip(expected, seeds.trained(ours), start, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-5, atol=1e-6)
        assert (a - first).abs().max() > 1e-2, "nothing was trained, so nothing was compared"


def test_access_by_name_does_what_walking_the_groups_does() -> None:
    model = torch.nn.Linear(2, 1)
    theirs = seeds.CustomOptimizer(model.parameters(), lr=0.4)
    ours = pellucid_optimizer(model)
    assert seeds.access_by_torch(theirs) == seeds.access_by_view(ours) == {"group 0/lr": 0.2}
    assert "halved" in ours.journal[-1].reason


def pellucid_optimizer(model: torch.nn.Module):  # type: ignore[no-untyped-def]
    """The seed's first optimizer in Pellucid."""
    import pellucid.torch

    return pellucid.torch.Optimizer(model, seeds.Custom(0.4))


def test_main_prints_a_line_for_each(capsys: pytest.CaptureFixture[str]) -> None:
    seeds.main()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(seeds.PAIRS)
    for line in lines:
        assert float(line.split()[-1]) < 1e-5
