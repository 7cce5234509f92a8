"""An optimizer's state by name: the live arrays."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from pellucid.access.containers import writable
from pellucid.access.errors import UnknownNameError, no_such
from pellucid.access.patterns import named, select, split
from pellucid.access.plain import short
from pellucid.access.sources import Cell, Owner, Source
from pellucid.ops import is_number

__all__ = ["StateTable"]


class StateTable(Mapping[str, Any]):
    """All state that exists, by path: ``state["encoder.0.weight/first_moment"]``.

    On the left of the last ``/`` stands a parameter's name, which gives the live array itself, or
    the optimizer's name, a group's name or a pattern of parameters, which give a dict; on the
    right a slot's canonical or native name (``exp_avg``). Without a left side all parameters are
    meant. An assignment copies into the live arrays: a number, an array of the slot's shape and
    dtype, or, for several, a dict as reading gives it.

    Iterating gives the paths of everything there is: nothing before the first step.
    """

    def __init__(self, source: Source) -> None:
        self._source = source

    def __getitem__(self, path: str) -> Any:
        cells, exact = self._find(path)
        return cells[0].value if exact else {cell.path: cell.value for cell in cells}

    def __setitem__(self, path: str, value: Any) -> None:
        cells, exact = self._find(path)
        if isinstance(value, Mapping):
            paths = {cell.path for cell in cells}
            if set(value) != paths:
                raise ValueError(
                    f"state[{path!r}] was given a dict with {', '.join(map(repr, value))}; allowed "
                    f"is one with exactly the paths {', '.join(sorted(paths))}"
                )
            pairs = [(cell, value[cell.path]) for cell in cells]
        elif exact or is_number(value):
            pairs = [(cell, value) for cell in cells]
        else:
            raise ValueError(
                f"state[{path!r}] is {len(cells)} arrays, given one {type(value).__name__}; "
                "allowed is a number for all of them, or a dict from path to array"
            )
        for cell, one in pairs:
            _check(cell, one)
        for cell, one in pairs:
            cell.put(one)

    def __iter__(self) -> Iterator[str]:
        return (cell.path for cell in self.cells())

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __repr__(self) -> str:
        return f"<state: {', '.join(self) or 'nothing before the first step'}>"

    def cells(self) -> Iterator[Cell]:
        """Everything that exists."""
        source = self._source
        for owner in source.owners():
            yield from (cell for cell in source.cells(owner) if cell.value is not None)
        yield from (cell for cell in source.shared_cells() if cell.value is not None)

    def _find(self, path: str) -> tuple[list[Cell], bool]:
        """The cells that a path means, and whether its left side is the owner's exact name."""
        source = self._source
        left, name = split(path)
        owners, shared = source.owners(), source.shared_cells()
        exact = named(owners, left)
        own = [cell for cell in shared if cell.owner == left]
        own += [cell for owner in exact for cell in source.cells(owner)]
        cells, is_one = _named(own, name), True
        if not cells and not exact:
            own, is_one = self._reached(left, path, owners), False
            own += shared if left is None else []
            cells = _named(own, name)
        if not cells:
            known = [full for cell in own for full in (cell.full, cell.native)]
            raise no_such(f"{path!r}: no state {name!r}", name, known)
        present = [cell for cell in cells if cell.value is not None]
        if not present:
            raise UnknownNameError(f"{path!r}: {cells[0].absent or 'it is None: it has no value'}")
        return present, is_one

    def _reached(self, left: str | None, path: str, owners: Sequence[Owner]) -> list[Cell]:
        """The cells of all parameters of which a left side is not the exact name."""
        chosen = {one.group.index: set(one.members) for one in select(self._source, left, path)}
        return [
            cell
            for owner in owners
            if owner.name in chosen.get(owner.group, ())
            for cell in self._source.cells(owner)
        ]


def _named(cells: Sequence[Cell], name: str) -> list[Cell]:
    found = [cell for cell in cells if cell.full == name]
    found = found or [cell for cell in cells if cell.native == name]
    if not found:  # torch's names are understood of any optimizer of ours
        from pellucid.torch.names import canonical_of

        usual = canonical_of(()).get(name)
        found = [cell for cell in cells if cell.full == usual]
    return found


def _check(cell: Cell, value: Any) -> None:
    """Raise unless a value fits where it is to be copied."""
    held = cell.value
    is_array = hasattr(held, "dtype")
    if not (is_array or is_number(held)) or not writable(cell.put, held):
        raise TypeError(
            f"{cell.path} is a {type(held).__name__} that cannot be written to, given "
            f"{_told(value)}; allowed are arrays and numbers that can: change it yourself, not "
            "through a view"
        )
    if is_number(value):
        _check_number(cell, value)
        return
    if not is_array:
        raise TypeError(f"{cell.path} is a number, given {_told(value)}; allowed is a number")
    kind = type(held)
    keras = _library(held) == "keras"  # its Variables take the arrays of any library
    if (_library(value) != _library(held) and not keras) or not hasattr(value, "shape"):
        raise TypeError(
            f"{cell.path} was given {_told(value)}; allowed is a number or a "
            f"{kind.__module__}.{kind.__name__} of shape {tuple(held.shape)} and dtype {held.dtype}"
        )
    other = _type_name(value) != _type_name(held) if keras else value.dtype != held.dtype
    if tuple(value.shape) != tuple(held.shape) or other:
        raise ValueError(
            f"{cell.path} has shape {tuple(held.shape)} and dtype {held.dtype}; the given array "
            f"has {tuple(value.shape)} and {value.dtype}: they must be the same"
        )


def _check_number(cell: Cell, value: float) -> None:
    limits = _limits(cell.value)
    if limits is None:
        return
    low, high, whole = limits
    what = "a whole number" if whole else "a finite number"
    if not low <= value <= high:  # an integer may be beyond all floats
        infinite = value != value or value in (math.inf, -math.inf)
        if infinite and not whole and hasattr(cell.value, "dtype"):
            return
        raise ValueError(f"{cell.path} is {value!r}; allowed is {what} from {low!r} to {high!r}")
    if whole and value != int(value):
        raise ValueError(f"{cell.path} is {value!r}; allowed is {what}")


def _limits(held: Any) -> tuple[float, float, bool] | None:
    """The least and the largest number that fits, and whether only whole ones do."""
    if isinstance(held, int):
        return -math.inf, math.inf, True
    if not hasattr(held, "dtype"):
        return -sys.float_info.max, sys.float_info.max, False
    if "bool" in str(held.dtype):
        return 0, 1, True
    for name in (_library(held), "ml_dtypes"):  # which has NumPy's short floats
        library = sys.modules.get(name)
        with suppress(Exception):
            floats = library.finfo(held.dtype)  # type: ignore[union-attr]
            return -float(floats.max), float(floats.max), False
        with suppress(Exception):
            whole = library.iinfo(held.dtype)  # type: ignore[union-attr]
            return int(whole.min), int(whole.max), True
    return None


def _told(value: Any) -> str:
    """A value, in an error."""
    return f"{type(value).__name__} {short(value)}"


def _type_name(array: Any) -> str:
    return str(getattr(array.dtype, "name", array.dtype)).rpartition(".")[2]


def _library(array: Any) -> str:
    return type(array).__module__.partition(".")[0]
