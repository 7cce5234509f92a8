"""What Keras tracks as an optimizer's Variables."""

from __future__ import annotations

from typing import Any

from keras.src.utils.tracking import DotNotTrackScope

__all__ = ["keep_only"]


def keep_only(optimizer: Any, variables: list[Any]) -> None:
    """Make these the optimizer's variables.

    By a new list: TensorFlow saves no list out of whose middle something was taken.
    """
    with DotNotTrackScope():
        optimizer._variables = variables
    tracker = optimizer._tracker
    predicate, _ = tracker.config["variables"]
    tracker.config["variables"] = predicate, optimizer._variables
    tracker.stored_ids["variables"] = {id(one) for one in variables}
