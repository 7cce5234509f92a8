"""Which updates can leave out the rows of a parameter that have no gradient.

An update of some rows equals the update of these rows within the whole if it moves each row by
that row's own values alone. What it reduces over more than a row must then get nothing from rows
whose gradient is zero: a gradient's norm does not, a parameter's would.
"""

from __future__ import annotations

from functools import lru_cache

from pellucid.declare import Ref
from pellucid.fuse.bounds import ZERO, bounds_of
from pellucid.fuse.graph import Rank
from pellucid.fuse.program import Program
from pellucid.fuse.segment import REDUCTIONS
from pellucid.ops import TABLE, RuleError

__all__ = ["check_program", "obstacle"]


def check_program(
    program: Program, name: str, in_place: bool = False, mode: str = "lazy"
) -> None:
    """See that a program can update some rows of the parameter of this name.

    Args:
        in_place: the rows stay where they are, so that each knows its place and its tensor's size.
        mode: the choice of ``sparse`` that the user made.

    Raises:
        RuleError: it needs the others, too.
    """
    found = obstacle(program, in_place)
    if found:
        raise RuleError(
            f"sparse={mode!r} reads and moves only the rows of {name!r} that have a gradient, and "
            f"the update {found}: use sparse='dense', or route {name!r} to a rule without that"
        )


@lru_cache(512)
def obstacle(program: Program, in_place: bool) -> str:
    """What an update of some rows cannot do, in words; "" where there is nothing."""
    for full, kind in program.variant.slots:
        if kind == "column":
            return f"has {full!r}, a slot of one number for each column, made from all rows"
        init = program.pipeline.slots[full][1].init
        known = in_place and (not callable(init) or isinstance(init, Ref))
        if kind in ("param", "row") and program.asks_new(full) and not known:
            return f"forms the first value of {full!r} from a row's first gradient or value"
    bounds = bounds_of(program.pipeline, program.segmented.nodes)
    for node in program.segmented.nodes:
        row = TABLE.get(node.op)
        if row is not None and row.kind == "random" and not in_place:
            return "draws random numbers, whose place in the tensor counts"
        if node.op == "size" and not in_place and node.data not in ("columns", "tensors"):
            return f"asks how many {node.data} there are"
        if node.op in REDUCTIONS and node.data[0] == "column" and in_place:
            return "reduces over columns"
        if node.op in REDUCTIONS and node.data[0] != "row":
            (argument,) = node.args
            if argument.rank in (Rank.ROW, Rank.ELEMENT) and bounds[argument.index] != ZERO:
                return (
                    f"reduces over {_PLACES[node.data[0]]} what rows without a gradient take "
                    "part in"
                )
    return ""


_PLACES = {"tensor": "the tensor", "column": "columns", "all": "all tensors"}
