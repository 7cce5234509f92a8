"""Rules as native Keras 3 optimizers, on TensorFlow, JAX and torch.

>>> import keras, pellucid
>>> import pellucid.keras
>>> optimizer = pellucid.keras.Optimizer(pellucid.Lion(3e-4))
>>> isinstance(optimizer, keras.optimizers.Optimizer)
True
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from pellucid.keras.optimizer import Optimizer

__all__ = ["Optimizer"]

_MODULES = ("legacy", "callbacks")
_CALLBACKS = {
    "JournalCallback": "callbacks",
    **dict.fromkeys(
        ("HyperparameterLogger", "HyperparameterScheduler", "ReduceOnPlateau"), "logging_callbacks"
    ),
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"pellucid.keras.{name}")
    if name in _CALLBACKS:
        return getattr(import_module(f"pellucid.keras.{_CALLBACKS[name]}"), name)
    if name[:1].isupper():
        named = import_module("pellucid.keras.named").NAMED
        if name in named:
            globals()[name] = named[name]
            return named[name]
    raise AttributeError(f"module 'pellucid.keras' has no attribute {name!r}")


def __dir__() -> list[str]:
    named = import_module("pellucid.keras.named").NAMED
    return sorted([*globals(), *_MODULES, *_CALLBACKS, *named])
