"""`pellucid.torch` behaves as torch.optim does, whatever is done to it between two steps.

`Twins` are our optimizer and torch's own on equal parameters. What is done to one is done to the
other; after each further step parameters, state and groups must be the same.
"""

from __future__ import annotations

import copy
import gc
import inspect
import io
import pickle
import re
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch.optim import lr_scheduler
from torch.optim.swa_utils import SWALR

import pellucid
import pellucid.torch
import pellucid.torch.objects
import pellucid.torch.watch
from pellucid import Adam, HyperparameterError, Lion, Rule, chain, clip_by_global_norm, ops, route
from pellucid.rule import extra, hyper
from pellucid.schedules import Cosine

Tensor = torch.Tensor
P = torch.nn.Parameter
DTYPE = torch.float64
SHAPES: list[tuple[int, ...]] = [(4, 4), (5,), (3, 3)]


def parameters(dtype: torch.dtype = DTYPE, seed: int = 0) -> list[Tensor]:
    made = torch.Generator().manual_seed(seed)
    return [torch.nn.Parameter(torch.randn(s, dtype=dtype, generator=made)) for s in SHAPES]


class Twins:
    """Ours and torch's optimizer on equal parameters."""

    def __init__(self, rule: str = "Adam", split: bool = False, **values: Any) -> None:
        self.params = parameters(), parameters()
        self.options = {"lr": 0.1, **values}
        given = [self._groups(list(params), split) for params in self.params]
        self.mine: Any = getattr(pellucid.torch, rule)(given[0], **self.options)
        self.other: Any = getattr(torch.optim, rule)(given[1], foreach=False, **self.options)
        self.drawn = torch.Generator().manual_seed(1)

    @staticmethod
    def _groups(params: list[Tensor], split: bool) -> Any:
        if not split:
            return params
        return [{"params": params[:2]}, {"params": params[2:], "lr": 0.3, "weight_decay": 0.1}]

    def both(self, action: Callable[[list[Tensor], Any], Any]) -> None:
        action(self.params[0], self.mine)
        action(self.params[1], self.other)

    def gradients(self) -> None:
        for one, two in zip(*self.params, strict=True):
            drawn = torch.randn(one.shape, dtype=one.dtype, generator=self.drawn)
            one.grad, two.grad = drawn.clone(), drawn.clone()

    def step(self, steps: int = 1) -> None:
        for _ in range(steps):
            self.gradients()
            self.mine.step()
            self.other.step()
            self.compare()

    def compare(self) -> None:
        for number, (one, two) in enumerate(zip(*self.params, strict=True)):
            assert one.stride() == two.stride()
            same(one, two, f"parameter {number}")
            mine, other = self.mine.state.get(one, {}), self.other.state.get(two, {})
            assert set(mine) == set(other), number
            for key, value in other.items():
                if isinstance(value, Tensor):
                    same(mine[key], value, f"{key} of {number}")
                else:
                    assert mine[key] == value
        for one, two in zip(self.mine.param_groups, self.other.param_groups, strict=True):
            for key in set(two) - {"params", "foreach"}:
                assert one[key] == two[key], key


def same(actual: Tensor, wanted: Tensor, what: str = "") -> None:
    """Equal but for the rounding of float64: a few units of the largest element."""
    assert actual.shape == wanted.shape, what
    actual, wanted = actual.detach().double(), wanted.detach().double()
    scale = float(wanted.abs().max()) if wanted.numel() else 1.0
    torch.testing.assert_close(actual, wanted, rtol=1e-11, atol=1e-14 * scale, msg=what)


def is_quick(optimizer: Any) -> bool:
    """Whether the next step with these gradients would take the path of "nothing moved"."""
    return any(
        watch.holds(optimizer.param_groups, optimizer.state) for watch, *_ in optimizer._watches
    )


# -- what may be done between two steps --------------------------------------------------------

Action = Callable[[list[Tensor], Any], Any]
ACTIONS: dict[str, Action] = {}


def action(function: Action) -> Action:
    ACTIONS[function.__name__] = function
    return function


def first_state(params: list[Tensor], optimizer: Any) -> dict[str, Any]:
    """The state of the first parameter; of torch's and ours alike."""
    state: dict[str, Any] = optimizer.state[params[0]]
    return state


def slot_of(optimizer: Any) -> str:
    return "momentum_buffer" if "momentum" in optimizer.param_groups[0] else "exp_avg"


@action
def data_replaced(params: list[Tensor], _: Any) -> None:
    params[0].data = torch.full((4, 4), 2.0, dtype=DTYPE)


@action
def data_transposed_in_the_same_memory(params: list[Tensor], _: Any) -> None:
    params[0].data = params[0].data.t()


@action
def data_in_another_order(params: list[Tensor], _: Any) -> None:
    params[0].data = params[0].data.t().contiguous().t()


@action
def data_with_gaps(params: list[Tensor], _: Any) -> None:
    base = torch.zeros(4, 8, dtype=DTYPE)
    base[:, ::2] = params[0].data
    params[0].data = base[:, ::2]


@action
def parameter_transposed_in_place(params: list[Tensor], _: Any) -> None:
    with torch.no_grad():
        params[0].t_()


@action
def parameter_set_to_other_memory(params: list[Tensor], _: Any) -> None:
    with torch.no_grad():
        params[1].set_(torch.full((5,), 3.0, dtype=DTYPE))  # type: ignore[call-overload]


@action
def parameter_swapped(params: list[Tensor], _: Any) -> None:
    torch.utils.swap_tensors(params[0], torch.nn.Parameter(torch.ones(4, 4, dtype=DTYPE)))


@action
def parameter_into_shared_memory(params: list[Tensor], optimizer: Any) -> None:
    params[0].data.share_memory_()
    first_state(params, optimizer)[slot_of(optimizer)].share_memory_()


@action
def data_cut_with_its_state(params: list[Tensor], optimizer: Any) -> None:
    """The same pointers, fewer rows."""
    params[0].data = params[0].data[:2]
    for key, value in first_state(params, optimizer).items():
        if value.dim():
            first_state(params, optimizer)[key].data = value.data[:2]


@action
def data_grown_with_its_state(params: list[Tensor], optimizer: Any) -> None:
    params[0].data = torch.cat([params[0].data, torch.ones(2, 4, dtype=DTYPE)])
    state = first_state(params, optimizer)
    for key, value in state.items():
        if value.dim():
            state[key] = torch.cat([value, torch.zeros(2, 4, dtype=DTYPE)])


@action
def slot_replaced(params: list[Tensor], optimizer: Any) -> None:
    first_state(params, optimizer)[slot_of(optimizer)] = torch.full((4, 4), 2.0, dtype=DTYPE)


@action
def slot_in_another_order(params: list[Tensor], optimizer: Any) -> None:
    state, slot = first_state(params, optimizer), slot_of(optimizer)
    state[slot] = state[slot].t().contiguous().t()


@action
def slot_data_replaced(params: list[Tensor], optimizer: Any) -> None:
    state = first_state(params, optimizer)
    state[slot_of(optimizer)].data = torch.full((4, 4), 2.0, dtype=DTYPE)


@action
def slot_transposed_in_the_same_memory(params: list[Tensor], optimizer: Any) -> None:
    slot = first_state(params, optimizer)[slot_of(optimizer)]
    slot.data = slot.data.t()


@action
def slot_transposed_in_place(params: list[Tensor], optimizer: Any) -> None:
    first_state(params, optimizer)[slot_of(optimizer)].t_()


@action
def step_replaced(params: list[Tensor], optimizer: Any) -> None:
    if "step" in first_state(params, optimizer):
        first_state(params, optimizer)["step"] = torch.tensor(10.0)


@action
def step_data_replaced(params: list[Tensor], optimizer: Any) -> None:
    if "step" in first_state(params, optimizer):
        first_state(params, optimizer)["step"].data = torch.tensor(20.0)


@action
def slots_copied(params: list[Tensor], optimizer: Any) -> None:
    """The usual `optimizer_to(device)`: each tensor by its copy."""
    for state in optimizer.state.values():
        for key, value in state.items():
            state[key] = value.clone()


@action
def slots_data_copied(params: list[Tensor], optimizer: Any) -> None:
    """The other usual `optimizer_to(device)`."""
    for state in optimizer.state.values():
        for value in state.values():
            value.data = value.data.clone()


@action
def state_cleared(params: list[Tensor], optimizer: Any) -> None:
    optimizer.state.clear()


@action
def one_state_deleted(params: list[Tensor], optimizer: Any) -> None:
    del optimizer.state[params[0]]


@action
def state_replaced(params: list[Tensor], optimizer: Any) -> None:
    copied = {param: copy.deepcopy(slots) for param, slots in optimizer.state.items()}
    optimizer.state = defaultdict(dict, copied)
    first_state(params, optimizer)[slot_of(optimizer)].mul_(2)


@action
def state_a_plain_dict(params: list[Tensor], optimizer: Any) -> None:
    optimizer.state = dict(optimizer.state)


@action
def slots_in_other_dicts(params: list[Tensor], optimizer: Any) -> None:
    for param in params:
        optimizer.state[param] = OrderedDict(optimizer.state[param])
    first_state(params, optimizer)[slot_of(optimizer)] = torch.ones(4, 4, dtype=DTYPE)


@action
def state_with_keys_of_others(params: list[Tensor], optimizer: Any) -> None:
    first_state(params, optimizer)["mine"] = 3
    first_state(params, optimizer)["sums"] = torch.ones(2)
    optimizer.state["whole"] = "text"


@action
def hyperparameter_written(params: list[Tensor], optimizer: Any) -> None:
    group = optimizer.param_groups[0]
    group["lr"] = 0.7
    group["weight_decay"] = 0.3
    if "betas" in group:
        group["betas"] = (0.5, 0.9)


@action
def betas_changed_in_their_list(params: list[Tensor], optimizer: Any) -> None:
    group = optimizer.param_groups[0]
    if "betas" in group:
        group["betas"] = [0.5, 0.9] if isinstance(group["betas"], tuple) else group["betas"]
        group["betas"][0] *= 0.9


@action
def parameter_taken_out(params: list[Tensor], optimizer: Any) -> None:
    optimizer.param_groups[0]["params"].pop(0)


@action
def parameters_reordered(params: list[Tensor], optimizer: Any) -> None:
    optimizer.param_groups[0]["params"].reverse()


@action
def parameters_in_a_tuple(params: list[Tensor], optimizer: Any) -> None:
    optimizer.param_groups[0]["params"] = tuple(optimizer.param_groups[0]["params"][1:])


@action
def parameter_replaced(params: list[Tensor], optimizer: Any) -> None:
    """What Gaussian splatting does to densify: another parameter takes the state over."""
    new = torch.nn.Parameter(torch.cat([params[0].data, torch.ones(2, 4, dtype=DTYPE)]))
    state = optimizer.state.pop(params[0])
    for key, value in state.items():
        if value.dim():
            state[key] = torch.cat([value, torch.zeros(2, 4, dtype=DTYPE)])
    optimizer.state[new] = state
    group = optimizer.param_groups[0]["params"]
    group[next(n for n, param in enumerate(group) if param is params[0])] = params[0] = new


@action
def parameter_put_in(params: list[Tensor], optimizer: Any) -> None:
    new = torch.nn.Parameter(torch.ones(2, 2, dtype=DTYPE))
    optimizer.param_groups[0]["params"].append(new)
    params.append(new)


@action
def groups_copied(params: list[Tensor], optimizer: Any) -> None:
    optimizer.param_groups = [{**group, "lr": 0.9} for group in optimizer.param_groups]


