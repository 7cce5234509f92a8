"""A step: the same bits on any number of threads, whole or not at all, one after the other."""

from __future__ import annotations

import copy
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import pellucid.numpy
from pellucid import (
    SGD,
    Adam,
    GradientTransform,
    HyperparameterError,
    ParameterTransform,
    Rule,
    chain,
    clip_by_global_norm,
    every,
    extra,
    hyper,
    ops,
    scale,
    skip_nonfinite,
    slot,
)
from pellucid.fuse.pool import set_num_threads

Array = np.ndarray[Any, Any]
Optimizer = pellucid.numpy.Optimizer
MODES = ("kernel", "graph", "lines")


@pytest.fixture(params=MODES)
def mode(request: pytest.FixtureRequest) -> str:
    """Compiled, by interpretation of the graph, and line by line."""
    return request.param


def optimizer(mode: str, params: dict[str, Array], stage: Any, **keywords: Any) -> Optimizer:
    one = Optimizer(params, stage, compiled=mode == "kernel", **keywords)
    one.by_graph = mode == "graph"
    return one


def vectors(*names: str, value: float = 1.0) -> dict[str, Array]:
    return {name: np.full(3, value) for name in names}


# -- threads -----------------------------------------------------------------------------------


class Everything(Rule):
    """Reductions over tensors, rows, columns and all, slots of every shape, random numbers."""

    learning_rate = hyper(0.125, minimum=0)
    rows = slot(shape="row")
    columns = slot(shape="column")
    single = slot(1.0, shape="scalar")
    noise = slot()
    shared = slot(0.5, scope="optimizer")

    def update(self, param: Any, grad: Any) -> Any:
        self.rows = ops.lerp(ops.mean(ops.square(grad), over="row"), self.rows, 0.5)
        self.columns = ops.lerp(ops.norm(grad, over="column"), self.columns, 0.5)
        self.single = self.single * 0.5 + ops.norm(grad) + ops.max_abs(param) + ops.sum(self.rows)
        self.noise = ops.normal(grad) + self.noise * 0.5
        self.shared = self.shared * 0.9 + ops.mean(grad, over="all")
        step = grad * ops.rsqrt(self.rows + 1e-3) / (self.columns + self.single)
        return param - self.learning_rate * (step + 1e-3 * self.noise + self.shared)


BUSY: dict[str, tuple[int, ...]] = {
    "matrix": (700, 300), "flat": (150_000,), "rows": (3, 40_000), "columns": (40_000, 3),
    "turned": (260, 130), "cube": (30, 20, 50), "small": (5, 3), "scalar": (), "empty": (0, 4),
}  # fmt: skip


WIDE = ("matrix", "rows", "turned", "small")  # float64, where the order of a sum shows in its bits


def busy(seed: int, steps: int = 3) -> Optimizer:
    """An optimizer after some steps on enough elements to be worth several threads."""
    rng = np.random.default_rng(seed)
    params = {
        name: np.array(rng.standard_normal(shape), "float64" if name in WIDE else "float32")
        for name, shape in BUSY.items()
    }
    params["turned"] = np.asfortranarray(params["turned"])
    one = Optimizer(params, chain(clip_by_global_norm(1.0), Everything()), seed=seed)
    for _ in range(steps):
        grads = {n: np.array(rng.standard_normal(p.shape), p.dtype) for n, p in params.items()}
        assert one.step(grads)
    return one


def bits(one: Optimizer) -> dict[str, Any]:
    """Everything that a step writes, as bytes."""
    found = {name: param.tobytes() for name, param in one.params.items()}
    for name, slots in one.state.items():
        found |= {f"{name}/{full}": array.tobytes() for full, array in slots.items()}
    return {**found, "shared": repr(one.shared), "updates": one.updates}


@pytest.fixture
def thread_count() -> Iterator[Callable[[int | None], None]]:
    yield set_num_threads
    set_num_threads(None)


