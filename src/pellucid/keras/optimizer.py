"""A real `keras.optimizers.Optimizer` that runs a rule on each of Keras's backends."""

from __future__ import annotations

import contextlib
import difflib
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy
from keras.src import backend
from keras.src.utils.naming import auto_name

from pellucid.changes import Journal
from pellucid.compose import Composed, flatten, transformers_of
from pellucid.declare import HyperparameterError, Slot
from pellucid.inputs import check_extras, check_list
from pellucid.keras.arguments import ALIASES, with_arguments
from pellucid.keras.checks import check_arguments, check_gradients, check_variables
from pellucid.keras.core import Core, Group, Parameter, Setting, path_of
from pellucid.keras.distributed import scope
from pellucid.keras.files import Beside, save
from pellucid.keras.hypers import Choice, Hyperparameter, as_it_is, on_host
from pellucid.keras.journal import begin, changed, changed_base, look
from pellucid.keras.kernels import Fused, Kernels
from pellucid.keras.live import LIVE, live_number
from pellucid.keras.loading import arrive, load
from pellucid.keras.sparse import as_given, check_lazy, is_sparse, parts, summed
from pellucid.keras.structure import STALE, Structure
from pellucid.keras.update import Pair, traced_update, write

__all__ = ["Optimizer"]

SPARSE = ("dense", "lazy")
FIXED = ("name", "sparse", "use_ema", "gradient_accumulation_steps")
"""Attributes on which the Variables depend that `build` makes."""


class Variables(list):  # type: ignore[type-arg]
    """A list of Variables that may also be called, as the legacy optimizers' method was."""

    def __call__(self) -> Variables:
        return self