@action
def groups_in_another_list(params: list[Tensor], optimizer: Any) -> None:
    optimizer.param_groups = list(optimizer.param_groups)
    optimizer.param_groups[0]["lr"] = 0.02


@action
def group_by_hand(params: list[Tensor], optimizer: Any) -> None:
    moved = optimizer.param_groups[0]["params"].pop()
    optimizer.param_groups.append({**optimizer.param_groups[0], "params": [moved], "lr": 0.9})


RULES = {"Adam": {"weight_decay": 0.1, "amsgrad": True}, "SGD": {"momentum": 0.9}}
THROUGH_BUFFERS = {
    "data_transposed_in_the_same_memory",
    "data_in_another_order",
    "data_with_gaps",
    "parameter_transposed_in_place",
    "slot_in_another_order",
    "slot_transposed_in_the_same_memory",
    "slot_transposed_in_place",
}
"""After these a slot lies otherwise than its parameter: it is copied in and out at each step."""
NEVER_QUICK = {*THROUGH_BUFFERS, "state_with_keys_of_others"}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", ACTIONS)
def test_what_is_done_between_steps_is_seen_at_the_next(name: str, rule: str) -> None:
    twins = Twins(rule, **RULES[rule])
    twins.step(3)
    twins.gradients()
    assert is_quick(twins.mine)
    twins.both(ACTIONS[name])
    twins.step(3)
    twins.gradients()
    assert is_quick(twins.mine) == (name not in NEVER_QUICK)


LACKING = {
    "torch's functions": [(pellucid.torch.watch, "handles_of")],
    "Python's": [(pellucid.torch.objects, "_python")],
    "both": [(pellucid.torch.watch, "handles_of"), (pellucid.torch.objects, "_python")],
}


