"""PyTorch: rules as `torch.optim.Optimizer`s.

`Optimizer` runs any rule; each rule of the catalogue is also a class with torch's argument names,
``pellucid.torch.AdamW(model.parameters(), lr=1e-3)``.
"""

from typing import Any

# Made when first asked for: a view of a stranger's optimizer needs the table of names alone.


def __getattr__(name: str) -> Any:
    if name.startswith("__") and name != "__all__":
        raise AttributeError(f"module 'pellucid.torch' has no attribute {name!r}")
    from pellucid.run.scheduling import HyperparameterScheduler, ReduceOnPlateau
    from pellucid.torch.named import NAMED
    from pellucid.torch.optimizer import Optimizer

    schedulers = {one.__name__: one for one in (HyperparameterScheduler, ReduceOnPlateau)}
    found = {"Optimizer": Optimizer, **schedulers, **NAMED}
    found["__all__"] = [*found]
    globals().update(found)
    if name not in found:
        raise AttributeError(f"module 'pellucid.torch' has no attribute {name!r}")
    return found[name]


def __dir__() -> list[str]:
    return sorted({*__getattr__("__all__"), *globals()})
