"""A view as plain JSON data."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pellucid.access.sources import Cell, Group, Source
from pellucid.declare import plain_value

__all__ = ["plain"]


def plain(source: Source, cells: Iterable[Cell]) -> dict[str, Any]:
    """Everything that a view shows; of arrays their shapes and dtypes."""
    return {
        "optimizer": source.name,
        "stage": source.title,
        "updates": source.updates,
        "groups": [_group(group) for group in source.groups()],
        "state": {cell.path: _array(cell.value) for cell in cells},
        "journal": source.journal.to_list(),
    }


def _group(group: Group) -> dict[str, Any]:
    drivers = {full: group.driver(full) for full in group.names.places}
    return {
        "name": group.name,
        "rule": group.rule,
        "parameters": list(group.members),
        "size": group.size,
        "values": {full: group.value(full) for full in group.names.places},
        "native": {full: group.names.native(full) for full in group.names.places},
        "schedules": {
            full: _driver(driver, f"{group.name}/{full}")
            for full, driver in drivers.items()
            if driver is not None
        },
    }


def _driver(driver: Any, where: str) -> Any:
    try:
        return plain_value(driver, where)
    except ValueError:  # a lambda has no configuration
        return {"repr": repr(driver)}


def _array(value: Any) -> Any:
    if not hasattr(value, "dtype"):
        return value
    return {"shape": list(value.shape), "dtype": str(value.dtype).rpartition(".")[2]}
