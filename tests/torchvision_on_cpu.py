"""torchvision from PyPI loads no kernels beside a CPU build of torch, and then fails.

It fails for want of two operators that nobody calls here: so they are declared. timm, transformers
and torchmetrics, which Lightning needs, import it.
"""

import torch

try:
    import torchvision
except RuntimeError:
    for name in ("nms", "qnms"):
        torch.library.define(
            f"torchvision::{name}", "(Tensor dets, Tensor scores, float threshold) -> Tensor"
        )
    import torchvision  # noqa: F401
