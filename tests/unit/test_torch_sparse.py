"""Sparse gradients: the numbers of a dense one, only the rows it has, or caught up with."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

import pellucid
import pellucid.torch
from pellucid import (
    Adam,
    AdamW,
    GradientTransform,
    Rule,
    RuleError,
    chain,
    clip_by_global_norm,
    extra,
    hyper,
    ops,
    route,
    slot,
)
from pellucid.rules import CATALOGUE
from pellucid.schedules import Cosine

ROWS, WIDTH = 40, 6
MODES = ["dense", "lazy", "catch_up"]
ARGUMENTS: dict[str, dict[str, Any]] = {
    "SGD": {"momentum": 0.9, "dampening": 0.1}, "RMSprop": {"centered": True, "momentum": 0.5},
}  # fmt: skip
ELEMENTWISE = [name for name in CATALOGUE if name != "RowwiseAdagrad"]


def table(shape: Any = (ROWS, WIDTH), dtype: torch.dtype = torch.float32) -> Any:
    torch.manual_seed(0)
    return torch.nn.Parameter(torch.randn(shape).to(dtype))


def some_rows(step: int, count: int = 8, rows: int = ROWS) -> Any:
    """Row numbers, some of them twice, in no order."""
    return torch.randint(0, rows, (count,), generator=torch.Generator().manual_seed(step))


def sparse(indices: Any, values: Any, shape: Any = (ROWS, WIDTH), **kwargs: Any) -> Any:
    indices = indices if indices.dim() == 2 else indices[None]
    return torch.sparse_coo_tensor(indices, values, shape, **{"check_invariants": True, **kwargs})


def gradient(step: int, indices: Any = None, dtype: torch.dtype = torch.float32) -> Any:
    generator = torch.Generator().manual_seed(1000 + step)
    indices = some_rows(step) if indices is None else indices
    values = torch.randn(len(indices), WIDTH, generator=generator) * 10.0 ** (step % 3 - 1)
    return sparse(indices, values.to(dtype))


def made(name: str, params: Any, **kwargs: Any) -> Any:
    return getattr(pellucid.torch, name)(params, **{**ARGUMENTS.get(name, {}), **kwargs})


def train(optimizer: Any, param: Any, steps: Any, densely: bool = False) -> Any:
    for step in steps:
        grad = gradient(step)
        param.grad = grad.to_dense() if densely else grad
        optimizer.step()
    return param


# -- dense -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["AdamW", "SGD", "Adagrad", "Lion"])
def test_by_default_the_numbers_are_those_of_a_dense_gradient(name: str) -> None:
    one, other = table(), table()
    train(made(name, [one]), one, range(6))
    train(made(name, [other]), other, range(6), densely=True)
    assert torch.equal(one, other)


# -- lazy --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*ELEMENTWISE, "RowwiseAdagrad"])
def test_touched_rows_move_as_they_would_alone_and_the_others_not_at_all(name: str) -> None:
    """Rows that have a gradient at each step equal a dense optimizer over those rows alone."""
    rows = torch.tensor([1, 7, 8, 39])
    whole, alone = table(), torch.nn.Parameter(table().detach()[rows].clone())
    before = whole.detach().clone()
    mine, other = made(name, [whole], sparse="lazy"), made(name, [alone])
    for step in range(6):
        order = torch.randperm(4, generator=torch.Generator().manual_seed(step))
        grad = gradient(step, rows[order])
        whole.grad, alone.grad = grad, grad.to_dense()[rows]
        mine.step()
        other.step()
    torch.testing.assert_close(whole[rows], alone, rtol=1e-6, atol=1e-7)
    rest = [row for row in range(ROWS) if row not in rows.tolist()]
    assert torch.equal(whole[rest], before[rest])
    assert not torch.equal(whole[rows], before[rows])
    for key, value in other.state[alone].items():
        found = mine.state[whole][key]
        if value.dim():
            torch.testing.assert_close(found[rows], value, rtol=1e-6, atol=1e-7)
        else:
            assert torch.equal(found, value), key


@pytest.mark.parametrize("mode", ["lazy", "catch_up"])
@pytest.mark.parametrize("name", ["AdamW", "SGD", "Adagrad", "RowwiseAdagrad", "Lion"])
def test_kernels_equal_lines(name: str, mode: str) -> None:
    found = []
    for compiled in (True, False):
        param = table()
        optimizer = made(name, [param], sparse=mode, compiled=compiled)
        found.append((train(optimizer, param, range(8)), optimizer.state[param]))
    (one, slots), (other, others) = found
    torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
    assert list(slots) == list(others)
    for key, value in slots.items():
        torch.testing.assert_close(value, others[key], rtol=1e-5, atol=1e-6)


def test_as_torchs_sparse_adam() -> None:
    """Which adds epsilon before it corrects the bias: here epsilon is too small to matter."""
    mine, theirs = table(), table()
    train(pellucid.torch.Adam([mine], lr=1e-2, eps=1e-20, sparse="lazy"), mine, range(8))
    train(torch.optim.SparseAdam([theirs], lr=1e-2, eps=1e-20), theirs, range(8))
    torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore:Sparse invariant checks")  # torch's, of its own tensors
def test_as_torchs_adagrad() -> None:
    mine, theirs = table(), table()
    train(pellucid.torch.Adagrad([mine], lr=0.1, sparse="lazy"), mine, range(8))
    train(torch.optim.Adagrad([theirs], lr=0.1), theirs, range(8))
    torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6)


def test_an_embedding_in_a_model() -> None:
    """Beside dense layers, clipped by the norm of all gradients: as dense, for such a rule."""

    def run(how: str) -> Any:
        torch.manual_seed(1)
        model = torch.nn.Sequential(
            torch.nn.Embedding(ROWS, WIDTH, sparse=how != "plain"), torch.nn.Linear(WIDTH, 3)
        )
        stages = chain(clip_by_global_norm(0.5), pellucid.Adagrad(0.1))
        mode = "dense" if how == "plain" else how
        optimizer = pellucid.torch.Optimizer(model, stages, sparse=mode)
        for step in range(6):
            optimizer.zero_grad()
            (model(some_rows(step)) - 1.0).square().sum().backward()
            optimizer.step()
        return model, optimizer

    (plain, one), (lazy, two) = run("plain"), run("lazy")
    for a, b in zip(plain.parameters(), lazy.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
        for key, value in one.state[a].items():
            torch.testing.assert_close(value, two.state[b][key], rtol=1e-5, atol=1e-6)


def test_work_is_that_of_the_touched_rows() -> None:
    param = table((5000, WIDTH))
    optimizer = pellucid.torch.AdamW([param], sparse="lazy")
    for step, count in enumerate((3, 50, 0, 1)):
        rows = torch.arange(count) * 7
        param.grad = sparse(rows, torch.ones(count, WIDTH), (5000, WIDTH))
        optimizer.step()
        (plan,) = optimizer._plans.values()
        (launched,) = plan.launch.tables
        chunks = launched.cut(launched.program.passes[-1])
        assert int(chunks.work.sum()) == count * WIDTH
        assert float(optimizer.state[param]["step"]) == step + 1


@pytest.mark.parametrize("functions", [(), (list,)], ids=["alone", "with a function"])
def test_duplicates_are_summed_in_float32(functions: Any) -> None:
    """In bfloat16 256 + 1 is 256: a hundred ones on top would be lost."""
    param = torch.nn.Parameter(torch.zeros(3, 1, dtype=torch.bfloat16))
    values = torch.cat([torch.tensor([256.0]), torch.ones(100)]).bfloat16()[:, None]
    param.grad = sparse(torch.full((101,), 2), values, (3, 1))
    pellucid.torch.SGD(
        [param], lr=1.0, sparse="lazy", gradient_transformers=functions
    ).step()
    assert param.flatten().tolist() == [0.0, 0.0, -356.0]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("rounding", ["nearest", "stochastic", "kahan"])
def test_other_types(dtype: torch.dtype, rounding: str) -> None:
    found = []
    for compiled in (True, False):
        param = table(dtype=dtype)
        optimizer = pellucid.torch.AdamW(
            [param], sparse="lazy", rounding=rounding, compiled=compiled, lr=1e-2
        )
        for step in range(5):
            param.grad = gradient(step, dtype=dtype)
            optimizer.step()
        found.append(param.detach().double())
    unit = {torch.bfloat16: 2.0**-7, torch.float16: 2.0**-10, torch.float64: 1e-9}[dtype]
    torch.testing.assert_close(*found, rtol=2 * unit, atol=unit)


def test_gradients_with_several_sparse_axes_and_of_vectors() -> None:
    """Rows are along the first axis: one with any entry is touched whole."""
    for shape in ((ROWS,), (ROWS, WIDTH), (ROWS, 2, 3)):
        one, other = table(shape), table(shape)
        generator = torch.Generator().manual_seed(4)
        dense = torch.zeros(shape)
        for row in (3, 17, 21):
            dense[row] = torch.randn(shape[1:], generator=generator)
        one.grad = dense.to_sparse()
        other.grad = dense
        assert one.grad.sparse_dim() == len(shape)
        pellucid.torch.SGD([one], lr=0.1, sparse="lazy").step()
        pellucid.torch.SGD([other], lr=0.1).step()
        assert torch.equal(one, other)


# -- catch up ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "slots"),
    [
        ("Adam", ["exp_avg", "exp_avg_sq"]), ("AdamW", ["exp_avg", "exp_avg_sq"]),
        ("Lion", ["exp_avg"]), ("RMSprop", ["square_avg", "grad_avg"]),
        ("SGD", ["momentum_buffer"]), ("Adagrad", ["sum"]), ("NAdam", ["exp_avg", "exp_avg_sq"]),
        ("RAdam", ["exp_avg", "exp_avg_sq"]),
    ],
)  # fmt: skip
@pytest.mark.parametrize("scheduled", [False, True])
def test_moments_equal_dense_ones(name: str, slots: list[str], scheduled: bool) -> None:
    """For the same gradients, at each row when it is touched; so at the end, when all are."""
    if name == "RMSprop":
        arguments: dict[str, Any] = {"centered": True, "momentum": 0.0}
    else:
        arguments = {"lr": 1e-2}
    if scheduled and name in ("Adam", "AdamW", "Lion"):
        arguments["betas"] = (Cosine(0.9, 12, end=0.3), 0.99)
    found = []
    for mode in ("catch_up", "dense"):
        param = table()
        optimizer = made(name, [param], sparse=mode, **arguments)
        train(optimizer, param, range(10))
        param.grad = gradient(77, torch.arange(ROWS))
        optimizer.step()
        found.append(optimizer.state[param])
    for key in slots:
        torch.testing.assert_close(found[0][key], found[1][key], rtol=2e-5, atol=1e-7)


def test_missed_decay_is_what_sets_it_apart_from_lazy() -> None:
    moments = {}
    for mode in MODES:
        param = table()
        optimizer = pellucid.torch.Adam([param], sparse=mode, betas=(0.5, 0.5))
        for step, row in enumerate([3, 5, 5, 5, 5, 3]):
            param.grad = gradient(step, torch.tensor([row]))
            optimizer.step()
        moments[mode] = optimizer.state[param]["exp_avg"][3]
    torch.testing.assert_close(moments["catch_up"], moments["dense"], rtol=1e-6, atol=1e-9)
    assert not torch.allclose(moments["lazy"], moments["dense"], rtol=1e-2)


def test_catching_up_goes_on_bit_for_bit_from_a_checkpoint() -> None:
    param = table()
    optimizer = pellucid.torch.Adam([param], sparse="catch_up", lr=Cosine(1e-2, 30))
    train(optimizer, param, range(7))
    kept, saved = param.detach().clone(), copy.deepcopy(optimizer.state_dict())
    train(optimizer, param, range(7, 14))
    again = torch.nn.Parameter(kept)
    resumed = pellucid.torch.Adam([again], sparse="catch_up", lr=Cosine(1e-2, 30))
    resumed.load_state_dict(saved)
    train(resumed, again, range(7, 14))
    assert torch.equal(param, again)
    for key, value in optimizer.state[param].items():
        assert torch.equal(value, resumed.state[again][key]), key


def test_a_parameter_that_has_no_gradient_misses_nothing() -> None:
    """As in torch: a step without any gradient for a parameter is none of its updates."""
    moments = {}
    for mode in ("catch_up", "dense"):
        param, other = table(), torch.nn.Parameter(torch.ones(2))
        optimizer = pellucid.torch.Adam([param, other], sparse=mode, betas=(0.5, 0.5))
        for step in range(9):
            param.grad = None if step in (2, 3, 6) else gradient(step)
            other.grad = torch.ones(2)
            optimizer.step()
        param.grad = gradient(9, torch.arange(ROWS))
        optimizer.step()
        moments[mode] = optimizer.state[param]["exp_avg"]
    torch.testing.assert_close(moments["catch_up"], moments["dense"], rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("Adam", {"amsgrad": True}, "'max_second_moment'"),
        ("Adam", {"weight_decay": 0.1}, "'first_moment'"),
        ("SGD", {"weight_decay": 0.1, "momentum": 0.9}, "'velocity'"),
        ("Adamax", {}, "'infinity_norm'"),
        ("Rprop", {}, "'step_size'"),
    ],
)
def test_other_rules_cannot_catch_up(name: str, arguments: dict[str, Any], words: str) -> None:
    param = table()
    before = param.detach().clone()
    optimizer = getattr(pellucid.torch, name)([param], sparse="catch_up", **arguments)
    param.grad = gradient(0)
    with pytest.raises(RuleError, match=f"sparse='catch_up' .* the slot {words}"):
        optimizer.step()
    assert torch.equal(param, before)
    assert not optimizer.state


def test_a_decay_that_is_switched_on_later_is_refused() -> None:
    param = table()
    optimizer = pellucid.torch.Adam([param], sparse="catch_up")
    train(optimizer, param, range(3))
    before = param.detach().clone(), copy.deepcopy(optimizer.state_dict())
    optimizer.param_groups[0]["weight_decay"] = 0.1
    param.grad = gradient(3)
    with pytest.raises(RuleError, match=r"sparse='catch_up' .* 'first_moment'"):
        optimizer.step()
    optimizer.param_groups[0]["weight_decay"] = 0.0
    assert torch.equal(param, before[0])
    assert str(optimizer.state_dict()) == str(before[1])
    train(optimizer, param, range(3, 5))


# -- what cannot be had ------------------------------------------------------------------------


class Normed(Rule):
    """Takes part of the whole tensor into each row."""

    learning_rate = hyper(0.1)
    scale = slot(shape="scalar")

    def update(self, param: Any, grad: Any) -> Any:
        return param - self.learning_rate * grad * ops.norm(param)


class Columns(Rule):
    """Has a slot of one number for each column."""

    learning_rate = hyper(0.1)
    second_moment = slot(shape="column")

    def update(self, param: Any, grad: Any) -> Any:
        self.second_moment = self.second_moment + ops.mean(grad * grad, over="column")
        return param - self.learning_rate * grad / ops.sqrt(self.second_moment + 1e-8)


class Summed(Rule):
    """Sums the columns of the gradient alone."""

    learning_rate = hyper(0.1)

    def update(self, param: Any, grad: Any) -> Any:
        return param - self.learning_rate * grad / (1 + ops.sum(ops.abs(grad), over="column"))


class Preconditioned(Rule):
    """Has an input of the parameter's shape."""

    learning_rate = hyper(0.1)
    curvature = extra(shape="param")

    def update(self, param: Any, grad: Any) -> Any:
        return param - self.learning_rate * grad * self.curvature * self.curvature


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("compiled", [True, False], ids=["compiled", "lines"])
def test_other_inputs_are_read_at_the_touched_rows(dtype: torch.dtype, compiled: bool) -> None:
    curvature = table().detach().to(dtype) + 1
    found = []
    for mode in ("lazy", "dense"):
        param = table(dtype=dtype)
        optimizer = pellucid.torch.Optimizer(
            [param], Preconditioned(), sparse=mode, compiled=compiled
        )
        for step in range(3):
            param.grad = gradient(step, torch.tensor([3, 1, 30]), dtype)
            optimizer.step(curvature=[curvature])
        found.append(param.detach())
    assert torch.equal(*found)
    assert not torch.equal(found[0], table(dtype=dtype))


