"""A real `keras.optimizers.Optimizer` that runs a rule on each of Keras's backends."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import keras
import numpy
from keras.src.utils.naming import auto_name

from pellucid.changes import Journal
from pellucid.compose import Composed, flatten
from pellucid.declare import HyperparameterError
from pellucid.inputs import check_extras, check_list
from pellucid.keras.arguments import with_arguments
from pellucid.keras.attributes import Attributes
from pellucid.keras.building import Building
from pellucid.keras.checks import check_arguments, check_gradients, check_own, check_sparse
from pellucid.keras.core import Core, Setting, path_of
from pellucid.keras.distributed import scope
from pellucid.keras.files import Beside, save
from pellucid.keras.host_values import on_host
from pellucid.keras.journal import changed, look
from pellucid.keras.loading import load
from pellucid.keras.stepping import Call, Stepping
from pellucid.keras.structure import STALE, Structure
from pellucid.keras.tracing import Hidden, as_it_is, eager, outside_of_graphs

__all__ = ["Optimizer"]


class Variables(list):  # type: ignore[type-arg]
    """A list of Variables that may also be called, as the legacy optimizers' method was."""

    def __call__(self) -> Variables:
        return self


@keras.saving.register_keras_serializable("pellucid")
class Optimizer(Attributes, Building, Stepping):
    """Updates variables by a rule, a chain or a route, on TensorFlow, JAX and torch.

    Args:
        stage: what updates the variables.
        gradient_transformers: functions of a list of (gradient, variable) pairs that give such a
            list, called before the stages; a pair that is left out skips its variable.
        groups: overrides by pattern of the variables' paths: ``{"*/bias": {"weight_decay": 0}}``;
            the first match wins.
        sparse: what becomes of a gradient of some rows (TensorFlow's IndexedSlices): "dense"
            updates all rows, those without a gradient with a zero; "lazy" reads and moves only
            the rows that have one. Duplicate rows are summed first; `gradient_transformers` then
            get a gradient of all rows, or IndexedSlices in which each row stands once.
        seed: of random numbers, from 0.
        name: the optimizer's; it stands before the names of its variables.
        weight_decay: sets the rule's own where it has one, else adds `decay_weights`.
        clipnorm, clipvalue, global_clipnorm: at most one: Keras's clipping, as a stage.
        use_ema, ema_momentum, ema_overwrite_frequency, loss_scale_factor,
            gradient_accumulation_steps: as in Keras.

    Every hyperparameter is an attribute under Keras's name and the canonical one, a Variable that
    is live in a compiled step: ``opt.beta_1 = 0.95``, ``opt.beta_1.assign(0.95)``,
    ``opt["beta_1"] = 0.95``. A schedule or a callable of the step is taken as well.
    """

    built: bool

    def __init__(
        self,
        stage: Composed,
        *,
        gradient_transformers: Iterable[Callable[..., Any]] = (),
        groups: Mapping[Any, Mapping[str, Any]] | None = None,
        sparse: str = "dense",
        seed: int = 0,
        name: str | None = None,
        weight_decay: Any = None,
        clipnorm: Any = None,
        clipvalue: Any = None,
        global_clipnorm: Any = None,
        use_ema: bool = False,
        ema_momentum: float = 0.99,
        ema_overwrite_frequency: int | None = None,
        loss_scale_factor: float | None = None,
        gradient_accumulation_steps: int | None = None,
    ) -> None:
        flatten(stage)
        check_own(seed, gradient_transformers)
        check_arguments(
            type(self).__name__, groups, ema_momentum=ema_momentum,
            ema_overwrite_frequency=ema_overwrite_frequency, loss_scale_factor=loss_scale_factor,
            gradient_accumulation_steps=gradient_accumulation_steps,
        )  # fmt: skip
        check_sparse(sparse, gradient_accumulation_steps)
        if name is None:
            own = type(self).__name__ != "Optimizer"
            name = auto_name(type(self).__name__ if own else _title(stage))
        super().__init__(
            learning_rate=0.0,
            weight_decay=None,
            clipnorm=clipnorm,
            clipvalue=clipvalue,
            global_clipnorm=global_clipnorm,
            use_ema=use_ema,
            ema_momentum=ema_momentum,
            ema_overwrite_frequency=ema_overwrite_frequency,
            loss_scale_factor=loss_scale_factor,
            gradient_accumulation_steps=gradient_accumulation_steps,
            name=name,
        )
        for key in ("weight_decay", "clipnorm", "clipvalue", "global_clipnorm"):
            self.__dict__.pop(key, None)  # hyperparameters, as all others
        composed = with_arguments(
            stage, weight_decay,
            clipnorm=clipnorm, clipvalue=clipvalue, global_clipnorm=global_clipnorm,
        )  # fmt: skip
        given = {
            "stage": stage, "weight_decay": weight_decay, "clipnorm": clipnorm,
            "clipvalue": clipvalue, "global_clipnorm": global_clipnorm,
        }  # fmt: skip
        self._set("_given", Hidden(given))
        self._set("sparse", sparse)
        self._set("_transformers", Hidden((*gradient_transformers,)))
        self._set("_journal", Hidden(Journal()))
        self.journal.live = lambda: self.updates
        self._set("_calls", Hidden({}))
        self._set("_kernel", None)
        self._set("_traced", keras.backend.backend() == "torch")
        self._set("_beside", Beside(self))
        self._set("_structure", Hidden(Structure(self)))
        self._set("_core", None)
        self._set("_core", Hidden(Core(self, composed, groups, seed)))
        rate = self._rate()
        if rate is not None:
            self._untrack_variable(self._learning_rate)
            self._track_variable(rate.variable)
            super().__setattr__("_learning_rate", rate.variable)

    def _set(self, name: str, value: Any) -> None:
        """Set an attribute past Keras's tracking."""
        object.__setattr__(self, name, value)

    @property
    def core(self) -> Core:
        """Settings, groups, slots and programs."""
        return self._core.what  # type: ignore[no-any-return]

    @property
    def stage(self) -> Composed:
        """What updates the variables, Keras's clipping and decay among it."""
        return self.core.stage

    @property
    def journal(self) -> Journal:
        """Every change of a hyperparameter; looks now for what was written past the optimizer."""
        if self.__dict__.get("_core") is not None and eager():
            look(self)
        return self.history

    @property
    def history(self) -> Journal:
        """The journal as it stood when somebody looked last."""
        return self._journal.what  # type: ignore[no-any-return]

    # -- changes ---------------------------------------------------------------------------

    @property
    def updates(self) -> int:
        """Completed updates, on the host."""
        self.before_write()
        return int(on_host(self.iterations))

    def before_write(self) -> None:
        """Have a running trainer hand its state over, so that a write is not lost."""
        from pellucid.keras.trainers import synchronise

        synchronise(self)

    def restructured(self, what: str = "its structure") -> None:
        """What a step computes has changed: new slots, and compiled steps made anew."""
        from pellucid.keras.trainers import rebuild

        if self.__dict__.get("_core") is None:
            return
        self.core.resolve_refs()
        if self.built:
            with outside_of_graphs(), scope(self):
                self._make_slots()
                self.structure.change(what)
        if self._kernel is not None:
            self._kernel.what.retire()
        self._set("_kernel", None)
        rebuild(self)

    @property
    def structure(self) -> Structure:
        """What compiled steps have frozen, and its changes."""
        return self._structure.what  # type: ignore[no-any-return]

    def changed(self, setting: Setting, old: Any, source: str, reason: str) -> None:
        """Put a change on record, for each group that it concerns."""
        changed(self, setting, old, source, reason)

    def note_refused(self, refused: Any) -> None:
        """Keep which hyperparameter a step found out of its bounds."""
        old = keras.ops.convert_to_tensor(self._refused.value)
        self.assign(self._refused, keras.ops.maximum(old, keras.ops.cast(refused, "int32")))

    def report_refused(self) -> None:
        """Raise if a compiled step found a hyperparameter out of its bounds, and so did nothing."""
        found = self.complaint()
        if found:
            self._refused.assign(0)
            raise HyperparameterError(found)

    def complaint(self) -> str:
        """What `report_refused` will raise for; empty if it will not."""
        if not self.built:
            return ""
        self.before_write()
        place = int(on_host(self._refused))
        if not place or place == STALE:
            return self.structure.complaint() if place else ""
        cell = self.core.cells[place - 1]
        return (
            f"{cell.where} was out of its bounds in a step: allowed is {cell.declared.allowed()}; "
            f"it is {cell.driver or cell.number!r}. Those updates were skipped whole; assign "
            "another value and go on"
        )

    # -- variables -------------------------------------------------------------------------


    def spared(self, variable: Any) -> bool:
        """Whether `exclude_from_weight_decay` names a variable."""
        return not self._use_weight_decay(variable)

    @property
    def variables(self) -> Variables:
        """All Variables, a list that may also be called: iteration, learning_rate, slots as Keras
        has them, and then the other hyperparameters."""
        found = Variables(self._variables)
        core = self.__dict__.get("_core")
        if core is not None and not self.built:
            found.extend(
                cell.variable
                for cell in self.core.cells
                if not any(cell.variable is one for one in found)
            )
        return found

    def variable(self, name: str) -> Any:
        """The Variable of a name or path, with or without ``:0``.

        Raises:
            KeyError: there is none, or several of that name.
        """
        wanted = name.removesuffix(":0")
        found = [one for one in self.variables if wanted in (path_of(one), one.name)]
        exact = [one for one in found if path_of(one) == wanted] or found
        if len(exact) != 1:
            raise KeyError(
                f"{self.name} has {len(exact)} variables {name!r}: "
                + ", ".join(path_of(one) for one in self.variables)
            )
        return exact[0]

    # -- the step --------------------------------------------------------------------------

    @as_it_is
    def apply(self, grads: Any, trainable_variables: Any = None, **extras: Any) -> None:
        """Update the variables by their gradients, None for those that have none.

        Args:
            grads: gradients in the order of the variables.
            trainable_variables: as in Keras; builds the optimizer at the first call.
            extras: what the stages declare with `extra`, by name: a number, or a list of arrays
                in the order of the variables that the optimizer was built with.
        """
        if not self._traced and not eager():
            self._set("_traced", True)
        owners = self._owners(trainable_variables)
        given = None if trainable_variables is None else owners
        if not self._as_before(grads, owners):
            check_gradients(grads, owners)
            grads = [
                keras.ops.convert_to_tensor(grad) if isinstance(grad, numpy.ndarray) else grad
                for grad in grads
            ]
            grads = self._as_given(grads, owners)
        calls, thread = self._calls.what, threading.get_ident()
        call = calls[thread] = Call(self._checked_extras(extras, owners))
        try:
            super().apply(grads, given)
            if not self.gradient_accumulation_steps:
                self._uncount(call.veto, 1)
        finally:
            del calls[thread]

    def _owners(self, variables: Any) -> list[Any]:
        """The variables that gradients are for: all of them, unless some are given."""
        return list(self._trainable_variables if variables is None else variables)

    def exclude_from_weight_decay(self, var_list: Any = None, var_names: Any = None) -> None:
        """Spare variables the weight decay: these, or those in whose path a name occurs.

        Raises:
            ValueError: the optimizer is built already, and so are its groups.
        """
        if self.built:
            raise ValueError(
                f"{self.name} is built: call exclude_from_weight_decay before, or set the decay "
                "of a group, given with groups={pattern: {'weight_decay': ...}}"
            )
        super().exclude_from_weight_decay(var_list, var_names)

    @property
    def applying(self) -> bool:
        """Whether this thread is inside of `apply`."""
        calls = self.__dict__.get("_calls")
        return calls is not None and threading.get_ident() in calls.what

    def _checked_extras(
        self, extras: Mapping[str, Any], variables: Sequence[Any]
    ) -> dict[str, Any]:
        wanted = self.core.extras
        check_extras("apply", wanted, extras)
        found = {name: extras[name] for name in wanted}
        for name, shape in wanted.items():
            if shape != "scalar":
                owners = self._trainable_variables if self.built else variables
                check_list(name, extras[name], owners, path_of, "variable")
                found[name] = dict(enumerate(extras[name]))
        return found

    def _clip_gradients(self, grads: Any) -> Any:
        return grads  # a stage does it

    def _apply_weight_decay(self, variables: Any) -> None:
        """A stage does it."""


    # -- configuration ---------------------------------------------------------------------

    def get_config(self) -> dict[str, Any]:
        """All arguments with the values that hold now, as plain data."""
        from pellucid.keras.config import config_of

        return config_of(self)

    @classmethod
    def from_config(cls, config: Mapping[str, Any], custom_objects: Any = None) -> Optimizer:
        """The optimizer that `get_config` described."""
        from pellucid.keras.config import from_config

        return from_config(cls, config)

    # -- files -----------------------------------------------------------------------------

    @property
    def pellucid(self) -> Beside:
        """What stands in Keras's files beside the arrays; Keras finds it by this name."""
        return self._beside  # type: ignore[no-any-return]

    def save_own_variables(self, store: Any) -> None:
        """Write the state as Keras lays it, for `.keras` and `.weights.h5` files."""
        save(self, store)

    def load_own_variables(self, store: Any) -> None:
        """Read what this or one of Keras's own optimizers saved; unbuilt, it waits for the build.

        Raises:
            ValueError: what differs. Nothing of the optimizer was changed.
        """
        load(self, store)

    def _trackable_children(self, save_type: str = "checkpoint", **kwargs: Any) -> Any:
        from pellucid.keras.tensorflow_checkpoint import children

        return children(self, super()._trackable_children(save_type, **kwargs), save_type)

    def _lookup_dependency(self, name: str, cached_dependencies: Any = None) -> Any:
        from pellucid.keras.tensorflow_checkpoint import lookup

        return lookup(self, name, super()._lookup_dependency(name, cached_dependencies))

    def finalize_variable_values(self, var_list: Any) -> None:
        """What Keras does at the end of training; also tells of updates that were skipped."""
        super().finalize_variable_values(var_list)
        if self.use_ema and keras.backend.backend() == "jax":  # one array cannot be donated twice
            for average in self._model_variables_moving_average:
                if average is not None:
                    average.assign(keras.ops.copy(average.value))
        self.report_refused()


def _title(stage: Composed) -> str:
    """What an optimizer of a stage is called: its rule's name."""
    for one in flatten(stage):
        if getattr(one, "kind", None) == "rule":
            return type(one).__name__
    return "Optimizer"
