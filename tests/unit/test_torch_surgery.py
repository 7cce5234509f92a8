"""State surgery: what is left after it trains on as if the rest had never been there."""

from __future__ import annotations

import copy
import gc
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.optim import lr_scheduler

import pellucid
import pellucid.torch
from pellucid import Rule, average_weights, chain
from pellucid.access.errors import UnknownNameError
from pellucid.rule import hyper, slot

Tensor = torch.Tensor
P = torch.nn.Parameter


def drawn(shape: Any, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def parameter(shape: Any, seed: int = 0, dtype: torch.dtype = torch.float32) -> Any:
    return P(drawn(shape, seed, dtype))


def plain(value: Any) -> Any:
    """A tensor as what can be compared, bit for bit."""
    if isinstance(value, Tensor):
        return value.dtype, value.stride(), repr(value.detach().tolist())
    return value


def snapshot(opt: Any) -> Any:
    """All that an error must leave as it was."""
    return [
        [[(id(p), plain(p), plain(p.grad), p.requires_grad) for p in g["params"]]
         for g in opt.param_groups],
        [{k: v for k, v in g.items() if k != "params"} for g in opt.param_groups],
        [{k: (id(v), plain(v)) for k, v in held.items()} for held in opt.state.values()],
        [(entry.name, entry.index, entry.group) for entry in opt.entries],
        len(opt._frozen),
    ]  # fmt: skip


def refused(opt: Any, action: Callable[[], Any], kind: type[Exception], match: str) -> None:
    """The action raises, and leaves everything as it was."""
    before = snapshot(opt)
    pointers = [p.data_ptr() for group in opt.param_groups for p in group["params"]]
    with pytest.raises(kind, match=match):
        action()
    assert snapshot(opt) == before
    assert [p.data_ptr() for group in opt.param_groups for p in group["params"]] == pointers


class RowSums(Rule):
    """One slot of each kind of shape."""

    learning_rate = hyper(0.1, minimum=0)
    first_moment = slot()
    rows = slot(2.0, shape="row")
    columns = slot(3.0, shape="column")
    count = slot(shape="scalar")

    def update(self, param: Any, grad: Any) -> Any:
        self.first_moment = 0.9 * self.first_moment + grad
        self.rows = self.rows + pellucid.ops.mean(grad * grad, over="row")
        self.columns = self.columns + pellucid.ops.mean(grad * grad, over="column")
        self.count = self.count + 1.0
        return param - self.learning_rate * self.first_moment / (self.rows + self.columns)


ELEMENTWISE: list[tuple[str, dict[str, Any]]] = [
    ("AdamW", {"lr": 0.01, "amsgrad": True}),
    ("SGD", {"lr": 0.1, "momentum": 0.9}),
    ("Adagrad", {"lr": 0.1, "initial_accumulator_value": 0.1}),
    ("Rprop", {}),
    ("NAdam", {}),
    ("ASGD", {"t0": 2.0}),
    ("RMSprop", {"centered": True, "momentum": 0.5}),
    ("Lion", {}),
]


# -- resize ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rule", "options"), ELEMENTWISE)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex64])
@pytest.mark.parametrize("named", [False, True])
def test_kept_rows_go_on_as_if_nothing_was_cut(
    rule: str, options: dict[str, Any], dtype: torch.dtype, named: bool
) -> None:
    whole, cut, other = parameter((7, 5), 0, dtype), parameter((7, 5), 0, dtype), parameter((3,))
    make = getattr(pellucid.torch, rule)
    untouched = make([whole], **options)
    given = [("table.weight", cut), ("other", other)] if named else [cut, other]
    opt = make(given, **options)
    rows = torch.arange(7)
    keeps: dict[int, Any] = {
        3: torch.tensor([True, True, False, True, True, True, True]),
        5: [5, 0, 2, 1],
        8: 3,
    }
    for step in range(12):
        if step in keeps:
            held = opt.resize("table.weight" if named else cut, keeps[step])
            assert held is cut
            rows = rows[keeps[step]] if step != 8 else rows[:3]
            torch.testing.assert_close(cut.grad, whole.grad[rows], rtol=0, atol=0)
        grad = drawn((7, 5), 100 + step, dtype)
        whole.grad, cut.grad, other.grad = grad.clone(), grad[rows].clone(), torch.ones(3)
        untouched.step()
        opt.step()
        torch.testing.assert_close(cut.detach(), whole.detach()[rows], rtol=0, atol=0)
        for name, value in untouched.state[whole].items():
            mine = opt.state[cut][name]
            wanted = value[rows] if value.dim() else value
            torch.testing.assert_close(mine, wanted, rtol=0, atol=0)
    assert [tuple(p.shape) for p in opt.param_groups[0]["params"]] == [(3, 5), (3,)]
    assert opt.updates == 12


KEEPS: list[tuple[Any, list[int]]] = [
    (torch.tensor([False, True, True, False]), [1, 2]),
    ([False, True, True, False], [1, 2]),
    (np.array([False, True, True, False]), [1, 2]),
    (torch.tensor([3, 1, 1]), [3, 1, 1]),
    (np.array([0, 2]), [0, 2]),
    ((2, 0), [2, 0]),
    (range(1, 4), [1, 2, 3]),
    (torch.tensor([3], dtype=torch.int32), [3]),
    (3, [0, 1, 2]),
    (np.int64(3), [0, 1, 2]),
    (torch.tensor(3), [0, 1, 2]),
    (4, [0, 1, 2, 3]),
    (0, []),
    ([], []),
    (torch.zeros(4, dtype=torch.bool), []),
]


@pytest.mark.parametrize(("keep", "rows"), KEEPS)
def test_what_keep_may_be(keep: Any, rows: list[int]) -> None:
    param = parameter((4, 2))
    opt = pellucid.torch.Adam([param])
    param.grad = drawn((4, 2), 1)
    opt.step()
    before = param.detach(), param.grad, opt.state[param]["exp_avg"]
    wanted = [one.clone()[rows] for one in before]
    opt.resize(param, keep)
    for found, one in zip((param, param.grad, opt.state[param]["exp_avg"]), wanted, strict=True):
        torch.testing.assert_close(found.detach(), one, rtol=0, atol=0)
    param.grad = torch.ones_like(param)
    opt.step()
    assert param.shape == (len(rows), 2)


LAYOUTS: dict[str, Callable[[], Tensor]] = {
    "channels_last": lambda: drawn((6, 4, 3, 3), 0).contiguous(memory_format=torch.channels_last),
    "one row, channels_last": lambda: drawn((1, 4, 3, 3), 0).contiguous(
        memory_format=torch.channels_last
    ),
    "transposed": lambda: drawn((5, 6), 0).t(),
    "with gaps": lambda: drawn((6, 8), 0)[:, ::2],
    "permuted": lambda: drawn((3, 6, 4), 0).permute(1, 2, 0),
    "vector": lambda: drawn((6,), 0),
    "without elements": lambda: drawn((6, 0), 0),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_memory_stays_laid_out_as_it_was(layout: str) -> None:
    param, twin = P(LAYOUTS[layout]()), P(LAYOUTS[layout]().contiguous())
    opt, other = pellucid.torch.AdamW([param], lr=0.1), pellucid.torch.AdamW([twin], lr=0.1)

    def step(seed: int) -> None:
        grad = drawn(param.shape, seed)
        param.grad, twin.grad = torch.empty_like(param).copy_(grad), grad
        opt.step()
        other.step()

    step(1)
    order = sorted(range(1, param.dim()), key=lambda axis: -param.stride(axis))
    inner = [param.stride(axis) < param.stride(0) for axis in range(1, param.dim())]
    for keep in (4, 6, [5, 2, 3]):
        if not isinstance(keep, int) and len(param) < 6:
            continue
        new = drawn((max(keep - len(param), 0), *param.shape[1:]), 9) if keep == 6 else None
        opt.resize(param, keep, new=new)
        other.resize(twin, keep, new=new)
        if param.numel() and len(param) > 1:
            assert sorted(range(1, param.dim()), key=lambda axis: -param.stride(axis)) == order
            if layout != "one row, channels_last":
                now = [param.stride(axis) < param.stride(0) for axis in range(1, param.dim())]
                assert now == inner
            assert all(
                held.stride() == param.stride()
                for held in opt.state[param].values()
                if held.shape == param.shape
            )
        for seed in (2, 3):
            step(seed)
            torch.testing.assert_close(param.detach(), twin.detach(), rtol=1e-6, atol=1e-7)
    if layout.endswith("channels_last"):
        assert param.is_contiguous(memory_format=torch.channels_last)


def test_of_one_row_the_stride_says_nothing() -> None:
    param = P(drawn((2, 3, 1), 0).permute(2, 0, 1))
    assert param.stride(0) < param.stride(1)
    opt = pellucid.torch.AdamW([param])
    opt.resize(param, 4)
    assert param.is_contiguous()


def test_every_kind_of_slot() -> None:
    param = parameter((5, 3))
    opt = pellucid.torch.Optimizer([("w", param)], RowSums())
    param.grad = drawn((5, 3), 1)
    opt.step()
    before = {name: value.clone() for name, value in opt.state[param].items()}
    opt.resize("w", [4, 1], new=torch.full((2, 3), 7.0))
    held = opt.state[param]
    kept = [4, 1]
    for name, begun in (("exp_avg", 0.0), ("rows", 2.0)):
        torch.testing.assert_close(held[name][:2], before[name][kept], rtol=0, atol=0)
        torch.testing.assert_close(held[name][2:], torch.full_like(held[name][2:], begun))
    torch.testing.assert_close(held["columns"], before["columns"], rtol=0, atol=0)
    torch.testing.assert_close(held["count"], before["count"], rtol=0, atol=0)
    assert param.grad is not None
    torch.testing.assert_close(param.grad[2:], torch.zeros(2, 3))
    torch.testing.assert_close(param.detach()[2:], torch.full((2, 3), 7.0))
    opt.step()
    assert float(held["count"]) == 2.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64])
