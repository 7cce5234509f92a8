"""Which backend the demo in Keras runs on; ``python -m pellucid.demo.keras_backend`` prints it.

Loads no framework, so that it can be asked before one is installed.
"""

from __future__ import annotations

import json
import os
from importlib.util import find_spec
from pathlib import Path

__all__ = ["BACKENDS", "chosen", "installed"]

BACKENDS = ("tensorflow", "torch", "jax")
SMALLEST = "jax"  # of the three, where none is installed


def chosen() -> str:
    """The environment's KERAS_BACKEND, else that of keras.json, else what is installed.

    Keras writes "tensorflow" into keras.json unasked, so there that counts only where TensorFlow
    is installed.

    Raises:
        ValueError: a backend on which no model can be trained.
    """
    named, source = os.environ.get("KERAS_BACKEND", ""), "KERAS_BACKEND"
    if not named:
        file = _file()
        named, source = _named_in(file), str(file)
        if named == "tensorflow" and not installed(named):
            named = ""
    if not named:
        return next(filter(installed, BACKENDS), SMALLEST)
    if named not in BACKENDS:
        raise ValueError(
            f"{source} names the backend {named!r}; allowed is {', '.join(BACKENDS)}: "
            "KERAS_BACKEND=jax, for one"
        )
    return named


def installed(backend: str) -> bool:
    """Whether a backend can be imported."""
    return find_spec(backend) is not None


def _file() -> Path:
    """Keras's own settings, where Keras looks for them."""
    home = os.environ.get("KERAS_HOME")
    return Path(home if home else Path.home() / ".keras") / "keras.json"


def _named_in(file: Path) -> str:
    try:
        return str(json.loads(file.read_text(encoding="utf-8")).get("backend", ""))
    except (OSError, ValueError, AttributeError):  # none, or none that Keras would read
        return ""


if __name__ == "__main__":
    import sys

    try:
        print(chosen())
    except ValueError as error:
        sys.exit(f"pellucid: error: {error}")
