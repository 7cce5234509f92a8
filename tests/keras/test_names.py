"""Keras's names, the order of its state and its defaults, against Keras's own optimizers."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import keras
import pytest

import pellucid
from pellucid.compose import Pipeline
from pellucid.keras.names import (
    ARITHMETIC,
    CLASSES,
    DEFAULTS,
    HYPERS,
    SLOTS,
    canonical_of,
    canonical_slots_of,
    keras_arguments,
    layout_of,
    names_of,
)
from pellucid.rules import CATALOGUE

SHARED = {
    "clipnorm", "clipvalue", "global_clipnorm", "use_ema", "ema_momentum",
    "ema_overwrite_frequency", "loss_scale_factor", "gradient_accumulation_steps", "name",
    "kwargs",
}  # fmt: skip
WITHOUT = {"RAdam", "Rprop", "ASGD", "Signum", "RowwiseAdagrad"}
"""Rules that Keras has not."""

WITH_SLOTS: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in DEFAULTS),
    ("SGD", {"momentum": 0.9}),
    ("Adam", {"amsgrad": True}),
    ("AdamW", {"amsgrad": True}),
    ("RMSprop", {"momentum": 0.9}),
    ("RMSprop", {"centered": True}),
    ("RMSprop", {"momentum": 0.9, "centered": True}),
]


def keras_class(rule: str) -> type[Any]:
    found = getattr(keras.optimizers, CLASSES.get(rule, rule))
    assert inspect.isclass(found)
    return found


def pipeline_of(rule: str, given: Mapping[str, Any]) -> Pipeline:
    return Pipeline((CATALOGUE[rule](**given),), (0,))


def test_every_rule_is_keras_s_or_known_to_be_ours_alone() -> None:
    assert set(DEFAULTS) | WITHOUT == set(CATALOGUE)
    assert not set(DEFAULTS) & WITHOUT
    assert set(ARITHMETIC) <= set(DEFAULTS)
    for rule in WITHOUT:
        assert not hasattr(keras.optimizers, rule)


@pytest.mark.parametrize("rule", DEFAULTS)
def test_defaults_are_those_of_keras_s_signature(rule: str) -> None:
    signature = inspect.signature(keras_class(rule).__init__)
    theirs = {
        name: one.default
        for name, one in signature.parameters.items()
        if name not in SHARED and name != "self"
    }
    assert [*DEFAULTS[rule].items()] == [*theirs.items()]
    assert [*keras_arguments(CATALOGUE[rule]).items()][: len(theirs)] == [*theirs.items()]


@pytest.mark.parametrize("rule", DEFAULTS)
def test_what_is_left_out_is_shared_by_all(rule: str) -> None:
    parameters = {*inspect.signature(keras_class(rule).__init__).parameters}
    assert parameters >= SHARED


@pytest.mark.parametrize("rule", CATALOGUE)
def test_arguments_make_the_rule(rule: str) -> None:
    """By Keras's names, through the table, every argument arrives."""
    arguments = keras_arguments(CATALOGUE[rule])
    names = names_of(pipeline_of(rule, {}))
    given = {}
    for native, value in arguments.items():
        if native == "weight_decay" and value is None:
            continue  # no decay: the rule's own, or none at all
        (full,) = names.canonical(native)
        given[full] = value
    made = CATALOGUE[rule](**given)
    assert set(made.values) - {"weight_decay"} == set(given) - {"weight_decay"}
    if rule in WITHOUT:
        assert made == CATALOGUE[rule]()


@pytest.mark.parametrize(("rule", "given"), WITH_SLOTS, ids=str)
def test_slots_have_keras_s_names_and_order(rule: str, given: dict[str, Any]) -> None:
    variables = [
        keras.Variable([1.0, 2.0], name="a"),
        keras.Variable([[1.0]], name="b"),
        keras.Variable(3.0, name="c"),
    ]
    optimizer = keras_class(rule)(**given)
    optimizer.build(variables)
    actual = [one.path.rpartition("/")[2] for one in optimizer.variables]

    pipeline = pipeline_of(rule, given)
    names = names_of(pipeline)
    stage = pipeline.rule
    expected = ["iteration", "learning_rate"]
    for group in layout_of(pipeline):
        present = [
            names.slots[full]
            for full in group
            if pipeline.slots[full][1].present(stage.values)
        ]
        if present == ["u_product"]:  # Keras has one, which it gives no name
            nameless = next(one for one in optimizer.variables if one is optimizer._u_product)
            expected.append(nameless.path.rpartition("/")[2])
            continue
        expected += [f"{variable.path}_{name}" for variable in variables for name in present]
    assert actual == expected


