"""Any value as plain JSON data: nothing here fails on one, runs it, or gives a secret away."""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import enum
import functools
import hashlib
import inspect
import math
import os
import re
import sys
import types
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any

from pellucid.ops import is_number

__all__ = [
    "MASK", "class_name", "is_array", "is_secret", "plain", "signature_of", "without_secrets",
]  # fmt: skip

MASK = "***"
"""Stands for the value of a secret."""

MOST, DEEPEST, LONGEST = 1000, 12, 2000
"""Entries of a container, levels, and characters of a text that a record keeps."""

DIGESTED = 1 << 28
"""Bytes up to which an array's content gets a digest."""

_SECRET = re.compile(
    r"(^|_)((api|access|private|account|encryption|signing|wandb)_?keys?|secrets?(_?keys?)?|token"
    r"|passwords?|passwd|pwd|pass_?phrase|credentials?|auth|authorization|bearer|jwt|cookies?)$",
    re.IGNORECASE,
)
_SAID = re.compile(r"([A-Za-z_][\w-]*)['\"]?[=:] ?")
_VALUE = re.compile(
    r"'[^']*'|\"[^\"]*\"|(?!(?:None|True|False)\b)((Bearer|Basic|Token) +)?[^\s,)\]}&;'\"]+"
)
_LOGIN = re.compile(r"(://[^/\s:@]*:)[^@\s/]+@|(https?://)[^/\s:@]+@")  # user:password@, token@
_NO_SECRET = {"pad_token", "eos_token", "bos_token", "unk_token", "sep_token", "cls_token"}


@functools.lru_cache(maxsize=4096)
def is_secret(name: str) -> bool:
    """Whether a value of this name must not be shown: ``api_key``, ``hub_token``, ``password``."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name.strip("-")).replace("-", "_").lower()
    return bool(_SECRET.search(spaced)) and spaced.removeprefix("mask_") not in _NO_SECRET


def without_secrets(text: str) -> str:
    """A text with its secrets masked: of ``api_key=abc``, ``user:abc@host``, ``?token=abc``."""
    if "=" not in text and ":" not in text:
        return text
    text = _LOGIN.sub(rf"\1\2{MASK}@", text)
    found, at = [], 0
    for said in _SAID.finditer(text):
        value = _VALUE.match(text, said.end()) if said.start() >= at else None
        if value is not None and is_secret(said[1]):
            found += [text[at : said.end()], MASK]
            at = value.end()
    return "".join([*found, text[at:]])


def class_name(one: Any) -> str:
    """Where the class of an object, or a class itself, is to be found: ``torch.nn.Linear``."""
    kind = one if isinstance(one, type) else type(one)
    module = getattr(kind, "__module__", "") or ""
    name = str(getattr(kind, "__qualname__", kind))
    return name if module in ("", "builtins") else f"{module}.{name}"


def is_array(value: Any) -> bool:
    """Whether a value has elements of one type, as every framework's arrays have."""
    try:
        return hasattr(value, "shape") and hasattr(value, "dtype") and not isinstance(value, type)
    except Exception:  # a lazy parameter; a property that raises
        return False


def plain(value: Any, name: str = "") -> Any:
    """A value as JSON data.

    Numbers, texts, lists and mappings are themselves; NaN and infinities are texts; an array is
    its shape, dtype and a digest of its content; a function is where it is written; any other
    object is its class and what it says of itself. Values whose name tells of a secret are masked.
    """
    kind = type(value)  # most values are of these
    if value is None or kind is bool or (kind is int and -MOST < value < MOST):
        if not is_secret(name) or kind is not int:
            return value
    elif kind is str and len(value) <= LONGEST and not is_secret(name):
        return without_secrets(value)
    return _Plain().of(value, name, 0)


