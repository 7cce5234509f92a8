"""What a record says of Keras programs, against lists written by hand; and optimizers again."""

from __future__ import annotations

import json
import os
from typing import Any

import keras
import numpy
import pytest

import pellucid
import pellucid.keras
from pellucid.run.collecting import collect
from pellucid.run.record import Record
from pellucid.schedules import Cosine
from stepper import Stepper

BACKEND = os.environ["KERAS_BACKEND"]


def model() -> Any:
    keras.utils.set_random_seed(1)
    return keras.Sequential([
        keras.Input((3,)), keras.layers.Dense(4, activation="tanh"), keras.layers.Dense(1),
    ])  # fmt: skip


def steps(net: Any, optimizer: Any, count: int = 10) -> list[Any]:
    rng = numpy.random.default_rng(3)
    step = Stepper(optimizer, net.trainable_variables)
    for _ in range(count):
        step([rng.normal(size=one.shape).astype("float32") for one in net.trainable_variables])
    return [keras.ops.convert_to_numpy(one.value) for one in net.trainable_variables]


def values(record: Record, path: str) -> dict[str, Any]:
    return {
        key.removeprefix(f"{path}/"): one.value
        for key, one in record.entries.items()
        if key.startswith(f"{path}/")
    }


def excluding(optimizer: Any) -> Any:
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    return optimizer


def several() -> Any:
    return keras.optimizers.MultiOptimizer(
        lambda variable: keras.optimizers.Adam(0.1)
        if "bias" in variable.path
        else keras.optimizers.SGD(0.2, momentum=0.9)
    )


OPTIMIZERS: dict[str, Any] = {
    "Adam": lambda: keras.optimizers.Adam(0.02, beta_1=0.8, clipnorm=1.0),
    "a schedule": lambda: keras.optimizers.SGD(
        keras.optimizers.schedules.CosineDecay(0.1, 8), momentum=0.9
    ),
    "exclusions": lambda: excluding(keras.optimizers.AdamW(0.02, weight_decay=0.3)),
    "scaled": lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1)),
    "ours": lambda: pellucid.keras.AdamW(
        Cosine(0.1, 20), groups={"*bias": {"weight_decay": 0.0, "beta_1": 0.5}}
    ),
    "ours, a chain": lambda: pellucid.keras.Optimizer(
        pellucid.chain(pellucid.clip_by_global_norm(0.5), pellucid.Lion(0.01)), seed=3
    ),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("built", [False, True])
def test_ten_steps_bit_for_bit(name: str, built: bool) -> None:
    first, optimizer = model(), OPTIMIZERS[name]()
    if built:
        optimizer.build(first.trainable_variables)
    record = collect(model=first, optimizer=optimizer)
    started = [keras.ops.convert_to_numpy(one.value).copy() for one in first.trainable_variables]
    wanted = steps(first, optimizer)
    second = model()
    again = Record.from_dict(json.loads(record.to_json())).optimizer(second)
    assert type(again) is type(optimizer)
    for old, new in zip(wanted, steps(second, again), strict=True):
        numpy.testing.assert_array_equal(old, new)
    assert not all(map(numpy.array_equal, started, wanted))


def test_kerass_own() -> None:
    net = model()
    optimizer = keras.optimizers.SGD(
        keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.5), momentum=0.9
    )
    optimizer.build(net.trainable_variables)
    record = collect(model=net, optimizer=optimizer)
    found = values(record, "optimizer")
    curve = found.pop("schedules/group 0/learning_rate/curve")
    names = [one.path for one in net.trainable_variables]
    assert found == {
        "class": {
            "torch": "keras.src.backend.torch.optimizers.torch_sgd.SGD",
        }.get(BACKEND, "keras.src.optimizers.sgd.SGD"),
        "name": "sgd",
        "updates": 0,
        "groups/group 0/learning_rate": 0.1,
        "groups/group 0/weight_decay": None,
        "groups/group 0/clipnorm": None,
        "groups/group 0/global_clipnorm": None,
        "groups/group 0/clipvalue": None,
        "groups/group 0/use_ema": False,
        "groups/group 0/ema_momentum": 0.99,
        "groups/group 0/ema_overwrite_frequency": None,
        "groups/group 0/loss_scale_factor": None,
        "groups/group 0/gradient_accumulation_steps": None,
        "groups/group 0/momentum": 0.9,
        "groups/group 0/nesterov": False,
        "groups/group 0/parameters": names,
        "groups/group 0/size": 21,
        "schedules/group 0/learning_rate/config": {
            "class": "keras.src.optimizers.schedules.learning_rate_schedule.ExponentialDecay",
            "initial_learning_rate": 0.1,
            "decay_steps": 10,
            "decay_rate": 0.5,
            "staircase": False,
            "name": "ExponentialDecay",
        },
    }
    assert curve["steps"][:5] == [0, 1, 2, 5, 10]
    numpy.testing.assert_allclose(
        curve["values"][:5], [0.1 * 0.5 ** (n / 10) for n in (0, 1, 2, 5, 10)], rtol=1e-6
    )
    kinds = {key: one.provenance for key, one in record.entries.items()}
    assert kinds["optimizer/groups/group 0/momentum"] == "observed"
    assert kinds["optimizer/groups/group 0/nesterov"] == "default"
    assert kinds["optimizer/groups/group 0/learning_rate"] == "observed"
    assert record.entry("optimizer/groups/group 0/momentum").source == "SGD.momentum"