@pytest.mark.parametrize("lacking", LACKING)
@pytest.mark.parametrize("name", ACTIONS)
def test_the_same_without_what_torch_does_not_promise(
    name: str, lacking: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The parts of torch by which the watch is quick are not public: it does without them."""
    for module, part in LACKING[lacking]:
        monkeypatch.setattr(module, part, lambda *_: None)
    test_what_is_done_between_steps_is_seen_at_the_next(name, "Adam")


SEVERAL_TIMES = [
    name
    for name in ACTIONS
    if name
    not in {
        "state_with_keys_of_others",  # which other actions take for tensors
        "data_cut_with_its_state",
        "data_grown_with_its_state",
        "parameter_replaced",
        "parameter_put_in",
        "slots_in_other_dicts",
        "state_a_plain_dict",  # torch itself then fails for a parameter without state
        "parameter_taken_out",
        "parameters_in_a_tuple",
        "group_by_hand",
    }
]


@pytest.mark.parametrize("seed", range(8))
def test_anything_done_in_any_order(seed: int) -> None:
    """Each step after something else, or nothing; two groups; now and then no gradient."""
    drawn = np.random.default_rng(seed)
    rule = list(RULES)[seed % 2]
    twins = Twins(rule, split=True, **RULES[rule])
    for _ in range(25):
        twins.gradients()
        for number in drawn.choice(3, size=drawn.integers(0, 2), replace=False):
            for params in twins.params:
                params[number].grad = None
        for _ in range(2):  # the second time nothing has moved
            twins.mine.step()
            twins.other.step()
            twins.compare()
        name = str(drawn.choice(SEVERAL_TIMES))
        if drawn.random() < 0.7 and twins.mine.state.get(twins.params[0][0]):
            twins.both(ACTIONS[name])


def _names_swapped(state: Any, one: Tensor, other: Tensor) -> None:
    slots = state[one]
    mean, square = slots.pop("exp_avg").abs_(), slots.pop("exp_avg_sq")
    slots["exp_avg_sq"], slots["exp_avg"] = mean, square


def _states_swapped(state: Any, one: Tensor, other: Tensor) -> None:
    first, second = state.pop(one), state.pop(other)
    state[other], state[one] = first, second


def _slot_moved(state: Any, one: Tensor, other: Tensor) -> None:
    """The first of one parameter's becomes the last of the other's."""
    state[one]["mine"] = state[other].pop("theirs")


@pytest.mark.parametrize("swap", [_names_swapped, _states_swapped, _slot_moved])
def test_the_same_objects_in_the_same_order_under_other_names(swap: Any) -> None:
    results = []
    for make in (pellucid.torch.Adam, torch.optim.Adam):
        params = [P(torch.full((3,), value, dtype=DTYPE)) for value in (1.0, 2.0)]
        optimizer = make(params, lr=0.1)
        for update in range(5):
            for number, param in enumerate(params):
                param.grad = torch.full_like(param, 1.0 + number - update)
            if update == 2 and make is pellucid.torch.Adam:
                assert is_quick(optimizer)
            if update == 3:
                swap(optimizer.state, *params)
            if update == 2 and swap is _slot_moved:
                optimizer.state[params[1]] = {"theirs": 1, **optimizer.state[params[1]]}
            optimizer.step()
        results.append([*params, *(optimizer.state[p][k] for p in params for k in STATE)])
    for one, two in zip(*results, strict=True):
        same(one, two)


STATE = ("step", "exp_avg", "exp_avg_sq")


def test_memory_that_was_given_back_is_never_written() -> None:
    """All arrays replaced by others at each step, the old ones freed and their memory taken."""
    twins = Twins("Adam")
    others: list[Tensor] = []
    for _ in range(10):
        twins.step()
        for params, optimizer in zip(twins.params, (twins.mine, twins.other), strict=True):
            for param in params:
                param.data = param.data.clone()
                param.grad = None
                for key, value in optimizer.state[param].items():
                    optimizer.state[param][key] = value.clone()
        gc.collect()
        for taken in others:
            assert torch.equal(taken, torch.full_like(taken, 5.0))
        others = [torch.full(shape, 5.0, dtype=DTYPE) for shape in SHAPES for _ in range(8)]


def test_memory_that_is_no_longer_used_is_given_back() -> None:
    """Also by what was made for gradients of other parameters than those of the last step."""
    twins = Twins("Adam")
    twins.step(3)
    twins.gradients()
    for params in twins.params:
        params[2].grad = None
    for optimizer in (twins.mine, twins.other):
        optimizer.step()
    slots = [value for state in twins.mine.state.values() for value in state.values()]
    pointers = [one.data_ptr() for one in (*twins.params[0], *slots)]
    del slots
    for params, optimizer in zip(twins.params, (twins.mine, twins.other), strict=True):
        for param in params:
            param.data = param.data.clone()
        slots_copied(params, optimizer)
    twins.step()
    kept = [tensor for watch, *_ in twins.mine._watches for tensor in watch.alive]
    assert not {one.data_ptr() for one in kept} & set(pointers)
    assert len(twins.mine._watches) == len(twins.mine._plans) == 1


def test_a_vetoed_first_update_leaves_no_trace() -> None:
    """Slots begin with the values of the first update that is made."""
    weight, idle = P(torch.ones(3, dtype=DTYPE)), P(torch.ones(3, dtype=DTYPE))
    rule = chain(pellucid.skip_nonfinite(), pellucid.Rprop(0.1))
    optimizer = pellucid.torch.Optimizer([weight, idle], rule)
    weight.grad = torch.full((3,), float("nan"), dtype=DTYPE)
    idle.grad = torch.ones(3, dtype=DTYPE)
    for _ in range(3):
        with unchanged(optimizer):
            optimizer.step()
    assert len(optimizer.state) == 0
    optimizer.param_groups[0]["lr"] = 0.4
    weight.grad = torch.ones(3, dtype=DTYPE)
    optimizer.step()
    same(weight, torch.full((3,), 0.6, dtype=DTYPE))
    same(optimizer.state[weight]["step_size"], torch.full((3,), 0.4, dtype=DTYPE))
    assert float(optimizer.state[weight]["step"]) == 1.0


# -- groups ------------------------------------------------------------------------------------


def test_parameters_moved_between_groups_get_the_other_groups_values() -> None:
    twins = Twins("Adam", split=True)
    twins.step(3)

    def move(params: list[Tensor], optimizer: Any) -> None:
        groups = optimizer.param_groups
        groups[1]["params"].insert(0, groups[0]["params"].pop())  # the same order over all

    twins.both(move)
    twins.step(3)


def test_groups_reordered_and_taken_out_and_put_back() -> None:
    twins = Twins("SGD", split=True, momentum=0.5)
    twins.step(3)
    twins.both(lambda _, optimizer: optimizer.param_groups.reverse())
    twins.step(2)
    names = [controls.label for controls in twins.mine.controls]
    assert names == ["group 1", "group 0"]
    taken: list[Any] = []
    twins.both(lambda _, optimizer: taken.append(optimizer.param_groups.pop(0)))
    twins.step(2)
    assert len(twins.mine.controls) == 1
    for group, optimizer in zip(taken, (twins.mine, twins.other), strict=True):
        group["lr"] = 0.05
        optimizer.param_groups.append(group)
    twins.step(2)
    assert [controls.label for controls in twins.mine.controls] == ["group 0", "group 1"]
    assert str(twins.mine.journal) == "step 8  group 1/learning_rate  0.3 → 0.05  (direct write)"


def falling(update: int) -> float:
    return 0.1 / (1 + update)


def test_a_schedule_survives_its_group_being_taken_out() -> None:
    params = parameters()
    optimizer = pellucid.torch.SGD([{"params": params[:1]}, {"params": params[1:]}], lr=falling)
    group = optimizer.param_groups.pop()
    step_with_ones(optimizer, params)
    optimizer.param_groups.append(group)
    step_with_ones(optimizer, params)
    step_with_ones(optimizer, params)
    assert [group["lr"] for group in optimizer.param_groups] == [falling(2), falling(2)]


def step_with_ones(optimizer: Any, params: list[Tensor]) -> None:
    for param in params:
        param.grad = torch.ones_like(param)
    optimizer.step()


def test_a_group_added_later_and_while_running() -> None:
    twins = Twins("Adam")
    twins.step(2)

    def add(params: list[Tensor], optimizer: Any) -> None:
        params.append(torch.nn.Parameter(torch.ones(2, 3, dtype=DTYPE)))
        optimizer.add_param_group({"params": params[-1], "lr": 0.7, "lr_scale": 0.5})

    for _ in range(2):
        twins.both(add)
        twins.step(2)
    assert [group["lr"] for group in twins.mine.param_groups] == [0.1, 0.7, 0.7]
    assert twins.mine.param_groups[1]["lr_scale"] == 0.5
    assert twins.mine.param_groups[1]["betas"] == (0.9, 0.999)
    assert twins.mine.defaults["lr"] == 0.1  # schedulers read it

    def add_inside(params: list[Tensor], optimizer: Any) -> None:
        hook = optimizer.register_step_pre_hook(lambda *_: add(params, optimizer))
        optimizer.step()
        hook.remove()

    twins.gradients()
    twins.both(add_inside)
    twins.step(2)


def test_names_are_kept() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, 1))
    wanted = ["0.weight", "0.bias", "1.weight", "1.bias"]
    for given in (model, model.named_parameters(), [{"params": model.named_parameters()}]):
        optimizer = pellucid.torch.Adam(given)
        assert optimizer.param_groups[0]["param_names"] == wanted
        assert optimizer.state_dict()["param_groups"][0]["param_names"] == wanted
        assert [entry.name for entry in optimizer.entries] == wanted
    assert "param_names" not in pellucid.torch.Adam(model.parameters()).param_groups[0]
    named = [("param_a", model[0].weight), ("param_b", model[0].bias)]
    optimizer = pellucid.torch.Adam(named)
    assert optimizer.param_groups[0]["param_names"] == ["param_a", "param_b"]
    optimizer.add_param_group({"params": [("c", model[1].weight)]})
    assert optimizer.param_groups[1]["param_names"] == ["c"]


def test_groups_by_pattern() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, 1))
    optimizer = pellucid.torch.AdamW(
        model, lr=0.1, groups={"*.bias": {"weight_decay": 0, "lr": 0.2}, "1.*": {"beta1": 0.5}}
    )
    found = {
        name: (group["lr"], group["weight_decay"], group["betas"])
        for group in optimizer.param_groups
        for name in group["param_names"]
    }
    assert found == {
        "0.weight": (0.1, 0.01, (0.9, 0.999)),
        "0.bias": (0.2, 0.0, (0.9, 0.999)),
        "1.weight": (0.1, 0.01, (0.5, 0.999)),
        "1.bias": (0.2, 0.0, (0.9, 0.999)),
    }
    assert [controls.label for controls in optimizer.controls] == ["group 0", "*.bias", "1.*"]


def test_tied_weights_are_one_parameter() -> None:
    def model() -> torch.nn.Sequential:
        made = torch.nn.Sequential(
            torch.nn.Linear(4, 4, bias=False), torch.nn.Linear(4, 4, bias=False)
        )
        made[1].weight = made[0].weight
        with torch.no_grad():
            made[0].weight.copy_(torch.arange(16.0).reshape(4, 4) / 16)
        return made

    one, two = model(), model()
    mine, other = pellucid.torch.AdamW(one, lr=0.1), torch.optim.AdamW(two.parameters(), lr=0.1)
    for _ in range(3):
        for net, optimizer in ((one, mine), (two, other)):
            optimizer.zero_grad()
            net(torch.ones(2, 4)).square().sum().backward()
            optimizer.step()
    assert len(mine.param_groups[0]["params"]) == 1
    assert one[1].weight is one[0].weight
    torch.testing.assert_close(one[0].weight, two[0].weight, rtol=1e-6, atol=1e-7)


# -- gradients ---------------------------------------------------------------------------------


def _strided(grad: Tensor) -> Tensor:
    return torch.stack([grad, grad], -1)[..., 0]


def _bucket(grad: Tensor) -> Tensor:
    """A view of one flat buffer, as data-parallel training has them."""
    flat = torch.cat([torch.zeros(3, dtype=grad.dtype), grad.flatten()])
    return flat[3:].view(grad.shape)


GRADIENTS: dict[str, Callable[[Tensor], Tensor]] = {
    "new": torch.clone,
    "other strides": lambda grad: grad.t().contiguous().t() if grad.dim() > 1 else grad,
    "gaps": _strided,
    "expanded": lambda grad: grad[:1].expand(grad.shape),
    "a graph's": lambda grad: grad.clone().requires_grad_(),
    "of a graph": lambda grad: grad.clone().requires_grad_() * 1.0,
    "bucket": _bucket,
    "negated": lambda grad: torch._neg_view(grad),
    "a subclass": lambda grad: torch.nn.Parameter(grad),
}


@pytest.mark.parametrize("lacking", [None, *LACKING])
@pytest.mark.parametrize("first", ["new", "gaps"])
@pytest.mark.parametrize("kind", GRADIENTS)
def test_gradients_of_any_form(
    kind: str, first: str, lacking: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module, part in LACKING.get(lacking or "", []):
        monkeypatch.setattr(module, part, lambda *_: None)
    twins = Twins("Adam", weight_decay=0.1)
    for form in (first, first, kind, kind, first, kind, first):
        twins.gradients()
        for params in twins.params:
            for param in params:
                assert param.grad is not None
                param.grad = GRADIENTS[form](param.grad)
        twins.mine.step()
        twins.other.step()
        twins.compare()


def test_gradients_given_and_taken_alternately() -> None:
    """Several sets in turn: each has its own plan, and what idles stays as it is."""
    twins = Twins("Adam")
    for update in range(24):
        twins.gradients()
        for params in twins.params:
            for number in range(len(SHAPES)):
                if update >> number & 1:
                    params[number].grad = None
        twins.mine.step()
        twins.other.step()
        twins.compare()
    assert [float(twins.mine.state[param]["step"]) for param in twins.params[0]] == [12.0] * 3


def test_no_gradients_at_all() -> None:
    twins = Twins("Adam")
    before = [param.detach().clone() for param in twins.params[0]]
    for _ in range(3):
        twins.mine.step()
        assert twins.mine.state == {}
        assert all(map(torch.equal, twins.params[0], before))
    twins.step(2)


def test_gradients_zeroed_in_place_still_count() -> None:
    twins = Twins("SGD", momentum=0.9)
    for _ in range(3):
        twins.step(2)
        twins.both(lambda _, optimizer: optimizer.zero_grad(set_to_none=False))
        assert all(torch.equal(p.grad, torch.zeros_like(p)) for p in twins.params[0])
        for optimizer in (twins.mine, twins.other):
            optimizer.step()
        twins.compare()
        twins.both(lambda _, optimizer: optimizer.zero_grad())
        assert all(param.grad is None for param in twins.params[0])
        for optimizer in (twins.mine, twins.other):
            optimizer.step()
        twins.compare()


def test_a_gradient_changed_in_place_is_read_anew() -> None:
    twins = Twins("Adam")
    twins.step(2)
    for _ in range(3):
        for params in twins.params:
            for param in params:
                assert param.grad is not None
                param.grad.mul_(-3)
        twins.mine.step()
        twins.other.step()
        twins.compare()


def test_frozen_parameters() -> None:
    twins = Twins("Adam")
    for params in twins.params:
        params[1].requires_grad_(False)
    for update in range(6):
        twins.gradients()
        for params in twins.params:
            params[1].grad = None
            params[0].requires_grad_(update % 2 == 0)  # frozen and thawed, with a gradient
        twins.mine.step()
        twins.other.step()
        twins.compare()
    assert twins.params[0][1] not in twins.mine.state


# -- parameters of any form --------------------------------------------------------------------


def _channels_last() -> Tensor:
    return torch.randn(4, 3, 2, 5, dtype=DTYPE).to(memory_format=torch.channels_last)


FORMS: dict[str, Callable[[], Tensor]] = {
    "zero-dimensional": lambda: torch.tensor(1.5, dtype=DTYPE),
    "empty": lambda: torch.zeros(0, 3, dtype=DTYPE),
    "channels last": _channels_last,
    "transposed": lambda: torch.randn(3, 5, dtype=DTYPE).t(),
    "with gaps": lambda: torch.randn(4, 6, dtype=DTYPE)[:, ::2],
    "permuted": lambda: torch.randn(2, 3, 4, dtype=DTYPE).permute(2, 0, 1),
    "one of each": lambda: torch.randn(1, 1, 3, 1, dtype=DTYPE),
    "complex": lambda: torch.randn(3, 2, dtype=torch.complex128),
    "complex scalar": lambda: torch.tensor(1 + 2j, dtype=torch.complex128),
    "complex transposed": lambda: torch.randn(3, 2, dtype=torch.complex128).t(),
}


@pytest.mark.parametrize("rule", ["Adam", "SGD", "Rprop", "Adagrad"])
@pytest.mark.parametrize("form", FORMS)
def test_parameters_of_any_form(form: str, rule: str) -> None:
    torch.manual_seed(0)
    first = FORMS[form]()
    pair = [torch.empty_like(first).copy_(first) for _ in range(2)]
    if form == "with gaps":
        pair = [FORMS[form]().copy_(first) for _ in range(2)]
    for param in pair:
        param.requires_grad_()
    mine = getattr(pellucid.torch, rule)([pair[0]], lr=0.1)
    other = getattr(torch.optim, rule)([pair[1]], lr=0.1, foreach=False)
    for _ in range(4):
        grad = torch.randn(first.shape, dtype=first.dtype)
        for param in pair:
            param.grad = torch.empty_like(param).copy_(grad)
        mine.step()
        other.step()
        one, two = (torch.view_as_real(p) if p.is_complex() else p for p in map(_plain, pair))
        same(one, two, form)
        for key, value in other.state[pair[1]].items():
            held = mine.state[pair[0]][key]
            assert held.dtype == value.dtype
            torch.testing.assert_close(held, value, rtol=1e-11, atol=1e-14, msg=key)
            if value.shape == first.shape:
                assert held.stride() == value.stride(), key


def _plain(tensor: Tensor) -> Tensor:
    return tensor.detach().resolve_conj()


def test_parameters_that_share_memory_are_updated_one_after_the_other() -> None:
    results = []
    for make in (pellucid.torch.Adam, torch.optim.Adam):
        base = torch.arange(24, dtype=DTYPE).reshape(4, 6) / 24
        params = [base, base[:2], base[1:3], base.t()]
        params = [param.detach().requires_grad_() for param in params]
        optimizer = make(params, lr=0.1, weight_decay=0.5, foreach=False)
        for update in range(4):
            for param in params:
                param.grad = torch.full_like(param, update - 1.5)
            optimizer.step()
        results.append(base.clone())
    same(*results)


def test_interleaved_parameters() -> None:
    """Views between whose elements the other's lie: they share a storage, but no element."""
    results = []
    for make in (pellucid.torch.Adam, torch.optim.Adam):
        base = torch.arange(24, dtype=DTYPE).reshape(4, 6) / 24
        params = [base[:, ::2].detach().requires_grad_(), base[:, 1::2].detach().requires_grad_()]
        optimizer = make(params, lr=0.1, foreach=False)
        for update in range(3):
            for number, param in enumerate(params):
                param.grad = torch.full_like(param, update - number - 0.5)
            optimizer.step()
        results.append(base.clone())
    same(*results)


def test_shared_elements_and_gaps_together_are_refused() -> None:
    base = torch.arange(24, dtype=DTYPE).reshape(4, 6)
    params = [base.detach().requires_grad_(), base[:, ::2].detach().requires_grad_()]
    optimizer = pellucid.torch.SGD(params, lr=0.1)
    for param in params:
        param.grad = torch.ones_like(param)
    with unchanged(optimizer), pytest.raises(ValueError, match="shares elements with 'param_0'"):
        optimizer.step()


def test_parameters_that_share_memory_line_by_line() -> None:
    results = []
    for compiled in (True, False):
        base = torch.ones(4, 6, dtype=DTYPE)
        params = [base.detach().requires_grad_(), base[:2].detach().requires_grad_()]
        optimizer = pellucid.torch.SGD(params, lr=0.1, weight_decay=0.5, compiled=compiled)
        for param in params:
            param.grad = torch.ones_like(param)
        optimizer.step()
        results.append(base)
    same(*results)


@pytest.mark.parametrize("by_graph", [True, False])
def test_each_parameter_counts_its_steps_uncompiled(by_graph: bool) -> None:
    results = []
    for compiled in (True, False):
        params = [torch.nn.Parameter(torch.ones(3, dtype=DTYPE)) for _ in range(2)]
        optimizer = pellucid.torch.Adam(params, lr=0.1, compiled=compiled)
        optimizer.by_graph = by_graph
        for skips in (False, True, False):
            params[0].grad = torch.full_like(params[0], 0.5)
            params[1].grad = None if skips else torch.linspace(1, 3, 3, dtype=DTYPE)
            optimizer.step()
        results.append(torch.stack([param.detach() for param in params]))
    same(*results)


def test_a_column_slot_of_a_complex_parameter_is_refused() -> None:
    class Columns(pellucid.Rule):
        """Keeps a sum for each column."""

        total = pellucid.slot(shape="column")

        def update(self, param: Any, grad: Any) -> Any:
            self.total = self.total + ops.sum(grad, over="column")
            return param - self.total

    for compiled in (True, False):
        param = torch.ones(3, 4, dtype=torch.complex64, requires_grad=True)
        optimizer = pellucid.torch.Optimizer([param], Columns(), compiled=compiled)
        param.grad = torch.ones_like(param)
        with unchanged(optimizer), pytest.raises(TypeError, match="view_as_real"):
            optimizer.step()


@pytest.mark.parametrize("compiled", [True, False])
def test_the_version_counter_advances(compiled: bool) -> None:
    """An in-place change of what backward needs is an error, as after torch's own step."""
    weight = torch.nn.Parameter(torch.ones(3))
    idle = torch.nn.Parameter(torch.ones(3))
    optimizer = pellucid.torch.SGD([weight, idle], lr=0.1, compiled=compiled)
    for _ in range(3):  # the first, the second and the quick path
        weight.grad = None
        loss = weight.square().sum()
        loss.backward(retain_graph=True)
        before = weight._version, idle._version
        optimizer.step()
        assert weight._version > before[0]
        assert idle._version == before[1]
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()


def test_a_default_device_does_not_decide_where_the_state_is() -> None:
    weight = torch.nn.Parameter(torch.ones(3))
    weight.grad = torch.ones(3)
    with torch.device("meta"):
        optimizer = pellucid.torch.NAdam([weight], lr=0.1)
        optimizer.step()
        optimizer.step()
    assert {value.device.type for value in optimizer.state[weight].values()} == {"cpu"}


# -- bad input: a clear error, nothing changed -------------------------------------------------


class unchanged:
    """Whatever happens inside, the optimizer is as it was, to the identity of its tensors."""

    def __init__(self, optimizer: Any) -> None:
        self.optimizer = optimizer

    def picture(self) -> Any:
        optimizer = self.optimizer
        groups = [
            {key: list(value) if isinstance(value, list) else value for key, value in one.items()}
            for one in optimizer.param_groups
        ]
        params = [
            (id(param), _raw(param), getattr(param, "_version", 0))
            for group in groups
            for param in group.pop("params", ())
        ]
        state = [
            (id(param), [(key, id(value), _raw(value)) for key, value in slots.items()])
            if isinstance(slots, dict)
            else (id(param), slots)
            for param, slots in optimizer.state.items()
        ]
        drivers = [(c.label, dict(c.drivers), dict(c.seen)) for c in optimizer.controls]
        entries = [(entry.name, id(entry.param), entry.group) for entry in optimizer.entries]
        return (
            params, state, str(groups), drivers, entries, optimizer.updates, optimizer.seed,
            optimizer.journal.to_list(), dict(optimizer.shared), dict(optimizer.defaults),
        )  # fmt: skip

    def __enter__(self) -> None:
        self.before = self.picture()

    def __exit__(self, *_: Any) -> None:
        for before, after in zip(self.before, self.picture(), strict=True):
            assert after == before


def _raw(value: Any) -> Any:
    """A tensor's bits and layout."""
    if not isinstance(value, Tensor):
        return value
    if value.layout != torch.strided or value.device.type == "meta":
        return value.shape
    if value.numel() and not value.untyped_storage().nbytes():
        return "no memory"
    plain = value.detach().resolve_conj().resolve_neg().contiguous()
    return value.data_ptr(), value.shape, value.stride(), str(value.dtype), plain.numpy().tobytes()


def ready(rule: str = "Adam", steps: int = 2, **values: Any) -> tuple[Any, list[Tensor]]:
    """An optimizer of ours that has made some steps, with gradients for the next."""
    params = parameters()
    optimizer = getattr(pellucid.torch, rule)(params, **{"lr": 0.1, **values})
    for _ in range(steps + 1):
        for param in params:
            param.grad = torch.ones_like(param)
        if optimizer.updates < steps:
            optimizer.step()
    return optimizer, params


ONE = torch.ones(2)
CONSTRUCTED: dict[str, tuple[Callable[[], Any], str]] = {
    "rate below": (lambda: pellucid.torch.Adam([P(ONE)], lr=-1), r"'lr'\] is -1; allowed is a fin"),
    "rate NaN": (lambda: pellucid.torch.Adam([P(ONE)], lr=float("nan")), "is nan; allowed"),
    "beta 1": (lambda: pellucid.torch.Adam([P(ONE)], betas=(1.0, 0.9)), "is 1.0; allowed .* < 1"),
    "one beta": (lambda: pellucid.torch.Adam([P(ONE)], betas=(0.9,)), "allowed are 2 numbers"),
    "text": (lambda: pellucid.torch.SGD([P(ONE)], lr="fast"), "is 'fast'; allowed"),
    "option": (lambda: pellucid.torch.SGD([P(ONE)], nesterov=2), "is 2; allowed is one of False"),
    "unknown": (lambda: pellucid.torch.Adam([P(ONE)], momentum=0.9), "unexpected .* 'momentum'"),
    "no params": (lambda: pellucid.torch.Adam([]), "empty: an optimizer needs at least one"),
    "no generator": (lambda: pellucid.torch.Adam(iter(())), "empty"),
    "no modules": (lambda: pellucid.torch.Adam(torch.nn.ReLU()), "no parameters"),
    "no members": (lambda: pellucid.torch.Adam([{"params": []}]), "empty"),
    "twice": (lambda: pellucid.torch.Adam([P(ONE)] * 2), "given twice, first as 'param_0'"),
    "twice in groups": (
        lambda: (p := P(ONE)) is p and pellucid.torch.Adam([{"params": p}, {"params": [p]}]),
        "given twice",
    ),
    "integers": (
        lambda: pellucid.torch.Adam([P(torch.ones(2, dtype=torch.int64), requires_grad=False)]),
        "'param_0' is torch.int64; allowed are float32",
    ),
    "a tensor": (lambda: pellucid.torch.Adam(P(ONE)), r"one tensor; .* pass \[tensor\]"),
    "no tensor": (lambda: pellucid.torch.Adam([3.0]), "'param_0' is float; allowed is a tensor"),
    "no leaf": (
        lambda: pellucid.torch.Adam([P(ONE) * 2]),
        "can't optimize a non-leaf Tensor",
    ),
    "expanded": (lambda: pellucid.torch.Adam([ONE[:1].expand(3)]), "expanded: several elements"),
    "sparse": (lambda: pellucid.torch.Adam([ONE.to_sparse()]), "sparse .* allowed is a dense"),
    "conjugate": (
        lambda: pellucid.torch.Adam([torch.ones(2, dtype=torch.complex64).conj()]),
        "lazily conjugated",
    ),
    "a set": (lambda: pellucid.torch.Adam([{"params": {P(ONE)}}]), "a set, whose order"),
    "no key params": (lambda: pellucid.torch.Adam([{"lr": 0.1}]), "needs the key 'params'"),
    "half named": (lambda: pellucid.torch.Adam([("a", P(ONE)), P(ONE)]), "some have none"),
    "groups half named": (
        lambda: pellucid.torch.Adam([{"params": [P(ONE)]}, {"params": [("a", P(ONE))]}]),
        "with/without names",
    ),
    "a number as name": (lambda: pellucid.torch.Adam([(3, P(ONE))]), "name is 3; allowed is text"),
    "near miss": (
        lambda: pellucid.torch.Adam([{"params": P(ONE), "weight_decy": 0.1}]),
        "'weight_decy' is none .* did you mean 'weight_decay'",
    ),
    "both names": (
        lambda: pellucid.torch.Adam([{"params": P(ONE), "lr": 0.1, "learning_rate": 0.1}]),
        "'learning_rate' is given twice",
    ),
    "canonical in a class": (
        lambda: pellucid.torch.Adam([P(ONE)], learning_rate=0.1),
        "unexpected keyword argument 'learning_rate'",
    ),
    "pattern without names": (
        lambda: pellucid.torch.Adam([P(ONE)], groups={"*": {"lr": 1}}),
        "groups= needs names",
    ),
    "pattern takes none": (
        lambda: pellucid.torch.Adam(torch.nn.Linear(1, 1), groups={"*.bia": {"lr": 1}}),
        r"the pattern '\*.bia' takes no parameter",
    ),
    "pattern's value": (
        lambda: pellucid.torch.Adam(torch.nn.Linear(1, 1), groups={"bias": {"lr": -1}}),
        r"groups\['bias'\]\['lr'\] is -1",
    ),
    "pattern's key": (
        lambda: pellucid.torch.Adam(torch.nn.Linear(1, 1), groups={"bias": {"beta": 1}}),
        r"groups\['bias'\]: 'beta' is no hyperparameter .* did you mean 'betas'",
    ),
    "capturable": (lambda: pellucid.torch.Adam([P(ONE)], capturable=True), "no CUDA graph"),
    "differentiable": (
        lambda: pellucid.torch.Adam([P(ONE)], differentiable=True),
        "differentiable=True cannot be had",
    ),
    "compiled": (lambda: pellucid.torch.Adam([P(ONE)], compiled=1), "allowed is True or False"),
    "seed": (lambda: pellucid.torch.Adam([P(ONE)], seed=-1), "seed is -1"),
    "no function": (
        lambda: pellucid.torch.Adam([P(ONE)], gradient_transformers=[3]),
        "gradient_transformers has 3, which is no function",
    ),
    "a class": (lambda: pellucid.torch.Optimizer([P(ONE)], Adam), r"construct it: Adam\(\)"),
    "a schedule": (
        lambda: pellucid.torch.Adam([P(ONE)], lr=lambda update: -1.0),
        r"Adam\['lr'\], <function .* at step 0, is -1.0; allowed",
    ),
    "a branch": (
        lambda: pellucid.torch.Optimizer(torch.nn.Linear(1, 1), route({"weight": Adam()})),
        "no branch of the route takes the parameter 'bias'",
    ),
}


@pytest.mark.parametrize("name", CONSTRUCTED)
def test_bad_construction(name: str) -> None:
    make, message = CONSTRUCTED[name]
    with pytest.raises((ValueError, TypeError), match=message):
        make()


WRITTEN: dict[str, tuple[str, Any, str]] = {
    "rate below": ("lr", -1, r"group 0/learning_rate \('lr'\) is -1; allowed is a finite"),
    "rate NaN": ("lr", float("nan"), "is nan"),
    "rate infinite": ("lr", float("inf"), "is inf"),
    "text": ("lr", "fast", "is 'fast'"),
    "none": ("lr", None, "is None"),
    "tensor NaN": ("lr", torch.tensor(float("nan")), r"is tensor\(nan\)"),
    "two numbers": ("lr", torch.tensor([0.1, 0.2]), r"is tensor\(\[0.1000, 0.2000\]\)"),
    "an array": ("lr", np.array([0.1, 0.2]), r"is array\(\[0.1, 0.2\]\)"),
    "beta 1": ("betas", (0.9, 1.0), r"beta2 \('betas\[1\]'\) is 1.0; allowed .* < 1"),
    "one beta": ("betas", (0.9,), "allowed are 2 numbers"),
    "three betas": ("betas", (0.9, 0.99, 0.999), "allowed are 2 numbers"),
    "no tuple": ("betas", 0.9, "key 'betas' is 0.9; put it back"),
    "option": ("amsgrad", "yes", "is 'yes'; allowed is one of False, True"),
    "near miss": ("wieght_decay", 0.1, "did you mean 'weight_decay'"),
    "other spelling": ("learning_rate", 0.1, "'learning_rate' is spelt 'lr' here"),
    "differentiable": ("differentiable", True, "differentiable=True cannot be had"),
    "capturable": ("capturable", True, "capturable=True cannot be had"),
    "a bad schedule": ("lr", lambda update: -1.0, "is -1.0; allowed"),
    "a schedule that fails": ("lr", lambda update: 1 / 0, "fails for update 0"),
    "a schedule of text": ("lr", lambda update: "fast", "fails for update 0"),
}


@pytest.mark.parametrize("steps", [0, 1, 3])
@pytest.mark.parametrize("name", WRITTEN)
def test_bad_values_written_into_a_group(name: str, steps: int) -> None:
    key, value, message = WRITTEN[name]
    optimizer, params = ready(steps=steps)
    group = optimizer.param_groups[0]
    before = dict(group)
    group[key] = value
    for _ in range(2):
        with unchanged(optimizer), pytest.raises(HyperparameterError, match=message):
            optimizer.step()
    group.clear()
    group.update(before)
    optimizer.step()  # as if nothing had been
    undisturbed, others = ready(steps=steps)
    undisturbed.step()
    assert all(map(torch.equal, params, others))
    assert optimizer.journal.to_list() == undisturbed.journal.to_list() == []


def test_a_missing_key() -> None:
    optimizer, _ = ready()
    del optimizer.param_groups[0]["lr"]
    with unchanged(optimizer), pytest.raises(HyperparameterError, match="'lr' is 'gone'; put it"):
        optimizer.step()


@pytest.mark.parametrize(
    "key", ["initial_lr", "max_lr", "min_lr", "max_momentum", "lr_scale", "name", "layer", "swa_lr"]
)
def test_keys_of_others_are_left_alone(key: str) -> None:
    optimizer, _ = ready()
    optimizer.param_groups[0][key] = "mine"
    optimizer.step()
    optimizer.step()
    assert optimizer.param_groups[0][key] == "mine"
    assert optimizer.state_dict()["param_groups"][0][key] == "mine"


def broken_from_3(update: int) -> float:
    return -0.5 if update == 3 else 0.1


@pytest.mark.parametrize("compiled", [True, False])
def test_a_schedule_that_leaves_its_bounds_is_named_with_its_step(compiled: bool) -> None:
    optimizer, _ = ready(steps=3, lr=broken_from_3, compiled=compiled)
    for _ in range(2):
        with (
            unchanged(optimizer),
            pytest.raises(HyperparameterError, match=r"broken_from_3.* at step 3 is -0.5; allowed"),
        ):
            optimizer.step()


def test_a_schedule_that_fails_later_leaves_no_trace() -> None:
    optimizer, _ = ready(steps=3)
    group = optimizer.param_groups[0]
    group["lr"] = broken_from_3
    with unchanged(optimizer), pytest.raises(HyperparameterError, match=r"at step 3 is -0\.5"):
        optimizer.step()
    group["lr"] = 0.1  # what it was
    optimizer.step()
    assert group["lr"] == 0.1
    assert len(optimizer.journal) == 0
    group["lr"], group["eps"] = falling, -1.0  # the one is good, the other is not
    with unchanged(optimizer), pytest.raises(HyperparameterError, match="epsilon"):
        optimizer.step()
    group["lr"], group["eps"] = 0.1, 1e-8
    optimizer.step()
    assert group["lr"] == 0.1
    assert len(optimizer.journal) == 0


ADDED: dict[str, tuple[Any, str]] = {
    "no dict": ([P(ONE)], "a parameter group is a dict, got list"),
    "no params": ({"lr": 0.1}, "needs the key 'params'"),
    "none": ({"params": []}, "empty"),
    "a set": ({"params": {P(ONE)}}, "a set, whose order"),
    "rate": ({"params": [P(ONE)], "lr": -1}, "is -1"),
    "near miss": ({"params": [P(ONE)], "beta": (0.9, 0.99)}, "did you mean 'betas'"),
    "integers": ({"params": [P(ONE.int(), requires_grad=False)]}, "is torch.int32"),
    "names": ({"params": [("a", P(ONE))]}, "with/without names"),
    "differentiable": ({"params": [P(ONE)], "differentiable": True}, "cannot be had"),
    "half bad": ({"params": [P(ONE), "text"]}, "is str; allowed is a tensor"),
}


@pytest.mark.parametrize("name", ADDED)
def test_bad_groups_are_not_added(name: str) -> None:
    group, message = ADDED[name]
    optimizer, params = ready()
    with unchanged(optimizer), pytest.raises((ValueError, TypeError), match=message):
        optimizer.add_param_group(group)
    with unchanged(optimizer), pytest.raises(ValueError, match="given twice, first as 'param_1'"):
        optimizer.add_param_group({"params": [P(ONE), params[1]]})
    optimizer.step()


def test_a_group_that_a_route_splits_is_added_whole_or_not_at_all() -> None:
    model = torch.nn.Linear(2, 2)
    rule = route({"*bias": pellucid.SGD(0.1), "*": Adam()})
    optimizer = pellucid.torch.Optimizer(model, rule)
    assert [controls.label for controls in optimizer.controls] == ["*", "*bias"]
    more = [("more.weight", P(ONE)), ("more.bias", P(ONE.clone()))]
    with unchanged(optimizer), pytest.raises(ValueError, match="beta1"):
        optimizer.add_param_group({"params": more, "lr": 0.3, "beta1": 2.0})
    optimizer.add_param_group({"params": more, "lr": 0.3})
    assert [group["lr"] for group in optimizer.param_groups] == [1e-3, 0.1, 0.3, 0.3]


def _other_dtype(optimizer: Any, params: list[Tensor]) -> None:
    params[1].grad_dtype = None  # else torch itself refuses
    params[1].grad = torch.ones(5, dtype=torch.float32)


def _sparse(optimizer: Any, params: list[Tensor]) -> None:
    place = torch.tensor([[1, 7]])
    values = torch.ones(2, dtype=DTYPE)
    params[1].grad = torch.sparse_coo_tensor(place, values, (5,), check_invariants=False)


def _other_shape(optimizer: Any, params: list[Tensor]) -> None:
    assert params[1].grad is not None
    params[1].grad.data = torch.ones(6, dtype=DTYPE)


def _parameter_of_other_shape(optimizer: Any, params: list[Tensor]) -> None:
    params[1].data = torch.ones(6, dtype=DTYPE)


def _fewer_rows(optimizer: Any, params: list[Tensor]) -> None:
    params[0].data = params[0].data[:2]  # the same pointer


def _no_memory(tensor: Tensor) -> None:
    tensor.untyped_storage().resize_(0)


def _device(optimizer: Any, params: list[Tensor]) -> None:
    other = P(torch.ones(5, dtype=DTYPE, device="meta"))
    other.grad = torch.ones(5, dtype=DTYPE, device="meta")
    optimizer.param_groups[0]["params"].append(other)
    optimizer.state_dict()  # which follows the groups


def _put(key: str, value: Any) -> Callable[[Any, list[Tensor]], None]:
    return lambda optimizer, params: optimizer.state[params[1]].update({key: value})


WIDE = torch.zeros(5, dtype=DTYPE)
AT_A_STEP: dict[str, tuple[Callable[[Any, list[Tensor]], Any], str]] = {
    "gradient's dtype": (_other_dtype, "gradient of 'param_1' .* dtype torch.float32"),
    "gradient's shape": (_other_shape, r"shape \(6,\) .* its parameter has \(5,\)"),
    "gradient sparse": (_sparse, "'param_1' has the index 7 along axis 0; allowed is 0 to 4"),
    "parameter's shape": (_parameter_of_other_shape, r"shape \(5,\) .* parameter has \(6,\)"),
    "fewer rows": (_fewer_rows, r"shape \(4, 4\) .* its parameter has \(2, 4\)"),
    "device": (_device, "is on meta, its parameter on meta; allowed is the CPU"),
    "gradient freed": (lambda _, params: _no_memory(params[1].grad), "gradient .* no memory"),
    "parameter freed": (lambda _, params: _no_memory(params[1].data), "'param_1' has no memory"),
    "slot freed": (
        lambda optimizer, params: _no_memory(optimizer.state[params[1]]["exp_avg"]),
        "slot 'first_moment' of 'param_1' has no memory",
    ),
    "slot's shape": (_put("exp_avg", torch.zeros(6, dtype=DTYPE)), r"has shape \(6,\), its par"),
    "slot's dtype": (_put("exp_avg", WIDE.long()), "is int64; allowed is one of float32"),
    "slot's device": (_put("exp_avg", WIDE.to("meta")), "on meta; allowed is a dense tensor on"),
    "slot sparse": (_put("exp_avg", WIDE.to_sparse()), "allowed is a dense tensor on the CPU"),
    "slot expanded": (_put("exp_avg", WIDE[:1].expand(5)), "expanded: several elements"),
    "slot a number": (_put("exp_avg", 3.0), "slot 'first_moment' of 'param_1' is float"),
    "slot a conjugate": (
        _put("exp_avg", torch.zeros(5, dtype=torch.complex128).conj()),
        "lazily conjugated",
    ),
    "step NaN": (_put("step", float("nan")), "step of 'param_1' is nan; allowed is a count"),
    "step below": (_put("step", torch.tensor(-3, dtype=torch.int64)), "allowed is a count"),
    "step text": (_put("step", "three"), "step of 'param_1' is 'three'"),
    "state a list": (
        lambda optimizer, params: optimizer.state.update({params[1]: [1, 2]}),
        "state of 'param_1' is list; allowed is a dict",
    ),
    "an integer parameter": (
        lambda optimizer, params: optimizer.param_groups[0]["params"].append(ONE.int()),
        "'param_3' is torch.int32",
    ),
    "a parameter twice": (
        lambda optimizer, params: optimizer.param_groups[0]["params"].append(params[0]),
        r"is in param_groups\[0\] and in param_groups\[0\]",
    ),
    "a text in a group": (
        lambda optimizer, params: optimizer.param_groups[0]["params"].append("text"),
        r"param_groups\[0\] holds str",
    ),
    "a group without parameters": (
        lambda optimizer, params: optimizer.param_groups[0].pop("params"),
        r"param_groups\[0\] has no list of parameters",
    ),
}


@pytest.mark.parametrize("compiled", [True, False], ids=["compiled", "lines"])
@pytest.mark.parametrize("name", AT_A_STEP)
def test_bad_input_at_a_step(name: str, compiled: bool) -> None:
    disturb, message = AT_A_STEP[name]
    optimizer, params = ready(compiled=compiled)
    if compiled:
        assert is_quick(optimizer)
    disturb(optimizer, params)
    for _ in range(2):
        with unchanged(optimizer), pytest.raises((ValueError, TypeError), match=message):
            optimizer.step()


@pytest.mark.parametrize("compiled", [True, False], ids=["compiled", "lines"])
def test_a_failed_step_leaves_nothing_behind(compiled: bool) -> None:
    """A parameter's first step fails: it has no state, and later begins as if it had not been."""
    twins = Twins("Adam")
    twins.mine.compiled = compiled
    twins.gradients()
    good = twins.params[0][2].grad
    outside = torch.sparse_coo_tensor([[3]], torch.ones(1, 3, dtype=DTYPE), (3, 3),
                                      check_invariants=False)
    twins.params[0][2].grad = outside
    with unchanged(twins.mine), pytest.raises(ValueError, match="index 3 along axis 0"):
        twins.mine.step()
    assert len(twins.mine.state) == 0
    twins.params[0][2].grad = twins.params[1][2].grad = None  # and now without that parameter
    twins.mine.step()
    twins.other.step()
    twins.compare()
    assert len(twins.mine.state) == 2
    assert good is not None
    twins.step(2)


# -- plain functions ---------------------------------------------------------------------------


def test_transformers_see_pairs_and_may_drop_some() -> None:
    seen: list[Any] = []

    def halve(pairs: list[Any]) -> Any:
        seen.append([param.shape for _, param in pairs])
        return [(grad / 2, param) for grad, param in pairs if param.dim() > 1]

    params, others = parameters(), parameters()
    mine = pellucid.torch.SGD(params, lr=0.1, momentum=0.9, gradient_transformers=[halve])
    other = torch.optim.SGD([others[0], others[2]], lr=0.1, momentum=0.9)
    for update in range(3):
        for param in (*params, *others):
            param.grad = torch.full_like(param, update + 1.0)
        for number in (0, 2):
            others[number].grad /= 2  # type: ignore[operator]
        mine.step()
        other.step()
    for one, two in zip(params, others, strict=True):
        same(one, two)
    assert len(seen) == 3
    assert params[1] not in mine.state


def _raises(pairs: list[Any]) -> Any:
    raise RuntimeError("half-way")


def _raises_half_way(pairs: list[Any]) -> Iterator[Any]:
    yield pairs[0][0] * 2, pairs[0][1]
    raise RuntimeError("half-way")


TRANSFORMERS: dict[str, tuple[Callable[[list[Any]], Any], str]] = {
    "raises": (_raises, "half-way"),
    "raises half-way": (_raises_half_way, "half-way"),
    "no pairs": (lambda pairs: [grad for grad, _ in pairs], r"allowed is a list of \(gradient"),
    "foreign": (lambda pairs: [*pairs, (torch.ones(2), torch.ones(2))], "a foreign array"),
    "doubled": (lambda pairs: [*pairs, pairs[0]], "two pairs for 'param_0'"),
    "shape": (lambda pairs: [(grad[:1], param) for grad, param in pairs], "they must be the same"),
    "dtype": (lambda pairs: [(grad.float(), param) for grad, param in pairs], "must be the same"),
    "copy": (lambda pairs: [(g, p.detach().clone()) for g, p in pairs], "a foreign array"),
}


@pytest.mark.parametrize("compiled", [True, False], ids=["compiled", "lines"])
@pytest.mark.parametrize("steps", [0, 2])
@pytest.mark.parametrize("name", TRANSFORMERS)
def test_transformers_that_fail(name: str, steps: int, compiled: bool) -> None:
    function, message = TRANSFORMERS[name]
    active = [False]

    def sometimes(pairs: list[Any]) -> Any:
        return function(pairs) if active[0] else pairs

    optimizer, _ = ready(steps=steps, gradient_transformers=[sometimes], compiled=compiled)
    active[0] = True
    with unchanged(optimizer), pytest.raises((RuntimeError, ValueError, TypeError), match=message):
        optimizer.step()
    active[0] = False
    optimizer.step()
    assert optimizer.updates == steps + 1


def test_a_transformer_that_changes_a_parameter() -> None:
    def change(pairs: list[Any]) -> Any:
        pairs[0][1].mul_(2)
        return pairs

    optimizer, _ = ready(steps=0, gradient_transformers=[change])
    with pytest.raises(ValueError, match="changed the parameter 'param_0'"):
        optimizer.step()
    assert optimizer.updates == 0
    assert len(optimizer.state) == 0


# -- hyperparameters ---------------------------------------------------------------------------


def test_betas_written_into_the_group_act_at_the_next_step() -> None:
    twins = Twins("Adam")
    twins.step(3)
    for betas in ((0.5, 0.9), [0.6, 0.8], (0.5, 0.8)):
        twins.both(lambda _, optimizer, betas=betas: optimizer.param_groups[0].update(betas=betas))
        twins.step(2)
    assert str(twins.mine.journal).splitlines() == [
        "step 4  group 0/beta1  0.9 → 0.5  (direct write)",
        "step 4  group 0/beta2  0.999 → 0.9  (direct write)",
        "step 6  group 0/beta1  0.5 → 0.6  (direct write)",
        "step 6  group 0/beta2  0.9 → 0.8  (direct write)",
        "step 8  group 0/beta1  0.6 → 0.5  (direct write)",
    ]


def test_a_group_key_that_makes_a_slot_begin_or_end() -> None:
    """Momentum switched on and off, amsgrad switched on, as in torch."""
    twins = Twins("SGD")
    twins.step(2)
    assert all(not twins.mine.state[param] for param in twins.params[0])
    twins.both(lambda _, optimizer: optimizer.param_groups[0].update(momentum=0.9, nesterov=True))
    twins.step(2)
    assert set(first_state(twins.params[0], twins.mine)) == {"momentum_buffer"}
    adam, _ = ready("Adam")
    adam.param_groups[0]["amsgrad"] = True
    adam.step()
    (state,) = {tuple(state) for state in adam.state.values()}
    assert state == ("step", "exp_avg", "exp_avg_sq", "max_exp_avg_sq")


@pytest.mark.parametrize("begun", [0, 2])
def test_a_tensor_as_rate_changed_in_place(begun: int) -> None:
    rates = torch.tensor(0.1, dtype=DTYPE), torch.tensor(0.1, dtype=DTYPE)
    twins = Twins("Adam")
    optimizers = (pellucid.torch.Adam, torch.optim.Adam)
    twins.mine, twins.other = (
        make(params, lr=rate, foreach=False)
        for make, params, rate in zip(optimizers, twins.params, rates, strict=True)
    )
    assert twins.mine.param_groups[0]["lr"] is rates[0]
    twins.step(begun)
    for rate in rates:
        rate.fill_(0.3)
    twins.step(2)
    for rate in rates:
        rate.mul_(0.5)
    twins.step(2)
    for optimizer in (twins.mine, twins.other):
        optimizer.param_groups[0]["lr"] = 0.02
    twins.step()
    assert str(twins.mine.journal).splitlines() == [
        f"step {begun + 1}  group 0/learning_rate  0.1 → 0.3  (direct write)",
        f"step {begun + 3}  group 0/learning_rate  0.3 → 0.15  (direct write)",
        f"step {begun + 5}  group 0/learning_rate  0.15 → 0.02  (direct write)",
    ]


def test_a_schedule_writes_into_a_tensor_rate_and_a_number_replaces_it() -> None:
    optimizer, params = ready("SGD", steps=0, lr=falling)
    for update in range(3):
        optimizer.step()
        assert optimizer.param_groups[0]["lr"] == falling(update)
    optimizer.param_groups[0]["lr"] = 0.5
    before = params[0].detach().clone()
    optimizer.step()
    same(params[0], before - 0.5)
    assert optimizer.controls[0].drivers == {}
    assert [str(change) for change in optimizer.journal] == [
        f"steps 1-3  group 0/learning_rate  0.1 → {falling(2):g}  (schedule falling)",
        f"step 4  group 0/learning_rate  {falling(2):g} → 0.5  (direct write)"
    ]
    optimizer.param_groups[0]["lr"] = falling  # and back: a schedule written into the group
    optimizer.step()
    assert optimizer.param_groups[0]["lr"] == falling(4)
    optimizer.step()
    assert optimizer.param_groups[0]["lr"] == falling(5)


def test_a_ref_written_into_a_group() -> None:
    optimizer, _ = ready("Adam", lr=falling)
    optimizer.param_groups[0]["weight_decay"] = pellucid.ref("learning_rate")
    optimizer.step()
    optimizer.step()
    assert optimizer.param_groups[0]["weight_decay"] == falling(3)


# -- LR schedulers -----------------------------------------------------------------------------

SCHEDULERS: dict[str, Callable[[Any], Any]] = {
    "LambdaLR": lambda o: lr_scheduler.LambdaLR(o, lambda epoch: 0.95**epoch),
    "MultiplicativeLR": lambda o: lr_scheduler.MultiplicativeLR(o, lambda epoch: 0.9),
    "StepLR": lambda o: lr_scheduler.StepLR(o, 3, 0.5),
    "MultiStepLR": lambda o: lr_scheduler.MultiStepLR(o, [2, 5], 0.5),
    "ConstantLR": lambda o: lr_scheduler.ConstantLR(o, 0.5, 4),
    "LinearLR": lambda o: lr_scheduler.LinearLR(o, 0.2, 1.0, 5),
    "ExponentialLR": lambda o: lr_scheduler.ExponentialLR(o, 0.9),
    "PolynomialLR": lambda o: lr_scheduler.PolynomialLR(o, 8, 2.0),
    "CosineAnnealingLR": lambda o: lr_scheduler.CosineAnnealingLR(o, 6, 0.01),
    "CosineAnnealingWarmRestarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 3, 2),
    "CyclicLR": lambda o: lr_scheduler.CyclicLR(o, 0.01, 0.2, 3, cycle_momentum=True),
    "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(o, 0.2, total_steps=12),
    "ReduceLROnPlateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, factor=0.5, patience=1),
    "SequentialLR": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.LinearLR(o, 0.1, 1.0, 3), lr_scheduler.ExponentialLR(o, 0.8)], [3]
    ),
    "ChainedScheduler": lambda o: lr_scheduler.ChainedScheduler(
        [lr_scheduler.LinearLR(o, 0.1, 1.0, 3), lr_scheduler.ExponentialLR(o, 0.8)], o
    ),
    "SWALR": lambda o: SWALR(o, swa_lr=0.01, anneal_epochs=4),
}


