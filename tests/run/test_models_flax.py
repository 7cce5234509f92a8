"""What is found of models of flax, equinox and scikit-learn, against lists written by hand."""

from __future__ import annotations

import json
from typing import Any

import equinox
import jax
import pytest
from flax import linen, nnx
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from pellucid.run.capturing import capture
from pellucid.run.models import find_model
from pellucid.run.record import Findings, Record
from pellucid.run.recreate_model import model_of
from pellucid.run.simple import hyperparameters


def found(model: Any) -> Record:
    findings = Findings()
    find_model(findings.at("model"), model)
    return Record.from_dict(json.loads(findings.record().to_json()))


def values(record: Record) -> dict[str, Any]:
    return {path.removeprefix("model/"): entry.value for path, entry in record.entries.items()}


def defaults(record: Record) -> set[str]:
    return {
        path.removeprefix("model/")
        for path, entry in record.entries.items()
        if entry.provenance == "default"
    }


class Flax(nnx.Module):
    def __init__(self, width: int, rate: float = 0.5, *, rngs: nnx.Rngs) -> None:
        self.width = width
        self.first = nnx.Linear(3, width, use_bias=False, rngs=rngs)
        self.rest = nnx.List([nnx.Dropout(rate, rngs=rngs), nnx.LayerNorm(width, rngs=rngs)])
        self.again = self.first
        self.statistic = nnx.BatchStat(jax.numpy.zeros(5))


NNX_LINEAR = {"dtype": None, "param_dtype": "jax.numpy.float32", "precision": None,
              "preferred_element_type": None}  # fmt: skip


def test_nnx() -> None:
    record = found(Flax(4, rngs=nnx.Rngs(0)))
    first = {
        "class": "flax.nnx.nn.linear.Linear", "in_features": 3, "out_features": 4,
        "use_bias": False, **NNX_LINEAR, "parameters": 12, "dtypes": {"float32": 12},
    }  # fmt: skip
    assert dict(record["model/layers/first"]) == first
    assert dict(record["model/layers/rest.0"]) == {
        "class": "flax.nnx.nn.stochastic.Dropout", "rate": 0.5, "broadcast_dims": [],
        "deterministic": False, "rng_collection": "dropout",
    }  # fmt: skip
    norm = dict(record["model/layers/rest.1"])
    assert (norm["num_features"], norm["epsilon"], norm["parameters"]) == (4, 1e-6, 8)
    kept = {path: value for path, value in values(record).items() if path.count("/") < 2}
    assert kept == {
        "class": "test_models_flax.Flax", "arguments/width": 4, "parameters": 20, "trainable": 20,
        "dtypes": {"float32": 20},
    }  # fmt: skip
    assert record["model/layers/again/same_as"] == "first"
    assert [*record["model/layers"]] == ["first", "rest.0", "rest.1", "again"]
    assert "layers/first/param_dtype" in defaults(record)
    assert "layers/rest.0/rate" not in defaults(record)
    assert [one.path for one in record.missing] == [
        "model/arguments/rate", "model/layers/first/kernel_init", "model/layers/first/bias_init",
        "model/layers/rest.1/bias_init", "model/layers/rest.1/scale_init",
    ]  # fmt: skip


def test_nnx_captured() -> None:
    with capture():
        model = Flax(4, 0.25, rngs=nnx.Rngs(0))
    record = found(model)
    assert dict(record["model/arguments"]) == {"width": 4, "rate": 0.25}
    assert record.entry("model/arguments/rate").provenance == "declared"
    assert record["model/layers/first/kernel_init"]["holds"]["mode"] == "fan_in"
    assert record.entry("model/layers/first/kernel_init").provenance == "default"
    assert record.missing == ()
    with pytest.raises(ValueError, match=r"the argument 'rngs' of test_models_flax\.Flax"):
        model_of(record)