@pytest.mark.parametrize("mode", ["lazy", "catch_up"])
@pytest.mark.parametrize(
    ("rule", "words"),
    [
        (Normed, "reduces over the tensor"),
        (Columns, "a slot of one number for each column"),
        (Summed, "reduces over columns"),
    ],
)
@pytest.mark.parametrize("compiled", [True, False], ids=["compiled", "lines"])
def test_rules_that_need_all_rows(rule: Any, words: str, mode: str, compiled: bool) -> None:
    param = table()
    before = param.detach().clone()
    optimizer = pellucid.torch.Optimizer([param], rule(), sparse=mode, compiled=compiled)
    param.grad = gradient(0)
    with pytest.raises(RuleError, match=f"sparse='{mode}' .* {words}.* use sparse='dense'"):
        optimizer.step()
    assert torch.equal(param, before)
    assert not optimizer.state
    param.grad = gradient(0).to_dense()
    optimizer.step()  # what was refused did not settle that gradients are sparse
    assert not torch.equal(param, before)
    before = param.detach().clone()
    param.grad = gradient(0)
    dense = pellucid.torch.Optimizer([param], rule(), compiled=compiled)
    dense.step()
    assert not torch.equal(param, before)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("functions", [(), (list,)], ids=["alone", "with a function"])
