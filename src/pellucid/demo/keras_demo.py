"""The demo in Keras: a rule passed to ``model.compile``, and changed while ``fit`` runs."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras
import numpy
from rich.console import Console

import pellucid.keras
import pellucid.numpy
from pellucid.access import View, view
from pellucid.compose import Composed, Route, flatten
from pellucid.demo.digits import BATCH, Digits, load_digits
from pellucid.demo.screen import Report, Screen, rate_of

__all__ = ["run"]

TARGET, EPOCHS = 0.97, 15
COMPARED_STEPS = 5
REASON = "fine-tune"


def run(console: Console, rule: Composed, epochs: int = EPOCHS) -> bool:
    """Train, change the rate in a callback, show, compare; whether all is as it should be."""
    began = time.perf_counter()
    screen, digits, model = Screen(console), load_digits(), new_model()
    screen.rule(rule)
    backend = keras.backend.backend()
    screen.heading(
        f"Training: {len(digits.labels)} digits, {model.count_params():,} weights, Keras "
        f"{keras.__version__} on {backend}"
    )
    optimizer = pellucid.keras.Optimizer(rule)
    model.compile(
        optimizer, keras.losses.SparseCategoricalCrossentropy(True), metrics=["accuracy"]
    )
    change = Change(optimizer, epochs * 2 // 3)
    with _one_thread(), screen.progress(epochs) as report:
        history = model.fit(
            Batches(digits), epochs=epochs, verbose=0, callbacks=[change, Progress(report)],
            validation_data=(digits.held_out_images[..., None], digits.held_out_labels),
        )  # fmt: skip
    acted = change.show(screen)
    screen.table(optimizer)
    screen.heading("The journal: print(pellucid.journal(optimizer).table())")
    screen.say(str(optimizer.journal.table()))
    same = _same_in_numpy(screen, rule)
    right = history.history["val_accuracy"][-1]
    seconds = time.perf_counter() - began
    reached = screen.result(right, TARGET, len(digits.held_out_labels), seconds)
    return reached and acted and same


def new_model(seed: int = 0) -> Any:
    """Two convolutions and a linear layer."""
    keras.utils.set_random_seed(seed)
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(32, 3, padding="same"),
            layers.BatchNormalization(momentum=0.9),
            layers.ReLU(),
            layers.Conv2D(32, 3, padding="same"),
            layers.BatchNormalization(momentum=0.9),
            layers.ReLU(),
            layers.MaxPooling2D(2),
            layers.Flatten(),
            layers.Dense(10),
        ]
    )


@contextmanager
def _one_thread() -> Iterator[None]:
    """Tensors so small gain nothing by torch's second thread, and lose much on a busy machine."""
    if keras.backend.backend() != "torch":
        yield
        return
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


# -- training ----------------------------------------------------------------------------------


class Batches(keras.utils.PyDataset):  # type: ignore[misc]
    """Each epoch's batches; without the odd one at the end, for which a step is compiled anew."""

    def __init__(self, digits: Digits) -> None:
        super().__init__()
        self._digits, self._epoch = digits, -1
        self.on_epoch_end()

    def on_epoch_end(self) -> None:
        self._epoch += 1
        self._batches = [*self._digits.batches(self._epoch)][: len(self)]

    def __len__(self) -> int:
        return len(self._digits.labels) // BATCH

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        images, labels = self._batches[index]
        return images[..., None], labels


class Progress(keras.callbacks.Callback):  # type: ignore[misc]
    """Moves the bar."""

    def __init__(self, report: Report) -> None:
        super().__init__()
        self._report = report

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self._report(logs["loss"], logs["val_accuracy"])


class Change(keras.callbacks.Callback):  # type: ignore[misc]
    """Divides the rate by ten in the middle of ``fit``, between two batches.

    Measures how far the batches before and after it move the weights.
    """

    def __init__(self, optimizer: Any, epoch: int) -> None:
        super().__init__()
        self._optimizer, self._epoch = optimizer, epoch
        self._epoch_now = 0
        self._weights: list[Any] = []
        self._moves: list[float] = []
        self._done: tuple[str, float, View] | None = None

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._epoch_now = epoch

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        if self._epoch_now == self._epoch and batch < 2:
            if batch == 1:
                self._change()
            self._weights = self._held()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if self._epoch_now == self._epoch and batch < 2:
            pairs = zip(self._weights, self._held(), strict=True)
            self._moves.append(max(float(numpy.abs(b - a).max()) for a, b in pairs))

    def _held(self) -> list[Any]:
        """Copies of the weights that are trained."""
        return [
            numpy.array(keras.ops.convert_to_numpy(one.value))
            for one in self.model.trainable_variables
        ]

    def _change(self) -> None:
        table = view(self._optimizer)
        found = rate_of(table)
        if found is not None:
            name, value = found
            table.set(name, value / 10, reason=REASON)
            self._done = name, value / 10, table

    def show(self, screen: Screen) -> bool:
        """What was done, and what the compiled step made of it; whether the weights move less."""
        screen.heading("A change by name inside of fit, by a callback")
        if self._done is None:
            screen.say("this rule has no one number to change for all weights")
            return True
        name, value, table = self._done
        screen.say(f'view.set("{name}", {value:g}, reason="{REASON}")', "bold")
        screen.say(f"journal: {table.journal[-1]}")
        before, after = self._moves
        acted = after < before
        verdict = "it acted at once, with no step compiled anew" if acted else "it did not act"
        screen.say(
            f"a batch moved weights by {before:.2g} at most before it, the next one by "
            f"{after:.2g}: {verdict}",
            "bold green" if acted else "bold red",
        )
        return acted


# -- beside NumPy ------------------------------------------------------------------------------


def _same_in_numpy(screen: Screen, rule: Composed) -> bool:
    """Run the rule on the same gradients in both; whether the weights are the same."""
    screen.heading("The same numbers in NumPy and in Keras")
    if any(isinstance(one, Route) for one in flatten(rule)):
        screen.say("a route's patterns are of Keras's paths, and names in NumPy have no slashes")
        return True
    variables = new_model(seed=1).trainable_variables
    ours = {_name(one): numpy.array(keras.ops.convert_to_numpy(one.value)) for one in variables}
    in_keras = pellucid.keras.Optimizer(rule)
    in_numpy = pellucid.numpy.Optimizer(ours, rule)
    random = numpy.random.default_rng(0)
    for _ in range(COMPARED_STEPS):
        gradients = {
            name: random.standard_normal(array.shape).astype("float32")
            for name, array in ours.items()
        }
        in_numpy.step(gradients)
        in_keras.apply([*map(keras.ops.convert_to_tensor, gradients.values())], variables)
    largest = max(
        float(numpy.abs(ours[_name(one)] - keras.ops.convert_to_numpy(one.value)).max())
        for one in variables
    )
    size = sum(array.size for array in ours.values())
    return screen.difference(COMPARED_STEPS, size, largest, 1e-5)


def _name(variable: Any) -> str:
    return str(variable.path).replace("/", ".")
