"""The rule language: four kinds of stage.

A stage is a description: a class that declares hyperparameters, options, slots and extra inputs,
and one method ``update``. Constructor, validation, ``repr``, equality, configuration and help are
generated from the declarations. A stage holds no state: an optimizer of a framework does.
"""

from __future__ import annotations

import difflib
import inspect
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, NoReturn, Protocol, Self

from pellucid.declare import (
    REQUIRED,
    Condition,
    Declaration,
    Extra,
    Hyper,
    HyperparameterError,
    Option,
    Ref,
    Slot,
    UndeclaredError,
    check_value,
    extra,
    hyper,
    option,
    plain_value,
    ref,
    revive,
    slot,
)
from pellucid.ops import RuleError, is_number

__all__ = [
    "GradientTransform",
    "HyperparameterError",
    "ParameterTransform",
    "Ref",
    "Rule",
    "RuleError",
    "Stage",
    "UpdateTransform",
    "extra",
    "hyper",
    "option",
    "ref",
    "slot",
]


class Context(Protocol):
    """Where an update runs: a tracer, or the framework's arrays line by line."""

    def hyper(self, declared: Hyper) -> Any: ...
    def option(self, declared: Option) -> Any: ...
    def slot(self, declared: Slot) -> Any: ...
    def assign(self, declared: Slot, value: Any) -> None: ...
    def extra(self, declared: Extra) -> Any: ...
    def step(self) -> Any: ...
    def has(self, declared: Slot) -> bool: ...
    def is_new(self, declared: Slot) -> Any: ...
    def veto(self, condition: Any) -> None: ...


@dataclass(frozen=True)
class Declarations:
    """All that a stage's class declares, base classes first."""

    hypers: dict[str, Hyper] = field(default_factory=dict)
    options: dict[str, Option] = field(default_factory=dict)
    slots: dict[str, Slot] = field(default_factory=dict)
    extras: dict[str, Extra] = field(default_factory=dict)

    @cached_property
    def arguments(self) -> dict[str, Hyper | Option]:
        return {**self.hypers, **self.options}

    def all(self) -> dict[str, Declaration]:
        return {**self.hypers, **self.options, **self.slots, **self.extras}


_KINDS: tuple[tuple[type[Declaration], str], ...] = (
    (Hyper, "hypers"),
    (Option, "options"),
    (Slot, "slots"),
    (Extra, "extras"),
)
_OWN = {"step", "has", "is_new", "veto", "name", "update", "get_config", "from_config", "declared"}


def _gather(cls: type) -> Declarations:
    gathered = Declarations()
    for base in reversed(cls.__mro__):
        for name, value in vars(base).items():
            for kind, attribute in _KINDS:
                if name in getattr(gathered, attribute) and not isinstance(value, kind):
                    del getattr(gathered, attribute)[name]
                if isinstance(value, kind):
                    getattr(gathered, attribute)[name] = value
    return gathered