def test_how_appended_rows_begin(dtype: torch.dtype) -> None:
    class FromGradient(Rule):
        learning_rate = hyper(0.5, minimum=0)
        momentum = slot("grad")
        anchor = slot("param")
        size = slot(pellucid.ref("learning_rate"))

        def update(self, param: Any, grad: Any) -> Any:
            self.momentum = 0.5 * self.momentum + 0.5 * grad
            self.size = self.size * 0.9
            return param - self.size * self.momentum + 0.01 * (self.anchor - param)

    param = parameter((2, 3), 0, dtype)
    opt = pellucid.torch.Optimizer([param], chain(FromGradient(), average_weights(0.9)))
    param.grad = drawn((2, 3), 1, dtype)
    opt.step()
    opt.param_groups[0]["learning_rate" if "learning_rate" in opt.param_groups[0] else "lr"] = 0.25
    new = drawn((1, 3), 2, dtype)
    opt.resize(param, 3, new=new)
    held = opt.state[param]
    size = complex(0.25, 0.25) if dtype.is_complex else 0.25
    begun: dict[str, Any] = {
        "momentum": torch.zeros(1, 3, dtype=dtype),
        "anchor": new,
        "size": torch.full((1, 3), size, dtype=dtype),
        "average_weights.average": new,
    }
    assert set(held) - {"step"} == set(begun)
    for name, wanted in begun.items():
        torch.testing.assert_close(held[name][2:], wanted, rtol=0, atol=0)
    param.grad = torch.zeros_like(param)
    opt.step()
    torch.testing.assert_close(param.detach()[2:], new)