def test_ours_before_build() -> None:
    optimizer = pellucid.keras.Adam(0.02, groups={"*bias": {"beta_1": 0.5}}, seed=4)
    record = collect(optimizer=optimizer)
    assert record["optimizer/groups/group 0/learning_rate"] == 0.02
    assert record["optimizer/groups/group 0/beta1"] == 0.9
    assert record.entry("optimizer/groups/group 0/beta1").provenance == "default"
    assert record["optimizer/groups/*bias/beta1"] == 0.5
    assert record.entry("optimizer/groups/*bias/beta1").provenance == "observed"
    assert record.entry("optimizer/groups/*bias/beta1").source == "Adam.beta_1"
    assert record["optimizer/seed"] == 4
    assert record["optimizer/stage"].startswith("Adam(")


def test_several_in_one() -> None:
    net = model()
    optimizer = several()
    optimizer.build(net.trainable_variables)
    record = collect(model=net, optimizer=optimizer)
    rates = {key: one.value for key, one in record.entries.items() if "learning_rate" in key}
    assert sorted(rates.values()) == [0.1, 0.1, 0.2, 0.2]


def test_a_compiled_model_gives_its_optimizer_and_loss() -> None:
    net = model()
    net.compile(
        optimizer=keras.optimizers.Adam(0.02),
        loss=keras.losses.Huber(delta=0.5),
        metrics=["mae"],
        steps_per_execution=2,
        jit_compile=False,
    )
    record = collect(model=net, trainer=net)
    assert record["optimizer/groups/group 0/learning_rate"] == 0.02
    assert record["loss/delta"] == 0.5
    found = values(record, "trainer/compile")
    assert found["loss"]["class"] == "Huber"
    assert found["loss"]["config"]["delta"] == 0.5
    assert found["metrics"] == ["mae"]
    assert found["steps_per_execution"] == 2
    assert found["jit_compile"] is False
    kinds = {key: one.provenance for key, one in record.entries.items()}
    assert kinds["trainer/compile/run_eagerly"] == "default"
    assert kinds["trainer/compile/steps_per_execution"] == "observed"
    assert "HyperparameterLogger" in {one.path: one.why for one in record.missing}["trainer/fit"]
    net._pellucid_fit = {"epochs": 3, "batch_size": 8}
    fitted = collect(trainer=net)
    assert values(fitted, "trainer/fit") == {"epochs": 3, "batch_size": 8}
    assert fitted["optimizer/class"].endswith("adam.Adam")


def test_a_model_that_is_not_compiled_and_callbacks() -> None:
    record = collect(trainer=model())
    assert {one.path: one.why for one in record.missing}["trainer/compile"] == (
        "the model is not compiled"
    )
    stop = keras.callbacks.EarlyStopping("loss", patience=4)
    found = collect(trainer=[stop])
    assert found["trainer/callbacks/EarlyStopping/patience"] == 4
    assert found.entry("trainer/callbacks/EarlyStopping/monitor").provenance == "observed"
    assert found.entry("trainer/callbacks/EarlyStopping/min_delta").value == 0


