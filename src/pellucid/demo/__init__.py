"""``pellucid demo``: a rule of ten lines trains a real model, in view all the way."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from pellucid.compose import Composed

__all__ = ["FRAMEWORKS", "run"]

FRAMEWORKS = {
    "numpy": "pellucid.demo.numpy_demo",
    "torch": "pellucid.demo.torch_demo",
    "keras": "pellucid.demo.keras_demo",
}
LATER = ("jax",)


def run(
    console: Console,
    framework: str = "numpy",
    rule: Composed | None = None,
    epochs: int | None = None,
) -> bool:
    """Train, show, change, and check.

    Args:
        console: where it is shown.
        framework: ``"numpy"``, ``"torch"`` or ``"keras"``.
        rule: what to train with; None is the demo's own, `pellucid.demo.lion.Lion`.
        epochs: how often each image is seen; the rate falls after two thirds of them;
            None is what the framework's network needs.

    Returns:
        Whether the accuracy on held-out digits is what it should be, and all checks held.

    Raises:
        ValueError, ImportError: an unknown framework, or one that is not installed.
    """
    if framework in LATER:
        raise ValueError(
            f"framework {framework!r}: the demo for it comes later; there are "
            f"{', '.join(FRAMEWORKS)}"
        )
    if framework not in FRAMEWORKS:
        raise ValueError(f"framework is {framework!r}; allowed is {', '.join(FRAMEWORKS)}")
    if epochs is not None and epochs < 2:
        raise ValueError(f"epochs is {epochs}; allowed is a whole number from 2")
    if rule is None:
        from pellucid.demo.lion import Lion

        rule = Lion()
    if framework == "keras":
        _choose_backend()
    try:
        module = import_module(FRAMEWORKS[framework])
    except ModuleNotFoundError as error:
        if error.name != framework:
            raise
        raise ImportError(
            f"the demo for {framework} needs it: pip install 'pellucid[{framework}]'"
        ) from None
    return bool(module.run(console, rule, epochs or module.EPOCHS))


def _choose_backend() -> None:
    """Tell Keras its backend before it is imported, and TensorFlow to keep its notices back."""
    from pellucid.demo import keras_backend

    if "keras" in sys.modules:
        return
    backend = keras_backend.chosen()
    if not keras_backend.installed(backend):
        raise ImportError(
            f"the demo for keras runs on {backend} here, which is not installed: "
            f"pip install 'pellucid[keras,{backend}]', or KERAS_BACKEND={backend} make demo "
            "FRAMEWORK=keras; KERAS_BACKEND names another"
        )
    os.environ["KERAS_BACKEND"] = backend
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
