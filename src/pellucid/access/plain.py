"""A view as plain data: JSON, short texts of any value, rows of a data frame.

Values of optimizers that are not ours may be anything: nothing here fails on one.
"""

from __future__ import annotations

import importlib
import math
import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from pellucid.access.sources import Cell, Group, Source
from pellucid.declare import Ref, is_scalar_array, plain_value

__all__ = [
    "common_prefix", "counted", "driver_text", "frame", "json_value", "number_of", "one_line",
    "plain", "short", "unindexed",
]  # fmt: skip

LONGEST = 60
"""Of a value's text."""

MOST, DEEPEST = 100, 4
"""Entries and levels of a container that JSON gets; of others it gets a text."""


FEW = 2
"""Entries of a list in the state that are shown one by one."""


def plain(source: Source, cells: Iterable[Cell]) -> dict[str, Any]:
    """Everything that a view shows; of arrays their shapes and dtypes."""
    recorded = source.recorded
    return {
        "optimizer": source.name,
        "stage": source.title,
        "updates": json_value(source.updates),
        "groups": [_group(group) for group in source.groups()],
        "state": {cell.path: json_value(cell.value, arrays=True) for cell in cells},
        "journal": [] if recorded is None else [_entry(entry) for entry in recorded.to_list()],
    }