def test_all_schedulers_are_here() -> None:
    known = {
        name
        for name, one in vars(lr_scheduler).items()
        if inspect.isclass(one) and issubclass(one, lr_scheduler.LRScheduler)
    }
    assert known - {"LRScheduler", "_LRScheduler"} == set(SCHEDULERS) - {"SWALR"}


@pytest.mark.parametrize("rate", ["number", "tensor"])
@pytest.mark.parametrize("rule", ["Adam", "SGD"])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_schedulers_drive_ours_as_torchs(name: str, rule: str, rate: str) -> None:
    twins = Twins(rule, split=True, **RULES[rule])
    if rate == "tensor":
        for optimizer in (twins.mine, twins.other):
            for group in optimizer.param_groups:
                group["lr"] = torch.tensor(group["lr"], dtype=DTYPE)
    schedulers = [SCHEDULERS[name](optimizer) for optimizer in (twins.mine, twins.other)]
    for update in range(11):
        twins.step()
        for scheduler in schedulers:
            if name == "ReduceLROnPlateau":
                scheduler.step(float(update % 4))
            else:
                scheduler.step()
    rates = [float(rate) for rate in schedulers[0].get_last_lr()]
    assert rates == [float(rate) for rate in schedulers[1].get_last_lr()]
    assert rates == [float(group["lr"]) for group in twins.mine.param_groups]
    changed = [change for change in twins.mine.journal if change.name == "learning_rate"]
    if name == "ReduceLROnPlateau":  # leaves no mark in the groups by which it could be told
        assert {change.source for change in changed} == {"direct write"}
    else:
        assert {change.source for change in changed} == {"framework scheduler"}
        assert len(changed) == 2  # one entry for the run of each group
        assert changed[0].until is not None
    momentum = {change.name for change in twins.mine.journal} - {"learning_rate"}
    cycles = {"Adam": {"beta1"}, "SGD": {"momentum"}}[rule]
    assert momentum == (cycles if name in ("OneCycleLR", "CyclicLR") else set())


