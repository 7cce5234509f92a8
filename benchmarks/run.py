"""Ratios against peers, measured in one run, interleaved, medians: ``make bench``.

A ratio is their time over ours. Each contender runs a few steps in turn, many times over, so that
all see the same machine; of each turn every step counts. Absolute times are of this machine only.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy
import torch
from contest import GPT2, SMALL, WORK, Contest, line, ours, parameters
from storage_run import host_time, sixteen_bits, sparse_rows

import pellucid
import pellucid.torch
from pellucid import (
    AdamW,
    Rule,
    average_weights,
    chain,
    clip_by_global_norm,
    hyper,
    route,
    slot,
)
from pellucid.fuse.pool import available_cores, set_num_threads
from pellucid.ops import lerp, sign
from pellucid.schedules import Cosine, Linear

THREADS = 2


class Momentum(Rule):
    """Momentum SGD as a user writes it."""

    learning_rate = hyper(1e-3, minimum=0)
    momentum = hyper(0.9, minimum=0)
    velocity = slot()

    def update(self, param, grad):  # type: ignore[no-untyped-def]
        self.velocity = self.momentum * self.velocity + grad
        return param - self.learning_rate * self.velocity


class Lion(Rule):
    """Lion as a user writes it."""

    learning_rate = hyper(1e-4, minimum=0)
    beta1 = hyper(0.9, minimum=0, below=1)
    beta2 = hyper(0.99, minimum=0, below=1)
    weight_decay = hyper(0.0, minimum=0)
    first_moment = slot()

    def update(self, param, grad):  # type: ignore[no-untyped-def]
        direction = sign(lerp(grad, self.first_moment, self.beta1))
        self.first_moment = lerp(grad, self.first_moment, self.beta2)
        return param - self.learning_rate * (direction + self.weight_decay * param)


def torch_adamw(**switches: Any) -> Callable[[list[Any]], Callable[[], Any]]:
    return lambda params: torch.optim.AdamW(params, **switches).step


def torch_composed(**switches: Any) -> Callable[[list[Any]], Callable[[], Any]]:
    """Clipping by global norm, AdamW, an average of the weights: torch's fastest calls."""

    def make(params: list[Any]) -> Callable[[], Any]:
        optimizer = torch.optim.AdamW(params, **switches)
        averages = [param.detach().clone() for param in params]

        def step() -> None:
            torch.nn.utils.clip_grad_norm_(params, 1.0, foreach=True)
            optimizer.step()
            torch._foreach_lerp_(averages, [param.detach() for param in params], 0.001)

        return step

    return make


def bandwidth() -> float:
    """Bytes a second that an in-place scale of 25 M floats moves."""
    array = torch.randn(25_000_000)
    times = []
    for _ in range(15):
        begun = time.perf_counter()
        array.mul_(1.0001)
        times.append(time.perf_counter() - begun)
    return 8 * array.numel() / median(times)


def adamw(seconds: float) -> None:
    line("AdamW", "ms a step", "torch fused", "torch foreach", "torch loop", "bandwidth")
    line(*["---"] * 6)
    for name, shapes in WORK.items():
        contest = Contest(shapes)
        contest.add("ours", ours(AdamW()))
        contest.add("fused", torch_adamw(fused=True))
        contest.add("foreach", torch_adamw(foreach=True))
        contest.add("loop", torch_adamw(foreach=False))
        times = contest.run(seconds)
        moved = 28 * sum(int(numpy.prod(shape)) for shape in shapes)
        line(
            name,
            f"{times['ours'] * 1e3:.2f}",
            *(f"{times[peer] / times['ours']:.2f} ×" for peer in ("fused", "foreach", "loop")),
            f"{moved / times['ours'] / 1e9:.1f} GB/s",
        )
    print(f"\nAn in-place scale of 25 M floats reaches {bandwidth() / 1e9:.1f} GB/s.\n")


def composed(seconds: float) -> None:
    stage = chain(clip_by_global_norm(1.0), AdamW(), average_weights(0.999))
    line("clip by global norm + AdamW + weight average", "ms a step", "torch, best composition")
    line(*["---"] * 3)
    for name in (GPT2, SMALL):
        contest = Contest(WORK[name])
        contest.add("ours", ours(stage))
        contest.add("fused", torch_composed(fused=True))
        contest.add("foreach", torch_composed(foreach=True))
        times = contest.run(seconds)
        best = min(times["fused"], times["foreach"])
        line(name, f"{times['ours'] * 1e3:.2f}", f"{best / times['ours']:.2f} ×")
    print()