def test_an_average_of_asgd_begins_at_the_new_rows() -> None:
    param = parameter((2, 3))
    opt = pellucid.torch.ASGD([param], t0=1.0)
    for seed in range(4):
        param.grad = drawn((2, 3), seed)
        opt.step()
    new = drawn((2, 3), 9)
    opt.resize(param, 4, new=new)
    torch.testing.assert_close(opt.state[param]["ax"][2:], new, rtol=0, atol=0)


def test_without_state_without_gradient_and_with_a_sparse_one() -> None:
    param = parameter((4, 2))
    opt = pellucid.torch.AdamW([param])
    before = param.detach().clone()
    opt.resize(param, 5)
    assert param.grad is None
    assert not opt.state
    torch.testing.assert_close(param.detach(), torch.cat([before, torch.zeros(1, 2)]))
    indices, ones = torch.tensor([[4, 0, 4]]), torch.ones(3, 2)
    sparse = torch.sparse_coo_tensor(indices, ones, (5, 2), check_invariants=True)
    param.grad, dense = sparse, sparse.to_dense()
    opt.resize(param, [4, 4, 1, 0], new=torch.ones(2, 2))
    assert param.grad.layout == torch.sparse_coo
    wanted = torch.cat([dense[[4, 4, 1, 0]], torch.zeros(2, 2)])
    torch.testing.assert_close(param.grad.to_dense(), wanted)


def test_foreign_tensors_in_the_state_keep_their_rows() -> None:
    param = parameter((4, 2))
    opt = pellucid.torch.AdamW([param])
    param.grad = drawn((4, 2), 1)
    opt.step()
    mine = drawn((4, 2), 2)
    opt.state[param] |= {"mine": mine, "rows": mine[:, :1], "note": "text", "three": torch.ones(3)}
    opt.resize(param, [2, 3, 0])
    held = opt.state[param]
    torch.testing.assert_close(held["mine"], mine[[2, 3, 0]])
    torch.testing.assert_close(held["rows"], mine[[2, 3, 0], :1])
    assert held["note"] == "text"
    assert len(held["three"]) == 3


