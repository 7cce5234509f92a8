"""The catalogue on torch tensors: against torch.optim's own classes, the references, and NumPy's.

Torch's own classes run in float64, one tensor at a time. Ours must equal them in float64 to
`cases.RTOL` of each element, or `UNITS` roundings of the largest value that the element had on its
way; and in float32 to `cases.ROUNDING`: as near to the true result as storing 50 updates in float32
allows. (Torch's own float32 is no yardstick: it rounds at other places.)
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

import pellucid.numpy
import pellucid.torch
from pellucid import CATALOGUE
from reference.gradients import awkward_gradients, initial_parameter
from reference.steps import Array, Gradients, Result
from reference.test_references import OTHER_FORM, SLOTS, torch_settings

from . import cases
from .cases import CASES, STEPS, Case, Largest, assert_rounded, expected, missing

Tensor = torch.Tensor

UNLIKE = {
    "SGD-momentum-learning_rate=0.05": "a schedule of momentum counts as not 0 even where it is: "
    "we keep a velocity, torch bypasses its buffer at 0",
}
"""Cases in which ours differs from torch on purpose; the reference says how."""
THEIRS = [
    case
    for case in CASES
    if case.rule in SLOTS and cases.torch_has(case) and case.name not in UNLIKE
]
OURS = [case for case in CASES if case not in THEIRS]
STEADY = [case for case in THEIRS if not any(map(callable, case.values.values()))]
WIDE, NARROW = torch.float64, torch.float32
UNITS = cases.ROUNDING / 2.0**-23 * 2.0**-52
"""As `cases.ROUNDING`, in float64: an element that decays to a 1e-5th keeps the first's roundings.
"""


# -- the problem -------------------------------------------------------------------------------


def _plain(tensor: Tensor) -> Tensor:
    return tensor.clone(memory_format=torch.contiguous_format)


def _transposed(tensor: Tensor) -> Tensor:
    return _plain(tensor.T).T


def _channels_last(tensor: Tensor) -> Tensor:
    return tensor.clone(memory_format=torch.channels_last)


def _gappy(tensor: Tensor) -> Tensor:
    """Every other column of a larger tensor."""
    base = torch.full((*tensor.shape[:-1], 2 * tensor.shape[-1]), cases.GAP, dtype=tensor.dtype)
    base[..., ::2] = tensor
    return base[..., ::2]


@dataclass(frozen=True)
class Problem:
    """One parameter: its shape, how it lies in memory, and whether it is complex."""

    shape: tuple[int, ...]
    layout: Callable[[Tensor], Tensor] = _plain
    is_complex: bool = False


PROBLEMS: dict[str, Problem] = {
    "scalar": Problem(()),
    "empty": Problem((0,)),
    "vector": Problem((7,)),
    "matrix": Problem((33, 5)),
    "transposed": Problem((33, 5), _transposed),
    "channels_last": Problem((4, 3, 5, 2), _channels_last),
    "gappy": Problem((6, 4), _gappy),
    "skipped": Problem((4, 3)),
    "complex scalar": Problem((), is_complex=True),
    "complex matrix": Problem((5, 3), _transposed, is_complex=True),
}
SKIPPED = "skipped"


@cache
def arrays(name: str) -> cases.Tensor:
    """A parameter's initial value and gradients; a complex one has a last axis of two reals."""
    problem = PROBLEMS[name]
    seed = 300 + list(PROBLEMS).index(name)
    shape = (*problem.shape, 2) if problem.is_complex else problem.shape
    gradients: Gradients = awkward_gradients(shape, STEPS, seed)
    if name == SKIPPED:
        gradients = [None if missing(u) else grad for u, grad in enumerate(gradients)]
    return cases.Tensor(initial_parameter(shape, seed), gradients)


def tensor_of(array: Array, dtype: torch.dtype, is_complex: bool) -> Tensor:
    made = torch.tensor(array, dtype=dtype)
    return torch.view_as_complex(made) if is_complex else made


