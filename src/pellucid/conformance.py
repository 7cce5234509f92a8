"""The conformance suite for a rule of yours: `check`.

One rule, run in every way that it can run: the interpreted graph is the definition, the compiled
kernel and the lines themselves must agree with it, and all with your reference, if you give one.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy

from pellucid.compose import Composed, composed_from_config
from pellucid.fuse.pool import set_num_threads, threads
from pellucid.ops import is_number
from pellucid.rule import Rule, Stage

__all__ = ["Report", "check"]

SHAPES: dict[str, tuple[int, ...]] = {
    "zero-dimensional": (),
    "empty": (0, 3),
    "single": (1,),
    "odd": (7,),
    "matrix": (33, 5),
    "cube": (3, 4, 5),
    "several chunks": (170, 200),
}
TOLERANCE = {"float64": 1e-9, "float32": 2e-3}
"""Relative to the largest change of a tensor, over all steps: float32 carries rounding of its
own state through every step, float64 shows whether the arithmetic is the same."""


@dataclass
class Report:
    """What was checked, and what failed."""

    subject: str
    passed: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    def note(self, what: str, problem: str = "") -> None:
        """Add a line: passed, or failed with the problem."""
        if problem:
            self.failed.append(f"{what}: {problem}")
        else:
            self.passed.append(what)

    def __str__(self) -> str:
        lines = [f"{self.subject}: {len(self.passed)} passed, {len(self.failed)} failed"]
        lines += [f"  ok      {line}" for line in self.passed]
        return "\n".join([*lines, *(f"  FAILED  {line}" for line in self.failed)])


def check(
    rule: type[Rule] | Composed,
    reference: Callable[..., Any] | None = None,
    *,
    steps: int = 50,
    seed: int = 0,
    **values: Any,
) -> Report:
    """Run a rule in every way, compare the results, and compare them with a reference.

    Args:
        rule: a rule's class, or a rule, chain or route.
        reference: ``f(param, grads, **hyperparameters_and_options)``: float64 NumPy, written
            independently; gives the parameter after all gradients (or that first in a tuple).
        steps: how many updates.
        seed: of the test's gradients and parameters.
        values: hyperparameters and options for a class.

    Returns:
        What was checked.

    Raises:
        AssertionError: what failed, with the largest difference and where.

    >>> from pellucid import SGD, check
    >>> print(str(check(SGD, lambda p, grads, learning_rate, **_: p - learning_rate * sum(grads),
    ...       steps=3)).splitlines()[0])
    SGD(): 14 passed, 0 failed
    """
    stage = rule(**values) if isinstance(rule, type) else rule
    report = Report(repr(stage))
    _check_config(stage, report)
    for dtype in ("float64", "float32"):
        params, grads = _inputs(dtype, steps, seed)
        defined = _run(stage, params, grads, compiled=False, by_graph=True)
        for name, results in _ways(stage, params, grads):
            what = f"{name} = the interpreted graph, {dtype}"
            report.note(what, _difference(results, defined, params, TOLERANCE[dtype]))
        if reference is not None:
            expected = _referred(stage, reference, params, grads)
            what = f"the compiled kernel = the reference, {dtype}"
            results = _run(stage, params, grads)
            report.note(what, _difference(results, expected, params, TOLERANCE[dtype]))
    _check_threads(stage, report, steps, seed)
    _check_resume(stage, report, steps, seed)
    if report.failed:
        raise AssertionError(str(report))
    return report


def _inputs(
    dtype: str, steps: int, seed: int
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Parameters, and gradients of mixed sign and magnitude with zeros among them."""
    rng = numpy.random.default_rng(seed)
    params = {
        name: rng.standard_normal(shape).astype(numpy.float32).astype(dtype)
        for name, shape in SHAPES.items()
    }
    params = {name: numpy.array(param) for name, param in params.items()}
    params["transposed"] = numpy.asfortranarray(params["matrix"] * 0.5)
    grads = []
    for _ in range(steps):
        one = {}
        for name, param in params.items():
            size = numpy.exp(rng.uniform(numpy.log(1e-12), numpy.log(1e4), param.shape))
            drawn = rng.standard_normal(param.shape) * size * (rng.random(param.shape) > 0.1)
            one[name] = numpy.array(drawn.astype(numpy.float32), dtype)
        grads.append(one)
    return params, grads


def _run(
    stage: Composed,
    params: dict[str, Any],
    grads: list[dict[str, Any]],
    *,
    compiled: bool = True,
    by_graph: bool = False,
) -> dict[str, Any]:
    from pellucid.numpy import Optimizer

    own = {name: param.copy(order="K") for name, param in params.items()}
    optimizer = Optimizer(own, stage, compiled=compiled)
    optimizer.by_graph = by_graph
    for one in grads:
        optimizer.step(one)
    return own


def _run_torch(
    stage: Composed, params: dict[str, Any], grads: list[dict[str, Any]], compiled: bool
) -> dict[str, Any]:
    import torch

    from pellucid.torch import Optimizer

    own = {
        name: torch.nn.Parameter(torch.from_numpy(param.copy(order="K")))
        for name, param in params.items()
    }
    optimizer = Optimizer(list(own.items()), stage, compiled=compiled)
    usual = torch.get_default_dtype()  # of slots of one number, in torch
    torch.set_default_dtype(getattr(torch, str(params["single"].dtype)))
    try:
        for one in grads:
            for name, param in own.items():
                param.grad = torch.from_numpy(one[name].copy(order="K"))
            optimizer.step()
    finally:
        torch.set_default_dtype(usual)
    return {name: param.detach().numpy() for name, param in own.items()}