def own_rules(seconds: float) -> None:
    line("a user's own rule, GPT-2 small", "bytes a parameter", "time per byte, AdamW's = 1")
    line(*["---"] * 3)
    contest = Contest(WORK[GPT2])
    rules = {"AdamW": (AdamW(), 28), "momentum SGD": (Momentum(), 20), "Lion": (Lion(), 20)}
    for name, (rule, _) in rules.items():
        contest.add(name, ours(rule))
    times = contest.run(2 * seconds)
    per_byte = {name: times[name] / moved for name, (_, moved) in rules.items()}
    for name, (_, moved) in rules.items():
        line(name, str(moved), f"{per_byte[name] / per_byte['AdamW']:.2f}")
    print()


def structure(seconds: float) -> None:
    total = 10_000
    scheduled = AdamW(
        Cosine(1e-3, total),
        beta1=Linear(0.9, 0.95, total),
        beta2=Linear(0.999, 0.99, total),
        epsilon=Linear(1e-8, 1e-7, total),
        weight_decay=Linear(0.01, 0.02, total),
    )

    def two_groups(params: list[Any]) -> Callable[[], Any]:
        half = len(params) // 2
        groups = [{"params": params[:half]}, {"params": params[half:], "lr": 1e-4}]
        return pellucid.torch.Optimizer(groups, AdamW()).step

    def routed(params: list[Any]) -> Callable[[], Any]:
        named = [(f"{'ab'[i % 2]}.{i}", param) for i, param in enumerate(params)]
        stage = route({"a.*": AdamW(), "b.*": AdamW(beta1=0.8)})
        return pellucid.torch.Optimizer(named, stage).step

    line("time against plain AdamW's", GPT2, SMALL)
    line(*["---"] * 3)
    found: dict[str, list[float]] = {}
    for name in (GPT2, SMALL):
        contest = Contest(WORK[name])
        contest.add("plain", ours(AdamW()))
        contest.add("two groups", two_groups)
        contest.add("two routed rules", routed)
        contest.add("a schedule on every hyperparameter", ours(scheduled))
        times = contest.run(seconds)
        for what, taken in times.items():
            found.setdefault(what, []).append(taken / times["plain"])
    for what, ratios in found.items():
        if what != "plain":
            line(what, *(f"{ratio:.2f}" for ratio in ratios))
    print()


def memory() -> None:
    line("array memory beyond parameters, gradients and slots", "bytes", "a tensor")
    line(*["---"] * 3)
    for name in (GPT2, SMALL, "2000 tensors of 64"):
        params = parameters(WORK[name])
        optimizer = pellucid.torch.Optimizer(params, AdamW())
        tracemalloc.start()
        optimizer.step(), optimizer.step()
        shot = tracemalloc.take_snapshot()
        tracemalloc.stop()
        arrays = shot.filter_traces([tracemalloc.DomainFilter(True, numpy.lib.tracemalloc_domain)])
        used = sum(one.size for one in arrays.statistics("filename"))
        line(name, f"{used:,}", f"{used / len(params):.0f}")
    print()


VIEW = """
import time, torch, pellucid, pellucid.access.foreign, rich.console, rich.table, rich.text
params = [torch.nn.Parameter(torch.randn(16)) for _ in range(1000)]
optimizer = torch.optim.AdamW(params)
begun = time.perf_counter()
view = pellucid.view(optimizer)
seen = time.perf_counter()
str(view)
print(seen - begun, time.perf_counter() - seen)
"""


