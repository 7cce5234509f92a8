"""Constructor arguments that objects do not keep: kept beside them, from when they are made."""

from __future__ import annotations

import functools
import inspect
import sys
import threading
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import FrameType
from typing import Any, TypeVar, overload

from pellucid.run.plain import DEEPEST, class_name, is_secret, plain

__all__ = ["Arguments", "arguments_of", "capture", "captured_functions"]

Decorated = TypeVar("Decorated", bound=Callable[..., Any])


@dataclass(frozen=True)
class Arguments:
    """What a constructor or function was called with, as data: no array and no module is held.

    Attributes:
        values: all arguments by name, defaults too; those of ``**kwargs`` by their own names.
        given: the names that were passed; of ``with capture()``, whose value is no default.
        args, kwargs: the call itself, without the object.
        told: names whose value is a description: it is no plain data, is masked or was cut.
    """

    values: dict[str, Any]
    given: frozenset[str]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    told: frozenset[str] = frozenset()


# -- what is kept ------------------------------------------------------------------------------

_KEPT: dict[int, tuple[weakref.ref[Any], Arguments]] = {}
_FUNCTIONS: dict[str, Arguments] = {}


def arguments_of(one: Any) -> Arguments | None:
    """The captured arguments of an object; None if none were."""
    kept = _KEPT.get(id(one))
    return kept[1] if kept is not None and kept[0]() is one else None


def captured_functions() -> dict[str, Arguments]:
    """Each captured function's last arguments, by ``module:name``."""
    return dict(_FUNCTIONS)


def _keep(one: Any, arguments: Arguments) -> None:
    """Keep arguments for as long as the object lives, by identity: it may not be hashable."""
    key = id(one)

    def gone(reference: weakref.ref[Any], kept: Any = _KEPT) -> None:
        if key in kept and kept[key][0] is reference:
            del kept[key]

    _KEPT[key] = (weakref.ref(one, gone), arguments)


MODULES = {"torch", "keras", "flax", "equinox", "tf_keras", "lightning", "pytorch_lightning"}
_MODULE_NAMES = {"Module", "Layer", "Pytree", "LightningModule"}


def is_module(value: Any) -> bool:
    """Whether a value is a layer or model of a framework; loads none."""
    kind: Any = type(value)
    return _is_module_class(kind)


@functools.lru_cache(maxsize=1024)
def _is_module_class(kind: Any) -> bool:
    return any(
        base.__name__ in _MODULE_NAMES and base.__module__.partition(".")[0] in MODULES
        for base in kind.__mro__
    )


def is_kept(value: Any, name: str = "") -> bool:
    """Whether a record has a value as it is: JSON data, no secret, nothing cut; tuples will do."""
    try:
        return is_data(value) and bool(_data(value, name) == value)
    except RecursionError:  # a cycle
        return False


