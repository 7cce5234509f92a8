"""Graph → readable source: one function a pass, whatever the operations' spelling.

A target is a table of operations (`Target.code_for_op`) plus load and store; the loops stand here.
Values live in one of three places, by rank: the preamble of a chunk (numbers and one-a-tensor
values, in float64), the head of a row (float64) and the innermost body (the compute type ``T``).
"""

from __future__ import annotations

import keyword
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from pellucid.fuse.counter import ROUNDING
from pellucid.fuse.graph import Node, Rank
from pellucid.fuse.segment import (
    REDUCTIONS,
    Pass,
    Segmented,
    is_row_reduction,
    root_of_total,
    splits,
)
from pellucid.ops import TABLE
from pellucid.storage import NARROW, SIZES

__all__ = ["Layout", "Target", "emit_pass", "emit_scalars"]

ARGUMENTS = "first, last, chunks, table, rows, flags, dims, scalars, totals, partials, control"


@dataclass(frozen=True)
class Target:
    """How one target spells operations."""

    code_for_op: Mapping[str, str | Callable[..., str]]


@dataclass(frozen=True)
class Layout:
    """Which column of which table holds what a kernel reads: the same for all passes."""

    pointers: dict[tuple[str, str | None], int]  # (op, full name) → column of `table`
    storage: dict[int, str]  # column of `table` → dtype of what it points at
    scalars: dict[int, int]  # index of a scalar node → column of `scalars`
    totals: dict[int, int]  # index of a reduction → column of `totals`, or of `table` (columns)
    flags: dict[str, int]  # slot with a traced first value → bit


def identifier(name: str) -> str:
    """A Python name like ``name``."""
    clean = re.sub(r"\W", "_", name)
    helper = r"(at|load|pointer|store|put|load_words|store_words|words|word)_\d+"
    taken = keyword.iskeyword(clean) or re.fullmatch(helper, clean)
    return clean + "_" if taken or not clean.isidentifier() else clean


PREFETCHED = 192
"""Bytes that ``prefetch_lines`` fetches."""
ELEMENTS = ("param", "grad", "slot", "extra")
"""Leaves that lie in memory, one number an element or fewer."""


def exact(node: Node) -> bool:
    """Whether a value is one that its storage's type has."""
    return TABLE.get(node.op) is not None and TABLE[node.op].kind == "rounding"


def literal(value: float | bool) -> str:
    """A number as source that may stand beside any operator."""
    if math.isfinite(value):
        return repr(value) if math.copysign(1.0, value) > 0 else f"({value!r})"
    return "math.nan" if math.isnan(value) else "math.inf" if value > 0 else "(-math.inf)"


@dataclass
class _Names:
    """Gives each node a readable, unique name."""

    taken: dict[str, int] = field(default_factory=dict)
    given: dict[int, str] = field(default_factory=dict)

    def __getitem__(self, node: Node) -> str:
        if node.index not in self.given:
            self.given[node.index] = self.fresh(_wish(node))
        return self.given[node.index]

    def fresh(self, wish: str) -> str:
        count = self.taken.get(wish, 0)
        name = f"{wish}_{count}" if count else wish
        while count and name in self.taken:
            count += 1
            name = f"{wish}_{count}"
        self.taken[wish] = count + 1
        self.taken.setdefault(name, 1)
        return name


RESERVED = (
    *ARGUMENTS.split(", "),
    *["T", "c", "t", "r", "i", "j", "row", "base", "start", "count", "columns_", "at"],
    *["math", "float", "int", "abs", "min", "range"],
    *["add_in_any_order", "square_wide", "zero_bits", "bits_of_abs", "larger", "from_bits"],
    *["larger_or_nan", "uniform_at", "normal_at", "sign_of", "tensor_key", "key0", "key1"],
    *[f"{how}_{dtype}" for how in ("nearest", "randomly") for dtype in NARROW],
    *["prefetch_lines", "words_at", "lower", "upper", "paired", "paired_exact"],
)


def _wish(node: Node) -> str:
    if node.op in ("hyper", "slot", "extra"):
        return identifier(node.data)
    if node.op == "is_new":
        return identifier(f"new_{node.data}")
    if node.op == "shared":
        return identifier(node.data[1])
    if node.op == "size":
        return identifier(node.data)
    if node.op in ("param", "grad", "step"):
        return node.op
    return f"{node.op}_{node.index}" if keyword.iskeyword(node.op) else f"{node.op}{node.index}"


