"""What is found of Keras models, against lists written by hand."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import keras
import pytest

from pellucid.run.capturing import capture
from pellucid.run.models import find_model
from pellucid.run.record import Findings, Record
from pellucid.run.recreate_model import model_of
from pellucid.run.simple import hyperparameters

DENSE = "keras.src.layers.core.dense.Dense"
NORM = "keras.src.layers.normalization.batch_normalization.BatchNormalization"


def found(model: Any) -> Record:
    findings = Findings()
    find_model(findings.at("model"), model)
    return Record.from_dict(json.loads(findings.record().to_json()))


def observed(record: Record) -> dict[str, Any]:
    """All but defaults."""
    return {
        path.removeprefix("model/"): entry.value
        for path, entry in record.entries.items()
        if entry.provenance != "default"
    }


def sequential() -> Any:
    return keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(
                3, "relu", kernel_regularizer=keras.regularizers.L2(0.25), name="first"
            ),
            keras.layers.BatchNormalization(momentum=0.9, name="norm"),
            keras.layers.Dense(2, use_bias=False, bias_initializer="ones", name="last"),
        ]
    )


def test_sequential() -> None:
    record = found(sequential())
    assert observed(record) == {
        "class": "keras.src.models.sequential.Sequential",
        "layers/first/class": DENSE,
        "layers/first/units": 3,
        "layers/first/activation": "relu",
        "layers/first/kernel_regularizer": {"class": "L2", "l2": 0.25},
        "layers/first/parameters": 15,
        "layers/first/dtypes": {"float32": 15},
        "layers/norm/class": NORM,
        "layers/norm/momentum": 0.9,
        "layers/norm/parameters": 12,
        "layers/norm/dtypes": {"float32": 12},
        "layers/last/class": DENSE,
        "layers/last/units": 2,
        "layers/last/use_bias": False,
        "layers/last/bias_initializer": "Ones",
        "layers/last/parameters": 6,
        "layers/last/dtypes": {"float32": 6},
        "parameters": 33,
        "trainable": 27,
        "dtypes": {"float32": 33},
    }
    first = dict(record["model/layers/first"])
    assert (first["kernel_initializer"], first["bias_initializer"]) == ("GlorotUniform", "Zeros")
    assert (first["dtype"], first["trainable"], first["use_bias"]) == ("float32", True, True)
    assert record["model/layers/last/activation"] == "linear"
    assert record.missing == ()


@keras.saving.register_keras_serializable("tests")
class Block(keras.layers.Layer):
    def __init__(self, width: int, rate: float = 0.1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.inner = keras.layers.Dense(width, name="inner")
        self.shared = self.inner

    def call(self, inputs: Any) -> Any:
        return self.inner(inputs)

    def build(self, shape: Any) -> None:
        self.inner.build(shape)


class Model(keras.Model):
    """Of the seed."""

    def __init__(
        self, learning_rate: float, hidden_units: int, activation: Any = "relu", lost: int = 3,
        **kwargs: Any,
    ) -> None:  # fmt: skip
        super().__init__(**kwargs)
        self.learning_rate, self.hidden_units = learning_rate, hidden_units
        self.activation = activation
        self.dense1 = keras.layers.Dense(hidden_units, activation=activation, name="one")
        self.dense2 = Block(2, dtype="float16", name="two")

    def call(self, inputs: Any) -> Any:
        return self.dense2(self.dense1(inputs))


def test_subclassed() -> None:
    model = Model(0.01, 64)
    model(keras.ops.ones((1, 4)))
    model.dense1.trainable = False
    record = found(model)
    assert observed(record) == {
        "class": "test_run_models.Model",
        "arguments/learning_rate": 0.01,
        "arguments/hidden_units": 64,
        "layers/one/class": DENSE,
        "layers/one/units": 64,
        "layers/one/activation": "relu",
        "layers/one/trainable": False,
        "layers/one/parameters": 320,
        "layers/one/dtypes": {"float32": 320},
        "layers/two/class": "test_run_models.Block",
        "layers/two/width": 2,
        "layers/two/dtype": "float16",
        "layers/two.inner/class": DENSE,
        "layers/two.inner/units": 2,
        "layers/two.inner/parameters": 130,
        "layers/two.inner/dtypes": {"float32": 130},
        "parameters": 450,
        "trainable": 130,
        "dtypes": {"float32": 450},
    }
    assert record.entry("model/arguments/activation").provenance == "default"
    assert record.entry("model/layers/two/rate").value == 0.1
    assert [one.path for one in record.missing] == ["model/arguments/lost"]
    assert "@pellucid.capture above the class" in record.missing[0].why


def test_captured() -> None:
    with capture():
        model = Model(0.01, 64, lost=5)
    record = found(model)
    assert record.entry("model/arguments/lost").value == 5
    assert record.entry("model/arguments/lost").provenance == "declared"
    assert record.entry("model/arguments/activation").provenance == "default"
    assert record.entry("model/layers/one/units").provenance == "declared"
    kind = capture(type("Captured", (Model,), {"__module__": __name__}))
    assert found(kind(0.5, 3))["model/arguments/lost"] == 3


def test_what_is_not_built_is_not_counted() -> None:
    record = found(Model(0.01, 64))
    lost = {one.path: one.why for one in record.missing}
    assert [*lost] == [
        "model/arguments/lost", "model/layers/one/parameters", "model/layers/two/parameters",
        "model/layers/two.inner/parameters", "model/parameters",
    ]  # fmt: skip
    assert "not built yet: model, one, two, two.inner; call the model" in lost["model/parameters"]
    assert "parameters" not in record["model"]


def test_functional_and_nested() -> None:
    inputs = keras.Input((4,), name="inputs")
    inner = keras.Sequential([keras.layers.Dense(4, name="dense")], name="inner")
    model = keras.Model(inputs, inner(inner(inputs)), name="outer")
    record = found(model)
    assert [*record["model/layers"]] == ["inputs", "inner", "inner.dense"]
    assert record["model/layers/inputs/batch_shape"] == [None, 4]
    assert record["model/layers/inner.dense/units"] == 4
    assert record["model/parameters"] == 20


def test_strangers_do_not_fail() -> None:
    class Closed(keras.layers.Layer):
        def __init__(self, width: int, chosen: Any = None) -> None:
            super().__init__(name="closed")

        def get_config(self) -> Any:
            raise RuntimeError("no")

        @property
        def width(self) -> int:
            raise RuntimeError("no width")

        def call(self, inputs: Any) -> Any:
            return inputs

    model = keras.Sequential([keras.Input((4,)), Closed(3), keras.layers.Lambda(lambda x: x)])
    record = found(model)
    assert [one.path for one in record.missing] == [
        "model/layers/closed/width", "model/layers/closed/chosen",
    ]  # fmt: skip
    with pytest.raises(ValueError, match="the argument 'layers' of"):
        model_of(record)


def test_models_are_built_again() -> None:
    model = sequential()
    model.compile("adam", "mse")
    again = model_of(found(model))
    assert json.dumps(again.get_config()) == json.dumps(model.get_config())
    assert getattr(again, "optimizer", None) is None
    assert [one.shape for one in again.weights] == [one.shape for one in model.weights]

    with pytest.raises(ValueError, match=r"the argument 'lost' of test_run_models\.Model"):
        model_of(found(Model(0.5, 3)))
    with capture():
        model = Model(0.5, 3, lost=4)
    assert model_of(found(model)).hidden_units == 3


def test_lambdas_cannot_be_built_again() -> None:
    model = keras.Sequential([keras.Input((4,)), keras.layers.Lambda(lambda x: x * 2)])
    with pytest.raises(ValueError, match="a lambda: use a function of a module"):
        model_of(found(model))


def test_the_simple_answer() -> None:
    model = Model(0.01, 64)
    found = hyperparameters(model)
    assert (found.learning_rate, found.hidden_units, found.activation) == (0.01, 64, "relu")
    assert found.layers.one.units == 64
    assert found.layers["two.inner"].units == 2
    assert found.layers.one["class"] == DENSE
    with pytest.raises(AttributeError, match="there is no 'unit'; there is class, units"):
        _ = found.layers.one.unit


def test_the_optimizer_of_a_compiled_model() -> None:
    model = sequential()
    model.compile(keras.optimizers.SGD(0.25, momentum=0.5), "mse")
    found = hyperparameters(model)
    assert [*found] == ["trainable", "dtype", "layers", "optimizer"]
    assert "0.25" in str(found.optimizer)
    assert "0.5" in str(found.optimizer)


@pytest.mark.backends("jax", "torch")
def test_tensorflow_is_not_loaded() -> None:
    """Keras's serialization loads it, which takes seconds."""
    script = """
import sys, keras
from pellucid.run.models import find_model
from pellucid.run.record import Findings
model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
findings = Findings()
before = "tensorflow" in sys.modules
find_model(findings, model)
assert findings.recipes["model"]["kind"] == "keras"
print(before, "tensorflow" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() in (["False", "False"], ["True", "True"])


@keras.saving.register_keras_serializable("test_run_models")
class Client(keras.layers.Layer):
    def __init__(self, api_key: str = "", url: str = "", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.api_key, self.url = api_key, url

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "api_key": self.api_key, "url": self.url}


@pytest.mark.parametrize(
    "given", [{"api_key": "hunter2"}, {"url": "redis://:hunter2@host"}], ids=["name", "login"]
)
def test_secrets_are_in_no_recipe(given: dict[str, str]) -> None:
    record = found(keras.Sequential([Client(**given)]))
    assert "hunter2" not in record.to_json()
    with pytest.raises(ValueError, match=f"the argument '{next(iter(given))}' of"):
        model_of(record)
