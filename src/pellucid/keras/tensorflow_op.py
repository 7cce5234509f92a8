"""A host function run in place on the memory of TensorFlow's variables, eagerly and in graphs.

The function is behind an op of our own (`pellucid.keras.tensorflow_host_op`). It is stateful and
takes the variables' handles, so TensorFlow orders it among the reads and writes of those variables
as it orders its own update ops; and it holds their locks while it writes, as those do (see
`pellucid.keras.tensorflow_tensors`).
"""

from __future__ import annotations

import ctypes
import inspect
import itertools
import math
import secrets
import threading
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy
import tensorflow as tf  # type: ignore[import-untyped, unused-ignore]

from pellucid.keras.tensorflow_host_op import DEVICE, HostOp, Result
from pellucid.keras.tensorflow_layout import Probe
from pellucid.keras.tensorflow_tensors import Library, Unusable, Variables

__all__ = ["available", "run_in_place", "suits"]

Function = Callable[[Any, Any, list[Any]], Any]
Called = TypeVar("Called", bound=Callable[..., Any])
Spec = tuple[Any, Sequence[int]]

DTYPES = ("float32", "float64")


@dataclass(frozen=True)
class _Update:
    """What one op in a graph, or one eager run, does."""

    function: Callable[[], Function | None]  # gives it, or None once its owner is gone
    sizes: Any  # int64[variables], in bytes
    inputs: int
    outputs: tuple[Result, ...]

    def run(self, op: HostOp, context: int) -> None:
        """Lock the variables, find all memory, run the function, unlock.

        Raises:
            Unusable: if a variable cannot be updated in place, or the owner is gone.
        """
        function = self.function()
        if function is None:
            raise Unusable(
                "the optimizer whose update this function holds is gone: keep it as long as you "
                "call the function, or trace the function again with one that is alive"
            )
        found = op.inputs_of(context, 1 + len(self.sizes), self.inputs)
        results = [numpy.zeros(shape, dtype) for dtype, shape in self.outputs]
        memory = [op.output(context, k, one) for k, one in enumerate(results)]
        assert op.layout is not None
        variables = Variables(op.library, op.layout, context, self.sizes)
        try:
            variables.lock()
            variables.prepare()
            function(variables.addresses, found, results)
        finally:
            variables.unlock()
        for address, result, (dtype, shape) in zip(memory, results, self.outputs, strict=True):
            kept = numpy.ascontiguousarray(numpy.asarray(result, dtype).reshape(shape))
            ctypes.memmove(address, kept.ctypes.data, kept.nbytes)


# -- whether it works here ---------------------------------------------------------------------

_lock = threading.Lock()
_made: list[HostOp | str] = []


def _as_written(function: Called) -> Called:
    """A function that AutoGraph does not rewrite when a tf.function calls it."""
    kept: Called = tf.autograph.experimental.do_not_convert(function)
    return kept


@_as_written
def available() -> str:
    """Why variables cannot be updated in place on this TensorFlow, or "" where they can.

    The first call tries it, in a thread of its own: no graph or strategy of the caller's is seen.
    """
    with _lock:
        if not _made:
            with ThreadPoolExecutor(1) as thread:
                _made.append(thread.submit(_make).result())
    return _made[0] if isinstance(_made[0], str) else ""


def _op() -> HostOp:
    assert isinstance(_made[0], HostOp)
    return _made[0]


def _make() -> HostOp | str:
    """The op, tried, or the reason why not."""
    try:
        from tensorflow.python.eager import context  # type: ignore[import-untyped, unused-ignore]

        op = HostOp(Library(tf.sysconfig.get_lib()))
        with tf.device(DEVICE), context.execution_mode(context.SYNC):
            _check(op)
    except Exception as error:  # whatever another release of TensorFlow makes it raise
        return (
            f"TensorFlow {tf.__version__} does not let variables be updated in place "
            f"({type(error).__name__}: {error})"
        )
    return op


def _check(op: HostOp) -> None:
    """Find where variables hold what, and see that it serves.

    Raises:
        OSError: if it does not.
    """
    variables = [tf.Variable(tf.range(count, dtype=tf.float32)) for count in (7, 12)]
    handles = [one.handle for one in variables]

    def run(function: Callable[[int], Any], inputs: Sequence[Any]) -> Any:
        got: list[Any] = []
        op.runs[0] = lambda _, context: got.append(function(context))
        try:
            op.execute(0, handles, inputs, [], None)
        finally:
            del op.runs[0]
        return got[0]

    op.device = variables[0].device
    op.layout = Probe(op.library, [28, 48], run).layout(lambda k: _read(handles[k]))
    _check_values(op, variables)


def _read(handle: Any) -> Any:
    return tf.raw_ops.ReadVariableOp(resource=handle, dtype=tf.float32)


