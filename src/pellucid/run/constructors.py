"""The arguments that an object was constructed with, from wherever they can be told."""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from pellucid.access.plain import number_of
from pellucid.run.capturing import MODULES, Arguments, arguments_of, is_kept, is_module, is_same
from pellucid.run.constructed import is_setting
from pellucid.run.plain import class_name, is_array, is_secret
from pellucid.run.record import Findings, Provenance

__all__ = [
    "NOTHING", "Found", "Parameter", "Reading", "add_arguments", "find_arguments", "parameters_of",
]  # fmt: skip

NOTHING: Any = inspect.Parameter.empty


class Parameter(NamedTuple):
    """A parameter of a constructor."""

    name: str
    default: Any
    positional: bool  # and only so
    rest: bool  # *args
    truth: bool  # True or False by default


_PARAMETERS: weakref.WeakKeyDictionary[type, tuple[Parameter, ...]] = weakref.WeakKeyDictionary()
_BASES = {"Module", "Layer", "Model", "Pytree", "LightningModule", "Operation", "object"}


def parameters_of(kind: type) -> tuple[Parameter, ...]:
    """What a class's constructor takes; of ``**kwargs``, what its base classes take."""
    if kind not in _PARAMETERS:
        _PARAMETERS[kind] = tuple(_parameters_of(kind).values())
    return _PARAMETERS[kind]


def _parameters_of(kind: type) -> dict[str, Parameter]:
    found: dict[str, Parameter] = {}
    for base in kind.__mro__:
        if "__init__" not in vars(base):
            continue
        if found and (base.__name__ in _BASES or base is object):
            break
        try:
            signature = inspect.signature(vars(base)["__init__"])
        except (TypeError, ValueError):
            break
        given = list(signature.parameters.values())[1:]
        inherits = {one.kind for one in given} >= {inspect.Parameter.VAR_KEYWORD}
        for one in given:
            if one.kind is one.VAR_KEYWORD:
                continue
            found.setdefault(
                one.name,
                Parameter(
                    one.name, one.default, one.kind is one.POSITIONAL_ONLY,
                    one.kind is one.VAR_POSITIONAL, isinstance(one.default, bool),
                ),
            )  # fmt: skip
        if not inherits or base.__name__ in _BASES:
            break
        if any(one.kind is one.VAR_POSITIONAL for one in given) and len(given) == 2:
            found = {}  # passes all on
    return found


@dataclass(frozen=True)
class Reading:
    """How arguments are read from objects of a framework.

    Attributes:
        skip: names that are no hyperparameters, or are recorded otherwise.
        own: whether a class is the framework's: where it keeps nothing, its user cannot help it.
        read: an argument whose attribute is something else; NOTHING if the table has none.
        default: a default as the object tells of it.
        shown: a value as it is recorded.
        also: what the constructor takes by ``**kwargs``.
        passed: what need not be given to construct an object alike.
    """

    skip: frozenset[str] = frozenset()
    own: Callable[[type], bool] = lambda kind: False
    read: Callable[[Any, Parameter], Any] | None = None
    default: Callable[[Parameter], Any] | None = None
    shown: Callable[[Any], Any] = lambda value: value
    also: tuple[Parameter, ...] = ()
    passed: frozenset[str] = frozenset()


@dataclass
class Found:
    """The arguments of an object: what was found by name, and what was not."""

    values: dict[str, Any] = field(default_factory=dict)
    lost: list[str] = field(default_factory=list)
    passed: frozenset[str] = frozenset()


def find_arguments(
    findings: Findings,
    one: Any,
    path: str,
    reading: Reading,
    config: Mapping[str, Any] | None = None,
) -> Found:
    """Write an object's constructor arguments under a path, and what could not be told.

    Args:
        config: values by name that the object tells of itself.
    """
    kind, found = type(one), Found(passed=reading.passed)
    prefix = f"{path}/" if path else ""
    captured = arguments_of(one)
    name = kind.__qualname__
    if captured is not None and not (reading.own(kind) and "args" in captured.values):
        _captured(findings, captured, prefix, name, reading, found)
        return found
    for parameter in (*parameters_of(kind), *reading.also):
        key = parameter.name
        if key in found.values or key in reading.skip or (parameter.rest and reading.own(kind)):
            continue
        value, source = _told(one, parameter, reading, config)
        if value is NOTHING:
            found.lost.append(key)
            findings.miss(prefix + key, _why(kind, parameter, reading.own(kind)))
            continue
        found.values[key] = value
        shown = value
        if not isinstance(value, (bool, int, float, str, type(None))):
            shown = _shown(value, reading)
        default = parameter.default if reading.default is None else reading.default(parameter)
        provenance = _provenance(value, shown, default)
        findings.add(prefix + key, shown, provenance, f"{name}.{source}")
    return found


def add_arguments(findings: Findings, one: Any, skip: Collection[str] = ()) -> None:
    """Keep an object's class and its constructor's arguments; content by its class and length."""
    findings.add("class", class_name(one))
    reading = Reading(skip=frozenset(skip), own=_of_framework, shown=_setting)
    find_arguments(findings, one, "", reading)


_FRAMEWORKS = {*MODULES, "transformers", "accelerate", "timm", "torchvision", "datasets"}