@pytest.mark.parametrize("rounding", ["nearest", "kahan", "stochastic"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_16_bit_parameters(rounding: Any, dtype: torch.dtype) -> None:
    whole, cut = parameter((6, 5), 0, dtype), parameter((6, 5), 0, dtype)
    rule = chain(pellucid.AdamW(1e-3), average_weights(0.9))
    opts = [pellucid.torch.Optimizer([p], rule, rounding=rounding) for p in (whole, cut)]
    rows = [0, 1, 2, 3, 4, 5]
    for step in range(8):
        if step == 4:
            rows = [0, 1, 2]  # their elements stay where they were: random rounding depends on it
            opts[1].resize(cut, rows)
        grad = drawn((6, 5), step, dtype)
        whole.grad, cut.grad = grad.clone(), grad[rows].clone()
        for opt in opts:
            opt.step()
        torch.testing.assert_close(cut.detach(), whole.detach()[rows], rtol=0, atol=0)
    held, other = opts[1].state[cut], opts[0].state[whole]
    assert ("compensation" in held) == (rounding == "kahan")
    for name, value in other.items():
        wanted = value[rows] if value.dim() else value
        torch.testing.assert_close(held[name], wanted, rtol=0, atol=0)


def test_rows_that_wait_for_their_decay() -> None:
    """What a row has missed goes with it; an appended row has missed nothing."""

    class FromOne(Rule):
        learning_rate = hyper(0.1, minimum=0)
        scale = slot(1.0)

        def update(self, param: Any, grad: Any) -> Any:
            self.scale = 0.5 * self.scale + grad * grad
            return param - self.learning_rate * grad * self.scale

    def step(param: Any, opt: Any, rows: list[int]) -> None:
        values = torch.ones(len(rows), 2)
        param.grad = torch.sparse_coo_tensor(
            torch.tensor([rows]), values, tuple(param.shape), check_invariants=True
        )
        opt.step()

    param, twin = parameter((4, 2)), parameter((4, 2))
    opt = pellucid.torch.Optimizer([param], FromOne(), sparse="catch_up")
    other = pellucid.torch.Optimizer([twin], FromOne(), sparse="catch_up")
    for rows in ([0, 1, 2, 3], [0], [0]):
        step(param, opt, rows)
        step(twin, other, rows)
    opt.resize(param, [3, 1, 0], new=torch.ones(1, 2))
    step(param, opt, [0, 1, 3])
    step(twin, other, [3, 1])
    torch.testing.assert_close(param.detach()[:3], twin.detach()[[3, 1, 0]], rtol=0, atol=0)
    scale = opt.state[param]["scale"]
    torch.testing.assert_close(scale[:3], other.state[twin]["scale"][[3, 1, 0]], rtol=0, atol=0)
    torch.testing.assert_close(scale[3], torch.full((2,), 1.5))


def test_autograd_after_a_resize() -> None:
    """New graphs fit, hooks of the parameter stay, and a graph of before says what happened."""
    layer = torch.nn.Linear(3, 4, bias=False)
    opt = pellucid.torch.AdamW(layer, lr=0.1)
    seen: list[tuple[int, ...]] = []
    layer.weight.register_post_accumulate_grad_hook(lambda p: seen.append(tuple(p.grad.shape)))
    x = drawn((2, 3), 1)
    loss = layer(x).square().sum()
    loss.backward()  # and it stays alive
    opt.step()
    early = layer(x).square().sum()
    opt.resize("weight", 2)
    opt.zero_grad()
    with pytest.raises(RuntimeError, match=r"'weight' was resized.*forward pass again"):
        early.backward()
    assert layer.weight.grad is None
    for _ in range(3):
        opt.zero_grad()
        layer(x).square().sum().backward()
        opt.step()
    assert seen == [(4, 3), *[(2, 3)] * 3]
    version = layer.weight._version
    opt.resize("weight", 2)
    assert layer.weight._version > version
    del loss, early
    gc.collect()


def test_a_saved_parameter_is_seen_to_have_changed() -> None:
    param, x = parameter((4, 3)), P(torch.ones(4, 3))
    opt = pellucid.torch.AdamW([param])
    loss = (param * x).sum()
    opt.resize(param, [3, 2, 1, 0])  # the same shape
    with pytest.raises(RuntimeError, match=r"modified by an inplace operation|resized"):
        loss.backward()


def test_a_frozen_parameter_is_resized() -> None:
    param = parameter((4, 3))
    opt = pellucid.torch.AdamW([param])
    old = (param * 2).sum()
    opt.freeze(param)
    opt.resize(param, 3)
    assert not param.requires_grad
    opt.unfreeze(param)
    (param**2).sum().backward()
    assert param.grad is not None
    assert param.grad.shape == (3, 3)
    with pytest.raises(RuntimeError, match="resized"):
        old.backward()


def test_resize_refuses() -> None:
    w, b, one = parameter((4, 3)), parameter((3,)), parameter(())
    opt = pellucid.torch.AdamW([("w", w), ("b", b), ("one", one)])
    for param in (w, b, one):
        param.grad = torch.ones_like(param)
    opt.step()
    cases: list[tuple[Any, Any, dict[str, Any], type[Exception], str]] = [
        ("v", 2, {}, UnknownNameError, r"'v'.*known: w, b, one"),
        (parameter((4, 3)), 2, {}, ValueError, "none of the optimizer's parameters"),
        (3, 2, {}, TypeError, "param is 3"),
        ("one", 2, {}, ValueError, "'one' is one number"),
        ("w", -1, {}, ValueError, "keep is -1"),
        ("w", True, {}, TypeError, "keep is True"),
        ("w", torch.tensor(True), {}, TypeError, "keep is True"),
        ("w", 2.0, {}, TypeError, r"keep is 2\.0"),
        ("w", "half", {}, TypeError, "keep is 'half'"),
        ("w", [0, 4], {}, ValueError, "names the row 4 of 'w'; allowed is 0 to 3"),
        ("w", [-1], {}, ValueError, "names the row -1"),
        ("w", [True, False], {}, ValueError, "mask of 2 rows; 'w' has 4"),
        ("w", [0.5, 1.0], {}, TypeError, "dtype torch.float"),
        ("w", torch.ones(4, dtype=torch.uint8), {}, TypeError, r"uint8; allowed is bool"),
        ("w", torch.ones(4, 3, dtype=torch.bool), {}, ValueError, r"shape \(4, 3\)"),
        ("w", ["a"], {}, TypeError, "no mask"),
        ("w", 6, {"new": torch.ones(1, 3)}, ValueError, "new has 1 rows.*2 are appended"),
        ("w", 2, {"new": torch.ones(1, 3)}, ValueError, "0 are appended"),
        ("w", 5, {"new": torch.ones(1, 2)}, ValueError, r"new has shape \(1, 2\)"),
        ("w", 5, {"new": torch.ones(3)}, ValueError, r"new has shape \(3,\)"),
        ("w", 5, {"new": torch.ones(1, 3).double()}, ValueError, "float64"),
        ("w", 5, {"new": [[1, 2, 3]]}, TypeError, "new is list"),
        ("w", 5, {"new": torch.ones(1, 3).to_sparse()}, TypeError, "sparse"),
    ]
    for param, keep, more, kind, match in cases:
        refused(opt, lambda p=param, k=keep, m=more: opt.resize(p, k, **m), kind, match)  # type: ignore[misc]


def test_resize_refuses_what_would_come_apart() -> None:
    flat = drawn((8, 3), 0)
    a, b = P(flat[:4]), P(flat[4:])
    opt = pellucid.torch.AdamW([("a", a), ("b", b)])
    refused(opt, lambda: opt.resize(a, 2), ValueError, "'a' shares memory with 'b'")
    base = drawn((8, 3), 0)
    view = base[:4].requires_grad_()
    opt = pellucid.torch.AdamW([view])
    refused(opt, lambda: opt.resize(view, 2), ValueError, "is a view of another tensor")
    leaf = parameter((4, 3))
    computed = leaf * 2
    computed.retain_grad()
    opt = pellucid.torch.AdamW([computed])
    with pytest.raises(ValueError, match="is computed from others"):
        opt.resize("param_0", 2)


def test_resize_refuses_a_gradient_or_state_that_does_not_fit() -> None:
    param = parameter((4, 3))
    opt = pellucid.torch.AdamW([param])
    param.grad = drawn((4, 3), 1)
    opt.step()
    (grad,) = torch.autograd.grad((param**3).sum(), param, create_graph=True)
    param.grad = grad
    with pytest.raises(ValueError, match=r"is part of a graph: call zero_grad\(\)"):
        opt.resize(param, 2)
    param.grad = None
    opt.state[param]["exp_avg"] = torch.zeros(2, 3)
    refused(opt, lambda: opt.resize(param, 2), ValueError, r"shape \(2, 3\); expected is \(4, 3\)")
    opt.state[param]["exp_avg"] = torch.zeros(1, 1).expand(4, 3)
    refused(opt, lambda: opt.resize(param, 2), ValueError, "is expanded")
    opt.state[param] = [1]
    with pytest.raises(TypeError, match="allowed is a dict"):
        opt.resize(param, 2)
    param.data = torch.zeros(1, 3).expand(4, 3)
    with pytest.raises(ValueError, match="expanded"):
        opt.resize(param, 2)


def test_resize_refuses_slots_that_would_have_another_kind_of_shape() -> None:
    class Factored(Rule):
        learning_rate = hyper(0.1, minimum=0)
        second = slot(shape=lambda shape: (shape[0], 1) if shape[0] > 3 else shape)

        def update(self, param: Any, grad: Any) -> Any:
            self.second = 0.9 * self.second + pellucid.ops.mean(grad * grad, over="row")
            return param - self.learning_rate * grad / (1.0 + self.second)

    class OfGradient(Rule):
        learning_rate = hyper(0.1, minimum=0)
        first = slot(lambda stage, param, grad: grad * 2.0)

        def update(self, param: Any, grad: Any) -> Any:
            self.first = 0.9 * self.first + grad
            return param - self.learning_rate * self.first

    for rule, keep, match in (
        (Factored(), 2, "another kind of shape for"),
        (OfGradient(), 6, "function of the first gradient"),
    ):
        param = parameter((5, 3))
        opt = pellucid.torch.Optimizer([("w", param)], rule)
        param.grad = drawn((5, 3), 1)
        opt.step()
        refused(opt, lambda o=opt, k=keep: o.resize("w", k), ValueError, match)  # type: ignore[misc]
        opt.reset("w")
        opt.resize("w", keep)
        param.grad = drawn((keep, 3), 2)
        opt.step()


def test_under_a_process_group_a_held_parameter_is_refused(monkeypatch: Any) -> None:
    param = parameter((4, 3))
    opt = pellucid.torch.AdamW([param])
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    opt.resize(param, 3)  # nothing holds it
    held = (param * 2).sum()
    with pytest.raises(RuntimeError, match="DistributedDataParallel"):
        opt.resize(param, 2)
    assert param.shape == (3, 3)
    del held
    opt.resize(param, 2)


def test_a_second_parameter_of_the_plan_goes_on(monkeypatch: Any) -> None:
    """After the quick path was taken, a resize is followed by it too."""
    a, b = parameter((6, 3), 0), parameter((4,), 1)
    opt = pellucid.torch.AdamW([a, b], lr=0.1)
    looked: list[bool] = []
    quick = type(opt)._quick_step

    def look(self: Any, *more: Any) -> bool:
        looked.append(quick(self, *more))
        return looked[-1]

    monkeypatch.setattr(type(opt), "_quick_step", look)

    def step() -> None:
        a.grad, b.grad = torch.ones_like(a), torch.ones_like(b)
        opt.step()

    for _ in range(3):
        step()
    assert looked == [False, True, True]
    opt.resize(a, [1, 2])
    step()
    step()
    assert looked[3:] == [False, True]
    torch.testing.assert_close(opt.state[a]["step"], torch.tensor(5.0))


# -- replace -----------------------------------------------------------------------------------


@pytest.mark.parametrize("named", [False, True])
def test_replace_keeps_name_group_and_state(named: bool) -> None:
    a, b, twin = parameter((3, 2), 0), parameter((2,), 1), parameter((3, 2), 0)
    groups = [{"params": [("a", a)] if named else [a], "lr": 0.1},
              {"params": [("b", b)] if named else [b], "lr": 0.2}]  # fmt: skip
    opt, other = pellucid.torch.AdamW(groups), pellucid.torch.AdamW([twin], lr=0.1)
    scheduler = lr_scheduler.StepLR(opt, 2)
    held: Any = a
    for step in range(6):
        if step == 3:
            new = P(a.detach().clone())
            assert opt.replace("a" if named else a, new) is new
            held = new
        grad = drawn((3, 2), step)
        held.grad, twin.grad, b.grad = grad.clone(), grad.clone(), torch.ones(2)
        other.param_groups[0]["lr"] = opt.param_groups[0]["lr"]
        opt.step()
        scheduler.step()
        other.step()
        torch.testing.assert_close(held, twin, rtol=0, atol=0)
    assert opt.param_groups[0]["params"] == [held]
    assert a not in opt.state
    names = ["a", "b"] if named else ["param_0", "param_1"]
    assert [entry.name for entry in opt.entries] == names
    assert float(opt.state[held]["step"]) == 6
    again = copy.deepcopy(opt)
    assert [entry.name for entry in again.entries] == [entry.name for entry in opt.entries]


def test_replace_with_another_type_keeps_the_slots() -> None:
    param = parameter((3, 2))
    opt = pellucid.torch.AdamW([param])
    param.grad = drawn((3, 2), 1)
    opt.step()
    slots = dict(opt.state[param])
    new = P(param.detach().double())
    opt.replace(param, new)
    assert all(opt.state[new][name] is value for name, value in slots.items())
    new.grad = drawn((3, 2), 2).double()
    opt.step()
    assert opt.state[new]["exp_avg"].dtype == torch.float32


def test_replace_and_reset() -> None:
    param = parameter((3, 2))
    opt = pellucid.torch.AdamW([("w", param)])
    param.grad = drawn((3, 2), 1)
    opt.step()
    new = parameter((5, 2))
    opt.replace("w", new, state="reset")
    assert new not in opt.state
    assert param not in opt.state
    new.grad = torch.ones(5, 2)
    opt.step()
    assert float(opt.state[new]["step"]) == 1
    assert opt.entries[0].name == "w"


def test_replace_refuses() -> None:
    a, b = parameter((3, 2)), parameter((2,))
    opt = pellucid.torch.AdamW([("a", a), ("b", b)])
    for param in (a, b):
        param.grad = torch.ones_like(param)
    opt.step()
    cases: list[tuple[Any, Any, dict[str, Any], type[Exception], str]] = [
        ("a", parameter((3, 3)), {}, ValueError, r"new has shape \(3, 3\)"),
        ("a", b, {}, ValueError, "new is the parameter 'b' already"),
        ("a", a, {}, ValueError, "new is the parameter 'a' already"),
        ("c", parameter((3, 2)), {}, UnknownNameError, "no parameter is named 'c'"),
        ("a", "b", {}, TypeError, "allowed is a tensor"),
        ("a", parameter((3, 2)), {"state": "drop"}, ValueError, "state is 'drop'"),
        ("a", parameter((3, 2), 0, torch.complex64), {}, ValueError, "complex64"),
        ("a", P(torch.zeros(1, 2).expand(3, 2)), {}, ValueError, "expanded"),
    ]
    for old, new, more, kind, match in cases:
        refused(opt, lambda o=old, n=new, m=more: opt.replace(o, n, **m), kind, match)  # type: ignore[misc]


# -- by pattern --------------------------------------------------------------------------------


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Linear(3, 3))
        self.head = torch.nn.Linear(3, 2)

    def forward(self, x: Any) -> Any:
        return self.head(self.encoder(x))


def trained(steps: int = 3, **options: Any) -> tuple[Net, Any]:
    net = Net()
    opt = pellucid.torch.AdamW(net, lr=0.05, **options)
    for _ in range(steps):
        train(net, opt)
    return net, opt


def train(net: Net, opt: Any) -> None:
    opt.zero_grad()
    net(drawn((4, 3), 7)).square().sum().backward()
    opt.step()


def test_reset() -> None:
    net, opt = trained()
    bias = net.head.bias
    opt.state[net.encoder[0].weight]["step"] = 3  # a plain number, as old files have it
    assert opt.reset(["encoder.*weight", bias]) == (
        "encoder.0.weight", "encoder.1.weight", "head.bias",
    )  # fmt: skip
    assert not opt.state.get(net.encoder[0].weight)
    assert not opt.state.get(bias)
    assert float(opt.state[net.head.weight]["step"]) == 3
    train(net, opt)
    steps = {entry.name: float(opt.state[entry.param]["step"]) for entry in opt.entries}
    assert steps == {
        "encoder.0.weight": 1, "encoder.0.bias": 4, "encoder.1.weight": 1, "encoder.1.bias": 4,
        "head.weight": 4, "head.bias": 1,
    }  # fmt: skip


def test_a_reset_parameter_is_updated_as_a_new_one() -> None:
    a, b = parameter((3, 2)), parameter((3, 2))
    opt = pellucid.torch.AdamW([a], lr=0.1)
    for seed in range(3):
        a.grad = drawn((3, 2), seed)
        opt.step()
    opt.reset("*")
    with torch.no_grad():
        b.copy_(a)
    new = pellucid.torch.AdamW([b], lr=0.1)
    for seed in range(3):
        a.grad, b.grad = drawn((3, 2), 10 + seed), drawn((3, 2), 10 + seed)
        opt.step()
        new.step()
        torch.testing.assert_close(a, b, rtol=0, atol=0)


@pytest.mark.parametrize("action", ["reset", "freeze", "unfreeze", "remove"])
def test_patterns_that_match_nothing(action: str) -> None:
    _, opt = trained()
    act = getattr(opt, action)
    cases: list[tuple[Any, type[Exception], str]] = [
        ("enocder.*", UnknownNameError, r"matches 'enocder\.\*'.*known: encoder\.0\.weight"),
        (["head.*", "tail.*"], UnknownNameError, r"matches 'tail\.\*'"),
        (lambda name, param: False, UnknownNameError, "no parameter's name matches"),
        (parameter((2,)), ValueError, "none of the optimizer's parameters"),
        (3, TypeError, "pattern is 3"),
        ([], ValueError, "empty list"),
    ]
    for pattern, kind, match in cases:
        refused(opt, lambda p=pattern: act(p), kind, match)  # type: ignore[misc]


def test_unnamed_parameters_have_names_too() -> None:
    a, b, c = (parameter((2,), seed) for seed in range(3))
    opt = pellucid.torch.AdamW([a, b, c])
    assert opt.freeze("param_[12]") == ("param_1", "param_2")
    assert opt.remove("param_0") == ("param_0",)
    assert [entry.name for entry in opt.entries] == ["param_1", "param_2"]
    a2 = parameter((2,), 3)
    opt.add_param_group({"params": [a2]})
    names = [entry.name for entry in opt.entries]
    assert len(set(names)) == 3
    with pytest.raises(UnknownNameError, match="param_1"):
        opt.reset("weight")


def test_frozen_parameters_stand_still_and_go_on() -> None:
    net, opt = trained()
    others, twin = trained()
    names = opt.freeze("encoder.*")
    assert names == ("encoder.0.weight", "encoder.0.bias", "encoder.1.weight", "encoder.1.bias")
    assert all(param.grad is None for param in net.encoder.parameters())
    assert opt.freeze("encoder.*") == ()
    before = copy.deepcopy(net.encoder.state_dict())
    for _ in range(3):
        train(net, opt)
    for name, value in net.encoder.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)
    assert net.encoder[0].weight.grad is None
    weight = net.encoder[0].weight
    held, wanted = opt.state[weight], twin.state[others.encoder[0].weight]
    torch.testing.assert_close(held, wanted, rtol=0, atol=0)
    with torch.no_grad():
        net.head.load_state_dict(others.head.state_dict())
    for mine, other in zip(net.head.parameters(), others.head.parameters(), strict=True):
        opt.state[mine] = copy.deepcopy(twin.state[other])
    assert opt.unfreeze("encoder.*") == names
    for _ in range(3):
        train(net, opt)
        train(others, twin)
    for mine, other in zip(net.parameters(), others.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=0)
    assert float(opt.state[weight]["step"]) == 6


