"""One update of a Keras optimizer as a pure function of its variables, in the backend's arrays.

Runs eagerly and under each backend's own compiler: TensorFlow's graphs and XLA, JAX's jit. Where a
fused kernel can run instead, `pellucid.keras.kernels` does.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import keras
import numpy

from pellucid.fuse.pure import Outcome, Tensor, Whole, either, pure_update
from pellucid.keras.core import Parameter
from pellucid.keras.distributed import local
from pellucid.keras.namespaces import decimal, namespace, wide_scalars
from pellucid.keras.slots import begins_at

if TYPE_CHECKING:
    from pellucid.keras.hypers import Hyperparameter
    from pellucid.keras.optimizer import Optimizer

__all__ = [
    "Numbers", "Pair", "by_row", "numbers_of", "traced_numbers", "traced_update", "write",
]  # fmt: skip


@dataclass
class Numbers:
    """A step's hyperparameters in the backend's arrays."""

    values: list[dict[str, Any]]  # of each group, by full name: float64 of shape ()
    step: Any  # the number of this update, from 1
    refused: Any  # 0, or 1 + the place of the first hyperparameter that is out of its bounds
    veto: Any  # whether one is
    cells: dict[int, Any]  # of each hyperparameter, by identity


def numbers_of(optimizer: Optimizer) -> Numbers:
    """All hyperparameters for the update after ``optimizer.iterations`` completed ones."""
    xp, core = namespace(), optimizer.core
    updates = xp.wide(keras.ops.convert_to_tensor(optimizer.iterations))
    real = keras.ops.convert_to_tensor(optimizer._iterations)
    cells = core.cells
    known = traced_numbers(cells, updates, real)
    refused: Any = updates * 0.0
    for place in reversed(range(len(cells))):
        fits = cells[place].fits(xp, known[id(cells[place])])
        refused = xp.where(fits, refused, refused * 0.0 + float(place + 1))
    refused = optimizer.structure.refused(refused)
    *settled, refused, veto = xp.settled([*known.values(), refused, refused > 0.0])
    known = dict(zip(known, settled, strict=True))
    values = [
        {full: known[id(cell)] for full, cell in group.cells.items()} for group in core.groups
    ]
    return Numbers(values, updates + 1.0, refused, veto, known)


def traced_numbers(
    cells: Sequence[Hyperparameter], updates: Any, real_updates: Any
) -> dict[int, Any]:
    """Each hyperparameter's number in a step that may be compiled, by its identity.

    Args:
        updates: completed ones, a float64 of shape ().
        real_updates: Keras's iteration, which counts micro-batches.
    """
    xp = namespace()
    plain = [cell for cell in cells if cell.driver is None]
    known: dict[int, Any] = {}
    if plain:
        held = keras.ops.stack([keras.ops.convert_to_tensor(c.variable.value) for c in plain])
        exact = decimal(xp, held)
        known = {id(cell): xp.number(exact[place]) for place, cell in enumerate(plain)}
    for cell in cells:
        if cell.driver is not None:
            known[id(cell)] = cell.traced(xp, updates, real_updates)
    return known


@dataclass
class Pair:
    """A gradient and the variable that it is for; `rows` where only these were touched."""

    parameter: Parameter
    grad: Any
    rows: Any = None


def traced_update(
    optimizer: Optimizer, pairs: Sequence[Pair], extras: Mapping[str, Any]
) -> Any:
    """Update all variables; the condition under which nothing was changed, or None."""
    with wide_scalars():
        numbers = numbers_of(optimizer)
        update = _Update(optimizer, pairs, extras, numbers)
        sleepers = [*optimizer.core.sleepers().items()]
        new, veto = update.chosen(sleepers, frozenset())
        veto = update._vetoed(veto)
        with _after([pair.grad for pair in pairs]):
            update.write(new, veto)
            keep_numbers(optimizer, numbers)
        return veto


def _after(values: Sequence[Any]) -> Any:
    """A context in which TensorFlow writes only once these are known: a check may fail in one."""
    if keras.backend.backend() != "tensorflow":
        return contextlib.nullcontext()
    import tensorflow as tf

    return tf.control_dependencies([*values])


def keep_numbers(optimizer: Optimizer, numbers: Numbers) -> None:
    """Put what schedules gave into their Variables, and on record what was out of bounds."""
    for cell in optimizer.core.cells:
        if cell.driver is not None:
            value = namespace().cast(numbers.cells[id(cell)], str(cell.variable.dtype))
            write(cell.variable, value)
    optimizer.note_refused(numbers.refused)


class _Update:
    """The variables that an update reads and writes, and how."""

    def __init__(
        self,
        optimizer: Optimizer,
        pairs: Sequence[Pair],
        extras: Mapping[str, Any],
        numbers: Numbers,
    ) -> None:
        self.optimizer, self.pairs, self.numbers = optimizer, pairs, numbers
        self.core, self.extras, self.xp = optimizer.core, extras, namespace()
        self.by_index = {pair.parameter.index: pair for pair in pairs}
        self.chosen_already: set[int] = set()  # variables whose new value regards the veto
        self.targets: list[tuple[Any, Any]] = []  # Variable, rows
        self.begins: dict[int, tuple[Any, Any]] = {}  # of row-wise targets: when, with what number
        for pair in pairs:
            self.targets.append((pair.parameter.variable, pair.rows))
            self.targets.extend(
                (slot, pair.rows if by_row(pair.parameter, slot) else None)
                for slot in pair.parameter.slots.values()
            )
        self.targets.extend((variable, None) for variable in self.core.shared.values())

    def chosen(self, sleepers: list[tuple[str, int]], asleep: frozenset[str]) -> Any:
        """New values of all targets, and the veto: of the program in which some stages sleep."""
        if not sleepers:
            return self._run(asleep)
        (name, every), *others = sleepers
        awake = _divides(every, self.numbers.step)
        if isinstance(awake, bool):
            return self.chosen(others, asleep if awake else asleep | {name})

        def branch(sleeping: frozenset[str]) -> Callable[[], Any]:
            def run() -> Any:
                new, veto = self.chosen(others, sleeping)
                never = self.numbers.step < 0.0
                return [*new, never if veto is None else veto]

            return run

        *new, veto = keras.ops.cond(awake, branch(asleep), branch(asleep | {name}))
        return new, veto

    def _run(self, asleep: frozenset[str]) -> tuple[list[Any], Any]:
        xp = self.xp
        tensors = [self._tensor(pair, asleep) for pair in self.pairs]
        shared = {key: xp.wide(_value(v)) for key, v in self.core.shared.items()}
        whole = Whole(self.core.seed, shared, self.extras)
        outcome = pure_update(xp, tensors, whole, self._kept)
        return self._in_order(outcome), outcome.veto

    def _kept(self, tensor: Tensor, full: str, value: Any, veto: Any) -> Any:
        """A slot's new value as it is stored, so that XLA forms it once and reads it then."""
        pair = self.by_index[tensor.index]
        variable = pair.parameter.slots[full]
        if pair.rows is not None or str(variable.dtype) != tensor.program.compute:
            return value
        stored = self._stored(value, variable, None)
        refused = self._vetoed(veto)
        self.chosen_already.add(id(variable))
        return self.xp.where(refused, _value(variable), stored)

    def _vetoed(self, veto: Any) -> Any:
        refused = self.numbers.veto
        return refused if veto is None else either(self.xp, veto, refused)

    def _tensor(self, pair: Pair, asleep: frozenset[str]) -> Tensor:
        parameter, core, xp = pair.parameter, self.core, self.xp
        made = core.program(parameter, asleep)
        slots = {}
        for full, variable in parameter.slots.items():
            value = _value(variable)
            if pair.rows is not None and by_row(parameter, variable):
                value = _gathered(value, pair.rows)
            target, new = begins_at(core, parameter, full), self._new(parameter, full)
            if target is not None:
                number = self.numbers.values[parameter.group][target]
                value = xp.where(new, xp.cast(number, made.compute), xp.cast(value, made.compute))
                self.begins[id(variable)] = new, number
            kind = dict(made.variant.slots)[full]
            slots[full] = value if kind == "scalar" else xp.cast(value, made.compute)
        param: Any = _value(parameter.variable)
        shape: tuple[Any, ...] = parameter.shape
        if pair.rows is not None:
            param, shape = _gathered(param, pair.rows), (None, *shape[1:])
        new = {full: self._new(parameter, full) for full in parameter.slots}
        return Tensor(
            parameter.index, made, shape, xp.cast(param, made.compute),
            xp.cast(pair.grad, made.compute), slots, new,
            self.numbers.values[parameter.group], self.numbers.step,
        )  # fmt: skip

    def _new(self, parameter: Parameter, full: str) -> Any:
        place = self.core.flags.get((parameter.index, full))
        if place is None:
            return False
        return self.xp.wide(_value(self.core.begun)[place]) == 0.0

    def _in_order(self, outcome: Outcome) -> list[Any]:
        """The outcome by target, in the targets' own types; None for what stays."""
        new: list[Any] = []
        for pair, values in zip(self.pairs, outcome.values, strict=True):
            new.append(self._stored(values["param"], pair.parameter.variable, pair.rows))
            for full, slot in pair.parameter.slots.items():
                rows = pair.rows if by_row(pair.parameter, slot) else None
                value = values.get(full)
                if value is None:
                    value = _value(slot) if rows is None else _gathered(_value(slot), rows)
                new.append(self._stored(value, slot, rows))
        for key, variable in self.core.shared.items():
            given = outcome.shared.get(key)
            new.append(self._stored(_value(variable) if given is None else given, variable, None))
        return new

    def _stored(self, value: Any, variable: Any, rows: Any) -> Any:
        """A value in a variable's own type and shape."""
        dtype = keras.backend.standardize_dtype(variable.dtype)
        if isinstance(value, (int, float, bool)):
            value = self.xp.wide(self.numbers.step) * 0.0 + float(value)
        value = self.xp.cast(value, dtype)
        shape = tuple(variable.shape)
        if rows is not None:
            return keras.ops.broadcast_to(value, (keras.ops.shape(rows)[0], *shape[1:]))
        return keras.ops.reshape(keras.ops.broadcast_to(value, shape), shape) if tuple(
            value.shape
        ) != shape else value

    def write(self, new: Sequence[Any], veto: Any) -> None:
        """Write new values, unless vetoed."""
        for (variable, rows), value in zip(self.targets, new, strict=True):
            old = _value(variable) if rows is None else _gathered(_value(variable), rows)
            kept = value
            if id(variable) not in self.chosen_already:
                kept = self.xp.where(veto, old, value)
            if rows is None:
                write(variable, kept)
                continue
            if id(variable) in self.begins:
                new_slot, number = self.begins[id(variable)]
                _fill(variable, self.xp.logical_and(new_slot, ~veto), number)
            _scatter(variable, rows, kept)
        self._note_begun(veto)

    def _note_begun(self, veto: Any) -> None:
        places = [
            place
            for pair in self.pairs
            for (index, _), place in self.core.flags.items()
            if index == pair.parameter.index
        ]
        if not places:
            return
        begun = self.core.begun
        mask = numpy.zeros(tuple(begun.shape), "float32")
        mask[places] = 1.0
        old = keras.ops.convert_to_tensor(begun.value)
        done = keras.ops.maximum(old, keras.ops.cast(mask, "float32"))
        write(begun, self.xp.where(veto, old, done))