class Run:
    """An optimizer at work on the problem, in one dtype."""

    def __init__(
        self, dtype: torch.dtype, make: Callable[[list[Tensor]], Any], names: list[str]
    ) -> None:
        self.dtype, self.names = dtype, names
        self.params: dict[str, Tensor] = {}
        for name in names:
            made = tensor_of(arrays(name).initial, dtype, PROBLEMS[name].is_complex)
            self.params[name] = PROBLEMS[name].layout(made).requires_grad_()
        with scalars(dtype):
            self.optimizer = make(list(self.params.values()))

    def step(self, update: int) -> None:
        for name, param in self.params.items():
            array = arrays(name).gradients[update]
            if array is None:
                param.grad = None
                continue
            grad = tensor_of(array, self.dtype, PROBLEMS[name].is_complex)
            layout = PROBLEMS[name].layout if update % 2 else _plain  # the parameter's, or plain
            param.grad = layout(grad)
        with scalars(self.dtype):
            self.optimizer.step()

    def result(self, name: str, native: Mapping[str, str]) -> Result:
        """The parameter and its slots under canonical names, complex ones as pairs of reals."""
        param = self.params[name]
        state = self.optimizer.state.get(param, {})
        slots = {full: real(state[key]) for key, full in native.items() if key in state}
        return real(param), slots


def real(tensor: Tensor) -> Array:
    tensor = tensor.detach()
    made = torch.view_as_real(tensor) if tensor.is_complex() else tensor
    return np.array(made.numpy())


@contextmanager
def scalars(dtype: torch.dtype) -> Iterator[None]:
    """Numbers of one tensor, such as NAdam's products, are of the default dtype, as in torch."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def slots_of(rule: str) -> dict[str, str]:
    """Canonical names of slots by native name."""
    if rule in SLOTS:
        return SLOTS[rule]
    declared = CATALOGUE[rule].declared.slots
    made = {"first_moment": "exp_avg"}
    if rule == "RowwiseAdagrad":
        made["accumulator"] = "sum"
    return {made.get(full, full): full for full in declared}


def theirs(case: Case, dtype: torch.dtype) -> Run:
    """Torch's own class, the case's schedules written into its group before each step."""

    def make(params: list[Tensor]) -> Any:
        now = _now(case, 0)
        return getattr(torch.optim, case.rule)(params, foreach=False, **now)

    run = Run(dtype, make, list(PROBLEMS))
    step = run.step

    def scheduled(update: int) -> None:
        run.optimizer.param_groups[0].update(_now(case, update))
        step(update)

    run.step = scheduled  # type: ignore[method-assign]
    return run


def _now(case: Case, update: int) -> dict[str, Any]:
    values = {k: v(update) if callable(v) else v for k, v in case.values.items()}
    return dict(torch_settings(case.rule, values))


def ours(case: Case, dtype: torch.dtype, compiled: bool = True) -> Run:
    """Our class of that name, with torch's argument names."""
    values = torch_settings(case.rule, case.values)

    def make(params: list[Tensor]) -> Any:
        return getattr(pellucid.torch, case.rule)(params, compiled=compiled, **values)

    return Run(dtype, make, list(PROBLEMS))


@dataclass(frozen=True)
class Truth:
    """What torch's own class makes of a case in float64."""

    results: dict[str, Result]
    largest: Largest


def _look(largest: Largest, run: Run, native: Mapping[str, str]) -> None:
    for name in run.names:
        param, slots = run.result(name, native)
        for what, array in {"param": param, **slots}.items():
            largest.look(name, what, array)


@cache
def _truth(name: str) -> Truth:
    case = next(case for case in THEIRS if case.name == name)
    run, largest = theirs(case, WIDE), Largest()
    _look(largest, run, SLOTS[case.rule])
    for update in range(STEPS):
        run.step(update)
        _look(largest, run, SLOTS[case.rule])
    return Truth({name: run.result(name, SLOTS[case.rule]) for name in run.names}, largest)