def test_unfreeze_leaves_what_was_frozen_from_the_start() -> None:
    net = Net()
    net.encoder[0].requires_grad_(False)
    opt = pellucid.torch.AdamW(net)
    with pytest.raises(ValueError, match=r"froze none of encoder\.0\.weight.*requires_grad_"):
        opt.unfreeze("encoder.0.*")
    assert opt.freeze("encoder.*") == ("encoder.1.weight", "encoder.1.bias")
    for other in (copy.deepcopy(opt), pickle.loads(pickle.dumps(opt))):
        assert other.unfreeze("*") == ("encoder.1.weight", "encoder.1.bias")
        assert [e.param.requires_grad for e in other.entries] == [False] * 2 + [True] * 4
    assert opt.unfreeze("*") == ("encoder.1.weight", "encoder.1.bias")
    assert not net.encoder[0].weight.requires_grad
    with pytest.raises(ValueError, match="froze none"):
        opt.unfreeze("*")


def test_remove_and_go_on() -> None:
    net, opt = trained(groups={"head.*": {"lr": 0.01}})
    others, twin = trained(groups={"head.*": {"lr": 0.01}})
    scheduler, theirs = lr_scheduler.StepLR(opt, 2), lr_scheduler.StepLR(twin, 2)
    gone = net.head.weight
    assert opt.remove(gone) == ("head.weight",)
    twin.freeze("head.weight")
    assert gone not in opt.state
    assert gone.requires_grad
    assert [len(group["params"]) for group in opt.param_groups] == [4, 1]
    assert opt.param_groups[1]["param_names"] == ["head.bias"]
    assert [entry.index for entry in opt.entries] == [0, 1, 2, 3, 4]
    for _ in range(3):
        train(net, opt)
        train(others, twin)
        scheduler.step()
        theirs.step()
    for mine, other in zip(net.parameters(), others.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=0)
    assert opt.remove("head.*") == ("head.bias",)
    assert [len(group["params"]) for group in opt.param_groups] == [4, 0]
    train(net, opt)
    scheduler.step()
    for again in (copy.deepcopy(opt), pickle.loads(pickle.dumps(opt))):
        again.step()
        assert [len(group["params"]) for group in again.param_groups] == [4, 0]
    fresh = pellucid.torch.AdamW(Net(), groups={"head.*": {"lr": 0.01}})
    fresh.remove("head.*")
    fresh.load_state_dict(opt.state_dict())
    assert float(fresh.state[fresh.entries[0].param]["step"]) == 7
    assert opt.remove("*") == tuple(f"encoder.{n}.{k}" for n in "01" for k in ("weight", "bias"))
    opt.step()
    assert not opt.entries
    assert not opt.state


