"""What importing loads, how long it takes nobody measures here, and who may import whom."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[2] / "src" / "pellucid"
HEAVY = ("numpy", "numba", "torch", "tensorflow", "keras", "jax", "optax", "rich", "typer")

FUSE = {"ops", "declare", "rule", "compose", "controls", "changes", "fuse"}
CORE = FUSE | {"host", "schedules"}
MAY_IMPORT: dict[str, set[str]] = {
    "ops": set(),
    "schedules": set(),
    "changes": set(),
    "declare": {"ops", "rule", "schedules"},  # rule for annotations only; schedules lazily
    "rule": {"ops", "declare", "rules", "transforms"},  # the last two lazily, to look classes up
    "compose": {"ops", "declare", "rule"},
    "transforms": {"ops", "declare", "rule"},
    "rules": {"ops", "declare", "rule", "rules"},
    "controls": {"ops", "declare", "compose", "changes"},
    "fuse": FUSE | {"host"},  # host for annotations only
    "host": CORE,
    "numpy": CORE | {"numpy"},
    "torch": CORE | {"torch", "rules"},
    "access": CORE | {"access"},
    "stage_text": CORE | {"rules", "transforms", "stage_text"},
    "explanation": CORE | {"rules", "transforms", "stage_text"},
    "conformance": CORE | {"numpy", "torch"},  # frameworks lazily
}
EVERYWHERE = {"demo", "cli"}  # on top: may import all


def own_imports(path: Path) -> set[str]:
    """The parts of pellucid that a module imports, wherever in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module]
            if node.module == "pellucid":
                names = [f"pellucid.{alias.name}" for alias in node.names]
        for name in names:
            head, _, rest = name.partition(".")
            if head == "pellucid" and rest:
                found.add(rest.split(".")[0])
    return found


def part_of(path: Path) -> str:
    """The part of pellucid that a file belongs to."""
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


MODULES = [path for path in sorted(SOURCE.rglob("*.py")) if path != SOURCE / "__init__.py"]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_follow_the_arrows(path: Path) -> None:
    part = part_of(path)
    if part not in EVERYWHERE:
        assert part in MAY_IMPORT, f"{part} is new: say in this table what it may import"
        assert own_imports(path) <= MAY_IMPORT[part]


@pytest.mark.parametrize("framework", ["torch", "tensorflow", "keras", "jax", "optax"])
def test_a_framework_is_imported_in_its_own_folder_alone(framework: str) -> None:
    for path in MODULES:
        if part_of(path) in {framework, *EVERYWHERE}:
            continue
        tree = ast.parse(path.read_text())
        top = [node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))]
        for node in top:
            names = (
                [alias.name for alias in node.names]
                if isinstance(node, ast.Import)
                else [node.module or ""]
            )
            assert framework not in {name.split(".")[0] for name in names}, path


def test_importing_pellucid_loads_nothing_heavy() -> None:
    program = (
        "import json, sys, pellucid, pellucid.rules, pellucid.transforms, pellucid.schedules;"
        "pellucid.AdamW(); print(json.dumps(sorted(sys.modules)))"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    loaded = set(json.loads(run.stdout))
    assert "pellucid.rules" in loaded
    assert not loaded & set(HEAVY)


def test_the_numpy_optimizer_loads_no_framework() -> None:
    program = (
        "import sys, numpy, pellucid, pellucid.numpy;"
        "p = {'w': numpy.ones(3)};"
        "pellucid.numpy.Optimizer(p, pellucid.AdamW()).step({'w': numpy.ones(3)});"
        "print(*sorted(sys.modules))"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    loaded = set(run.stdout.split())
    assert "numba" in loaded
    assert not loaded & {"torch", "tensorflow", "keras", "jax", "optax"}


def test_every_public_name_is_there() -> None:
    import pellucid

    for name in pellucid.__all__:
        assert getattr(pellucid, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'Adem'"):
        _ = pellucid.Adem