def _compare(run: Run, results: Mapping[str, Result], largest: Largest, rule: str) -> None:
    for name, wanted in results.items():
        got = run.result(name, slots_of(rule))
        if run.dtype == WIDE:
            _assert_tight(got, wanted, largest, name)
        else:
            assert_rounded(got, wanted, largest, name, rule)


def _assert_tight(got: Result, wanted: Result, largest: Largest, name: str) -> None:
    assert got[1].keys() == wanted[1].keys(), name
    for what, value in {"param": wanted[0], **wanted[1]}.items():
        actual = got[0] if what == "param" else got[1][what]
        assert actual.dtype == np.float64, f"{name}/{what}"
        assert actual.shape == value.shape, f"{name}/{what}"
        seen = largest.seen[name, what].reshape(value.shape)
        allowed = np.maximum(cases.RTOL * np.abs(value), UNITS * seen)
        excess = np.abs(actual - value) - allowed
        assert not np.any(~(excess <= 0)), f"{name}/{what}: {actual} is not {value} ± {allowed}"


# -- against torch's own classes ---------------------------------------------------------------


@pytest.mark.parametrize("compiled", [True, False], ids=["compiled", "lines"])
@pytest.mark.parametrize("case", THEIRS, ids=str)
def test_equals_torchs_own(case: Case, compiled: bool) -> None:
    truth = _truth(case.name)
    for dtype in (WIDE, NARROW):
        run = ours(case, dtype, compiled)
        for update in range(STEPS):
            run.step(update)
        _compare(run, truth.results, truth.largest, case.rule)
        for param in run.params.values():
            step = run.optimizer.state[param].get("step")
            if step is not None:  # of the parameter, not of the optimizer
                assert step.dtype == torch.float32
                assert step.shape == ()
        gaps = run.params["gappy"]._base  # type: ignore[attr-defined]
        assert torch.equal(gaps[..., 1::2], torch.full_like(gaps[..., 1::2], cases.GAP))


def test_the_truth_is_not_empty() -> None:
    truth = _truth("Adam-active")
    assert truth.results.keys() == PROBLEMS.keys()
    assert set(truth.results["matrix"][1]) == {"first_moment", "second_moment"}
    assert not np.array_equal(truth.results["matrix"][0], arrays("matrix").initial)
    assert arrays(SKIPPED).gradients[0] is None
    run = theirs(CASES[0], NARROW)
    assert run.params["channels_last"].is_contiguous(memory_format=torch.channels_last)
    assert not run.params["channels_last"].is_contiguous()
    assert run.params["transposed"].stride() == (1, 33)
    assert run.params["complex matrix"].dtype == torch.complex64
    assert {case.rule for case in THEIRS} == set(SLOTS)
    assert {case.rule for case in OURS if cases.torch_has(case)} == {
        "RowwiseAdagrad", "FTRL", "Lion", "Signum", "SGD",
    }  # fmt: skip
    assert {case.rule for case in OURS if not cases.torch_has(case)} == set(OTHER_FORM)
    assert len(OURS) + len(THEIRS) == len(CASES)


# -- rules that torch lacks --------------------------------------------------------------------


def ours_canonical(case: Case, dtype: torch.dtype, names: list[str], compiled: bool) -> Run:
    """`pellucid.torch.Optimizer` with a rule of canonical names."""
    rule = CATALOGUE[case.rule](**case.values)
    return Run(
        dtype, lambda params: pellucid.torch.Optimizer(params, rule, compiled=compiled), names
    )


def _reference(case: Case, name: str, like: Result) -> Result:
    """The reference's result; a complex row is two reals wide for each of its numbers."""
    given = arrays(name)
    if PROBLEMS[name] == Problem((), is_complex=True):  # one row of two reals, not two rows
        pair = [None if grad is None else grad.reshape(1, 2) for grad in given.gradients]
        given = cases.Tensor(given.initial.reshape(1, 2), pair)
    param, slots = expected(case, given, clock="parameter")
    assert slots.keys() == like[1].keys(), name
    return param.reshape(like[0].shape), {
        full: array.reshape(like[1][full].shape) for full, array in slots.items()
    }