class Stage:
    """What has hyperparameters, options, slots and one ``update``."""

    declared: ClassVar[Declarations] = Declarations()
    kind: ClassVar[str] = "stage"
    _takes: ClassVar[tuple[str, ...]] = ()
    _context: Context | None
    _name: str | None
    _every: int
    _values: dict[str, Any]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        declared = cls.declared = _gather(cls)
        if clash := _OWN & set(declared.all()):
            raise RuleError(f"{cls.__name__}: the name {min(clash)!r} is taken by every stage")
        for name, state in declared.slots.items():
            if isinstance(state.when, Condition) and state.when.name not in declared.hypers:
                raise RuleError(f"{cls.__name__}.{name}: when= names no declared hyperparameter")
        cls.__signature__ = _signature(cls)  # type: ignore[attr-defined]
        cls.__doc__ = _document(cls)
        _registry[f"{cls.__module__}:{cls.__qualname__}"] = cls

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        if type(self).kind == "stage" or "update" not in _mro_names(type(self)):
            raise TypeError(f"{type(self).__name__} is abstract: subclass it, and write update()")
        bound = _bind(type(self), args, kwargs)
        set_ = object.__setattr__
        name, every = bound.pop("name"), bound.pop("every")
        if name is not None and (not isinstance(name, str) or not name or "/" in name):
            raise ValueError(f"name is {name!r}; allowed is text without a slash")
        set_(self, "_context", None)
        set_(self, "_name", name)
        set_(self, "_every", every)
        set_(self, "_values", {key: _checked(self, key, value) for key, value in bound.items()})

    # -- what an update may ask ------------------------------------------------------------

    @property
    def step(self) -> Any:
        """The number of this update, from 1."""
        return self._inside("step").step()

    def has(self, name: str) -> bool:
        """Whether the slot ``name``, declared with ``when=``, exists: a plain bool."""
        return self._inside("has").has(self._slot(name))

    def is_new(self, name: str) -> Any:
        """True in the first update that the slot ``name`` takes part in."""
        return self._inside("is_new").is_new(self._slot(name))

    def veto(self, condition: Any) -> None:
        """Skip the whole optimizer's update where the condition holds, of any element."""
        self._inside("veto").veto(condition)

    def _slot(self, name: str) -> Slot:
        if name not in self.declared.slots:
            self._undeclared(name)
        return self.declared.slots[name]

    # -- values ----------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """The name of this stage in a chain; its class's unless given."""
        return self._name or type(self).__name__

    @property
    def values(self) -> dict[str, Any]:
        """Hyperparameters and options as given: numbers, schedules, callables, refs, choices."""
        return dict(self._values)

    @property
    def every_steps(self) -> int:
        """The stage takes part in every update whose number this divides; see `every`."""
        return self._every

    def _read_hyper(self, declared: Hyper) -> Any:
        if self._context is not None:
            return self._context.hyper(declared)
        return self._values[declared.name]

    def _read_option(self, declared: Option) -> Any:
        if self._context is not None:
            return self._context.option(declared)
        return self._values[declared.name]

    def _inside(self, what: str) -> Context:
        if self._context is None:
            raise RuleError(
                f"{type(self).__name__}.{what} has a value inside update() only: state belongs to "
                "an optimizer, see pellucid.view(optimizer).state"
            )
        return self._context

    @classmethod
    def _bare(cls, context: Context) -> Self:
        """An instance on which ``update`` runs: its declarations read and write the context."""
        stage = object.__new__(cls)
        object.__setattr__(stage, "_context", context)
        return stage

    def _undeclared(self, name: str) -> NoReturn:
        cls = type(self)
        known = [*cls.declared.all(), "step"]
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean `{near[0]}`? " if near else ""
        raise UndeclaredError(
            f"`{name}` was never declared in {cls.__name__}: {hint}declare state as "
            f"`{name} = slot()`, a hyperparameter as `{name} = hyper(default)` "
            f"(declared: {', '.join(known)})"
        )

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        self._undeclared(name)

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(getattr(type(self), name, None), Declaration):
            object.__setattr__(self, name, value)
        else:
            self._undeclared(name)

    def __reduce__(self) -> Any:
        return _rebuild, (type(self), self._name, self._every, self._values)

    def _replace(self, **changes: Any) -> Self:
        known = {"name": self._name, "every": self._every, **self._values}
        if self.kind == "rule":
            known.pop("every")
        return type(self)(**{**known, **changes})

    # -- equality, text, configuration -----------------------------------------------------

    def _key(self) -> tuple[Any, ...]:
        return type(self), self._name, self._every, tuple(self._values.items())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Stage) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash((type(self), self._name, self._every))

    def __repr__(self) -> str:
        arguments = [
            f"{key}={value!r}"
            for key, value in self._values.items()
            if not _same(value, self.declared.arguments[key].default)
        ]
        if self._name is not None:
            arguments.append(f"name={self._name!r}")
        text = f"{type(self).__name__}({', '.join(arguments)})"
        return f"every({self._every}, {text})" if self._every > 1 else text

    def get_config(self) -> dict[str, Any]:
        """The class's import path and all values, as plain JSON data."""
        config: dict[str, Any] = {"class": f"{type(self).__module__}:{type(self).__qualname__}"}
        if self._name is not None:
            config["name"] = self._name
        if self._every > 1:
            config["every"] = self._every
        values = {key: _plain(self, key, value) for key, value in self._values.items()}
        return {**config, "values": values}

    @staticmethod
    def from_config(config: Mapping[str, Any]) -> Stage:
        """The stage that `get_config` described; its class must have been imported."""
        cls = stage_class(config["class"])
        values = {key: _revived(value) for key, value in config["values"].items()}
        more = {key: config[key] for key in ("name", "every") if key in config}
        return cls(**values, **more)

    def to_json(self) -> str:
        """`get_config` as JSON text."""
        return json.dumps(self.get_config())

    @staticmethod
    def from_json(text: str) -> Stage:
        """The stage that `to_json` described."""
        return Stage.from_config(json.loads(text))


_registry: dict[str, type[Stage]] = {}


