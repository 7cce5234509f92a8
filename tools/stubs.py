"""Writes the stubs that let editors complete constructors: ``python tools/stubs.py [--check]``.

Constructors are generated from declarations when Python runs; an editor does not run Python, and
reads these files. A test fails when they are not up to date.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pellucid import rules, transforms
from pellucid.declare import REQUIRED, Option
from pellucid.rule import Stage
from pellucid.torch.named import NAMED, signature_of

SOURCE = Path(__file__).resolve().parents[1] / "src" / "pellucid"
HEAD = '"""Written by tools/stubs.py from the declarations; do not edit."""\n\n'


def _first_sentence(cls: type) -> str:
    return (cls.__doc__ or "").strip().splitlines()[0]


def _type_of_option(declared: Option) -> str:
    if set(declared.choices) == {False, True}:
        return "bool"
    return f"Literal[{', '.join(repr(choice) for choice in declared.choices)}]"


def _default(value: Any) -> str:
    plain = isinstance(value, (bool, int, float, str))
    return repr(value) if plain else "..."


def _class(name: str, bases: str, arguments: Iterable[str], summary: str) -> str:
    lines = [f"class {name}({bases}):", f'    """{summary}"""', "", "    def __init__("]
    lines += [f"        {argument}," for argument in ("self", *arguments)]
    return "\n".join([*lines, "    ) -> None: ...", ""])


def _stage(cls: type[Stage]) -> str:
    arguments = []
    named = False
    for parameter in inspect.signature(cls).parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and not named:
            arguments.append("*")
            named = True
        declared = cls.declared.arguments.get(parameter.name)
        if isinstance(declared, Option):
            kind = _type_of_option(declared)
        else:
            kind = "str | None" if parameter.name == "name" else "Value"
        text = f"{parameter.name}: {kind}"
        if parameter.default is parameter.empty or parameter.default is REQUIRED:
            arguments.append(text)
        else:
            shown = "None" if parameter.default is None else _default(parameter.default)
            arguments.append(f"{text} = {shown}")
    base = cls.__mro__[1]
    return _class(cls.__name__, base.__name__, arguments, _first_sentence(cls))


def _of_rules() -> str:
    classes = sorted(rules.CATALOGUE.values(), key=lambda cls: (len(cls.__mro__), cls.__name__))
    head = (
        "from typing import Literal\n\n"
        "from pellucid.declare import Value\nfrom pellucid.rule import Rule\n\n"
        "CATALOGUE: dict[str, type[Rule]]\n"
    )
    return HEAD + "\n".join([head, *map(_stage, classes)])


def _of_transforms() -> str:
    names = sorted(transforms.__all__)
    classes = [getattr(transforms, name) for name in names]
    bases = sorted({cls.__mro__[1].__name__ for cls in classes})
    head = (
        "from typing import Literal\n\nfrom pellucid.declare import Value\n"
        f"from pellucid.rule import {', '.join(bases)}\n"
    )
    return HEAD + "\n".join([head, *map(_stage, classes)])


_OURS = {
    "params": "Any",
    "groups": "Mapping[Any, Mapping[str, Any]] | None",
    "gradient_transformers": "Iterable[Any]",
    "compiled": "bool",
    "seed": "int",
    "foreach": "bool | None",
    "fused": "bool | None",
    "maximize": "bool",
    "capturable": "bool",
    "differentiable": "bool",
}


def _named(name: str, cls: type) -> str:
    arguments = []
    named = False
    for parameter in signature_of(rules.CATALOGUE[name]).parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and not named:
            arguments.append("*")
            named = True
        kind = _OURS.get(parameter.name)
        if kind is None:
            is_bool = isinstance(parameter.default, bool)
            is_tuple = isinstance(parameter.default, tuple)
            kind = "bool" if is_bool else "tuple[Value, ...]" if is_tuple else "Value"
        default = "" if parameter.default is parameter.empty else f" = {parameter.default!r}"
        arguments.append(f"{parameter.name}: {kind}{default}")
    return _class(name, "Optimizer", arguments, _first_sentence(cls))


def _of_torch() -> str:
    head = (
        "from collections.abc import Iterable, Mapping\nfrom typing import Any\n\n"
        "from pellucid.declare import Value\n"
        "from pellucid.torch.optimizer import Optimizer as Optimizer\n"
        "from pellucid.torch.report import LoadReport as LoadReport\n"
    )
    return HEAD + "\n".join([head, *(_named(name, cls) for name, cls in sorted(NAMED.items()))])


STUBS = {
    SOURCE / "rules" / "__init__.pyi": _of_rules,
    SOURCE / "transforms.pyi": _of_transforms,
    SOURCE / "torch" / "__init__.pyi": _of_torch,
}


def stale() -> list[str]:
    """The stubs that are not what the declarations say."""
    return [
        path.name
        for path, text in STUBS.items()
        if not path.exists() or path.read_text() != text()
    ]


def main() -> int:
    """Write the stubs, or with ``--check`` say which are stale."""
    if "--check" in sys.argv:
        names = stale()
        print("\n".join(f"stale: {name}" for name in names) or "all stubs are up to date")
        return int(bool(names))
    for path, text in STUBS.items():
        path.write_text(text())
    return 0


if __name__ == "__main__":
    sys.exit(main())
