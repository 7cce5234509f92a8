"""A step of a Keras optimizer, from gradients as they come to the update of all variables."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras

from pellucid.compose import transformers_of
from pellucid.keras.kernels import Fused, Kernels
from pellucid.keras.sparse import as_given, check_lazy, is_sparse, parts, summed
from pellucid.keras.tracing import Hidden
from pellucid.keras.update import Pair, traced_update, write

__all__ = ["Call", "Stepping"]


@dataclass
class Call:
    """What one `apply` is given and finds."""

    extras: Mapping[str, Any]
    veto: Any = None  # a condition under which nothing was updated


class Stepping(keras.optimizers.Optimizer):  # type: ignore[misc]
    """Updates all variables at once, by the fused kernel where there is one."""

    def _as_given(self, grads: Any, owners: Sequence[Any]) -> Any:
        """Gradients that Keras can divide by its scale and add up."""
        scaled, accumulated = self.loss_scale_factor, self.gradient_accumulation_steps
        if (scaled is None and not accumulated) or not any(map(is_sparse, grads)):
            return grads
        return as_given(grads, owners, bool(accumulated))

    def _as_before(self, grads: Any, variables: Sequence[Any]) -> bool:
        """Whether these gradients are such as torch's fused kernel had in the update before."""
        if keras.backend.backend() != "torch":
            return False
        from pellucid.keras.torch_kernel import as_before

        return as_before(self, grads, variables)

    def _uncount(self, veto: Any, steps: int) -> None:
        """Take back the iterations of an update that a stage has vetoed."""
        if veto is not None:
            count = keras.ops.convert_to_tensor(self._iterations)
            fewer = keras.ops.multiply(keras.ops.cast(veto, count.dtype), steps)
            write(self._iterations, keras.ops.subtract(count, fewer))

    def _backend_update_step(
        self, grads: Any, trainable_variables: Any, learning_rate: Any
    ) -> None:
        call = self._call()
        if self._again(call, grads, trainable_variables):
            return
        pairs = list(zip(grads, trainable_variables, strict=True))
        if hasattr(self, "_all_reduce_sum_gradients"):
            pairs = self._all_reduce_sum_gradients(pairs)
        some_rows = any(is_sparse(grad) for grad, _ in pairs)
        if some_rows:
            pairs = [(summed(grad, variable, self.sparse), variable) for grad, variable in pairs]
        once = [parts(grad)[1] for grad, _ in pairs] if some_rows else []
        pairs = self._transformed(pairs)
        if not pairs:
            return
        prepared = [self._pair(grad, variable, once) for grad, variable in pairs]
        if any(pair.rows is not None for pair in prepared):
            check_lazy(self.core, [pair.parameter for pair in prepared if pair.rows is not None])
        self._done(call, self._update(prepared, call.extras))

    def _done(self, call: Call, veto: Any) -> None:
        """An update was done, or vetoed."""
        call.veto = veto
        if self.gradient_accumulation_steps:
            self._uncount(veto, self.gradient_accumulation_steps)

    def _again(self, call: Call, grads: Any, variables: Any) -> bool:
        """Whether the fused kernel did the same update as the last time, without a look at each."""
        if call.extras or self._functions() or not self._as_before(grads, variables):
            return False
        from pellucid.keras.torch_kernel import torch_update_again

        fused = torch_update_again(self, len(grads))
        if fused is not None:
            self._done(call, fused.veto)
        return fused is not None

    def _pair(self, grad: Any, variable: Any, once: list[Any]) -> Pair:
        """A pair to update; ``once`` are lists of rows in which each is known to stand once."""
        parameter = self.core.parameters[self._get_variable_index(variable)]
        if not is_sparse(grad):
            return Pair(parameter, grad)
        if not any(parts(grad)[1] is rows for rows in once):
            grad = summed(grad, variable, self.sparse)
        return Pair(parameter, *parts(grad))

    def _call(self) -> Call:
        """What belongs to the `apply` that runs now: replicas take turns, each in its thread."""
        return self._calls.what[threading.get_ident()]  # type: ignore[no-any-return]

    def _update(self, pairs: list[Pair], extras: Mapping[str, Any]) -> Any:
        """Update all variables, by the fused kernel where there is one; the veto, or None."""
        fused = self._fused(pairs, extras)
        if fused is not None:
            return fused.veto
        return traced_update(self, pairs, self._numbers(extras))

    def _fused(self, pairs: list[Pair], extras: Mapping[str, Any]) -> Fused | None:
        """The update by the fused kernel; None where it cannot be had."""
        if keras.backend.backend() == "torch":
            from pellucid.keras.torch_kernel import torch_update

            return torch_update(self, pairs, extras, again=not self._functions())
        if keras.backend.backend() == "tensorflow":
            from pellucid.keras.tensorflow_kernel import tensorflow_update

            return tensorflow_update(self, pairs, extras)
        return None

    @property
    def kernels(self) -> Kernels:
        """The launches of the fused kernel."""
        if self.__dict__.get("_kernel") is None:
            self._set("_kernel", Hidden(Kernels(self)))
        return self._kernel.what  # type: ignore[no-any-return]

    def _numbers(self, extras: Mapping[str, Any]) -> dict[str, Any]:
        from pellucid.keras.namespaces import namespace, wide_scalars

        xp = namespace()
        with wide_scalars():
            return {
                name: value if isinstance(value, dict) else xp.number(
                    xp.wide(keras.ops.convert_to_tensor(value))
                )
                for name, value in extras.items()
            }  # fmt: skip

    def _transformed(self, pairs: list[tuple[Any, Any]]) -> list[tuple[Any, Any]]:
        """Pairs after the plain functions, matched by identity."""
        from pellucid.keras.transformed import checked

        for function in self._functions():
            pairs = checked(function, pairs)
        return pairs

    def _functions(self) -> tuple[Callable[..., Any], ...]:
        """The user's functions of pairs, in order."""
        return (*self._transformers.what, *transformers_of(self.stage))
