"""The variables that a Keras optimizer updates, and its state of each by name."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from pellucid.access.keras_settings import Leaf, is_variable, keras, own_settings
from pellucid.access.sources import Cell

__all__ = ["State", "begin_anew", "cell", "path_of", "put_into", "state_of"]

ZERO = frozenset(
    ["momentum", "velocity", "velocity_hat", "norm", "average_gradient", "accumulated_grad",
     "accumulated_delta_var", "linear", "gradient_accumulator", "r", "c"]
)  # fmt: skip
"""Slots that begin at zero in every class of Keras that has them, but ScheduleFreeAdamW."""


def path_of(variable: Any) -> str:
    """A variable's name: ``dense/kernel``."""
    path = getattr(variable, "path", None)
    return str(path) if path is not None else str(variable.name).partition(":")[0]


def _prefix(variable: Any) -> str:
    """What Keras puts before the name of a variable's slot."""
    if hasattr(variable, "path"):
        return f"{variable.path.replace('/', '_')}_"
    return str(variable.name).replace("/", "_").replace(":", "_") + "_"


@dataclass(frozen=True)
class State:
    """An optimizer's state: of each variable, by native name, and of all of them."""

    slots: Sequence[dict[str, Any]]
    shared: dict[str, Any]


def state_of(leaf: Leaf) -> State:
    """Each list of Variables beside the list of those that are trained is a slot."""
    optimizer = leaf.optimizer
    trained = list(getattr(optimizer, "_trainable_variables", ()))
    slots: list[dict[str, Any]] = [{} for _ in trained]
    known = {id(one) for one in trained}
    if hasattr(optimizer, "get_slot_names"):  # the API of before Keras 3
        for own, one in zip(slots, trained, strict=True):
            own.update(optimizer._slots.get(optimizer._var_key(one), {}))
            known.update(map(id, own.values()))
    for attribute, held in _lists(optimizer, len(trained), known):
        native = _native(attribute, held, trained)
        for own, one in zip(slots, held, strict=True):
            if one is not None:
                own[native] = one
                known.add(id(one))
    known |= {id(optimizer._learning_rate)} if hasattr(optimizer, "_learning_rate") else set()
    known |= {id(one.raw) for one in own_settings(optimizer).values()}
    shared = {}
    for one in optimizer._variables:
        if id(one) not in known:
            place = _owner_by_name(one, trained)
            if place is None:
                shared[_shared_name(optimizer, one)] = one
            else:
                slots[place][str(one.name)[len(_prefix(trained[place])) :]] = one
    return State(slots, shared)


def _lists(optimizer: Any, count: int, trained: set[int]) -> Iterator[tuple[str, list[Any]]]:
    for attribute, value in vars(optimizer).items():
        if attribute in ("_variables", "_trainable_variables") or not count:
            continue
        if not isinstance(value, (list, tuple)) or len(value) != count:
            continue
        there = [one for one in value if one is not None]
        if there and all(is_variable(one) and id(one) not in trained for one in there):
            yield attribute, [*value]


def _native(attribute: str, held: Sequence[Any], trained: Sequence[Any]) -> str:
    """What the class calls a slot: the end of its variables' names, else the list's own name."""
    one, of = next((a, b) for a, b in zip(held, trained, strict=True) if a is not None)
    name, prefix = str(one.name), _prefix(of)
    return name[len(prefix) :] if name.startswith(prefix) else attribute.strip("_")


def _owner_by_name(variable: Any, trained: Sequence[Any]) -> int | None:
    """The trained variable whose name stands before that of a piece of state."""
    name = str(variable.name)
    fits = [n for n, one in enumerate(trained) if name.startswith(_prefix(one))]
    return max(fits, key=lambda n: len(_prefix(trained[n])), default=None)


def _shared_name(optimizer: Any, variable: Any) -> str:
    if variable is optimizer._iterations:
        return "iteration"
    names = [name for name, value in vars(optimizer).items() if value is variable]
    return names[0].strip("_") if names else str(variable.name)


def cell(owner: str, full: str, native: str, variable: Any, source: Any) -> Cell:
    return Cell(owner, full, native, variable, "", partial(put_into, source, variable))


def put_into(source: Any, variable: Any, value: Any) -> None:
    """Write a checked number or array into a Variable."""
    source.synchronise()
    ops = keras().ops
    if not hasattr(value, "shape"):
        value = ops.full(variable.shape, value, dtype=variable.dtype)
    variable.assign(value.value if is_variable(value) else value)


def first_value(optimizer: Any, native: str, trained: Any) -> Any:
    """What a slot begins with, in Keras's own classes; a ValueError where it is not known."""
    from pellucid.access.keras_allowed import is_keras

    builder = next(base for base in type(optimizer).__mro__ if "build" in vars(base))
    kind = builder.__name__
    if is_keras(builder):
        if native == "accumulator":
            return optimizer.initial_accumulator_value
        if kind == "ScheduleFreeAdamW" and native == "momentum":
            return trained
        if native in ZERO:
            return 0.0
    raise ValueError(
        f"{path_of(trained)}/{native}: how {type(optimizer).__name__} begins {native!r} is not "
        f"known here: assign to view.state['{path_of(trained)}/{native}']"
    )


def begin_anew(source: Any, wanted: Sequence[tuple[Any, str, Any, Any]]) -> None:
    """Write first values into slots: (optimizer, native name, Variable, trained variable)."""
    values = [first_value(leaf, native, trained) for leaf, native, _, trained in wanted]
    for (_, _, variable, _), value in zip(wanted, values, strict=True):
        put_into(source, variable, value)
