"""`pellucid.Logger`: what reaches its sinks, step by step."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

import pellucid
import pellucid.numpy
import pellucid.torch
from pellucid.changes import Change
from pellucid.run.logger import Logger
from pellucid.run.plateau import Plateau
from pellucid.run.scheduling import HyperparameterScheduler, ReduceOnPlateau, as_function
from pellucid.schedules import Linear


class Kept:
    """A sink that keeps everything."""

    def __init__(self) -> None:
        self.logged: list[tuple[int, dict[str, Any]]] = []
        self.changes: list[Change] = []
        self.initial: list[dict[str, Any]] = []
        self.closed = 0

    def log(self, step: int, values: Any) -> None:
        self.logged.append((step, dict(values)))

    def change(self, entry: Change) -> None:
        self.changes.append(entry)

    def params(self, values: Any) -> None:
        self.initial.append(dict(values))

    def close(self) -> None:
        self.closed += 1

    def series(self, name: str) -> list[Any]:
        return [values.get(name) for _, values in self.logged]


def parameters(count: int = 1) -> list[Any]:
    made = [torch.nn.Parameter(torch.ones(2)) for _ in range(count)]
    for one in made:
        one.grad = torch.ones(2)
    return made


def two_groups(kind: Any) -> Any:
    first, second = parameters(2)
    return kind([{"params": [first], "lr": 0.1}, {"params": [second], "lr": 0.2}])


HYPERS = "hyperparameters/"
KINDS = [torch.optim.AdamW, pellucid.torch.AdamW]


@pytest.mark.parametrize("kind", KINDS)
def test_values_are_those_of_the_moment(kind: Any) -> None:
    optimizer, sink = two_groups(kind), Kept()
    logger = Logger(optimizer, sink)
    optimizer.step()
    logger.log(loss=2.0)
    optimizer.param_groups[1]["lr"] = 0.05
    optimizer.param_groups[0]["betas"] = (0.8, 0.99)
    optimizer.step()
    logger.log(loss=1.0)
    optimizer.param_groups[1]["lr"] = 0.025  # read without a comparison from now on
    optimizer.step()
    logger.log(loss=0.5)
    assert [step for step, _ in sink.logged] == [1, 2, 3]
    assert sink.series("loss") == [2.0, 1.0, 0.5]
    assert sink.series(f"{HYPERS}group 0/learning_rate") == [0.1, 0.1, 0.1]
    assert sink.series(f"{HYPERS}group 1/learning_rate") == [0.2, 0.05, 0.025]
    assert sink.series(f"{HYPERS}group 0/beta1") == [0.9, 0.8, 0.8]
    assert sink.series(f"{HYPERS}group 0/beta2") == [0.999, 0.99, 0.99]
    assert sink.series(f"{HYPERS}group 1/beta1") == [0.9, 0.9, 0.9]


@pytest.mark.parametrize("kind", [*KINDS, torch.optim.SGD, pellucid.torch.SGD])
def test_what_is_logged_is_what_the_view_has(kind: Any) -> None:
    """In names and in values, whatever was done to the groups."""
    optimizer, sink = two_groups(kind), Kept()
    logger = Logger(optimizer, sink)
    table = pellucid.view(optimizer)

    def check() -> None:
        optimizer.step()
        logger.log()
        wanted = {HYPERS + path: table[path] for path in table}
        assert sink.logged[-1][1] == wanted

    check()
    table["weight_decay"] = 0.5
    check()
    optimizer.param_groups[0]["lr"] = torch.tensor(0.5)
    check()
    optimizer.param_groups[0]["lr"].fill_(0.25)
    check()
    optimizer.param_groups[0]["lr"] = 0.125
    check()
    optimizer.add_param_group({"params": parameters(), "lr": 0.3})
    check()
    optimizer.load_state_dict(optimizer.state_dict())
    optimizer.param_groups[2]["lr"] = 0.4
    check()
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)  # it adds keys
    check()
    scheduler.step()
    check()
    optimizer.param_groups[1]["maximize"] = True
    check()


def test_schedules_and_refs_of_ours() -> None:
    """A schedule's value is the one that the update used; a ref's that of its target."""
    stage = pellucid.AdamW(learning_rate=Linear(0.1, 0.0, 10), beta2=pellucid.ref("beta1"))
    optimizer, sink = pellucid.torch.Optimizer(parameters(), stage), Kept()
    logger = Logger(optimizer, sink)
    for _ in range(3):
        optimizer.step()
        logger.log()
    pellucid.view(optimizer)["beta1"] = 0.5
    optimizer.step()
    logger.log()
    rates = [0.1, 0.09, 0.08, 0.07]
    assert sink.series(f"{HYPERS}Optimizer/learning_rate") == pytest.approx(rates)
    assert sink.series(f"{HYPERS}Optimizer/beta2") == [0.9, 0.9, 0.9, 0.5]


@pytest.mark.parametrize("kind", KINDS)
def test_changes_come_once_with_their_reason(kind: Any) -> None:
    optimizer, sink = kind(parameters(), lr=0.1), Kept()
    table = pellucid.view(optimizer)
    table.set("learning_rate", 0.5, reason="before the logger was there")
    logger = Logger(optimizer, sink)
    optimizer.step()
    logger.log()
    assert sink.changes == []
    table.set("weight_decay", 0.5, reason="overfits")
    logger.log()
    logger.log()
    optimizer.param_groups[0]["lr"] = 0.25  # on record with the step that uses it
    optimizer.step()
    logger.log()
    found = [(one.step, one.name, one.new, one.source, one.reason) for one in sink.changes]
    assert found == [
        (2, "weight_decay", 0.5, "view", "overfits"),
        (2, "learning_rate", 0.25, "direct write", ""),
    ]
    table.set("beta1", 0.5, reason="last")
    logger.close()
    assert [one.reason for one in sink.changes] == ["overfits", "", "last"]
    assert sink.closed == 1


def test_changes_after_a_resume() -> None:
    """What is marked abandoned is not handed on again; what comes then is."""
    optimizer, sink = pellucid.torch.AdamW(parameters(), lr=0.1), Kept()
    table = pellucid.view(optimizer)
    logger = Logger(optimizer, sink)
    table.set("beta2", 0.5, reason="before")
    optimizer.step()
    logger.log()
    saved = optimizer.state_dict()
    table.set("beta1", 0.5, reason="first way")
    optimizer.step()
    logger.log()
    optimizer.load_state_dict(saved)
    logger.log()
    table.set("beta1", 0.25, reason="second way")
    optimizer.step()
    logger.log()
    reasons = [one.reason for one in sink.changes if one.reason]
    assert reasons == ["before", "first way", "second way"]


@pytest.mark.parametrize("kind", KINDS)
def test_there_and_back_within_a_step(kind: Any) -> None:
    """Each change counts, though it begins as an earlier one did, or is the same."""
    optimizer, sink = kind(parameters(), lr=0.1), Kept()
    logger, table = Logger(optimizer, sink), pellucid.view(optimizer)
    for value in (0.5, 0.1, 0.3, 0.1, 0.5):
        table.set("learning_rate", value, reason="tried")
    optimizer.step()
    logger.log()
    assert [one.new for one in sink.changes] == [0.5, 0.1, 0.3, 0.1, 0.5]


def test_every_sink_is_closed_though_one_fails() -> None:
    class Fails(Kept):
        def close(self) -> None:
            raise OSError("full")

    last = Kept()
    logger = Logger(torch.optim.SGD(parameters(), lr=0.1), Fails(), last)
    with pytest.raises(OSError, match="full"):
        logger.close()
    assert last.closed == 1


def test_every_and_statistics() -> None:
    optimizer, sink = torch.optim.SGD(parameters(), lr=0.1), Kept()
    logger = Logger(optimizer, sink, every=2, statistics=4)
    for _ in range(6):
        optimizer.step()
        logger.log()
    assert [step for step, _ in sink.logged] == [1, 3, 5]
    norms = sink.series("statistics/param_0/norm")
    # each step takes 0.1 from both ones: after the first and the fifth
    assert norms == pytest.approx([0.9 * math.sqrt(2), None, 0.5 * math.sqrt(2)])
    assert sink.series("statistics/param_0/grad_norm")[0] == pytest.approx(math.sqrt(2))


def test_own_hyperparameters_and_initial_values() -> None:
    """The user's mapping is read each time; what looks like a secret is masked."""
    own: dict[str, Any] = {"batch_size": 32, "api_key": "abc"}
    counted = iter(range(10))
    own["seen"] = lambda: next(counted)
    optimizer, sink = torch.optim.SGD(parameters(), lr=0.1), Kept()
    logger = Logger(optimizer, sink, hyperparameters=own)
    logger.log()
    own["batch_size"] = 64
    logger.log(accuracy=torch.tensor(0.5))
    assert sink.series(f"{HYPERS}batch_size") == [32, 64]
    assert sink.series(f"{HYPERS}seen") == [0, 1]
    assert sink.series(f"{HYPERS}api_key") == ["***", "***"]
    assert sink.logged[1][1]["accuracy"] == 0.5
    assert type(sink.logged[1][1]["accuracy"]) is float
    (initial,) = sink.initial
    assert initial["batch_size"] == 32
    assert initial["api_key"] == "***"
    assert initial["SGD/learning_rate"] == 0.1
    assert initial["SGD/nesterov"] is False


