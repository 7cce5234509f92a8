"""Who may import whom, and what importing costs."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import pellucid

ROOT = Path(pellucid.__file__).parent
FRAMEWORKS = {"torch", "tensorflow", "keras", "jax", "optax", "mlx"}
HEAVY = {"numba", "llvmlite", "scipy", "sklearn", *FRAMEWORKS}

# -- the arrows --------------------------------------------------------------------------------

RULE = {"ops", "declare", "rule", "storage"}
JOURNAL = {"journal_records", "journal_table", "journal_history", "changes"}
CORE = {*RULE, "compose", *JOURNAL, "controls"}
HOST = {*CORE, "fuse", "inputs", "host", "rules", "drawn"}

ARROWS: dict[str, set[str]] = {
    # what a rule is written in
    "ops": set(),
    "schedules": set(),
    "journal_records": set(),
    "journal_table": {"journal_records"},
    "journal_history": {"journal_records", "journal_table"},
    "changes": JOURNAL - {"changes"},
    "declare": {"ops"},
    "rule": {"ops", "declare"},
    "storage": {"declare"},
    "transforms": RULE,
    "rules": RULE,
    "compose": RULE,
    "controls": {*RULE, "compose", "changes"},
    # what runs it
    "fuse": CORE,
    "inputs": set(),
    "drawn": set(),
    "host": {*CORE, "fuse", "inputs"},
    "numpy": HOST,
    "torch": HOST,
    "keras": {*HOST, "schedules", "transforms"},  # Keras's arguments are stages, schedules traced
    "optax": HOST,
    # what stands above, and is handed objects of a framework
    "access": HOST,
    "run": {*HOST, "access", "schedules"},
    "conformance": HOST,
    "explanation": {*CORE, "rules"},
    "stage_text": {*CORE, "rules"},
    "demo": {*HOST, "access", "numpy", "torch", "keras", "schedules"},
    "cli": set(),
    "": set(),  # pellucid/__init__.py, which loads its names when they are asked for
}
"""What each module or package may import when it is loaded."""

LAZY: dict[str, set[str]] = {
    "journal_records": {"declare"},  # a schedule of the journal, when it is asked for a value
    "declare": {"schedules"},  # a schedule read from a file
    "drawn": {"access"},  # what prints it, when it is printed
    "rule": {"rules", "transforms"},  # a stage read from a file
    "stage_text": {"schedules", "transforms"},
    "explanation": {"fuse"},
    # `pellucid.check` tries every backend that is installed
    "conformance": {"numpy", "torch", "keras"},
    "keras": {"torch", "run", "access"},  # its torch backend: BETWEEN_FRAMEWORKS; callbacks
    "torch": {"run", "access"},  # callbacks, which follow or drive any optimizer
    # of an object of that framework: its table of names, its groups, what drives a value
    "access": {"torch", "keras", "schedules"},
    "run": {"torch", "keras", "numpy"},
    "cli": set(ARROWS),  # on top of all, each command loading what it needs
}
"""What it may import besides, inside a function, when it is needed."""

BETWEEN_FRAMEWORKS = {
    ("keras/namespaces.py", "pellucid.torch.arrays"),
    ("keras/torch_kernel.py", "pellucid.torch.handles"),
}
"""Keras's torch backend computes with torch's tensors: what looks at them is written once."""

THIRD: dict[str, set[str]] = {
    "torch": {"torch", "demo/torch_demo.py", "keras/torch_kernel.py"},
    "keras": {"keras", "demo/keras_demo.py"},
    # each a file that is loaded on that backend only
    "tensorflow": {
        *(f"keras/tensorflow_{name}.py" for name in ("checkpoint", "host_op", "kernel", "op")),
        *(f"keras/legacy_{name}.py" for name in ("applying", "gradients", "hooks", "hypers")),
        *(f"keras/legacy_{name}.py" for name in ("optimizer", "state", "variables")),
    },
    "jax": {"jax", "optax"},
    "numba": {"fuse", "torch/handles.py", "torch/objects.py"},
    "llvmlite": {"fuse"},
    "numpy": {"fuse", "host.py", "numpy", "torch", "keras", "optax", "conformance.py", "demo"},
    "rich": {"access", "cli.py", "demo", "explanation.py", "run"},
    "typer": {"cli.py"},
    "sklearn": {"demo"},
    "threadpoolctl": {"demo"},
}
"""Which files or folders may import a package of others when they are loaded."""

THIRD_LAZY: dict[str, set[str]] = {
    "torch": {"conformance.py", "cli.py", "keras", "demo/keras_demo.py"},
    "tensorflow": {"keras"},  # where it is the backend, and so loaded
    "jax": {"keras", "conformance.py"},
    # of an optimizer of Keras, who has loaded it; of a check, where Keras is loaded already
    "keras": {"access", "conformance.py", "run"},
    "rich": {"journal_table.py"},
    # ops.sqrt(2.0) at a prompt; what a float32 of a Keras optimizer shows
    "numpy": {"ops.py", "cli.py", "access/keras_groups.py", "run"},
}

STAGES = (
    "counter", "narrow", "rows", "pool", "cache", "graph", "simplify", "segment", "bounds",
    "catch_up", "trace", "emit", "emit_numba", "interpret", "runtime_narrow", "runtime",
    "program", "lazy", "pure", "launch", "engine", "eager", "measure",
)  # fmt: skip
"""The compiler's modules: each imports only those before it when it is loaded."""


