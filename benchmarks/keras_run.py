"""Keras on one backend: a compiled step of ours beside Keras's own, interleaved, medians.

``KERAS_BACKEND=jax python benchmarks/keras_run.py``; ``make bench ARGS=keras`` runs all three. Both
optimizers get the same gradients in the same kind of step that `fit` compiles. A ratio is Keras's
time over ours.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy

import pellucid.keras
from pellucid.fuse.pool import set_num_threads

THREADS = 2
BLOCK = [(768,), (768,), (768, 2304), (2304,), (768, 768), (768,)]
BLOCK += [(768,), (768,), (768, 3072), (3072,), (3072, 768), (768,)]
GPT2 = [(50257, 768), (1024, 768), *BLOCK * 12, (768,), (768,)]
SMALL = [(1024,)] * 1000
WORK = {"GPT-2 small (148 variables, 124 M)": GPT2, "1000 variables of 1024": SMALL}
BYTES = 28  # that AdamW moves for each float32 parameter
BACKEND = keras.backend.backend()
Step = Callable[[], Any]


def gradients(shapes: Sequence[tuple[int, ...]]) -> list[Any]:
    random = numpy.random.default_rng(0)
    return [random.standard_normal(shape, dtype=numpy.float32) * 0.01 for shape in shapes]


def variables(grads: Sequence[Any]) -> list[Any]:
    return [keras.Variable(3 * grad, name=f"v{k}") for k, grad in enumerate(grads)]


def step_of(optimizer: Any, grads: Sequence[Any], xla: bool = False) -> Step:
    """A compiled step, as each backend's trainer has it."""
    owned = variables(grads)
    optimizer.build(owned)
    if BACKEND == "torch":
        import torch

        given = [torch.from_numpy(grad) for grad in grads]
        return lambda: optimizer.apply(given, owned)
    if BACKEND == "tensorflow":
        import tensorflow as tf

        tensors = [tf.constant(grad) for grad in grads]
        return tf.function(lambda: optimizer.apply(tensors, owned), jit_compile=xla)
    import jax

    arrays = [jax.numpy.asarray(grad) for grad in grads]
    jitted = jax.jit(
        lambda train, own, some: optimizer.stateless_apply(own, some, train), donate_argnums=(0, 1)
    )
    state = [[one.value for one in owned], [one.value for one in optimizer.variables]]

    def run() -> None:
        state[0], state[1] = jitted(state[0], state[1], arrays)
        jax.block_until_ready(state[0])

    return run


def contest(steps: dict[str, Step], seconds: float) -> tuple[dict[str, float], dict[str, float]]:
    """First and median seconds of a step of each, in turns."""
    first, taken = {}, {name: list[float]() for name in steps}
    for name, step in steps.items():
        begun = time.perf_counter()
        step()
        first[name] = time.perf_counter() - begun
        step()
    until = time.perf_counter() + seconds
    while time.perf_counter() < until or len(taken[next(iter(steps))]) < 5:
        for name, step in steps.items():
            begun = time.perf_counter()
            step()
            taken[name].append(time.perf_counter() - begun)
    return first, {name: median(some) for name, some in taken.items()}


def dense(seconds: float) -> None:
    for work, shapes in WORK.items():
        grads = gradients(shapes)
        steps = {"ours": step_of(pellucid.keras.AdamW(1e-3), grads)}
        steps["Keras"] = step_of(keras.optimizers.AdamW(1e-3), grads)
        if BACKEND == "tensorflow":
            steps["Keras, XLA"] = step_of(keras.optimizers.AdamW(1e-3), grads, xla=True)
        first, times = contest(steps, seconds)
        moved = BYTES * sum(grad.size for grad in grads)
        ratios = [f"{times[name] / times['ours']:.2f} x {name}" for name in [*steps][1:]]
        sooner = first["Keras"] / first["ours"]
        print(
            f"| {BACKEND} | {work} | {1000 * times['ours']:.2f} ms | {', '.join(ratios)} | "
            f"{moved / times['ours'] / 1e9:.1f} GB/s | first step {first['ours']:.2f} s, "
            f"{sooner:.1f} x sooner |",
            flush=True,
        )


def embedding(seconds: float) -> None:
    """A table of 1 M x 64, of which 4096 rows have a gradient."""
    import tensorflow as tf

    random = numpy.random.default_rng(0)
    rows = tf.constant(random.integers(0, 1_000_000, 4096))
    values = tf.constant(random.standard_normal((4096, 64), dtype=numpy.float32))
    shape = tf.constant([1_000_000, 64])

    def step_of_rows(name: str, optimizer: Any) -> Step:
        table = keras.Variable(numpy.ones((1_000_000, 64), numpy.float32), name=f"table_{name}")
        optimizer.build([table])
        return tf.function(
            lambda: optimizer.apply([tf.IndexedSlices(values, rows, shape)], [table])
        )

    steps = {
        "ours": step_of_rows("ours", pellucid.keras.Adam(1e-3, sparse="lazy")),
        "Keras": step_of_rows("Keras", keras.optimizers.Adam(1e-3)),
    }
    _, times = contest(steps, seconds)
    print(
        f"| {BACKEND} | Adam, 4096 rows of 1 M x 64, lazy | {1000 * times['ours']:.2f} ms | "
        f"{times['Keras'] / times['ours']:.1f} x Keras | | |",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=15.0, help="for each contest")
    given = parser.parse_args()
    if BACKEND == "torch":
        import torch

        torch.set_num_threads(THREADS)
    set_num_threads(THREADS)
    dense(given.seconds)
    if BACKEND == "tensorflow":
        embedding(given.seconds)


if __name__ == "__main__":
    main()
