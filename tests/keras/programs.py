"""The seeds' programs, loaded as modules."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

SEEDS = Path(__file__).parents[2] / "examples" / "seeds"


def load(name: str) -> Any:
    """A program of examples/seeds, run as far as its definitions."""
    spec = importlib.util.spec_from_file_location(name, SEEDS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
