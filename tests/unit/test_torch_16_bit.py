"""16-bit parameters and state: float32 arithmetic, three ways of rounding, types that stay."""

from __future__ import annotations

import copy
from typing import Any

import numpy
import pytest
import torch

import pellucid
import pellucid.torch
from pellucid import Adam, average_weights, chain, clip_by_global_norm, decay_weights, schedules
from pellucid.fuse import counter, narrow
from pellucid.fuse.pool import set_num_threads

TYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}
SHAPES = [(33, 7), (5,), (), (4, 3, 2, 2), (0, 3)]
RULES: dict[str, Any] = {
    "AdamW": lambda **k: pellucid.torch.AdamW(lr=1e-2, **k),
    "Adam amsgrad": lambda **k: pellucid.torch.Adam(lr=1e-2, amsgrad=True, **k),
    "SGD": lambda **k: pellucid.torch.SGD(lr=1e-2, momentum=0.9, weight_decay=0.1, **k),
    "Lion": lambda **k: pellucid.torch.Lion(lr=1e-2, **k),
    "RMSprop": lambda **k: pellucid.torch.RMSprop(lr=1e-2, centered=True, **k),
    "Adagrad": lambda **k: pellucid.torch.Adagrad(lr=1e-2, **k),
    "chain": lambda **k: pellucid.torch.Optimizer(
        stage=chain(clip_by_global_norm(1.0), Adam(1e-2), decay_weights(0.01),
                    average_weights(0.9)), **k),
}  # fmt: skip


def params_of(dtype: torch.dtype, shapes: Any = SHAPES) -> list[Any]:
    torch.manual_seed(0)
    return [torch.nn.Parameter(torch.randn(shape).to(dtype)) for shape in shapes]


def gradients(params: list[Any], step: int) -> None:
    generator = torch.Generator().manual_seed(100 + step)
    scale = 10.0 ** (step % 5 - 2)
    for param in params:
        made = torch.randn(param.shape, generator=generator) * scale
        made[torch.rand(param.shape, generator=generator) < 0.1] = 0.0
        param.grad = made.to(param.dtype)


def train(optimizer: Any, params: list[Any], first: int, last: int) -> list[Any]:
    for step in range(first, last):
        gradients(params, step)
        optimizer.step()
    return params


