"""An optimizer in TensorFlow's checkpoints: its arrays as Keras's own are found there, and a text.

`tf.train.Checkpoint` binds variables to entries before it restores any value. A text that changes
which slots there are must be read before that: so, where a checkpoint has one, arrays are left
unbound until it was.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from weakref import ref

import numpy
import tensorflow as tf

from pellucid.keras.described import Difference
from pellucid.keras.files import CHILD, Key, keys_of, name_of, targets, text_of, value_of
from pellucid.keras.loading import await_build

if TYPE_CHECKING:
    from pellucid.keras.optimizer import Optimizer

__all__ = ["arrays_of", "children", "lookup"]

LISTS = (
    "_variables",
    "_trainable_variables",
    "_model_variables_moving_average",
    "_accumulated_gradients",
)
"""Attributes in which Keras keeps variables, and TensorFlow would look for them."""

Trackable: Any = tf.__internal__.tracking.Trackable


def arrays_of(optimizer: Optimizer) -> Arrays:
    """What a checkpoint finds an optimizer's arrays in."""
    beside = optimizer.pellucid
    if beside.arrays is None:
        beside.arrays = Arrays(optimizer)
    return beside.arrays  # type: ignore[no-any-return]


class Arrays(Trackable):  # type: ignore[misc]
    """The arrays of an optimizer by their places in a file: ``_variables`` of Keras's own."""

    def __init__(self, optimizer: Optimizer) -> None:
        self._optimizer = ref(optimizer)
        self._ones: dict[Key, _OneForAll] = {}
        self.text = _Text(self)
        self.awaits_text = False

    @property
    def optimizer(self) -> Optimizer:
        optimizer = self._optimizer()
        assert optimizer is not None
        return optimizer

    def _by_place(self) -> dict[str, Any]:
        return {str(k): self._trackable(key) for k, key in enumerate(keys_of(self.optimizer))}

    def _trackable(self, key: Key) -> Any:
        if key[0] != "one":
            return targets(self.optimizer, key)[0]
        return self._ones.setdefault(key, _OneForAll(self, key))

    def _trackable_children(self, save_type: str = "checkpoint", **_: Any) -> dict[str, Any]:
        if save_type == "checkpoint":
            return self._by_place()
        return {str(place): one for place, one in enumerate(self.optimizer.variables)}

    def _lookup_dependency(self, name: str, cached_dependencies: Any = None) -> Any:
        """What an entry is restored into; None: it waits, for the text or for the build.

        Raises:
            ValueError: a checkpoint of Keras's own optimizer has more than this one.
        """
        if self.awaits_text:
            return None
        found = self._by_place()
        if not self.optimizer.built:
            return found.get(name)
        if name not in found:
            raise self._unknown([name])
        self._begin()
        return found[name]

    def _unknown(self, names: list[str]) -> Difference:
        optimizer = self.optimizer
        listed = ", ".join(name_of(optimizer, key) for key in keys_of(optimizer))
        return Difference(
            optimizer, [f"it has arrays {', '.join(sorted(names, key=int))}; here are {listed}"]
        )

    def _begin(self) -> None:
        """Slots of Keras's own optimizers hold what they are to begin with."""
        begun = self.optimizer.core.begun
        if begun is not None:
            begun.assign(numpy.ones(tuple(begun.shape), "float32"))

    def catch_up(self, told: bool) -> None:
        """Restore what waits, now that the slots are there.

        Args:
            told: whether a text has told which slots have taken part in an update.
        """
        self._maybe_initialize_trackable()
        waiting = {*self._deferred_dependencies}
        if not waiting:
            return
        known = self._by_place()
        unknown = waiting - {*known}
        if unknown:
            self._deferred_dependencies.clear()
            raise self._unknown([*unknown])
        for name in sorted(waiting, key=int):
            self._handle_deferred_dependencies(name, known[name])
        if not told:
            self._begin()

    def forget(self) -> None:
        """Let go of what was not restored."""
        self._deferred_dependencies.clear()
        self.awaits_text = False


class _OneForAll(Trackable):  # type: ignore[misc]
    """A slot that Keras has once, and ours has for each parameter."""

    def __init__(self, arrays: Arrays, key: Key) -> None:
        self._arrays, self._key = arrays, key

    def _serialize_to_tensors(self) -> dict[str, Any]:
        return {"VARIABLE_VALUE": tf.constant(value_of(self._arrays.optimizer, self._key))}

    def _restore_from_tensors(self, restored_tensors: Mapping[str, Any]) -> None:
        for variable in targets(self._arrays.optimizer, self._key):
            variable.assign(restored_tensors["VARIABLE_VALUE"])


class _Text(tf.train.experimental.PythonState):  # type: ignore[misc]
    """What is no array, as a string."""

    def __init__(self, arrays: Arrays) -> None:
        self._arrays = ref(arrays)

    def serialize(self) -> str:
        arrays = self._arrays()
        assert arrays is not None
        return text_of(arrays.optimizer)

    def deserialize(self, string_value: bytes) -> None:
        """Called before values are restored; raises if they would not fit."""
        arrays = self._arrays()
        assert arrays is not None
        arrays.awaits_text = False
        try:
            await_build(arrays.optimizer, None, string_value.decode())
        except BaseException:
            arrays.forget()
            raise


def children(optimizer: Optimizer, found: Mapping[str, Any], save_type: str) -> dict[str, Any]:
    """What TensorFlow's checkpoints find in an optimizer.

    Args:
        found: what Keras has them find.
    """
    arrays = arrays_of(optimizer)
    arrays.awaits_text = False
    kept = {name: one for name, one in found.items() if name not in LISTS}
    kept["_variables"] = arrays
    if save_type != "checkpoint":
        return kept
    rate = optimizer._rate()
    if rate is not None and rate.driver is not None:
        kept.pop("_learning_rate", None)
    return {**kept, CHILD: arrays.text}


def lookup(optimizer: Optimizer, name: str, found: Any) -> Any:
    """What a checkpoint's entry of this name is restored into."""
    if name == CHILD:
        arrays_of(optimizer).awaits_text = True
    return found