@pytest.mark.parametrize("wrong", [ROWS, -1, 10**12])
def test_indices_out_of_range(mode: str, wrong: int, functions: Any) -> None:
    param = table()
    optimizer = pellucid.torch.Adam([param], sparse=mode, gradient_transformers=functions)
    train(optimizer, param, range(2))
    before = param.detach().clone(), copy.deepcopy(optimizer.state_dict())
    rows = torch.tensor([2, wrong])
    param.grad = sparse(rows, torch.ones(2, WIDTH), check_invariants=False)
    with pytest.raises(ValueError, match=rf"index {wrong} along axis 0; allowed is 0 to 39"):
        optimizer.step()
    assert torch.equal(param, before[0])
    assert str(optimizer.state_dict()) == str(before[1])


@pytest.mark.parametrize("mode", ["lazy", "catch_up"])
@pytest.mark.parametrize("first", ["sparse", "dense"])
def test_sparse_and_dense_gradients_of_one_parameter(mode: str, first: str) -> None:
    param = table()
    optimizer = pellucid.torch.Adam([param], sparse=mode)
    kinds = [gradient(0), gradient(1).to_dense()]
    param.grad = kinds[first == "dense"]
    optimizer.step()
    before = param.detach().clone()
    param.grad = kinds[first != "dense"]
    with pytest.raises(TypeError, match=f"it was {first} before.* Use sparse='dense'"):
        optimizer.step()
    assert torch.equal(param, before)
    param.grad = kinds[first == "dense"]
    optimizer.step()
    both = pellucid.torch.Adam([param])
    for param.grad in kinds:
        both.step()


