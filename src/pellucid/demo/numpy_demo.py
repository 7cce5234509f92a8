"""The demo in NumPy alone."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from rich.console import Console

from pellucid.compose import Composed
from pellucid.demo.digits import Digits, load_digits
from pellucid.demo.network import accuracy, loss_and_gradients, new_parameters
from pellucid.demo.screen import Screen
from pellucid.numpy import Optimizer

__all__ = ["run"]

TARGET, EPOCHS = 0.97, 30


def run(console: Console, rule: Composed, epochs: int = EPOCHS) -> bool:
    """Train, change the rate, save, load, continue; whether all is as it should be."""
    began = time.perf_counter()
    screen, digits, params = Screen(console), load_digits(), new_parameters()
    screen.rule(rule)
    size = sum(array.size for array in params.values())
    screen.heading(f"Training: {len(digits.labels)} digits, {size:,} weights, NumPy alone")
    optimizer = Optimizer(params, rule)
    first = range(epochs * 2 // 3)
    with _one_thread():
        _train(screen, optimizer, digits, first)
        screen.change(screen.table(optimizer), "fine-tune")
        same = _saved_and_continued(screen, optimizer, digits, rule, range(len(first), epochs))
    right = accuracy(params, digits.held_out_images, digits.held_out_labels)
    seconds = time.perf_counter() - began
    return screen.result(right, TARGET, len(digits.held_out_labels), seconds) and same


def _train(screen: Screen, optimizer: Optimizer, digits: Digits, epochs: Iterable[int]) -> None:
    listed = list(epochs)
    with screen.progress(len(listed)) as report:
        for epoch in listed:
            losses = []
            for images, labels in digits.batches(epoch):
                loss, gradients = loss_and_gradients(optimizer.params, images, labels)
                optimizer.step(gradients)
                losses.append(loss)
            right = accuracy(optimizer.params, digits.held_out_images, digits.held_out_labels)
            report(sum(losses) / len(losses), right)


def _saved_and_continued(
    screen: Screen, optimizer: Optimizer, digits: Digits, rule: Composed, epochs: range
) -> bool:
    """Save, go on; load into a fresh optimizer, go on there: whether both end equal, bit by bit."""
    screen.heading("A checkpoint: saved, loaded and continued")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "digits.npz"
        optimizer.save(file)
        screen.say(f"saved after {optimizer.updates} updates: {file.stat().st_size:,} bytes, .npz")
        _train(screen, optimizer, digits, epochs)
        fresh = Optimizer(new_parameters(seed=1), rule)
        fresh.load(file)
    screen.say("loaded into a fresh optimizer, and continued")
    _train(screen, fresh, digits, epochs)
    ours, theirs = _arrays(optimizer), _arrays(fresh)
    odd = [name for name in ours if ours[name].tobytes() != theirs[name].tobytes()]
    if odd or ours.keys() != theirs.keys() or optimizer.updates != fresh.updates:
        screen.say(f"the two are not equal: {', '.join(odd)}", "bold red")
        return False
    screen.say(
        f"equal bit for bit after {fresh.updates} updates: {len(optimizer.params)} parameters and "
        f"{len(ours) - len(optimizer.params)} slots",
        "bold green",
    )
    return True


def _one_thread() -> AbstractContextManager[Any]:
    """Matrices so small are multiplied faster by one thread."""
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # has no types

    return threadpool_limits(1)  # type: ignore[no-any-return]


def _arrays(optimizer: Optimizer) -> dict[str, Any]:
    """Parameters and slots by name."""
    slots = {
        f"{name}/{slot}": array
        for name, held in optimizer.state.items()
        for slot, array in held.items()
    }
    return {**optimizer.params, **slots}