def _run_keras(
    stage: Composed, params: dict[str, Any], grads: list[dict[str, Any]]
) -> dict[str, Any]:
    """In Keras on its backend; on JAX in a compiled step, with float64, which it has if asked."""
    import keras

    from pellucid.keras import Optimizer

    def built() -> tuple[Any, list[Any]]:
        own = [keras.Variable(value, dtype=str(value.dtype)) for value in params.values()]
        optimizer = Optimizer(stage)
        optimizer.build(own)
        return optimizer, own

    if keras.backend.backend() == "jax":
        import jax

        with jax.enable_x64(True):
            optimizer, own = built()
            step = jax.jit(optimizer.stateless_apply)
            values, state = ([one.value for one in held] for held in (own, optimizer.variables))
            for one in grads:
                values, state = step(state, [one[name] for name in params], values)
    else:
        optimizer, own = built()
        for one in grads:
            optimizer.apply([keras.ops.convert_to_tensor(one[name]) for name in params], own)
        values = [variable.value for variable in own]
    results = [numpy.array(keras.ops.convert_to_numpy(value)) for value in values]
    return dict(zip(params, results, strict=True))


def _ways(
    stage: Composed, params: dict[str, Any], grads: list[dict[str, Any]]
) -> Iterator[tuple[str, dict[str, Any]]]:
    yield "the compiled kernel", _run(stage, params, grads)
    yield "update() line by line", _run(stage, params, grads, compiled=False)
    if importlib.util.find_spec("torch") is not None:
        yield "PyTorch, compiled", _run_torch(stage, params, grads, True)
        yield "PyTorch, line by line", _run_torch(stage, params, grads, False)
    if "keras" in sys.modules:  # its import may load TensorFlow, which nobody asked for
        import keras

        yield f"Keras on {keras.backend.backend()}", _run_keras(stage, params, grads)


def _difference(
    results: dict[str, Any], expected: dict[str, Any], start: dict[str, Any], tolerance: float
) -> str:
    """Where results differ by more than rounding, in words; empty if nowhere."""
    for name, value in expected.items():
        result = results[name]
        if not numpy.array_equal(numpy.isfinite(result), numpy.isfinite(value)):
            return f"{name!r} is finite in other places"
        finite = numpy.isfinite(value)
        if not finite.any():
            continue
        change = numpy.abs(value - start[name])[finite]
        off = numpy.abs(result - value)[finite]
        scale = max(float(change.max()), float(numpy.abs(value)[finite].max()) * 1e-3, 1e-30)
        worst = float(off.max())
        if worst > tolerance * scale:
            return f"{name!r} is off by {worst:.3g}, where it changed by {scale:.3g}"
    return ""


def _referred(
    stage: Composed,
    reference: Callable[..., Any],
    params: dict[str, Any],
    grads: list[dict[str, Any]],
) -> dict[str, Any]:
    if not isinstance(stage, Stage):
        raise TypeError("a reference goes with a rule; for a chain or route leave it out")
    found = {}
    for name, param in params.items():
        wide = [one[name].astype(numpy.float64) for one in grads]
        result = reference(param.astype(numpy.float64), wide, **stage.values)
        found[name] = numpy.asarray(result[0] if isinstance(result, tuple) else result)
    return found


def _check_config(stage: Composed, report: Report) -> None:
    try:
        config = json.loads(json.dumps(stage.get_config()))
    except ValueError as error:
        report.note("configuration", str(error))
        return
    problem = "" if composed_from_config(config) == stage else "does not give an equal stage back"
    report.note("configuration → JSON → configuration", problem)


def _check_threads(stage: Composed, report: Report, steps: int, seed: int) -> None:
    params, grads = _inputs("float32", min(steps, 5), seed)
    before = threads()
    try:
        results = []
        for count in (1, 3):
            set_num_threads(count)
            results.append(_run(stage, params, grads))
    finally:
        set_num_threads(before)
    same = all(numpy.array_equal(results[0][n], results[1][n], equal_nan=True) for n in params)
    report.note("bit for bit the same on 1 and 3 threads", "" if same else "results differ")


def _check_resume(stage: Composed, report: Report, steps: int, seed: int) -> None:
    import tempfile
    from pathlib import Path

    from pellucid.numpy import Optimizer

    if isinstance(stage, Stage) and any(
        not is_number(value) and callable(value) and not hasattr(value, "get_config")
        for value in stage.values.values()
    ):
        return  # a plain callable is not stored in a file
    params, grads = _inputs("float32", min(steps, 6), seed)
    straight = Optimizer({n: p.copy(order="K") for n, p in params.items()}, stage)
    resumed = Optimizer({n: p.copy(order="K") for n, p in params.items()}, stage)
    with tempfile.TemporaryDirectory() as folder:
        for number, one in enumerate(grads):
            straight.step(one)
            if number == len(grads) // 2:
                straight.save(Path(folder, "half.npz"))
                resumed.load(Path(folder, "half.npz"))
            elif number > len(grads) // 2:
                resumed.step(one)
    same = all(
        numpy.array_equal(straight.params[name], resumed.params[name], equal_nan=True)
        for name in params
    )
    report.note("saved, loaded and continued bit for bit", "" if same else "results differ")