def _assert_reference(case: Case, names: list[str], compiled: bool) -> None:
    native, largest = slots_of(case.rule), Largest()
    runs = [ours_canonical(case, dtype, names, compiled) for dtype in (WIDE, NARROW)]
    _look(largest, runs[0], native)
    for update in range(STEPS):
        for run in runs:
            run.step(update)
        _look(largest, runs[0], native)
    results = {name: _reference(case, name, runs[0].result(name, native)) for name in names}
    for run in runs:
        _compare(run, results, largest, case.rule)


@pytest.mark.parametrize("compiled", [True, False], ids=["compiled", "lines"])
@pytest.mark.parametrize("case", OURS, ids=str)
def test_equals_its_reference(case: Case, compiled: bool) -> None:
    _assert_reference(case, list(PROBLEMS), compiled)


# -- the same numbers as NumPy's ---------------------------------------------------------------

SHARED = [name for name, one in PROBLEMS.items() if not one.is_complex and name != SKIPPED]


@pytest.mark.parametrize("dtype", [NARROW, WIDE], ids=["float32", "float64"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_numpys_and_torchs_numbers_are_the_same(case: Case, dtype: torch.dtype) -> None:
    rule = CATALOGUE[case.rule](**case.values)
    run = ours_canonical(case, dtype, SHARED, compiled=True)
    held = {name: np.array(real(param)) for name, param in run.params.items()}
    numpys = pellucid.numpy.Optimizer(held, rule)
    for update in range(20):
        grads = {name: arrays(name).gradients[update] for name in SHARED}
        numpys.step({n: g.astype(held[n].dtype) for n, g in grads.items() if g is not None})
        run.step(update)
    native = slots_of(case.rule)
    for name in SHARED:
        param, slots = run.result(name, native)
        np.testing.assert_array_equal(param, held[name], err_msg=name)
        wanted = numpys.state.get(name, {})
        assert slots.keys() == wanted.keys()
        for full, slot in slots.items():
            np.testing.assert_array_equal(slot, wanted[full], err_msg=f"{name}/{full}")


# -- state dicts -------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [WIDE, NARROW], ids=["float64", "float32"])
@pytest.mark.parametrize("direction", ["ours to theirs", "theirs to ours"])
@pytest.mark.parametrize("case", STEADY, ids=str)
def test_training_goes_on_in_the_other_class(
    case: Case, direction: str, dtype: torch.dtype
) -> None:
    makes = [ours, theirs] if direction == "ours to theirs" else [theirs, ours]
    first, second = (make(case, dtype) for make in makes)
    for update in range(STEPS // 2):
        first.step(update)
    for name, param in second.params.items():
        param.data.copy_(first.params[name].data)
    saved = first.optimizer.state_dict()
    second.optimizer.load_state_dict(saved)
    assert_loaded(first, second)
    for update in range(STEPS // 2, STEPS):
        second.step(update)
    truth = _truth(case.name)
    _compare(second, truth.results, truth.largest, case.rule)


def assert_loaded(first: Run, second: Run) -> None:
    """The same slots, each bit as it was, and a group's values."""
    for name, param in first.params.items():
        before = first.optimizer.state[param]
        after = second.optimizer.state[second.params[name]]
        assert after.keys() == before.keys(), name
        for key, value in before.items():
            assert torch.equal(after[key], value), f"{name}/{key}"
            assert after[key].shape == value.shape
            assert after[key].dtype == value.dtype
    mine, other = first.optimizer.param_groups[0], second.optimizer.param_groups[0]
    for key in mine.keys() & other.keys() - {"params", "foreach"}:
        assert mine[key] == other[key], key


@pytest.mark.parametrize("rule", SLOTS)
def test_groups_and_defaults_have_torchs_keys(rule: str) -> None:
    params = [torch.ones(3, requires_grad=True)]
    mine, other = getattr(pellucid.torch, rule)(params), getattr(torch.optim, rule)(params)
    for got, wanted in (
        (mine.param_groups[0], other.param_groups[0]),
        (mine.defaults, other.defaults),
    ):
        assert got.keys() >= wanted.keys()
        assert {key: got[key] for key in wanted} == wanted


@pytest.mark.parametrize("rule", SLOTS)
def test_constructor_is_a_drop_in(rule: str) -> None:
    mine = inspect.signature(getattr(pellucid.torch, rule)).parameters
    wanted = inspect.signature(getattr(torch.optim, rule)).parameters
    for place, (key, parameter) in enumerate(wanted.items()):
        assert key in mine
        if key != "params":
            assert mine[key].default == parameter.default, key
        if key not in ("foreach", "capturable", "maximize", "differentiable") and (
            parameter.kind == parameter.POSITIONAL_OR_KEYWORD
        ):
            assert list(mine)[place] == key


# -- options that torch has not ----------------------------------------------------------------


@pytest.mark.parametrize("rule", OTHER_FORM)
def test_an_option_of_ours_alone_is_hidden_in_torch(rule: str) -> None:
    named, hidden = getattr(pellucid.torch, rule), set(OTHER_FORM[rule])
    params = [torch.ones(3, requires_grad=True)]
    for made in (named(params), pellucid.torch.Optimizer(params, CATALOGUE[rule]())):
        assert not hidden & {*made.param_groups[0], *made.defaults}
        assert not hidden & {*made.state_dict()["param_groups"][0]}
    assert not hidden & {*inspect.signature(named).parameters}
    for option, value in OTHER_FORM[rule].items():
        assert f"    {option}: " not in named.__doc__
        with pytest.raises(TypeError, match=option):
            named(params, **{option: value})


def _stepped(optimizer: pellucid.torch.Optimizer, updates: int) -> Tensor:
    """The parameter after some updates with gradients of mixed sizes."""
    (param,) = optimizer.param_groups[0]["params"]
    for update in range(updates):
        param.grad = torch.tensor([1e-6, -0.5, 20.0 * (-1) ** update])
        optimizer.step()
    return param.detach().clone()  # type: ignore[no-any-return]


def _made(rule: str, **more: Any) -> pellucid.torch.Optimizer:
    values = {"weight_decay": 0.1, "learning_rate": 0.01} | (
        {"momentum": 0.5} if rule in ("SGD", "RMSprop") else {}
    )
    stage = CATALOGUE[rule](**values, **more)
    return pellucid.torch.Optimizer([torch.ones(3, requires_grad=True)], stage)


@pytest.mark.parametrize(
    ("rule", "option"), [(rule, option) for rule, form in OTHER_FORM.items() for option in form]
)
def test_an_option_of_ours_alone_acts_and_is_saved(rule: str, option: str) -> None:
    value = OTHER_FORM[rule][option]
    default = CATALOGUE[rule].declared.options[option].default
    usual, other = _made(rule), _made(rule, **{option: value})
    assert option not in usual.param_groups[0]
    assert other.param_groups[0][option] == value

    expected = _stepped(other, 3)
    for group in (other.param_groups[0], other.state_dict()["param_groups"][0]):
        assert group[option] == value
    live = _made(rule)
    live.param_groups[0][option] = value  # live, as torch's own options are
    torch.testing.assert_close(_stepped(live, 3), expected, rtol=0, atol=0)

    again = _made(rule)
    again.load_state_dict(other.state_dict())
    assert again.param_groups[0][option] == value
    _stepped(usual, 1)
    again.load_state_dict(usual.state_dict())  # ours, without the key: the default
    assert option not in again.param_groups[0]
    assert pellucid.view(again)[option] == default
    pellucid.view(again)[option] = value
    assert again.param_groups[0][option] == value

    if rule not in SLOTS:
        return
    theirs = getattr(torch.optim, rule)([torch.ones(3, requires_grad=True)], lr=0.01)
    other.load_state_dict(theirs.state_dict())  # torch's, which cannot say
    assert other.param_groups[0][option] == value
