"""An op of our own, registered through TensorFlow's C API, that calls host functions.

It takes a token, which says what to run, the handles of variables, and further tensors.
"""

from __future__ import annotations

import ctypes
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import numpy
import tensorflow as tf  # type: ignore[import-untyped, unused-ignore]

from pellucid.keras.tensorflow_tensors import Layout, Library, Unusable

__all__ = ["DEVICE", "HostOp", "Result"]

NAME = "PellucidUpdateOnHost"
DEVICE = "/device:CPU:0"
REFUSED, CANCELLED = 3, 1  # TensorFlow's INVALID_ARGUMENT and CANCELLED

Run = Callable[["HostOp", int], Any]  # of the op and the run's context
Result = tuple[Any, tuple[int, ...]]  # NumPy's type and the shape


class HostOp:
    """The op, registered with TensorFlow once a process."""

    def __init__(self, library: Library) -> None:
        self.library = library
        self.runs: dict[int, Run] = {}  # by the op's first input
        self.layout: Layout | None = None  # until it is found
        self.device = ""  # the first CPU of this process
        self.name = self._register()

    # -- registering -----------------------------------------------------------------------

    def _register(self) -> str:
        from tensorflow.python.framework import op_def_registry  # type: ignore[import-untyped, unused-ignore]

        c, name = self.library.c, NAME
        while op_def_registry.get(name) is not None:  # this module was loaded before
            name += "I"
        builder = c.TF_NewOpDefinitionBuilder(name.encode())
        for attribute in ("H: int >= 0", "T_in: list(type) >= 0", "T_out: list(type) >= 0"):
            c.TF_OpDefinitionBuilderAddAttr(builder, attribute.encode())
        for given in ("token: int64", "handles: H * resource", "inputs: T_in"):
            c.TF_OpDefinitionBuilderAddInput(builder, given.encode())
        c.TF_OpDefinitionBuilderAddOutput(builder, b"outputs: T_out")
        c.TF_OpDefinitionBuilderSetIsStateful(builder, True)
        unknown = self.library.address("TF_ShapeInferenceContextSetUnknownShape")
        c.TF_OpDefinitionBuilderSetShapeInferenceFunction(builder, unknown)
        self._ask(c.TF_RegisterOpDefinition, builder)
        kind = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p)
        callback = kind(self._compute)
        # TensorFlow keeps the pointer until the process has ended
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(callback))
        compute = ctypes.cast(callback, ctypes.c_void_p)
        kernel = c.TF_NewKernelBuilder(name.encode(), b"CPU", None, compute, None)
        self._ask(c.TF_RegisterKernelBuilder, name.encode(), kernel)
        return name

    def _ask(self, function: Any, *arguments: Any) -> Any:
        """Call a C function whose last argument is a status."""
        c = self.library.c
        status = c.TF_NewStatus()
        try:
            result = function(*arguments, status)
            if c.TF_GetCode(status):
                raise OSError(c.TF_Message(status).decode(errors="replace"))
        finally:
            c.TF_DeleteStatus(status)
        return result

    # -- running ---------------------------------------------------------------------------

    def _compute(self, _: int, context: int) -> None:
        """What TensorFlow calls: no exception leaves it."""
        try:
            token = int(_value(int(self.inputs_of(context, 0, 1)[0])))
            run = self.runs.get(token)
            if run is None:
                raise Unusable(
                    "this function was made in another process, or the optimizer whose update it "
                    "holds is gone: trace it again with an optimizer that is alive"
                )
            run(self, context)
        except Unusable as error:
            self._fail(context, REFUSED, f"pellucid cannot update in place: {error}")
        except Exception as error:
            text = f"{type(error).__name__}: {error}\n\n{traceback.format_exc()}"
            self._fail(context, REFUSED, text)
        except BaseException as error:  # Ctrl-C
            self._fail(context, CANCELLED, f"{type(error).__name__}: {error}")

    def _fail(self, context: int, code: int, text: str) -> None:
        c = self.library.c
        status = c.TF_NewStatus()
        c.TF_SetStatus(status, code, text.replace("\0", " ").encode())
        c.TF_OpKernelContext_Failure(context, status)
        c.TF_DeleteStatus(status)

    def inputs_of(self, context: int, first: int, count: int) -> Any:
        """int64[count]: where the values of the inputs from ``first`` on are."""
        library = self.library
        found, cell = numpy.empty(count, numpy.int64), ctypes.c_int64()
        find, at = library.loops["find_inputs"], ctypes.addressof(cell)
        known = self._ask(
            lambda status: find(library.functions, context, first, at, status, found)
        )
        if known < count:
            raise OSError(f"TensorFlow gave {known} of {count} inputs")
        return found

    def output(self, context: int, index: int, like: Any) -> int:
        """Where the values of an output are to be written."""
        c = self.library.c
        dims = (ctypes.c_int64 * max(like.ndim, 1))(*like.shape)
        kind = tf.as_dtype(like.dtype).as_datatype_enum
        made = self._ask(
            c.TF_AllocateOutput, context, index, kind, dims, like.ndim, like.nbytes
        )
        data = c.TF_TensorData(made)
        c.TF_DeleteTensor(made)  # the op's own reference keeps it
        return int(data or 0)

    # -- calling ---------------------------------------------------------------------------

    def call(
        self,
        token: int,
        run: Run,
        handles: Sequence[Any],
        inputs: Sequence[Any],
        outputs: Sequence[Result],
        name: str,
    ) -> list[Any]:
        """Run it eagerly, or add it to the graph being traced; its outputs."""
        if not tf.executing_eagerly():
            self.runs[token] = run
            return self._add(token, handles, inputs, outputs, name)

        def once(op: HostOp, context: int) -> None:
            del self.runs[token]
            run(op, context)

        self.runs[token] = once
        try:
            return self.execute(token, handles, inputs, [one for one, _ in outputs], name)
        except BaseException:
            self.runs.pop(token, None)
            raise

    def execute(
        self,
        token: int,
        handles: Sequence[Any],
        inputs: Sequence[Any],
        outputs: Sequence[Any],
        name: str | None,
    ) -> list[Any]:
        """Run the op eagerly."""
        from tensorflow.python.eager import context, execute  # type: ignore[import-untyped, unused-ignore]

        types = [one.dtype.as_datatype_enum for one in inputs]
        gives = [tf.as_dtype(one).as_datatype_enum for one in outputs]
        with tf.device(DEVICE):
            every = [tf.constant(token, tf.int64), *handles, *inputs]
            attributes = ("H", len(handles), "T_in", tuple(types), "T_out", tuple(gives))
            return list(
                execute.execute(
                    self.name.encode(), len(gives), every, attributes, context.context(), name
                )
            )

    def _add(
        self,
        token: int,
        handles: Sequence[Any],
        inputs: Sequence[Any],
        outputs: Sequence[Result],
        name: str,
    ) -> list[Any]:
        """Add the op to the graph being traced."""
        kinds = [tf.as_dtype(dtype) for dtype, _ in outputs]
        attributes = {"H": tf.compat.v1.AttrValue(i=len(handles))}
        for key, types in (("T_in", [one.dtype for one in inputs]), ("T_out", kinds)):
            numbers = [one.as_datatype_enum for one in types]
            listed = tf.compat.v1.AttrValue.ListValue(type=numbers)
            attributes[key] = tf.compat.v1.AttrValue(list=listed)
        with tf.device(DEVICE):
            every = [tf.constant(token, tf.int64), *handles, *inputs]
            made = tf.compat.v1.get_default_graph().create_op(
                self.name, every, kinds, attrs=attributes, name=name
            )
        for output, (_, shape) in zip(made.outputs, outputs, strict=True):
            output.set_shape(shape)
        return list(made.outputs)


def _value(address: int) -> int:
    return ctypes.c_int64.from_address(address).value