class Field(equinox.Module):
    width: int
    inner: list[equinox.nn.Linear]
    table: jax.Array
    rate: float = 0.1

    def __init__(self, width: int, rate: float = 0.1, *, key: Any) -> None:
        self.width, self.rate = width, rate
        self.inner = [equinox.nn.Linear(2, width, key=key), equinox.nn.Linear(2, 2, False, key=key)]
        self.table = jax.numpy.arange(3)


def test_equinox() -> None:
    record = found(Field(4, key=jax.random.key(0)))
    linear = "equinox.nn._linear.Linear"
    assert values(record) == {
        "class": "test_models_flax.Field",
        "arguments/width": 4,
        "arguments/rate": 0.1,
        "layers/inner.0/class": linear,
        "layers/inner.0/in_features": 2,
        "layers/inner.0/out_features": 4,
        "layers/inner.0/use_bias": True,
        "layers/inner.0/parameters": 12,
        "layers/inner.0/dtypes": {"float32": 12},
        "layers/inner.1/class": linear,
        "layers/inner.1/in_features": 2,
        "layers/inner.1/out_features": 2,
        "layers/inner.1/use_bias": False,
        "layers/inner.1/parameters": 4,
        "layers/inner.1/dtypes": {"float32": 4},
        "parameters": 19,
        "trainable": 16,
        "dtypes": {"float32": 16, "int32": 3},
    }
    assert defaults(record) == {"arguments/rate", "layers/inner.0/use_bias"}
    assert record.missing == ()
    assert hyperparameters(Field(4, key=jax.random.key(0))).layers["inner.0"].out_features == 4


class Data(equinox.Module):
    width: int
    weight: Any = None
    rate: float = 0.1


def test_equinoxs_own_constructor() -> None:
    record = found(Data(3, jax.numpy.ones(2)))
    assert record["model/arguments/weight"]["shape"] == [2]
    assert "digest" not in record["model/arguments/weight"]
    assert (record["model/arguments/width"], record["model/parameters"]) == (3, 2)
    again = model_of(found(Data(3, rate=0.2)))
    assert (again.width, again.weight, again.rate) == (3, None, 0.2)
    with pytest.raises(ValueError, match="the argument 'weight'"):
        model_of(record)


class Linen(linen.Module):
    width: int
    rate: float = 0.1

    @linen.compact
    def __call__(self, inputs: Any) -> Any:
        return linen.Dense(self.width)(inputs)


def test_linen() -> None:
    record = found(Linen(3))
    assert values(record) == {
        "class": "test_models_flax.Linen", "arguments/width": 3, "arguments/rate": 0.1,
    }  # fmt: skip
    assert [one.path for one in record.missing] == ["model/parameters", "model/layers"]
    assert model_of(record) == Linen(3)


def test_scikit_learn() -> None:
    model = Pipeline(
        [("scale", StandardScaler(with_mean=False)), ("fit", LogisticRegression(C=2.0))]
    )
    record = found(model)
    assert dict(record["model/arguments"]) == {
        "steps": [
            ["scale", {"class": "sklearn.preprocessing._data.StandardScaler"}],
            ["fit", {"class": "sklearn.linear_model._logistic.LogisticRegression"}],
        ],
        "transform_input": None, "memory": None, "verbose": False,
    }  # fmt: skip
    assert dict(record["model/layers/scale"]) == {
        "class": "sklearn.preprocessing._data.StandardScaler", "copy": True, "with_mean": False,
        "with_std": True,
    }  # fmt: skip
    assert record["model/layers/fit/C"] == 2.0
    assert "layers/fit/C" not in defaults(record)
    assert {"layers/fit/tol", "layers/scale/copy"} <= defaults(record)
    again = model_of(found(LogisticRegression(C=2.0, max_iter=7)))
    assert again.get_params() == LogisticRegression(C=2.0, max_iter=7).get_params()
    with pytest.raises(ValueError, match="the argument 'steps'"):
        model_of(record)
    assert hyperparameters(LogisticRegression(C=2.0)).C == 2.0