class PassWriter:
    """Writes the function of one pass."""

    def __init__(self, one: Pass, layout: Layout, target: Target) -> None:
        self.one, self.layout, self.target = one, layout, target
        self.names = _Names(dict.fromkeys(RESERVED, 1))
        self.cast: dict[int, str] = {}
        self.lines: list[str] = []
        self.indent = 1
        self.half = ""  # while two elements are computed side by side: which of them

    # -- text ------------------------------------------------------------------------------

    def write(self, text: str) -> None:
        self.lines.append("    " * self.indent + text)

    def expression(self, node: Node, name_of: Callable[[Node], str]) -> str:
        if TABLE[node.op].kind == "rounding":
            return self.rounding(node, name_of(node.args[0]))
        code = self.target.code_for_op[node.op]
        args = [name_of(arg) for arg in node.args]
        return code.format(*args) if isinstance(code, str) else code(*args)

    def rounding(self, node: Node, x: str) -> str:
        """A number of a 16-bit type, near to ``x``."""
        if node.op == "rounded":
            return f"nearest_{node.data}({x})"
        return f"randomly_{node.data}({x}, key0, key1, {self.element})"

    @property
    def element(self) -> str:
        """The place of an element in its tensor."""
        if self.half:
            return "start + 2 * i" + (" + 1" if self.half == "upper" else "")
        return "base + j" if self.one.by_row else "start + i"

    # -- preamble: numbers, and one value a tensor -----------------------------------------

    def wide(self, node: Node) -> str:
        """The name of a value in float64, in the preamble or at the head of a row."""
        return literal(node.data) if node.op == "const" else self.names[node]

    def narrow(self, node: Node) -> str:
        """The name of a value in the compute type, in the innermost body."""
        if node.boolean or node.rank in (Rank.ELEMENT, Rank.COLUMN):
            return self.wide(node) if node.op == "const" else self.names[node]
        return self.cast[node.index]

    def preamble(self) -> None:
        for node in self.one.nodes:
            if node.rank == Rank.SCALAR and node.op != "const":
                column = self.layout.scalars[node.index]
                code = f"scalars[r, {column}]" + (" != 0.0" if node.boolean else "")
                self.write(f"{self.names[node]} = {code}")
            elif node.rank == Rank.TENSOR:
                self.write(f"{self.names[node]} = {self.tensor_value(node)}")
            elif node.op == "rounded_randomly":
                step = f"int({self.names[node.args[1]]})"
                key = f"tensor_key(control[0], {ROUNDING}, dims[t, 3], {step})"
                self.write(f"key0, key1 = {key}")
        self.narrowed(lambda node: node.rank <= Rank.TENSOR)

    def tensor_value(self, node: Node) -> str:
        if splits(node):
            return f"totals[t, {self.layout.totals[node.index]}]"
        if node.op == "size":
            column = ("elements", "rows", "columns").index(node.data)
            return f"float(dims[t, {column}])"
        if node.op == "is_new":
            return f"(flags[t] & {1 << self.layout.flags[node.data]}) != 0"
        if node.op == "slot":
            return f"float(load_{self.column(node)}(at_{self.column(node)}, 0))"
        return self.expression(node, self.wide)

    def narrowed(self, chosen: Callable[[Node], bool]) -> None:
        """Bring into the compute type what the innermost body reads from further out."""
        for node in self.one.nodes:
            if not chosen(node) or node.boolean or not self._read_inside(node):
                continue
            name = self.names.fresh(f"{self.names[node]}_t" if node.op != "const" else "number")
            self.cast[node.index] = name
            self.write(f"{name} = T({self.wide(node)})")

    def _read_inside(self, node: Node) -> bool:
        inside = (Rank.ELEMENT, Rank.COLUMN)
        return any(
            arg is node
            for other in self.one.nodes
            if other.rank in inside and not splits(other)
            for arg in other.args
        ) or any(
            value is node and self._wide_store(name) for name, value in self.one.stores
        ) or any(
            reduction.args[0] is node for reduction in self.one.reductions
        )

    def _wide_store(self, name: str) -> bool:
        return True

    # -- pointers --------------------------------------------------------------------------

    def column(self, node: Node) -> int:
        if node.op in REDUCTIONS:
            return self.layout.totals[node.index]
        return self.layout.pointers[node.op, node.data]

    def target_column(self, name: str) -> int:
        key = ("param", None) if name == "param" else ("slot", name)
        return self.layout.pointers[key]

    def pointers(self) -> list[int]:
        """Columns of `table` that the pass reads or writes."""
        found = {
            self.column(node)
            for node in self.one.nodes
            if node.op in ("param", "grad", "slot")
            or (node.op == "extra" and node.rank == Rank.ELEMENT)
            or (splits(node) and node.rank == Rank.COLUMN)
        }
        found |= {self.target_column(name) for name, _ in self.one.stores}
        if self.one.kind == "columns":
            found |= {self.column(node) for node in self.one.reductions}
        return sorted(found)

    def open_pointers(self, moved: bool) -> None:
        names = {column: key for key, column in self.layout.pointers.items()}
        single = {
            self.column(node)
            for node in self.one.nodes
            if node.op == "slot" and node.rank == Rank.TENSOR
        }
        for column in self.pointers():
            key = names.get(column)
            note = f"  # {key[1] or key[0]}" if key else "  # a sum for each column"
            address = f"table[t, {column}]"
            if moved and column not in single:
                address += f" + start * {SIZES[self.layout.storage[column]]}"
            address += self.shift(column)
            self.write(f"at_{column} = pointer_{column}({address}){note}")

    def shift(self, column: int) -> str:
        """What moves a pointer to a gradient that has some rows only."""
        if column != self.layout.pointers["grad", None] or self.one.kind == "commit":
            return ""
        return f" + chunks[c, 3] * {SIZES[self.layout.storage[column]]}"

    # -- the innermost body ----------------------------------------------------------------

    def column_total(self, node: Node) -> str:
        """A sum over a column, in float64."""
        column = self.column(node)
        return f"load_{column}(at_{column}, j)"

    def loads(self, node: Node, index: str) -> str | None:
        """How an element or column leaf is read; None if the node is no leaf."""
        if node.op in ("param", "grad", "slot", "extra"):
            at = "j" if node.rank == Rank.COLUMN else index
            column = self.column(node)
            if self.half:
                return f"T({self.half}(word_{column}))"
            return f"T(load_{column}(at_{column}, {at}))"
        if splits(node) and node.rank == Rank.COLUMN:
            return f"T({self.column_total(node)})"
        if root_of_total(node):  # in float64: a sum of squares may be beyond float32
            return f"T({self.expression(node, self.column_total)})"
        if TABLE.get(node.op) and TABLE[node.op].kind == "random":
            stream = node.data[0] * 4096 + node.data[1]
            step = f"int({self.names[node.args[0]]})"
            return f"T({node.op}_at(control[0], {stream}, dims[t, 3], {step}, {self.element}))"
        return None

    def body(self, roots: list[Node], index: str) -> None:
        """All that the roots need of element and column rank; single uses are written inline."""
        inside = [n for n in self._needed(roots) if n.rank in (Rank.ELEMENT, Rank.COLUMN)]
        uses: dict[int, int] = {}
        for node in inside:
            for arg in node.args:
                uses[arg.index] = uses.get(arg.index, 0) + 1
        for root in roots:
            uses[root.index] = uses.get(root.index, 0) + 2
        text: dict[int, str] = {}
        for node in inside:
            load = self.loads(node, index)
            if load is not None:
                self.write(f"{self.names[node]} = {load}")
                continue
            if splits(node):
                continue
            code = self.expression(node, lambda arg: text.get(arg.index) or self.narrow(arg))
            if uses.get(node.index) == 1 and len(code) < 60 and node.op != "where":
                text[node.index] = code
            else:
                self.write(f"{self.names[node]} = {code}")

    def _needed(self, roots: list[Node]) -> list[Node]:
        seen: dict[int, Node] = {}
        stack = list(roots)
        while stack:
            node = stack.pop()
            if node.index not in seen:
                seen[node.index] = node
                if not splits(node) and not is_row_reduction(node):
                    stack.extend(node.args)
        return [seen[index] for index in sorted(seen)]

    # -- reductions ------------------------------------------------------------------------

    def start_of(self, node: Node) -> str:
        return "zero_bits(T(0.0))" if node.op == "max_abs" else "0.0"

    def accumulate(self, name: str, node: Node) -> None:
        self.accumulate_value(name, node, self.narrow(node.args[0]))

    def accumulate_value(self, name: str, node: Node, value: str) -> None:
        if node.op == "sum":
            self.write(f"{name} = add_in_any_order({name}, float({value}))")
        elif node.op == "sum_squares":
            self.write(f"{name} = add_in_any_order({name}, square_wide({value}))")
        else:
            self.write(f"{name} = larger({name}, bits_of_abs(T({value})))")

    def finished(self, name: str, node: Node) -> str:
        return f"from_bits({name})" if node.op == "max_abs" else name

    def row_head(self) -> None:
        """Row reductions of the pass, and values of row rank, in dependency order."""
        self.write("base = row * columns_")
        for node in self.one.nodes:
            if node.rank != Rank.ROW:
                continue
            if is_row_reduction(node):
                total = self.names.fresh("total")
                self.write(f"{total} = {self.start_of(node)}")
                self.write("for j in range(columns_):")
                self.indent += 1
                self.body([node.args[0]], "base + j")
                self.accumulate(total, node)
                self.indent -= 1
                self.write(f"{self.names[node]} = {self.finished(total, node)}")
            elif node.op == "slot":
                column = self.column(node)
                self.write(f"{self.names[node]} = float(load_{column}(at_{column}, row))")
            else:
                self.write(f"{self.names[node]} = {self.expression(node, self.wide)}")
            self.narrowed(lambda one, made=node: one is made)  # type: ignore[misc]

    # -- whole functions -------------------------------------------------------------------

    def function(self) -> str:
        getattr(self, f"_{self.one.kind}")()
        return "\n".join([f"def {self.one.kind}_{self.one.level}({ARGUMENTS}):", *self.lines, ""])

    def _chunk_head(self) -> None:
        self.write("for c in range(first, last):")
        self.indent += 1
        self._fetch()
        self.write("t = chunks[c, 0]")
        self.write("start = chunks[c, 1]")
        self.write("count = chunks[c, 2]")
        self.write("r = rows[t]")
        self.open_pointers(moved=not self.one.by_row)
        self.preamble()
        if self.one.by_row:
            self.write("columns_ = dims[t, 2]")

    def _fetch(self) -> None:
        """Fetch what a later chunk writes, where chunks are rows that lie anywhere."""
        written = [self.target_column(name) for name, rank in self._store_ranks().items()
                   if rank == Rank.ELEMENT and name in dict(self.one.stores)]
        if not written:
            return
        self.write("if control[1] > 0 and c + control[1] < last:")
        self.indent += 1
        self.write("t = chunks[c + control[1], 0]")
        width = " * dims[t, 2]" if self.one.by_row else ""
        self.write(f"start = chunks[c + control[1], 1]{width}")
        self.write(f"count = min(chunks[c + control[1], 2]{width}, 512)")
        for column in sorted(written):
            size = SIZES[self.layout.storage[column]]
            self.write(f"for i in range(0, count * {size}, {PREFETCHED}):")
            self.write(f"    prefetch_lines(table[t, {column}] + start * {size} + i)")
        self.indent -= 1

    def _loop(self, inner: Callable[[str], None]) -> None:
        """Walk over the chunk's elements, row by row where rows matter."""
        if not self.one.by_row:
            self.write("for i in range(count):")
            self.indent += 1
            inner("i")
            self.indent -= 1
            return
        self.write("for row in range(start, start + count):")
        self.indent += 1
        self.row_head()
        self.write("for j in range(columns_):")
        self.indent += 1
        inner("base + j")
        self.indent -= 2

    def _reduce(self) -> None:
        self._chunk_head()
        sums = {node.index: self.names.fresh("total") for node in self.one.reductions}
        for node in self.one.reductions:
            self.write(f"{sums[node.index]} = {self.start_of(node)}")
        wide = [n for n in self.one.reductions if n.args[0].rank == Rank.ELEMENT]
        others = [n for n in self.one.reductions if n.args[0].rank != Rank.ELEMENT]

        def inner(index: str) -> None:
            self.body([node.args[0] for node in wide], index)
            for node in wide:
                self.accumulate(sums[node.index], node)

        if wide or any(n.args[0].rank == Rank.ROW for n in others):
            self._reduce_rows(inner, sums, others) if self.one.by_row else self._loop(inner)
        self._reduce_small(sums, others)
        for position, node in enumerate(self.one.reductions):
            self.write(f"partials[c, {position}] = {self.finished(sums[node.index], node)}")

    def _reduce_rows(
        self, inner: Callable[[str], None], sums: dict[int, str], others: list[Node]
    ) -> None:
        self.write("for row in range(start, start + count):")
        self.indent += 1
        self.row_head()
        for node in others:
            if node.args[0].rank == Rank.ROW:
                self.accumulate_value(sums[node.index], node, self.wide(node.args[0]))
        self.write("for j in range(columns_):")
        self.indent += 1
        inner("base + j")
        self.write("pass")
        self.indent -= 2

    def _reduce_small(self, sums: dict[int, str], others: list[Node]) -> None:
        """Reductions of one value a column or a tensor: the tensor's first chunk adds them."""
        columns = [node for node in others if node.args[0].rank == Rank.COLUMN]
        single = [node for node in others if node.args[0].rank <= Rank.TENSOR]
        if not columns and not single:
            return
        self.write("if chunks[c, 4] != 0:")
        self.indent += 1
        for node in single:
            self.accumulate_value(sums[node.index], node, self.wide(node.args[0]))
        if columns:
            self.write("for j in range(columns_):")
            self.indent += 1
            self.body([node.args[0] for node in columns], "j")
            for node in columns:
                self.accumulate(sums[node.index], node)
            self.indent -= 1
        self.indent -= 1

    def _columns(self) -> None:
        self._chunk_head()
        own = {node.index: self.column(node) for node in self.one.reductions}
        self.write("for j in range(start, start + count):")
        for column in own.values():
            self.lines.append("    " * (self.indent + 1) + f"store_{column}(at_{column}, j, 0.0)")
        self.write("for row in range(dims[t, 1]):")
        self.indent += 1
        self.row_head()
        self.write("for j in range(start, start + count):")
        self.indent += 1
        self.body([node.args[0] for node in self.one.reductions], "base + j")
        for node in self.one.reductions:
            column, value = own[node.index], self.narrow(node.args[0])
            old = f"load_{column}(at_{column}, j)"
            new = {
                "sum": f"{old} + float({value})",
                "sum_squares": f"{old} + square_wide({value})",
                "max_abs": f"larger_or_nan({old}, abs(float({value})))",
            }[node.op]
            self.write(f"store_{column}(at_{column}, j, {new})")

    def _final(self) -> None:
        if not self.one.stores:
            self.write("pass")
            return
        self._chunk_head()
        ranks = self._store_ranks()
        wide = [(name, node) for name, node in self.one.stores if ranks[name] == Rank.ELEMENT]
        rows = [(name, node) for name, node in self.one.stores if ranks[name] == Rank.ROW]

        def inner(index: str) -> None:
            self.body([node for _, node in wide], index)
            for name, node in wide:
                column, how = self.target_column(name), "put" if exact(node) else "store"
                self.write(f"{how}_{column}(at_{column}, {index}, {self.narrow(node)})")
            if not wide:
                self.write("pass")

        if self._in_pairs():
            self._pairs(wide, inner)
            return
        if not self.one.by_row:
            self._loop(inner)
            return
        self._loop(inner)
        self.indent += 1
        for name, node in rows:
            column = self.target_column(name)
            self.write(f"store_{column}(at_{column}, row, {self.wide(node)})")
        self.indent -= 1

    def _in_pairs(self) -> bool:
        """Whether all that the pass reads and writes by element is bfloat16, side by side."""
        elements = [
            self.column(node)
            for node in self.one.nodes
            if node.op in ELEMENTS and node.rank == Rank.ELEMENT
        ]
        stored = [self.target_column(name) for name, _ in self.one.stores]
        random = any(TABLE[node.op].kind == "random" for node in self.one.nodes if node.op in TABLE)
        return not self.one.by_row and not random and all(
            self.layout.storage[column] == "bfloat16" for column in (*elements, *stored)
        )

    def _pairs(self, wide: list[tuple[str, Node]], inner: Callable[[str], None]) -> None:
        """Walk over the chunk's elements two at a time: no shuffles to widen and narrow them."""
        read = {
            self.column(node)
            for node in self.one.nodes
            if node.op in ELEMENTS and node.rank == Rank.ELEMENT
        }
        for column in sorted({*read, *(self.target_column(name) for name, _ in wide)}):
            address = f"table[t, {column}] + start * 2{self.shift(column)}"
            self.write(f"words_{column} = words_at({address})")
        self.write("for i in range(count // 2):")
        self.indent += 1
        for column in sorted(read):
            self.write(f"word_{column} = load_words_{column}(words_{column}, i)")
        kept = {}
        for self.half in ("lower", "upper"):
            self.body([node for _, node in wide], "i")
            if self.half == "lower":
                for name, node in wide:
                    kept[name] = self.names.fresh("first")
                    self.write(f"{kept[name]} = {self.narrow(node)}")
        self.half = ""
        for name, node in wide:
            column, how = self.target_column(name), "paired_exact" if exact(node) else "paired"
            pair = f"{how}(T({kept[name]}), T({self.narrow(node)}))"
            self.write(f"store_words_{column}(words_{column}, i, {pair})")
        self.indent -= 1
        self.write("for i in range(count // 2 * 2, count):")
        self.indent += 1
        inner("i")
        self.indent -= 1

    def _store_ranks(self) -> dict[str, Rank]:
        ranks = dict(self.one.store_ranks)
        ranks["param"] = Rank.ELEMENT
        return ranks

    def _commit(self) -> None:
        """Slots of one value a tensor or a column; here a chunk is a tensor."""
        self.write("for t in range(first, last):")
        self.indent += 1
        self.write("r = rows[t]")
        self.open_pointers(moved=False)
        self.preamble()
        if self.one.by_row:
            self.write("columns_ = dims[t, 2]")
        ranks = self._store_ranks()
        wide = [(name, node) for name, node in self.one.stores if ranks[name] == Rank.COLUMN]
        for name, node in self.one.stores:
            if ranks[name] == Rank.TENSOR:
                column = self.target_column(name)
                self.write(f"store_{column}(at_{column}, 0, {self.wide(node)})")
        if wide:
            self.write("for j in range(columns_):")
            self.indent += 1
            self.body([node for _, node in wide], "j")
            for name, node in wide:
                column = self.target_column(name)
                self.write(f"store_{column}(at_{column}, j, {self.narrow(node)})")


