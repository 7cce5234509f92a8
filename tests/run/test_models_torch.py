"""What is found of torch modules, against lists written by hand."""

from __future__ import annotations

import json
import time
import warnings
from importlib import import_module
from typing import Any

import pytest
import torch
from torch import nn

from pellucid.run.capturing import capture
from pellucid.run.models import find_model
from pellucid.run.record import Findings, Record
from pellucid.run.recreate_model import model_of
from pellucid.run.simple import hyperparameters

LINEAR = "torch.nn.modules.linear.Linear"
HOW = "put @pellucid.capture above the class"


def found(model: Any) -> Record:
    findings = Findings()
    find_model(findings.at("model"), model)
    record = findings.record()
    json.dumps(record.to_dict(), allow_nan=False)
    return Record.from_dict(json.loads(record.to_json()))


def values(record: Record) -> dict[str, Any]:
    return {path.removeprefix("model/"): entry.value for path, entry in record.entries.items()}


def of(record: Record, provenance: str) -> set[str]:
    return {
        path.removeprefix("model/")
        for path, entry in record.entries.items()
        if entry.provenance == provenance
    }


class Net(nn.Module):
    def __init__(
        self, hidden: int, rate: float = 0.1, bias: bool = True, lost: int = 3, drop: float = 0.5
    ) -> None:
        super().__init__()
        self.hidden, self._rate = hidden, rate
        self.body = nn.Sequential(nn.Linear(4, hidden, bias=False), nn.ReLU())
        self.drop = nn.Dropout(drop)
        self.head = nn.Linear(hidden, 2, dtype=torch.bfloat16)
        self.bias = nn.Parameter(torch.zeros(2), requires_grad=False)
        self.again = self.head


def test_a_module_and_its_layers() -> None:
    record = found(Net(8, bias=True))
    assert values(record) == {
        "class": "test_models_torch.Net",
        "arguments/hidden": 8,
        "arguments/rate": 0.1,
        "arguments/bias": True,
        "layers/body/class": "torch.nn.modules.container.Sequential",
        "layers/body.0/class": LINEAR,
        "layers/body.0/in_features": 4,
        "layers/body.0/out_features": 8,
        "layers/body.0/bias": False,
        "layers/body.0/parameters": 32,
        "layers/body.0/dtypes": {"float32": 32},
        "layers/body.1/class": "torch.nn.modules.activation.ReLU",
        "layers/body.1/inplace": False,
        "layers/drop/class": "torch.nn.modules.dropout.Dropout",
        "layers/drop/p": 0.5,
        "layers/drop/inplace": False,
        "layers/head/class": LINEAR,
        "layers/head/in_features": 8,
        "layers/head/out_features": 2,
        "layers/head/bias": True,
        "layers/head/parameters": 18,
        "layers/head/dtypes": {"bfloat16": 18},
        "layers/again/same_as": "head",
        "parameters": 52,
        "trainable": 50,
        "dtypes": {"float32": 34, "bfloat16": 18},
    }
    assert of(record, "default") == {
        "arguments/rate", "arguments/bias", "layers/body.1/inplace", "layers/drop/p",
        "layers/drop/inplace", "layers/head/bias",
    }  # fmt: skip
    assert record.entry("model/arguments/rate").source == "Net._rate"
    assert [one.path for one in record.missing] == ["model/arguments/lost", "model/arguments/drop"]
    assert all(HOW in one.why for one in record.missing)


def test_captured_arguments_come_first() -> None:
    kind = capture(type("Captured", (Net,), {"__module__": __name__}))
    record = found(kind(8, 0.2, drop=0.5))
    assert dict(record["model/arguments"]) == {
        "hidden": 8, "rate": 0.2, "bias": True, "lost": 3, "drop": 0.5,
    }  # fmt: skip
    mine = {f"arguments/{name}" for name in ("hidden", "rate", "drop")}
    assert of(record, "declared") == mine
    assert {"arguments/bias", "arguments/lost"} <= of(record, "default")
    assert record.missing == ()


