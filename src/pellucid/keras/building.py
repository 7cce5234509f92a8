"""The Variables of a Keras optimizer: slots, flags and hyperparameters, made once and named."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import keras
import numpy
from keras.src import backend

from pellucid.declare import Ref, Slot
from pellucid.keras.checks import check_variables
from pellucid.keras.core import Parameter
from pellucid.keras.distributed import scope
from pellucid.keras.host_values import on_host
from pellucid.keras.journal import begin
from pellucid.keras.loading import arrive
from pellucid.keras.slots import asking_flags, first_value, missing_slots, shape_of_slot
from pellucid.keras.tracing import outside_of_graphs

__all__ = ["Building"]


class Building(keras.optimizers.Optimizer):  # type: ignore[misc]
    """Creates the state of variables."""

    built: bool

    def build(self, variables: Iterable[Any]) -> None:
        """Create the state of these variables.

        Raises:
            ValueError: a pattern of ``groups=`` or of a route takes no variable, or a variable
                is taken by none; or a file that was loaded before does not fit.
        """
        if self.built:
            return
        listed = list(variables)
        check_variables(listed)
        before = [*self._variables]
        try:
            with outside_of_graphs(), scope(self):
                self.core.build(listed)
                super().build(listed)
                self.built = False
                self._make_slots()
                for cell in self.core.cells:
                    if cell.variable is not self._learning_rate:
                        self._track_variable(cell.variable)
                self._make_shared()
                self.structure.make()
                self.built = True
                begin(self)
                arrive(self)
        except BaseException:
            self._take_down(before)
            raise

    def _take_down(self, kept: list[Any]) -> None:
        """Be as before a build that failed: another one may follow."""
        self.built = False
        known = {id(variable) for variable in kept}
        for variable in [*self._variables]:
            if id(variable) not in known:
                self._untrack_variable(variable)
        for group in self.core.groups:
            self.history.initial.pop(group.label, None)
        self._trainable_variables_indices.clear()
        self.core.clear()

    def _make_slots(self) -> None:
        """Create the slots that should exist and do not."""
        for parameter, full, declared in missing_slots(self.core):
            self._make_slot(parameter, full, declared)
        self._make_flags()

    def _make_slot(self, parameter: Parameter, full: str, declared: Slot) -> None:
        shape = shape_of_slot(parameter, full, declared)
        fill = first_value(self.core, parameter, full, declared)
        native = self.core.groups[parameter.group].names.slots[full]
        with backend.name_scope(self.name, caller=self):
            parameter.slots[full] = self._slot(parameter, native, shape, fill, declared.dtype)

    def _slot(
        self, parameter: Parameter, native: str, shape: tuple[int, ...], fill: float, dtype: Any
    ) -> Any:
        value = _Fill(fill) if fill else "zeros"
        if shape == parameter.shape and dtype in (None, parameter.dtype):
            return self.add_variable_from_reference(
                parameter.variable, name=native, initializer=value
            )
        name = f"{parameter.name.replace('/', '_')}_{native}"
        return self.add_variable(shape, value, dtype or parameter.dtype, name=name)

    def _make_flags(self) -> None:
        """One flag for each slot whose rule asks whether it is new."""
        wanted = [key for key in asking_flags(self.core) if key not in self.core.flags]
        if not wanted:
            return
        core, old = self.core, self.core.begun
        for key in wanted:
            core.flags[key] = len(core.flags)
        with backend.name_scope(self.name, caller=self):
            core.begun = self.add_variable((len(core.flags),), "zeros", "float32", name="begun")
        if old is not None:
            kept = on_host(old)
            core.begun.assign([*kept.tolist(), *[0.0] * len(wanted)])
            self._untrack_variable(old)

    def _make_shared(self) -> None:
        """Optimizer-wide slots, and where a compiled step tells what it refused."""
        with backend.name_scope(self.name, caller=self):
            for group in self.core.groups:
                for key, stage, declared in group.pipeline.shared:
                    if key in self.core.shared:
                        continue
                    init = declared.init
                    fill = (
                        group.cells[group.pipeline.resolve(stage, init.name)].at(0)
                        if isinstance(init, Ref)
                        else float(init)
                    )
                    self.core.shared[key] = self.add_variable(
                        (), _Fill(fill), "float32", name=key[1]
                    )
            self._set("_refused", self.add_variable((), "zeros", "int32", name="refused"))


class _Fill(keras.initializers.Initializer):  # type: ignore[misc]
    """A number, exact in float64, too (Keras's own rounds it to float32 on the way)."""

    def __init__(self, number: float) -> None:
        self.number = number

    def __call__(self, shape: Any, dtype: Any = None) -> Any:
        return keras.ops.convert_to_tensor(numpy.full(tuple(shape), self.number, dtype))