def _check_values(op: HostOp, variables: Sequence[Any]) -> None:
    """Write to variables: in place where nobody else holds them, and else to a copy."""
    seen: list[Any] = []

    def add(addresses: Any, _: Any, __: Any) -> None:
        seen.append(addresses.copy())
        for address, count in zip(addresses.tolist(), (7, 12), strict=True):
            numpy.ctypeslib.as_array((ctypes.c_float * count).from_address(address))[:] += 1.0

    handles = [one.handle for one in variables]
    update = _Update(lambda: add, numpy.array([28, 48], numpy.int64), 0, ())
    op.call(0, update.run, handles, [], [], "check")
    held = _read(handles[1])
    op.call(0, update.run, handles, [], [], "check")
    op.call(0, update.run, handles, [], [], "check")
    moved = [(after != before).tolist() for before, after in itertools.pairwise(seen)]
    grown = [one.numpy() - numpy.arange(one.shape[0]) for one in [*variables, held]]
    if moved != [[False, True], [False, False]] or [*map(set, grown)] != [{3.0}, {3.0}, {1.0}]:
        raise OSError("an update in place went wrong")


# -- what callers use --------------------------------------------------------------------------


@_as_written
def suits(variables: Sequence[Any]) -> bool:
    """Whether variables can be updated in place, here and now.

    They must be float32 or float64 resource variables of fixed shape on the first CPU; and nothing
    is being traced for XLA, nor within a distribution strategy.
    """
    from tensorflow.python.ops import resource_variable_ops  # type: ignore[import-untyped, unused-ignore]

    if tf.distribute.has_strategy() or _traced_for_xla():
        return False
    if not (tf.executing_eagerly() or tf.compat.v1.get_default_graph().building_function):
        return False  # a graph of TensorFlow 1
    if available():
        return False
    kinds = (resource_variable_ops.ResourceVariable, resource_variable_ops.UninitializedVariable)
    device = _op().device
    return all(isinstance(one, kinds) and _fits(one, device) for one in variables)


def _traced_for_xla() -> bool:
    from tensorflow.python.ops import control_flow_util  # type: ignore[import-untyped, unused-ignore]

    if tf.executing_eagerly():
        return False
    graph = tf.compat.v1.get_default_graph()
    return bool(control_flow_util.GraphOrParentsInXlaContext(graph))


def _fits(variable: Any, device: str) -> bool:
    return (
        variable.dtype.name in DTYPES
        and variable.shape.is_fully_defined()
        and isinstance(variable.handle, tf.__internal__.EagerTensor)
        and variable.device == device
        and getattr(variable, "_distributed_container", None) is None
    )


@_as_written
def run_in_place(
    function: Function,
    variables: Sequence[Any],
    inputs: Sequence[Any],
    outputs: Sequence[Spec],
    name: str,
) -> list[Any]:
    """Run a host function on the memory of variables; in a graph, each time the graph runs.

    ``function(addresses, input_addresses, outputs)`` gets int64 arrays of where the values of the
    variables and of the inputs are, and NumPy arrays of zeros to fill. It may write to the
    variables' memory while it runs, not to the inputs', and must not ask TensorFlow for those
    variables: they are locked. Whoever read a variable before keeps the values that were read.

    Args:
        function: a bound method is held weakly by its object, any other callable weakly itself:
            in a graph, a function that is gone makes the op fail. An exception makes the op fail,
            too, with its text.
        variables: those for which `suits` holds, each once.
        inputs: tensors of numbers. A function that must know a shape that changes asks for it as
            an input.
        outputs: the type and shape of each result.
        name: of the op.

    Returns:
        The results, as tensors.

    Raises:
        RuntimeError: where `available` gives a reason.
        TypeError: for an input that has no numbers.
        ValueError: for a variable given twice.
    """
    if reason := available():
        raise RuntimeError(f"{reason}: use the update in TensorFlow's own ops")
    if _traced_for_xla():
        raise RuntimeError(
            f"{name}: XLA (jit_compile=True) cannot call a function of the host: use the update in "
            "TensorFlow's own ops, or compile without XLA"
        )
    op = _op()
    tensors = [tf.convert_to_tensor(one) for one in inputs]
    for k, one in enumerate(tensors):
        if not (one.dtype.is_floating or one.dtype.is_integer or one.dtype.is_bool):
            raise TypeError(f"inputs[{k}] is of type {one.dtype.name}: give numbers")
    handles = [one.handle for one in variables]
    if len(set(map(id, handles))) < len(handles):
        raise ValueError("variables: one is given twice: give each once")
    token = secrets.randbits(62)  # a graph from another process must not find one of ours
    update = _Update(
        _held(function, lambda _: op.runs.pop(token, None)),
        numpy.array([_bytes(one) for one in variables], numpy.int64),
        len(tensors),
        tuple((tf.as_dtype(kind).as_numpy_dtype, tuple(shape)) for kind, shape in outputs),
    )
    return op.call(token, update.run, handles, tensors, update.outputs, name)


def _bytes(variable: Any) -> int:
    return int(math.prod(variable.shape)) * int(variable.dtype.size)


def _held(function: Function, gone: Callable[[Any], Any]) -> Callable[[], Function | None]:
    """What gives the function as long as it lives; ``gone`` is called when it dies."""
    if tf.executing_eagerly():
        return lambda: function
    if inspect.ismethod(function):
        return weakref.WeakMethod(function, gone)
    return weakref.ref(function, gone)
