"""The view: an optimizer's hyperparameters, options, state and journal by name."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any

from pellucid.access.errors import UnknownNameError, no_such
from pellucid.access.patterns import Found, find, matching, named, select, split
from pellucid.access.slots import StateTable
from pellucid.access.sources import Assignment, Source
from pellucid.changes import Journal
from pellucid.declare import HyperparameterError
from pellucid.drawn import Drawn

if TYPE_CHECKING:
    from rich.console import RenderableType

    from pellucid.access.statistics import Statistics
    from pellucid.access.tree import Tree

__all__ = ["View"]


class View(Drawn):
    """One read and write table over an optimizer; made by `pellucid.view`.

    A path is a name, canonical (``learning_rate``) or the framework's own (``lr``), alone or after
    a ``/``: ``"group 1/weight_decay"``. On the left stands the optimizer's name (its class, or its
    rule's), a group's name or a pattern of parameters (``"encoder.*/beta1"``), looked for in that
    order. The view keeps nothing: it reads and writes where the framework reads and writes, and a
    change holds from the next step on. An error leaves everything as it was.
    """

    def __init__(self, source: Source) -> None:
        self._source = source

    @property
    def optimizer(self) -> Any:
        """What this is a view of."""
        return self._source.optimizer

    @property
    def groups(self) -> tuple[str, ...]:
        """Names of the groups."""
        return tuple(group.name for group in self._source.groups())

    @property
    def journal(self) -> Journal:
        """Every change of a hyperparameter, oldest first."""
        return self._source.journal

    @property
    def state(self) -> StateTable:
        """The live arrays by name: see `StateTable`."""
        return StateTable(self._source)

    # -- reading ---------------------------------------------------------------------------

    def __getitem__(self, path: str) -> Any:
        """The current value; where the groups' values differ, a dict from path to value.

        Under a schedule this is the number that the last update used (before the first: the
        number that it will use); `schedule` gives what drives it. A native name of several, such
        as ``betas``, gives a tuple.

        Raises:
            UnknownNameError: (a KeyError) nothing has that name.
        """
        return _agreed({found.path: _value(found) for found in find(self._source, path)})

    def schedule(self, path: str) -> Any:
        """What drives a value, or None; a dict if they differ.

        The schedule, callable or `ref`; or the scheduler of torch that was given to the view (its
        kind as text, if one is at work that was not given).
        """
        found: dict[str, Any] = {}
        for one in find(self._source, path):
            group = one.selected.group
            for full in one.fulls:
                given = getattr(self._source, "scheduler", None)
                by = (given or group.scheduler(full)) if group.scheduler(full) else None
                found[f"{group.name}/{full}"] = group.driver(full) or by
        return _agreed(found)

    def __contains__(self, path: object) -> bool:
        try:
            return isinstance(path, str) and bool(find(self._source, path))
        except KeyError:
            return False

    def __iter__(self) -> Iterator[str]:
        """Paths of all hyperparameters and options."""
        groups = self._source.groups()
        for group in groups:
            left = self._source.name if len(groups) == 1 else group.name
            yield from (f"{left}/{full}" for full in group.names.places)

    def variables(self) -> dict[str, Any]:
        """Every hyperparameter, option and array of the state: full name and current value.

        Of ours also before the first step: then with a copy of the array that it will begin with
        (None where that depends on the gradient).

        Hyperparameters are ``"<optimizer>/learning_rate"`` where there is one group, else
        ``"<group>/learning_rate"``; state is ``"<parameter>/first_moment"``.
        """
        groups = self._source.groups()
        found = {}
        for group in groups:
            left = self._source.name if len(groups) == 1 else group.name
            found.update({f"{left}/{full}": group.value(full) for full in group.names.places})
        found.update({cell.path: cell.value for cell in self.state.cells()})
        coming = getattr(self._source, "coming", None)
        return found if coming is None else {**found, **coming()}

    # -- writing ---------------------------------------------------------------------------

    def __setitem__(self, path: str, value: Any) -> None:
        self.set(path, value)

    def set(self, path: str, value: Any, reason: str = "", *, split: bool = False) -> None:
        """Change a value from the next step on, in every group that the path names.

        Args:
            path: what to change. A pattern of parameters must name whole groups, or ``split`` be
                True.
            value: a number, a schedule, any callable of the step, a scalar array of the framework
                or a `ref`; for an option one of its choices; for ``betas`` and the like a tuple.
            reason: why, for the journal.
            split: whether parameters that are a part of a group get one of their own first, as by
                `split`.

        Raises:
            UnknownNameError: nothing has that name.
            HyperparameterError: the value is not allowed.
            ValueError: the path names a part of a group, or an LR scheduler of torch would
                overwrite the change and was not given to `pellucid.view`. With it, ``value`` is
                the rate of the next update, and the scheduler goes on from there: its base rates
                (and ``initial_lr``) are scaled by the same factor.

        In each case nothing was changed.
        """
        found = find(self._source, path) if split else []
        if not all(one.selected.whole for one in found):
            if not isinstance(reason, str):
                raise TypeError(f"reason is {reason!r}; allowed is text")
            self._source.check(_assigned(found, value))
            self.split(path.rpartition("/")[0])
        self._source.set(self._assignments(path, value), reason)

    @contextmanager
    def override(self, path: str, value: Any, reason: str = "") -> Iterator[View]:
        """Another value inside a ``with`` block; at its end, also by an exception, the old one.

        What drove the value drives it again. Base rates of a torch scheduler are put back to what
        they were at the beginning: decays that it made inside the block are not made up for.
        """
        if not isinstance(reason, str):
            raise TypeError(f"reason is {reason!r}; allowed is text")
        assignments = self._assignments(path, value)
        put_back = self._source.keep([(one.group, one.full) for one in assignments])
        self._source.set(assignments, reason or "override")
        try:
            yield self
        finally:
            put_back(f"end of override: {reason}" if reason else "end of override")

    def split(self, pattern: str) -> tuple[str, ...]:
        """Give parameters of this name pattern groups of their own, with equal values.

        Each group of which the pattern names a part becomes two: the new one comes last, is named
        by the pattern, and its name is returned. State stays. Where a scheduler of torch counts
        the groups it must have been given to `pellucid.view`, and learns of the new ones.

        Raises:
            UnknownNameError: no parameter has such a name.
            ValueError: the pattern names whole groups already.
        """
        if not isinstance(pattern, str):
            raise TypeError(f"pattern is {pattern!r}; allowed is text, such as '*.bias'")
        groups = self._source.groups()
        labels = [group.name for group in groups]
        chosen = dict(zip(labels, matching(groups, pattern), strict=True))
        if not any(chosen.values()):
            names = [name for group in groups for name in group.members]
            raise no_such(f"no parameter's name matches {pattern!r}", pattern, names)
        parts = [g for g in groups if 0 < len(chosen[g.name]) < len(g.members)]
        if not parts:
            whole = ", ".join(repr(name) for name, some in chosen.items() if some)
            raise ValueError(f"{pattern!r} names whole groups already ({whole}): set their values")
        before = {group.name for group in groups}
        alone = sum(map(bool, chosen.values())) == 1  # else the pattern means more than that group
        for part in parts:
            label = pattern if alone else f"{pattern} of {part.name}"
            while any(name.endswith(label) for name in before):
                label += "'"
            now = next(one for one in self._source.groups() if one.name == part.name)
            self._source.split(now, chosen[part.name], label)
        return tuple(one.name for one in self._source.groups() if one.name not in before)

    def reset(self, path: str) -> None:
        """Let state begin anew at the next update: as if a parameter had had none so far.

        Args:
            path: a parameter's name, a pattern of names, a group or the optimizer: all of their
                state; or one of these, ``/`` and a slot: ``"encoder.*/first_moment"``.

        Raises:
            UnknownNameError: nothing has that name.
            ValueError: the slot does not exist, or how it begins is not known.
        """
        source = self._source
        owners = source.owners()
        left, name = split(path)
        exact = named(owners, path)
        if exact:
            source.reset(exact, None)
            return
        exact = named(owners, left)
        if exact:
            source.reset(exact, name)
            return
        try:
            chosen, full = select(source, path, path), None
        except UnknownNameError:
            if left is None:
                raise
            chosen, full = select(source, left, path), name
        members = {one.group.index: set(one.members) for one in chosen}
        source.reset([o for o in owners if o.name in members.get(o.group, ())], full)

    def warnings(self) -> list[Any]:
        """What looks wrong, in plain words; nothing is computed over arrays.

        A parameter of the model in no group or in two; frozen ones with state; gradients that are
        all absent; a rate of 0; values far outside of their usual range; what a load overwrote.
        """
        from pellucid.access.advice import advice

        return advice(self._source)

    def _assignments(self, path: str, value: Any) -> list[Assignment]:
        found = find(self._source, path)
        for one in found:
            _check_whole(one, path, value)
        return _assigned(found, value)

    # -- statistics ------------------------------------------------------------------------

    def statistics(self, grads: Any = None) -> Statistics:
        """Norms, effective rates, NaN and untouched state of every parameter, as it is now.

        Args:
            grads: for NumPy, which keeps no gradients: these, as `step` takes them.
        """
        from pellucid.access.measuring import statistics_of

        return statistics_of(self._source, grads)

    def measure(self, grads: Any = None) -> AbstractContextManager[Statistics]:
        """Statistics of a step inside a ``with`` block, its true change included.

        ``with view.measure() as found: optimizer.step()``: once the block is over, ``found`` has
        all that `statistics` has and each parameter's change, which is compared with a copy of
        the parameters taken at the beginning. Gradients may be computed in the block.
        """
        from pellucid.access.measuring import measured

        return measured(self._source, grads)

    # -- showing ---------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """Everything but the arrays' contents as plain JSON data."""
        from pellucid.access.plain import plain

        return plain(self._source, self.state.cells())

    def to_json(self, indent: int | None = 2) -> str:
        """The text of `to_dict`."""
        return json.dumps(self.to_dict(), indent=indent, ensure_ascii=False, allow_nan=False)

    def to_pandas(self) -> Any:
        """A `pandas.DataFrame`: a row for each hyperparameter, option and array of the state.

        The columns are path, group, name, native, value and kind ("hyperparameter", "option" or
        "state"). The value of an array of several numbers is its shape and dtype.

        Raises:
            ImportError: pandas is not installed.
        """
        from pellucid.access.plain import frame

        return frame(self._source)

    def tree(
        self, depth: int | None = None, *, slots: bool = True, limit: int | None = 20
    ) -> Tree:
        """A tree to print: the optimizer, its groups, their parameters, and their slots.

        Args:
            depth: 0 shows the optimizer alone, 1 its groups, too, 2 parameters, 3 slots; None all.
            slots: whether to show slots.
            limit: how many groups, and how many parameters of each, are shown one by one. More
                parameters are folded by common prefix (``encoder.layer.*: 148 parameters``), and
                what is left is counted. None shows all.
        """
        from pellucid.access.tree import tree_of

        return tree_of(self._source, depth, slots, limit)

    def _draw(self, width: int, ascii_only: bool) -> RenderableType:
        from pellucid.access.render import renderable

        return renderable(self._source, width, ascii_only)

    def _repr_html_(self) -> str:
        from pellucid.access.render import html_page

        return html_page(self._source)


