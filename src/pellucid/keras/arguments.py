"""Keras's own arguments as stages: clipping and weight decay, fused and live like all others."""

from __future__ import annotations

from typing import Any

from pellucid.compose import Chain, Composed, Route, chain, flatten, transformers_of
from pellucid.rule import Rule, Stage
from pellucid.transforms import clip_by_global_norm, clip_by_norm, clip_by_value, decay_weights

__all__ = ["ALIASES", "DECAYS", "decays", "with_arguments"]

CLIPS: dict[str, Any] = {
    "clipnorm": clip_by_norm,
    "clipvalue": clip_by_value,
    "global_clipnorm": clip_by_global_norm,
}
ALIASES: dict[str, str] = {
    "clipnorm": "clipnorm.max_norm",
    "clipvalue": "clipvalue.max_value",
    "global_clipnorm": "global_clipnorm.max_norm",
    "weight_decay": "weight_decay.weight",
}
"""Keras's arguments, and the full names of the hyperparameters that they became."""

DECAYS = ("weight_decay", "weight_decay.weight")
"""The full names under which Keras's ``weight_decay`` may be found."""


def with_arguments(composed: Composed, weight_decay: Any, **clips: Any) -> Composed:
    """The stages with Keras's clipping before them and its weight decay among them.

    Args:
        composed: a rule, a chain or a route.
        weight_decay: sets the rule's own where it has one, else adds `decay_weights`.
        clips: ``clipnorm``, ``clipvalue`` and ``global_clipnorm``; None for no such clipping.

    Raises:
        ValueError: a weight decay is given twice.
    """
    if weight_decay is not None:
        composed = _decayed(composed, weight_decay)
    front = [CLIPS[name](value, name=name) for name, value in clips.items() if value is not None]
    if not front:
        return composed
    return chain(*transformers_of(composed), *front, *flatten(composed))


def _decayed(composed: Composed, weight_decay: Any) -> Composed:
    if isinstance(composed, Route):
        branches = [(pattern, _decayed(one, weight_decay)) for pattern, one in composed.branches]
        return Route(tuple(branches))
    if isinstance(composed, Chain):
        stages: list[Stage | Route] = []
        for stage in composed.stages:
            if isinstance(stage, Route) or stage.kind == "rule":
                stages.extend(flatten(_decayed(stage, weight_decay)))
            else:
                stages.append(stage)
        if any(isinstance(stage, decay_weights) for stage in composed.stages):
            raise ValueError(
                f"weight_decay={weight_decay!r} is given, and {composed!r} decays weights, too: "
                "give one"
            )
        return chain(*composed.transformers, *_in_order(stages))
    assert isinstance(composed, Rule)
    own = composed.declared.hypers.get("weight_decay")
    if own is None:
        return chain(composed, decay_weights(weight_decay, name="weight_decay"))
    given = composed.values["weight_decay"]
    if not (isinstance(given, float) and given == own.default) and given != weight_decay:
        raise ValueError(
            f"weight_decay={weight_decay!r} is given, and {composed!r} has one, too: give one"
        )
    return composed._replace(weight_decay=weight_decay)


def _in_order(stages: list[Stage | Route]) -> list[Stage | Route]:
    """What was added behind the rule comes before the parameter transforms."""
    last = [one for one in stages if isinstance(one, Stage) and one.kind == "parameter transform"]
    return [*(one for one in stages if one not in last), *last]


def decays(composed: Composed) -> bool:
    """Whether a rule among the stages has a weight decay of its own."""
    if isinstance(composed, Route):
        return any(decays(one) for _, one in composed.branches)
    if isinstance(composed, Chain):
        return any(decays(one) for one in composed.stages)
    return composed.kind == "rule" and "weight_decay" in composed.declared.hypers