def equal(one: list[Any], other: list[Any]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


# -- arithmetic --------------------------------------------------------------------------------


def is_nearest(stored: Any, exact: Any) -> None:
    """No neighbour of what is stored is nearer to the exact number, beyond its last places."""
    bits = stored.view(torch.int16)
    missed = (stored.double() - exact.double()).abs()
    for step in (1, -1):
        neighbour = (bits + step).view(stored.dtype).double()
        near = (neighbour - exact.double()).abs()
        assert bool(((missed <= near + 1e-6 * exact.abs()) | near.isnan()).all())


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("dtype", TYPES)
def test_an_update_is_float32_arithmetic_and_one_rounding(name: str, dtype: str) -> None:
    """What a float32 optimizer makes of the widened numbers, rounded once to the nearest.

    Slots may differ in float32's last place: which product is fused into a sum is the compiler's.
    """
    narrow_params = params_of(TYPES[dtype])
    wide_params = [torch.nn.Parameter(param.detach().float()) for param in narrow_params]
    mine, other = RULES[name](params=narrow_params), RULES[name](params=wide_params)
    for step in range(12):
        gradients(narrow_params, step)
        for one, two in zip(narrow_params, wide_params, strict=True):
            two.grad = one.grad.float()
        mine.step()
        other.step()
        for one, two in zip(narrow_params, wide_params, strict=True):
            is_nearest(one.detach(), two.detach())
            for key, value in mine.state[one].items():
                assert value.dtype == torch.float32
                reference = other.state[two][key]
                most = float(reference.abs().max()) if reference.numel() else 0.0
                torch.testing.assert_close(value, reference, rtol=1e-6, atol=1e-6 * most)
                reference.copy_(value)
            with torch.no_grad():
                two.copy_(one)


@pytest.mark.parametrize("rounding", ["nearest", "stochastic", "kahan"])
@pytest.mark.parametrize("name", RULES)
def test_kernels_equal_lines(name: str, rounding: str) -> None:
    """Lines compute in the same order but without fused multiply-adds: within a rounding."""
    made = []
    for compiled in (True, False):
        params = [*params_of(torch.bfloat16), *params_of(torch.float16, [(6, 5)]),
                  *params_of(torch.float32, [(3, 3)]), *params_of(torch.float64, [(3,)])]
        train(RULES[name](params=params, rounding=rounding, compiled=compiled), params, 0, 8)
        made.append(params)
    for one, two in zip(*made, strict=True):
        assert one.dtype == two.dtype
        unit = {2: 2.0**-7, 4: 1e-5, 8: 1e-6}[one.element_size()]
        torch.testing.assert_close(one.double(), two.double(), rtol=2 * unit, atol=1e-5)
    exactly = [torch.equal(a, b) for a, b in zip(*made, strict=True)]
    assert sum(exactly) >= len(exactly) // 2


@pytest.mark.parametrize("dtype", TYPES)
def test_near_torch_where_state_has_the_parameters_type(dtype: str) -> None:
    mine, other = params_of(TYPES[dtype]), params_of(TYPES[dtype])
    ours = pellucid.torch.AdamW(mine, lr=1e-2, state_dtype="param")
    theirs = torch.optim.AdamW(other, lr=1e-2, fused=True)
    for step in range(5):
        for params, optimizer in ((mine, ours), (other, theirs)):
            gradients(params, step % 3)
            optimizer.step()
    for one, two in zip(mine, other, strict=True):
        torch.testing.assert_close(one, two, rtol=0.05, atol=0.02)
        assert ours.state[one]["exp_avg"].dtype == theirs.state[two]["exp_avg"].dtype


def test_models_of_mixed_types_are_one_launch() -> None:
    params = [*params_of(torch.bfloat16), *params_of(torch.float32), *params_of(torch.float16)]
    optimizer = pellucid.torch.Optimizer(params, chain(clip_by_global_norm(1.0), Adam(1e-2)))
    alone = [param.detach().clone() for param in params]
    gradients(params, 1)
    total = sum(float(param.grad.double().square().sum()) for param in params) ** 0.5
    assert total > 1.0
    optimizer.step()
    for param, before in zip(params, alone, strict=True):
        grad = param.grad.double() / total
        moved = before.double() - 1e-2 * grad / (grad.abs() + 1e-8)
        torch.testing.assert_close(param.double(), moved.to(param.dtype).double(), rtol=0.01,
                                   atol=1e-4)


def test_float32_gradients_of_16_bit_parameters() -> None:
    """Torch lets a parameter have gradients of another type, if it says so."""
    param = torch.nn.Parameter(torch.ones(9, dtype=torch.bfloat16))
    param.grad_dtype = torch.float32
    grad = torch.linspace(-1, 1, 9) * (1 + 2.0**-12)
    param.grad = grad.clone()
    optimizer = pellucid.torch.SGD([param], lr=1.0)
    for _ in range(2):
        before = param.detach().float()
        optimizer.step()
        assert torch.equal(param.float(), (before - grad).bfloat16().float())


# -- rounding ----------------------------------------------------------------------------------


def drift(rounding: str) -> float:
    """How far a bfloat16 parameter at 1 goes in 200 steps of 1e-4, each far below half a unit."""
    param = torch.nn.Parameter(torch.ones(4096, dtype=torch.bfloat16))
    optimizer = pellucid.torch.SGD([param], lr=1e-4, rounding=rounding)
    for _ in range(200):
        param.grad = torch.ones_like(param)
        optimizer.step()
    return 1.0 - float(param.detach().float().mean())


def test_small_updates_stall_with_nearest_rounding_alone() -> None:
    assert drift("nearest") == 0.0
    assert drift("stochastic") == pytest.approx(0.02, rel=0.05)
    assert drift("kahan") == pytest.approx(0.02, abs=2.0**-8)


def test_training_stalls_in_bfloat16_with_nearest_rounding_alone() -> None:
    """A small regression, its parameters in bfloat16, near its minimum."""
    torch.manual_seed(3)
    x, truth = torch.randn(256, 16), torch.randn(16)
    y = x @ truth
    loss = {}
    for rounding in ("nearest", "stochastic", "kahan"):
        param = torch.nn.Parameter((truth + 0.25).bfloat16())
        optimizer = pellucid.torch.AdamW([param], lr=1e-3, weight_decay=0.0, rounding=rounding)
        for _ in range(600):
            optimizer.zero_grad()
            (x @ param.float() - y).square().mean().backward()
            optimizer.step()
        loss[rounding] = float((x @ param.detach().float() - y).square().mean())
    assert loss["stochastic"] < 0.2 * loss["nearest"], loss
    assert loss["kahan"] < 0.2 * loss["nearest"], loss


def test_kahan_is_a_parameter_of_twice_the_digits() -> None:
    """The parameter and what rounding lost follow a float32 run to 2^-16."""
    params = params_of(torch.bfloat16)
    wide = [torch.nn.Parameter(param.detach().float()) for param in params]
    mine = pellucid.torch.AdamW(params, lr=1e-3, rounding="kahan")
    other = pellucid.torch.AdamW(wide, lr=1e-3)
    for step in range(60):
        gradients(params, step)
        for one, two in zip(params, wide, strict=True):
            two.grad = one.grad.float()
        mine.step()
        other.step()
    for one, two in zip(params, wide, strict=True):
        lost = mine.state[one]["compensation"]
        assert lost.dtype == torch.bfloat16
        assert lost.shape == one.shape
        whole = one.detach().float() + lost.float()
        torch.testing.assert_close(whole, two.detach(), rtol=60 * 2.0**-16, atol=1e-5)
        assert torch.equal(whole.bfloat16(), one.detach())
    view = pellucid.view(mine)
    assert torch.equal(view.state["param_0/compensation"], mine.state[params[0]]["compensation"])


def test_wider_parameters_have_no_compensation() -> None:
    params = [*params_of(torch.float32, [(3,)]), *params_of(torch.bfloat16, [(3,)])]
    optimizer = pellucid.torch.SGD(params, lr=0.1, rounding="kahan")
    train(optimizer, params, 0, 2)
    assert [set(optimizer.state[param]) for param in params] == [set(), {"compensation"}]


def test_stochastic_rounding_repeats_and_depends_on_nothing_but_its_seed() -> None:
    def run(seed: int, threads: int) -> list[Any]:
        params = params_of(torch.bfloat16, [(700, 600), (3,)])
        set_num_threads(threads)
        try:
            return train(
                pellucid.torch.AdamW(params, rounding="stochastic", seed=seed), params, 0, 4
            )
        finally:
            set_num_threads(None)

    first = run(5, 1)
    assert equal(first, run(5, 2))
    assert not torch.equal(first[0], run(6, 2)[0])


@pytest.mark.parametrize("dtype", TYPES)
def test_stochastic_rounding_is_that_of_the_definition(dtype: str) -> None:
    """Each element by its own bits: seed, parameter, step, place."""
    params = params_of(TYPES[dtype], [(3, 4), (40, 30)])
    optimizer = pellucid.torch.SGD(params, lr=0.3, rounding="stochastic", seed=77)
    for step in range(1, 4):
        gradients(params, step)
        before = [param.detach().float() for param in params]
        optimizer.step()
        for number, (param, old) in enumerate(zip(params, before, strict=True)):
            exact = old.double() - float(numpy.float32(0.3)) * param.grad.double()
            key = counter.tensor_key(77, counter.ROUNDING, number, step)
            bits = counter.rounding_bits(*key, numpy.arange(param.numel())).reshape(param.shape)
            expected = narrow.randomly(exact.float().numpy(), bits, dtype)
            assert numpy.array_equal(param.detach().float().numpy(), expected)


def test_stochastic_rounding_is_unbiased_over_a_run() -> None:
    """The mean of a million parameters after ten updates is the float32 one within five errors."""
    count, steps, rate = 1 << 20, 10, 3e-4
    param = torch.nn.Parameter(torch.full((count,), 1.5, dtype=torch.bfloat16))
    optimizer = pellucid.torch.SGD([param], lr=rate, rounding="stochastic")
    param.grad = torch.full((count,), 0.75, dtype=torch.bfloat16)
    for _ in range(steps):
        optimizer.step()
    found = float(param.detach().double().mean())
    unit = 2.0**-7
    error = 5 * (steps * unit * rate * 0.75 / count) ** 0.5
    assert abs(found - (1.5 - steps * rate * 0.75)) < error
    assert len(torch.unique(param.detach())) > 1


@pytest.mark.parametrize("rounding", ["nearest", "stochastic", "kahan"])
def test_training_goes_on_bit_for_bit(rounding: str) -> None:
    def begin() -> tuple[list[Any], Any]:
        params = params_of(torch.bfloat16)
        rate = schedules.Cosine(1e-2, 20)
        return params, pellucid.torch.AdamW(params, lr=rate, rounding=rounding, seed=3)

    params, optimizer = begin()
    train(optimizer, params, 0, 5)
    kept = [param.detach().clone() for param in params]
    saved = copy.deepcopy(optimizer.state_dict())
    train(optimizer, params, 5, 10)
    again, resumed = begin()
    with torch.no_grad():
        for param, value in zip(again, kept, strict=True):
            param.copy_(value)
    resumed.load_state_dict(saved)
    train(resumed, again, 5, 10)
    assert equal(params, again)
    for one, two in zip(params, again, strict=True):
        mine, theirs = optimizer.state[one], resumed.state[two]
        assert {k: v.dtype for k, v in mine.items()} == {k: v.dtype for k, v in theirs.items()}
        assert all(torch.equal(mine[key], theirs[key]) for key in mine)


def test_copies_keep_their_choices() -> None:
    params = params_of(torch.bfloat16)
    optimizer = pellucid.torch.AdamW(params, rounding="kahan", state_dtype="bfloat16")
    train(optimizer, params, 0, 2)
    both = copy.deepcopy((params, optimizer))
    train(optimizer, params, 2, 5)
    train(both[1], both[0], 2, 5)
    assert equal(params, both[0])


# -- types of state ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state_dtype", "stored", "expected"),
    [
        ("float32", torch.bfloat16, torch.float32),
        ("float32", torch.float16, torch.float32),
        ("float32", torch.float32, torch.float32),
        ("float32", torch.float64, torch.float64),
        ("bfloat16", torch.bfloat16, torch.bfloat16),
        ("bfloat16", torch.float16, torch.bfloat16),
        ("bfloat16", torch.float32, torch.bfloat16),
        ("bfloat16", torch.float64, torch.bfloat16),
        ("param", torch.bfloat16, torch.bfloat16),
        ("param", torch.float16, torch.float16),
        ("param", torch.float64, torch.float64),
    ],
)
@pytest.mark.parametrize("compiled", [True, False], ids=["compiled", "lines"])
def test_types_of_state(
    state_dtype: str, stored: torch.dtype, expected: torch.dtype, compiled: bool
) -> None:
    """Slots have the asked type, and hold what float32 slots would, rounded at each step."""
    params = params_of(stored, [(6, 5)])
    wide = params_of(stored, [(6, 5)])
    mine = pellucid.torch.AdamW(params, lr=1e-2, state_dtype=state_dtype, compiled=compiled)
    other = pellucid.torch.AdamW(wide, lr=1e-2, state_dtype="float32", compiled=compiled)
    for step in range(6):
        for some, optimizer in ((params, mine), (wide, other)):
            gradients(some, step)
            optimizer.step()
        for key in ("exp_avg", "exp_avg_sq"):
            slot, reference = mine.state[params[0]][key], other.state[wide[0]][key]
            assert slot.dtype == expected
            reference.copy_(reference.to(expected))
            assert torch.equal(slot.to(reference.dtype), reference)
        with torch.no_grad():
            torch.testing.assert_close(params[0], wide[0], rtol=0.02, atol=0.02)
            wide[0].copy_(params[0])
    assert mine.state[params[0]]["step"].dtype == torch.float32