def test_a_schedule_as_the_scheduler() -> None:
    record = collect(scheduler=keras.optimizers.schedules.PiecewiseConstantDecay([10], [0.1, 0.01]))
    assert record["scheduler/curve"]["values"][:6] == [0.1] * 5 + [0.01]


def test_the_environment() -> None:
    keras.utils.set_random_seed(9)
    record = collect()
    assert record["environment/flags/keras/backend"] == BACKEND
    assert record["environment/flags/keras/floatx"] == "float32"
    assert record["environment/seeds/keras"] == 9
    if BACKEND == "jax":
        assert record["environment/flags/jax/enable_x64"] is False
    if BACKEND == "tensorflow":
        assert record["environment/seeds/tensorflow"] == 9
        assert record["environment/flags/tensorflow/deterministic_ops"] is False


class Batches(keras.utils.PyDataset):  # type: ignore[misc]
    def __init__(self, batch_size: int, **more: Any) -> None:
        super().__init__(**more)
        self.batch_size = batch_size

    def __len__(self) -> int:
        return 5

    def __getitem__(self, index: int) -> Any:
        return numpy.zeros((self.batch_size, 3)), numpy.zeros((self.batch_size, 1))


def test_py_dataset() -> None:
    found = values(collect(data=Batches(8, workers=2)), "data")
    assert found == {
        "class": f"{__name__}.Batches",
        "workers": 2,
        "use_multiprocessing": False,
        "max_queue_size": 10,
        "batch_size": 8,
        "batches": 5,
    }


def double(a: Any, b: Any) -> Any:
    return a * 2, b


@pytest.mark.backends("tensorflow")
def test_tf_data() -> None:
    import tensorflow as tf

    tf.random.set_seed(None)
    data = (
        tf.data.Dataset.from_tensor_slices((tf.zeros((10, 3)), tf.zeros((10,))))
        .cache()
        .shuffle(100, seed=3)
        .map(double, num_parallel_calls=4)
        .batch(4, drop_remainder=True)
        .repeat()
        .prefetch(tf.data.AUTOTUNE)
    )
    record = collect(data=data)
    found = values(record, "data")
    operations = found.pop("operations")
    assert found == {
        "class": "tensorflow.data.Dataset",
        "batch_size": 4,
        "drop_remainder": True,
        "shuffle": True,
        "shuffle_buffer": 100,
        "shuffle_seed": 3,
        "map_parallelism": 4,
        "repeat": "infinite",
        "prefetch": "AUTOTUNE",
        "element_spec": [
            {"shape": [4, 3], "dtype": "float32"}, {"shape": [4], "dtype": "float32"},
        ],
        "batches": "infinite",
    }  # fmt: skip
    assert [one["operation"] for one in operations] == [
        "TensorSliceDataset", "CacheDataset", "ShuffleDataset", "MapDataset", "BatchDataset",
        "RepeatDataset", "PrefetchDataset",
    ]  # fmt: skip
    assert operations[1]["filename"] == ""
    assert operations[3]["map_func"]["function"].endswith(":double")
    plain = collect(data=tf.data.Dataset.range(5).shuffle(5))
    assert {one.path for one in plain.missing} >= {"data/shuffle_seed"}
    assert plain["data/batches"] == 5
    tf.random.set_seed(7)
    seeded = collect(data=tf.data.Dataset.range(5).shuffle(5, seed=2))
    assert seeded["data/shuffle_seed"] == {"global": 7, "operation": 2}


def test_a_model_of_other_shapes_is_refused() -> None:
    net = model()
    optimizer = keras.optimizers.Adam()
    optimizer.build(net.trainable_variables)
    record = collect(optimizer=optimizer)
    other = keras.Sequential([keras.Input((3,)), keras.layers.Dense(5)])
    with pytest.raises(ValueError, match=r"kernel' has shape \(3, 5\), in the record .* \(3, 4\)"):
        record.optimizer(other)
    with pytest.raises(TypeError, match="model is int; allowed is a Keras model"):
        record.optimizer(3)


def test_lambdas_are_lost_and_said_so() -> None:
    optimizer = pellucid.keras.Adam(lambda step: 0.1)
    record = collect(optimizer=optimizer)
    lost = {one.path: one.why for one in record.missing}
    assert lost["optimizer/recipe/config"].startswith("a lambda is not built from a file")
    with pytest.raises(ValueError, match=r"(?s)what is missing:\n  config: a lambda"):
        record.optimizer(model())
