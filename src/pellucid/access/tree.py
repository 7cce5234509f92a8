"""A view as a tree: optimizer, groups, parameters, slots."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.text import Text
from rich.tree import Tree as RichTree

from pellucid.access.plain import common_prefix, counted, short, unindexed
from pellucid.access.render import escaped, html_block, setting, words
from pellucid.access.sources import Cell, Group, Owner, Source
from pellucid.drawn import Drawn

__all__ = ["Node", "Tree", "folded", "tree_of"]


@dataclass
class Node:
    """One line of a tree, and what stands below it."""

    name: str
    text: str = ""
    children: list[Node] = field(default_factory=list)


class Tree(Drawn):
    """What `View.tree` gives: the optimizer as it was then. Print it, or show it in a notebook."""

    def __init__(self, root: Node) -> None:
        self.root = root

    def _repr_html_(self) -> str:
        return html_block(_html(self.root))

    def _draw(self, width: int, ascii_only: bool) -> RichTree:
        return _grown(self.root, ascii_only, None)


def _grown(node: Node, ascii_only: bool, parent: RichTree | None) -> RichTree:
    name = words(node.name, ascii_only, "bold" if node.children else "")
    gap = "  " if node.name and node.text else ""
    label = Text.assemble(name, words(gap + node.text, ascii_only))
    grown = RichTree(label) if parent is None else parent.add(label)
    for child in node.children:
        _grown(child, ascii_only, grown)
    return grown


def _html(node: Node) -> str:
    label = f"<b>{escaped(node.name)}</b> " * bool(node.name) + escaped(node.text)
    if not node.children:
        return f'<div style="margin-left: 1em">{label}</div>'
    inside = "".join(map(_html, node.children))
    return f'<details open style="margin-left: 1em"><summary>{label}</summary>{inside}</details>'


# -- what stands in it -------------------------------------------------------------------------


def tree_of(source: Source, depth: int | None, slots: bool, limit: int | None) -> Tree:
    """The tree; see `View.tree`."""
    for name, value, least in (("depth", depth, 0), ("limit", limit, 1)):
        if value is not None and (type(value) is not int or value < least):
            raise ValueError(f"{name} is {value!r}; allowed is a whole number from {least} or None")
    deepest = 3 if depth is None else depth
    root = Node(source.name, f"{source.title}, {counted(source.updates, 'update')}")
    if deepest < 1:
        return Tree(root)
    groups, owners = source.groups(), source.owners() if deepest > 1 else ()
    by_group: dict[int, list[Owner]] = {}
    for owner in owners:
        by_group.setdefault(owner.group, []).append(owner)
    most = len(groups) if limit is None or len(groups) <= limit else limit - 1
    for group in groups[:most]:
        below = _Parameters(source, slots and deepest > 2, limit)
        nodes = below.nodes(by_group.get(group.index, ()))
        root.children.append(_group(group, nodes))
    if rest := groups[most:]:
        count = sum(len(group.members) for group in rest)
        more = f"{counted(count, 'parameter')} ({sum(group.size for group in rest):,} numbers)"
        root.children.append(Node(f"… {counted(len(rest), 'more group')}:", more))
    if slots:
        root.children += _slots(source.shared_cells())
    return Tree(root)


def _group(group: Group, parameters: list[Node]) -> Node:
    settings = [f"{full} {setting(group, full)}" for full in group.names.places]
    counts = f"{group.rule}, {counted(len(group.members), 'parameter')} ({group.size:,} numbers)"
    return Node(group.name, counts, [Node("", ", ".join(settings)), *parameters])


def _slots(cells: Sequence[Cell]) -> list[Node]:
    """What exists of them; the entries of a list are one line."""
    present = {cell.full: cell for cell in cells if cell.value is not None}
    found = []
    for name, inside in unindexed(present).items():
        cell = present[inside[0]]
        native = f" ({cell.native})" if cell.native != cell.full and len(inside) == 1 else ""
        times = f"{len(inside)} × " if len(inside) > 1 else ""
        found.append(Node(f"{name}{native}", f"{times}{short(cell.value)}"))
    return found


@dataclass(frozen=True)
class _Parameters:
    """How a group's parameters are shown."""

    source: Source
    slots: bool
    limit: int | None

    def nodes(self, owners: Sequence[Owner]) -> list[Node]:
        if self.limit is None or len(owners) <= self.limit:
            return [self._single(owner) for owner in owners]
        by_label = {owner.label: owner for owner in owners}
        lines = list(folded(list(by_label), self.limit))
        most = len(lines) if len(lines) <= self.limit else self.limit - 1
        found = [self._line(prefix, [by_label[one] for one in inside])
                 for prefix, inside in lines[:most]]  # fmt: skip
        if rest := [by_label[one] for _, inside in lines[most:] for one in inside]:
            found.append(Node(f"… {counted(len(rest), 'more parameter')}", self._size(rest)))
        return found

    def _line(self, prefix: str, owners: Sequence[Owner]) -> Node:
        if len(owners) == 1:
            return self._single(owners[0])
        return Node(f"{prefix}*:", f"{counted(len(owners), 'parameter')} {self._size(owners)}")

    def _single(self, owner: Owner) -> Node:
        cells = self.source.cells(owner) if self.slots else ()
        return Node(owner.label, _described(self.source.array(owner)), _slots(cells))

    def _size(self, owners: Sequence[Owner]) -> str:
        try:
            sizes = [_size(self.source.array(owner)) for owner in owners]
        except Exception:  # lazy parameters, that have no shape yet
            return ""
        return f"({sum(sizes):,} numbers)"


