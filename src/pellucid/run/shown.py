"""Records and nested values as trees, in the terminal and in notebooks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pellucid.access.tree import Node, Tree

if TYPE_CHECKING:
    from pellucid.run.record import Entry, Record, Values

__all__ = ["tree_of_record", "tree_of_values", "value_text"]

LONGEST = 72
"""Of a value's text."""

SHOWN, ENDS = 60, 20
"""Children of a node that are shown all; of more, so many from the start."""


def value_text(value: Any) -> str:
    """A value in one short line."""
    if isinstance(value, str):
        text = value
    elif isinstance(value, Mapping):
        text = ", ".join(f"{key} {value_text(one)}" for key, one in value.items()) or "{}"
    elif isinstance(value, list):
        text = "[" + ", ".join(map(value_text, value)) + "]"
    else:
        text = format(value, ".10g") if isinstance(value, float) else str(value)
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def tree_of_values(values: Values, title: str = "hyperparameters") -> Tree:
    """Nested values as a tree."""
    return Tree(_node(title, values, {}, ""))


def tree_of_record(record: Record) -> Tree:
    """A record as a tree, each value with its provenance, unless it was observed."""
    root = _node("record", record.tree, record.entries, "")
    root.text = f"of {record.created}" if record.created else ""
    if record.missing:
        lost = [Node(one.path, one.why) for one in record.missing]
        root.children.append(Node(f"not captured: {len(lost)}", children=_some(lost)))
    return Tree(root)


def _node(name: str, values: Values, entries: Mapping[str, Entry], path: str) -> Node:
    children = []
    for key, value in values.items():
        here = f"{path}/{key}" if path and key else path or key
        if hasattr(value, "to_dict"):
            children.append(_node(key, value, entries, here))
            continue
        entry = entries.get(here)
        told = entry is not None and entry.provenance != "observed"
        note = f"  ({entry.provenance})" if entry is not None and told else ""
        children.append(Node(key or "·", value_text(value) + note))
    return Node(name, children=_some(children))


def _some(nodes: list[Node]) -> list[Node]:
    if len(nodes) <= SHOWN:
        return nodes
    return [*nodes[:ENDS], Node("...", f"and {len(nodes) - ENDS} more")]
