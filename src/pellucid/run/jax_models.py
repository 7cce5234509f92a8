"""What models of flax (nnx and linen) and equinox tell of themselves."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from pellucid.run.constructors import Found, Reading, find_arguments
from pellucid.run.plain import class_name, is_array
from pellucid.run.record import Findings

__all__ = ["find_equinox_model", "find_linen_model", "find_nnx_model"]


def _own(kind: type) -> bool:
    return kind.__module__.partition(".")[0] in ("flax", "equinox")


_NNX = Reading(
    frozenset({
        "rngs", "kernel_metadata", "bias_metadata", "scale_metadata", "embedding_metadata",
        "promote_dtype", "dot_general", "conv_general_dilated", "dot_general_cls",
    }),
    _own,
)  # fmt: skip
_EQUINOX = Reading(frozenset({"key", "dtype"}), _own)
_LINEN = Reading(frozenset({"parent", "name"}), _own, passed=frozenset({"parent", "name"}))


class _Kind(NamedTuple):
    """What a framework's tree is made of."""

    module: str  # the base class of modules
    package: str
    skipped: str  # modules of it that are no layers
    variable: str  # the base class of what holds an array; empty if arrays are held as they are
    learned: str  # of these, what is learned
    containers: frozenset[str]


_NNX_TREE = _Kind(
    "Pytree Object", "flax", "flax.nnx.rnglib", "Variable", "Param", frozenset({"List", "Dict"})
)
_EQUINOX_TREE = _Kind("Module", "equinox", "equinox._grad", "", "", frozenset())


def _is_a(value: Any, names: str, package: str) -> bool:
    wanted = names.split()
    return any(
        base.__name__ in wanted and base.__module__.partition(".")[0] == package
        for base in type(value).__mro__
    )


def find_nnx_model(findings: Findings, model: Any) -> Found:
    """Write what a flax nnx module has; gives its own arguments."""
    return _find(findings, model, _NNX, _NNX_TREE)


def find_equinox_model(findings: Findings, model: Any) -> Found:
    """Write what an equinox module has; gives its own arguments."""
    return _find(findings, model, _EQUINOX, _EQUINOX_TREE)


def find_linen_model(findings: Findings, model: Any) -> Found:
    """Write what a linen module has: its fields; it holds no parameters, and layers only bound."""
    why = "a linen module holds none: its parameters are in the variables that init gives"
    findings.miss("parameters", why)
    findings.miss("layers", "a linen module makes its layers only while it is applied")
    return find_arguments(findings.at("arguments"), model, "", _LINEN)


def _find(findings: Findings, model: Any, reading: Reading, tree: _Kind) -> Found:
    found = find_arguments(findings.at("arguments"), model, "", reading)
    everything: dict[int, tuple[Any, bool]] = {}
    for path, layer, same, arrays in _walk(model, tree):
        everything.update((id(one), (one, learns)) for one, learns in arrays)
        here = f"layers/{path}"
        if not path:
            continue
        if same is not None:
            findings.add(f"{here}/same_as", same or "(the model itself)")
            continue
        findings.add(f"{here}/class", class_name(layer))
        find_arguments(findings, layer, here, reading)
        if arrays:
            _count(findings, f"{here}/", arrays)
    _count(findings, "", list(everything.values()), trainable=True)
    return found


Arrays = list[tuple[Any, bool]]


def _walk(model: Any, tree: _Kind) -> Iterator[tuple[str, Any, str | None, Arrays]]:
    """Each module with its path and own arrays, in order; one that was there, where it was."""
    seen: dict[int, str] = {}
    waiting: list[tuple[str, Any]] = [("", model)]
    while waiting:
        path, one = waiting.pop()
        if id(one) in seen:
            yield path, one, seen[id(one)], []
            continue
        seen[id(one)] = path
        arrays: Arrays = []
        inner: list[tuple[str, Any]] = []
        _sort(_attributes(one), path, tree, arrays, inner, set())
        yield path, one, None, arrays
        waiting += reversed(inner)


def _attributes(one: Any) -> Iterable[tuple[str, Any]]:
    return [(key, value) for key, value in vars(one).items() if not key.startswith("_")]


def _sort(
    items: Iterable[tuple[str, Any]],
    path: str,
    tree: _Kind,
    arrays: Arrays,
    inner: list[tuple[str, Any]],
    open_: set[int],
) -> None:
    """Tell arrays from modules, also of those in lists and mappings."""
    for key, value in items:
        here = f"{path}.{key}" if path else key
        held: Iterable[tuple[str, Any]] | None = None
        if isinstance(value, Mapping):
            held = [(str(name), one) for name, one in value.items()]
        elif isinstance(value, (list, tuple)):
            held = [(str(number), one) for number, one in enumerate(value)]
        elif tree.variable and _is_a(value, tree.variable, tree.package):
            if _is_a(value, tree.learned, tree.package):
                arrays.append((value.get_value(), True))
        elif _is_a(value, tree.module, tree.package):
            if type(value).__module__ == tree.skipped:
                continue
            if type(value).__name__ in tree.containers:
                held = _attributes(value)
            else:
                inner.append((here, value))
        elif not tree.variable and is_array(value):
            arrays.append((value, _is_inexact(value)))
        if held is not None and id(value) not in open_:
            _sort(held, here, tree, arrays, inner, open_ | {id(value)})


def _is_inexact(value: Any) -> bool:
    return str(value.dtype).startswith(("float", "bfloat", "complex"))


def _count(findings: Findings, prefix: str, arrays: Arrays, trainable: bool = False) -> None:
    """Write how many numbers arrays have, all and by dtype."""
    dtypes: dict[str, int] = {}
    for one, _ in arrays:
        dtypes[str(one.dtype)] = dtypes.get(str(one.dtype), 0) + math.prod(one.shape)
    findings.add(f"{prefix}parameters", sum(dtypes.values()))
    if trainable:
        learned = sum(math.prod(one.shape) for one, learns in arrays if learns)
        findings.add(f"{prefix}trainable", learned)
    findings.add(f"{prefix}dtypes", dtypes)