@pytest.mark.parametrize("mode", ["lazy", "catch_up"])
def test_a_gradient_that_is_sparse_along_no_axis(mode: str) -> None:
    param = table((3,))
    values, none = torch.ones(1, 3), torch.empty(0, 1, dtype=torch.int64)
    param.grad = sparse(none, values, (3,))
    with pytest.raises(TypeError, match=r"sparse along none of its axes .* grad.to_dense\(\)"):
        pellucid.torch.Adam([param], sparse=mode).step()
    pellucid.torch.Adam([param]).step()


@pytest.mark.parametrize("ending", ["clock", "seen"])
@pytest.mark.parametrize("mode", MODES)
def test_stages_may_have_slots_of_any_name(ending: str, mode: str) -> None:
    """Counts that a row of a slot keeps are told from a user's slots of such names."""

    def update(self: Any, param: Any, grad: Any) -> Any:
        return grad * 2 if not self.has(ending) else grad

    made = {ending: slot(shape="scalar"), "update": update, "__module__": __name__}
    stage = type("Counting", (GradientTransform,), made)
    param = table()
    optimizer = pellucid.torch.Optimizer(
        [param], chain(stage(name="first_moment"), Adam(0.1)), sparse=mode
    )
    before = param.detach().clone()
    train(optimizer, param, range(3))
    assert not torch.equal(param, before)
    assert f"first_moment.{ending}" in optimizer.state[param]