class _Plain:
    """One value on its way; knows the containers that it is inside of."""

    __slots__ = ("open",)

    def __init__(self) -> None:
        self.open: set[int] = set()

    def of(self, value: Any, name: str, level: int) -> Any:
        try:
            if is_secret(name) and not (value is None or value is True or value is False):
                return value if isinstance(value, str) and not value else MASK
            return self._of(value, level)
        except Exception as error:  # the value is a stranger's
            return {"unreadable": class_name(value), "error": _said(error)}

    def _of(self, value: Any, level: int) -> Any:
        simple = _simple(value)
        if simple is not _UNKNOWN:
            return simple
        if id(value) in self.open:
            return {"cycle": class_name(value)}
        if level > DEEPEST:
            return {"class": class_name(value), "text": _text(value)}
        self.open.add(id(value))
        try:
            return self._inside(value, level + 1)
        finally:
            self.open.discard(id(value))

    def _inside(self, value: Any, level: int) -> Any:
        if isinstance(value, Mapping):
            return self._mapping(value, level)
        if dataclasses.is_dataclass(value):
            names = [field.name for field in dataclasses.fields(value)]
            found = {key: getattr(value, key, None) for key in names}
            return {"class": class_name(value), **self._mapping(found, level)}
        if isinstance(value, tuple) and hasattr(value, "_asdict"):
            return self._mapping(value._asdict(), level)
        if isinstance(value, _NAMESPACES):
            return self._mapping(vars(value), level)
        if isinstance(value, Set):
            return self._list(sorted(value, key=repr), level)
        if isinstance(value, Sequence):
            return self._list(value, level)
        config = getattr(value, "get_config", None)
        if callable(config):
            return {"class": class_name(value), "config": self.of(config(), "", level)}
        return {"class": class_name(value), **self._attributes(value, level)}

    def _attributes(self, value: Any, level: int) -> dict[str, Any]:
        """What an object of an unknown class says of itself: its text, unless that is its address.

        Its simple attributes, then.
        """
        text = _text(value)
        if " at 0x" not in text and not text.startswith("<"):
            return {"text": text}
        held = {
            key: one
            for key, one in getattr(value, "__dict__", {}).items()
            if not key.startswith("_") and (is_secret(key) or _simple(one) is not _UNKNOWN)
        }
        return {"attributes": self._mapping(held, level)} if held else {}

    def _mapping(self, value: Mapping[Any, Any], level: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for number, (key, one) in enumerate(value.items()):
            if number == MOST:
                found["..."] = f"{len(value) - MOST} more"
                break
            text = key if isinstance(key, str) else repr(key)
            found[without_secrets(text)] = self.of(one, text, level)
        return found

    def _list(self, value: Iterable[Any], level: int) -> list[Any]:
        values = list(value)
        found = [self.of(one, "", level) for one in values[:MOST]]
        return [*found, f"... {len(values) - MOST} more"] if len(values) > MOST else found


_UNKNOWN = object()
_NAMESPACES = (argparse.Namespace, types.SimpleNamespace)


def _simple(value: Any) -> Any:
    """What has no parts as JSON data; a mark for everything else."""
    if value is None or (isinstance(value, (bool, str)) and not isinstance(value, enum.Enum)):
        return value if not isinstance(value, str) else _short(without_secrets(str(value)))
    if isinstance(value, enum.Enum):
        return _simple(value.value) if isinstance(value.value, (str, int)) else value.name
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(value, (numpy.generic, numpy.dtype)):
        held = value.item() if isinstance(value, numpy.generic) else str(value)
        return str(value) if type(held) is type(value) else _simple(held)
    if is_number(value):
        if isinstance(value, int):
            return int(value) if value.bit_length() < LONGEST else _short(hex(value))
        number = float(value)
        return number if math.isfinite(number) else str(number)
    for kinds, told in _TOLD:
        if isinstance(value, kinds):
            return told(value)
    if is_array(value):
        return _array(value)
    if type(value).__module__ == "torch" and type(value).__name__ in _TORCHS:
        return str(value)
    if callable(value) and isinstance(getattr(value, "__name__", None), str):
        return _function(value)  # wrapped, jitted, a ufunc
    return _UNKNOWN


_TORCHS = {"dtype", "device", "layout", "memory_format"}


def _path(value: os.PathLike[Any]) -> str:
    return without_secrets(os.fsdecode(os.fspath(value)))


def _bytes(value: bytes) -> Any:
    return {"bytes": len(value), "digest": hashlib.sha256(value).hexdigest()[:16]}


def _partial(value: Any) -> Any:
    signature = signature_of(value.func)
    names = [*signature.parameters] if signature is not None else []
    names += [""] * len(value.args)
    return {
        "partial": plain(value.func),
        "args": [plain(one, name) for one, name in zip(value.args, names, strict=False)],
        "kwargs": plain(dict(value.keywords)),
    }


def _function(value: Any) -> dict[str, Any]:
    """Where a function is written; of a closure also what it holds."""
    name = getattr(value, "__qualname__", value.__name__)
    function = inspect.unwrap(getattr(value, "__func__", value))
    code = getattr(function, "__code__", None)
    module = getattr(value, "__module__", "") or ""
    found: dict[str, Any] = {"function": f"{module}:{name}" if module else name}
    if code is not None:
        found["at"] = f"{os.path.basename(code.co_filename)}:{code.co_firstlineno}"
    cells = getattr(function, "__closure__", None) or ()
    names = code.co_freevars if code is not None else ()
    held = {}
    for key, cell in zip(names, cells, strict=False):
        try:
            inside = _simple(cell.cell_contents)
        except ValueError:  # not filled yet
            continue
        if inside is not _UNKNOWN and key != "self":
            held[key] = MASK if is_secret(key) else inside
    return {**found, "holds": held} if held else found


_TOLD: tuple[tuple[Any, Any], ...] = (
    (os.PathLike, _path),
    (type, class_name),
    ((datetime.datetime, datetime.date, datetime.timedelta), str),
    ((bytes, bytearray), lambda value: _bytes(bytes(value))),
    (complex, str),
    (range, repr),
    (functools.partial, _partial),
    (types.ModuleType, lambda value: value.__name__),
    ((types.FunctionType, types.MethodType, types.BuiltinFunctionType), _function),
    ((types.GeneratorType, types.CoroutineType), class_name),
)


def _array(value: Any) -> dict[str, Any]:
    """An array's shape, dtype and the first 16 digits of its content's SHA-256."""
    shape = [None if length is None else int(length) for length in value.shape]
    found: dict[str, Any] = {
        "array": class_name(value), "shape": shape, "dtype": str(value.dtype).removeprefix("torch.")
    }  # fmt: skip
    try:
        digest = _digest(value)
    except Exception:  # without memory of its own: meta, symbolic, sparse, deleted
        return found
    return {**found, "digest": digest} if digest else found


def _digest(value: Any) -> str:
    import numpy

    size = math.prod(value.shape) * getattr(value.dtype, "itemsize", 8)
    if size > DIGESTED or (not value.shape and size == 0):
        return ""
    if hasattr(value, "detach"):
        value = value.detach().cpu().contiguous()
        if str(value.dtype) == "torch.bfloat16":
            value = value.view(sys.modules["torch"].int16)
    content = numpy.ascontiguousarray(numpy.asarray(value))
    if content.dtype == object:
        return ""
    return hashlib.sha256(content.tobytes()).hexdigest()[:16]


def _short(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}... ({len(text)} characters)"


def _text(value: Any) -> str:
    try:
        return _short(without_secrets(re.sub(r"\s+", " ", repr(value))))
    except Exception as error:
        return f"<{class_name(value)}: {_said(error)}>"


def _said(error: BaseException) -> str:
    try:
        return without_secrets(f"{type(error).__name__}: {error!s:.200}")
    except Exception:
        return type(error).__name__


def signature_of(function: Any) -> inspect.Signature | None:
    """A function's or class's signature, or None if it tells none."""
    try:
        return inspect.signature(function)
    except (TypeError, ValueError):
        return None