def test_a_group_of_a_tuple() -> None:
    a, b = parameter((2,)), parameter((2,))
    opt = pellucid.torch.AdamW([a, b])
    opt.param_groups[0]["params"] = (a, b)
    opt.remove(a)
    assert opt.param_groups[0]["params"] == [b]


@pytest.mark.parametrize("after", ["resize", "replace", "reset", "remove"])
def test_checkpoints_and_schedules_after_surgery(after: str) -> None:
    """A run that is saved after surgery and loaded goes on bit for bit."""
    from pellucid.schedules import Cosine

    def begun() -> tuple[list[Any], Any]:
        params = [parameter((6, 3), 0), parameter((4,), 1)]
        return params, pellucid.torch.AdamW(params, lr=Cosine(0.1, 20))

    def operate(params: list[Any], opt: Any) -> None:
        if after == "resize":
            opt.resize(params[0], [4, 1, 2], new=torch.ones(2, 3))
        elif after == "replace":
            params[0] = opt.replace(params[0], P(params[0].detach().clone()))
        else:
            getattr(opt, after)("param_0")

    def step(params: list[Any], opt: Any, seed: int) -> None:
        for number, param in enumerate(params):
            param.grad = drawn(param.shape, seed + number)
        opt.step()

    params, opt = begun()
    for seed in range(3):
        step(params, opt, seed)
    operate(params, opt)
    step(params, opt, 10)
    saved, values = copy.deepcopy(opt.state_dict()), [p.detach().clone() for p in params]
    others, fresh = begun()
    operate(others, fresh)
    fresh.load_state_dict(saved)
    with torch.no_grad():
        for other, value in zip(others, values, strict=True):
            other.copy_(value)
    for seed in (20, 30, 40):
        step(params, opt, seed)
        step(others, fresh, seed)
        for one, other in zip(params, others, strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_grad_scaler_survives() -> None:
    param = parameter((4, 3))
    opt = pellucid.torch.AdamW([param], lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    for rows in (4, 2, 3):
        opt.resize(param, rows)
        opt.zero_grad()
        scaler.scale((param**2).sum() + param.sum()).backward()
        scaler.step(opt)
        scaler.update()
    assert float(opt.state[param]["step"]) == 3
