"""The optimizer of plain NumPy arrays."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy

from pellucid.compose import Composed, Pipeline, Router, flatten, matches, transformers_of
from pellucid.controls import Controls, canonical_names, overrides
from pellucid.fuse.engine import Entry
from pellucid.host import Host, check_patterns
from pellucid.numpy.arrays import NumpyBackend

__all__ = ["Optimizer"]


class _State:
    """Slots of each parameter by name: ``state["layer.weight"]["first_moment"]``."""

    def __init__(self, arrays: dict[str, dict[str, Any]]) -> None:
        self.arrays = arrays

    def get(self, entry: Entry, full: str) -> Any:
        return self.arrays.get(entry.name, {}).get(full)

    def put(self, entry: Entry, full: str, array: Any) -> None:
        self.arrays.setdefault(entry.name, {})[full] = array


class Optimizer(Host):
    """Updates NumPy arrays in place by a rule, as one fused kernel.

    Args:
        params: arrays of float32 or float64, by name. They are updated in place.
        stage: a rule, a chain or a route.
        groups: hyperparameters for some parameters: ``{"*.bias": {"weight_decay": 0.0}}``; the
            first pattern that matches a name wins.
        gradient_transformers: functions of a list of (gradient, parameter) pairs that give such
            a list, called before the stages. Parameters are read-only in them; a pair that is
            left out skips its parameter.
        compiled: False runs ``update`` line by line on arrays, for a debugger.
        seed: of random numbers, from 0.

    ``param_groups`` is a list of dicts: ``params`` (names), ``name``, and the hyperparameters,
    which may be written to. ``state`` is a dict: parameter, slot, array. Clocks count the
    optimizer's updates.
    """

    def __init__(
        self,
        params: Mapping[str, Any],
        stage: Composed,
        *,
        groups: Mapping[Any, Mapping[str, Any]] | None = None,
        gradient_transformers: Iterable[Any] = (),
        compiled: bool = True,
        seed: int = 0,
    ) -> None:
        flatten(stage)
        checked = _checked_params(params)
        self.params: dict[str, Any] = checked
        self.state: dict[str, dict[str, Any]] = {}
        self.param_groups: list[dict[str, Any]] = []
        functions = (*gradient_transformers, *transformers_of(stage))
        super().__init__(NumpyBackend(), _State(self.state), stage, functions, compiled, seed)
        self._form_groups(groups or {})

    # -- groups ----------------------------------------------------------------------------

    def _form_groups(self, groups: Mapping[Any, Mapping[str, Any]]) -> None:
        router = Router(self.stage)
        members: dict[tuple[int, Any], list[str]] = {}
        pipelines: dict[int, Pipeline] = {}
        for name, param in self.params.items():
            pipeline = router.pipeline(name, param)
            pipelines[id(pipeline)] = pipeline
            chosen = next((p for p in groups if matches(p, name, param)), None)
            members.setdefault((id(pipeline), chosen), []).append(name)
        router.check_used(self.params)
        check_patterns(groups, [chosen for _, chosen in members], self.params)
        for (identity, chosen), names in members.items():
            pipeline = pipelines[identity]
            label = self._label(pipeline, chosen, len(pipelines) > 1)
            given = dict(pipeline.given)
            if chosen is not None:
                native = canonical_names(pipeline)
                where = f"groups[{chosen!r}]"
                given.update(overrides(pipeline, native, groups[chosen], where, ()))
            self._add_group(label, pipeline, names, given)
        self.entries.sort(key=lambda entry: entry.index)

    def _label(self, pipeline: Pipeline, chosen: Any, routed: bool) -> str:
        parts = [pipeline.label] if routed and pipeline.label else []
        if chosen is not None:
            parts.append(chosen if isinstance(chosen, str) else "predicate")
        label = " & ".join(parts) or f"group {len(self.param_groups)}"
        taken = {group["name"] for group in self.param_groups}
        return label if label not in taken else f"{label} ({len(self.param_groups)})"

    def _add_group(
        self, label: str, pipeline: Pipeline, names: list[str], given: Mapping[str, Any]
    ) -> None:
        store: dict[str, Any] = {"params": names, "name": label}
        controls = Controls(
            label, pipeline, canonical_names(pipeline), store, given, self.journal
        )
        controls.enter(self.updates)
        order = {name: index for index, name in enumerate(self.params)}
        self.entries.extend(
            Entry(order[name], name, self.params[name], len(self.controls), pipeline)
            for name in names
        )
        self.param_groups.append(store)
        self.controls.append(controls)

    # -- the step --------------------------------------------------------------------------

    def step(self, grads: Mapping[str, Any] | Iterable[Any], **extras: Any) -> bool:
        """Update all parameters that have a gradient.

        Args:
            grads: gradients by parameter's name, or in the parameters' order; None or absent
                skips the parameter.
            extras: what the stages declare with `extra`, by name: a number, or arrays as
                ``grads`` has them.

        Returns:
            False if a stage vetoed the update; then nothing was changed.

        Raises:
            ValueError, TypeError: what is wrong with a gradient or a hyperparameter. Nothing
                was changed.
        """
        gradients = self._by_index(grads, "gradient")
        return self._update(gradients, self._checked_extras(extras))

    def _by_index(self, given: Any, what: str) -> dict[int, Any]:
        if isinstance(given, Mapping):
            unknown = [name for name in given if name not in self.params]
            if unknown:
                raise ValueError(
                    f"{what} for {unknown[0]!r}: no parameter of that name "
                    f"(parameters: {', '.join(self.params)})"
                )
            named = given
        else:
            values = list(given)
            if len(values) != len(self.params):
                raise ValueError(
                    f"{len(values)} {what}s for {len(self.params)} parameters: give one for each "
                    "(None to skip it), or a dict by name"
                )
            named = dict(zip(self.params, values, strict=True))
        found: dict[int, Any] = {}
        for entry in self.entries:
            array = named.get(entry.name)
            if array is not None:
                self._check_array(entry, array, what)
                found[entry.index] = array
        return found

    def _check_array(self, entry: Entry, array: Any, what: str) -> None:
        param = entry.param
        if not isinstance(array, numpy.ndarray):
            raise TypeError(
                f"{what} of {entry.name!r} is {type(array).__name__}; allowed is a NumPy array of "
                f"shape {param.shape} and dtype {param.dtype}"
            )
        if array.shape != param.shape or array.dtype != param.dtype:
            raise ValueError(
                f"{what} of {entry.name!r} has shape {array.shape} and dtype {array.dtype}; its "
                f"parameter has {param.shape} and {param.dtype}: they must be the same"
            )

    def _transformed(self, gradients: dict[int, Any]) -> dict[int, Any]:
        """Gradients after the plain functions; parameters are handed out read-only."""
        views: dict[int, Any] = {}
        for entry in self.entries:
            views[entry.index] = entry.param.view()
            views[entry.index].flags.writeable = False
        return self._apply_transformers(gradients, views)

    def __iter__(self) -> Iterator[str]:
        return iter(self.params)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_plans": {}}  # which hold compiled kernels and addresses

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.journal.live = self._completed

    # -- files -----------------------------------------------------------------------------

    def save(self, file: Any) -> None:
        """Write state, hyperparameters, schedules and journal to an ``.npz`` file, no pickle."""
        from pellucid.numpy.files import save

        save(self, file)

    def load(self, file: Any) -> None:
        """Read what `save` wrote into this optimizer, which must have the same slots.

        Raises:
            ValueError: what does not fit; nothing was changed.
        """
        from pellucid.numpy.files import load

        load(self, file)


def _checked_params(params: Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(params, Mapping):
        raise TypeError(
            f"params is {type(params).__name__}; allowed is a dict from name to NumPy array"
        )
    if not params:
        raise ValueError("params is empty: an optimizer needs at least one parameter")
    seen: dict[int, str] = {}
    for name, param in params.items():
        if not isinstance(name, str) or not name or "/" in name:
            raise ValueError(f"parameter name {name!r}: allowed is text without a slash")
        if not isinstance(param, numpy.ndarray) or str(param.dtype) not in ("float32", "float64"):
            kind = getattr(param, "dtype", type(param).__name__)
            raise TypeError(
                f"parameter {name!r} is {kind}; allowed are NumPy arrays of float32 or float64: "
                f"params[{name!r}] = numpy.asarray(..., dtype='float32')"
            )
        if not param.flags.writeable or (param.size and any(
            stride == 0 and length > 1
            for stride, length in zip(param.strides, param.shape, strict=True)
        )):
            raise ValueError(
                f"parameter {name!r} cannot be updated in place (read-only or broadcast): copy it"
            )
        if id(param) in seen:
            raise ValueError(
                f"parameter {name!r} is the same array as {seen[id(param)]!r}: give it once"
            )
        seen[id(param)] = name
    return dict(params)