def _size(array: Any) -> int:
    size = 1
    for extent in array.shape:
        size *= int(extent)
    return size


def _described(array: Any) -> str:
    """Shape and dtype, also of a single number: a parameter's value is no news."""
    try:
        return f"{tuple(map(int, array.shape))} {str(array.dtype).rpartition('.')[2]}"
    except Exception:
        return short(array)


# -- many names --------------------------------------------------------------------------------


def folded(names: Sequence[str], limit: int) -> Iterator[tuple[str, list[str]]]:
    """Names by common prefix: the finest lines that are not more than ``limit``, if there are.

    Each line is a prefix that ends with a dot, and the names that begin with it.

    >>> list(folded(["a.x.weight", "a.x.bias", "b"], 2))
    [('a.x.', ['a.x.weight', 'a.x.bias']), ('b', ['b'])]
    """
    lines = _divided("", list(names))
    grows = True
    while grows:
        grows, finer = False, []
        more = len(lines)  # what there would be
        for prefix, inside in lines:
            parts = _divided(prefix, inside) if len(inside) > 1 else []
            if parts and more + len(parts) - 1 <= limit:
                more += len(parts) - 1
                finer += parts
                grows = True
            else:
                finer.append((prefix, inside))
        lines = finer
    yield from ((_common(prefix, inside), inside) for prefix, inside in lines)


def _common(prefix: str, names: list[str]) -> str:
    """The longest prefix of all names that ends with a dot; a single name is its own."""
    if len(names) == 1:
        return names[0]
    return max(prefix, common_prefix(names), key=len)


def _divided(prefix: str, names: list[str]) -> list[tuple[str, list[str]]]:
    """The next part of the names' paths; parts that all have in common are one."""
    while True:
        found: dict[str, list[str]] = {}
        for name in names:
            head, dot, _ = name[len(prefix) :].partition(".")
            found.setdefault(prefix + head + dot, []).append(name)
        (first, inside), *others = found.items()
        if others or len(inside) == 1:
            return list(found.items())
        if first == prefix or not first.endswith("."):  # all have the same name
            return [(name, [name]) for name in names]
        prefix = first
