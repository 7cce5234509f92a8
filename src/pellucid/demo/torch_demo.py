"""The demo in PyTorch: a convolutional network, and how the same rule compares."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy
import torch
from rich.console import Console
from torch import nn

import pellucid.numpy
import pellucid.torch
from pellucid.compose import Composed
from pellucid.demo.digits import Digits, load_digits
from pellucid.demo.screen import Screen

__all__ = ["run"]

TARGET, EPOCHS = 0.98, 20
COMPARED_STEPS = 20
ROUNDS, STEPS = 11, 20


def run(console: Console, rule: Composed, epochs: int = EPOCHS) -> bool:
    """Train, change the rate, measure, compare; whether all is as it should be."""
    began = time.perf_counter()
    screen, digits, model = Screen(console), load_digits(), new_model()
    screen.rule(rule)
    size = sum(param.numel() for param in model.parameters())
    screen.heading(f"Training: {len(digits.labels)} digits, {size:,} weights, PyTorch")
    optimizer = pellucid.torch.Optimizer(model, rule)
    first = range(epochs * 2 // 3)
    with _one_thread():
        _train(screen, model, optimizer, digits, first)
        screen.change(screen.table(optimizer), "fine-tune")
        _train(screen, model, optimizer, digits, range(len(first), epochs))
        _measure(screen, rule, model)
        same = _same_in_numpy(screen, rule, digits)
    right = _accuracy(model, digits)
    seconds = time.perf_counter() - began
    return screen.result(right, TARGET, len(digits.held_out_labels), seconds) and same


# -- training ----------------------------------------------------------------------------------


def new_model(seed: int = 0) -> nn.Module:
    """Two convolutions and a linear layer."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(1, 32, 3, padding=1),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.Conv2d(32, 32, 3, padding=1),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(512, 10),
        )


@contextmanager
def _one_thread() -> Iterator[None]:
    """Tensors so small gain nothing by a second thread, and lose much on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _backward(model: nn.Module, images: Any, labels: Any) -> float:
    """The loss of a batch; the gradients stand in ``.grad``."""
    model.zero_grad()
    scores = model(torch.from_numpy(images)[:, None])
    loss = nn.functional.cross_entropy(scores, torch.from_numpy(labels))
    loss.backward()  # type: ignore[no-untyped-call]
    return loss.item()


def _train(screen: Screen, model: nn.Module, optimizer: Any, digits: Digits, epochs: range) -> None:
    with screen.progress(len(epochs)) as report:
        for epoch in epochs:
            losses = []
            for images, labels in digits.batches(epoch):
                losses.append(_backward(model, images, labels))
                optimizer.step()
            report(sum(losses) / len(losses), _accuracy(model, digits))


@torch.no_grad()
def _accuracy(model: nn.Module, digits: Digits) -> float:
    model.eval()
    scores = model(torch.from_numpy(digits.held_out_images)[:, None])
    model.train()
    return float((scores.argmax(1).numpy() == digits.held_out_labels).mean())


# -- beside torch's own ------------------------------------------------------------------------


def _measure(screen: Screen, rule: Composed, model: nn.Module) -> None:
    """The time of a step in turns with torch's own optimizer: AdamW in both, since torch has it."""
    screen.heading("Beside torch's own optimizer: the time of optimizer.step()")
    own = [tuple(param.shape) for param in model.parameters()]
    many: list[tuple[int, ...]] = [(32, 32)] * 100
    makers: dict[str, Callable[[list[Any]], Any]] = {
        "Pellucid's AdamW": pellucid.torch.AdamW,
        "torch.optim.AdamW": torch.optim.AdamW,
        "torch.optim.AdamW(fused=True)": lambda group: torch.optim.AdamW(group, fused=True),
        "the rule above": lambda group: pellucid.torch.Optimizer(group, rule),
    }
    for name, shapes in (
        (f"this model, {len(own)} tensors", own),
        (f"{len(many)} tensors of 32 x 32", many),
    ):
        times = _interleaved(makers, shapes)
        ours, torchs, fused, ruled = times.values()
        screen.say(
            f"{name}: Pellucid's AdamW {_micro(ours)}\n"
            f"    torch.optim.AdamW {_micro(torchs)}: ratio {torchs / ours:.2f}\n"
            f"    torch.optim.AdamW(fused=True) {_micro(fused)}: ratio {fused / ours:.2f}\n"
            f"    the rule above {_micro(ruled)}"
        )
    screen.say(
        f"Above 1 Pellucid is faster. Medians of {ROUNDS} rounds of {STEPS} steps in turns, "
        "one thread, float32, on this machine. Tensors so small measure overhead, not memory: "
        "`make bench` has large ones.",
        "dim",
    )


def _micro(seconds: float) -> str:
    return f"{seconds * 1e6:.0f} µs"


def _interleaved(
    makers: dict[str, Callable[[list[Any]], Any]], shapes: list[tuple[int, ...]]
) -> dict[str, float]:
    """The median time of a step of each optimizer, in seconds; they take turns."""
    optimizers = {}
    for name, make in makers.items():
        generator = torch.Generator().manual_seed(0)
        params = [nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]
        for param in params:
            param.grad = torch.randn(param.shape, generator=generator)
        optimizers[name] = make(params)
    times: dict[str, list[float]] = {name: [] for name in makers}
    for number in range(ROUNDS + 1):
        for name, optimizer in optimizers.items():
            began = time.perf_counter()
            for _ in range(STEPS):
                optimizer.step()
            if number:  # the first round warms up
                times[name].append((time.perf_counter() - began) / STEPS)
    return {name: statistics.median(measured) for name, measured in times.items()}


# -- beside NumPy ------------------------------------------------------------------------------


def _same_in_numpy(screen: Screen, rule: Composed, digits: Digits) -> bool:
    """Run the rule on the same gradients in both frameworks; whether the weights are the same."""
    screen.heading("The same numbers in NumPy and in PyTorch")
    model = new_model(seed=1)
    ours = {name: p.detach().numpy().copy() for name, p in model.named_parameters()}
    in_torch = pellucid.torch.Optimizer(model, rule)
    in_numpy = pellucid.numpy.Optimizer(ours, rule)
    batches = list(digits.batches(0))
    for number in range(COMPARED_STEPS):
        _backward(model, *batches[number % len(batches)])
        in_numpy.step({name: _gradient(p) for name, p in model.named_parameters()})
        in_torch.step()
    largest = max(
        float(numpy.abs(ours[name] - param.detach().numpy()).max())
        for name, param in model.named_parameters()
    )
    size = sum(array.size for array in ours.values())
    return screen.difference(COMPARED_STEPS, size, largest, 1e-6)


def _gradient(param: Any) -> Any:
    return param.grad.numpy().copy()