def views(seconds: float) -> None:
    made = [
        subprocess.run([sys.executable, "-c", VIEW], capture_output=True, text=True, check=True)
        for _ in range(5)
    ]
    found = [[float(word) for word in one.stdout.split()] for one in made]
    line("view of torch.optim.AdamW, 1000 parameters, in a new process", "ms")
    line(*["---"] * 2)
    line("view(optimizer)", f"{median(one[0] for one in found) * 1e3:.1f}")
    line("first print(view)", f"{median(one[1] for one in found) * 1e3:.1f}")
    print()

    def journalled(params: list[Any]) -> Callable[[], Any]:
        optimizer = torch.optim.AdamW(params, fused=True)
        pellucid.journal(optimizer)
        return optimizer.step

    contest = Contest([(16,)] * 10)
    contest.add("without", torch_adamw(fused=True))
    contest.add("with", journalled)
    times = contest.run(seconds)
    line("a journal on torch.optim.AdamW, 10 small tensors", "µs a step")
    line(*["---"] * 2)
    line("without", f"{times['without'] * 1e6:.1f}")
    line("with", f"{times['with'] * 1e6:.1f}")
    print()

    contest = Contest(WORK[GPT2])
    optimizers: list[Any] = []

    def step(params: list[Any]) -> Callable[[], Any]:
        optimizers.append(pellucid.torch.Optimizer(params, AdamW()))
        return optimizers[0].step

    def measured() -> None:
        with view.measure():
            optimizers[0].step()

    contest.add("step", step)
    view = pellucid.view(optimizers[0])
    contest.steps["statistics"] = view.statistics
    contest.steps["measured step"] = measured
    times = contest.run(seconds)
    line("statistics, GPT-2 small", "of an AdamW step")
    line(*["---"] * 2)
    line("view.statistics()", f"{times['statistics'] / times['step']:.2f}")
    line("view.measure(), beside the step", f"{times['measured step'] / times['step'] - 1:.2f}")
    print()


FIRST = """
import time, sys
import torch, numba, numpy, pellucid, pellucid.torch
import numba.core.compiler, llvmlite.binding
from pellucid.rules import AdamW
params = [torch.nn.Parameter(torch.randn(100)) for _ in range(3)]
for p in params: p.grad = torch.randn(100)
optimizer = pellucid.torch.Optimizer(params, AdamW())
begun = time.perf_counter()
optimizer.step()
print(time.perf_counter() - begun)
"""
IMPORT = """
import time
begun = time.perf_counter()
import pellucid
print(time.perf_counter() - begun)
"""


def start() -> None:
    line("start", "seconds")
    line(*["---"] * 2)
    for what, program, runs in (
        ("first step, cold cache", FIRST, 3),
        ("first step, warm cache", FIRST, 5),
        ("import pellucid", IMPORT, 5),
    ):
        taken = []
        with tempfile.TemporaryDirectory() as folder:
            for number in range(runs + 1):
                cache = os.path.join(folder, str(number) if "cold" in what else "one")
                made = subprocess.run(
                    [sys.executable, "-c", program],
                    env={**os.environ, "PELLUCID_CACHE": cache},
                    capture_output=True,
                    text=True,
                    check=True,
                )
                taken.append(float(made.stdout))
        line(what, f"{median(taken[1:]):.3f}")
    print()


def under_keras(seconds: float) -> None:
    """Each backend of Keras in a process of its own."""
    line("Keras on", "AdamW", "a step", "Keras's time over ours", "bandwidth", "first step")
    line(*["---"] * 6)
    for backend in ("tensorflow", "torch", "jax"):
        program = os.path.join(os.path.dirname(__file__), "keras_run.py")
        subprocess.run(
            [sys.executable, program, "--seconds", str(seconds)],
            env={**os.environ, "KERAS_BACKEND": backend},
            check=True,
        )
    print()


PARTS: dict[str, Callable[..., None]] = {
    "adamw": adamw,
    "composed": composed,
    "own": own_rules,
    "structure": structure,
    "views": views,
    "16-bit": sixteen_bits,
    "sparse": sparse_rows,
    "host": host_time,
    "memory": lambda _: memory(),
    "keras": under_keras,
    "start": lambda _: start(),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", default=[], help=", ".join(PARTS))
    parser.add_argument("--seconds", type=float, default=15.0, help="for each contest")
    given = parser.parse_args()
    torch.set_num_threads(THREADS)
    set_num_threads(THREADS)
    print(f"torch {torch.__version__}, {THREADS} threads, {available_cores()} cores\n")
    for part in given.parts or PARTS:
        PARTS[part](given.seconds)


if __name__ == "__main__":
    main()