@dataclass(frozen=True)
class Import:
    """One import statement's module."""

    path: Path  # relative to the package
    line: int
    module: str  # pellucid.rule, numpy, ...
    lazy: bool  # inside a function

    @property
    def importer(self) -> str:
        """The module or package of ours that it stands in; empty for pellucid/__init__.py."""
        first = self.path.parts[0].removesuffix(".py")
        return "" if first == "__init__" else first

    @property
    def imported(self) -> str:
        """The module or package of ours that it names."""
        return self.module.partition(".")[2].partition(".")[0]

    def stands_in(self, places: set[str]) -> bool:
        return bool({str(one) for one in (self.path, *self.path.parents)} & places)

    def __str__(self) -> str:
        return f"{self.path}:{self.line} imports {self.module}"


def _statements(tree: ast.AST, lazy: bool = False) -> Iterator[tuple[ast.AST, bool]]:
    """Imports that run; those under TYPE_CHECKING do not."""
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        if isinstance(child, (ast.Import, ast.ImportFrom)):
            yield child, lazy
        inside = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        yield from _statements(child, lazy or inside)


def imports_in(source: str, path: Path) -> list[Import]:
    """All imports of a file; ``from . import x`` by its full name."""
    package = ["pellucid", *path.parent.parts]
    found = []
    for node, lazy in _statements(ast.parse(source)):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        else:
            assert isinstance(node, ast.ImportFrom)
            base = package[: len(package) - node.level + 1] if node.level else []
            full = ".".join([*base, *([node.module] if node.module else [])])
            inside = full in ("pellucid", ".".join(package))
            modules = [f"{full}.{a.name}" for a in node.names] if inside else [full]
        found += [Import(path, node.lineno, module, lazy) for module in modules]
    return found


def all_imports() -> list[Import]:
    found: list[Import] = []
    for file in sorted(ROOT.rglob("*.py")):
        found += imports_in(file.read_text(encoding="utf-8"), file.relative_to(ROOT))
    return found


IMPORTS = all_imports()
OURS = [one for one in IMPORTS if one.module.split(".")[0] == "pellucid"]
OTHERS = [one for one in IMPORTS if one.module.split(".")[0] in {*THIRD, *HEAVY, "numpy"}]


def test_imports_are_found() -> None:
    """The reader of imports sees every spelling, and tells what runs when."""
    source = (
        "import numpy as np, pellucid.ops\nfrom . import x\nfrom ..rule import Rule\n"
        "from pellucid import ops\n"
        "if TYPE_CHECKING:\n    import torch\n"
        "class A:\n    import rich\n    def f(self):\n        from pellucid.host import Host\n"
        "try:\n    import jax\nexcept ImportError:\n    pass\n"
    )
    found = imports_in(source, Path("fuse/made.py"))
    assert [(one.module, one.lazy) for one in found] == [
        ("numpy", False), ("pellucid.ops", False), ("pellucid.fuse.x", False),
        ("pellucid.rule", False), ("pellucid.ops", False), ("rich", False),
        ("pellucid.host", True), ("jax", False),
    ]  # fmt: skip
    assert [one.importer for one in found[:1]] == ["fuse"]
    assert [one.imported for one in found if one.module[:8] == "pellucid"] == [
        "ops", "fuse", "rule", "ops", "host",
    ]  # fmt: skip
    assert found[0].stands_in({"fuse"})
    assert found[0].stands_in({"fuse/made.py"})
    assert not found[0].stands_in({"made.py", "fus"})
    assert len(OURS) > 100
    assert {one.importer for one in IMPORTS} >= {"", "ops", "fuse", "numpy", "torch", "rules"}


def test_every_module_has_a_row() -> None:
    missing = {one.importer for one in IMPORTS} - set(ARROWS)
    assert not missing, f"say in ARROWS what they may import: {missing}"


def test_arrows_form_no_circle() -> None:
    TopologicalSorter(ARROWS).prepare()