def _value(found: Found) -> Any:
    values = [found.selected.group.value(full) for full in found.fulls]
    return tuple(values) if found.is_tuple else values[0]


def _agreed(values: Mapping[str, Any]) -> Any:
    """The one value where all are the same, else all of them by path."""
    first, *others = values.values()
    same = all(one is first or (type(one) is type(first) and one == first) for one in others)
    return first if same else dict(values)


def _assigned(found: Sequence[Found], value: Any) -> list[Assignment]:
    return [
        Assignment(one.selected.group, full, part)
        for one in found
        for full, part in zip(one.fulls, _parts(one, value), strict=True)
    ]


def _parts(found: Found, value: Any) -> Sequence[Any]:
    """A value for each name that a path means: the components of a tuple."""
    if not found.is_tuple:
        return [value]
    if not isinstance(value, (tuple, list)) or len(value) != len(found.fulls):
        raise HyperparameterError(
            f"{found.path} is {value!r}; allowed are {len(found.fulls)} values, for "
            f"{', '.join(found.fulls)}"
        )
    return value


def _check_whole(found: Found, path: str, value: Any) -> None:
    selected = found.selected
    if selected.whole:
        return
    pattern = path.rpartition("/")[0]
    raise ValueError(
        f"{path!r} names {len(selected.members)} of the {len(selected.group.members)} parameters "
        f"of {selected.group.name!r}, which share one value: set {found.path!r} for all of them, "
        f"or give these a group of their own first: view.split({pattern!r})"
    )
