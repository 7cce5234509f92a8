"""PyTorch: rules as `torch.optim.Optimizer`s.

`Optimizer` runs any rule; each rule of the catalogue is also a class with torch's argument names,
``pellucid.torch.AdamW(model.parameters(), lr=1e-3)``.
"""

from pellucid.torch.named import NAMED
from pellucid.torch.optimizer import Optimizer

globals().update(NAMED)
__all__ = ["Optimizer", *NAMED]