def test_a_scheduler_is_saved_and_goes_on() -> None:
    twins = Twins("SGD", momentum=0.9)
    schedulers = [lr_scheduler.OneCycleLR(o, 0.3, total_steps=9) for o in (twins.mine, twins.other)]
    for _ in range(4):
        twins.step()
        for scheduler in schedulers:
            scheduler.step()
    files = [
        (o.state_dict(), s.state_dict())
        for o, s in zip((twins.mine, twins.other), schedulers, strict=True)
    ]
    fresh = Twins("SGD", momentum=0.9)
    schedulers = [lr_scheduler.OneCycleLR(o, 0.3, total_steps=9) for o in (fresh.mine, fresh.other)]
    for file, optimizer, scheduler in zip(
        files, (fresh.mine, fresh.other), schedulers, strict=True
    ):
        optimizer.load_state_dict(file[0])
        scheduler.load_state_dict(file[1])
    for _ in range(4):
        fresh.step()
        for scheduler in schedulers:
            scheduler.step()


def test_direct_writes_beside_a_scheduler() -> None:
    optimizer, _ = ready("SGD", steps=1, momentum=0.5)
    lr_scheduler.StepLR(optimizer, 100)
    optimizer.param_groups[0]["momentum"] = 0.7
    optimizer.step()
    assert [(c.name, c.source) for c in optimizer.journal] == [("momentum", "direct write")]


