"""``make test``: the main suite, then Keras's tests on each of its backends, each in a process.

``make test ARGS="tests/keras -k sgd"``: arguments go to pytest; a suite whose paths are not among
them does not run.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
KERAS = Path("tests/keras")
BACKENDS = ("tensorflow", "jax", "torch")
NOTHING_COLLECTED = 5


@dataclass(frozen=True)
class Suite:
    """One run of pytest; the main suite has no backend of Keras, and so leaves its tests out."""

    name: str
    backend: str

    def arguments(self, given: list[str]) -> list[str] | None:
        """What pytest gets of the given arguments; None if they name only tests of others."""
        places = [place for one in given if (place := _place(one)) is not None]
        if not self.backend:
            ours = [place for place in places if not place.is_relative_to(KERAS)]
            return given if ours or not places else None
        kept: list[str] = []
        for one in given:
            place = _place(one)
            if place is None or place.is_relative_to(KERAS):
                kept.append(one)
            elif KERAS.is_relative_to(place):
                kept.append(str(KERAS))
        if not places:
            return [*kept, str(KERAS)]
        return kept if any(_place(one) is not None for one in kept) else None

    def run(self, arguments: list[str]) -> int:
        """Pytest's exit code."""
        environment = {key: value for key, value in os.environ.items() if key != "KERAS_BACKEND"}
        if self.backend:
            environment["KERAS_BACKEND"] = self.backend
        # A worker takes neighbours, which share what was compiled, and then of the other's rest.
        command = [sys.executable, "-m", "pytest", "-n", "2", "--dist", "worksteal", *arguments]
        return subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode


SUITES = (Suite("main", ""), *(Suite(f"Keras on {backend}", backend) for backend in BACKENDS))


def _place(argument: str) -> Path | None:
    """The path of an argument that names tests, from the root; None of any other."""
    path = ROOT / argument.partition("::")[0]
    if argument.startswith("-") or not path.exists():
        return None
    resolved = path.resolve()
    return resolved.relative_to(ROOT) if resolved.is_relative_to(ROOT) else None


def main(given: list[str]) -> int:
    """Run all suites that the arguments concern, whatever fails; 1 if any failed."""
    codes: dict[str, int] = {}
    lines = []
    for suite in SUITES:
        arguments = suite.arguments(given)
        if arguments is None:
            continue
        print(f"== {suite.name}: pytest -n 2 {' '.join(arguments)}".rstrip(), flush=True)
        began = time.perf_counter()
        code = codes[suite.name] = suite.run(arguments)
        outcome = {0: "passed", NOTHING_COLLECTED: "no tests"}.get(code, f"FAILED (exit {code})")
        lines.append(f"{suite.name:20s} {outcome}, {time.perf_counter() - began:.0f} s")
    print("", *lines, sep="\n")
    failed = [code for code in codes.values() if code not in (0, NOTHING_COLLECTED)]
    return int(bool(failed) or 0 not in codes.values())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
