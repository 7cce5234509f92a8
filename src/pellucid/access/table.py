"""The view: an optimizer's hyperparameters, options, state and journal by name."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pellucid.access.patterns import Found, find
from pellucid.access.slots import StateTable
from pellucid.access.sources import Assignment, Source
from pellucid.changes import Journal
from pellucid.declare import HyperparameterError

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult

__all__ = ["View"]


class View:
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
        """The schedule, callable or `ref` that drives a value, or None; a dict if they differ."""
        return _agreed(
            {
                f"{found.selected.group.name}/{full}": found.selected.group.driver(full)
                for found in find(self._source, path)
                for full in found.fulls
            }
        )

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

        Hyperparameters are ``"<optimizer>/learning_rate"`` where there is one group, else
        ``"<group>/learning_rate"``; state is ``"<parameter>/first_moment"``.
        """
        groups = self._source.groups()
        found = {}
        for group in groups:
            left = self._source.name if len(groups) == 1 else group.name
            found.update({f"{left}/{full}": group.value(full) for full in group.names.places})
        found.update({cell.path: cell.value for cell in self.state.cells()})
        return found

    # -- writing ---------------------------------------------------------------------------

    def __setitem__(self, path: str, value: Any) -> None:
        self.set(path, value)

    def set(self, path: str, value: Any, reason: str = "") -> None:
        """Change a value from the next step on, in every group that the path names.

        Args:
            path: what to change. A pattern of parameters must name whole groups.
            value: a number, a schedule, any callable of the step, a scalar array of the framework
                or a `ref`; for an option one of its choices; for ``betas`` and the like a tuple.
            reason: why, for the journal.

        Raises:
            UnknownNameError: nothing has that name.
            HyperparameterError: the value is not allowed.
            ValueError: the path names a part of a group, or an LR scheduler of torch would
                overwrite the change and was not given to `pellucid.view`. With it, ``value`` is
                the rate of the next update, and the scheduler goes on from there: its base rates
                (and ``initial_lr``) are scaled by the same factor.

        In each case nothing was changed.
        """
        self._source.set(self._assignments(path, value), reason)

    @contextmanager
    def override(self, path: str, value: Any, reason: str = "") -> Iterator[View]:
        """Another value inside a ``with`` block; at its end, also by an exception, the old one.

        What drove the value drives it again. Base rates of a torch scheduler are put back to what
        they were at the beginning: decays that it made inside the block are not made up for.
        """
        assignments = self._assignments(path, value)
        put_back = self._source.keep([(one.group, one.full) for one in assignments])
        self._source.set(assignments, reason or "override")
        try:
            yield self
        finally:
            put_back(f"end of override: {reason}" if reason else "end of override")

    def _assignments(self, path: str, value: Any) -> list[Assignment]:
        found = find(self._source, path)
        for one in found:
            _check_whole(one, path, value)
        return [
            Assignment(one.selected.group, full, part)
            for one in found
            for full, part in zip(one.fulls, _parts(one, value), strict=True)
        ]

    # -- showing ---------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """Everything but the arrays' contents as plain JSON data."""
        from pellucid.access.plain import plain

        return plain(self._source, self.state.cells())

    def to_json(self, indent: int | None = 2) -> str:
        """The text of `to_dict`."""
        return json.dumps(self.to_dict(), indent=indent, ensure_ascii=False, allow_nan=False)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from pellucid.access.render import renderable

        yield renderable(self._source, options.max_width, options.ascii_only)

    def __str__(self) -> str:
        """A table as wide as the terminal, in colour there; plain text anywhere else."""
        from pellucid.access.render import for_stdout

        return for_stdout(self._source)

    def __repr__(self) -> str:
        from pellucid.access.render import text

        return text(self._source)


def _value(found: Found) -> Any:
    values = [found.selected.group.value(full) for full in found.fulls]
    return tuple(values) if found.is_tuple else values[0]


def _agreed(values: Mapping[str, Any]) -> Any:
    """The one value where all are the same, else all of them by path."""
    first, *others = values.values()
    same = all(one is first or (type(one) is type(first) and one == first) for one in others)
    return first if same else dict(values)


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
        f"or construct the optimizer with groups={{{pattern!r}: {{{found.name!r}: {value!r}}}}}"
    )