# -- closures, extra inputs, hooks -------------------------------------------------------------


def test_closures() -> None:
    twins = Twins("Adam")
    calls: list[bool] = []

    def closure(params: list[Tensor], optimizer: Any) -> Tensor:
        calls.append(torch.is_grad_enabled())
        optimizer.zero_grad()
        loss = torch.stack([(param**2).sum() for param in params]).sum()
        loss.backward()
        return loss

    for _ in range(4):  # such as a loop around LBFGS would call it
        losses = [
            optimizer.step(lambda p=params, o=optimizer: closure(p, o))
            for params, optimizer in zip(twins.params, (twins.mine, twins.other), strict=True)
        ]
        assert isinstance(losses[0], Tensor)
        same(*losses)
        twins.compare()
    assert calls == [True] * 8
    assert twins.mine.step() is None


def test_a_closure_that_fails() -> None:
    optimizer, _ = ready()

    def closure() -> float:
        raise RuntimeError("no data left")

    with unchanged(optimizer), pytest.raises(RuntimeError, match="no data left"):
        optimizer.step(closure)


class Scaled(Rule):
    """A step that is scaled by the loss."""

    learning_rate = hyper(0.1, minimum=0)
    loss = extra("scalar")
    hint = extra("param")

    def update(self, param: Any, grad: Any) -> Any:
        return param - self.learning_rate * self.loss * grad * self.hint