def test_row_slots_are_never_narrow() -> None:
    params = params_of(torch.bfloat16, [(6, 5)])
    optimizer = pellucid.torch.RowwiseAdagrad(params, state_dtype="bfloat16")
    train(optimizer, params, 0, 2)
    assert optimizer.state[params[0]]["sum"].dtype == torch.float32


# -- bad input ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"rounding": "up"}, "rounding is 'up'; allowed is one of 'nearest', 'stochastic'"),
        ({"state_dtype": "float64"}, "state_dtype is 'float64'; allowed is one of 'float32'"),
        ({"state_dtype": torch.float32}, "state_dtype is torch.float32; allowed is one of"),
        ({"sparse": True}, "sparse is True; allowed is one of 'dense', 'lazy', 'catch_up'"),
    ],
)
def test_bad_choices(wrong: dict[str, Any], words: str) -> None:
    params = params_of(torch.bfloat16)
    with pytest.raises(ValueError, match=words):
        pellucid.torch.AdamW(params, **wrong)
    with pytest.raises(ValueError, match=words):
        pellucid.torch.Optimizer(params, Adam(), **wrong)


def test_complex_parameters_have_no_narrow_state() -> None:
    param = torch.nn.Parameter(torch.ones(3, dtype=torch.complex64))
    optimizer = pellucid.torch.AdamW([param], state_dtype="bfloat16")
    param.grad = torch.ones_like(param)
    with pytest.raises(TypeError, match=r"'param_0' is complex, .* use 'float32'"):
        optimizer.step()
    assert torch.equal(param.detach(), torch.ones(3, dtype=torch.complex64))
    assert not optimizer.state


