"""Pickled and copied NumPy optimizers go on bit for bit, and by themselves."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import pellucid.numpy
from pellucid import (
    SGD,
    Adam,
    Rule,
    average_weights,
    chain,
    clip_by_global_norm,
    clip_by_value,
    hyper,
    ops,
    ref,
    route,
    slot,
)
from pellucid.schedules import Cosine, Linear

Optimizer = pellucid.numpy.Optimizer


def falling(updates: int) -> float:
    """A schedule that the journal cannot ask again: its values go on record."""
    return 0.1 / (updates + 1)


class Unstorable:
    """A schedule without a configuration."""

    def __call__(self, updates: int) -> float:
        return falling(updates)


class Noisy(Rule):
    """Random numbers, and a slot that all parameters share."""

    learning_rate = hyper(0.1)
    rate = slot(2.0, scope="optimizer")

    def update(self, param: Any, grad: Any) -> Any:
        self.rate = self.rate / 2 + ops.max_abs(grad, over="all")
        return param - self.rate * self.learning_rate * (grad + ops.normal(grad))


def doubled(pairs: Any) -> Any:
    return [(np.asarray(grad * 2), param) for grad, param in pairs]


CASES: dict[str, tuple[Callable[[], Any], dict[str, Any]]] = {
    "momentum": (lambda: SGD(0.1, momentum=0.9, nesterov=True), {}),
    "schedules": (lambda: Adam(Cosine(0.1, 5), beta1=Linear(0.8, 0.9, 4), weight_decay=0.01), {}),
    "functions": (lambda: Adam(falling, weight_decay=ref("learning_rate")), {}),
    "unstorable": (lambda: SGD(Unstorable()), {}),
    "chain": (
        lambda: chain(
            doubled, clip_by_global_norm(0.5), SGD(Linear(0.5, 0.1, 5), momentum=0.9),
            average_weights(0.75),
        ),
        {},
    ),
    "groups": (
        lambda: Adam(Cosine(0.1, 5)),
        {"groups": {"*.bias": {"learning_rate": 0.5, "weight_decay": 0.0}}, "seed": 3},
    ),
    "route": (lambda: route({"*.bias": SGD(0.5), "*": chain(clip_by_value(1.0), Adam())}), {}),
    "noisy": (Noisy, {"seed": 5}),
}  # fmt: skip

TWINS: dict[str, Callable[[Any], Any]] = {
    "deep copy": copy.deepcopy,
    "pickle": lambda one: pickle.loads(pickle.dumps(one)),
    "pickle of old": lambda one: pickle.loads(pickle.dumps(one, 2)),
}


def begun(case: str, mode: str) -> Any:
    make, keywords = CASES[case]
    rng = np.random.default_rng(7)
    params = {
        "layer.weight": np.asfortranarray(rng.standard_normal((5, 3))),
        "layer.bias": np.array(rng.standard_normal(3), "float32"),
        "scale": np.array(0.5),
    }
    one = Optimizer(params, make(), compiled=mode == "kernel", **keywords)
    one.by_graph = mode == "graph"
    return one


def go_on(one: Any, steps: int) -> None:
    for _ in range(steps):
        rng = np.random.default_rng(one.updates)
        grads = {n: np.array(rng.standard_normal(p.shape), p.dtype) for n, p in one.params.items()}
        if one.updates == 1:
            del grads["scale"]
        assert one.step(grads)


def contents(one: Any) -> dict[str, Any]:
    """All that an optimizer is, to the last bit."""
    arrays = {name: (param.strides, param.tobytes()) for name, param in one.params.items()}
    for name, slots in one.state.items():
        for full, array in slots.items():
            arrays[f"{name}/{full}"] = array.strides, array.tobytes()
    return {
        "arrays": arrays,
        "shared": dict(one.shared),
        "updates": one.updates,
        "groups": copy.deepcopy(one.param_groups),
        "drivers": [repr({**controls.drivers}).split(" object at")[0] for controls in one.controls],
        "stage": repr(one.stage).split(" object at")[0],
        "table": one.journal.table().rows,
        "at": [one.journal.at(step) for step in range(1, one.updates + 1)],
        "journal": one.journal.to_dict(),
    }


@pytest.mark.parametrize("mode", ["kernel", "graph", "lines"])
@pytest.mark.parametrize("twin", TWINS)
@pytest.mark.parametrize("case", CASES)
def test_it_goes_on_bit_for_bit(case: str, twin: str, mode: str) -> None:
    one = begun(case, mode)
    go_on(one, 2)
    one.param_groups[0]["learning_rate"] = 0.25  # a direct write, in place of any schedule
    go_on(one, 1)
    before = contents(one)
    other = TWINS[twin](one)
    assert contents(other) == before

    go_on(one, 3)
    after = contents(one)
    assert after["arrays"] != before["arrays"]
    assert contents(other) == before, "they share something"
    go_on(other, 3)
    assert contents(other) == after
    other.param_groups[0]["learning_rate"] = 0.125
    go_on(other, 1)
    assert contents(one) == after, "they share something"
    assert other.journal.at(7) != after["at"][-1]


def test_schedules_go_on() -> None:
    """Where no one wrote to a group."""
    for case in CASES:
        one = begun(case, "kernel")
        go_on(one, 3)
        other = pickle.loads(pickle.dumps(one))
        for both in (one, other):
            go_on(both, 3)
        assert contents(other) == contents(one), case
        assert len(other.journal.at(6)) == len(other.journal.at(1))


def test_before_the_first_step() -> None:
    one = begun("chain", "kernel")
    other = pickle.loads(pickle.dumps(one))
    for both in (one, other):
        go_on(both, 3)
    assert contents(other) == contents(one)


def test_it_can_be_loaded_and_viewed() -> None:
    one = begun("schedules", "kernel")
    go_on(one, 3)
    other = pickle.loads(pickle.dumps(one))
    assert not pellucid.diff(one, other)
    pellucid.view(other).set("learning_rate", 0.5)
    go_on(other, 1)
    assert other.journal.at(4)["group 0/learning_rate"] == 0.5
    assert len(one.journal) < len(other.journal)


def test_journals_file_stays_with_the_first(tmp_path: Any) -> None:
    one = begun("schedules", "kernel")
    one.journal.to_file(tmp_path / "journal")
    go_on(one, 3)
    other = pickle.loads(pickle.dumps(one))
    written = (tmp_path / "journal").read_bytes()
    other.param_groups[0]["learning_rate"] = 0.125
    go_on(other, 1)
    assert (tmp_path / "journal").read_bytes() == written


def test_rule_inside_a_function() -> None:
    class Local(Rule):
        """Known to nobody else."""

        learning_rate = hyper(0.1)

        def update(self, param: Any, grad: Any) -> Any:
            return param - self.learning_rate * grad

    one = Optimizer({"p": np.ones(3)}, Local())
    one.step({"p": np.ones(3)})
    with pytest.raises((AttributeError, pickle.PicklingError), match="Local"):
        pickle.dumps(one)
    other = copy.deepcopy(one)
    other.step({"p": np.ones(3)})
    assert one.params["p"].tolist() == [0.9] * 3
