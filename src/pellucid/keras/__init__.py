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

_PLACES = {"Optimizer": "optimizer"}
_MODULES = ("legacy", "callbacks")


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"pellucid.keras.{name}")
    if name in _PLACES:
        found = getattr(import_module(f"pellucid.keras.{_PLACES[name]}"), name)
    else:
        named = import_module("pellucid.keras.named").NAMED
        if name not in named:
            raise AttributeError(f"module 'pellucid.keras' has no attribute {name!r}")
        found = named[name]
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    from pellucid.keras.named import NAMED

    return sorted([*globals(), *_PLACES, *_MODULES, *NAMED])