def test_several_optimizers() -> None:
    first, second = torch.optim.SGD(parameters(), lr=0.1), torch.optim.Adam(parameters(), lr=0.2)
    sink = Kept()
    logger = Logger([first, second], sink)
    pellucid.view(second).set("beta1", 0.5, reason="why not")
    first.step()
    first.step()
    second.step()
    logger.log()
    (step, values), (change,) = sink.logged[0], sink.changes
    assert step == 2
    assert values[f"{HYPERS}SGD/group 0/learning_rate"] == 0.1
    assert values[f"{HYPERS}Adam/group 0/beta1"] == 0.5
    assert (change.group, change.reason) == ("Adam/group 0", "why not")


def test_numpy_steps_and_no_sink(capsys: pytest.CaptureFixture[str]) -> None:
    """Without sinks it is the terminal: here, where there is none, lines at changes only."""
    optimizer = pellucid.numpy.Optimizer({"w": np.ones(2)}, pellucid.SGD(0.1))
    with Logger(optimizer) as logger:
        optimizer.step([np.ones(2)])
        logger.log(7)
        assert logger.step == 1
        pellucid.view(optimizer).set("learning_rate", 0.05, reason="slower")
    assert capsys.readouterr().out == (
        "step 2  group 0/learning_rate  0.1 → 0.05  (view: slower)\n"
    )