@pytest.mark.parametrize("compiled", [True, False])
def test_extra_inputs(compiled: bool) -> None:
    weight, idle = P(torch.tensor([2.0, 3.0], dtype=DTYPE)), P(torch.ones(1, dtype=DTYPE))
    optimizer = pellucid.torch.Optimizer([weight, idle], Scaled(), compiled=compiled)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = weight.sum()
        loss.backward()
        return loss

    hint = torch.tensor([1.0, 2.0], dtype=DTYPE)
    wanted = weight.detach().clone()
    for _ in range(3):
        wanted = wanted - 0.1 * wanted.sum() * hint
        loss = optimizer.step(closure, hint={"param_0": hint})
        assert loss.requires_grad
        same(weight, wanted)
    bad: list[tuple[dict[str, Any], str]] = [
        ({"hint": {"param_0": hint}}, "needs loss="),
        ({"loss": 1.0}, "needs hint="),
        ({"loss": 1.0, "hint": {"param_0": hint}, "hessian": 1.0}, "no input 'hessian'"),
        ({"loss": "much", "hint": {"param_0": hint}}, "loss is 'much'; allowed is a number"),
        ({"loss": 1.0, "hint": {"weight": hint}}, "no parameter of that name"),
        ({"loss": 1.0, "hint": [hint]}, "1 hints for 2 parameters"),
        ({"loss": 1.0, "hint": {}}, "param_0"),
        ({"loss": 1.0, "hint": {"param_0": hint[:1]}}, "they must be the same"),
        ({"loss": 1.0, "hint": {"param_0": 1.0}}, "is float; allowed is a tensor"),
    ]
    for given, message in bad:
        with unchanged(optimizer), pytest.raises((TypeError, ValueError), match=message):
            optimizer.step(**given)
    plain, _ = ready()
    with unchanged(plain), pytest.raises(TypeError, match=r"no input 'loss' .* none"):
        plain.step(loss=1.0)


def test_step_hooks_run_once_each() -> None:
    for make in (
        lambda p: pellucid.torch.SGD(p, lr=0.1),
        lambda p: pellucid.torch.Optimizer(p, pellucid.SGD(0.1)),
        lambda p: pellucid.torch.Lion(p),
    ):
        params = parameters()
        optimizer = make(params)
        seen: list[Any] = []

        def note(what: str, seen: list[Any] = seen) -> Callable[..., None]:
            return lambda one, args, kwargs: seen.append((what, one.updates))

        handle = optimizer.register_step_pre_hook(note("before"))
        optimizer.register_step_post_hook(note("after"))
        step_with_ones(optimizer, params)
        step_with_ones(optimizer, params)
        handle.remove()
        step_with_ones(optimizer, params)
        assert seen == [("before", 0), ("after", 1), ("before", 1), ("after", 2), ("after", 3)]


def test_a_pre_hook_may_give_the_arguments() -> None:
    optimizer, _ = ready()
    closure = {"closure": lambda: 7.0}
    optimizer.register_step_pre_hook(lambda *_: ((optimizer,), closure))
    assert optimizer.step() == 7.0


def test_state_dict_hooks() -> None:
    optimizer, _ = ready()
    events: list[str] = []
    optimizer.register_state_dict_pre_hook(lambda _: events.append("before saving"))

    def after(_: Any, saved: dict[str, Any]) -> dict[str, Any]:
        events.append("after saving")
        return {**saved, "mine": 1}

    optimizer.register_state_dict_post_hook(after)
    saved = optimizer.state_dict()
    assert saved["mine"] == 1
    assert events == ["before saving", "after saving"]

    other, _ = ready(steps=0)
    other.register_load_state_dict_post_hook(
        lambda o: events.append(f"after loading {o.updates} {o.controls[0].store['lr']}")
    )
    adapt = other.register_load_state_dict_pre_hook(
        lambda _, loaded: {**loaded, "param_groups": loaded["param_groups"][:1]}
    )
    twice = {**saved, "param_groups": saved["param_groups"] * 2}
    other.load_state_dict(twice)  # fits only after the hook
    assert events[2:] == ["after loading 2 0.1"]
    assert len(twice["param_groups"]) == 2
    adapt.remove()
    with unchanged(other), pytest.raises(ValueError, match="different number of parameter groups"):
        other.load_state_dict(twice)
    other.load_state_dict(saved)
    other.step()
    optimizer.step()
    assert events[3:] == ["after loading 2 0.1"]


# -- saving and loading ------------------------------------------------------------------------


def saved_and_loaded(value: Any, **keywords: Any) -> Any:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    buffer.seek(0)
    return torch.load(buffer, **keywords)


@pytest.mark.parametrize("rule", ["Adam", "SGD", "Rprop", "ASGD", "NAdam", "Lion", "FTRL"])
def test_saved_without_pickles_it_goes_on_bit_for_bit(rule: str) -> None:
    schedule = Cosine(0.1, 20)
    optimizer, params = ready(rule, steps=3, lr=schedule)
    optimizer.param_groups[0]["maximize"] = True
    optimizer.step()
    saved = saved_and_loaded(optimizer.state_dict(), weights_only=True)
    other, others = ready(rule, steps=0, lr=0.7)
    for one, two in zip(params, others, strict=True):
        two.data.copy_(one)
    other.load_state_dict(saved)
    assert other.updates == 4
    assert other.journal.to_list() == [
        *optimizer.journal.to_list(),
        *(change for change in other.journal.to_list() if change["source"] == "load"),
    ]
    for one, two in zip(params, others, strict=True):
        for key, value in optimizer.state[one].items():
            assert torch.equal(value, other.state[two][key]), key
    for _ in range(3):
        step_with_ones(optimizer, params)
        step_with_ones(other, others)
        assert all(map(torch.equal, params, others))
    assert other.param_groups[0]["lr"] == optimizer.param_groups[0]["lr"] == schedule(6)


def test_loading_keeps_the_journal_and_notes_the_change() -> None:
    optimizer, _ = ready("Adam", lr=0.2)
    other = torch.optim.Adam(parameters(seed=1), lr=0.3, betas=(0.5, 0.9))
    optimizer.param_groups[0]["lr"] = 0.25
    optimizer.step()
    optimizer.load_state_dict(other.state_dict())
    assert str(optimizer.journal).splitlines() == [
        "step 3  group 0/learning_rate  0.2 → 0.25  (direct write)  abandoned",
        "step 1  group 0/learning_rate  0.25 → 0.3  (load)",
        "step 1  group 0/beta1  0.9 → 0.5  (load)",
        "step 1  group 0/beta2  0.999 → 0.9  (load)",
    ]
    assert optimizer.updates == 0
    assert optimizer.state == {}


def test_a_step_that_is_no_tensor_is_loaded() -> None:
    """As files of old releases have it."""
    twins = Twins("Adam")
    twins.step(3)
    saved = copy.deepcopy(twins.other.state_dict())
    for state, form in zip(saved["state"].values(), (int, float, torch.Tensor.long), strict=True):
        state["step"] = form(state["step"])
    twins.mine.load_state_dict(saved)
    twins.step(2)
    for state in twins.mine.state.values():
        assert state["step"].dtype == torch.float32
        assert next(iter(state)) == "step"


def test_keys_of_others_in_the_state_are_saved_and_loaded() -> None:
    optimizer, params = ready()
    optimizer.state[params[0]]["mine"] = 3
    other, others = ready(steps=0)
    other.load_state_dict(optimizer.state_dict())
    assert other.state[others[0]]["mine"] == 3
    other.step()
    assert other.state[others[0]]["mine"] == 3


def _saved(rule: str = "Adam") -> Any:
    return copy.deepcopy(ready(rule)[0].state_dict())


def _changed(change: Callable[[Any], Any]) -> Callable[[], Any]:
    def make() -> Any:
        saved = _saved()
        change(saved)
        return saved

    return make