def test_complex_numbers() -> None:
    pair = torch.nn.Parameter(torch.ones(4, 2, dtype=torch.complex64))
    pair.grad = torch.ones(4, 2, dtype=torch.complex64).to_sparse()
    with pytest.raises(TypeError, match=r"sparse and complex.* use sparse='dense'"):
        pellucid.torch.Adam([pair], sparse="lazy").step()
    pellucid.torch.Adam([pair]).step()
    assert not torch.equal(pair, torch.ones_like(pair))


def test_rows_that_do_not_lie_one_after_the_other() -> None:
    param = torch.nn.Parameter(torch.ones(WIDTH, ROWS).t())
    param.grad = gradient(0)
    with pytest.raises(ValueError, match=r"lies in memory in another order .* make it contiguous"):
        pellucid.torch.Adam([param], sparse="lazy").step()
    assert torch.equal(param, torch.ones(ROWS, WIDTH))


def test_functions_of_the_users_get_each_row_once() -> None:
    seen = []

    def look(pairs: Any) -> Any:
        seen.extend(grad for grad, _ in pairs)
        return [(grad * 2.0, param) for grad, param in pairs]

    one, other = table(), table()
    mine = pellucid.torch.SGD([one], lr=0.1, sparse="lazy", gradient_transformers=[look])
    train(mine, one, range(2))
    assert all(grad.is_sparse and grad.is_coalesced() for grad in seen)
    train(pellucid.torch.SGD([other], lr=0.2, sparse="lazy"), other, range(2))
    torch.testing.assert_close(one, other)