def test_an_optimizer_that_is_not_built_is_waited_for() -> None:
    optimizer, sink = torch.optim.SGD(parameters(), lr=0.1), Kept()
    vars(optimizer)["built"] = False
    logger = Logger(optimizer, sink)
    logger.log(loss=1.0)
    vars(optimizer)["built"] = True
    logger.log(loss=0.5)
    assert sink.logged[0] == (0, {"loss": 1.0})
    assert sink.logged[1][1][f"{HYPERS}SGD/learning_rate"] == 0.1
    assert len(sink.initial) == 1


@pytest.mark.parametrize(
    ("given", "how", "error", "text"),
    [
        ((3,), {}, TypeError, "a int is no sink"),
        (("log.csv",), {}, TypeError, "'log.csv' is a path"),
        ((Kept,), {}, TypeError, "pass an object of that class"),
        ((), {"every": 0}, ValueError, "every is 0"),
        ((), {"statistics": True}, ValueError, "statistics is True"),
        ((), {"hyperparameters": [1]}, TypeError, r"hyperparameters is \[1\]"),
        ((), {"hyperparameters": {1: 2}}, TypeError, "a mapping from names"),
    ],
)
def test_bad_input(given: Any, how: Any, error: Any, text: str) -> None:
    optimizer = torch.optim.SGD(parameters(), lr=0.1)
    with pytest.raises(error, match=text):
        Logger(optimizer, *given, **how)
    assert not optimizer._optimizer_step_pre_hooks  # nothing was attached


