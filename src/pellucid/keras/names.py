"""Keras's names, the order of its state, and its defaults: the one table of each.

A row renames what is called otherwise in Keras; what has no row keeps its canonical name. Slots
are renamed for the rules that have rows alone: other rules keep the names that they declare.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from types import MappingProxyType
from typing import Any

from pellucid.compose import Pipeline
from pellucid.controls import Names, Place
from pellucid.rule import Rule, Stage

__all__ = [
    "CLASSES",
    "canonical_of",
    "canonical_slots_of",
    "keras_arguments",
    "layout_of",
    "names_of",
]

ANY = "*"
Row = tuple[str, str, str]

CLASSES: Mapping[str, str] = {"NAdam": "Nadam", "FTRL": "Ftrl"}
"""Keras's name of a rule's class, where it is another than ours."""

HYPERS: tuple[Row, ...] = (
    (ANY, "beta1", "beta_1"),
    (ANY, "beta2", "beta_2"),
    (ANY, "beta3", "beta_3"),
    ("FTRL", "l1", "l1_regularization_strength"),
    ("FTRL", "l2", "l2_regularization_strength"),
    ("FTRL", "l2_shrinkage", "l2_shrinkage_regularization_strength"),
)
"""(rule, canonical name, Keras's name) of hyperparameters and options."""

SLOTS: tuple[Row, ...] = (
    ("SGD", "velocity", "momentum"),
    ("Adam", "first_moment", "momentum"),
    ("Adam", "second_moment", "velocity"),
    ("Adam", "max_second_moment", "velocity_hat"),
    ("NAdam", "first_moment", "momentum"),
    ("NAdam", "second_moment", "velocity"),
    ("NAdam", "mu_product", "u_product"),
    ("RAdam", "first_moment", "momentum"),
    ("RAdam", "second_moment", "velocity"),
    ("Adamax", "first_moment", "momentum"),
    ("Adamax", "infinity_norm", "norm"),
    ("RMSprop", "second_moment", "velocity"),
    ("RMSprop", "first_moment", "average_gradient"),
    ("RMSprop", "velocity", "momentum"),
    ("Adadelta", "second_moment", "accumulated_grad"),
    ("Adadelta", "update_moment", "accumulated_delta_var"),
    ("Lion", "first_moment", "momentum"),
    ("Signum", "first_moment", "momentum"),
    ("Lamb", "first_moment", "momentum"),
    ("Lamb", "second_moment", "velocity"),
    ("ScheduleFreeAdamW", "second_moment", "velocity"),
)
"""(rule, canonical name, Keras's name) of slots: the end of Keras's ``dense_kernel_momentum``.

Keras keeps one ``u_product`` for all parameters, without a name; ours is each parameter's. Lamb and
ScheduleFreeAdamW are Keras's alone: the view reads theirs.
"""

LAYOUT: Mapping[str, tuple[tuple[str, ...], ...]] = {
    "RMSprop": (("second_moment",), ("velocity",), ("first_moment",)),
    "NAdam": (("first_moment", "second_moment"), ("mu_product",)),
}
"""The order in which Keras creates a rule's slots, where it is not `layout_of`'s usual one."""

_UNSET = {"weight_decay": None}
DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "SGD": {"learning_rate": 0.01, "momentum": 0.0, "nesterov": False, **_UNSET},
    "Adam": {
        "learning_rate": 1e-3, "beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-7, "amsgrad": False,
        **_UNSET,
    },
    "AdamW": {
        "learning_rate": 1e-3, "weight_decay": 4e-3, "beta_1": 0.9, "beta_2": 0.999,
        "epsilon": 1e-7, "amsgrad": False,
    },
    "NAdam": {"learning_rate": 1e-3, "beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-7, **_UNSET},
    "Adamax": {"learning_rate": 1e-3, "beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-7, **_UNSET},
    "RMSprop": {
        "learning_rate": 1e-3, "rho": 0.9, "momentum": 0.0, "epsilon": 1e-7, "centered": False,
        **_UNSET,
    },
    "Adagrad": {
        "learning_rate": 1e-3, "initial_accumulator_value": 0.1, "epsilon": 1e-7, **_UNSET,
    },
    "Adadelta": {"learning_rate": 1e-3, "rho": 0.95, "epsilon": 1e-7, **_UNSET},
    "FTRL": {
        "learning_rate": 1e-3, "learning_rate_power": -0.5, "initial_accumulator_value": 0.1,
        "l1_regularization_strength": 0.0, "l2_regularization_strength": 0.0,
        "l2_shrinkage_regularization_strength": 0.0, "beta": 0.0, **_UNSET,
    },
    "Lion": {"learning_rate": 1e-3, "beta_1": 0.9, "beta_2": 0.99, **_UNSET},
}  # fmt: skip
"""Keras's own arguments and defaults, in its order; those that all its optimizers share are not
here, but for ``weight_decay``, whose place and default differ. None there: no decay."""

ARITHMETIC: Mapping[str, Mapping[str, Any]] = {
    "SGD": {"velocity_of": "step", "decoupled_weight_decay": True},
    "Adam": {"corrected": "rate", "decoupled_weight_decay": True},
    "AdamW": {"corrected": "rate", "decoupled_weight_decay": True},
    "NAdam": {"momentum_decay": 1.0, "decoupled_weight_decay": True},
    "Adamax": {"epsilon_inside": False, "decoupled_weight_decay": True},
    "RMSprop": {"epsilon_inside": True, "velocity_of": "step", "decoupled_weight_decay": True},
    "Adagrad": {"epsilon_inside": True, "decoupled_weight_decay": True},
    "Adadelta": {"decoupled_weight_decay": True},
}
"""What a rule of ours needs, by canonical name, to compute as Keras's class does."""


def rule_names(rule: type[Stage]) -> list[str]:
    """The names under which a rule has rows: its class's and its bases' of the catalogue."""
    return [base.__name__ for base in rule.__mro__ if base.__module__.startswith("pellucid.rules")]


def _table(rows: tuple[Row, ...], names: list[str]) -> dict[str, str]:
    """Keras's names by canonical ones; a class's own rows win over its bases'."""
    table = {canonical: native for row, canonical, native in rows if row == ANY}
    for name in reversed(names):
        table |= {canonical: native for row, canonical, native in rows if row == name}
    return table


def names_of(pipeline: Pipeline) -> Names:
    """Keras's places and names for a pipeline; of its other stages, ``stage.name``."""
    rules = rule_names(type(pipeline.rule))
    hypers, slots = _table(HYPERS, rules), _table(SLOTS, rules)
    return Names(
        {full: Place(hypers.get(full, full)) for full in (*pipeline.hypers, *pipeline.options)},
        {full: slots.get(full, full) for full in pipeline.slots},
    )


def layout_of(pipeline: Pipeline) -> tuple[tuple[str, ...], ...]:
    """A pipeline's slots in the order in which Keras creates such, by full name.

    A group's slots are created in turn for each variable: (m, v) gives m of a, v of a, m of b,
    v of b. The rule's come first: those that it always has as one group, then each other alone;
    then those of the other stages, each alone.
    """
    rule = pipeline.rule
    own = [full for full, (stage, _) in pipeline.slots.items() if stage is rule]
    rows = (LAYOUT[name] for name in rule_names(type(rule)) if name in LAYOUT)
    groups = [*next(rows, ())]
    left = [full for full in own if all(full not in group for group in groups)]
    always = tuple(full for full in left if pipeline.slots[full][1].when is None)
    groups += [always] if always else []
    alone = [full for full in left if full not in always]
    alone += [full for full in pipeline.slots if full not in own]
    return (*groups, *((full,) for full in alone))


def _rule_rows(classes: tuple[str, ...]) -> Iterator[str]:
    ours = {native: canonical for canonical, native in CLASSES.items()}
    return (ours.get(name, name) for name in classes)


@cache
def canonical_of(classes: tuple[str, ...]) -> Mapping[str, str]:
    """Canonical names of hyperparameters by Keras's, for an optimizer's class and its bases."""
    table = _table(HYPERS, [*_rule_rows(classes)])
    return MappingProxyType({native: canonical for canonical, native in table.items()})


@cache
def canonical_slots_of(classes: tuple[str, ...]) -> Mapping[str, str]:
    """Canonical names of slots by Keras's, for an optimizer's class and its bases.

    Apart from `canonical_of`: ``momentum`` is a hyperparameter of SGD, and the name of its
    velocity.
    """
    table = _table(SLOTS, [*_rule_rows(classes)])
    return MappingProxyType({native: canonical for canonical, native in table.items()})


def keras_arguments(rule: type[Rule]) -> dict[str, Any]:
    """What Keras's class of a rule takes, with its defaults, and what gives its arithmetic.

    Keras's own arguments come first, by Keras's names and in its order; then, by Keras's names,
    all else that the rule takes, with the values that compute as Keras does. A rule that Keras has
    not keeps its own defaults. ``weight_decay=None`` is no decay.
    """
    kind = rule.__name__ if rule.__module__.startswith("pellucid.rules") else ""
    native = _table(HYPERS, rule_names(rule))
    own = {native.get(name, name): one.default for name, one in rule.declared.arguments.items()}
    arithmetic = {native.get(n, n): value for n, value in ARITHMETIC.get(kind, {}).items()}
    keras = DEFAULTS.get(kind, {})
    return {**keras, **own, **arithmetic, **keras}
