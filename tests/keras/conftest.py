"""Tests of Keras, which run in a process of their own for each backend.

``KERAS_BACKEND=jax pytest tests/keras`` runs them on one.
Without ``KERAS_BACKEND`` nothing here is collected; ``make test`` runs all three.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))  # reference, conformance

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
WARNINGS = [  # of the frameworks themselves
    "__array__ implementation doesn't accept a copy keyword:DeprecationWarning",
]
BACKEND = os.environ.get("KERAS_BACKEND", "")
collect_ignore_glob = [] if BACKEND else ["test_*.py"]


def pytest_configure(config: Any) -> None:
    for text in WARNINGS:
        config.addinivalue_line("filterwarnings", f"ignore:{text}")
    config.addinivalue_line("markers", "backends(*names): makes sense on these backends alone")


def pytest_collection_modifyitems(config: Any, items: list[Any]) -> None:
    """Leave out what another backend's process runs."""
    others = [item for item in items if BACKEND not in _backends(item)]
    if others:
        config.hook.pytest_deselected(items=others)
        items[:] = [item for item in items if item not in set(others)]


def _backends(item: Any) -> set[str]:
    named = [set(mark.args) for mark in item.iter_markers("backends")]
    return set.intersection(*named) if named else {BACKEND}


@pytest.fixture(autouse=True)
def _fresh_names() -> Any:
    """Keras's automatic names begin anew."""
    import keras

    keras.utils.clear_session(free_memory=False)
    return None
