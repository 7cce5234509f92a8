"""Records and nested values as trees in the terminal and in notebooks."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.text import Text
from rich.tree import Tree

from pellucid.run.record import Entry, Record, Values

__all__ = ["html_of", "text_of", "tree_of_record", "tree_of_values", "value_text"]

WIDTH = 100
LONGEST = 72
MARKS = {"observed": "", "declared": "declared", "default": "default", "unknown": "unknown"}


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
    root = Tree(Text(title, style="bold"))
    _grow(root, values, {}, "")
    return root


def tree_of_record(record: Record) -> Tree:
    """A record as a tree, each value with its provenance, unless it was observed."""
    root = Tree(Text("record" + (f" of {record.created}" if record.created else ""), style="bold"))
    _grow(root, record.tree, record.entries, "")
    if record.missing:
        lost = root.add(Text(f"not captured: {len(record.missing)}", style="yellow"))
        for one in record.missing:
            lost.add(Text.assemble(one.path, (f"  {one.why}", "dim")))
    return root


def _grow(parent: Tree, values: Values, entries: Mapping[str, Entry], path: str) -> None:
    for key, value in values.items():
        here = f"{path}/{key}" if path and key else path or key
        if isinstance(value, Values):
            _grow(parent.add(Text(key, style="bold")), value, entries, here)
            continue
        line = Text.assemble(f"{key or '·'}  ", (value_text(value), "cyan"))
        entry = entries.get(here)
        if entry is not None and MARKS[entry.provenance]:
            line.append(f"  ({MARKS[entry.provenance]})", style="dim")
        parent.add(line)


def text_of(tree: Tree) -> str:
    """A tree as text without color."""
    console = Console(width=WIDTH, file=io.StringIO(), color_system=None)
    console.print(tree)
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    return "\n".join(line.rstrip() for line in lines)


def html_of(tree: Tree) -> str:
    """A tree as HTML, for notebooks."""
    console = Console(width=WIDTH, file=io.StringIO(), record=True, force_jupyter=False)
    console.print(tree)
    return console.export_html(inline_styles=True, code_format="<pre>{code}</pre>")
