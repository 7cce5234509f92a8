"""Records: values by path with their provenance, in memory, in files and in print."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from typer.testing import CliRunner

import pellucid
import pellucid.cli
from pellucid.run.compare import compare
from pellucid.run.record import Entry, Findings, Missing, Record


def found(**changed: Any) -> Record:
    """A small record; ``changed`` are values of the loop."""
    findings = Findings()
    model = findings.at("model")
    model.add("class", "shop.Net")
    model.at("layers/dense").add("units", 64, source="Dense.units")
    model.at("layers/dense").add("activation", "relu", "default", "Dense.activation")
    model.miss("layers/dense/seed", "Dense keeps no seed")
    for name, value in {"epochs": 3, "rate": 0.1, **changed}.items():
        findings.at("loop").add(name, value, "declared")
    findings.recipe("model", {"kind": "class", "class": "shop:Net"})
    return findings.record("2026-01-01T00:00:00+00:00")


def test_values_by_path_and_by_attribute() -> None:
    record = found()
    assert list(record) == [
        "model/class", "model/layers/dense/units", "model/layers/dense/activation",
        "loop/epochs", "loop/rate",
    ]  # fmt: skip
    assert record["model/layers/dense/units"] == 64
    assert record.entry("model/layers/dense/activation") == Entry(
        "relu", "default", "Dense.activation"
    )
    assert record.tree.model.layers.dense.units == 64
    assert record["model"]["layers/dense/units"] == 64
    assert record["loop"].to_dict() == {"epochs": 3, "rate": 0.1}
    assert dict(record["loop"]) == {"epochs": 3, "rate": 0.1}
    assert record.missing == (Missing("model/layers/dense/seed", "Dense keeps no seed"),)
    assert "loop/epochs" in record
    assert "loop" in record
    assert "loo" not in record


def test_a_value_above_others_is_kept() -> None:
    findings = Findings()
    for path, value in (("a/b", 2), ("a", 1), ("c", 3), ("c/d", 4)):
        findings.add(path, value)
    tree = findings.record().tree
    assert tree.to_dict() == {"a": {"b": 2, "": 1}, "c": {"": 3, "d": 4}}


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("model/layers/dense/unit", "did you mean 'model/layers/dense/units'"),
        ("model/layers/dense/seed", "was not captured: Dense keeps no seed"),
        ("nothing", "sections: model, loop"),
    ],
)
def test_a_path_that_is_not_there(path: str, says: str) -> None:
    with pytest.raises(KeyError, match=says):
        found().entry(path)
    with pytest.raises(KeyError, match=says):
        found()[path]
    with pytest.raises(AttributeError, match="there is no 'optimizer'; there is model, loop"):
        _ = found().tree.optimizer


def test_a_path_keeps_what_was_found_first() -> None:
    findings = Findings()
    findings.add("x", 1, "declared")
    findings.add("x", 2)
    assert findings.record().entry("x") == Entry(1, "declared")


# -- files -------------------------------------------------------------------------------------


def test_a_file_holds_all(tmp_path: Path) -> None:
    record = found(scale=float("inf"), secret_key="abc", note="naïve → done")
    record.save(tmp_path / "record.json")
    again = Record.load(tmp_path / "record.json")
    assert again.to_dict() == record.to_dict()
    assert again.missing == record.missing
    assert again["loop/scale"] == "inf"
    assert again["loop/secret_key"] == "***"
    assert "abc" not in (tmp_path / "record.json").read_text(encoding="utf-8")
    data = json.loads((tmp_path / "record.json").read_text(encoding="utf-8"))
    jsonschema.validate(data, Record.schema())
    assert os.listdir(tmp_path) == ["record.json"]


def test_the_schema_refuses_what_is_no_record() -> None:
    data = found().to_dict()
    data["entries"]["loop/epochs"]["provenance"] = "guessed"
    with pytest.raises(jsonschema.ValidationError, match="guessed"):
        jsonschema.validate(data, Record.schema())


@pytest.mark.parametrize("fails", ["fsync", "replace"])
def test_a_full_disk_leaves_the_last_good_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    place = tmp_path / "record.json"
    found().save(place)
    before = place.read_bytes()

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, fails, full)
        with pytest.raises(OSError, match="No space left"):
            found(epochs=4).save(place)
    assert place.read_bytes() == before
    assert os.listdir(tmp_path) == ["record.json"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "is no JSON"),
        ("[]", "is no record"),
        ('{"entries": {}}', "is no record"),
        ('{"format": 9, "entries": {}}', "format is 9; this version of Pellucid reads 1"),
        ('{"format": 1, "entries": {"a": 3}}', "damaged"),
        ('{"format": 1, "entries": {}, "missing": [1]}', "damaged"),
    ],
)
def test_a_file_that_is_no_record(tmp_path: Path, text: str, says: str) -> None:
    place = tmp_path / "record.json"
    place.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=rf"record\.json.*{says}"):
        Record.load(place)


# -- two records -------------------------------------------------------------------------------


def test_what_differs() -> None:
    one, other = found(), found(epochs=4, extra=True)
    rows = [row.to_dict() for row in one.diff(other)]
    assert rows == [
        {
            "path": "loop/epochs",
            "a": {"value": 3, "provenance": "declared"},
            "b": {"value": 4, "provenance": "declared"},
        },
        {"path": "loop/extra", "b": {"value": True, "provenance": "declared"}},
    ]
    made = pellucid.diff(one, other)
    assert [row.path for row in made] == ["loop/epochs", "loop/extra"]
    assert made.same == 4
    assert list(made.sections) == ["loop"]
    shown = " ".join(str(made).split())
    assert "loop/epochs 3 4 declared" in shown
    assert "only in b, declared" in shown
    assert not one.diff(found())
    assert "no difference: 5 values are the same" in str(one.diff(found()))
    assert "loop/epochs</th>" in made._repr_html_()


def test_true_is_not_one_and_provenance_alone_is_no_difference() -> None:
    one, other = found(epochs=1), found(epochs=True)
    assert [row.path for row in one.diff(other)] == ["loop/epochs"]
    entries = {**one.entries, "loop/epochs": Entry(1, "observed")}
    assert not one.diff(Record(entries))


def test_sections_stay_together() -> None:
    one, other = Findings(), Findings()
    one.add("a/x", 1)
    one.add("b/x", 1)
    other.add("a/y", 1)
    assert [row.path for row in compare(one.record(), other.record())] == ["a/x", "a/y", "b/x"]


# -- the command line --------------------------------------------------------------------------


def run(*arguments: str) -> Any:
    return CliRunner().invoke(pellucid.cli.app, list(arguments))


def test_show(tmp_path: Path) -> None:
    found().save(tmp_path / "record.json")
    for place in (tmp_path / "record.json", tmp_path):  # a run's folder will do
        shown = run("show", str(place))
        assert shown.exit_code == 0, shown.output
        assert "activation  relu  (default)" in shown.output
        assert "Dense keeps no seed" in shown.output
    assert run("show", str(tmp_path), "loop/epochs").output == "3  (declared)\n"
    assert "units  64" in run("show", str(tmp_path), "model/layers").output
    data = json.loads(run("show", str(tmp_path), "loop", "--json").output)
    assert data == {"epochs": 3, "rate": 0.1}
    assert json.loads(run("show", str(tmp_path), "--json").output) == found().to_dict()
    wrong = run("show", str(tmp_path), "loop/epoch")
    assert wrong.exit_code == 2
    assert "did you mean 'loop/epochs'" in wrong.output
    absent = run("show", str(tmp_path / "other.json"))
    assert absent.exit_code == 2
    assert "there is no" in absent.output
    assert "a folder with record.json" in " ".join(absent.output.split())


def test_diff_of_files(tmp_path: Path) -> None:
    for name, epochs in (("a", 3), ("b", 5)):
        (tmp_path / name).mkdir()
        found(epochs=epochs).save(tmp_path / name / "record.json")
    one, other = str(tmp_path / "a"), str(tmp_path / "b")
    differs = run("diff", one, other)
    assert differs.exit_code == 1
    assert "loop/epochs" in differs.output
    assert run("diff", one, one).exit_code == 0
    data = json.loads(run("diff", one, other, "--json").output)
    assert [row["path"] for row in data["rows"]] == ["loop/epochs"]