def stage_class(path: str) -> type[Stage]:
    """The class of an import path ``module:QualName``, if it has been imported."""
    if path in _registry:
        return _registry[path]
    if path.startswith("pellucid."):
        import pellucid.rules
        import pellucid.transforms  # noqa: F401

        if path in _registry:
            return _registry[path]
    module, _, name = path.partition(":")
    raise LookupError(
        f"the stage {path!r} is not known here: run `from {module} import {name}` first"
    )


def _mro_names(cls: type) -> set[str]:
    return {name for base in cls.__mro__ for name in vars(base)}


def _signature(cls: type[Stage]) -> inspect.Signature:
    parameter = inspect.Parameter
    positional: list[inspect.Parameter] = []
    must_name = False
    for name, declared in cls.declared.hypers.items():
        default = parameter.empty if declared.default is REQUIRED else declared.default
        must_name = must_name or (bool(positional) and default is parameter.empty)
        how = parameter.KEYWORD_ONLY if must_name else parameter.POSITIONAL_OR_KEYWORD
        positional.append(parameter(name, how, default=default, annotation="Value"))
    named = [
        parameter(name, parameter.KEYWORD_ONLY, default=chosen.default)
        for name, chosen in cls.declared.options.items()
    ]
    named.sort(key=lambda one: one.name == "maximize")
    named.append(parameter("name", parameter.KEYWORD_ONLY, default=None, annotation="str | None"))
    return inspect.Signature([*positional, *named])


def _document(cls: type[Stage]) -> str:
    own = inspect.cleandoc(cls.__dict__.get("__doc__") or f"{cls.__name__}: a {cls.kind}.")
    own = own.partition("\n\nArguments:\n")[0]
    lines = []
    for name, one in sorted(cls.declared.arguments.items(), key=lambda item: item[0] == "maximize"):
        default = "required" if one.default is REQUIRED else f"default {_default_text(one)}"
        what = "; a schedule or a callable of the step, too" if isinstance(one, Hyper) else ""
        lines.append(f"    {name}: {one.allowed()}{what}; {default}. {one.doc}".rstrip())
    lines.append(f"    name: the stage's name in a chain; default {cls.__name__!r}.")
    return "\n".join([own, "", "Arguments:", *lines])


def _default_text(one: Hyper | Option) -> str:
    return f"{one.default:g}" if is_number(one.default) else repr(one.default)


def _bind(cls: type[Stage], args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    every = kwargs.pop("every", 1)
    signature: inspect.Signature = cls.__signature__  # type: ignore[attr-defined]
    for key in kwargs:
        if key not in signature.parameters:
            near = difflib.get_close_matches(key, signature.parameters, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise TypeError(
                f"{cls.__name__} has no argument {key!r}{hint} "
                f"(arguments: {', '.join(signature.parameters)})"
            )
    try:
        bound = signature.bind(*args, **kwargs)
    except TypeError as error:
        raise TypeError(f"{cls.__name__}{signature}: {error}") from None
    bound.apply_defaults()
    return {**bound.arguments, "every": every}


def _checked(stage: Stage, key: str, value: Any) -> Any:
    where = f"{type(stage).__name__}({key}=...)"
    declared = stage.declared.arguments[key]
    if isinstance(declared, Option):
        return declared.check(value, where)
    return check_value(declared, value, where)


def _same(value: Any, default: Any) -> bool:
    return type(value) is type(default) and bool(value == default)


def _plain(stage: Stage, key: str, value: Any) -> Any:
    if isinstance(stage.declared.arguments[key], Option):
        return value
    return plain_value(value, f"{type(stage).__name__}.{key}")


def _revived(value: Any) -> Any:
    return revive(value) if isinstance(value, dict) else value


def _rebuild(cls: type[Stage], name: str | None, every: int, values: dict[str, Any]) -> Stage:
    return cls(**values, name=name, **({"every": every} if every > 1 else {}))


class GradientTransform(Stage):
    """Changes gradients before the rule sees them: ``update(self, param, grad) -> grad``."""

    kind = "gradient transform"
    _takes = ("param", "grad")


class Rule(Stage):
    """An update rule: ``update(self, param, grad) -> param``, the new parameter."""

    kind = "rule"
    _takes = ("param", "grad")
    maximize = option(False, doc="Ascend instead of descend: the gradient's sign is changed first.")


class UpdateTransform(Stage):
    """Changes what is added to the parameter: ``update(self, param, grad, update) -> update``."""

    kind = "update transform"
    _takes = ("param", "grad", "update")


class ParameterTransform(Stage):
    """Changes the parameter after the update: ``update(self, param, previous) -> param``."""

    kind = "parameter transform"
    _takes = ("param", "previous")


ORDER: tuple[str, ...] = tuple(
    kind.kind for kind in (GradientTransform, Rule, UpdateTransform, ParameterTransform)
)