def emit_pass(one: Pass, layout: Layout, target: Target) -> str:
    """The source of one pass's function."""
    return PassWriter(one, layout, target).function()


def emit_scalars(segmented: Segmented, wanted: list[Node], target: Target, name: str) -> str:
    """The source of a host function that computes numbers of rank scalar, in float64.

    Its arguments are mappings from names to numbers, and the totals over all tensors by key.
    """
    names = _Names(dict.fromkeys(("hypers", "step", "shared", "extras", "sizes", "totals"), 1))
    names.taken["step"] = 0
    lines = [f"def {name}(hypers, step, shared, extras, sizes, totals):"]
    seen: dict[int, Node] = {}
    stack = list(wanted)
    while stack:
        node = stack.pop()
        if node.index not in seen:
            seen[node.index] = node
            if not splits(node):
                stack.extend(node.args)
    leaves = {
        "hyper": "hypers[{0!r}]",
        "extra": "extras[{0!r}]",
        "shared": "shared[{0!r}]",
        "size": "sizes[{0!r}]",
    }
    for index in sorted(seen):
        node = seen[index]
        if node.op in ("const", "step"):
            names.given[index] = literal(node.data) if node.op == "const" else "step"
        elif node.op in leaves:
            lines.append(f"    {names[node]} = {leaves[node.op].format(node.data)}")
        elif splits(node):
            lines.append(f"    {names[node]} = totals[{node.op!r}, {node.data[1]!r}]")
        else:
            code = target.code_for_op[node.op]
            args = [names[arg] for arg in node.args]
            text = code.format(*args) if isinstance(code, str) else code(*args)
            lines.append(f"    {names[node]} = {text}")
    inside = ", ".join(names[node] for node in wanted)
    lines.append(f"    return ({inside}{',' if wanted else ''})")
    return "\n".join([*lines, ""])
