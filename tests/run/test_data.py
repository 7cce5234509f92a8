"""What a record says of loaders, pipelines and arrays, against lists written by hand."""

from __future__ import annotations

from typing import Any

import numpy
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset, WeightedRandomSampler

from pellucid.run.data import find_data
from pellucid.run.record import Findings


def found(data: Any) -> tuple[dict[str, Any], dict[str, str], dict[str, str]]:
    """Values, provenances, and what was missed."""
    findings = Findings()
    find_data(findings, data)
    entries = findings.entries
    return (
        {path: one.value for path, one in entries.items()},
        {path: one.provenance for path, one in entries.items()},
        {one.path: one.why for one in findings.missing},
    )


class Squares(Dataset[int]):
    def __init__(self, count: int, power: int = 2, *, root: str = "here") -> None:
        self.count, self.power, self.root = count, power, root

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> int:
        return int(index**self.power)


def pad(batch: list[Any]) -> list[Any]:
    return batch


def test_loader() -> None:
    generator = torch.Generator().manual_seed(11)
    loader = DataLoader(
        Squares(10, 3), batch_size=4, shuffle=True, drop_last=True, generator=generator,
        collate_fn=pad,
    )  # fmt: skip
    before = generator.get_state()
    values, provenances, missed = found(loader)
    assert torch.equal(generator.get_state(), before)
    collate = values.pop("collate_fn")
    assert collate["function"].endswith("test_data:pad")
    assert values == {
        "class": "torch.utils.data.dataloader.DataLoader",
        "batch_size": 4,
        "drop_last": True,
        "num_workers": 0,
        "pin_memory": False,
        "prefetch_factor": None,
        "persistent_workers": False,
        "timeout": 0,
        "worker_init_fn": None,
        "shuffle": True,
        "sampler/class": "torch.utils.data.sampler.RandomSampler",
        "sampler/replacement": False,
        "sampler/num_samples": 10,
        "seed": 11,
        "dataset/class": f"{Squares.__module__}.Squares",
        "dataset/count": 10,
        "dataset/power": 3,
        "dataset/root": "here",
        "dataset/length": 10,
        "batches": 2,
    }
    assert [path for path, one in provenances.items() if one == "default"] == [
        "num_workers", "pin_memory", "prefetch_factor", "persistent_workers", "timeout",
        "worker_init_fn", "sampler/replacement", "dataset/root",
    ]  # fmt: skip
    assert missed == {}


def test_loader_without_a_seed_in_order_or_with_a_sampler() -> None:
    data = TensorDataset(torch.zeros(6, 2), torch.zeros(6))
    values, provenances, missed = found(DataLoader(Subset(data, [0, 1, 2]), shuffle=True))
    assert "no generator of its own" in missed["seed"]
    assert values["dataset/of/tensors/0/shape"] == [6, 2]
    assert values["dataset/length"] == 3
    values, provenances, missed = found(DataLoader(data))
    assert (values["shuffle"], provenances["shuffle"]) == (False, "default")
    assert (values["batch_size"], provenances["batch_size"]) == (1, "default")
    assert provenances["collate_fn"] == "default"
    assert missed == {}
    sampler = WeightedRandomSampler([0.1, 0.9], 5)
    values, _, missed = found(DataLoader(data, sampler=sampler))
    assert values["sampler/num_samples"] == 5
    assert "does not tell" in missed["shuffle"]


def test_a_batch_sampler_of_ones_own() -> None:
    class Pairs:
        def __init__(self, batch_size: int) -> None:
            self.batch_size = batch_size

        def __iter__(self) -> Any:
            return iter([[0, 1]])

        def __len__(self) -> int:
            return 1

    values, _, _ = found(DataLoader(Squares(4), batch_sampler=Pairs(2)))
    assert values["batch_size"] is None
    assert values["batch_sampler/batch_size"] == 2
    assert values["batches"] == 1


def test_an_iterable_set_has_no_length() -> None:
    class Stream(torch.utils.data.IterableDataset[int]):
        def __iter__(self) -> Any:
            return iter(range(3))

    _, _, missed = found(DataLoader(Stream()))
    assert missed["batches"] == "it tells no length: TypeError"
    assert missed["dataset/length"] == "the data set is read one after another"


def test_arrays_tuples_mappings() -> None:
    arrays = (numpy.zeros((5, 2), "float32"), torch.zeros(5, dtype=torch.int64))
    values, _, missed = found({"train": arrays, "valid": DataLoader(Squares(3)), "none": None})
    assert {path: one for path, one in values.items() if path.startswith("train/")} == {
        "train/0/class": "numpy.ndarray",
        "train/0/shape": [5, 2],
        "train/0/dtype": "float32",
        "train/1/class": "torch.Tensor",
        "train/1/shape": [5],
        "train/1/dtype": "int64",
    }
    assert values["valid/dataset/length"] == 3
    assert missed == {}
    values, _, missed = found(iter([1]))
    assert missed == {"length": "an iterator tells no length"}
    values, _, _ = found([1, 2, 3])
    assert values == {"class": "list", "length": 3}


def test_a_data_frame() -> None:
    pandas = pytest.importorskip("pandas")
    values, _, _ = found(pandas.DataFrame({"a": [1, 2], "b": [0.5, 1.5]}))
    assert values["shape"] == [2, 2]
    assert values["columns"] == {"a": "int64", "b": "float64"}


def test_hugging_face() -> None:
    """A stand-in with the names of `datasets.Dataset`, which is not installed."""
    kind = type("Dataset", (), {
        "num_rows": 7, "builder_name": "csv", "split": "train", "_fingerprint": "ab12",
        "features": {"text": "Value('string')"}, "__len__": lambda self: 7,
    })  # fmt: skip
    kind.__module__ = "datasets.arrow_dataset"
    values, _, missed = found(kind())
    assert values == {
        "class": "datasets.arrow_dataset.Dataset",
        "length": 7,
        "builder": "csv",
        "split": "train",
        "fingerprint": "ab12",
        "features": {"text": "Value('string')"},
    }
    assert missed == {}


@pytest.mark.parametrize("data", [3, "train.csv", object()])
def test_what_is_no_data(data: Any) -> None:
    with pytest.raises(TypeError, match=r"^data is .*; allowed is a DataLoader of torch"):
        found(data)


def test_a_batch_sampler_of_the_user() -> None:
    inner = torch.utils.data.RandomSampler(range(10))
    batches = torch.utils.data.BatchSampler(inner, 3, True)
    values, _, _ = found(DataLoader(list(range(10)), batch_sampler=batches))
    assert {name: values[name] for name in ("batch_size", "drop_last", "shuffle")} == {
        "batch_size": 3, "drop_last": True, "shuffle": True,
    }  # fmt: skip
    assert values["sampler/class"] == "torch.utils.data.sampler.RandomSampler"


def test_a_batch_sampler_that_does_not_tell() -> None:
    class Own:
        def __iter__(self) -> Any:
            yield [0, 1]

    values, _, missed = found(DataLoader(list(range(10)), batch_sampler=Own()))
    assert "shuffle" not in values
    assert missed["shuffle"].endswith("Own, does not tell")
