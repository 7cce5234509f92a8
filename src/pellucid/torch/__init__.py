"""PyTorch: rules as `torch.optim.Optimizer`s.

`Optimizer` runs any rule; each rule of the catalogue is also a class with torch's argument names,
``pellucid.torch.AdamW(model.parameters(), lr=1e-3)``.
"""

from importlib import import_module
from typing import Any

_SCHEDULERS = ("HyperparameterScheduler", "ReduceOnPlateau")

# Made when first asked for: a view of a stranger's optimizer needs the table of names alone.


def __getattr__(name: str) -> Any:
    if name.startswith("__") and name != "__all__":
        raise AttributeError(f"module 'pellucid.torch' has no attribute {name!r}")
    if name in _SCHEDULERS:
        return getattr(import_module("pellucid.run.scheduling"), name)
    from pellucid.torch.named import NAMED
    from pellucid.torch.optimizer import Optimizer
    from pellucid.torch.report import LoadReport

    found = {"LoadReport": LoadReport, "Optimizer": Optimizer, **NAMED}
    found["__all__"] = [*found, *_SCHEDULERS]
    globals().update(found)
    if name not in found:
        raise AttributeError(f"module 'pellucid.torch' has no attribute {name!r}")
    return found[name]


def __dir__() -> list[str]:
    return sorted({*__getattr__("__all__"), *globals()})
