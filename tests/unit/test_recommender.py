"""The recommender example learns, leaves untouched rows alone, and goes on from its checkpoint."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import pellucid
import pellucid.torch

FILE = Path(__file__).resolve().parents[2] / "examples" / "recommender.py"


def example() -> ModuleType:
    """The example as a module."""
    spec = importlib.util.spec_from_file_location("recommender", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["recommender"] = module
    spec.loader.exec_module(module)
    return module


recommender = example()


def begun() -> tuple[Any, Any]:
    torch.manual_seed(0)
    model = recommender.Recommender()
    return model, recommender.optimizer_of(model)


def tables_of(model: Any, ratings: Any) -> list[tuple[Any, Any]]:
    """Each table's weight, with the rows that ratings have of it."""
    return [(model.users.weight, ratings.users), (model.items.weight, ratings.items)]


def test_it_prints_what_it_says(capsys: pytest.CaptureFixture[str]) -> None:
    recommender.main(["--epochs", "3"])
    lines = capsys.readouterr().out.splitlines()
    epochs = [line.split() for line in lines if line.startswith("epoch")]
    losses, errors = ([float(words[at]) for words in epochs] for at in (3, 6))
    assert losses[0] > losses[1] > losses[2]
    (baseline,) = [float(line.split()[-1]) for line in lines if "mean of each item" in line]
    assert errors[-1] < 0.9 * baseline
    assert "resumed after epoch 1, the same bit for bit: True" in lines
    assert "state of items: 80,004 bytes; Adam's would be 2,560,000" in lines
    text = "\n".join(lines)
    assert "of 20,000 rows touched" in text
    assert "Optimizer: 6 parameters" in text
    assert "users.*" in text


def test_one_epoch_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        recommender.main(["--epochs", "1"])
    assert "two or more" in capsys.readouterr().err


def test_ratings_are_those_of_the_seed() -> None:
    first, again, other = (recommender.made_ratings(700, seed=seed) for seed in (3, 3, 4))
    for one, two in zip(first, again, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    assert not torch.equal(first[0].stars, other[0].stars)
    assert [len(part.stars) for part in first] == [600, 100]


def test_rows_without_a_rating_stay_as_they_are_bit_for_bit() -> None:
    """So does their state; every row with a rating moves."""
    ratings, _ = recommender.made_ratings(3500)
    model, optimizer = begun()
    before = [table.detach().clone() for table, _ in tables_of(model, ratings)]
    recommender.train_epoch(model, optimizer, ratings, 0)
    for start, (table, rated) in zip(before, tables_of(model, ratings), strict=True):
        touched = torch.zeros(len(table), dtype=torch.bool)
        touched[rated] = True
        assert 100 < int(touched.sum()) < len(table) / 2
        assert torch.equal((table.detach() != start).any(dim=1), touched)
        accumulator = optimizer.state[table]["sum"]
        assert accumulator.shape == (len(table), 1)
        assert torch.equal(accumulator.flatten() > 0, touched)


def test_a_run_that_is_loaded_goes_on_bit_for_bit(tmp_path: Path) -> None:
    ratings, held_out = recommender.made_ratings(7000)
    model, optimizer = begun()
    recommender.train_epoch(model, optimizer, ratings, 0)
    recommender.save(tmp_path / "kept.pt", model, optimizer, 1)
    resumed, its_optimizer, done = recommender.load(tmp_path / "kept.pt")
    assert done == 1
    assert recommender.equal(model, resumed)
    recommender.train_epoch(model, optimizer, ratings, 1)
    assert not recommender.equal(model, resumed)
    recommender.train_epoch(resumed, its_optimizer, ratings, 1)
    assert recommender.equal(model, resumed)
    assert recommender.error(model, held_out) == recommender.error(resumed, held_out)
    for one, two in zip(model.parameters(), resumed.parameters(), strict=True):
        mine, its = optimizer.state[one], its_optimizer.state[two]
        assert list(mine) == list(its)
        assert all(torch.equal(value, its[key]) for key, value in mine.items())


def test_the_state_of_a_table_is_one_number_a_row() -> None:
    """And the count of its steps. What Adam is said to take is what it takes."""
    ratings, _ = recommender.made_ratings(700)
    sizes = []
    for rule in (pellucid.RowwiseAdagrad(), pellucid.Adam()):
        model = recommender.Recommender()
        optimizer = pellucid.torch.Optimizer(model, rule, sparse="lazy")
        recommender.train_epoch(model, optimizer, ratings, 0)
        sizes.append(recommender.state_bytes(optimizer, model.items))
    rows, width = recommender.ITEMS, recommender.WIDTH
    assert sizes == [4 * rows + 4, 2 * 4 * rows * width + 4]
