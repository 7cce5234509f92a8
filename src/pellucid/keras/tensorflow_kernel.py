"""Keras on TensorFlow: one operation of the graph, where the fused kernel writes the variables."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import keras
import numpy
import tensorflow as tf

from pellucid.declare import HyperparameterError
from pellucid.fuse.launch import Step
from pellucid.fuse.pool import threads
from pellucid.keras.kernels import Fused
from pellucid.keras.tensorflow_op import run_in_place, suits
from pellucid.keras.tensorflow_rows import Rows, memory
from pellucid.keras.update import traced_numbers

if TYPE_CHECKING:
    from pellucid.keras.optimizer import Optimizer
    from pellucid.keras.update import Pair

__all__ = ["tensorflow_update"]


def tensorflow_update(
    optimizer: Optimizer, pairs: Sequence[Pair], extras: Mapping[str, Any]
) -> Fused | None:
    """Update all variables by one launch; None if it cannot be had here."""
    parameters = [pair.parameter for pair in pairs]
    params = [_variable(one.variable) for one in parameters]
    slots = [_variable(slot) for one in parameters for slot in one.slots.values()]
    grads = [pair.grad for pair in pairs]
    by_name = {name: value for name, value in extras.items() if isinstance(value, Mapping)}
    arrays = [
        [_of_rows(_given(of, pair.parameter.index), pair.rows) for pair in pairs]
        for of in by_name.values()
    ]
    shapes = _shapes(pairs)
    if not _fit(params, shapes, [grads, *arrays]) or not suits([*params, *slots]):
        return None
    grads, *arrays = [_of_shape(shapes, some) for some in (grads, *arrays)]
    rows = [pair.rows for pair in pairs if pair.rows is not None]
    numbers = {name: value for name, value in extras.items() if name not in by_name}
    call = _Call(optimizer, pairs, [*by_name], [*numbers])
    made = call.run([*params, *slots], grads, rows, arrays, numbers)
    return Fused(made)


class _Call:
    """One place in a program where an optimizer's update is called."""

    def __init__(
        self, optimizer: Optimizer, pairs: Sequence[Pair], by_name: list[str], numbers: list[str]
    ) -> None:
        self.core, self.kernels = optimizer.core, optimizer.kernels
        self.parameters = [pair.parameter for pair in pairs]
        self.places = [  # of the parameters of which only some rows are touched
            place for place, pair in enumerate(pairs) if pair.rows is not None
        ]
        self.cells = self.core.cells
        self.by_name, self.numbers = by_name, numbers
        self.widths = [
            len(self.cells), len(self.core.flags), len(self.core.shared), len(numbers)
        ]  # fmt: skip
        self.optimizer = optimizer
        self.retired, self.since = False, len(optimizer.structure.changes)
        if not tf.executing_eagerly():  # a graph will call it again
            _hold(self)
            self.kernels.keep(self)

    def retire(self) -> None:
        """The optimizer's structure has changed: from now on only complain."""
        self.retired = True
        self.kernels = self.core = None  # type: ignore[assignment]
        self.parameters, self.cells = [], []

    def run(
        self,
        variables: Sequence[Any],
        grads: Sequence[Any],
        rows: Sequence[Any],
        arrays: Sequence[Sequence[Any]],
        numbers: Mapping[str, Any],
    ) -> Any:
        """Add the operation to the graph, or run it; the condition under which it was vetoed."""
        core, optimizer = self.core, self.optimizer
        values = self._values()
        begun = [] if core.begun is None else [tf.cast(core.begun.value, tf.float64)]
        shared = [tf.cast(one.value, tf.float64)[None] for one in core.shared.values()]
        given = [tf.cast(one, tf.float64)[None] for one in numbers.values()]
        vector = tf.concat([values, *begun, *shared, *given], axis=0)
        updates = tf.cast(keras.ops.convert_to_tensor(optimizer.iterations), tf.int64)
        counts = [tf.size(one, tf.int64) for one in rows]
        touched = [tf.stack(counts), *rows] if counts else []
        inputs = [vector, updates, *touched, *grads, *(one for some in arrays for one in some)]
        outputs = [(tf.float64, ()), (tf.float64, (len(core.shared),))]
        # What is counted after the update waits for it: a step that fails is not counted.
        held = [*variables, optimizer._iterations.value]
        vetoed, new = run_in_place(self.__call__, held, inputs, outputs, "pellucid_update")
        with tf.control_dependencies([vetoed]):
            self._commit(values, vetoed, new)
        return tf.cast(vetoed, tf.bool)

    def _values(self) -> Any:
        """All hyperparameters of the step, as one float64 vector."""
        updates = tf.cast(keras.ops.convert_to_tensor(self.optimizer.iterations), tf.float64)
        real = keras.ops.convert_to_tensor(self.optimizer._iterations)
        found = traced_numbers(self.cells, updates, real)
        return tf.cast(tf.stack([found[id(cell)] for cell in self.cells]), tf.float64)

    def _commit(self, values: Any, vetoed: Any, new: Any) -> None:
        """What stands beside the arrays: optimizer-wide slots, flags, schedules' numbers."""
        core = self.core
        for place, variable in enumerate(core.shared.values()):
            variable.value.assign(tf.cast(new[place], variable.dtype))
        active = {one.index for one in self.parameters}
        places = [place for (index, _), place in core.flags.items() if index in active]
        if places:
            mask = numpy.zeros(len(core.flags), numpy.float32)
            mask[places] = 1.0
            old = core.begun.value
            old.assign(tf.maximum(old, mask * tf.cast(1.0 - vetoed, tf.float32)))
        for place, cell in enumerate(self.cells):
            if cell.driver is not None:
                cell.variable.put(tf.cast(values[place], cell.variable.dtype))

    def __call__(self, addresses: Any, inputs: Any, outputs: Any) -> None:
        """The update itself, on the host, each time that the operation runs."""
        if self.retired:
            raise HyperparameterError(self.optimizer.structure.complaint(self.since))
        numbers = memory(int(inputs[0]), sum(self.widths), ctypes.c_double)
        updates = int(memory(int(inputs[1]), 1, ctypes.c_int64)[0])
        rows, inputs = self._rows(inputs[2:])
        cells, flags, shared, extras = self._parts(numbers)
        self._check(cells)
        step = self._step(cells, shared, extras, updates)
        kernels, count = self.kernels, len(self.parameters)
        prepared = kernels.prepared(
            self.parameters, kernels.asleep(updates), flags if len(flags) else None, rows.key
        )
        params, slots = addresses[:count], addresses[count:-1]
        grads, others = rows.of_inputs(inputs[:count]), inputs[count:]
        for place, name in enumerate(self.by_name):
            given = rows.of_inputs(others[place * count : (place + 1) * count])
            prepared.point(("extra", name), given)
        for place, number in kernels.fills(prepared, step):
            self._fill(prepared, int(slots[place]), place, number)
        params, slots = rows.of_params(params), rows.of_slots(kernels.slots(self.parameters), slots)
        done = kernels.run(prepared, params, slots, grads, step, threads())
        outputs[0][...] = 0.0 if done else 1.0
        outputs[1][...] = [step.shared[key] for key in self.core.shared]
        if done:
            rows.write_back()
            kernels.begun(prepared)

    def _rows(self, inputs: Any) -> tuple[Rows, Any]:
        """The touched rows where not all are, and the inputs behind them."""
        if not self.places:
            return Rows(self.parameters, {}), inputs
        counts = memory(int(inputs[0]), len(self.places), ctypes.c_int64).tolist()
        touched = {
            place: memory(int(address), count, ctypes.c_int64)
            for place, address, count in zip(self.places, inputs[1:], counts, strict=False)
        }
        return Rows(self.parameters, touched), inputs[1 + len(self.places) :]

    def _parts(self, numbers: Any) -> list[Any]:
        ends = numpy.cumsum(self.widths)
        return [part.copy() for part in numpy.split(numbers, ends[:-1])]

    def _check(self, cells: Any) -> None:
        for cell, value in zip(self.cells, cells.tolist(), strict=True):
            if not cell.declared.fits(value):
                raise HyperparameterError(
                    f"{cell.where} is {value!r}; allowed is {cell.declared.allowed()}. Nothing was "
                    "updated"
                )

    def _step(self, cells: Any, shared: Any, extras: Any, updates: int) -> Step:
        known = {id(cell): value for cell, value in zip(self.cells, cells.tolist(), strict=True)}
        values = [
            {full: known[id(cell)] for full, cell in group.cells.items()}
            for group in self.core.groups
        ]
        return Step(
            values, updates,
            dict(zip(self.core.shared, shared.tolist(), strict=True)),
            dict(zip(self.numbers, extras.tolist(), strict=True)),
        )  # fmt: skip

    def _fill(self, prepared: Any, address: int, place: int, number: float) -> None:
        """Put the number at which a slot begins into its memory."""
        owner, full = self.kernels.slots(prepared.parameters)[place]
        slot = prepared.parameters[owner].slots[full]
        size = int(numpy.prod(tuple(slot.shape), dtype=numpy.int64))
        kind = ctypes.c_double if str(slot.dtype) == "float64" else ctypes.c_float
        if size:
            memory(address, size, kind)[:] = number


