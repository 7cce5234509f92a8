"""What a record says of its environment; nothing in it moves."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch

from pellucid.run import environment
from pellucid.run.environment import find_environment, masked
from pellucid.run.record import Findings


def found() -> tuple[dict[str, Any], dict[str, str]]:
    findings = Findings()
    find_environment(findings)
    values = {path: one.value for path, one in findings.entries.items()}
    return values, {one.path: one.why for one in findings.missing}


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        (["a.py", "--api-key", "abc", "--lr", "0.1"], ["a.py", "--api-key", "***", "--lr", "0.1"]),
        (["a.py", "--api-key=abc"], ["a.py", "--api-key=***"]),
        (["a.py", "--hub_token=abc", "x"], ["a.py", "--hub_token=***", "x"]),
        (["a.py", "logger.api_key=abc"], ["a.py", "logger.api_key=***"]),
        (["a.py", "++password=abc"], ["a.py", "++password=***"]),
        (["a.py", "-password", "-abc"], ["a.py", "-password", "***"]),
        (["a.py", "--token", "--verbose"], ["a.py", "--token", "--verbose"]),
        (["a.py", "https://me:abc@host/x"], ["a.py", "https://me:***@host/x"]),
        (["a.py", "--tokens=8", "token"], ["a.py", "--tokens=8", "token"]),
    ],
)
def test_secrets_of_the_command_line(given: list[str], shown: list[str]) -> None:
    assert masked(given) == shown


def test_versions_and_command(monkeypatch: Any) -> None:
    monkeypatch.setattr(sys, "argv", ["train.py", "--wandb-api-key", "abc"])
    values, _ = found()
    assert values["python"] == platform.python_version()
    assert values["command"] == ["train.py", "--wandb-api-key", "***"]
    for name in ("torch", "numpy", "pellucid"):
        assert values[f"packages/{name}"] == importlib.metadata.version(name)
    assert values["threads/torch"] == torch.get_num_threads()
    assert values["threads/cpus"] == os.cpu_count()


def test_flags_follow_torch(monkeypatch: Any) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = torch.get_float32_matmul_precision()
    try:
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.set_float32_matmul_precision("high")
        values, _ = found()
    finally:
        torch.use_deterministic_algorithms(False)
        torch.set_float32_matmul_precision(before)
    assert values["flags/torch/deterministic_algorithms"] is True
    assert values["flags/torch/deterministic_warn_only"] is True
    assert values["flags/torch/float32_matmul_precision"] == "high"
    assert values["flags/torch/cudnn/benchmark"] is torch.backends.cudnn.benchmark
    assert values["flags/environment/CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"


def test_seeds_are_read_and_not_moved(monkeypatch: Any) -> None:
    monkeypatch.setenv("PYTHONHASHSEED", "4")
    torch.manual_seed(17)
    numpy.random.seed(3)
    random.seed(5)
    states = torch.get_rng_state(), numpy.random.get_state()[1].tolist(), random.getstate()
    values, missed = found()
    again, _ = found()
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1] == numpy.random.get_state()[1].tolist()
    assert states[2] == random.getstate()
    assert values["seeds/torch"] == 17
    assert values["seeds/PYTHONHASHSEED"] == "4"
    assert values["seeds/numpy_state"] == again["seeds/numpy_state"]
    assert missed["seeds/numpy"].startswith("NumPy's global generator keeps its state")
    numpy.random.seed(4)
    random.seed(6)
    other, _ = found()
    assert other["seeds/numpy_state"] != values["seeds/numpy_state"]
    assert other["seeds/random_state"] != values["seeds/random_state"]


def test_a_repository(tmp_path: Path, monkeypatch: Any) -> None:
    def git(*arguments: str) -> str:
        command = ["git", "-c", "user.name=a", "-c", "user.email=a@b", *arguments]
        run = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True)
        return run.stdout.strip()

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    values, missed = found()
    assert "not a git repository" in missed["git"]
    git("init", "-q", "-b", "work")
    (tmp_path / "a.py").write_text("1")
    git("add", "a.py")
    git("commit", "-q", "-m", "one")
    values, _ = found()
    assert values["git/commit"] == git("rev-parse", "HEAD")
    assert values["git/branch"] == "work"
    assert values["git/dirty"] is False
    (tmp_path / "a.py").write_text("2")
    assert found()[0]["git/dirty"] is True


@pytest.mark.parametrize("error", [FileNotFoundError("git"), subprocess.TimeoutExpired("git", 2)])
def test_git_that_does_not_answer(monkeypatch: Any, error: Exception) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise error

    monkeypatch.setattr(environment.subprocess, "run", fail)
    assert found()[1]["git"] == f"git did not answer: {type(error).__name__}"


def test_a_framework_that_fails_hides_nothing(monkeypatch: Any) -> None:
    def fail() -> Any:
        raise RuntimeError("gone")

    monkeypatch.setattr(torch, "get_default_dtype", fail)
    monkeypatch.setattr(torch, "initial_seed", fail)
    values, missed = found()
    assert missed["flags/torch/default_dtype"] == "RuntimeError: gone"
    assert missed["seeds"] == "RuntimeError: gone"
    assert "threads/torch" in values


def test_only_loaded_frameworks_are_asked() -> None:
    code = (
        "import sys; from pellucid.run.collecting import collect; r = collect();"
        "print(sorted({'torch', 'keras', 'tensorflow', 'jax', 'numpy'} & set(sys.modules)));"
        "print([k for k in r if 'torch' in k])"
    )
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    run = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True)
    assert run.stdout.splitlines()[-1] == "[]", run.stderr
    loaded = run.stdout.splitlines()[-2]
    assert not any(name in loaded for name in ("torch", "keras", "tensorflow", "jax")), loaded
