"""16-bit storage, sparse rows, and what a step costs beside its kernel."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from contest import GPT2, SMALL, WORK, Contest, line, ours

import pellucid.torch
from pellucid import AdamW

BF16 = torch.bfloat16
STORED: dict[str, tuple[torch.dtype, dict[str, str], int]] = {
    "float32": (torch.float32, {}, 28),
    "bfloat16, float32 state": (BF16, {}, 22),
    "the same, stochastic": (BF16, {"rounding": "stochastic"}, 22),
    "the same, Kahan": (BF16, {"rounding": "kahan"}, 26),
    "all bfloat16": (BF16, {"state_dtype": "param"}, 14),
    "the same, stochastic ": (BF16, {"state_dtype": "param", "rounding": "stochastic"}, 14),
    "the same, Kahan ": (BF16, {"state_dtype": "param", "rounding": "kahan"}, 18),
    "float16, float32 state": (torch.float16, {}, 22),
}
"""Type of parameters and gradients, choices, bytes moved a parameter."""


def sixteen_bits(seconds: float) -> None:
    line("AdamW, GPT-2 small", "bytes a parameter", "ms a step", "time per byte, float32's = 1")
    line(*["---"] * 4)
    contest = Contest(WORK[GPT2])
    for name, (dtype, choices, _) in STORED.items():
        contest.add(name, ours(AdamW(), **choices), dtype)
    contest.add(
        "torch fused, bfloat16", lambda params: torch.optim.AdamW(params, fused=True).step, BF16
    )
    times = contest.run(4 * seconds)
    plain = times["float32"] / STORED["float32"][2]
    for name, taken in times.items():
        moved = STORED[name][2] if name in STORED else 14
        line(name.strip(), str(moved), f"{taken * 1e3:.1f}", f"{taken / moved / plain:.2f}")
    print()


def sparse_rows(seconds: float) -> None:
    rows, width, touched = 1_000_000, 64, 4096
    gradients = []
    for number in range(16):
        torch.manual_seed(number)
        places, values = torch.randint(0, rows, (1, touched)), torch.randn(touched, width)
        made = torch.sparse_coo_tensor(places, values, (rows, width), check_invariants=False)
        gradients.append(made)

    def step_of(make: Callable[[Any], Any], dense: bool = False) -> Callable[[], Any]:
        param = torch.nn.Parameter(torch.randn(rows, width) * 0.02)
        optimizer = make([param])
        if dense:
            param.grad = gradients[0].to_dense()
            return optimizer.step  # type: ignore[no-any-return]
        turns = iter(range(1 << 60))

        def step() -> None:
            param.grad = gradients[next(turns) % len(gradients)]
            optimizer.step()

        return step

    def adam(mode: str) -> Callable[[Any], Any]:
        return lambda params: pellucid.torch.AdamW(params, sparse=mode)

    contest = Contest([(rows, width)])
    contest.steps = {
        "ours, lazy": step_of(adam("lazy")),
        "ours, catch up": step_of(adam("catch_up")),
        "ours, row-wise Adagrad": step_of(
            lambda params: pellucid.torch.RowwiseAdagrad(params, sparse="lazy")
        ),
        "torch SparseAdam": step_of(torch.optim.SparseAdam),
        "torch AdamW, dense, fused": step_of(
            lambda params: torch.optim.AdamW(params, fused=True), dense=True
        ),
    }
    times = contest.run(seconds)
    line(f"{touched} rows of 1 M × {width}", "ms a step", "of ours, lazy")
    line(*["---"] * 3)
    for name, taken in times.items():
        line(name, f"{taken * 1e3:.2f}", f"{taken / times['ours, lazy']:.2f} ×")
    print()


def host_time(seconds: float) -> None:
    """A step without its kernels: everything that is looked at, read and written beside them."""
    line("1000 tensors of 1024", "µs a step", "µs a tensor")
    line(*["---"] * 3)
    contest = Contest(WORK[SMALL])
    optimizers: list[Any] = []

    def make(params: list[Any]) -> Callable[[], Any]:
        optimizers.append(pellucid.torch.Optimizer(params, AdamW()))
        return optimizers[0].step  # type: ignore[no-any-return]

    contest.add("step", make)
    contest.add("torch fused", lambda params: torch.optim.AdamW(params, fused=True).step)
    step, other = contest.steps["step"], contest.steps["torch fused"]
    step(), step()
    (plan,) = optimizers[0]._plans.values()
    spent: list[float] = []
    run = plan.launch._write

    def timed(*args: Any) -> None:
        begun = time.perf_counter()
        run(*args)
        spent.append(time.perf_counter() - begun)

    plan.launch._write = timed
    whole, theirs = [], []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for one, into in ((step, whole), (other, theirs)):
            for _ in range(5):
                begun = time.perf_counter()
                one()
                into.append(time.perf_counter() - begun)
    beside = median(a - b for a, b in zip(whole, spent, strict=True))
    for name, taken in (
        ("a step", median(whole)), ("its kernels", median(spent)), ("all beside them", beside),
        ("torch fused", median(theirs)),
    ):  # fmt: skip
        line(name, f"{taken * 1e6:.0f}", f"{taken * 1e3:.2f}")
    print()