OWN: list[tuple[Any, dict[str, Any]]] = [
    (nn.LSTM(3, 4, num_layers=2, dropout=0.5), {
        "input_size": 3, "hidden_size": 4, "num_layers": 2, "bias": True, "batch_first": False,
        "dropout": 0.5, "bidirectional": False, "proj_size": 0}),
    (nn.Conv2d(2, 4, 3, padding="same", bias=False), {
        "in_channels": 2, "out_channels": 4, "kernel_size": [3, 3], "stride": [1, 1],
        "padding": "same", "dilation": [1, 1], "groups": 1, "bias": False,
        "padding_mode": "zeros"}),
    (nn.MultiheadAttention(4, 2, bias=False, add_bias_kv=True), {
        "embed_dim": 4, "num_heads": 2, "dropout": 0.0, "bias": False, "add_bias_kv": True,
        "add_zero_attn": False, "kdim": 4, "vdim": 4, "batch_first": False}),
    (nn.TransformerEncoderLayer(4, 1, 8, 0.2, "gelu", 1e-4, batch_first=True, bias=False), {
        "d_model": 4, "nhead": 1, "dim_feedforward": 8, "dropout": 0.2, "activation": "gelu",
        "layer_norm_eps": 1e-4, "batch_first": True, "norm_first": False, "bias": False}),
    (nn.Transformer(4, 2, 1, 2, 8, 0.2, batch_first=True), {
        "d_model": 4, "nhead": 2, "num_encoder_layers": 1, "num_decoder_layers": 2,
        "dim_feedforward": 8, "dropout": 0.2, "activation": "relu", "layer_norm_eps": 1e-5,
        "batch_first": True, "norm_first": False, "bias": True}),
    (nn.LayerNorm(4, bias=False), {
        "normalized_shape": [4], "eps": 1e-5, "elementwise_affine": True, "bias": False}),
    (nn.Hardtanh(-2.0), {
        "min_val": -2.0, "max_val": 1.0, "inplace": False, "min_value": -2.0, "max_value": 1.0}),
    (nn.PairwiseDistance(1.0), {"p": 1.0, "eps": 1e-6, "keepdim": False}),
    (nn.Embedding(5, 3, padding_idx=0), {
        "num_embeddings": 5, "embedding_dim": 3, "padding_idx": 0, "max_norm": None,
        "norm_type": 2.0, "scale_grad_by_freq": False, "sparse": False}),
    (nn.CrossEntropyLoss(label_smoothing=0.1), {
        "weight": None, "ignore_index": -100, "reduction": "mean", "label_smoothing": 0.1}),
]  # fmt: skip


@pytest.mark.parametrize(("layer", "wanted"), OWN, ids=lambda one: type(one).__name__)
def test_torchs_own_layers(layer: Any, wanted: dict[str, Any]) -> None:
    record = found(layer)
    assert dict(record["model/arguments"]) == wanted
    assert record.missing == ()


def test_strangers_do_not_fail() -> None:
    class Raising(nn.Module):
        def __init__(self, width: int, half: int = 2) -> None:
            super().__init__()
            self.lazy = nn.LazyLinear(3)
            self.meta = nn.Linear(2, 3, device="meta")
            self.__dict__["loop"] = self

        @property
        def width(self) -> int:
            raise RuntimeError("no width")

        def half(self) -> Any:  # type: ignore[override]
            return self

    model = Raising(3)
    model.inner = nn.Module()
    model.inner.back = model
    record = found(model)
    assert record["model/layers/inner.back/same_as"] == "(the model itself)"
    assert record["model/layers/meta/parameters"] == 9
    assert record["model/layers/lazy/bias"] is True
    assert [one.path for one in record.missing] == [
        "model/arguments/width", "model/arguments/half", "model/layers/lazy/parameters",
        "model/parameters",
    ]  # fmt: skip
    assert found(nn.Identity())["model/parameters"] == 0
    assert found(object())["model/class"] == "object"


