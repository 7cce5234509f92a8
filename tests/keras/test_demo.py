"""``pellucid demo --framework keras`` on the backend that Keras runs on here."""

from __future__ import annotations

import re
from typing import Any

import keras
import numpy
import pytest
from rich.console import Console
from typer.testing import CliRunner

import pellucid.demo.keras_demo as demo
import pellucid.keras
from pellucid import cli
from pellucid.demo.lion import Lion
from pellucid.demo.screen import Screen

BACKEND = keras.backend.backend()


def run(*arguments: str) -> Any:
    return CliRunner().invoke(cli.app, ["demo", "--framework", "keras", *arguments])


def test_the_demo_trains_and_changes_the_rate_inside_of_fit() -> None:
    result = run("--epochs", "2")
    assert result.exit_code in (0, 1), result.output  # so few epochs may miss the target
    shown = " ".join(result.stdout.split())
    for line in (
        "class Lion(Rule):",
        f"Keras {keras.__version__} on {BACKEND}",
        'view.set("learning_rate", 0.0003, reason="fine-tune")',
        "step 24 group 0/learning_rate 0.003 → 0.0003 (view: fine-tune)",
        "it acted at once",
        "of 360 held-out digits are right",
    ):
        assert line in shown
    (moves,) = re.findall(r"weights by (\S+) at most before it, the next one by (\S+):", shown)
    before, after = (float(number) for number in moves)
    assert before == pytest.approx(10 * after, rel=0.1)  # Lion's steps are the rate in size
    (difference,) = re.findall(r"the largest difference is (\S+)", shown)
    assert float(difference) < 1e-6
    (accuracy,) = re.findall(r"([\d.]+)% of 360", shown)
    assert float(accuracy) > 60
    table = result.stdout.partition("Every hyperparameter")[2].partition("The journal")
    assert "weight_decay" in table[0]
    assert "fine-tune" in table[2]


@pytest.mark.parametrize("acts", [True, False])
def test_a_change_that_does_not_act_fails_the_demo(acts: bool, capsys: Any) -> None:
    weight = keras.Variable(numpy.zeros(2, "float32"), name="w")
    optimizer = pellucid.keras.Optimizer(Lion(3e-3))
    optimizer.build([weight])
    change = demo.Change(optimizer, epoch=0)
    change._change()
    change._moves = [3e-3, 3e-4 if acts else 3e-3]
    assert change.show(Screen(Console(width=200))) is acts
    assert ("it acted" in capsys.readouterr().out) is acts
    assert float(optimizer.learning_rate) == pytest.approx(3e-4)


def test_epochs_have_other_orders_and_whole_batches() -> None:
    digits = demo.load_digits()
    batches = demo.Batches(digits)
    first = [batches[index] for index in range(len(batches))]
    assert {images.shape for images, _ in first} == {(demo.BATCH, 8, 8, 1)}
    batches.on_epoch_end()
    assert not numpy.array_equal(first[0][1], batches[0][1])