FILES: dict[str, tuple[Callable[[], Any], str]] = {
    "no state dict": (lambda: {"weight": torch.ones(1)}, "no optimizer's state dict"),
    "no groups": (_changed(lambda s: s["param_groups"].clear()), "groups: 0 in the file, 1 here"),
    "groups": (_changed(lambda s: s["param_groups"].append({"params": []})), "2 in the file"),
    "no params": (_changed(lambda s: s["param_groups"][0].pop("params")), "no 'params' in its"),
    "params": (
        _changed(lambda s: s["param_groups"][0]["params"].pop()),
        "doesn't match the size .* group 0 has 2 parameters in the file, 3 here",
    ),
    "order": (_changed(lambda s: s["param_groups"][0]["params"].reverse()), r"shape \(4, 4\) for"),
    "shape": (
        _changed(lambda s: s["state"][1].update(exp_avg=torch.ones(6))),
        r"'exp_avg' of shape \(6,\) for parameter 1 \('param_1', shape \(5,\)\); expected is \(5,",
    ),
    "number": (_changed(lambda s: s["state"][1].update(exp_avg=3.0)), "of shape float"),
    "complex": (
        _changed(lambda s: s["state"][1].update(exp_avg=torch.ones(5, dtype=torch.complex64))),
        "of dtype torch.complex64 .* which is real",
    ),
    "missing": (_changed(lambda s: s["state"][1].pop("exp_avg_sq")), "has no 'exp_avg_sq' for par"),
    "no step": (_changed(lambda s: s["state"][1].pop("step")), "has no 'step' for parameter 1"),
    "step NaN": (
        _changed(lambda s: s["state"][1].update(step=torch.tensor(float("nan")))),
        r"the step tensor\(nan\) for parameter 1",
    ),
    "no dict": (_changed(lambda s: s["state"].update({1: [1]})), "has list for parameter 1"),
    "rule": (lambda: _saved("SGD") | {"state": {0: {"momentum_buffer": torch.ones(4, 4)}}},
             "a slot 'momentum_buffer' .* has exp_avg, exp_avg_sq"),
    "Adamax": (lambda: _saved("Adamax"), "a slot 'exp_inf' .* same rule"),
    "Lion": (lambda: _saved("Lion"), "has no 'exp_avg_sq' .* only exp_avg"),
    "rate": (_changed(lambda s: s["param_groups"][0].update(lr=-1)), r"'lr'\) is -1"),
    "betas": (_changed(lambda s: s["param_groups"][0].update(betas=(0.9,))), "allowed are 2 num"),
    "near miss": (_changed(lambda s: s["param_groups"][0].update(weight_decai=1)), "did you mean"),
    "own part": (_changed(lambda s: s["pellucid"].pop("seed")), "damaged part 'pellucid'"),
    "own journal": (_changed(lambda s: s["pellucid"].update(journal=[{}])), "damaged part"),
    "own schedules": (_changed(lambda s: s["pellucid"].update(schedules=[])), "schedules for 0"),
    "own schedule": (
        _changed(lambda s: s["pellucid"].update(schedules=[{"momentum": {"ref": "lr"}}])),
        "a schedule for 'momentum', which is no",
    ),
}  # fmt: skip


@pytest.mark.parametrize("steps", [0, 2])
@pytest.mark.parametrize("name", FILES)
def test_bad_files(name: str, steps: int) -> None:
    make, message = FILES[name]
    optimizer, _ = ready(steps=steps)
    with unchanged(optimizer), pytest.raises(ValueError, match=message):
        optimizer.load_state_dict(make())
    optimizer.step()
    assert optimizer.updates == steps + 1


def test_a_schedule_in_a_file_whose_module_is_not_imported() -> None:
    saved = _saved()
    saved["pellucid"]["schedules"] = [{"learning_rate": {"function": "not_imported:falling"}}]
    optimizer, _ = ready()
    with unchanged(optimizer), pytest.raises(LookupError, match="import not_imported first"):
        optimizer.load_state_dict(saved)


def test_a_gpus_file_is_loaded() -> None:
    saved = _saved()
    saved["param_groups"][0].update(capturable=True, fused=True)
    optimizer, _ = ready(steps=0)
    optimizer.load_state_dict(saved)
    assert optimizer.param_groups[0]["capturable"] is False
    optimizer.step()


def test_a_file_without_a_key_of_ours_takes_our_value() -> None:
    saved = _saved()
    del saved["param_groups"][0]["amsgrad"]
    optimizer, _ = ready(steps=0)
    optimizer.load_state_dict(saved)
    assert optimizer.param_groups[0]["amsgrad"] is False
    optimizer.step()


# -- copies ------------------------------------------------------------------------------------


def trained(copied: Any, original: Any) -> None:
    """Both go on as one would, and apart."""
    for _ in range(3):
        for model, optimizer in (copied, original):
            optimizer.zero_grad()
            model(torch.ones(2, 3)).square().sum().backward()
            optimizer.step()
    for one, two in zip(copied[0].parameters(), original[0].parameters(), strict=True):
        assert torch.equal(one, two)
        assert one.data_ptr() != two.data_ptr()


def model_and_optimizer(**keywords: Any) -> tuple[torch.nn.Module, Any]:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1))
    rule = chain(clip_by_global_norm(1.0), Lion(falling, weight_decay=0.1))
    optimizer = pellucid.torch.Optimizer(
        model, rule, groups={"*.bias": {"weight_decay": 0.0}}, **keywords
    )
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.ones(2, 3)).square().sum().backward()
        optimizer.step()
    optimizer.param_groups[1]["weight_decay"] = 0.25
    return model, optimizer


COPIES: dict[str, Callable[[Any], Any]] = {
    "deep copy": copy.deepcopy,
    "pickle": lambda pair: pickle.loads(pickle.dumps(pair)),
    "torch.save": lambda pair: saved_and_loaded(pair, weights_only=False),
}


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("how", COPIES)
def test_copies_of_model_and_optimizer(how: str, compiled: bool) -> None:
    original = model_and_optimizer(compiled=compiled)
    copied = COPIES[how](original)
    model, optimizer = copied
    assert type(optimizer) is type(original[1])
    assert repr(optimizer) == repr(original[1])
    params = list(model.parameters())
    assert all(any(entry.param is p for p in params) for entry in optimizer.entries)
    assert optimizer.compiled is compiled
    assert optimizer.updates == 3
    trained(copied, original)
    assert optimizer.journal.to_list() == original[1].journal.to_list()
    assert [change.source for change in optimizer.journal].count("direct write") == 1
    optimizer.param_groups[0]["weight_decay"] = 0.5
    assert original[1].param_groups[0]["weight_decay"] == 0.1
    optimizer.add_param_group({"params": [("more", P(torch.ones(3)))]})
    assert len(original[1].param_groups) == 2


def test_named_classes_are_pickled_and_copied_with_an_empty_group() -> None:
    optimizer, params = ready("Adam", lr=falling)
    optimizer.add_param_group({"params": [P(torch.ones(2))], "lr": 0.3})
    optimizer.param_groups[1]["params"].clear()
    for make in (copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))):
        other = make(optimizer)
        assert type(other) is pellucid.torch.Adam
        others = other.param_groups[0]["params"]
        for one, two in zip(params, others, strict=True):
            two.grad = one.grad
        other.step()
        assert other.param_groups[0]["lr"] == falling(2)
        assert other.updates == 3
        assert len(other.controls) == 2
    assert optimizer.updates == 2


def test_schedulers_work_on_a_copy() -> None:
    optimizer, _ = ready("SGD")
    other = copy.deepcopy(optimizer)
    scheduler = lr_scheduler.StepLR(other, 1, 0.5)
    step_with_ones(other, other.param_groups[0]["params"])
    scheduler.step()
    assert (other.param_groups[0]["lr"], optimizer.param_groups[0]["lr"]) == (0.05, 0.1)


# -- among torch's other tools -----------------------------------------------------------------


def test_a_compiled_model() -> None:
    torch.manual_seed(0)
    models = [torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1))]
    models.append(copy.deepcopy(models[0]))
    compiled = torch.compile(models[0], backend="eager")
    mine = pellucid.torch.AdamW(compiled, lr=0.1)
    other = torch.optim.AdamW(models[1].parameters(), lr=0.1)
    assert mine.param_groups[0]["param_names"][0] == "_orig_mod.0.weight"
    for _ in range(5):
        for model, optimizer in ((compiled, mine), (models[1], other)):
            optimizer.zero_grad()
            model(torch.ones(2, 3)).square().sum().backward()
            optimizer.step()
    for one, two in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-6)


def test_gradient_scaler() -> None:
    twins = Twins("Adam")
    scalers = [torch.amp.GradScaler("cpu", init_scale=1024.0) for _ in range(2)]
    for update in range(5):
        for params, optimizer, scaler in zip(
            twins.params, (twins.mine, twins.other), scalers, strict=True
        ):
            optimizer.zero_grad()
            loss = torch.stack([(param**2).sum() for param in params]).sum()
            scaler.scale(loss).backward()
            if update == 2:
                params[0].grad.fill_(float("inf"))  # type: ignore[union-attr]
            scaler.step(optimizer)
            scaler.update()
        twins.compare()
    assert twins.mine.updates == 4
    assert scalers[0].get_scale() == scalers[1].get_scale() == 512.0


def test_clipping_and_averaged_models_beside_it() -> None:
    twins = Twins("SGD", momentum=0.9)
    for _ in range(3):
        twins.gradients()
        for params in twins.params:
            torch.nn.utils.clip_grad_norm_(params, 0.5)
        twins.mine.step()
        twins.other.step()
        twins.compare()


def test_several_optimizers_share_kernels_but_no_state() -> None:
    one, two = Twins("Adam"), Twins("Adam", weight_decay=0.3)
    for _ in range(4):
        one.step()
        two.step()


def test_repr_and_defaults() -> None:
    optimizer, _ = ready("SGD")
    assert re.match(r"pellucid.torch.SGD of SGD\(learning_rate=0.1\)\nSGD \(\n", repr(optimizer))
    assert optimizer.defaults["lr"] == 0.1
    assert isinstance(optimizer, torch.optim.Optimizer)
    assert isinstance(optimizer.state, defaultdict)


def test_switches_between_torchs_implementations_are_accepted() -> None:
    optimizer, params = ready("Adam", foreach=True, fused=None, capturable=False)
    assert optimizer.param_groups[0]["foreach"] is True
    optimizer.zero_grad(set_to_none=False)
    assert all(torch.equal(param.grad, torch.zeros_like(param)) for param in params)


def test_handles_are_used_with_this_release_of_torch() -> None:
    """Else every step would look at each tensor in Python: right, but slow, and silently so."""
    from pellucid.torch.handles import handles_of
    from pellucid.torch.objects import Objects

    with_gradient = torch.nn.Parameter(torch.randn(2, 3))
    with_gradient.grad = torch.randn(2, 3)
    idle = torch.nn.Parameter(torch.zeros(2))
    handles = handles_of([with_gradient], [torch.randn(3), torch.zeros(())], [idle])
    assert handles is not None
    assert handles.hold()
    assert handles.gradients_at.tolist() == [with_gradient.grad.data_ptr()]
    version = with_gradient._version
    handles.bump()
    assert with_gradient._version == version + 1
    idle.grad = torch.zeros(2)
    assert not handles.hold()
    idle.grad = None
    assert handles.hold()
    for other in (None, torch.randn(3, 2).t(), torch._neg_view(torch.randn(2, 3))):
        with_gradient.grad = other
        assert not handles.hold()
    with_gradient.grad = torch.randn(2, 3)
    assert handles.hold()
    with_gradient.data = torch.randn(3, 2).t()
    assert not handles.hold()
    one = torch.ones(3)
    views: list[Callable[[Tensor], Tensor]] = [  # all at the same address
        lambda tensor: tensor.view(torch.int32),
        lambda tensor: tensor[:2],
        lambda tensor: tensor.view(1, 3),
        lambda tensor: tensor.as_strided((3,), (0,)),
    ]
    for view in views:
        handles = handles_of([], [one, torch.zeros(2)], [])
        assert handles is not None
        kept, one.data = one.data, view(one.data)
        assert not handles.hold()
        one.data = kept
        assert handles.hold()
    assert Objects([], []).python is not None


def test_gradients_stay_in_memory_during_a_step() -> None:
    """Another thread may set them to None while the kernel reads them."""
    from pellucid.torch.handles import handles_of

    param = torch.nn.Parameter(torch.zeros(1000))
    param.grad = torch.ones(1000)
    handles = handles_of([param], [], [])
    assert handles is not None
    count = param.grad._use_count()
    assert handles.hold()
    assert param.grad._use_count() == count + 1
    assert handles.hold()
    assert param.grad._use_count() == count + 1
    handles.release()
    assert param.grad._use_count() == count
    param.grad = None
    assert not handles.hold()
    assert not handles.keeps