def test_a_bad_step_and_no_optimizer() -> None:
    logger = Logger(torch.optim.SGD(parameters(), lr=0.1), Kept())
    with pytest.raises(TypeError, match="step is 'one'"):
        logger.log("one")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"metrics go by name: log\(loss=0\.5\)"):
        logger.log({"loss": 1.0})  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="view got"):
        Logger(object(), Kept())


# -- scheduling in plain loops -----------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_scheduler(kind: Any) -> None:
    optimizer = two_groups(kind)
    schedule = HyperparameterScheduler(
        optimizer, "group 1/beta1", [0.8, 0.8, 0.7], reason="as planned"
    )
    found = []
    for _ in range(4):
        optimizer.step()
        found.append(pellucid.view(optimizer)["group 1/beta1"])
        schedule.step()
    assert found == [0.8, 0.8, 0.7, 0.7]
    assert pellucid.view(optimizer)["group 0/beta1"] == 0.9
    journal = [str(one) for one in pellucid.journal(optimizer)]
    assert journal == [
        "step 1  group 1/beta1  0.9 → 0.8  (view: as planned)",
        "step 3  group 1/beta1  0.8 → 0.7  (view: as planned)",
    ]
    again = HyperparameterScheduler(two_groups(kind), "beta1", [0.8, 0.6])
    again.load_state_dict({"count": 1})
    assert again.view["beta1"] == 0.6


def test_as_function() -> None:
    assert as_function(Linear(1.0, 0.0, 10))(5, None) == 0.5
    assert as_function(lambda count, current: current * 0.5)(3, 8.0) == 4.0
    assert as_function(lambda count: count + 1)(3, 8.0) == 4
    assert as_function(lambda count: torch.tensor(0.5))(3, 8.0) == 0.5
    assert as_function(np.array([0.25, 0.5]))(7, None) == 0.5
    assert as_function(torch.tensor([0.25, 0.5]))(0, None) == 0.25
    with pytest.raises(TypeError, match="takes neither one argument nor two"):
        as_function(lambda: 1.0)
    for wrong in (3, "linear", [], Linear):
        with pytest.raises(TypeError, match="schedule is"):
            as_function(wrong)


@pytest.mark.parametrize("kind", KINDS)
def test_reduce_on_plateau(kind: Any) -> None:
    """Each group's own value, none below the least."""
    optimizer = two_groups(kind)
    plateau = ReduceOnPlateau(optimizer, factor=0.5, patience=2, min_value=0.06, monitor="val_loss")
    assert [plateau.step(metric) for metric in (1.0, 1.0, 1.0)] == [False, False, True]
    view = pellucid.view(optimizer)
    assert view["learning_rate"] == {"group 0/learning_rate": 0.06, "group 1/learning_rate": 0.1}
    assert pellucid.journal(optimizer)[0].reason == "val_loss has not improved from 1 for 2 looks"
    with pytest.raises(ValueError, match=r"factor is 2"):
        ReduceOnPlateau(optimizer, factor=2.0)


