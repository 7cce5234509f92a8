"""A legacy optimizer's variables: made, listed, saved; and compiled steps that have to know."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras
import numpy
import tensorflow as tf

from pellucid.keras.legacy_hooks import without_autograph
from pellucid.keras.legacy_variables import (
    NamedVariable,
    Variables,
    assign_all,
    bare,
    initial_value,
    make_variable,
    unwrap,
)

__all__ = ["State"]

PLAIN = (bool, int, float, str, type(None))
UNREAD = ("built", "_busy", "_structures")
"""Plain attributes that no hook reads."""
TRACKING = "_self_"
"""How the attributes begin in which TensorFlow counts and tracks; they change all the time."""


@without_autograph
class State(keras.optimizers.Optimizer):  # type: ignore[misc]
    """The count of steps, slots and further variables of a legacy optimizer.

    Abstract: `pellucid.keras.legacy.Optimizer` adds hyperparameters and hooks.
    """

    _name: str
    built: bool
    _hypers: Any
    _hooks: Any
    name = property(lambda self: self._name, lambda self, name: setattr(self, "_name", name))

    def _begin_state(self) -> None:
        self._iterations: Any = None
        self._weights: list[Any] = []  # [iter, slots...] in the order in which they were made
        self._slots: dict[Any, dict[str, Any]] = {}  # variable's key → slot's name → variable
        self._slot_names: list[str] = []
        self._named: dict[str, Any] = {}  # add_weight's, and those kept as attributes
        self._trained: dict[Any, Any] = {}  # key → variable, Keras's where Keras gave it
        self._waiting_slots: dict[tuple[str, Any], list[Any]] = {}  # positions in a checkpoint
        self._waiting_values: list[Any] | None = None  # of a file that was loaded before the build
        self._structure: Any = None
        self._structures = 0
        self._traced = False  # whether a graph was made that reads it
        self._busy = False

    def _set_plain(self, name: str, value: Any) -> None:
        """Set an attribute that is no hyperparameter; a variable is listed and saved."""
        known, before = name in self.__dict__, self.__dict__.get(name)
        object.__setattr__(self, name, value)
        if "_structure" not in self.__dict__:
            return
        if isinstance(value, (tf.Variable, keras.Variable)) and name not in (
            "_iterations", "_structure",
        ):  # fmt: skip
            self._named[name] = unwrap(value)
            self._track_trackable(value, name, overwrite=True)
            return
        self._named.pop(name, None)
        if known and isinstance(before, PLAIN) and isinstance(value, PLAIN) and before != value:
            self._rebuild_for(name)

    def _rebuild_for(self, attribute: str) -> None:
        """A plain attribute was set to another value: a compiled step has the old one."""
        if attribute not in UNREAD and not attribute.startswith(TRACKING):
            self._rebuild()

    def _track_variable(self, variable: Any) -> None:
        """Keep a variable that was made with Keras 3's `add_variable`."""
        super()._track_variable(variable)
        if "_structure" in self.__dict__:
            self._named[variable.path] = unwrap(variable)
            self._track_trackable(variable, variable.path, overwrite=True)

    def _forget_trackable(self, name: str) -> None:
        self._delete_tracking(name)

    @contextmanager
    def _distribution_strategy_scope(self) -> Iterator[None]:
        """The scope of the strategy under which the optimizer was constructed."""
        strategy = self._distribution_strategy
        if tf.distribute.has_strategy() or type(strategy.extended).__name__.startswith("_Default"):
            yield
        else:
            with strategy.scope():
                yield

    # -- the count of steps --------------------------------------------------------------------

    @property
    def iterations(self) -> Any:
        """The number of completed steps, an int64 Variable."""
        if self._iterations is None:
            with tf.init_scope(), self._distribution_strategy_scope():
                made = make_variable(
                    f"{self._name}/iter",
                    0,
                    tf.int64,
                    aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
                )
            self.iterations = made
        return self._iterations

    @iterations.setter
    def iterations(self, variable: Any) -> None:
        if self._iterations is not None:
            raise RuntimeError(
                f"{self._name}: `iterations` can be given a Variable only before it was first "
                f"read or counted; received {variable!r}. To change the count, call "
                "optimizer.iterations.assign(number)."
            )
        variable = unwrap(variable)
        if not isinstance(variable, tf.Variable):
            raise TypeError(f"`iterations` must be a Variable; received {variable!r}.")
        object.__setattr__(self, "_iterations", variable)
        self._weights.append(variable)
        self._track_trackable(variable, "iter", overwrite=True)

    # -- slots and weights ---------------------------------------------------------------------

    def _create_all_weights(self, var_list: list[Any]) -> None:
        """Make what is missing of the count, the hyperparameters and the slots."""
        _ = self.iterations
        self._create_hypers()
        self._create_slots([unwrap(one) for one in var_list])

    def _create_hypers(self) -> None:
        raise NotImplementedError

    def _create_slots(self, var_list: list[Any]) -> None:
        raise NotImplementedError

    def build(self, variables: Any) -> None:
        """Make all variables; Keras calls it before it compiles a step."""
        variables = list(variables)
        with tf.init_scope():
            self._meet(variables)
            self._create_all_weights([unwrap(one) for one in variables])
            self._load_waiting()

    def _meet(self, variables: list[Any]) -> None:
        """Keep which variables are trained: their constraints, and what `apply` is called for."""
        for one in variables:
            key = self._var_key(one)
            if key not in self._trained or isinstance(one, keras.Variable):
                self._trained[key] = one
        if not self.built:
            self._trainable_variables = variables
            self._trainable_variables_indices = {
                self._var_key(one): index for index, one in enumerate(variables)
            }
        if self._structure is None:
            object.__setattr__(
                self, "_structure", NamedVariable(0, trainable=False, dtype=tf.int64)
            )
        self.built = True

    def _constraint(self, variable: Any) -> Any:
        known = self._trained.get(self._var_key(variable), variable)
        return getattr(known, "constraint", None)

    def add_slot(
        self, var: Any, slot_name: str, initializer: Any = "zeros", shape: Any = None
    ) -> Any:
        """A variable that belongs to ``var``; the one that is there if it was made before.

        Args:
            initializer: a name of Keras's, a function of shape and dtype, or a value.
            shape: of the slot; ``var``'s if left out.
        """
        var = unwrap(var)
        if slot_name not in self._slot_names:
            self._slot_names.append(slot_name)
        slots = self._slots.setdefault(self._var_key(var), {})
        if slot_name in slots:
            return slots[slot_name]
        initial = initial_value(initializer, var.shape if shape is None else shape, var.dtype)
        with tf.init_scope(), self._distribution_strategy_scope():
            strategy = tf.distribute.get_strategy()
            if not strategy.extended.variable_created_in_scope(var):
                raise ValueError(
                    f"{self._name}: {bare(var.name)} was made under another distribution strategy "
                    f"than the optimizer's, {strategy}. Make the model and the optimizer under "
                    "one strategy.scope()."
                )
            with strategy.extended.colocate_vars_with(var):
                made = make_variable(
                    f"{self._name}/{bare(var._shared_name)}/{slot_name}", initial, var.dtype
                )
        slots[slot_name] = made
        self._weights.append(made)
        for position in self._waiting_slots.pop((slot_name, self._var_key(var)), []):
            position.restore(made)
        return made

    def get_slot(self, var: Any, slot_name: str) -> Any:
        """The slot of a variable.

        Raises:
            KeyError: there is none of the name.
        """
        found = self._slots.get(self._var_key(var), {})
        if slot_name not in found:
            raise KeyError(
                f"{self._name} has no slot {slot_name!r} for {bare(unwrap(var).name)}; it has "
                f"{', '.join(found) or 'none'}. Slots are made in _create_slots with "
                f"self.add_slot(var, {slot_name!r}), when the optimizer is built."
            )
        return found[slot_name]

    def get_slot_names(self) -> list[str]:
        return self._slot_names

    def add_weight(
        self,
        name: str,
        shape: Any,
        dtype: Any = None,
        initializer: Any = "zeros",
        trainable: bool | None = None,
        synchronization: Any = tf.VariableSynchronization.AUTO,
        aggregation: Any = tf.VariableAggregation.NONE,
    ) -> Any:
        """A variable that belongs to no parameter: float32 if no dtype is given.

        Raises:
            ValueError: it is to be trained, which an optimizer's variable is not.
        """
        if trainable:
            raise ValueError(
                f"add_weight({name!r}, trainable=True): an optimizer's variable is not trained; "
                "leave `trainable` out."
            )
        dtype = tf.as_dtype(dtype or tf.float32)
        with tf.init_scope(), self._distribution_strategy_scope():
            made = make_variable(
                f"{self._name}/{name}",
                initial_value(initializer, shape, dtype),
                dtype,
                synchronization=synchronization,
                aggregation=aggregation,
            )
        self._named[name] = made
        self._track_trackable(made, name, overwrite=True)
        return made

    def _entries(self) -> list[tuple[str, Any]]:
        """Each variable once, with its name: iter, hyperparameters, slots, the rest."""
        _ = self.iterations
        entries = [(f"{self._name}/iter", self._iterations)]
        entries += [(f"{self._name}/{name}", one) for name, one in self._hypers.variables()]
        entries += [(one.name, one) for one in self._weights]
        entries += [(f"{self._name}/{name}", one) for name, one in self._named.items()]
        seen = {id(unwrap(one)) for one in self._trained.values()}
        return [(name, one) for name, one in entries if not (id(one) in seen or seen.add(id(one)))]  # type: ignore[func-returns-value]

    @property
    def variables(self) -> Variables:
        """All variables, hyperparameters too; ``variables()`` is the same.

        ``variables["MyOptimizer/learning_rate"]``, or ``["learning_rate"]``, is one of them.
        """
        return Variables(self._name, self._entries())

    @property
    def weights(self) -> list[Any]:
        """The count of steps and the slots, in the order in which they were made."""
        return self._weights

    def get_weights(self) -> list[Any]:
        """The values of `weights`: [iter, slots...], without hyperparameters."""
        return [one.numpy() for one in self.weights]

    def set_weights(self, weights: Any) -> None:
        """Write the values of `weights`.

        Raises:
            ValueError: their number or a shape differs; nothing is written.
        """
        assign_all(self._name, [(bare(one.name), one) for one in self.weights], list(weights))

    # -- files ---------------------------------------------------------------------------------

    def save_own_variables(self, store: Any) -> None:
        """Write all variables into a `.keras` or `.weights.h5` file."""
        for index, variable in enumerate(self.variables):
            store[str(index)] = variable.numpy()

    def load_own_variables(self, store: Any) -> None:
        """Read all variables; before the optimizer is built they wait for that.

        Raises:
            ValueError: their number or a shape differs; nothing is read.
        """
        values = [numpy.asarray(store[str(index)]) for index in range(len(store.keys()))]
        if not values:
            warnings.warn(
                f"The file holds no variables of an optimizer: {self._name} stays as it is.",
                stacklevel=2,
            )
            return
        object.__setattr__(self, "_waiting_values", values)
        if self.built:
            self._load_waiting()

    def _load_waiting(self) -> None:
        values, self._waiting_values = self._waiting_values, None
        if values is not None:
            assign_all(self._name, self._entries(), values)

    def _create_or_restore_slot_variable(
        self,
        slot_variable_position: Any,
        slot_name: str,
        variable: Any,
        slot_variable_shape: Any = None,
    ) -> Any:
        """TensorFlow's checkpoints ask for a slot; one that is not there yet is read when made."""
        key = self._var_key(variable)
        found = self._slots.get(key, {}).get(slot_name)
        if found is None:
            self._waiting_slots.setdefault((slot_name, key), []).append(slot_variable_position)
        return found

    # -- compiled steps ------------------------------------------------------------------------

    @contextmanager
    def _applying(self) -> Iterator[None]:
        """While hooks run: what they set is theirs to know."""
        self._busy = True
        try:
            yield
        finally:
            self._busy = False

    def _restructured(self, what: str) -> None:
        """What a step computes has changed: compiled ones are made anew, or fail by name."""
        if self.__dict__.get("_structure") is None or self._busy:
            return
        if not tf.executing_eagerly():
            raise RuntimeError(
                f"{self._name}: {what} inside a compiled function, where it would act on this one "
                "trace only. Do it outside, between two calls."
            )
        self._structures += 1
        self._structure.assign(self._structures)
        self._rebuild()

    def _rebuild(self) -> None:
        """Have hooks and the models' compiled steps traced anew at the next step."""
        if self.__dict__.get("_structure") is None or self._busy or not tf.executing_eagerly():
            return
        from pellucid.keras.trainers import rebuild

        self._hooks.renew()
        rebuild(self)  # looks through all objects, once there is a graph

    def _still_valid(self) -> list[Any]:
        """In a graph: an operation that fails once the optimizer is no longer what was traced."""
        if tf.executing_eagerly():
            return []
        object.__setattr__(self, "_traced", True)
        check = tf.debugging.assert_equal(
            self._structure,
            tf.constant(self._structures, tf.int64),
            message=f"{self._name} was changed after this tf.function was traced: a hyperparameter "
            "went from a number to a schedule or a function, or back, or a clip argument was set. "
            "A model's own fit notices; your tf.function has to be made anew: call tf.function "
            "again on the Python function.",
        )
        return [] if check is None else [check]
