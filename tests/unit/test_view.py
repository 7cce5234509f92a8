"""The view, over every optimizer of ours: each test is written once and runs on all of them."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from typing import Any

import numpy
import pytest
import torch
from rich.console import Console

import pellucid
import pellucid.numpy
import pellucid.torch
from pellucid import SGD, Adam, AdamW, HyperparameterError, Rule, chain, hyper, ref, route, slot
from pellucid.access import UnknownNameError, View
from pellucid.schedules import Cosine, Linear
from pellucid.transforms import average_weights, decay_weights

SHAPES = {
    "encoder.weight": (4, 3),
    "encoder.bias": (4,),
    "head.weight": (2, 4),
    "head.bias": (2,),
}
NATIVE = {
    "numpy": {"learning_rate": "learning_rate", "first_moment": "first_moment"},
    "torch": {"learning_rate": "lr", "first_moment": "exp_avg"},
}


class Training:
    """An optimizer of one framework at work on four small parameters."""

    def __init__(self, framework: str, stage: Any, **keywords: Any) -> None:
        self.framework = framework
        random = numpy.random.default_rng(0)
        initial = {name: random.normal(size=shape) for name, shape in SHAPES.items()}
        self.arrays: dict[str, Any] = {}
        if framework == "numpy":
            self.arrays = {name: array.astype("float32") for name, array in initial.items()}
            self.optimizer: Any = pellucid.numpy.Optimizer(self.arrays, stage, **keywords)
        else:
            for name, array in initial.items():
                self.arrays[name] = torch.tensor(array, dtype=torch.float32, requires_grad=True)
            named = list(self.arrays.items())
            self.optimizer = pellucid.torch.Optimizer(named, stage, **keywords)
        self.view: View = pellucid.view(self.optimizer)
        self.native = NATIVE[framework]

    def step(self, times: int = 1) -> None:
        for _ in range(times):
            random = numpy.random.default_rng(self.optimizer.updates + 1)
            grads = {n: random.normal(size=s).astype("float32") for n, s in SHAPES.items()}
            if self.framework == "numpy":
                self.optimizer.step(grads)
                continue
            for name, grad in grads.items():
                self.arrays[name].grad = torch.from_numpy(grad)
            self.optimizer.step()

    def store(self, group: int = 0) -> dict[str, Any]:
        """The framework's own dict of a group's hyperparameters."""
        found: dict[str, Any] = self.optimizer.param_groups[group]
        return found

    def result(self) -> dict[str, Any]:
        return {name: _copied(array) for name, array in self.arrays.items()}

    def snapshot(self) -> Any:
        """Everything that an error must leave as it is."""
        groups = [
            {key: value for key, value in group.items() if key != "params"}
            for group in self.optimizer.param_groups
        ]
        drivers = [dict(controls.drivers) for controls in self.optimizer.controls]
        state = {path: _copied(array).tolist() for path, array in self.view.state.items()}
        return groups, drivers, state, self.view.journal.to_list()


def _copied(array: Any) -> Any:
    return array.detach().numpy().copy() if hasattr(array, "detach") else numpy.array(array)


def assert_same(left: Mapping[str, Any], right: Mapping[str, Any]) -> None:
    for name, array in left.items():
        numpy.testing.assert_array_equal(array, right[name], err_msg=name, strict=True)


Make = Callable[..., Training]


@pytest.fixture(params=["numpy", "torch"])
def make(request: pytest.FixtureRequest) -> Make:
    return lambda stage, **keywords: Training(request.param, stage, **keywords)


# -- reading -----------------------------------------------------------------------------------


def test_reads_by_every_kind_of_path(make: Make) -> None:
    training = make(Adam(0.1, beta1=0.8), groups={"*.bias": {"weight_decay": 0.5}})
    view = training.view
    native = training.native["learning_rate"]
    paths = ["", "Optimizer/", "Adam/", "group 0/", "*.bias/", "encoder.*/", "head.weight/"]
    for left in paths:
        assert view[left + "learning_rate"] == view[left + native] == 0.1
    assert view.groups == ("group 0", "*.bias")
    assert view["amsgrad"] is False
    assert view["weight_decay"] == {"group 0/weight_decay": 0.0, "*.bias/weight_decay": 0.5}
    assert view["*.bias/weight_decay"] == view["head.bias/weight_decay"] == 0.5
    assert view["*.weight/weight_decay"] == 0.0
    assert view["encoder.*/weight_decay"] == view["weight_decay"]


def test_groups_of_one_name_win_over_patterns(make: Make) -> None:
    view = make(Adam(), groups={"*.bias": {"beta1": 0.5}, "*": {}}).view
    assert view.groups == ("*", "*.bias")
    assert view["*/beta1"] == 0.9  # the group's name, not all parameters


def test_routes_give_and_take_where_the_name_exists(make: Make) -> None:
    training = make(route({"*.bias": Adam(0.1), "*": SGD(0.2, momentum=0.9)}))
    view = training.view
    assert view["learning_rate"] == {"*/learning_rate": 0.2, "*.bias/learning_rate": 0.1}
    assert view["Adam/learning_rate"] == 0.1
    assert view["momentum"] == view["SGD/momentum"] == 0.9
    view["SGD/learning_rate"] = 0.3
    view["beta1"] = 0.5
    assert view["learning_rate"] == {"*/learning_rate": 0.3, "*.bias/learning_rate": 0.1}
    assert [change.group for change in view.journal] == ["*", "*.bias"]
    with pytest.raises(UnknownNameError, match=r"no hyperparameter or option 'beta1' in \*"):
        view["SGD/beta1"]


def test_stages_have_full_names(make: Make) -> None:
    training = make(chain(SGD(0.1), decay_weights(0.01), average_weights(0.9)))
    view = training.view
    assert view["decay_weights.weight"] == 0.01
    view["learning_rate"] = 0.05
    assert view["decay_weights.times"] == 0.05  # a ref follows at once
    assert view.schedule("decay_weights.times") == ref("learning_rate")
    view["average_weights.decay"] = 0.0
    training.step()
    state = view.state["head.bias/average_weights.average"]
    numpy.testing.assert_array_equal(_copied(state), training.result()["head.bias"])


def test_native_tuples_on_torch() -> None:
    training = Training("torch", Adam(), groups={"*.bias": {"beta1": 0.5}})
    view = training.view
    assert view["group 0/betas"] == (0.9, 0.999)
    assert view["betas"] == {"group 0/betas": (0.9, 0.999), "*.bias/betas": (0.5, 0.999)}
    assert view["*.bias/betas[0]"] == 0.5
    view["betas"] = (0.7, 0.8)
    assert [group["betas"] for group in training.optimizer.param_groups] == [(0.7, 0.8)] * 2
    assert view["beta1"] == 0.7
    for wrong in (0.7, (0.7,), (0.7, 1.0)):
        before = training.snapshot()
        with pytest.raises(HyperparameterError, match="beta"):
            view["betas"] = wrong
        assert training.snapshot() == before
    assert view.schedule("betas") is None
    view["beta2"] = Linear(0.9, 0.99, 10)
    assert view.schedule("*.bias/betas")["*.bias/beta2"] == Linear(0.9, 0.99, 10)


def test_variables_and_iteration(make: Make) -> None:
    training = make(SGD(0.1, momentum=0.9))
    view = training.view
    assert list(view)[:2] == ["Optimizer/learning_rate", "Optimizer/momentum"]
    assert all(path in view for path in view)
    assert "nonsense" not in view
    assert set(view.variables()) == {*view, *(f"{name}/velocity" for name in SHAPES)}
    training.step()
    variables = view.variables()
    assert variables["Optimizer/momentum"] == 0.9
    assert variables["head.bias/velocity"] is view.state["head.bias/velocity"]
    grouped = make(SGD(0.1), groups={"*.bias": {}}).view
    assert {path.rpartition("/")[0] for path in grouped} == {"group 0", "*.bias"}


def test_a_callable_written_to_the_group_shows_before_a_step(make: Make) -> None:
    training = make(SGD(0.1))
    schedule = Linear(0.5, 0.1, 4)
    training.store()[training.native["learning_rate"]] = schedule
    assert training.view["learning_rate"] == 0.5
    assert training.view.schedule("learning_rate") is schedule
    training.store()["weight_decay"] = ref("learning_rate")
    assert training.view["weight_decay"] == 0.5
    assert training.view.schedule("weight_decay") == ref("learning_rate")


# -- writing -----------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [0, 3])
@pytest.mark.parametrize("compiled", [True, False])
def test_a_write_acts_from_the_next_step(make: Make, steps: int, compiled: bool) -> None:
    training = make(AdamW(0.1), compiled=compiled)
    twin = make(AdamW(lambda done: 0.1 if done < steps else 0.02), compiled=compiled)
    training.step(steps)
    training.view[training.native["learning_rate"]] = 0.02
    training.step(2)
    twin.step(steps + 2)
    assert_same(training.result(), twin.result())
    assert training.store()[training.native["learning_rate"]] == 0.02


def test_a_write_to_a_group_is_as_constructed_so(make: Make) -> None:
    training = make(AdamW(0.1), groups={"*.bias": {}})
    twin = make(AdamW(0.1), groups={"*.bias": {"weight_decay": 0.0, "learning_rate": 0.3}})
    training.view["*.bias/weight_decay"] = 0
    training.view["*.bias/learning_rate"] = 0.3
    training.step(2)
    twin.step(2)
    assert_same(training.result(), twin.result())


def test_an_option_changes_between_steps(make: Make) -> None:
    training, twin = make(Adam(0.1)), make(Adam(0.1, amsgrad=True))
    training.view["amsgrad"] = True
    training.step(3)
    twin.step(3)
    assert_same(training.result(), twin.result())
    assert "head.bias/max_second_moment" in training.view.state
    training.view["amsgrad"] = False
    training.step()
    assert [change.new for change in training.view.journal] == [True, False]


def test_the_journal_says_what_when_and_why(make: Make) -> None:
    training = make(SGD(0.1), groups={"*.bias": {}})
    training.step(2)
    training.view.set("*.bias/learning_rate", 0.05, reason="overfits")
    (change,) = training.view.journal
    assert training.view.journal is training.optimizer.journal
    assert (change.step, change.group, change.name) == (3, "*.bias", "learning_rate")
    assert (change.old, change.new) == (0.1, 0.05)
    assert (change.source, change.reason) == ("view", "overfits")
    training.step()
    assert len(training.view.journal) == 1


def test_a_direct_write_is_found_and_recorded(make: Make) -> None:
    training, twin = make(SGD(0.1)), make(SGD(0.25))
    training.store()[training.native["learning_rate"]] = 0.25
    assert training.view["learning_rate"] == 0.25
    training.step()
    twin.step()
    assert_same(training.result(), twin.result())
    (change,) = training.view.journal
    assert (change.step, change.old, change.new, change.source) == (1, 0.1, 0.25, "direct write")


def test_a_schedule_and_then_a_number(make: Make) -> None:
    training = make(SGD(0.1))
    schedule = Cosine(0.4, 10)
    training.view["learning_rate"] = schedule
    assert training.view["learning_rate"] == 0.4
    assert training.view.schedule("learning_rate") is schedule
    training.step(3)
    twin = make(SGD(schedule))
    twin.step(3)
    assert_same(training.result(), twin.result())
    assert training.view["learning_rate"] == schedule(2)
    training.view.set("learning_rate", 0.01, reason="enough")
    assert training.view.schedule("learning_rate") is None
    training.step(2)
    assert training.view["learning_rate"] == 0.01
    first, second = training.view.journal
    assert (first.old, first.new, first.until) == (0.1, schedule(2), 3)
    assert first.schedule == {"schedule": schedule.get_config()}
    assert (second.old, second.new, second.step) == (schedule(2), 0.01, 4)


def test_a_direct_number_replaces_a_schedule(make: Make) -> None:
    training = make(SGD(Linear(0.4, 0.1, 10)))
    training.store()[training.native["learning_rate"]] = 0.25
    assert training.view["learning_rate"] == 0.25
    assert training.view.schedule("learning_rate") is None
    training.step(2)
    assert training.view["learning_rate"] == 0.25


def test_a_ref_may_be_set_but_not_to_a_ref(make: Make) -> None:
    training = make(Adam(0.1))
    view = training.view
    view["weight_decay"] = ref("learning_rate")
    assert view["weight_decay"] == 0.1
    for path, value in [
        ("weight_decay", ref("weight_decay")),
        ("epsilon", ref("weight_decay")),  # a ref to a ref
        ("learning_rate", ref("epsilon")),  # weight_decay would become one
        ("epsilon", ref("nothing")),
    ]:
        before = training.snapshot()
        with pytest.raises(ValueError, match="ref"):
            view[path] = value
        assert training.snapshot() == before
    view["learning_rate"] = 0.2
    training.step()
    assert training.store()["weight_decay"] == 0.2


@pytest.mark.parametrize(
    "value",
    [float("nan"), float("inf"), -1.0, 1e400, True, "0.1", None, int, lambda step: 1 / 0,
     lambda step: float("nan"), lambda step: 0.1 if step < 2 else -1.0],
    ids=["nan", "inf", "negative", "huge", "bool", "text", "none", "class", "raises", "nan-at-0",
         "negative-now"],
)  # fmt: skip
def test_a_value_that_is_not_allowed_changes_nothing(make: Make, value: Any) -> None:
    training = make(Adam(Linear(0.1, 0.2, 5)), groups={"*.bias": {"learning_rate": 0.3}})
    training.step(2)
    before = training.snapshot()
    with pytest.raises(HyperparameterError, match="learning_rate"):
        training.view["learning_rate"] = value
    assert training.snapshot() == before
    training.step()
    assert training.view["*.bias/learning_rate"] == 0.3


def test_several_groups_change_together_or_not_at_all(make: Make) -> None:
    class Bounded(Rule):
        learning_rate = hyper(0.1, minimum=0, maximum=1)

        def update(self, param: Any, grad: Any) -> Any:
            return param - self.learning_rate * grad

    training = make(route({"*.weight": SGD(0.1), "*": Bounded()}))
    before = training.snapshot()
    with pytest.raises(HyperparameterError, match="<= 1"):
        training.view["learning_rate"] = 2.0  # the first group would take it
    assert training.snapshot() == before


def test_unknown_names(make: Make) -> None:
    training = make(Adam(), groups={"*.bias": {}})
    training.step()
    before = training.snapshot()
    view = training.view
    for path, text in [
        ("learning_rat", "did you mean 'learning_rate'"),
        ("nothing", "known: learning_rate, beta1"),
        ("group 5/beta1", "did you mean 'group 0'"),
        ("decoder.*/beta1", "no optimizer, no group, and no pattern"),
        ("/beta1", "'' is no optimizer"),
        ("head.bias/first_moment", r"view.state\['head.bias/first_moment'\]"),
    ]:
        with pytest.raises(KeyError, match=text):
            view[path]
        with pytest.raises(UnknownNameError, match=text):
            view[path] = 0.5
        with pytest.raises(UnknownNameError), view.override(path, 0.5):
            pass
    with pytest.raises(TypeError, match="a path is text"):
        view[0]  # type: ignore[index]
    assert training.snapshot() == before


def test_a_part_of_a_group_is_read_but_not_written(make: Make) -> None:
    training = make(SGD(0.1), groups={"*.bias": {}})
    view = training.view
    before = training.snapshot()
    assert view["encoder.*/learning_rate"] == 0.1
    for path in ("encoder.*/learning_rate", "head.weight/learning_rate"):
        pattern = path.partition("/")[0]
        with pytest.raises(ValueError, match="1 of the 2 parameters of 'group 0'") as error:
            view[path] = 0.2
        assert f"view.split({pattern!r})" in str(error.value)
    assert training.snapshot() == before
    view["*.weight/learning_rate"] = 0.2  # all of group 0
    assert view["group 0/learning_rate"] == 0.2


# -- override ----------------------------------------------------------------------------------


def test_override_puts_back(make: Make) -> None:
    schedule = Cosine(0.4, 10)
    training = make(SGD(schedule), groups={"*.bias": {"learning_rate": 0.2}})
    view = training.view
    still = training.result()
    with view.override("learning_rate", 0.0, reason="warm up") as inside:
        assert inside is view
        assert view["learning_rate"] == 0.0
        training.step(2)
    assert_same(training.result(), still)
    assert view.schedule("group 0/learning_rate") is schedule
    assert view["*.bias/learning_rate"] == 0.2
    training.step()
    assert view["group 0/learning_rate"] == schedule(2)
    assert [(change.step, change.reason) for change in view.journal] == [
        (1, ""), (1, "warm up"), (1, "warm up"), (3, "end of override: warm up"),
        (3, "end of override: warm up"),
    ]  # fmt: skip


def test_override_puts_back_after_an_exception(make: Make) -> None:
    training = make(SGD(0.1))
    with pytest.raises(ZeroDivisionError), training.view.override("learning_rate", 0.5):
        training.view["learning_rate"] / 0
    assert training.view["learning_rate"] == 0.1
    before = training.snapshot()
    with pytest.raises(HyperparameterError), training.view.override("learning_rate", -1):
        pass
    assert training.snapshot() == before


# -- state -------------------------------------------------------------------------------------


def test_state_is_the_live_memory(make: Make) -> None:
    training = make(Adam(0.1))
    state = training.view.state
    assert list(state) == []
    with pytest.raises(KeyError, match=r"first_moment of 'head.bias' does not exist before .*step"):
        state["head.bias/first_moment"]
    with pytest.raises(UnknownNameError, match="before the parameter's first update"):
        state["head.bias/first_moment"] = 0.0
    training.step()
    array = state["head.bias/first_moment"]
    assert array is state[f"head.bias/{training.native['first_moment']}"]
    before = _copied(array)
    training.step()
    assert (_copied(array) != before).all()
    array[...] = 0.0  # a write by anyone acts on the next step
    twin = make(Adam(0.1))
    twin.step(2)
    twin.view.state["head.bias/first_moment"] = 0.0
    training.step()
    twin.step()
    assert_same(training.result(), twin.result())
    with pytest.raises(UnknownNameError, match="as long as amsgrad does not hold"):
        state["head.bias/max_second_moment"]
    with pytest.raises(UnknownNameError, match="did you mean 'first_moment'"):
        state["head.bias/first_momen"]
    with pytest.raises(UnknownNameError, match="no pattern of a parameter"):
        state["decoder/first_moment"]


def test_state_by_pattern_group_and_optimizer(make: Make) -> None:
    training = make(Adam(0.1), groups={"*.bias": {}})
    training.step()
    state = training.view.state
    assert set(state["encoder.*/first_moment"]) == {
        "encoder.weight/first_moment", "encoder.bias/first_moment",
    }  # fmt: skip
    biases = {"encoder.bias/second_moment", "head.bias/second_moment"}
    assert set(state["*.bias/second_moment"]) == biases
    assert len(state["first_moment"]) == len(state["Optimizer/first_moment"]) == 4
    assert {path.rpartition("/")[2] for path in state} >= {"first_moment", "second_moment"}
    assert len(state) == len(list(state)) == len(dict(state))
    saved = {path: array * 1 for path, array in state["*.bias/second_moment"].items()}
    state["*.bias/second_moment"] = 0.0
    assert all(not _copied(array).any() for array in state["*.bias/second_moment"].values())
    state["*.bias/second_moment"] = saved
    for path, array in saved.items():
        numpy.testing.assert_array_equal(_copied(state[path]), _copied(array))


def test_what_is_copied_into_state_must_fit(make: Make) -> None:
    training = make(Adam(0.1))
    training.step()
    state = training.view.state
    array = state["encoder.bias/first_moment"]
    other = array + 1
    state["encoder.bias/first_moment"] = other
    assert state["encoder.bias/first_moment"] is array
    assert array is not other
    numpy.testing.assert_array_equal(_copied(array), _copied(other))
    wide = other.double() if hasattr(other, "double") else other.astype("float64")
    foreign = numpy.zeros(4, "float32") if hasattr(other, "double") else torch.zeros(4)
    before = training.snapshot()
    for wrong, error in [
        (other[:2], ValueError), (other.reshape(2, 2), ValueError), (wide, ValueError),
        (foreign, TypeError), ([0.0] * 4, TypeError), ("zero", TypeError), (None, TypeError),
    ]:  # fmt: skip
        with pytest.raises(error, match=r"encoder.bias/first_moment"):
            state["encoder.bias/first_moment"] = wrong
    with pytest.raises(ValueError, match="is 2 arrays, given one"):
        state["encoder.*/first_moment"] = other
    with pytest.raises(ValueError, match="exactly the paths"):
        state["encoder.*/first_moment"] = {"encoder.bias/first_moment": other}
    pair = {"encoder.bias/first_moment": other, "encoder.weight/first_moment": other}
    with pytest.raises(ValueError, match="shape"):
        state["encoder.*/first_moment"] = pair
    assert training.snapshot() == before


def test_shared_state(make: Make) -> None:
    class Counting(Rule):
        learning_rate = hyper(0.1)
        total = slot(init=1.0, scope="optimizer")

        def update(self, param: Any, grad: Any) -> Any:
            return param - self.learning_rate * self.total * grad

    training = make(Counting())
    state = training.view.state
    with pytest.raises(UnknownNameError, match="before the first update"):
        state["Optimizer/total"]
    training.step()
    assert state["Optimizer/total"] == state["total"]["Optimizer/total"] == 1.0
    assert "Optimizer/total" in training.view.variables()
    still = training.result()
    state["Optimizer/total"] = 0.0
    training.step()
    assert_same(training.result(), still)
    with pytest.raises(ValueError, match="finite"):
        state["Optimizer/total"] = float("nan")


def test_torch_counts_steps_in_its_state() -> None:
    training = Training("torch", AdamW(0.1))
    training.step(3)
    step = training.view.state["head.bias/step"]
    assert step is training.optimizer.state[training.arrays["head.bias"]]["step"]
    assert float(step) == 3


def test_parameters_of_one_name() -> None:
    left, right = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    groups = [{"params": left.named_parameters()}, {"params": right.named_parameters()}]
    optimizer = pellucid.torch.Optimizer(groups, Adam(0.1))
    for module in (left, right):
        module(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    state = pellucid.view(optimizer).state
    assert len(state["first_moment"]) == 4
    moments = state["weight*/first_moment"]
    assert list(moments) == ["weight/first_moment", "weight (2)/first_moment"]
    assert moments["weight (2)/first_moment"] is optimizer.state[right.weight]["exp_avg"]


# -- torch's schedulers ------------------------------------------------------------------------

SCHEDULERS: dict[str, Callable[[Any], Any]] = {
    "StepLR": lambda o: torch.optim.lr_scheduler.StepLR(o, 2, gamma=0.5),
    "MultiStepLR": lambda o: torch.optim.lr_scheduler.MultiStepLR(o, [1, 4], gamma=0.5),
    "ExponentialLR": lambda o: torch.optim.lr_scheduler.ExponentialLR(o, 0.9),
    "LinearLR": lambda o: torch.optim.lr_scheduler.LinearLR(o, 0.25, 1.0, 6),
    "PolynomialLR": lambda o: torch.optim.lr_scheduler.PolynomialLR(o, 10),
    "LambdaLR": lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda e: 0.8**e),
    "CosineAnnealingLR": lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 4),
    "with a floor": lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 5, eta_min=0.01),
    "WarmRestarts": lambda o: torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(o, 5, 1, 0.01),
    "SequentialLR": lambda o: torch.optim.lr_scheduler.SequentialLR(
        o,
        [
            torch.optim.lr_scheduler.LinearLR(o, 0.5, 1.0, 4),
            torch.optim.lr_scheduler.CosineAnnealingLR(o, 6),
        ],
        [4],
    ),
    "ChainedScheduler": lambda o: torch.optim.lr_scheduler.ChainedScheduler(
        [
            torch.optim.lr_scheduler.ExponentialLR(o, 0.9),
            torch.optim.lr_scheduler.StepLR(o, 2, gamma=0.5),
        ]
    ),
}


def _scheduled(name: str, rate: float) -> tuple[Training, Any, View]:
    training = Training("torch", SGD(rate))
    scheduler = SCHEDULERS[name](training.optimizer)
    return training, scheduler, pellucid.view(training.optimizer, scheduler=scheduler)


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("at", [0, 3])
def test_a_scheduler_goes_on_from_the_new_rate(name: str, at: int) -> None:
    training, scheduler, view = _scheduled(name, 0.2)
    twin, other, _ = _scheduled(name, 0.1)  # as if it had begun with half the base
    for number in range(10):
        if number == at:
            view.set("lr", twin.store()["lr"], reason="halved")
            change = view.journal[-1]
            assert (change.step, change.source, change.reason) == (at + 1, "view", "halved")
        if number >= at:
            assert training.store()["lr"] == pytest.approx(twin.store()["lr"], rel=1e-9)
            assert training.store()["initial_lr"] == pytest.approx(0.1, rel=1e-12)
            assert scheduler.get_last_lr() == pytest.approx(other.get_last_lr(), rel=1e-9)
            assert getattr(scheduler, "base_lrs", [0.1]) == pytest.approx([0.1], rel=1e-12)
        for one, its in ((training, scheduler), (twin, other)):
            one.step()
            its.step()


@pytest.mark.parametrize("name", ["CyclicLR", "OneCycleLR"])
def test_a_cycle_is_scaled_as_a_whole(name: str) -> None:
    def cycle(low: float, high: float) -> tuple[Training, Any, View]:
        training = Training("torch", SGD(low))
        if name == "CyclicLR":
            scheduler: Any = torch.optim.lr_scheduler.CyclicLR(
                training.optimizer, low, high, step_size_up=3, cycle_momentum=False
            )
        else:
            scheduler = torch.optim.lr_scheduler.OneCycleLR(
                training.optimizer, high, total_steps=12, div_factor=high / low,
                cycle_momentum=False,
            )  # fmt: skip
        return training, scheduler, pellucid.view(training.optimizer, scheduler=scheduler)

    training, scheduler, view = cycle(0.1, 0.5)
    twin, other, _ = cycle(0.05, 0.25)
    for number in range(10):
        if number == 2:
            view["learning_rate"] = view["learning_rate"] / 2
        if number >= 2:
            assert training.store()["lr"] == pytest.approx(twin.store()["lr"], rel=1e-9)
        for one, its in ((training, scheduler), (twin, other)):
            one.step()
            its.step()


def test_without_the_scheduler_the_view_refuses() -> None:
    training, scheduler, view = _scheduled("StepLR", 0.1)
    before = training.snapshot()
    with pytest.raises(ValueError, match=r"scheduler=\.\.\."):
        training.view["learning_rate"] = 0.2
    with pytest.raises(ValueError, match="initial_lr"), training.view.override("lr", 0.2):
        pass
    with pytest.raises(ValueError, match="two schedules"):
        view["learning_rate"] = Cosine(0.1, 10)
    assert training.snapshot() == before
    assert scheduler.base_lrs == [0.1]
    training.view["weight_decay"] = 0.1  # nobody drives that
    other = _scheduled("StepLR", 0.1)[1]
    with pytest.raises(ValueError, match="of another optimizer"):
        pellucid.view(training.optimizer, scheduler=other)
    with pytest.raises(TypeError, match=r"torch\.optim\.lr_scheduler"):
        pellucid.view(training.optimizer, scheduler=Cosine(0.1, 10))
    with pytest.raises(ValueError, match="another optimizer"):
        pellucid.view(Training("numpy", SGD(0.1)).optimizer, scheduler=other)


def test_a_rate_of_one_group_leaves_the_other_groups_bases() -> None:
    training = Training("torch", SGD(0.1), groups={"*.bias": {"lr": 0.4}})
    scheduler = torch.optim.lr_scheduler.LambdaLR(training.optimizer, lambda epoch: 0.5**epoch)
    view = pellucid.view(training.optimizer, scheduler=scheduler)
    training.step()
    scheduler.step()
    view["*.bias/lr"] = 0.1
    assert scheduler.base_lrs == [0.1, 0.2]
    assert scheduler.get_last_lr() == [0.05, 0.1]
    before = training.snapshot(), list(scheduler.base_lrs)
    with pytest.raises(HyperparameterError, match="nan"):
        view["lr"] = float("nan")
    assert (training.snapshot(), list(scheduler.base_lrs)) == before


def test_a_rate_at_the_floor() -> None:
    training, scheduler, view = _scheduled("LambdaLR", 0.2)
    view["lr"] = 0.0
    training.step()
    scheduler.step()
    assert view["lr"] == 0.0
    view["lr"] = 0.1
    assert scheduler.base_lrs == [0.1]
    _, _, view = _scheduled("with a floor", 0.2)
    with pytest.raises(ValueError, match="eta_min"):
        view["lr"] = 0.001
    training = Training("torch", SGD(0.1))
    cycle = torch.optim.lr_scheduler.CyclicLR(training.optimizer, 0.0, 1.0, cycle_momentum=False)
    with pytest.raises(ValueError, match="no factor is known"):
        pellucid.view(training.optimizer, scheduler=cycle)["lr"] = 0.1
    assert (cycle.base_lrs, cycle.max_lrs, training.store()["lr"]) == ([0.0], [1.0], 0.0)


def test_override_puts_base_rates_back() -> None:
    training, scheduler, view = _scheduled("LambdaLR", 0.2)
    with view.override("lr", 0.0):
        training.step()
        scheduler.step()
        assert view["lr"] == 0.0
    assert (view["lr"], scheduler.base_lrs, training.store()["initial_lr"]) == (0.2, [0.2], 0.2)
    scheduler.step()
    assert view["lr"] == pytest.approx(0.2 * 0.8**2)


def test_plateaus_and_cycled_momentum() -> None:
    training = Training("torch", SGD(0.1))
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(training.optimizer, patience=0)
    training.view["lr"] = 0.3  # it goes on from the present rate
    view = pellucid.view(training.optimizer, scheduler=plateau)
    view["lr"] = 0.2
    assert plateau.get_last_lr() == [0.2]
    training.step()
    plateau.step(1.0)
    plateau.step(2.0)
    assert view["lr"] == pytest.approx(0.02)
    training = Training("torch", SGD(0.1, momentum=0.9))
    cycle = torch.optim.lr_scheduler.OneCycleLR(training.optimizer, 1.0, total_steps=10)
    for view in (training.view, pellucid.view(training.optimizer, scheduler=cycle)):
        with pytest.raises(ValueError, match="cycle_momentum"):
            view["momentum"] = 0.5
    with pytest.raises(ValueError, match="another scheduler drives it"):
        pellucid.view(training.optimizer, scheduler=plateau_of(training))["lr"] = 0.5


def plateau_of(training: Training) -> Any:
    return torch.optim.lr_scheduler.ReduceLROnPlateau(training.optimizer)


def test_a_schedulers_run_is_one_entry() -> None:
    training, scheduler, view = _scheduled("ExponentialLR", 0.2)
    for _ in range(5):
        training.step()
        scheduler.step()
    (change,) = view.journal
    assert (change.source, change.step, change.until) == ("framework scheduler", 2, 5)
    assert change.old == 0.2


def test_a_rate_that_is_a_tensor() -> None:
    rate = torch.tensor(0.1)
    training = Training("torch", SGD(rate))
    training.view["lr"] = 0.5
    assert training.store()["lr"] is rate
    assert float(rate) == training.view["lr"] == 0.5
    with training.view.override("lr", torch.tensor(0.25)):
        assert training.view["lr"] == 0.25
    assert training.store()["lr"] is rate
    with training.view.override("lr", 0.25):
        assert float(rate) == 0.25
    assert float(rate) == 0.5
    scheduler = torch.optim.lr_scheduler.StepLR(training.optimizer, 1)
    pellucid.view(training.optimizer, scheduler=scheduler)["lr"] = 0.25
    assert float(rate) == float(scheduler.base_lrs[0]) == 0.25
    shared = Training("torch", SGD(rate), groups={"*.bias": {}})
    if shared.store(0)["lr"] is shared.store(1)["lr"]:
        with pytest.raises(ValueError, match="holds too"):
            shared.view["*.bias/lr"] = 0.1
        shared.view["lr"] = 0.1
        shared.view["*.bias/lr"] = torch.tensor(0.7)
        assert shared.view["group 0/lr"] == pytest.approx(0.1)


# -- showing -----------------------------------------------------------------------------------


def test_prints_a_plain_table(make: Make, capsys: pytest.CaptureFixture[str]) -> None:
    training = make(
        AdamW(Cosine(0.0325, 100)), groups={"*.bias": {"weight_decay": 0.125, "beta1": 0.75}}
    )
    training.view.set("*.bias/beta2", 0.5, reason="why not")
    print(training.view)
    shown = capsys.readouterr().out
    for text in ("group 0", "*.bias", "0.0325", "Cosine", "0.125", "0.75", "2 (20)", "beta1",
                 "amsgrad", "False", "4 parameters (26 numbers)", "0 updates", "why not",
                 training.native["learning_rate"]):  # fmt: skip
        assert text in shown
    assert "\x1b" not in shown
    assert repr(training.view) + "\n" == shown


def test_the_table_fits(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["encoder.weight", "encoder.bias", "head.weight", "head.bias"]
    view = make(AdamW(), groups={name: {} for name in names}).view
    for width in (40, 70, 200):
        monkeypatch.setenv("COLUMNS", str(width))
        lines = repr(view).splitlines()
        assert max(map(len, lines)) <= width
        assert sum(line.startswith("parameters") for line in lines) == {40: 4, 70: 2, 200: 1}[width]


def test_colour_only_in_a_terminal(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        encoding = "utf-8"

        def isatty(self) -> bool:
            return True

    class Old(io.StringIO):
        encoding = "cp1252"

    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    training = make(SGD(0.1))
    training.view["learning_rate"] = 0.2
    monkeypatch.setattr(sys, "stdout", Terminal())
    assert "\x1b[1m" in str(training.view)
    assert "\x1b" not in repr(training.view)
    monkeypatch.setattr(sys, "stdout", Old())
    assert str(training.view).isascii()


def test_rich_prints_it(make: Make) -> None:
    console = Console(file=io.StringIO(), width=60)
    console.print(make(SGD(0.1)).view)
    assert "learning_rate" in console.file.getvalue()  # type: ignore[attr-defined]


def test_patterns_are_no_markup(make: Make) -> None:
    view = make(SGD(0.1), groups={"*.[bold]*": {"weight_decay": 0.5}, "*": {}}).view
    assert "*.[bold]*" in repr(view)


def test_plain_data(make: Make) -> None:
    training = make(Adam(Cosine(0.1, 10), weight_decay=ref("learning_rate")))
    training.view["beta1"] = lambda step: 0.5
    training.step()
    found = json.loads(training.view.to_json())
    assert found == training.view.to_dict()
    (group,) = found["groups"]
    assert group["values"]["learning_rate"] == 0.1
    assert group["schedules"]["learning_rate"]["schedule"] == Cosine(0.1, 10).get_config()
    assert group["schedules"]["weight_decay"] == {"ref": "learning_rate"}
    assert "lambda" in group["schedules"]["beta1"]["repr"]
    assert group["parameters"] == list(SHAPES)
    assert found["state"]["encoder.weight/first_moment"] == {"shape": [4, 3], "dtype": "float32"}
    assert found["journal"] == training.view.journal.to_list()


# -- what a view is of -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        (torch.optim.SGD, "not its class"),
        (pellucid.torch.Optimizer, "not its class"),
        (SGD(0.1), r"got pellucid\.rules\.sgd\.SGD; allowed is"),
        ({"lr": 0.1}, "builtins.dict"),
    ],
    ids=["torch.optim", "class", "rule", "dict"],
)
def test_refuses_what_it_does_not_know(wrong: Any, text: str) -> None:
    with pytest.raises(TypeError, match=text):
        pellucid.view(wrong)


def test_follows_a_group_that_is_added_and_a_load() -> None:
    training = Training("torch", SGD(0.1))
    training.optimizer.add_param_group({"params": [("new", torch.ones(2))], "lr": 0.7})
    assert training.view.groups == ("group 0", "group 1")
    assert training.view["new/lr"] == 0.7
    saved = training.optimizer.state_dict()
    training.view["lr"] = 0.2
    training.optimizer.load_state_dict(saved)
    assert training.view["new/lr"] == 0.7
    training.view["lr"] = 0.3
    assert training.store()["lr"] == 0.3


def test_named_classes_have_their_names() -> None:
    optimizer = pellucid.torch.AdamW([torch.ones(2, requires_grad=True)], lr=0.1)
    view = pellucid.view(optimizer)
    assert view["AdamW/lr"] == 0.1
    assert "AdamW/learning_rate" in view.variables()


def test_imports_no_framework() -> None:
    code = (
        "import sys, pellucid; pellucid.view; "
        "print([m for m in ('numpy', 'torch', 'numba', 'keras', 'rich') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