def _variable(variable: Any) -> Any:
    return variable.value if isinstance(variable, keras.Variable) else variable


def _given(arrays: Mapping[int, Any], index: int) -> Any:
    if index not in arrays:
        raise TypeError(f"an extra input lacks the array number {index}: give one a variable")
    return tf.convert_to_tensor(arrays[index])


def _shapes(pairs: Sequence[Pair]) -> list[Any]:
    """The shape of each gradient; where only some rows are touched, their number is open."""
    return [
        tf.TensorShape(shape if pair.rows is None else (None, *shape[1:]))
        for pair in pairs
        for shape in (pair.parameter.shape,)
    ]


def _of_shape(shapes: Sequence[Any], arrays: Sequence[Any]) -> list[Any]:
    """Arrays whose shape only the running program knows are checked there."""
    return [
        one if one.shape.is_fully_defined() else tf.ensure_shape(one, shape)
        for one, shape in zip(arrays, shapes, strict=True)
    ]


def _of_rows(array: Any, rows: Any) -> Any:
    return array if rows is None else tf.gather(array, rows)


def _fit(params: Sequence[Any], shapes: Sequence[Any], inputs: Sequence[Sequence[Any]]) -> bool:
    """Whether gradients and other arrays are dense and of the variables' own types and shapes."""
    return all(
        isinstance(one, tf.Tensor)
        and one.dtype == param.dtype
        and one.shape.is_compatible_with(shape)
        for some in inputs
        for one, param, shape in zip(some, params, shapes, strict=True)
    )


def _hold(call: _Call) -> None:
    """Have a call live as long as a graph in which it stands: a branch's own may be gone before."""
    graph: Any = tf.compat.v1.get_default_graph()
    while getattr(graph, "building_function", False):
        graph.add_to_collection("pellucid_calls", call)
        graph = graph.outer_graph
