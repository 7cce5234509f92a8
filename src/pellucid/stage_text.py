"""Stages as text: ``SGD(momentum=0.9)``, ``my.py:MyRule``; read as data, never evaluated."""

from __future__ import annotations

import ast
import difflib
import importlib.util
import inspect
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from pellucid.compose import Composed, chain, every, flatten, route
from pellucid.declare import ref
from pellucid.rule import Stage

__all__ = ["rule_from_text", "stages_from_text", "transform_names"]

_IN_FILE = re.compile(r"(?P<file>.+\.py):(?P<stage>.+)", re.DOTALL)


def rule_from_text(text: str) -> Composed:
    """The rule, chain or route that a text names.

    Args:
        text: a name of the catalogue or ``file.py:Class``, alone or with literal arguments; or
            ``chain(...)`` and ``route({...})`` of such.

    Raises:
        ValueError, TypeError, LookupError, OSError: what is wrong with it.

    >>> rule_from_text("SGD(0.1, momentum=0.9)")
    SGD(learning_rate=0.1, momentum=0.9)
    """
    from pellucid.rules import CATALOGUE

    in_file = _IN_FILE.fullmatch(text.strip())
    if in_file is None:
        made = _read(text, _known_names(), CATALOGUE)
    else:
        module = _module_of(Path(in_file["file"]).expanduser())
        own = {
            name: value
            for name, value in vars(module).items()
            if inspect.isclass(value) and issubclass(value, Stage)
        }
        if not own:
            raise LookupError(
                f"{in_file['file']} defines no rule: write `class MyRule(pellucid.Rule)` in it"
            )
        made = _read(in_file["stage"], {**_known_names(), **own}, own)
    flatten(made)
    return made  # type: ignore[no-any-return]


def stages_from_text(text: str, rule: Composed) -> Composed:
    """A chain of the rule and the stages in a text, gradient transforms before it.

    >>> stages_from_text("clip_by_global_norm(1.0), decay_weights(0.01)", rule_from_text("SGD"))
    chain(clip_by_global_norm(max_norm=1.0), SGD(), decay_weights(weight=0.01))
    """
    written = f"({text},)" if text.strip() else "()"
    made = _read(written, _known_names(), transform_names(), shown=text)
    for stage in made:
        if not isinstance(stage, Stage) or stage.kind == "rule":
            raise ValueError(
                f"the stages {text!r} have {stage!r}; allowed are gradient, update and parameter "
                "transforms, such as clip_by_global_norm(1.0): the rule stands for itself"
            )
    before = [stage for stage in made if stage.kind == "gradient transform"]
    return chain(*before, rule, *(stage for stage in made if stage not in before))


def transform_names() -> list[str]:
    """The names of all stages that stand around a rule."""
    return [
        name
        for name, known in _known_names().items()
        if inspect.isclass(known) and issubclass(known, Stage) and known.kind != "rule"
    ]


def _known_names() -> dict[str, Any]:
    """What a text may call: all rules, transforms and schedules, and what composes them."""
    from pellucid import rules, schedules, transforms

    found: dict[str, Any] = {"chain": chain, "every": every, "ref": ref, "route": route}
    for module in (rules, transforms, schedules):
        for name in module.__all__:
            value = getattr(module, name)
            if inspect.isclass(value) and not inspect.isabstract(value):
                found[name] = value
    return found


def _read(
    text: str, names: Mapping[str, Any], offered: Iterable[str], shown: str | None = None
) -> Any:
    shown = text if shown is None else shown
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        reason = getattr(error, "msg", None) or error
        raise ValueError(
            f"{shown!r} cannot be read ({reason}); allowed is such as Adam, SGD(momentum=0.9) or "
            "my.py:MyRule"
        ) from None
    return _Reader(shown, names, tuple(offered)).value(tree.body)


class _Reader:
    """Turns the syntax tree of names, literals and calls into what it describes."""

    def __init__(self, text: str, names: Mapping[str, Any], offered: tuple[str, ...]) -> None:
        self.text, self.names, self.offered = text, names, offered

    def value(self, node: ast.expr) -> Any:
        match node:
            case ast.Constant(value=value):
                return value
            case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as number)):
                return -number
            case ast.Tuple(elts=items):
                return tuple(map(self.value, items))
            case ast.List(elts=items):
                return list(map(self.value, items))
            case ast.Dict(keys=keys, values=values) if None not in keys:
                return {
                    self.value(key): self.value(one)
                    for key, one in zip(keys, values, strict=True)
                    if key is not None
                }
            case ast.Name(id=name):
                return self.named(name)()
            case ast.Call(func=ast.Name(id=name), args=args, keywords=keywords):
                if not any(isinstance(one, ast.Starred) for one in args) and all(
                    one.arg for one in keywords
                ):
                    given = {one.arg or "": self.value(one.value) for one in keywords}
                    return self.named(name)(*map(self.value, args), **given)
        part = ast.unparse(node)
        raise ValueError(
            f"{self.text!r} has {part!r}; allowed are names of stages and schedules with literal "
            "arguments: nothing is evaluated"
        )

    def named(self, name: str) -> Any:
        if name in self.names:
            return self.names[name]
        by_lower = {known.lower(): known for known in self.names}
        near = difflib.get_close_matches(name.lower(), by_lower, n=1)
        hint = f"did you mean {by_lower[near[0]]!r}? " if near else ""
        raise LookupError(
            f"{self.text!r}: there is no {name!r}; {hint}There are {', '.join(self.offered)}"
        )


def _module_of(path: Path) -> ModuleType:
    """The module in a user's file, run once, as ``import`` would."""
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {str(path)!r}: give its path, my.py:MyRule")
    full = str(path.resolve())
    known = sys.modules.get(path.stem)
    if known is not None and getattr(known, "__file__", None) == full:
        return known
    name = path.stem if known is None else f"{path.stem} at {full}"
    spec = importlib.util.spec_from_file_location(name, full)
    assert spec is not None  # the name ends in .py
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # before it runs: its classes' source is found through it
    if str(path.resolve().parent) not in sys.path:
        sys.path.append(str(path.resolve().parent))  # last: its neighbours, but they hide nothing
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise ValueError(f"{path} cannot be run: {_described(error, full)}") from error
    return module


def _described(error: Exception, file: str) -> str:
    """The error's kind, line in the file, and words."""
    line = getattr(error, "lineno", None)
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == file:
            line = trace.tb_lineno
        trace = trace.tb_next
    where = f" in line {line}" if line else ""
    return f"{type(error).__name__}{where}: {getattr(error, 'msg', None) or error}"
