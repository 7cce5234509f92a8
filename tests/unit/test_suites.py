"""``make test`` runs all suites, whatever fails; arguments go to those that they concern."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

PLACE = Path(__file__).parents[2] / "tools" / "suites.py"
NAMES = ["main", "Keras on tensorflow", "Keras on jax", "Keras on torch"]


@pytest.fixture
def suites(monkeypatch: pytest.MonkeyPatch) -> Any:
    spec = importlib.util.spec_from_file_location("suites", PLACE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "suites", module)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("given", "main", "keras"),
    [
        ([], [], ["tests/keras"]),
        (["-x"], ["-x"], ["-x", "tests/keras"]),
        (["tests/unit"], ["tests/unit"], None),
        (["tests/unit/test_cli.py::test_x", "-v"], ["tests/unit/test_cli.py::test_x", "-v"], None),
        (["tests/keras", "-k", "sgd"], None, ["tests/keras", "-k", "sgd"]),
        (["tests/keras/test_rules.py::test_y"], None, ["tests/keras/test_rules.py::test_y"]),
        (["tests", "-k", "sgd"], ["tests", "-k", "sgd"], ["tests/keras", "-k", "sgd"]),
        (["tests/unit", "tests/keras"], ["tests/unit", "tests/keras"], ["tests/keras"]),
    ],
)
def test_arguments_go_where_their_paths_are(
    suites: Any, given: list[str], main: list[str] | None, keras: list[str] | None
) -> None:
    assert [suite.name for suite in suites.SUITES] == NAMES
    assert [suite.arguments(given) for suite in suites.SUITES] == [main, keras, keras, keras]


@pytest.mark.parametrize(
    ("codes", "code"),
    [([0, 0, 0, 0], 0), ([1, 0, 0, 0], 1), ([0, 0, 2, 0], 1), ([5, 5, 0, 5], 0), ([5, 5, 5, 5], 1)],
)
def test_all_run_and_the_summary_says_which_failed(
    suites: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any, codes: list[int], code: int
) -> None:
    ran: dict[str, int] = {}

    def run(suite: Any, arguments: list[str]) -> int:
        ran[suite.name] = codes[len(ran)]
        return ran[suite.name]

    monkeypatch.setattr(suites.Suite, "run", run)
    assert suites.main([]) == code
    assert [*ran] == NAMES
    summary = capsys.readouterr().out.splitlines()[-4:]
    wanted = {0: "passed", 5: "no tests"}
    for line, name in zip(summary, NAMES, strict=True):
        assert line.startswith(name)
        assert wanted.get(ran[name], "FAILED") in line


def test_each_runs_under_its_backend_and_the_main_one_under_none(
    suites: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the user's own environment names another."""
    monkeypatch.setenv("KERAS_BACKEND", "openvino")
    seen = []

    def run(command: list[str], env: dict[str, str], **_: Any) -> Any:
        seen.append(env.get("KERAS_BACKEND"))
        return type("Done", (), {"returncode": 0})

    monkeypatch.setattr(suites.subprocess, "run", run)
    assert suites.main([]) == 0
    assert seen == [None, "tensorflow", "jax", "torch"]