@keras.saving.register_keras_serializable("pellucid")
class Optimizer(keras.optimizers.Optimizer):  # type: ignore[misc]
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
        _check_own(seed, gradient_transformers)
        check_arguments(
            type(self).__name__, groups, ema_momentum=ema_momentum,
            ema_overwrite_frequency=ema_overwrite_frequency, loss_scale_factor=loss_scale_factor,
            gradient_accumulation_steps=gradient_accumulation_steps,
        )  # fmt: skip
        _check_lazy(sparse, gradient_accumulation_steps)
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
        self._set("_given", _Held(given))
        self._set("sparse", sparse)
        self._set("_transformers", _Held((*gradient_transformers,)))
        self._set("_journal", _Held(Journal()))
        self.journal.live = lambda: self.updates
        self._set("_calls", _Held({}))
        self._set("_kernel", None)
        self._set("_beside", Beside(self))
        self._set("_structure", _Held(Structure(self)))
        self._set("_core", None)
        self._set("_core", _Held(Core(self, composed, groups, seed)))
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
        if self.__dict__.get("_core") is not None and _eager():
            look(self)
        return self.history

    @property
    def history(self) -> Journal:
        """The journal as it stood when somebody looked last."""
        return self._journal.what  # type: ignore[no-any-return]

    # -- settings --------------------------------------------------------------------------

    def _branch_of_names(self) -> list[Group]:
        """Where a bare name is looked for: the last branch of a route takes the rest."""
        return [*reversed(self.core.branches)]

    def _rate(self) -> Hyperparameter | None:
        found = self.setting("learning_rate")
        return found if isinstance(found, Hyperparameter) else None

    @staticmethod
    def alias(group: Group, name: str) -> str:
        """Keras's argument under the full name of the stage that it became."""
        full = ALIASES.get(name, name)
        return full if full in group.cells and not group.names.canonical(name) else name

    def setting(self, name: str) -> Setting | None:
        """The optimizer's own setting of a canonical or Keras's name; None if there is none."""
        if name == "lr":
            name = "learning_rate"
        for branch in self._branch_of_names():
            fulls = branch.names.canonical(self.alias(branch, name))
            if fulls:
                return branch.setting(fulls[0])
        return None

    def _known(self) -> list[str]:
        names: dict[str, None] = {}
        for branch in self._branch_of_names():
            names.update(dict.fromkeys(branch.names.native_keys()))
            names.update((key, None) for key, full in ALIASES.items() if full in branch.cells)
        return [*names]

    def __getattr__(self, name: str) -> Any:
        core = self.__dict__.get("_core")
        if name.startswith("_") or core is None:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        found = self.setting(name)
        if found is not None:
            return self._shown(found)
        if name in ("weight_decay", "clipnorm", "clipvalue", "global_clipnorm"):
            return None
        for branch in self._branch_of_names():
            for stage in branch.pipeline.stages:
                if stage.kind != "rule" and stage.name == name:
                    return _StageSettings(self, branch, name)
        raise AttributeError(self._unknown(name))

    def _unknown(self, name: str) -> str:
        known = self._known()
        spelled = {key: key for key in known}
        for branch in self._branch_of_names():
            spelled |= {f: branch.names.native(f) for f in branch.settings if f not in spelled}
        spelled |= {"lr": "learning_rate"}
        near = difflib.get_close_matches(name, spelled, n=1)
        hint = f"; did you mean {spelled[near[0]]!r}?" if near else ""
        return f"{self.name} has no attribute {name!r}{hint} (hyperparameters: {', '.join(known)})"

    def __setattr__(self, name: str, value: Any) -> None:
        if self.__dict__.get("_core") is None or name.startswith("_"):
            super().__setattr__(name, value)
            return
        found = self.setting(name)
        if found is not None:
            found.set(value, "assignment")
        elif name in LIVE:
            self._set_live(name, value)
        elif name in FIXED:
            self._set_fixed(name, value)
        elif name in ("weight_decay", "clipnorm", "clipvalue", "global_clipnorm"):
            if value is not None:
                raise AttributeError(
                    f"{self.name} was made without {name}, so {name}={value!r} cannot be set; "
                    f"give it to the constructor, {name}={value!r}, or a stage to chain(...)"
                )
        elif name in self.__dict__ or hasattr(type(self), name) or self._may_have(name):
            super().__setattr__(name, value)
        else:
            raise AttributeError(self._unknown(name))

    def _may_have(self, name: str) -> bool:
        """Whether a new attribute is a user's subclass's own, and no slip of the pen."""
        users = type(self).__module__.partition(".")[0] != "pellucid"
        return users and not difflib.get_close_matches(
            name.lower(), [*self._known(), "lr"], n=1
        )

    def _set_live(
        self, name: str, value: Any, source: str = "assignment", reason: str = ""
    ) -> None:
        """A number of Keras's own: compiled steps hold it, so they are made anew."""
        checked, old = live_number(f"{self.name}/{name}", name, value), getattr(self, name)
        self.before_write()
        super().__setattr__(name, checked)
        self.restructured(f"{name} is {checked!r}")
        changed_base(self, name, old, source, reason)

    def _set_fixed(self, name: str, value: Any) -> None:
        """An attribute that is read when the optimizer is built."""
        if self.built and value != getattr(self, name):
            raise AttributeError(
                f"{self.name}/{name} is {getattr(self, name)!r} since the optimizer was built and "
                f"cannot become {value!r}: make another optimizer, "
                f"{type(self).__name__}(..., {name}={value!r})"
            )
        if name == "sparse":
            _check_lazy(value, self.gradient_accumulation_steps)
        elif name == "gradient_accumulation_steps":
            _check_lazy(self.sparse, value)
        super().__setattr__(name, value)

    def __getitem__(self, name: str) -> Any:
        return self._shown(self._by_path(name))

    def _shown(self, setting: Setting) -> Any:
        """What a look at a setting gives."""
        if _eager():
            self.report_refused()
        return setting.value if isinstance(setting, Choice) else _current(setting)

    def __setitem__(self, name: str, value: Any) -> None:
        self._by_path(name).set(value, "assignment")

    def _by_path(self, name: str) -> Setting:
        own = name.removeprefix(f"{self.name}/").removesuffix(":0")
        found = self.setting(own)
        if found is not None:
            return found
        for group in [*self.core.groups, *self.core.branches]:
            label, _, last = own.rpartition("/")
            fulls = group.names.canonical(self.alias(group, last))
            if label == group.label and fulls:
                return group.setting(fulls[0])
        raise KeyError(self._unknown(name))

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self._known()]

    @property
    def learning_rate(self) -> Any:
        """The learning rate's Variable; of a schedule, with the number of the next step."""
        core = self.__dict__.get("_core")
        rate = self._rate() if core is not None else None
        if rate is None:
            return self.__dict__["_learning_rate"]
        return self._shown(rate)

    @learning_rate.setter
    def learning_rate(self, value: Any) -> None:
        rate = self._rate()
        if rate is None:
            raise AttributeError(self._unknown("learning_rate"))
        rate.set(value, "assignment")

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

    # -- building --------------------------------------------------------------------------

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
        for parameter, full, declared in self.core.missing_slots():
            self._make_slot(parameter, full, declared)
        self._make_flags()

    def _make_slot(self, parameter: Parameter, full: str, declared: Slot) -> None:
        shape = self.core.shape_of(parameter, full, declared)
        fill = self.core.first_value(parameter, full, declared)
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
        wanted = [key for key in self.core.asking_flags() if key not in self.core.flags]
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
        from pellucid.declare import Ref

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
        owners = self._owners(trainable_variables)
        if not self._as_before(grads, owners):
            check_gradients(grads, owners)
            grads = [
                keras.ops.convert_to_tensor(grad) if isinstance(grad, numpy.ndarray) else grad
                for grad in grads
            ]
            grads = self._as_given(grads, owners)
        calls, thread = self._calls.what, threading.get_ident()
        call = calls[thread] = _Call(self._checked_extras(extras, trainable_variables))
        try:
            super().apply(grads, trainable_variables)
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

    def _as_given(self, grads: Any, owners: Sequence[Any]) -> Any:
        """Gradients that Keras can divide by its scale and add up."""
        scaled, accumulated = self.loss_scale_factor, self.gradient_accumulation_steps
        if (scaled is None and not accumulated) or not any(map(is_sparse, grads)):
            return grads
        return as_given(grads, owners, bool(accumulated))

    def _as_before(self, grads: Any, variables: Sequence[Any]) -> bool:
        """Whether these gradients need no other look than the fused kernel's: torch's, as before."""
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

    def _checked_extras(self, extras: Mapping[str, Any], variables: Any) -> dict[str, Any]:
        wanted = self.core.extras
        check_extras("apply", wanted, extras)
        found = {name: extras[name] for name in wanted}
        for name, shape in wanted.items():
            if shape != "scalar":
                owners = self._owners(None if self.built else variables)
                check_list(name, extras[name], owners, path_of, "variable")
                found[name] = dict(enumerate(extras[name]))
        return found

    def _clip_gradients(self, grads: Any) -> Any:
        return grads  # a stage does it

    def _apply_weight_decay(self, variables: Any) -> None:
        """A stage does it."""

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

    def _done(self, call: _Call, veto: Any) -> None:
        """An update was done, or vetoed."""
        call.veto = veto
        if self.gradient_accumulation_steps:
            self._uncount(veto, self.gradient_accumulation_steps)

    def _again(self, call: _Call, grads: Any, variables: Any) -> bool:
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

    def _call(self) -> _Call:
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
            self._set("_kernel", _Held(Kernels(self)))
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


