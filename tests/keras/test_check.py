"""`pellucid.check` tries a rule in Keras, too, where Keras is loaded."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import keras
import pytest

import pellucid
from pellucid import Adam, conformance

BACKEND = keras.backend.backend()


def test_a_check_runs_the_rule_on_keras_backend() -> None:
    report = pellucid.check(Adam, steps=3)
    for dtype in ("float64", "float32"):
        assert f"Keras on {BACKEND} = the interpreted graph, {dtype}" in report.passed


def test_a_difference_in_keras_fails_the_check(monkeypatch: pytest.MonkeyPatch) -> None:
    run = conformance._run_keras

    def off(*arguments: Any) -> dict[str, Any]:
        return {name: value * 1.1 for name, value in run(*arguments).items()}

    monkeypatch.setattr(conformance, "_run_keras", off)
    with pytest.raises(AssertionError, match=f"FAILED  Keras on {BACKEND} = .*float64: .* is off"):
        pellucid.check(Adam, steps=3)


@pytest.mark.backends("torch")  # the process has no backend of Keras: once will do
def test_a_check_does_not_load_keras_by_itself() -> None:
    code = (
        "import sys, pellucid\n"
        "report = pellucid.check(pellucid.SGD, steps=2)\n"
        "assert not any('Keras' in line for line in report.passed), report\n"
        "print({'keras', 'tensorflow', 'jax'} & set(sys.modules))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
