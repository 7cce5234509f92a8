"""How parameters and state lie in memory, and what an update does with gradients of some rows.

Arithmetic is in float32 (float64 for float64 parameters) whatever the storage.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from pellucid.declare import Slot

__all__ = [
    "CLOCK", "COMPENSATION", "NARROW", "PLAIN", "SEEN", "SIZES", "Storage", "compute_type",
    "slot_dtype",
]  # fmt: skip

NARROW = ("bfloat16", "float16")
"""Types that are stored and never computed in."""
SIZES = {"float32": 4, "float64": 8, "int64": 8, "bfloat16": 2, "float16": 2}
"""Bytes of an element."""
COMPENSATION = "compensation"
"""The slot of Kahan's rounding: what the last rounding of a parameter lost."""
CLOCK, SEEN = ":clock", ":seen"
"""Endings of the slots that count what a row of a slot has missed: no stage's names end so."""

CHOICES: dict[str, tuple[str, ...]] = {
    "rounding": ("nearest", "stochastic", "kahan"),
    "state_dtype": ("float32", "bfloat16", "param"),
    "sparse": ("dense", "lazy", "catch_up"),
}


@dataclass(frozen=True)
class Storage:
    """Three choices of an optimizer.

    ``rounding``: how 16-bit parameters are rounded. ``"nearest"``; ``"stochastic"``: up or down
    with the probability that keeps the mean, from the optimizer's seed, the step and the
    element's place; ``"kahan"``: what a rounding loses is kept in a slot of the parameter's type
    and added before the next update (Kahan 1965).

    ``state_dtype``: of new slots of the parameter's shape. ``"float32"``: float32, or the
    parameter's type if that is wider; ``"bfloat16"``; ``"param"``: the parameter's. Smaller
    slots are never below float32.

    ``sparse``: what a gradient of some rows means. ``"dense"``: the numbers of a dense gradient;
    ``"lazy"``: only rows with a gradient are touched; ``"catch_up"``: and their slots first decay
    by what they missed.
    """

    rounding: str = "nearest"
    state_dtype: str = "float32"
    sparse: str = "dense"

    def __post_init__(self) -> None:
        for field in fields(self):
            value, allowed = getattr(self, field.name), CHOICES[field.name]
            if value not in allowed:
                listed = ", ".join(map(repr, allowed))
                raise ValueError(f"{field.name} is {value!r}; allowed is one of {listed}")

    def companions(self, slots: dict[str, tuple[Any, Slot]], owner: Any) -> dict[str, Any]:
        """Slots that these choices add to those of a pipeline, by full name.

        Args:
            slots: the pipeline's own: (stage, declaration) by full name.
            owner: the stage that the others belong to.

        Raises:
            ValueError: the pipeline has a slot of such a name itself.
        """
        made: dict[str, Any] = {}
        if self.rounding == "kahan" and COMPENSATION in slots:
            raise ValueError(
                f"rounding='kahan' keeps a slot {COMPENSATION!r}, and {type(owner).__name__} has "
                "one of that name: rename it, or use 'nearest' or 'stochastic'"
            )
        if self.rounding == "kahan":
            made[COMPENSATION] = owner, _slot(COMPENSATION, "param", "param", _LOST)
        for full, (stage, declared) in slots.items() if self.sparse == "catch_up" else ():
            if declared.scope == "parameter" and declared.shape not in ("scalar", "column"):
                made[full + CLOCK] = stage, _slot(full + CLOCK, "scalar", "float64", _DECAYED)
                made[full + SEEN] = stage, _slot(full + SEEN, "row", "float64", _SEEN)
        return made


PLAIN = Storage()
"""As an optimizer has it that was told nothing."""

_LOST = "What the last rounding of the parameter lost."
_DECAYED = "The logarithm of the product of all decays of the slot so far."
_SEEN = "The same, as it was when a row was last updated."


def _slot(name: str, shape: Any, dtype: str, doc: str) -> Slot:
    made = Slot(0.0, shape, dtype, None, "parameter", doc)
    made.name = name
    return made


def compute_type(stored: str) -> str:
    """The type that an update of a parameter of this type computes in."""
    return "float64" if stored == "float64" else "float32"


def slot_dtype(declared: Slot, kind: str, param: str, storage: Storage) -> str | None:
    """The type of a new slot; None: what the framework gives its own.

    Args:
        declared: the slot.
        kind: its shape: ``"param"``, ``"row"``, ``"column"`` or ``"scalar"``.
        param: the type of its parameter.
        storage: the optimizer's choices.
    """
    if declared.dtype is not None:
        return param if declared.dtype == "param" else declared.dtype
    if kind == "scalar":
        return None
    if kind == "param" and storage.state_dtype == "bfloat16":
        return "bfloat16"
    if kind == "param" and storage.state_dtype == "param":
        return None
    return "float32" if param in NARROW else None