def test_names_of_a_chain() -> None:
    chained = pellucid.chain(
        pellucid.transforms.clip_by_global_norm(1.0),
        pellucid.Adam(amsgrad=True),
        pellucid.transforms.average_weights(),
    )
    pipeline = Pipeline(chained.stages, (0, 1, 2))
    names = names_of(pipeline)
    assert names.native("beta1") == "beta_1"
    assert names.native("clip_by_global_norm.max_norm") == "clip_by_global_norm.max_norm"
    assert names.native("average_weights.decay") == "average_weights.decay"
    assert names.canonical("beta_2") == ["beta2"]
    assert names.slots["second_moment"] == "velocity"
    assert names.slots["average_weights.average"] == "average_weights.average"
    assert layout_of(pipeline)[:2] == (("first_moment", "second_moment"), ("max_second_moment",))
    assert ("average_weights.average",) in layout_of(pipeline)[2:]
    assert sorted(full for group in layout_of(pipeline) for full in group) == sorted(pipeline.slots)


class Mine(pellucid.Rule):
    """A rule of a user's: two moments and a velocity, whose names stay."""

    beta1 = pellucid.hyper(0.9)
    boost = pellucid.hyper(0.0)
    velocity = pellucid.slot(when=boost != 0)
    second_moment = pellucid.slot()

    def update(self, param: Any, grad: Any) -> Any:
        return param - self.beta1 * grad


class Slow(pellucid.RMSprop):
    """A rule with a slot more than its base."""

    slow = pellucid.slot("param")

    def update(self, param: Any, grad: Any) -> Any:
        return super().update(param, grad)


def test_rules_of_users() -> None:
    names, layout = names_of(pipeline_of_rule(Mine())), layout_of(pipeline_of_rule(Mine()))
    assert names.native("beta1") == "beta_1"
    assert names.slots == {"velocity": "velocity", "second_moment": "second_moment"}
    assert layout == (("second_moment",), ("velocity",))
    slow = pipeline_of_rule(Slow())
    assert names_of(slow).slots["second_moment"] == "velocity"
    assert layout_of(slow) == (("second_moment",), ("velocity",), ("first_moment",), ("slow",))
    assert keras_arguments(Mine) == {"beta_1": 0.9, "boost": 0.0, "maximize": False}


def pipeline_of_rule(rule: pellucid.Rule) -> Pipeline:
    return Pipeline((rule,), (0,))


@pytest.mark.parametrize("rule", CATALOGUE)
def test_no_two_slots_or_values_of_a_rule_share_a_name(rule: str) -> None:
    names = names_of(pipeline_of(rule, {}))
    assert len({*names.slots.values()}) == len(names.slots)
    assert len(names.native_keys()) == len(names.places)


def test_rows_name_what_rules_declare() -> None:
    theirs_alone = {"Lamb", "ScheduleFreeAdamW"}
    for rows, what in ((HYPERS, "arguments"), (SLOTS, "slots")):
        for rule, canonical, native in rows:
            assert native != canonical
            if rule in theirs_alone:
                assert hasattr(keras.optimizers, rule)
            elif rule != "*":
                assert canonical in getattr(CATALOGUE[rule].declared, what)


def test_canonical_names_of_keras_s_classes() -> None:
    def classes(kind: type[Any]) -> tuple[str, ...]:
        return tuple(base.__name__ for base in kind.__mro__)

    adamw = classes(keras.optimizers.AdamW)
    assert canonical_of(adamw)["beta_1"] == "beta1"
    assert canonical_slots_of(adamw)["velocity_hat"] == "max_second_moment"
    sgd = classes(keras.optimizers.SGD)
    assert "momentum" not in canonical_of(sgd)
    assert canonical_slots_of(sgd) == {"momentum": "velocity"}
    rmsprop = canonical_slots_of(classes(keras.optimizers.RMSprop))
    assert rmsprop["velocity"] == "second_moment"
    assert rmsprop["momentum"] == "velocity"
    ftrl = classes(keras.optimizers.Ftrl)
    assert canonical_of(ftrl)["l1_regularization_strength"] == "l1"
    assert canonical_slots_of(classes(keras.optimizers.Nadam))["velocity"] == "second_moment"