def test_an_attribute_that_is_a_module_may_be_made_from_the_argument() -> None:
    class Around(nn.Module):
        def __init__(self, inner: Any, norm: Any = None) -> None:
            super().__init__()
            self.inner, self.norm = inner, norm

    record = found(Around(nn.Linear(2, 2)))
    entry = record.entry("model/arguments/inner")
    assert (entry.value, entry.provenance) == ({"class": LINEAR}, "unknown")
    assert record.entry("model/arguments/norm").provenance == "default"


def test_wrappers_are_looked_through() -> None:
    model = nn.Sequential(nn.Linear(2, 3))
    assert values(found(torch.compile(model, backend="eager"))) == values(found(model))
    assert values(found(nn.DataParallel(model))) == values(found(model))


@pytest.fixture(scope="module")
def trainers() -> Any:
    """Lightning and transformers."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # their own
        import_module("torchvision_on_cpu")
        return import_module("lightning.pytorch"), import_module("transformers")


def test_hugging_face_configuration(trainers: Any) -> None:
    transformers = trainers[1]
    config = transformers.BertConfig(
        vocab_size=11, hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16,
    )  # fmt: skip
    record = found(transformers.BertForSequenceClassification(config))
    assert record["model/config/hidden_size"] == 8
    assert record.entry("model/config/hidden_size").provenance == "observed"
    assert record.entry("model/config/hidden_dropout_prob").provenance == "default"
    assert record["model/layers/bert.embeddings.word_embeddings/num_embeddings"] == 11
    assert not [one for one in record.missing if one.path.endswith("/config")]


def test_lightning_hyperparameters(trainers: Any) -> None:
    class Lit(trainers[0].LightningModule):  # type: ignore[misc]
        def __init__(self, width: int, rate: float = 0.1) -> None:
            super().__init__()
            self.save_hyperparameters()
            self.inner = nn.Linear(2, width)

    record = found(Lit(3))
    assert dict(record["model/hparams"]) == {"width": 3, "rate": 0.1}
    assert dict(record["model/arguments"]) == {"width": 3, "rate": 0.1}
    assert of(record, "default") >= {"arguments/rate"}
    assert record.missing == ()
    captured = found(capture(Lit)(4))
    assert dict(captured["model/hparams"]) == {"width": 4, "rate": 0.1}
    assert "arguments/width" in of(captured, "declared")


class Kept(nn.Module):
    def __init__(
        self, width: int, /, sizes: tuple[int, ...] = (1, 2), *, rate: float = 0.1
    ) -> None:
        super().__init__()
        self.width, self.sizes, self.rate = width, sizes, rate
        self.inner = nn.Linear(2, width)


@capture
class Capturing(nn.Module):
    def __init__(self, width: int, *rest: int, layer: Any = None) -> None:
        super().__init__()
        self.inner = nn.Linear(2, width + sum(rest))


def test_models_are_built_again() -> None:
    again = model_of(found(Kept(3, (4, 5), rate=0.2)))
    assert type(again) is Kept
    assert (again.width, again.sizes, again.rate) == (3, [4, 5], 0.2)
    assert model_of(found(Capturing(3, 4, 5))).inner.out_features == 12
    assert model_of(found(nn.Linear(2, 3, bias=False))).bias is None
    assert model_of(found(nn.LSTM(2, 3))).hidden_size == 3


def test_what_a_model_lacks_to_be_built_again() -> None:
    class Local(nn.Module):
        pass

    with pytest.raises(ValueError, match=r"the argument 'lost' of test_models_torch\.Net.*capture"):
        model_of(found(Net(3)))
    with pytest.raises(ValueError, match="Local cannot be imported: define it at the top level"):
        model_of(found(Local()))
    with pytest.raises(ValueError, match="the argument 'layer' of"):
        model_of(found(Capturing(3, layer=nn.ReLU())))
    for container in (nn.Sequential(nn.ReLU()), nn.ModuleList([nn.ReLU()])):
        with pytest.raises(ValueError, match=r"the argument '(args|modules)' of"):
            model_of(found(container))
    with pytest.raises(ValueError, match="the argument 'dtype' of"):
        model_of(found(nn.Linear(2, 2, dtype=torch.float64)))
    with pytest.raises(ValueError, match="the record has no model"):
        model_of(Record({}))


@pytest.mark.parametrize(
    ("where", "why"),
    [
        ("os:system", "is no class"), ("os.system", "is module:Name"), ("nowhere:X", "imported"),
        ("builtins:__import__", "is no class"), ("torch:nn.Nothing", "cannot be imported"),
        ("torch.nn:Linear", "could not be built"), ("", "is module:Name"),
    ],
)  # fmt: skip
def test_recipes_of_strangers(where: str, why: str) -> None:
    how = {"kind": "class", "class": where, "args": ["x"], "kwargs": {}}
    with pytest.raises(ValueError, match=why):
        model_of(Record({}, recipes={"model": how}))
    with pytest.raises(ValueError, match="how to build 'exec'"):
        model_of(Record({}, recipes={"model": {"kind": "exec"}}))


def test_the_simple_answer() -> None:
    found = hyperparameters(Net(8))
    assert [*found] == ["hidden", "rate", "bias", "layers"]
    assert found.hidden == 8
    assert found.layers["body.0"].in_features == 4
    assert dict(found.layers.head) == {
        "class": LINEAR, "in_features": 8, "out_features": 2, "bias": True,
    }  # fmt: skip
    assert "hidden  8" in str(found)

    class Named(nn.Module):
        def __init__(self, layers: int) -> None:
            super().__init__()
            self.layers = layers
            self.inner = nn.Linear(2, 2)

    named = hyperparameters(Named(3))
    assert (named.arguments.layers, named.layers.inner.in_features) == (3, 2)


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (3, "was given 3; allowed is a model of Keras, torch"),
        (nn.Linear, r"was given the class torch\.nn\.modules\.linear\.Linear.*Linear\(\.\.\.\)"),
        (torch.optim.SGD([torch.zeros(1)], 0.1), r"hyperparameters\(model, optimizer\)"),
        ({"a": 1}, "an object of dict"),
    ],
)
def test_what_is_no_model(given: Any, why: str) -> None:
    with pytest.raises(TypeError, match=why):
        hyperparameters(given)


def test_a_thousand_layers_take_little() -> None:
    """Under 0.2 s of this thread, about twice what it takes: the best of a few."""
    model = nn.Sequential(*(nn.Linear(4, 4) for _ in range(1000)))
    took = []
    for _ in range(5):
        begin = time.thread_time()
        find_model(Findings(), model)
        took.append(time.thread_time() - begin)
    assert min(took) < 0.2, took


class Keeping(nn.Module):
    """Keeps all of its arguments."""

    def __init__(self, width: int, limit: Any = 1.0, api_key: str = "", text: str = "") -> None:
        super().__init__()
        self.width, self.limit, self.api_key, self.text = width, limit, api_key, text


@capture
class Captured(Keeping):
    """The same, captured."""


@pytest.mark.parametrize("kind", [Keeping, Captured])
@pytest.mark.parametrize(
    ("given", "lacks"),
    [
        ({"api_key": "hunter2"}, "'api_key' of test_models_torch."),
        ({"text": "postgres://user:hunter2@host"}, "'text'"),
        ({"text": "a" * 5000}, "'text'"),
        ({"limit": float("inf")}, "'limit'"),
        ({"limit": {"password": "hunter2"}}, "'limit'"),
    ],
    ids=["secret", "login", "long", "infinite", "inside"],
)
def test_what_a_record_does_not_keep_whole_is_not_built_from(
    kind: Any, given: dict[str, Any], lacks: str
) -> None:
    record = found(kind(3, **given))
    assert "hunter2" not in record.to_json()
    with pytest.raises(ValueError, match=lacks):
        record.model()


def test_tied_parameters_are_told() -> None:
    net = nn.Sequential(nn.Embedding(5, 3), nn.Linear(3, 5, bias=False))
    net[1].weight = net[0].weight
    record = found(net)
    assert record["model/layers/1/tied"] == {"weight": "0.weight"}
    assert record["model/parameters"] == 15
