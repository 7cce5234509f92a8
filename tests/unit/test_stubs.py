"""The stubs that editors read say what the declarations say."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

TOOL = Path(__file__).resolve().parents[2] / "tools" / "stubs.py"


def test_stubs_are_up_to_date(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("stubs", TOOL)
    assert spec is not None
    assert spec.loader is not None
    stubs = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(stubs)
    assert stubs.stale() == [], "run: python tools/stubs.py"
    path, text = next(iter(stubs.STUBS.items()))
    changed = tmp_path / path.name
    changed.write_text(path.read_text().replace("learning_rate", "rate"))
    monkeypatch.setattr(stubs, "STUBS", {changed: text})
    assert stubs.stale() == [path.name]