def _of_framework(kind: type) -> bool:
    return kind.__module__.partition(".")[0] in _FRAMEWORKS


def _setting(value: Any) -> Any:
    """A value that a user gives, the number in an array of one; anything larger by its class."""
    if is_array(value):
        number = number_of(value)
        return value if number is None else number
    if is_setting(value):
        return value
    length = {"length": len(value)} if isinstance(value, (list, tuple, dict, set)) else {}
    return {"class": class_name(value), **length}


def _captured(
    findings: Findings, captured: Arguments, prefix: str, name: str, reading: Reading, found: Found
) -> None:
    for key, value in captured.values.items():
        found.values[key] = value
        if key not in reading.skip:
            provenance: Provenance = "declared" if key in captured.given else "default"
            findings.add(prefix + key, value, provenance, f"captured: {name}({key})")
    found.lost += sorted(captured.told & captured.given)


def _told(
    one: Any, parameter: Parameter, reading: Reading, config: Mapping[str, Any] | None
) -> tuple[Any, str]:
    """An argument's value as the object has it, and where."""
    name = parameter.name
    if reading.read is not None:
        try:
            value = reading.read(one, parameter)
        except Exception:  # not there in this version of the framework
            value = NOTHING
        if value is not NOTHING:
            return value, name
    if config is not None and name in config:
        return config[name], name
    for attribute in (name, f"_{name}"):
        value = _attribute(one, attribute)
        if value is NOTHING:
            continue
        if parameter.truth and not isinstance(value, bool):
            lazy = hasattr(value, "requires_grad")
            if value is None or lazy or is_array(value) or is_module(value):
                return value is not None, attribute
            continue
        if isinstance(parameter.default, (int, float, str)) and is_module(value):
            continue  # made from the argument
        return value, attribute
    return NOTHING, ""


def _provenance(value: Any, shown: Any, default: Any) -> Provenance:
    """Of a value that was read: a module may have been made from the argument, or be it."""
    if is_like(value, default) or (shown is not value and is_same(shown, default)):
        return "default"
    return "unknown" if is_module(value) else "observed"


def is_like(value: Any, default: Any) -> bool:
    """Whether a value is what is made of a default: (1, 1) of 1, a function's name."""
    if isinstance(value, (list, tuple)) and isinstance(default, (int, float)):
        return bool(value) and all(is_same(one, default) for one in value)
    if isinstance(value, str) and callable(default):
        return getattr(default, "__name__", None) == value
    return is_same(value, default)


def _attribute(one: Any, name: str) -> Any:
    """An attribute that is no method of the object's own; NOTHING where it raises."""
    try:
        value = getattr(one, name, NOTHING)
    except Exception:
        return NOTHING
    return NOTHING if inspect.ismethod(value) and value.__self__ is one else value


def _shown(value: Any, reading: Reading) -> Any:
    """A value as it is recorded: a module by its class, an array without a digest."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if is_module(value):
        return {"class": class_name(value)}
    value = reading.shown(value)
    if is_array(value):
        shape = [length if isinstance(length, int) else None for length in _shape(value)]
        dtype = str(value.dtype).removeprefix("torch.")
        return {"array": class_name(value), "shape": shape, "dtype": dtype}
    if isinstance(value, (list, tuple)) and any(map(is_module, value)):
        return [_shown(one, reading) for one in value]
    return value


def _shape(value: Any) -> tuple[Any, ...]:
    try:
        return tuple(value.shape)
    except Exception:  # lazy
        return ()


def _why(kind: type, parameter: Parameter, own: bool) -> str:
    what = f"*{parameter.name}" if parameter.rest else parameter.name
    begin = f"{kind.__qualname__} keeps no {what!r}"
    if own:
        return f"{begin}; construct it inside `with pellucid.capture():`"
    return (
        f"{begin}: put @pellucid.capture above the class, or construct it inside "
        "`with pellucid.capture():`"
    )


def importable(kind: type) -> str:
    """``module:name`` of a class that can be imported; empty if it cannot."""
    import sys

    module, name = kind.__module__, kind.__qualname__
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    return f"{module}:{name}" if found is kind and module != "builtins" else ""


def find_recipe(findings: Findings, one: Any, found: Found) -> None:
    """Keep how an object is constructed again, or what for that is missing."""
    kind, captured = type(one), arguments_of(one)
    where, lacks = importable(kind), []
    if not where:
        lacks.append(
            f"{class_name(kind)} cannot be imported: define it at the top level of a module"
        )
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    lost = list(found.lost)
    if captured is not None:
        args, kwargs = list(captured.args), dict(captured.kwargs)
    else:
        for parameter in parameters_of(kind):
            if parameter.name in found.passed:
                continue
            value = found.values.get(parameter.name, NOTHING)
            if value is not NOTHING and is_like(value, parameter.default):
                continue
            if not is_kept(value, parameter.name):  # not found, too
                lost.append(parameter.name)
            elif parameter.positional:
                args.append(value)
            else:
                kwargs[parameter.name] = value
    lacks += [
        f"the argument {name!r} of {class_name(kind)}" + (", a secret" if is_secret(name) else "")
        for name in dict.fromkeys(lost)
    ]
    how = {"kind": "class", "class": where, "args": args, "kwargs": kwargs}
    findings.recipe("model", {"kind": "missing", "lacks": lacks} if lacks else how)
