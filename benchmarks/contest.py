"""Contenders that take turns, so that all see the same machine; the work that they do."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import numpy
import torch

import pellucid.torch

Shapes = Sequence[tuple[int, ...]]
BLOCK = [(768,), (768,), (768, 2304), (2304,), (768, 768), (768,)]
BLOCK += [(768,), (768,), (768, 3072), (3072,), (3072, 768), (768,)]
WORK: dict[str, Shapes] = {
    "one tensor of 25 M": [(25_000_000,)],
    "GPT-2 small (148 tensors, 124 M)": [(50257, 768), (1024, 768), *BLOCK * 12, (768,), (768,)],
    "1000 tensors of 1024": [(1024,)] * 1000,
    "2000 tensors of 64": [(64,)] * 2000,
    "100 tensors of 65,536": [(65536,)] * 100,
}
GPT2, SMALL = "GPT-2 small (148 tensors, 124 M)", "1000 tensors of 1024"


def parameters(shapes: Shapes, dtype: torch.dtype = torch.float32) -> list[torch.nn.Parameter]:
    """Parameters with gradients."""
    torch.manual_seed(0)
    made = []
    for shape in shapes:
        param = torch.nn.Parameter((torch.randn(shape) * 0.02).to(dtype))
        param.grad = (torch.randn(shape) * 1e-3).to(dtype)
        made.append(param)
    return made


@dataclass
class Contest:
    """Contenders that take turns."""

    shapes: Shapes
    steps: dict[str, Callable[[], Any]] = field(default_factory=dict)

    def add(
        self,
        name: str,
        make: Callable[[list[Any]], Callable[[], Any]],
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """A contender with parameters of its own."""
        self.steps[name] = make(parameters(self.shapes, dtype))

    def run(self, seconds: float) -> dict[str, float]:
        """The median time of a step of each, in seconds."""
        turn = 1 if sum(map(numpy.prod, self.shapes)) > 5_000_000 else 5
        times: dict[str, list[float]] = {name: [] for name in self.steps}
        for step in self.steps.values():
            step(), step(), step()
        end = time.perf_counter() + seconds
        while time.perf_counter() < end or min(map(len, times.values())) < 7:
            for name, step in self.steps.items():
                for _ in range(turn):
                    begun = time.perf_counter()
                    step()
                    times[name].append(time.perf_counter() - begun)
        return {name: median(some) for name, some in times.items()}


def ours(stage: Any, **kwargs: Any) -> Callable[[list[Any]], Callable[[], Any]]:
    """A contender of ours."""
    return lambda params: pellucid.torch.Optimizer(params, stage, **kwargs).step


def line(*cells: str) -> None:
    print("| " + " | ".join(cells) + " |", flush=True)