def _entry(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {key: json_value(value) for key, value in entry.items()}


def _group(group: Group) -> dict[str, Any]:
    names = group.names
    fulls = list(names.places)
    drivers = {full: group.driver(full) for full in fulls}
    return {
        "name": group.name,
        "rule": group.rule,
        "parameters": list(group.members),
        "size": group.size,
        "values": {full: json_value(group.value(full)) for full in fulls},
        "native": {full: names.native(full) for full in fulls},
        "schedules": {
            full: _driver(driver, f"{group.name}/{full}")
            for full, driver in drivers.items()
            if driver is not None
        },
    }


def _driver(driver: Any, where: str) -> Any:
    try:
        return json_value(plain_value(driver, where), level=-DEEPEST)  # schedules of schedules
    except Exception:  # a lambda has no configuration, a user's class may fail to give one
        return {"repr": short(driver)}


def json_value(value: Any, *, arrays: bool = False, level: int = 0) -> Any:
    """A value as JSON data: NaN and infinities as text, arrays by shape and dtype.

    An array of one number is that number, unless ``arrays`` is set.
    """
    if value is None or isinstance(value, (bool, str)):
        return value
    form = _form(value)
    number = None if arrays and form else number_of(value)
    if number is not None:
        return number if math.isfinite(number) else str(number)
    if form:
        return {"shape": list(form[0]), "dtype": form[1]}
    if level < DEEPEST and isinstance(value, (tuple, list)) and len(value) <= MOST:
        return [json_value(one, arrays=arrays, level=level + 1) for one in value]
    if level < DEEPEST and isinstance(value, dict) and len(value) <= MOST:
        return {
            key if isinstance(key, str) else short(key): json_value(
                one, arrays=arrays, level=level + 1
            )
            for key, one in value.items()
        }
    return {"repr": short(value)}


def number_of(value: Any) -> int | float | None:
    """The number that a value is, or that an array of one number holds; else None."""
    try:
        if isinstance(value, int):
            return value if -(2**63) <= (number := int(value)) < 2**64 else float(number)
        if isinstance(value, float) or is_scalar_array(value):
            return float(value)
    except Exception:  # complex, objects, arrays without memory, numbers beyond all floats
        pass
    return None


def _form(value: Any) -> tuple[tuple[int, ...], str] | None:
    """Shape and dtype of an array; None for anything else."""
    try:
        if isinstance(value, type) or not hasattr(value, "dtype"):
            return None
        return tuple(int(one) for one in value.shape), str(value.dtype).rpartition(".")[2]
    except Exception:  # lazy arrays, that have no shape yet
        return None


def one_line(text: str) -> str:
    """Text without line breaks and control characters, which would act on a terminal."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text)


def short(value: Any, longest: int = LONGEST) -> str:
    """Any value on one line: numbers in six digits, arrays by shape and dtype."""
    try:
        text = one_line(_text(value, 0))
    except Exception:  # a __repr__ of others may fail
        text = f"<{type(value).__name__}>"
    return text if len(text) <= longest else text[: longest - 1] + "…"


def _text(value: Any, level: int) -> str:
    if value is None or isinstance(value, (bool, str)):
        return str(value)
    form = _form(value)
    number = None if form and form[0] else number_of(value)
    if number is not None:
        return f"{number:.6g}" if isinstance(number, float) else str(number)
    if form:
        return f"{form[0]} {form[1]}"
    if isinstance(value, (tuple, list, dict)) and type(value).__repr__ in CONTAINERS:
        if level > 2:
            return f"{type(value).__name__} of {len(value)}"
        return _contained(value, level + 1)
    if isinstance(name := getattr(value, "__qualname__", None), str):  # functions, classes
        return name
    return " ".join(repr(value).split())


CONTAINERS = (tuple.__repr__, list.__repr__, dict.__repr__)


def _contained(value: Any, level: int) -> str:
    """The first few entries."""
    items = list(value.items()) if isinstance(value, dict) else list(value)
    left, right = "()" if isinstance(value, tuple) else "{}" if isinstance(value, dict) else "[]"
    shown = [
        f"{_text(one[0], level)}: {_text(one[1], level)}"
        if isinstance(value, dict)
        else _text(one, level)
        for one in items[:8]
    ]
    return left + ", ".join([*shown, *["…"][: len(items) > 8]]) + right


def counted(number: int, what: str) -> str:
    """``1 update``, ``2,000 updates``."""
    return f"{number:,} {what}{'s' * (number != 1)}"


def common_prefix(names: Collection[str]) -> str:
    """What all names begin with, up to a dot; empty if that is nothing."""
    first, last = min(names), max(names)
    length = next(
        (at for at, pair in enumerate(zip(first, last, strict=False)) if pair[0] != pair[1]),
        min(len(first), len(last)),
    )
    return first[: first.rfind(".", 0, length) + 1]


def unindexed(names: Iterable[str]) -> dict[str, list[str]]:
    """Names, of which those such as ``al[0]``, ``al[1]``, ... stand together as ``al[…]``.

    >>> unindexed(["step", "al[0]", "al[1]", "al[2]", "d[0]"])
    {'step': ['step'], 'al[…]': ['al[0]', 'al[1]', 'al[2]'], 'd[0]': ['d[0]']}
    """
    found: dict[str, list[str]] = {}
    for name in dict.fromkeys(names):
        found.setdefault(re.sub(r"\[\d+\].*$", "[…]", name), []).append(name)
    few = {key for key, inside in found.items() if len(inside) <= FEW}
    return {
        name: [name] if key in few else inside
        for key, inside in found.items()
        for name in (inside if key in few else [key])
    }


def driver_text(group: Group, full: str) -> str:
    """What drives a value, in words; empty for a plain number."""
    driver = group.driver(full)
    if isinstance(driver, Ref):
        return f"= {driver.name}"
    if driver is not None and driver is group.value(full):
        return ""  # in a stranger's group: it is shown as the value
    if driver is not None:
        return f"by {short(driver, 4 * LONGEST)}"
    scheduler = group.scheduler(full)
    return f"by {scheduler}" if scheduler else ""


# -- a data frame ------------------------------------------------------------------------------


def frame(source: Source) -> Any:
    """A `pandas.DataFrame` of all hyperparameters, options and state."""
    try:
        pandas = importlib.import_module("pandas")
    except ImportError as error:
        raise ImportError("view.to_pandas() needs pandas: pip install pandas") from error
    columns = ["path", "group", "name", "native", "value", "kind"]
    found = pandas.DataFrame(_records(source), columns=columns)
    return found.astype({"value": object})


def _records(source: Source) -> list[tuple[Any, ...]]:
    found: list[tuple[Any, ...]] = []
    labels = {}
    for group in source.groups():
        labels[group.index], names = group.name, group.names
        for full in names.places:
            value = group.value(full)
            kind = "option" if value is None or isinstance(value, (bool, str)) else "hyperparameter"
            path = f"{group.name}/{full}"
            native = names.native(full)
            found.append((path, group.name, full, native, _entered(value), kind))
    owned = [
        (labels.get(owner.group, ""), cell)
        for owner in source.owners()
        for cell in source.cells(owner)
    ]
    for label, cell in [*owned, *(("", cell) for cell in source.shared_cells())]:
        if cell.value is not None:
            value = _entered(cell.value)
            found.append((cell.path, label, cell.full, cell.native, value, "state"))
    return found


def _entered(value: Any) -> Any:
    """What stands in a data frame: a number, a choice, or a text."""
    if value is None or isinstance(value, (bool, str)):
        return value
    form = _form(value)
    number = None if form and form[0] else number_of(value)
    return short(value) if number is None else number
