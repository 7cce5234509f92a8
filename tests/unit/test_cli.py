"""The command line, `pellucid.explain`, and stages written as text."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import pellucid
from pellucid import (
    SGD,
    Adam,
    AdamW,
    Lion,
    RowwiseAdagrad,
    adaptive_clip,
    average_weights,
    chain,
    clip_by_global_norm,
    decay_weights,
    every,
    route,
    skip_nonfinite,
)
from pellucid import cli as cli_module
from pellucid.demo import keras_backend
from pellucid.rules import CATALOGUE
from pellucid.schedules import Cosine
from pellucid.stage_text import rule_from_text, stages_from_text, transform_names

MINE = '''"""A user's rule."""

from pellucid import Rule, hyper
from neighbour import HALF


class Plain(Rule):
    """The oldest rule.

    Cauchy 1847.
    """

    rate = hyper(HALF, minimum=0)

    def update(self, param, grad):
        return param - self.rate * grad


class Misspelt(Rule):
    """A mistake that only a trace finds."""

    def update(self, param, grad):
        return param - self.rat * grad


class Unknown(Rule):
    """A name that Python does not know."""

    def update(self, param, grad):
        return param - nothing * grad
'''


def run(*arguments: str) -> Any:
    return CliRunner().invoke(cli_module.app, list(arguments))


@pytest.fixture
def mine(tmp_path: Path) -> str:
    (tmp_path / "neighbour.py").write_text("HALF = 0.5\n")
    file = tmp_path / "mine_of_test_cli.py"
    file.write_text(MINE)
    return str(file)


# -- text --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "stage"),
    [
        ("Adam", Adam()),
        (" SGD(0.1, momentum=0.9, nesterov=True) ", SGD(0.1, momentum=0.9, nesterov=True)),
        ("SGD(Cosine(0.1, steps=100))", SGD(Cosine(0.1, steps=100))),
        ("AdamW(weight_decay=-0.0)", AdamW(weight_decay=0.0)),
        ("chain(clip_by_global_norm(1.0), Lion)", chain(clip_by_global_norm(1.0), Lion())),
        ("route({'*.bias': SGD(0.1), '*': Adam})", route({"*.bias": SGD(0.1), "*": Adam()})),
        (
            "chain(every(2, skip_nonfinite), SGD, decay_weights(1e-5, times=None))",
            chain(every(2, skip_nonfinite()), SGD(), decay_weights(1e-5, times=None)),
        ),
    ],
)
def test_text_is_read_as_it_is_written(text: str, stage: Any) -> None:
    assert rule_from_text(text) == stage


def test_stages_stand_where_their_kind_does() -> None:
    text = "clip_by_global_norm(1.0), decay_weights(0.1), average_weights(0.9)"
    stages = clip_by_global_norm(1.0), Adam(), decay_weights(0.1), average_weights(0.9)
    assert stages_from_text(text, Adam()) == chain(*stages)
    assert stages_from_text(" ", Adam()) == Adam()
    assert stages_from_text("skip_nonfinite", chain(clip_by_global_norm(1.0), Adam())) == chain(
        skip_nonfinite(), clip_by_global_norm(1.0), Adam()
    )


def test_a_file_is_run_once_and_its_class_keeps_its_source(mine: str) -> None:
    first = rule_from_text(f"{mine}:Plain(rate=0.25)")
    assert repr(first) == "Plain(rate=0.25)"
    assert type(rule_from_text(f"{mine}:Plain")) is type(first)
    assert type(first).__module__ == "mine_of_test_cli"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("adamw", "did you mean 'AdamW'"),
        ("Adamx(0.1)", "there is no 'Adamx'"),
        ("Adam(", "cannot be read"),
        ("", "cannot be read"),
        ("(" * 300, "cannot be read"),
        ("clip_by_global_norm(1.0)", "no rule"),
        ("Constant(0.1)", "an optimizer takes a rule"),
        ("SGD(momentun=0.9)", "did you mean 'momentum'"),
        ("SGD(-1)", "allowed is a finite number and >= 0"),
        ("__import__('os').getcwd()", "nothing is evaluated"),
        ("open('x')", "there is no 'open'"),
        ("SGD.__init__", "nothing is evaluated"),
        ("SGD(*[0.1])", "nothing is evaluated"),
        ("SGD(**{'momentum': 0.9})", "nothing is evaluated"),
        ("SGD(0.1 if True else 0.2)", "nothing is evaluated"),
        ("SGD(lambda t: 0.1)", "nothing is evaluated"),
        ("[1 for _ in 'ab']", "nothing is evaluated"),
        ("nowhere.py:Rule", "there is no file"),
    ],
)
def test_bad_text_is_refused_in_one_line(text: str, words: str) -> None:
    for command in (["explain", text], ["demo", f"--rule={text}"]):
        result = run(*command)
        assert result.exit_code == 2
        assert result.stderr.startswith("pellucid: error: ")
        assert result.stderr.count("\n") == 1
        assert words in result.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["explain", "Adam", "--stages", "SGD"], "the rule stands for itself"),
        (["explain", "Adam", "--stages", "clip_by_globl_norm(1.0)"], "did you mean"),
        (["explain", "Adam", "--stages", "1"], "allowed are gradient, update and parameter"),
        (["explain", "Adam", "--dtype", "half"], "is 'half'; allowed is one of 'float32'"),
        (["explain", "Adam", "--rounding", "up"], "rounding is 'up'"),
        (["demo", "--framework", "jax"], "comes later"),
        (["demo", "--framework", "pytorch"], "allowed is numpy, torch, keras"),
        (["demo", "--epochs", "1"], "from 2"),
    ],
)
def test_bad_arguments_are_refused_in_one_line(arguments: list[str], words: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
    assert words in result.stderr


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("def (:\n", "SyntaxError in line 1"),
        ("x = 1\nx / 0\n", "ZeroDivisionError in line 2"),
        ("import nowhere_at_all\n", "ModuleNotFoundError in line 1"),
        ("x = 1\n", "defines no rule"),
        ("from pellucid import Rule\nclass Empty(Rule): pass\n", "write update()"),
        ("from pellucid import Rule, hyper\nclass A(Rule):\n    step = hyper(1)\n", "'step' is"),
    ],
)
def test_a_bad_file_is_refused_in_one_line(tmp_path: Path, source: str, words: str) -> None:
    file = tmp_path / "bad_of_test_cli.py"
    file.write_text(source)
    result = run("explain", f"{file}:Empty")
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
    assert words in result.stderr


def test_mistakes_in_an_update_name_their_line(mine: str) -> None:
    result = run("explain", f"{mine}:Misspelt")
    assert result.exit_code == 2
    assert "`rat` was never declared in Misspelt" in result.stderr
    assert f"{mine}:{MINE[: MINE.index('self.rat ')].count(chr(10)) + 1}" in result.stderr
    result = run("explain", f"{mine}:Unknown")
    assert result.exit_code == 1
    assert "NameError: name 'nothing' is not defined" in result.stderr
    with pytest.raises(NameError):
        CliRunner().invoke(
            cli_module.app,
            ["--traceback", "explain", f"{mine}:Unknown"],
            catch_exceptions=False,
        )


# -- explain -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stage", "moved"),
    [
        (SGD(), [12]),
        (SGD(momentum=0.9), [20]),
        (Lion(), [20]),
        (AdamW(), [28]),
        (RowwiseAdagrad(), [12]),
        (chain(clip_by_global_norm(1.0), AdamW()), [4, 28]),
        (chain(clip_by_global_norm(1.0), AdamW(), average_weights()), [4, 36]),
        (chain(skip_nonfinite(), Lion()), [4, 20]),
    ],
)
def test_bytes_are_those_of_the_design(stage: Any, moved: list[int]) -> None:
    (program,) = pellucid.explain(stage).programs
    assert [one.bytes for one in program.passes] == moved
    assert program.bytes == sum(moved)
    (wide,) = pellucid.explain(stage, dtype="float64").programs
    assert wide.bytes == 2 * sum(moved)


def test_a_slot_of_its_own_type_counts_with_its_own_size() -> None:
    class Wide(pellucid.Rule):
        total: Any = pellucid.slot(dtype="float64")

        def update(self, param: Any, grad: Any) -> Any:
            self.total = self.total + grad
            return param - self.total

    assert pellucid.explain(Wide()).programs[0].bytes == 3 * 4 + 2 * 8


@pytest.mark.parametrize("rule", CATALOGUE.values())
def test_every_rule_is_explained(rule: type[Any]) -> None:
    text = str(pellucid.explain(rule()))
    assert "def update(self, param: Any, grad: Any) -> Any:" in text
    assert "bytes a parameter in float32" in text
    assert "param <- %" in text
    assert "def final_0(" in text
    assert text.endswith("Not fused\n---------\n    nothing")


def test_what_is_not_fused_is_named_with_its_reason() -> None:
    def halved(pairs: Any) -> Any:
        return [(grad / 2, param) for grad, param in pairs]

    explanation = pellucid.explain(chain(halved, SGD()))
    (reason,) = explanation.not_fused
    assert reason.startswith("halved: a plain function")
    assert reason in str(explanation)


def test_every_branch_and_every_sleeper_has_a_program() -> None:
    stage = chain(
        every(4, clip_by_global_norm(1.0)),
        route({"*.bias": SGD(), "*": chain(adaptive_clip(), Lion(), decay_weights(0.1))}),
    )
    programs = pellucid.explain(stage).programs
    assert [(one.label, one.asleep, one.bytes) for one in programs] == [
        ("*.bias", (), 16),
        ("*.bias", ("clip_by_global_norm",), 12),
        ("*", (), 24),
        ("*", ("clip_by_global_norm",), 20),
    ]
    kinds = [[one.kind for one in program.passes] for program in programs]
    assert kinds == [["reduce", "final"], ["final"], ["reduce", "final"], ["final"]]
    vectors = pellucid.explain(chain(adaptive_clip(), SGD()), ndim=1).programs
    assert [one.kind for one in vectors[0].passes] == ["reduce", "final"]


def test_a_row_slot_is_said_to_be_one() -> None:
    (only,) = pellucid.explain(RowwiseAdagrad()).programs[0].passes
    assert "accumulator (one a row)" in only.reads
    assert "accumulator (one a row)" in only.writes


def test_a_class_made_at_a_prompt_has_no_source() -> None:
    scope: dict[str, Any] = {"Rule": pellucid.Rule, "__name__": "prompt"}
    exec("class Bare(Rule):\n    def update(self, param, grad):\n        return param\n", scope)
    assert "defined at a prompt" in str(pellucid.explain(scope["Bare"]()))


def test_explain_refuses_what_is_none() -> None:
    with pytest.raises(TypeError, match=r"construct it: Adam\(\)"):
        pellucid.explain(Adam)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="ndim is -1"):
        pellucid.explain(Adam(), ndim=-1)


def test_the_command_prints_the_explanation(mine: str) -> None:
    result = run("explain", "Adam")
    assert result.exit_code == 0
    assert result.stdout == str(pellucid.explain(Adam())) + "\n"
    result = run("explain", "Adam", "--stages", "clip_by_global_norm(1.0), decay_weights(0.01)")
    assert "2 passes, 32 bytes a parameter in float32" in result.stdout
    assert "Pascanu et al. 2013" in result.stdout
    result = run("explain", f"{mine}:Plain(rate=0.1)", "--dtype", "float64")
    assert result.stdout.startswith("Plain(rate=0.1)\n")
    assert "Cauchy 1847." in result.stdout
    assert "1 pass, 24 bytes a parameter in float64" in result.stdout


def test_on_a_terminal_it_is_in_color() -> None:
    import io

    from rich.console import Console

    out = io.StringIO()
    Console(file=out, force_terminal=True, width=200).print(pellucid.explain(Lion()))
    assert "\x1b[" in out.getvalue()
    assert "final_0" in out.getvalue()


# -- rules, bench, start-up --------------------------------------------------------------------


def test_rules_lists_all_with_hyperparameters_and_sources() -> None:
    result = run("rules")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    for name, rule in CATALOGUE.items():
        start = lines.index(name)
        entry = "\n".join(lines[start : lines.index("", start)])
        for argument in rule.declared.arguments:
            assert f"{argument}=" in entry
        assert re.search(r"\b(19|20)\d\d\b", entry), f"{name} names no source"
        assert f"pellucid/rules/{rule.__module__.rpartition('.')[2]}.py" in entry
    for transform in transform_names():
        assert transform in lines[-1]


def test_bench_runs_the_checkouts_script(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(cli_module, "__file__", str(tmp_path / "src" / "pellucid" / "cli.py"))
    result = run("bench")
    assert result.exit_code == 2
    assert "runs from a checkout" in result.stderr
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "run.py").write_text("import sys; sys.exit(len(sys.argv) - 1)\n")
    assert run("bench", "--only", "gpt2", "--quick").exit_code == 3


def test_starting_loads_no_framework() -> None:
    code = (
        "import sys, pellucid.cli\n"
        "print(sorted({'numpy', 'numba', 'torch', 'sklearn'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


# -- the demo ----------------------------------------------------------------------------------


def test_the_demo_trains_changes_saves_and_continues() -> None:
    result = run("demo")
    assert result.exit_code == 0, result.output
    for line in (
        "class Lion(Rule):",
        'view.set("learning_rate", 0.0003, reason="fine-tune")',
        "step 461  group 0/learning_rate  0.003 → 0.0003  (view: fine-tune)",
        "equal bit for bit after 690 updates: 4 parameters and 4 slots",
        "of 360 held-out digits are right",
    ):
        assert line in result.stdout
    assert "weight_decay" in result.stdout.partition("Every hyperparameter")[2]


def test_the_demo_of_a_users_rule_fails_below_the_target(mine: str) -> None:
    result = run("demo", "--rule", f"{mine}:Plain(rate=0.01)", "--epochs", "2")
    assert result.exit_code == 1
    assert "class Plain(Rule):" in result.stdout
    assert 'view.set("rate", 0.001, reason="fine-tune")' in result.stdout
    assert "equal bit for bit after 46 updates: 4 parameters and 0 slots" in result.stdout


@pytest.mark.parametrize(
    "text",
    [
        "chain(clip_by_global_norm(1.0), AdamW(Cosine(0.004, steps=46)), average_weights(0.9))",
        "route({'*.bias': SGD(0.1), '*': RowwiseAdagrad(0.1)})",
        "ASGD",
    ],
)
def test_the_demo_takes_chains_routes_and_schedules(text: str) -> None:
    result = run("demo", "--rule", text, "--epochs", "2")
    assert result.exit_code in (0, 1), result.output
    assert "equal bit for bit" in result.stdout


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keras's own settings stand here; torch and JAX are installed."""
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.delenv("KERAS_BACKEND", raising=False)
    monkeypatch.setattr(keras_backend, "installed", lambda name: name in ("torch", "jax"))
    return tmp_path


@pytest.mark.parametrize(
    ("environment", "file", "backend"),
    [
        ("", "", "torch"),
        ("jax", "", "jax"),
        ("tensorflow", '{"backend": "torch"}', "tensorflow"),
        ("", '{"backend": "jax"}', "jax"),
        ("", '{"backend": "tensorflow"}', "torch"),  # Keras wrote that, unasked
        ("", "{", "torch"),
        ("", "[]", "torch"),
    ],
)
def test_the_backend_of_the_demo_in_keras(
    home: Path, monkeypatch: pytest.MonkeyPatch, environment: str, file: str, backend: str
) -> None:
    if environment:
        monkeypatch.setenv("KERAS_BACKEND", environment)
    if file:
        (home / "keras.json").write_text(file)
    assert keras_backend.chosen() == backend


def test_the_smallest_backend_where_there_is_none(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keras_backend, "installed", lambda name: False)
    assert keras_backend.chosen() == "jax"


def test_a_backend_that_cannot_train_or_is_missing_is_refused_in_one_line(tmp_path: Path) -> None:
    """In a process where Keras is not loaded."""
    for backend, words in {
        "openvino": "KERAS_BACKEND names the backend 'openvino'; allowed is tensorflow, torch, jax",
        "jax": "pip install 'pellucid[keras,jax]'",
    }.items():
        code = (
            "import pellucid.demo.keras_backend as backends, pellucid.cli\n"
            "backends.installed = lambda name: False\n"
            "pellucid.cli.main()\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, "demo", "--framework", "keras"],
            env={**os.environ, "KERAS_BACKEND": backend},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 2, done.stderr
        assert done.stderr.count("\n") == 1
        assert words in done.stderr


def test_the_demo_in_torch_compares_with_torch_and_numpy() -> None:
    pytest.importorskip("torch", reason="the torch demo needs PyTorch")
    result = run("demo", "--framework", "torch", "--epochs", "2")
    assert result.exit_code in (0, 1), result.output  # so few epochs may miss the target
    assert "learning_rate (lr)" in result.stdout
    assert "torch.optim.AdamW(fused=True)" in result.stdout
    assert result.stdout.count(": ratio ") == 4
    assert "the largest difference is 0" in " ".join(result.stdout.split())
