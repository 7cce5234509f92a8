"""Torch's names: a row for each (rule, hyperparameter or slot, native name); no other renames.

A native name with an index is a component of a tuple: ``betas[0]``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from types import MappingProxyType
from typing import Any

from pellucid.compose import Pipeline
from pellucid.controls import Names, Place
from pellucid.storage import CLOCK, SEEN

__all__ = ["STEPS", "canonical_of", "names_of"]

ANY = "*"
ROWS: tuple[tuple[str, str, str], ...] = (
    (ANY, "learning_rate", "lr"),
    (ANY, "beta1", "betas[0]"),
    (ANY, "beta2", "betas[1]"),
    (ANY, "beta3", "betas[2]"),
    (ANY, "epsilon", "eps"),
    (ANY, "first_moment", "exp_avg"),
    (ANY, "second_moment", "exp_avg_sq"),
    (ANY, "max_second_moment", "max_exp_avg_sq"),
    (ANY, "velocity", "momentum_buffer"),
    ("Adamax", "infinity_norm", "exp_inf"),
    ("RMSprop", "rho", "alpha"),
    ("RMSprop", "second_moment", "square_avg"),
    ("RMSprop", "first_moment", "grad_avg"),
    ("Adagrad", "learning_rate_decay", "lr_decay"),
    ("Adagrad", "accumulator", "sum"),
    ("RowwiseAdagrad", "learning_rate_decay", "lr_decay"),
    ("RowwiseAdagrad", "accumulator", "sum"),
    ("Adadelta", "second_moment", "square_avg"),
    ("Adadelta", "update_moment", "acc_delta"),
    ("Rprop", "eta_minus", "etas[0]"),
    ("Rprop", "eta_plus", "etas[1]"),
    ("Rprop", "minimum_step", "step_sizes[0]"),
    ("Rprop", "maximum_step", "step_sizes[1]"),
    ("Rprop", "previous_gradient", "prev"),
    ("ASGD", "average", "ax"),
)

UNKNOWN: tuple[tuple[str, str], ...] = (
    ("SGD", "velocity_of"),
    ("SGD", "decoupled_weight_decay"),
    ("Adam", "corrected"),
    ("Adamax", "epsilon_inside"),
    ("Adamax", "decoupled_weight_decay"),
    ("RMSprop", "epsilon_inside"),
    ("RMSprop", "velocity_of"),
    ("RMSprop", "decoupled_weight_decay"),
    ("Adagrad", "epsilon_inside"),
    ("Adagrad", "decoupled_weight_decay"),
    ("Adadelta", "decoupled_weight_decay"),
)
"""(rule, option): options of ours that torch's class has not; a group without the key has the
default."""

STEPS: frozenset[str] = frozenset(
    ["Adam", "AdamW", "NAdam", "RAdam", "Adamax", "RMSprop", "Adagrad", "Adadelta", "Rprop", "ASGD"]
)
"""Rules whose torch counterpart keeps a ``step`` for each parameter, read or not."""


def _place(native: str) -> Place:
    found = re.fullmatch(r"(\w+)\[(\d+)\]", native)
    return Place(found[1], int(found[2])) if found else Place(native)


def rule_names(pipeline: Pipeline) -> list[str]:
    """The names under which a rule has rows: its class's and its bases' of the catalogue."""
    return [
        base.__name__
        for base in type(pipeline.rule).__mro__
        if base.__module__.startswith("pellucid.rules")
    ]


def names_of(pipeline: Pipeline) -> Names:
    """Torch's places and names for a pipeline."""
    table = {canonical: native for rule, canonical, native in ROWS if rule == ANY}
    for rule in reversed(rule_names(pipeline)):
        table |= {canonical: native for row, canonical, native in ROWS if row == rule}
    own = pipeline.rule.declared
    if not {"beta1", "beta2"} <= set(own.hypers):  # betas is a tuple of at least two
        table = {canonical: native for canonical, native in table.items() if "betas" not in native}
    places = {
        full: _place(table.get(full, full)) for full in (*pipeline.hypers, *pipeline.options)
    }
    slots = {full: _of_slot(table, full) for full in pipeline.slots}
    return Names(places, slots, ("capturable", "differentiable"), unknown_of(pipeline))


def _of_slot(table: Mapping[str, str], full: str) -> str:
    """A slot's native name; what is kept beside a slot is called after it."""
    for ending in (CLOCK, SEEN):
        if full.endswith(ending):
            return _of_slot(table, full.removesuffix(ending)) + ending
    return table.get(full, full)


def unknown_of(pipeline: Pipeline) -> dict[str, Any]:
    """The defaults of a rule's options that torch's class has not."""
    names = rule_names(pipeline)
    return {full: pipeline.options[full][1].default for rule, full in UNKNOWN if rule in names}


@cache
def canonical_of(classes: tuple[str, ...]) -> Mapping[str, str]:
    """Canonical names by torch's, for an optimizer's class and its bases."""
    table = {native: canonical for rule, canonical, native in ROWS if rule == ANY}
    for name in reversed(classes):
        table |= {native: canonical for rule, canonical, native in ROWS if rule == name}
    return MappingProxyType(table)