def test_arrows() -> None:
    wrong = []
    for one in OURS:
        allowed = {*ARROWS.get(one.importer, set()), one.importer, ""}
        if one.lazy:
            allowed |= LAZY.get(one.importer, set())
        if one.imported not in allowed:
            wrong.append(str(one))
    assert not wrong, "\n".join(["not in ARROWS (or LAZY):", *wrong])


def test_frameworks_never_import_each_other() -> None:
    folders = {"numpy", "torch", "keras", "optax"}
    wrong = [
        str(one)
        for one in OURS
        if one.importer in folders and one.imported in folders - {one.importer}
        and not (one.lazy and (str(one.path), one.module) in BETWEEN_FRAMEWORKS)
    ]
    assert not wrong


def test_packages_of_others() -> None:
    wrong = []
    for one in OTHERS:
        package = one.module.split(".")[0]
        places = THIRD.get(package, {package})  # a framework's own folder
        places = places | (THIRD_LAZY.get(package, set()) if one.lazy else set())
        if not one.stands_in(places):
            wrong.append(str(one))
    assert not wrong, "\n".join(wrong)


def test_compiler_stages() -> None:
    found = {path.stem for path in (ROOT / "fuse").glob("*.py")} - {"__init__"}
    assert found == set(STAGES), "put the compiler's modules in their order"
    wrong = []
    for one in OURS:
        if one.importer == one.imported == "fuse" and not one.lazy:
            imported = one.module.split(".")[2]
            if STAGES.index(imported) >= STAGES.index(one.path.stem):
                wrong.append(str(one))
    assert not wrong


def test_every_public_name_is_there() -> None:
    for name in pellucid.__all__:
        assert getattr(pellucid, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'Adem'"):
        _ = pellucid.Adem


# -- what importing loads ----------------------------------------------------------------------


def loaded_by(script: str) -> set[str]:
    """The packages that a program has loaded at its end."""
    ending = "\nimport sys\nprint(*{name.split('.')[0] for name in sys.modules})"
    done = subprocess.run(
        [sys.executable, "-c", script + ending], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_bare_import_loads_nothing() -> None:
    found = loaded_by("import pellucid")
    assert "pellucid" in found
    assert not found & {*HEAVY, "numpy", "rich", "typer"}


def test_rules_load_nothing() -> None:
    found = loaded_by(
        """
from pellucid import *
from pellucid import Adam, Rule, chain, clip_by_global_norm, every, hyper, ops, slot
from pellucid.schedules import Cosine

class Mine(Rule):
    learning_rate = hyper(0.1)
    kept = slot()
    def update(self, param, grad):
        return param - self.learning_rate * ops.sign(grad)

chain(clip_by_global_norm(1.0), Mine(Cosine(0.1, 10)))
repr(Adam(learning_rate=1e-3)), Adam.from_json(Adam().to_json())
"""
    ) - {"numpy", "rich"}  # of `import *`: the view
    assert not found & {*HEAVY, "typer"}
    found = loaded_by("from pellucid import Adam, chain, clip_by_global_norm\nAdam(1e-3)")
    assert not found & {*HEAVY, "numpy", "rich", "typer"}


def test_numpy_optimizer_loads_no_framework() -> None:
    script = """
import numpy, pellucid.numpy
from pellucid import Adam
one = pellucid.numpy.Optimizer({"p": numpy.ones(3)}, Adam(), compiled=False)
one.step([numpy.ones(3)])
"""
    found = loaded_by(script)
    assert "numpy" in found
    assert not found & HEAVY, "line by line nothing is compiled"
    found = loaded_by(script.replace(", compiled=False", ""))
    assert "numba" in found
    assert not found & FRAMEWORKS


def test_modules_import_in_any_order() -> None:
    """Each module by itself, nothing of ours loaded before: no circle hides behind an order."""
    names = [
        "pellucid." + ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in sorted(ROOT.rglob("*.py"))
        if path.stem not in ("__init__", "__main__") and "demo" not in path.parts
        # callbacks of trainers, which may be missing; their own tests import them
        and path.name not in ("lightning.py", "transformers.py")
    ]
    assert len(names) > 40
    loaded_by(
        f"""
import importlib, sys
for name in {names!r}:
    for old in [one for one in sys.modules if one.split(".")[0] == "pellucid"]:
        del sys.modules[old]
    importlib.import_module(name)
"""
    )


def test_import_is_quick() -> None:
    """Under 100 ms, though it takes about 5: the best of a few, since others run here, too."""
    took = []
    for _ in range(5):
        done = subprocess.run(
            [sys.executable, "-X", "importtime", "-c", "import pellucid"],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        (line,) = re.findall(r"^import time:.*\|\s+(\d+) \|\s+pellucid$", done.stderr, re.MULTILINE)
        took.append(int(line))
        if took[-1] < 100_000:
            return
    pytest.fail(f"import pellucid took {took} microseconds")
