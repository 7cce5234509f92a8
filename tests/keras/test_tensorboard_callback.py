"""Keras's TensorBoard callback with an optimizer of ours: TensorBoard's reader finds the rate."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util.tensor_util import make_ndarray

import pellucid.keras
from pellucid.schedules import Linear


def test_the_rate_of_each_epoch(tmp_path: Path) -> None:
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    model.compile(pellucid.keras.AdamW(Linear(0.1, 0.02, 8)), loss="mse")
    x, y = numpy.ones((8, 3), "float32"), numpy.ones((8, 1), "float32")
    model.fit(
        x, y, 4, 3, verbose=0, callbacks=[keras.callbacks.TensorBoard(tmp_path, histogram_freq=1)]
    )
    found = EventAccumulator(str(tmp_path / "train"))
    found.Reload()
    rates = [float(make_ndarray(one.tensor_proto)) for one in found.Tensors("epoch_learning_rate")]
    numpy.testing.assert_allclose(rates, [0.08, 0.06, 0.04], rtol=1e-6)