def test_bits_do_not_depend_on_threads(thread_count: Callable[[int | None], None]) -> None:
    found = []
    for count in (1, 2, 3, 7):
        thread_count(count)
        found.append(bits(busy(seed=1)))
    assert found[0] == found[1] == found[2] == found[3]
    assert np.isfinite(np.frombuffer(found[0]["matrix"])).all()


def test_work_is_shared(thread_count: Callable[[int | None], None]) -> None:
    """The check above says something: several threads take part in a step."""
    thread_count(3)
    one = busy(seed=1, steps=1)
    (plan,) = one._plans.values()
    seen = set()
    for table in plan.launch.tables:
        for number in range(len(table.program.passes)):
            blocks = table.blocks(number, 3)
            seen.add(len(blocks))
    assert max(seen) > 3
    names = {thread.name for thread in threading.enumerate()}
    assert {"pellucid-0", "pellucid-1"} <= names


@pytest.mark.parametrize("count", [0, -1, 1.5, "2"])
def test_thread_count_is_checked(count: Any) -> None:
    with pytest.raises(ValueError, match=re.escape(f"set_num_threads({count!r})")):
        set_num_threads(count)


def test_two_optimizers_in_two_threads(thread_count: Callable[[int | None], None]) -> None:
    thread_count(2)
    alone = [bits(busy(seed)) for seed in (1, 2)]
    found: dict[int, Any] = {}
    together = threading.Barrier(2)

    def run(seed: int) -> None:
        together.wait(timeout=60)
        for _ in range(3):
            found[seed] = bits(busy(seed))

    threads = [threading.Thread(target=run, args=(seed,)) for seed in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
    assert [found[1], found[2]] == alone


def run_script(script: str, *arguments: str) -> str:
    """What a program prints; it fails if it hangs."""
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        capture_output=True, text=True, timeout=180, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


WORK = """
import hashlib, multiprocessing, os, signal, sys, threading
import numpy as np
import pellucid.numpy
from pellucid import Adam, chain, clip_by_global_norm
from pellucid.fuse.pool import set_num_threads

set_num_threads(3)
rng = np.random.default_rng(0)
grads = {"w": rng.standard_normal((600, 400)), "b": rng.standard_normal(140_000)}

def begun():
    params = {name: np.ones_like(grad) for name, grad in grads.items()}
    return pellucid.numpy.Optimizer(params, chain(clip_by_global_norm(1.0), Adam()))

def stepped(one, steps=3):
    for _ in range(steps):
        assert one.step(grads)
    return hashlib.sha256(b"".join(p.tobytes() for p in one.params.values())).hexdigest()
"""
FORK = (
    WORK
    + """
signal.alarm(120)
one = begun()
stepped(one)
assert sum(t.name.startswith("pellucid-") for t in threading.enumerate()) == 2

def child(pipe):
    signal.alarm(60)
    pipe.send(stepped(one))
    pipe.send(stepped(begun()))
    assert sum(t.name.startswith("pellucid-") for t in threading.enumerate()) == 2

answers = []
for _ in range(2):
    ours, theirs = multiprocessing.get_context("fork").Pipe()
    process = multiprocessing.get_context("fork").Process(target=child, args=(theirs,))
    process.start()
    process.join()
    assert process.exitcode == 0, process.exitcode
    answers.append((ours.recv(), ours.recv()))
read, write = os.pipe()
pid = os.fork()
if pid == 0:
    signal.alarm(60)
    os.write(write, stepped(one).encode())
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
answers.append((os.read(read, 1000).decode(), answers[0][1]))
assert set(answers) == {(stepped(one), stepped(begun()))}, answers
print("same")
"""
)
LIBRARIES = (
    WORK
    + """
stepped(begun())
assert sum(t.name.startswith("pellucid-") for t in threading.enumerate()) == 2
import numba.np.ufunc.parallel as parallel
print("layer:", parallel._is_initialized)
if os.path.exists("/proc/self/maps"):
    for line in open("/proc/self/maps"):
        if len(line.split()) > 5:
            print("loaded:", os.path.basename(line.split()[5]))
print("modules:", *sorted(sys.modules))
"""
)


def test_forked_child_steps() -> None:
    """Its parent's threads are gone; it starts its own, and gets the same numbers."""
    assert run_script(FORK).strip() == "same"


def test_no_openmp() -> None:
    lines = run_script(LIBRARIES).splitlines()
    assert lines[0] == "layer: False"
    loaded = " ".join(line for line in lines if line.startswith("loaded:"))
    found = re.findall(r"\S*(?:gomp|iomp|libomp|ompool|omppool|tbb|workqueue)\S*", loaded)
    assert not found
    modules = lines[-1].split()
    assert "numba" in modules
    assert "torch" not in modules


# -- overlapping parameters --------------------------------------------------------------------


class Shrink(Rule):
    """What a later parameter becomes depends on all of an earlier one that it overlaps."""

    learning_rate = hyper(0.25)

    def update(self, param: Any, grad: Any) -> Any:
        size = ops.sqrt(ops.mean(ops.square(param)))
        return param * (1 - self.learning_rate * grad / (1 + size))


class Raise(Rule):
    """The same of elements alone, so that a global norm may go before; slow, to be caught at it."""

    def update(self, param: Any, grad: Any) -> Any:
        return ops.power(abs(param), 1 - 0.25 * grad)


def shrunk(param: Array, grad: Array, factor: float) -> Array:
    return param * (1 - 0.25 * grad / (1 + np.sqrt(np.mean(param**2))))


def raised(param: Array, grad: Array, factor: float) -> Array:
    return np.abs(param) ** (1 - 0.25 * grad * factor)


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("length", [12, 90_000])
@pytest.mark.parametrize("same", [False, True])
@pytest.mark.parametrize(
    ("stage", "reference"),
    [(Shrink(), shrunk), (chain(clip_by_global_norm(9.0), Raise()), raised)],
)
def test_overlapping_parameters_run_in_order(
    mode: str,
    stage: Any,
    reference: Callable[..., Array],
    same: bool,
    length: int,
    count: int,
    thread_count: Callable[[int | None], None],
) -> None:
    """As a loop over them would, each seeing what the one before has written."""
    thread_count(count)
    rng = np.random.default_rng(4)
    base = rng.standard_normal(length)
    wanted, apart, wanted_apart = base.copy(), np.ones(5), np.ones(5)
    parts = {
        "first": slice(0, 2 * length // 3),
        "second": slice(length // 3, None),
        "third": slice(length // 2, length // 2 + 3),
    }
    if same:  # one chunk each: threads that take several at once lose what the others write
        parts = {f"view{number}": slice(0, length // 3) for number in range(12)}
    params = {name: base[part] for name, part in parts.items()}
    one = optimizer(mode, {**params, "apart": apart}, stage)
    grads = {name: rng.standard_normal(param.shape) for name, param in one.params.items()}
    factor = min(1, 9 / np.sqrt(sum(np.sum(grad**2) for grad in grads.values())))
    for _ in range(2):
        assert one.step(grads)
        for name, part in parts.items():
            wanted[part] = reference(wanted[part], grads[name], factor)
        wanted_apart[:] = reference(wanted_apart, grads["apart"], factor)
    np.testing.assert_allclose(base, wanted, rtol=1e-9, atol=1e-300)
    np.testing.assert_allclose(apart, wanted_apart, rtol=1e-9)


# -- whole or not at all -----------------------------------------------------------------------


def snapshot(one: Optimizer) -> dict[str, Any]:
    """All that a failed step must leave as it was."""
    return {
        "params": {name: param.tobytes() for name, param in one.params.items()},
        "state": {n: {f: a.tobytes() for f, a in s.items()} for n, s in one.state.items() if s},
        "groups": copy.deepcopy(one.param_groups),
        "updates": one.updates,
        "shared": dict(one.shared),
        "journal": one.journal.to_list(),
        "drivers": [dict(controls.drivers) for controls in one.controls],
    }


def momentum(**changes: Any) -> Rule:
    return SGD(**{"learning_rate": 0.5, "momentum": 0.5, **changes})


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("before", [0, 2])
def test_veto_changes_nothing(mode: str, bad: float, before: int) -> None:
    one = optimizer(mode, vectors("p", "q"), chain(skip_nonfinite(), momentum()))
    twin = optimizer(mode, vectors("p", "q"), chain(skip_nonfinite(), momentum()))
    good, wrong = vectors("p", "q", value=0.5), vectors("p", "q", value=0.5)
    wrong["q"][1] = bad
    for _ in range(before):
        assert one.step(good)
        assert twin.step(good)
    one.param_groups[0]["momentum"] = 0.25  # not on record before a step has used it
    expected = snapshot(one)
    for _ in range(2):
        assert one.step(wrong) is False
        assert snapshot(one) == expected
    twin.param_groups[0]["momentum"] = 0.25
    for _ in range(2):
        assert one.step(good)
        assert twin.step(good)
    assert snapshot(one) == snapshot(twin)
    (change,) = one.journal
    assert (change.step, change.name, change.new) == (before + 1, "momentum", 0.25)


def test_veto_of_a_number(mode: str) -> None:
    class Patient(Rule):
        limit = hyper(2.0)
        peak = slot(shape="scalar")
        seen = slot(scope="optimizer")

        def update(self, param: Any, grad: Any) -> Any:
            self.veto(ops.max_abs(grad) > self.limit)
            self.peak = ops.max_abs(grad)
            self.seen = self.seen + 1
            return param - grad

    one = optimizer(mode, vectors("p", "q"), Patient())
    expected = snapshot(one)
    assert not one.step({"p": np.ones(3), "q": np.array([0.0, -3.0, 0.0])})
    assert snapshot(one) == expected
    assert one.step({"p": np.ones(3), "q": np.array([0.0, -2.0, 0.0])})
    assert one.state["q"]["peak"] == 2
    assert list(one.shared.values()) == [1.0]


def failing(updates: int) -> float:
    return 1 / (3 - updates)


def negative(updates: int) -> float:
    return 3.0 - updates if updates != 3 else -1.0


def nan(updates: int) -> float:
    return float("nan") if updates == 3 else 1.0


@pytest.mark.parametrize(
    ("schedule", "says"),
    [(failing, "division by zero"), (negative, "is -1.0; allowed is"), (nan, "is nan; allowed is")],
)
def test_schedule_that_fails(mode: str, schedule: Any, says: str) -> None:
    one = optimizer(mode, vectors("p"), momentum(learning_rate=schedule))
    for _ in range(3):
        assert one.step(vectors("p"))
    expected = snapshot(one)
    for _ in range(2):
        with pytest.raises(HyperparameterError, match=f"learning_rate.* at step 3.*{says}"):
            one.step(vectors("p"))
        assert snapshot(one) == expected
    one.param_groups[0]["learning_rate"] = 0.25
    before = one.params["p"].copy()
    assert one.step(vectors("p", value=0.0))
    np.testing.assert_allclose(one.params["p"], before - 0.25 * 0.5 * (1 + 0.5 + 0.25))


def test_value_out_of_bounds(mode: str) -> None:
    one = optimizer(mode, vectors("p", "q"), momentum(), groups={"q": {"momentum": 0.75}})
    assert one.step(vectors("p", "q"))
    one.param_groups[1]["momentum"] = -1.0
    expected = snapshot(one)
    with pytest.raises(HyperparameterError, match=r"q/momentum is -1\.0; allowed is"):
        one.step(vectors("p", "q"))
    assert snapshot(one) == expected


@pytest.mark.parametrize(
    ("grads", "error", "says"),
    [
        ({"p": np.ones(3), "r": np.ones(3)}, ValueError, "gradient for 'r': no parameter"),
        ({"p": np.ones(4)}, ValueError, r"gradient of 'p' has shape \(4,\)"),
        ({"p": np.ones(3, np.float32)}, ValueError, "dtype float32"),
        ({"p": [1.0, 1.0, 1.0]}, TypeError, "gradient of 'p' is list"),
        ([np.ones(3)], ValueError, "1 gradients for 2 parameters"),
    ],
)
def test_gradient_that_does_not_fit(mode: str, grads: Any, error: Any, says: str) -> None:
    one = optimizer(mode, vectors("p", "q"), momentum())
    assert one.step(vectors("p", "q"))
    expected = snapshot(one)
    with pytest.raises(error, match=says):
        one.step(grads)
    assert snapshot(one) == expected


def test_parameters_without_gradient_are_skipped(mode: str) -> None:
    one = optimizer(mode, vectors("p", "q", "r"), momentum())
    assert one.step({"p": np.ones(3), "q": None})
    assert one.step([None, np.ones(3), None])
    assert {name: param[0] for name, param in one.params.items()} == {"p": 0.5, "q": 0.5, "r": 1}
    assert {name for name, slots in one.state.items() if slots} == {"p", "q"}
    assert one.updates == 2


# -- every -------------------------------------------------------------------------------------


class Count(ParameterTransform):
    """Adds 100 to the parameter, and counts."""

    times = slot(shape="scalar")

    def update(self, param: Any, previous: Any) -> Any:
        self.times = self.times + 1
        return param + 100


def test_every(mode: str) -> None:
    stage = chain(every(2, scale(10.0)), SGD(1.0), every(3, Count()))
    one = optimizer(mode, {"p": np.zeros(3)}, stage)
    found = []
    for _ in range(6):
        before = one.params["p"][0]
        assert one.step({"p": np.full(3, -1.0)})
        found.append(one.params["p"][0] - before)
    assert found == [1, 10, 101, 10, 1, 110]
    assert one.state["p"]["Count.times"] == 2


def test_every_counts_no_vetoed_update(mode: str) -> None:
    stage = chain(skip_nonfinite(), every(2, scale(10.0)), SGD(1.0))
    one = optimizer(mode, {"p": np.zeros(3)}, stage)
    found = []
    for value in (-1.0, np.nan, -1.0, np.nan, -1.0, -1.0):
        one.step({"p": np.full(3, value)})
        found.append(one.params["p"][0])
    assert found == [1, 1, 11, 11, 12, 22]


@pytest.mark.parametrize("k", [0, -1, 1.5, True])
def test_every_is_checked(k: Any) -> None:
    with pytest.raises(ValueError, match="allowed is a whole number from 1"):
        every(k, scale(2.0))


# -- extra inputs ------------------------------------------------------------------------------


class Curved(Rule):
    """Reads the loss and a Hessian's diagonal."""

    loss = extra("scalar")
    hessian = extra("param")
    seen = slot(shape="scalar")

    def update(self, param: Any, grad: Any) -> Any:
        self.seen = self.loss * 2
        return param - self.loss * grad / self.hessian


def test_extra_inputs(mode: str) -> None:
    params = {"p": np.ones((2, 3)), "q": np.ones((3, 4)).T}
    one = optimizer(mode, params, Curved())
    grads = {name: np.ones(param.shape) for name, param in params.items()}
    hessian = {n: np.arange(1, 1 + p.size).reshape(p.shape) * 1.0 for n, p in params.items()}
    assert one.step(grads, loss=3.0, hessian=hessian)
    assert one.step(grads, loss=np.float32(0.5), hessian=list(hessian.values()))
    for name, param in params.items():
        np.testing.assert_allclose(param, 1 - 3.5 / hessian[name])
        assert one.state[name]["seen"] == 1.0


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"loss": None}, TypeError, "loss is None; allowed is a number"),
        ({"loss": ...}, TypeError, "step needs loss="),
        ({"hessian": ...}, TypeError, "step needs hessian="),
        ({"closure": 1}, TypeError, r"no input 'closure' .*loss, hessian"),
        ({"hessian": {"p": np.ones(4)}}, ValueError, r"hessian of 'p' has shape \(4,\)"),
        ({"hessian": {"p": np.ones(3, "f4")}}, ValueError, "hessian of 'p' .* dtype float32"),
        ({"hessian": {"r": np.ones(3)}}, ValueError, "hessian for 'r'"),
        ({"hessian": {}}, TypeError, "step needs hessian for 'p'"),
    ],
)
def test_extra_inputs_are_checked(mode: str, change: Any, error: Any, says: str) -> None:
    one = optimizer(mode, vectors("p"), Curved())
    inputs = {"loss": 1.0, "hessian": vectors("p")}
    assert one.step(vectors("p"), **inputs)
    expected = snapshot(one)
    wrong = {name: value for name, value in {**inputs, **change}.items() if value is not ...}
    with pytest.raises(error, match=says):
        one.step(vectors("p"), **wrong)
    assert snapshot(one) == expected


# -- slots -------------------------------------------------------------------------------------


def test_optimizer_wide_slot(mode: str) -> None:
    class Adapts(Rule):
        learning_rate = hyper(0.5)
        rate = slot(2.0, scope="optimizer")
        steps = slot(scope="optimizer")

        def update(self, param: Any, grad: Any) -> Any:
            self.rate = self.rate / 2 + ops.sum(grad, over="all")
            self.steps = self.steps + 1
            return param - self.rate * self.learning_rate * grad + 0 * self.steps

    params = {"p": np.zeros(3), "q": np.zeros((2, 2), np.float32)}
    one = optimizer(mode, params, Adapts(), groups={"q": {"learning_rate": 0.25}})
    grads = {"p": np.ones(3), "q": np.ones((2, 2), np.float32)}
    for _ in range(2):
        assert one.step(grads)
    assert {full: value for (_, full), value in one.shared.items()} == {"rate": 11.0, "steps": 2.0}
    assert params["p"].tolist() == [-9.5] * 3  # (8 + 11) / 2
    assert params["q"].ravel().tolist() == [-4.75] * 4
    assert not any(one.state.values())


def test_optimizer_wide_slot_of_overlapping_parameters(mode: str) -> None:
    """It changes once a step, though a parameter that overlaps another is computed again."""

    class Slows(Rule):
        rate = slot(2.0, scope="optimizer")

        def update(self, param: Any, grad: Any) -> Any:
            self.rate = self.rate / 2
            return param - self.rate * grad

    memory = np.zeros(6)
    one = optimizer(mode, {"p": memory[:4], "q": memory[2:]}, Slows())
    assert one.step([np.ones(4), np.ones(4)])
    assert memory.tolist() == [-1, -1, -2, -2, -1, -1]
    assert list(one.shared.values()) == [1.0]


SHAPES: dict[str, Callable[[tuple[int, ...]], tuple[int, ...]]] = {
    "rows": lambda shape: (*shape[:1], *(1 for _ in shape[1:])),
    "columns": lambda shape: (*(1 for _ in shape[:1]), *shape[1:]),
    "single": lambda shape: (),
    "whole": lambda shape: shape,
    "vectors_whole": lambda shape: shape if len(shape) < 2 else (1, *shape[1:]),
}


def test_slot_shape_by_function(mode: str) -> None:
    def update(self: Any, param: Any, grad: Any) -> Any:
        self.rows = ops.sum(grad, "row")
        self.columns = ops.sum(grad, "column")
        self.single = ops.sum(grad)
        self.whole = self.whole + grad
        self.vectors_whole = grad if param.ndim < 2 else ops.sum(grad, "column")
        return param - self.whole

    slots = {name: slot(shape=function) for name, function in SHAPES.items()}
    rule = type("Shaped", (Rule,), {**slots, "update": update})()
    shapes: list[tuple[int, ...]] = [(), (4,), (2, 3), (2, 3, 2)]
    params = {f"p{len(shape)}": np.zeros(shape) for shape in shapes}
    one = optimizer(mode, params, rule)
    rng = np.random.default_rng(0)
    grads = {name: np.array(rng.standard_normal(p.shape)) for name, p in params.items()}
    assert one.step(grads)
    for name, grad in grads.items():
        state = one.state[name]
        assert {n: array.shape for n, array in state.items()} == {
            n: function(grad.shape) for n, function in SHAPES.items()
        }
        by_row = grad.reshape(*grad.shape[:1], -1) if grad.ndim else grad.reshape(1, 1)
        np.testing.assert_allclose(state["rows"].ravel(), by_row.sum(axis=1))
        np.testing.assert_allclose(state["columns"].ravel(), by_row.sum(axis=0))
        np.testing.assert_allclose(state["single"], grad.sum())
        np.testing.assert_array_equal(params[name], -grad)


def test_slot_shape_that_is_none_of_ours(mode: str) -> None:
    class Odd(Rule):
        odd = slot(shape=lambda shape: (7,))

        def update(self, param: Any, grad: Any) -> Any:
            return param - grad

    one = optimizer(mode, {"p": np.ones((2, 3))}, Odd())
    expected = snapshot(one)
    says = r"slot 'odd' of 'p': .* gives \(7,\) for .* \(2, 3\); allowed are \(2, 3\), \(2, 1\)"
    with pytest.raises(ValueError, match=says):
        one.step({"p": np.ones((2, 3))})
    assert snapshot(one) == expected


# -- gradient transformers ---------------------------------------------------------------------

Pairs = list[tuple[Array, Array]]


def halved(pairs: Pairs) -> Pairs:
    return [(grad / 2, param) for grad, param in pairs]


def without_first(pairs: Pairs) -> Pairs:
    return pairs[1:]


def test_transformers_run_in_order(mode: str) -> None:
    seen: list[list[float]] = []

    def looks(pairs: Pairs) -> Iterator[tuple[Array, Array]]:
        seen.append([float(grad[0]) for grad, _ in pairs])
        yield from reversed(pairs)

    stage = chain(halved, looks, SGD(1.0))
    one = optimizer(mode, vectors("p", "q"), stage, gradient_transformers=[halved])
    assert one.step({"p": np.full(3, 8.0), "q": np.full(3, 4.0)})
    assert seen == [[2.0, 1.0]]
    assert {name: param[0] for name, param in one.params.items()} == {"p": -1.0, "q": 0.0}


def test_dropped_pair_skips_the_parameter(mode: str) -> None:
    one = optimizer(
        mode, vectors("p", "q"), momentum(), gradient_transformers=[without_first, halved]
    )
    assert one.step(vectors("p", "q"))
    assert [name for name, slots in one.state.items() if slots] == ["q"]
    assert one.params["p"].tolist() == [1.0] * 3
    assert one.params["q"].tolist() == [0.75] * 3


def test_none_skips_the_parameter(mode: str) -> None:
    def drop(pairs: Pairs) -> list[Any]:
        return [(None, param) for _, param in pairs[:1]] + pairs[1:]

    one = optimizer(mode, vectors("p", "q"), SGD(1.0), gradient_transformers=[drop, halved])
    assert one.step(vectors("p", "q"))
    assert {name: param[0] for name, param in one.params.items()} == {"p": 1.0, "q": 0.5}


def foreign(pairs: Pairs) -> Pairs:
    return [*pairs, (np.ones(3), np.ones(3))]


def copied(pairs: Pairs) -> Pairs:
    return [(grad, param.copy()) for grad, param in pairs]


def doubled(pairs: Pairs) -> Pairs:
    return [*pairs, pairs[0]]


def not_pairs(pairs: Pairs) -> Any:
    return [grad for grad, _ in pairs]


def too_long(pairs: Pairs) -> Pairs:
    return [(np.ones(4), param) for _, param in pairs]


def narrow(pairs: Pairs) -> Pairs:
    return [(grad.astype(np.float32), param) for grad, param in pairs]


def writes(pairs: Pairs) -> Pairs:
    for _, param in pairs:
        param *= 0.5
    return pairs


def raises(pairs: Pairs) -> Iterator[tuple[Array, Array]]:
    yield pairs[0]
    raise ZeroDivisionError("half-way")


def restores(pairs: Pairs) -> Pairs:
    """Gives a pair that an earlier function had dropped."""
    return [*pairs, dropped[-1]]


dropped: Pairs = []


def drops(pairs: Pairs) -> Pairs:
    dropped.append(pairs[0])
    return pairs[1:]


@pytest.mark.parametrize(
    ("functions", "error", "says"),
    [
        ([foreign], ValueError, "foreign gave a pair for a foreign array"),
        ([copied], ValueError, "copied gave a pair for a foreign array"),
        ([doubled], ValueError, "doubled gave two pairs for 'p'"),
        ([drops, restores], ValueError, "restores gave a pair for 'p', which it was not given"),
        ([not_pairs], TypeError, "not_pairs gave ndarray; allowed is a list of"),
        ([too_long], ValueError, r"transformed gradient of 'p' has shape \(4,\)"),
        ([narrow], ValueError, "transformed gradient of 'p' has .* dtype float32"),
        ([writes], ValueError, "read-only"),
        ([raises], ZeroDivisionError, "half-way"),
    ],
)
def test_transformer_that_fails(mode: str, functions: Any, error: Any, says: str) -> None:
    broken = False

    steps = [(lambda pairs, one=one: one(pairs) if broken else pairs) for one in functions]
    for step, function in zip(steps, functions, strict=True):
        step.__name__ = function.__name__
    one = optimizer(mode, vectors("p", "q"), momentum(), gradient_transformers=steps)
    assert one.step(vectors("p", "q"))
    expected = snapshot(one)
    broken = True
    with pytest.raises(error, match=says):
        one.step(vectors("p", "q"))
    assert snapshot(one) == expected
    broken = False
    assert one.step(vectors("p", "q"))
    assert one.updates == 2


def test_transformer_is_no_function() -> None:
    with pytest.raises(TypeError, match="gradient_transformers has 3"):
        Optimizer(vectors("p"), SGD(0.1), gradient_transformers=[3])


def test_gradients_are_left_alone(mode: str) -> None:
    class Doubles(GradientTransform):
        def update(self, param: Any, grad: Any) -> Any:
            return grad * 2

    grads = vectors("p")
    one = optimizer(mode, vectors("p"), chain(halved, Doubles(), Adam()))
    assert one.step(grads)
    assert grads["p"].tolist() == [1.0] * 3


class ByNorms(Rule):
    """Steps by norms of the parameter, of its columns and of its rows."""

    learning_rate = hyper(0.1)

    def update(self, param: Any, grad: Any) -> Any:
        grad = grad * ops.norm(param) / (1 + ops.norm(grad, over="column"))
        return param - self.learning_rate * grad / (1 + ops.norm(param, over="row"))


def test_overlapping_parameters_and_norms_over_all() -> None:
    """The second parameter's own norms are of what the first one wrote; the norm over all not."""
    found = []
    for mode in MODES:
        memory = np.linspace(-3, 5, 40)
        params = {"p": memory[:24].reshape(4, 6), "q": memory[12:36].reshape(4, 6)}
        one = optimizer(mode, params, chain(clip_by_global_norm(0.5), ByNorms()))
        for number in range(3):
            grads = {name: np.cos(param + number) for name, param in params.items()}
            assert one.step(grads)
        found.append(memory)
    for other in found[1:]:
        np.testing.assert_allclose(found[0], other, rtol=1e-12)


@pytest.mark.parametrize("over", ["row", "column", "tensor"])
@pytest.mark.parametrize("size", [1e25, 1e-25])
def test_norms_beyond_the_range_of_squares(mode: str, over: str, size: float) -> None:
    class Normed(Rule):
        learning_rate = hyper(1.0)

        def update(self, param: Any, grad: Any) -> Any:
            return param - self.learning_rate * (grad / ops.norm(grad, over=over))

    params = {"p": np.zeros((3, 5), np.float32)}
    grad = np.full((3, 5), size, np.float32)
    one = optimizer(mode, params, Normed())
    assert one.step({"p": grad})
    count = {"row": 5, "column": 3, "tensor": 15}[over]
    np.testing.assert_allclose(one.params["p"], -(count**-0.5), rtol=1e-6)