def test_a_veto_of_sparse_gradients() -> None:
    param = table()
    before = param.detach().clone()
    stages = chain(pellucid.skip_nonfinite(), AdamW())
    optimizer = pellucid.torch.Optimizer([param], stages, sparse="lazy")
    param.grad = sparse(torch.tensor([3]), torch.full((1, WIDTH), float("nan")))
    optimizer.step()
    assert torch.equal(param, before)
    assert optimizer.updates == 0
    train(optimizer, param, range(1))
    assert not torch.equal(param, before)


def test_routes() -> None:
    """Two tables by lazy row-wise Adagrad and a tower by AdamW: one optimizer, one checkpoint."""
    torch.manual_seed(0)
    model = torch.nn.ModuleDict({
        "user": torch.nn.Embedding(ROWS, WIDTH, sparse=True),
        "item": torch.nn.Embedding(ROWS, WIDTH, sparse=True),
        "tower": torch.nn.Linear(2 * WIDTH, 1),
    })  # fmt: skip

    def optimizer_of(model: Any) -> Any:
        stages = route({
            "user.*": pellucid.RowwiseAdagrad(0.1), "item.*": pellucid.RowwiseAdagrad(0.1),
            "*": Adam(1e-2),
        })  # fmt: skip
        return pellucid.torch.Optimizer(model, stages, sparse="lazy")

    def step(model: Any, optimizer: Any, number: int) -> None:
        optimizer.zero_grad()
        both = [model["user"](some_rows(number)), model["item"](some_rows(number + 50))]
        model["tower"](torch.cat(both, dim=1)).square().mean().backward()
        optimizer.step()

    optimizer = optimizer_of(model)
    for number in range(4):
        step(model, optimizer, number)
    other = copy.deepcopy(model)
    resumed = optimizer_of(other)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for number in range(4, 7):
        step(model, optimizer, number)
        step(other, resumed, number)
    for one, two in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(one, two)