def test_gradients_of_another_type_are_refused() -> None:
    param = torch.nn.Parameter(torch.ones(3, dtype=torch.bfloat16))
    optimizer = pellucid.torch.AdamW([param])
    param.grad_dtype = None  # else torch itself refuses
    param.grad = torch.ones(3)
    with pytest.raises(ValueError, match=r"gradient of 'param_0' has .* dtype torch.float32"):
        optimizer.step()


@pytest.mark.parametrize(
    ("choices", "moved"),
    [
        ({"dtype": "float32"}, 28),
        ({"dtype": "bfloat16"}, 22),
        ({"dtype": "bfloat16", "state_dtype": "param"}, 14),
        ({"dtype": "bfloat16", "rounding": "stochastic"}, 22),
        ({"dtype": "bfloat16", "rounding": "kahan"}, 26),
        ({"dtype": "float32", "state_dtype": "bfloat16"}, 20),
        ({"dtype": "float16", "rounding": "kahan", "state_dtype": "param"}, 18),
    ],
)
def test_explain_counts_the_bytes_that_storage_moves(choices: dict[str, Any], moved: int) -> None:
    from pellucid.explanation import explain

    (program,) = explain(pellucid.AdamW(), **choices).programs
    (written,) = program.passes
    assert written.bytes == moved