def is_data(value: Any) -> bool:
    """Whether a value is JSON data as it is; a tuple will do."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return type(value) in (bool, int, float, str, type(None))
    if type(value) in (list, tuple):
        return all(map(is_data, value))
    return type(value) is dict and all(type(k) is str and is_data(v) for k, v in value.items())


def _data(value: Any, name: str = "", above: tuple[int, ...] = ()) -> Any:
    """A value as data: modules by their class, tuples as they are, the others as `plain` has them.

    Args:
        above: the containers that it is inside of, by identity.
    """
    if is_module(value):
        return {"class": class_name(value)}
    if is_secret(name) or type(value) not in (list, tuple, dict) or len(above) > DEEPEST:
        return plain(value, name)
    if id(value) in above:
        return {"cycle": class_name(value)}
    inside = (*above, id(value))
    if isinstance(value, dict):
        return {_key(key): _data(one, _key(key), inside) for key, one in value.items()}
    return type(value)(_data(one, "", inside) for one in value)


def _key(key: Any) -> str:
    return key if isinstance(key, str) else str(plain(key))


def _arguments(
    signature: inspect.Signature, args: tuple[Any, ...], kwargs: Mapping[str, Any], first: int
) -> Arguments | None:
    """A call as data; None if it does not fit, for which Python itself has an error."""
    try:
        bound = signature.bind(*args, **kwargs)
    except TypeError:
        return None
    skipped = set(list(signature.parameters)[:first])
    passed = set(bound.arguments) - skipped
    bound.apply_defaults()
    flat = _flat(signature, bound.arguments, skipped)
    inner = {name for name, one in signature.parameters.items() if one.kind is one.VAR_KEYWORD}
    given = passed | {name for key in inner for name in bound.arguments[key]}
    return Arguments(
        {name: _data(value, name) for name, value in flat.items()},
        frozenset(given & set(flat)),
        tuple(_data(one) for one in args[first:]),
        {name: _data(value, name) for name, value in kwargs.items()},
        frozenset(name for name, value in flat.items() if not is_kept(value, name)),
    )


def _flat(
    signature: inspect.Signature, bound: Mapping[str, Any], skipped: set[str]
) -> dict[str, Any]:
    """Arguments by name, those of ``**kwargs`` among them, ``*args`` only where there are some."""
    flat: dict[str, Any] = {}
    for name, one in signature.parameters.items():
        if name in skipped or (one.kind is one.VAR_POSITIONAL and not bound[name]):
            continue
        flat.update(bound[name] if one.kind is one.VAR_KEYWORD else {name: bound[name]})
    return flat


# -- the decorator -----------------------------------------------------------------------------


@overload
def capture(target: Decorated, /) -> Decorated: ...
@overload
def capture() -> Capturing: ...
def capture(target: Any = None, /) -> Any:
    """Keep the arguments that objects are constructed with, for `collect` and `hyperparameters`.

    ``@pellucid.capture`` on a class keeps those of its objects, and of its subclasses' objects; on
    a function, those of its last call. ``with pellucid.capture():`` keeps those of all objects
    that are made inside, whatever their class. Arrays are kept as shape, dtype and digest, modules
    as their class; nothing is kept alive.

    Raises:
        TypeError: the class cannot be referred to weakly, or it is no class and no function.
    """
    if target is None:
        return Capturing()
    if isinstance(target, type):
        return _capture_class(target)
    if inspect.isroutine(target) and hasattr(target, "__name__"):
        return _capture_function(target)
    raise TypeError(
        f"capture was given an object of {class_name(target)}; allowed are a class and a function "
        "(@pellucid.capture above it), or nothing: with pellucid.capture():"
    )


def _capture_function(function: Any) -> Any:
    signature = inspect.signature(function)
    name = f"{function.__module__}:{function.__qualname__}"

    @functools.wraps(function)
    def captured(*args: Any, **kwargs: Any) -> Any:
        arguments = _arguments(signature, args, kwargs, 0)
        if arguments is not None:
            _FUNCTIONS[name] = arguments
        return function(*args, **kwargs)

    return captured


def _capture_class(kind: type) -> type:
    if kind.__weakrefoffset__ == 0 and "__slots__" in vars(kind):
        raise TypeError(
            f"{class_name(kind)} has __slots__ without '__weakref__': add it, so that the "
            "arguments of its objects can be kept for as long as they live"
        )
    try:
        _wrap(kind)
        _wrap_subclasses(kind)
    except (TypeError, AttributeError) as error:
        raise TypeError(f"{class_name(kind)} cannot be captured: {error}") from error
    return kind


_MAKING = threading.local()
"""Of each thread: the objects in construction, by identity."""


def _wrap(kind: Any) -> None:
    """Have a class's constructor keep its arguments, unless a subclass's already does."""
    original = vars(kind).get("__init__")
    if original is not None and hasattr(original, "__pellucid_captured__"):
        return
    called: Any = kind.__init__
    signature = inspect.signature(called)

    @functools.wraps(called)
    def __init__(self: Any, /, *args: Any, **kwargs: Any) -> None:
        making: set[int] = _MAKING.__dict__.setdefault("objects", set())
        run: Any = super(kind, self).__init__ if original is None else original.__get__(self)
        if id(self) in making:
            return run(*args, **kwargs)  # type: ignore[no-any-return]
        arguments = _arguments(signature, (self, *args), kwargs, 1)
        if arguments is not None:
            _keep(self, arguments)
        making.add(id(self))
        try:
            return run(*args, **kwargs)  # type: ignore[no-any-return]
        finally:
            making.discard(id(self))

    __init__.__signature__ = signature  # type: ignore[attr-defined]  # for getfullargspec
    __init__.__pellucid_captured__ = True  # type: ignore[attr-defined]
    type.__setattr__(kind, "__init__", __init__)


def _wrap_subclasses(kind: Any) -> None:
    """Have subclasses that have a constructor of their own keep its arguments."""
    original = vars(kind).get("__init_subclass__")

    def __init_subclass__(cls: Any, /, **kwargs: Any) -> None:
        if original is None:
            super(kind, cls).__init_subclass__(**kwargs)
        else:
            original.__get__(None, cls)(**kwargs)
        for one in cls.__mro__[: cls.__mro__.index(kind)]:
            if "__init__" in vars(one) and issubclass(one, kind):
                _wrap(one)

    type.__setattr__(kind, "__init_subclass__", classmethod(__init_subclass__))


# -- the context -------------------------------------------------------------------------------


class Capturing:
    """``with pellucid.capture():``, by the interpreter's profile hook of this thread.

    A hook that was there is called on, and set again at the end.
    """

    def __init__(self) -> None:
        self._before: list[Any] = []
        self._open: dict[int, FrameType] = {}  # the outermost constructor of each object

    def __enter__(self) -> Capturing:
        self._before.append(sys.getprofile())
        sys.setprofile(self._hook)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(self._before.pop())
        self._open.clear()

    def _hook(self, frame: FrameType, event: str, argument: Any) -> None:
        if frame.f_code.co_name == "__init__" and event in ("call", "return"):
            self._constructor(frame, event)
        before = self._before[-1] if self._before else None
        if before is not None:
            before(frame, event, argument)

    def _constructor(self, frame: FrameType, event: str) -> None:
        code = frame.f_code
        if not code.co_argcount:
            return
        name = code.co_varnames[0]
        if event == "return":
            for key in [key for key, one in self._open.items() if one is frame]:
                del self._open[key]
            return
        values = frame.f_locals
        one = values.get(name)
        if one is None or id(one) in self._open:
            return
        self._open[id(one)] = frame
        if type(one).__weakrefoffset__:
            arguments = _arguments_at_entry(type(one), frame, values)
            if arguments is not None:
                _keep(one, arguments)


def _arguments_at_entry(
    kind: type, frame: FrameType, values: Mapping[str, Any]
) -> Arguments | None:
    """The arguments of a constructor that has just been called, from its local variables."""
    signature = inspect.Signature(list(_parameters(frame, kind)))
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    rest = any(one.kind is one.VAR_POSITIONAL and values.get(one.name) for one in
               signature.parameters.values())  # fmt: skip
    for number, (name, one) in enumerate(signature.parameters.items()):
        value = values.get(name)
        if one.kind is one.VAR_POSITIONAL:
            args += value or ()
        elif one.kind is one.VAR_KEYWORD:
            kwargs.update(value or {})
        elif number == 0 or one.kind is one.POSITIONAL_ONLY or (
            rest and one.kind is one.POSITIONAL_OR_KEYWORD
        ):  # fmt: skip
            args.append(value)
        elif one.default is one.empty or not is_same(value, one.default):
            kwargs[name] = value
    return _arguments(signature, tuple(args), kwargs, 1)


def _parameters(frame: FrameType, kind: type) -> list[inspect.Parameter]:
    """The parameters of the function that runs in a frame."""
    code = frame.f_code
    for base in kind.__mro__:
        function = inspect.unwrap(vars(base).get("__init__", object))
        if getattr(function, "__code__", None) is code:
            return list(inspect.signature(function).parameters.values())
    names = code.co_varnames
    count, only = code.co_argcount, code.co_kwonlyargcount
    found = [
        inspect.Parameter(
            name,
            inspect.Parameter.POSITIONAL_ONLY
            if number < code.co_posonlyargcount
            else inspect.Parameter.POSITIONAL_OR_KEYWORD,
        )
        for number, name in enumerate(names[:count])
    ]
    at = count + only
    if code.co_flags & inspect.CO_VARARGS:
        found.append(inspect.Parameter(names[at], inspect.Parameter.VAR_POSITIONAL))
        at += 1
    found += [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY) for name in
              names[count : count + only]]  # fmt: skip
    if code.co_flags & inspect.CO_VARKEYWORDS:
        found.append(inspect.Parameter(names[at], inspect.Parameter.VAR_KEYWORD))
    return found


def is_same(value: Any, default: Any) -> bool:
    """Whether a value is what a constructor has by default; never raises."""
    if value is default:
        return True
    try:
        if isinstance(value, (list, tuple)) and isinstance(default, (list, tuple)):
            return list(value) == list(default)
        return type(value) is type(default) and bool(value == default)
    except Exception:  # arrays, strangers
        return False