@dataclass
class _Call:
    """What one `apply` is given and finds."""

    extras: Mapping[str, Any]
    veto: Any = None  # a condition under which nothing was updated


class _Held:
    """Hides its content from Keras's and TensorFlow's tracking of attributes."""

    __slots__ = ("what",)

    def __init__(self, what: Any) -> None:
        self.what = what


class _Fill(keras.initializers.Initializer):  # type: ignore[misc]
    """A number, exact in float64, too (Keras's own rounds it to float32 on the way)."""

    def __init__(self, number: float) -> None:
        self.number = number

    def __call__(self, shape: Any, dtype: Any = None) -> Any:
        return keras.ops.convert_to_tensor(numpy.full(tuple(shape), self.number, dtype))


class _StageSettings:
    """The hyperparameters of one stage as attributes: ``opt.average_weights.decay``."""

    def __init__(self, optimizer: Optimizer, group: Group, stage: str) -> None:
        object.__setattr__(self, "_of", (optimizer, group, stage))

    def _setting(self, name: str) -> Setting:
        _, group, stage = self._of
        full = f"{stage}.{name}"
        if full not in group.settings:
            known = [one.partition(".")[2] for one in group.settings if one.startswith(f"{stage}.")]
            raise AttributeError(f"{stage} has no {name!r} (hyperparameters: {', '.join(known)})")
        return group.setting(full)  # type: ignore[no-any-return]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        found = self._setting(name)
        return found.value if isinstance(found, Choice) else _current(found)

    def __setattr__(self, name: str, value: Any) -> None:
        self._setting(name).set(value, "assignment")


def _current(cell: Hyperparameter) -> Any:
    """A hyperparameter's Variable; one that is driven gets the number of the next step first."""
    if cell.driver is not None and _eager():
        cell.optimizer.before_write()
        cell.variable.put(cell.at(cell.optimizer.updates))
    return cell.variable


def _eager() -> bool:
    """Whether code runs at once: not while a step is traced."""
    from keras.src.backend.common.stateless_scope import in_stateless_scope

    if in_stateless_scope():
        return False
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return bool(tf.executing_eagerly())
    return True


def outside_of_graphs() -> Any:
    """A context in which code runs at once, also while TensorFlow traces a function."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.init_scope()
    return contextlib.nullcontext()


def _title(stage: Composed) -> str:
    """What an optimizer of a stage is called: its rule's name."""
    for one in flatten(stage):
        if getattr(one, "kind", None) == "rule":
            return type(one).__name__
    return "Optimizer"


def _check_lazy(sparse: Any, accumulation: Any) -> None:
    if sparse not in SPARSE:
        raise ValueError(f"sparse is {sparse!r}; allowed is 'dense' or 'lazy'")
    if sparse == "lazy" and accumulation:
        raise ValueError(
            f"sparse='lazy' and gradient_accumulation_steps={accumulation!r}: Keras adds gradients "
            "up in arrays of all rows, and which were touched is lost; use sparse='dense'"
        )


def _check_own(seed: Any, transformers: Iterable[Any]) -> None:
    if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 1 << 63:
        raise ValueError(f"seed is {seed!r}; allowed is a whole number from 0, below 2**63")
    for function in transformers:
        if not callable(function):
            raise TypeError(f"gradient_transformers has {function!r}, which is no function")

