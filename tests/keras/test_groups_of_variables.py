"""``groups=`` by variables' paths, routes, and weight decay that spares variables."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest

import pellucid
import pellucid.keras
from fitting import At, train
from pellucid.keras.host_values import on_host
from stepper import Stepper

BACKEND = keras.backend.backend()


def variable(name: str) -> Any:
    return keras.Variable(np.ones(2, "float32"), name=name)


def step(optimizer: Any, variables: Any, times: int = 1, size: float = 1.0) -> list[float]:
    stepper = Stepper(optimizer, variables)
    for _ in range(times):
        stepper([np.full(2, size, "float32")] * len(variables))
    return [float(on_host(one)[0]) for one in variables]


def test_first_match_wins_and_overrides_are_absolute() -> None:
    groups = {
        "bias*": {"weight_decay": 0.0},
        "b*": {"learning_rate": 0.125},
        lambda path, one: path.endswith("z"): {"learning_rate": 1.0},
    }
    names = ["bias", "beta", "kernel", "buzz", "fizz"]
    variables = [variable(name) for name in names]
    optimizer = pellucid.keras.SGD(0.25, weight_decay=0.5, groups=groups)
    found = step(optimizer, variables)
    rates = {"bias": 0.25, "beta": 0.125, "kernel": 0.25, "buzz": 0.125, "fizz": 1.0}
    decays = {"bias": 0.0}
    wanted = [1 - rates[n] * decays.get(n, 0.5) - rates[n] for n in names]
    assert found == wanted
    optimizer.learning_rate = 0.5  # the others' values are absolute
    assert float(on_host(optimizer["b*/learning_rate"])) == 0.125


def test_values_of_groups_are_live() -> None:
    variables = [variable("bias"), variable("kernel")]
    optimizer = pellucid.keras.SGD(0.25, groups={"bias": {"learning_rate": 0.5}})
    stepper, ones = Stepper(optimizer, variables), [np.ones(2, "float32")] * 2
    stepper(ones)
    optimizer["bias/learning_rate"] = 1.0
    stepper(ones)
    optimizer["bias/learning_rate"].assign(2.0)
    stepper(ones)
    optimizer.variable(f"{optimizer.name}/bias/learning_rate").assign(0.0)
    stepper(ones)
    assert [float(on_host(one)[0]) for one in variables] == [1 - 0.5 - 1 - 2, 1 - 4 * 0.25]
    assert stepper.traces == (0 if BACKEND == "torch" else 1)
    with pytest.raises(ValueError, match="sgd/bias/learning_rate is -1"):
        optimizer["bias/learning_rate"] = -1.0
    assert optimizer.get_config()["values"]["bias/learning_rate"] == 0.0
    for wrong in ("bias/learning_rat", "other/learning_rate", "nothing"):
        with pytest.raises(KeyError, match="has no attribute"):
            _ = optimizer[wrong]


def test_schedule_on_a_group_and_in_fit() -> None:
    """A model's own paths; a group's rate follows a schedule, and becomes a number in fit."""
    line = pellucid.schedules.Piecewise((2,), (0.25, 0.5))
    optimizer = pellucid.keras.SGD(0.0, groups={"*/bias": {"learning_rate": line}})
    inputs = keras.Input((1,))
    outputs = keras.layers.Dense(1, name="head", kernel_initializer="ones")(inputs)
    model = keras.Model(inputs, outputs)
    model.compile(optimizer, lambda y, prediction: prediction - y)

    def change(count: int) -> None:
        if count == 3:
            optimizer["*/bias/learning_rate"] = 1.0

    train(model, [At("on_train_batch_end", change)])
    kernel, bias = (float(on_host(one).reshape(-1)[0]) for one in model.trainable_variables)
    assert (kernel, bias) == (1.0, -(0.25 + 0.25 + 0.5 + 1.0))


def test_unmatched_pattern_leaves_nothing_half_built() -> None:
    optimizer = pellucid.keras.Adam(0.25, groups={"bias": {"weight_decay": 0.0}})
    before = [one.path for one in optimizer.variables]
    with pytest.raises(ValueError, match=r"groups: the pattern 'bias' takes no parameter.*kernel"):
        optimizer.build([variable("kernel")])
    assert not optimizer.built
    assert [one.path for one in optimizer.variables] == before
    assert not optimizer.core.parameters
    found = step(optimizer, [variable("kernel"), variable("bias")])
    assert found == pytest.approx([0.75, 0.75], rel=1e-5)


@pytest.mark.parametrize("path", ["nosuch/learning_rate", "bias/nosuch", "bias/sub/weight_decay"])
def test_configuration_with_an_unknown_path(path: str) -> None:
    """Which groups there are is known when it is built."""
    config = pellucid.keras.Adam(0.25, groups={"bias": {"weight_decay": 0.0}}).get_config()
    config["values"] = {"bias/beta_1": 0.5, path: 0.25}
    optimizer = pellucid.keras.Adam.from_config(config)
    with pytest.raises(ValueError, match=f"value for '{path}', and no .*group 0, bias"):
        optimizer.build([variable("kernel"), variable("bias")])
    assert not optimizer.built
    del config["values"][path]
    optimizer = pellucid.keras.Adam.from_config(config)
    optimizer.build([variable("kernel"), variable("bias")])
    assert optimizer.get_config()["values"]["bias/beta_1"] == 0.5


def test_configuration_of_one_with_excluded_variables() -> None:
    """Which they are stands in no configuration, as in Keras: it builds with or without."""
    variables = [variable("bias"), variable("kernel")]
    optimizer = pellucid.keras.AdamW(0.5, weight_decay=0.5)
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    optimizer.build(variables)
    for excluded in (["bias"], []):
        again = pellucid.keras.AdamW.from_config(optimizer.get_config())
        again.exclude_from_weight_decay(var_names=excluded)
        again.build(variables)
        assert len(again.core.groups) == 1 + len(excluded)


def test_excluded_from_weight_decay() -> None:
    variables = [variable("bias"), variable("kernel"), variable("scale")]
    optimizer = pellucid.keras.AdamW(0.5, weight_decay=0.5)
    optimizer.exclude_from_weight_decay(var_names=["bias", "scale"])
    assert step(optimizer, variables, size=0.0) == [1.0, 0.75, 1.0]
    twin = keras.optimizers.AdamW(0.5, weight_decay=0.5)
    twin.exclude_from_weight_decay(var_names=["bias", "scale"])
    again = [variable("bias"), variable("kernel"), variable("scale")]
    twin.build(again)
    twin.apply([keras.ops.zeros(2)] * 3, again)
    assert [float(on_host(one)[0]) for one in again] == [1.0, 0.75, 1.0]


def test_excluded_variable_by_itself() -> None:
    variables = [variable("a"), variable("b")]
    optimizer = pellucid.keras.SGD(0.5, weight_decay=0.5)
    optimizer.exclude_from_weight_decay(var_list=[variables[0]])
    assert step(optimizer, variables, size=0.0) == [1.0, 0.75]


def test_routes() -> None:
    """A rule for embeddings, another for the rest; a bare name is the last branch's."""
    stage = pellucid.route({"embedding*": pellucid.SGD(0.5), "*": pellucid.SGD(0.25)})
    optimizer = pellucid.keras.Optimizer(stage, groups={"*bias": {"learning_rate": 0.125}})
    variables = [variable("embedding"), variable("kernel"), variable("bias")]
    stepper, ones = Stepper(optimizer, variables), [np.ones(2, "float32")] * 3
    stepper(ones)
    assert [float(on_host(one)[0]) for one in variables] == [0.5, 0.75, 0.875]
    optimizer.learning_rate = 1.0
    optimizer["embedding*/learning_rate"] = 0.0
    stepper(ones)
    assert [float(on_host(one)[0]) for one in variables] == [0.5, -0.25, 0.75]
    assert stepper.traces == (0 if BACKEND == "torch" else 1)


def test_route_that_takes_nothing() -> None:
    stage = pellucid.route({"embedding*": pellucid.SGD(0.5), "*": pellucid.SGD(0.25)})
    optimizer = pellucid.keras.Optimizer(stage)
    with pytest.raises(ValueError, match="embedding"):
        optimizer.build([variable("kernel")])
    assert not optimizer.built