def test_reduce_refuses_at_once() -> None:
    """Not when the metric stops improving, hours later."""
    optimizer = torch.optim.SGD(parameters(), lr=0.1)
    with pytest.raises(KeyError, match="no hyperparameter or option 'momentumm'"):
        ReduceOnPlateau(optimizer, "momentumm")
    with pytest.raises(ValueError, match="min_value is 'a'"):
        ReduceOnPlateau(optimizer, min_value="a")
    with pytest.raises(ValueError, match="min_delta is None"):
        ReduceOnPlateau(optimizer, min_delta=None)
    plateau = ReduceOnPlateau(optimizer)
    for wrong in ("low", None, torch.ones(2)):
        with pytest.raises(TypeError, match="metric is"):
            plateau.step(wrong)
    assert not plateau.step(torch.tensor(1.0))
    assert not plateau.step(np.float32(1.0))


def test_reduce_refuses_a_schedule() -> None:
    optimizer = pellucid.torch.AdamW(parameters(), lr=Linear(0.1, 0.0, 10))
    plateau = ReduceOnPlateau(optimizer, patience=1)
    plateau.step(1.0)
    with pytest.raises(pellucid.HyperparameterError, match="follows Linear"):
        plateau.step(1.0)


def counted(metrics: list[float], **how: Any) -> list[bool]:
    plateau = Plateau(**how)
    return [plateau.step(one) for one in metrics]


def test_plateau() -> None:
    assert counted([3.0, 2.0, 2.0, 2.0, 2.0], patience=2) == [False, False, False, True, False]
    assert counted([1.0, 2.0, 3.0, 3.0], mode="max", patience=1) == [False, False, False, True]
    # an improvement by no more than min_delta is none
    assert counted([1.0, 0.95, 0.8], patience=1, min_delta=0.1) == [False, True, False]
    # the metrics of a cooldown do not count
    assert counted([1.0] * 6, patience=1, cooldown=2) == [False, True, False, False, True, False]
    assert counted([1.0, math.nan, math.nan], patience=2) == [False, False, True]
    plateau, again = Plateau(patience=2), Plateau(patience=2)
    assert not plateau.step(1.0)
    assert not plateau.step(1.0)
    again.load_state_dict(plateau.state_dict())
    assert again.step(1.0)
    with pytest.raises(ValueError, match="patience is -1"):
        Plateau(patience=-1)
    with pytest.raises(ValueError, match="mode is 'best'"):
        Plateau(mode="best")  # type: ignore[arg-type]


def test_a_cooldown_is_resumed() -> None:
    plateau, again = Plateau(patience=1, cooldown=2), Plateau(patience=1, cooldown=2)
    assert [plateau.step(one) for one in (1.0, 1.0)] == [False, True]
    again.load_state_dict(plateau.state_dict())
    assert [again.step(1.0) for _ in range(3)] == [False, False, True]


def test_statistics_of_the_state() -> None:
    optimizer, sink = torch.optim.SGD(parameters(), lr=0.1, momentum=0.5), Kept()
    optimizer.step()
    optimizer.param_groups[0]["params"][0].grad[0] = math.nan
    Logger(optimizer, sink, statistics=1).log()
    (values,) = (values for _, values in sink.logged)
    (norm,) = (value for name, value in values.items() if name.endswith("momentum_norm")
               or name.endswith("velocity_norm") or name.endswith("buffer_norm"))
    assert norm == pytest.approx(math.sqrt(2))  # the first gradient is the momentum
    assert values["statistics/param_0/nonfinite"] >= 1


def test_a_ref_that_comes_later() -> None:
    """Though the number in the group stays the same until the next step."""
    optimizer, sink = pellucid.torch.AdamW(parameters(), lr=0.1, betas=(0.9, 0.9)), Kept()
    logger, table = Logger(optimizer, sink), pellucid.view(optimizer)
    logger.log()
    table["beta2"] = pellucid.ref("beta1")
    logger.log()
    table["beta1"] = 0.5
    logger.log()
    assert sink.series(f"{HYPERS}AdamW/beta2") == [0.9, 0.9, 0.5]