def _value(variable: Any) -> Any:
    """A variable's array."""
    if isinstance(variable, keras.Variable):
        variable = variable.value
    return keras.ops.convert_to_tensor(variable)


def by_row(parameter: Parameter, slot: Any) -> bool:
    """Whether a slot has something of its own for each row of its parameter."""
    shape = tuple(slot.shape)
    return bool(shape) and bool(parameter.shape) and shape[0] == parameter.shape[0] and (
        shape == parameter.shape or all(length == 1 for length in shape[1:])
    )


def _divides(every: int, step: Any) -> Any:
    """Whether a stage takes part in this update: a bool where the step is known."""
    if keras.backend.backend() == "torch":
        return int(step) % every == 0
    return keras.ops.equal(keras.ops.mod(step, float(every)), 0.0)


def _gathered(value: Any, rows: Any) -> Any:
    return keras.ops.take(value, rows, axis=0)


def write(variable: Any, value: Any) -> None:
    """Set a Variable; in a replica of `tf.distribute`, the replica's own copy."""
    target = local(variable)
    if target is not variable:
        target.assign(keras.ops.cast(value, target.dtype.name))
    elif hasattr(variable, "put"):
        variable.put(value)
    else:
        variable.assign(value)


def _fill(variable: Any, when: Any, number: Any) -> None:
    """Fill a TensorFlow variable with a number, if a condition holds."""
    import tensorflow as tf

    target = _target(variable)

    def filled() -> Any:
        target.assign(tf.fill(target.shape, tf.cast(number, target.dtype)))
        return True

    tf.cond(when, filled, lambda: False)


def _scatter(variable: Any, rows: Any, values: Any) -> None:
    """Write some rows of a TensorFlow variable."""
    import tensorflow as tf

    _target(variable).scatter_update(tf.IndexedSlices(values, rows))


def _target(variable: Any) -> Any:
    """The TensorFlow variable that is written."""
    found = local(variable)
    return found.value if isinstance(found, keras.Variable) else found
