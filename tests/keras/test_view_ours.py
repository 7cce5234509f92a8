"""Views and journals of our own Keras optimizers, on each backend, also inside of `fit`."""

from __future__ import annotations

import json
from typing import Any

import keras
import numpy
import pytest
from keras.optimizers import schedules

import pellucid
import pellucid.keras
from pellucid import Adam, chain, clip_by_global_norm, ref, route
from pellucid.access.errors import UnknownNameError
from pellucid.changes import Journal
from pellucid.declare import HyperparameterError
from pellucid.keras.callbacks import JournalCallback
from pellucid.schedules import Linear

BACKEND = keras.backend.backend()
BATCHES = 4
X = numpy.random.default_rng(0).normal(size=(BATCHES * 8, 3)).astype("float32")
Y = numpy.random.default_rng(1).normal(size=(BATCHES * 8, 2)).astype("float32")


def model_of(optimizer: Any = None, **how: Any) -> Any:
    keras.utils.set_random_seed(3)
    given = keras.Input((3,))
    hidden = keras.layers.Dense(4, activation="tanh", name="dense")(given)
    model = keras.Model(given, keras.layers.Dense(2, name="out")(hidden))
    if optimizer is not None:
        model.compile(optimizer, "mse", **how)
    return model


def train(model: Any, callbacks: Any = (), epochs: int = 1) -> None:
    model.fit(X, Y, batch_size=8, epochs=epochs, verbose=0, shuffle=False, callbacks=[*callbacks])


def host(variable: Any) -> Any:
    return keras.ops.convert_to_numpy(variable)


def weights(model: Any) -> dict[str, Any]:
    return {one.path: host(one) for one in model.trainable_variables}


def close(model: Any, other: Any) -> None:
    for one, two in zip(weights(model).values(), weights(other).values(), strict=True):
        numpy.testing.assert_allclose(one, two, rtol=2e-5, atol=1e-7)


class At(keras.callbacks.Callback):
    """Calls functions after numbers of batches."""

    def __init__(self, **functions: Any) -> None:
        super().__init__()
        self.functions, self.done = functions, 0

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.done += 1
        if f"b{self.done}" in self.functions:
            self.functions[f"b{self.done}"]()


BIASES = {"*/bias": {"weight_decay": 0.0}}


def adam(**given: Any) -> Any:
    return pellucid.keras.AdamW(0.01, weight_decay=0.1, groups=BIASES, **given)


# -- reading -------------------------------------------------------------------------------


def test_everything_has_a_name() -> None:
    optimizer = adam(clipnorm=1.0)
    model = model_of(optimizer)
    train(model)
    view = pellucid.view(optimizer, model=model)
    assert view.groups == ("group 0", "*/bias")
    for path in ("lr", "learning_rate", "AdamW/learning_rate", "group 0/learning_rate",
                 "dense/kernel/learning_rate", "adam_w/learning_rate"):  # fmt: skip
        assert view[path] == 0.01
    assert view["*/bias/weight_decay"] == 0.0
    assert view["dense/*/beta_1"] == view["beta1"] == 0.9
    assert view["clipnorm"] == view["clipnorm.max_norm"] == 1.0
    assert view["amsgrad"] is False
    assert view["ema_momentum"] == 0.99
    assert view["weight_decay"] == {"group 0/weight_decay": 0.1, "*/bias/weight_decay": 0.0}
    with pytest.raises(UnknownNameError, match="beta1"):
        view["beta_one"]
    found = view.variables()
    assert found["dense/kernel/first_moment"] is view.state["dense/kernel/momentum"]
    assert found["group 0/beta2"] == 0.999
    shown = {id(one) for one in found.values() if hasattr(one, "assign")}
    slots = {id(v) for one in optimizer.core.parameters for v in one.slots.values()}
    assert {id(optimizer.iterations), *slots} <= shown
    for text in (str(view), repr(view), str(view.tree()), view._repr_html_()):
        assert "learning_rate" in text
    plain = json.loads(view.to_json())
    assert plain["updates"] == BATCHES
    assert [group["parameters"] for group in plain["groups"]] == [
        ["dense/kernel", "out/kernel"], ["dense/bias", "out/bias"]
    ]  # fmt: skip
    assert plain["groups"][0]["size"] == 20
    assert view.warnings() == []


def test_before_it_is_built() -> None:
    optimizer = adam()
    model = model_of()
    view = pellucid.view(optimizer, model=model)
    assert view["*/bias/weight_decay"] == view["dense/bias/weight_decay"] == 0.0
    assert view["weight_decay"] == {"group 0/weight_decay": 0.1, "*/bias/weight_decay": 0.0}
    view["*/bias/lr"] = 0.5
    view["group 0/beta_1"] = 0.8
    view["beta_2"] = 0.99
    with pytest.raises(HyperparameterError, match="beta1"):
        view["*/bias/beta_1"] = 2.0
    with pytest.raises(UnknownNameError, match="before the optimizer is built"):
        view.state["dense/kernel/momentum"]
    with pytest.raises(ValueError, match="not built"):
        view.split("dense/*")
    with view.override("*/bias/epsilon", 1e-3):
        assert view["*/bias/epsilon"] == 1e-3
    assert view["epsilon"] == 1e-7
    assert BIASES == {"*/bias": {"weight_decay": 0.0}}
    again = pellucid.keras.AdamW.from_config(optimizer.get_config())
    for one in (optimizer, again):
        one.build(model.trainable_variables)
        built = pellucid.view(one)
        assert built["lr"] == {"group 0/learning_rate": 0.01, "*/bias/learning_rate": 0.5}
        assert built["beta1"] == {"group 0/beta1": 0.8, "*/bias/beta1": 0.9}
        assert built["beta2"] == 0.99
        assert built["weight_decay"] == {"group 0/weight_decay": 0.1, "*/bias/weight_decay": 0.0}


def test_state_is_live_and_can_be_written() -> None:
    optimizer = pellucid.keras.Adagrad(0.1, initial_accumulator_value=0.25, use_ema=True)
    model = model_of(optimizer)
    view = pellucid.view(optimizer)
    train(model, [At(b2=lambda: view.state.__setitem__("dense/kernel/accumulator", 1e12))])
    numpy.testing.assert_allclose(host(view.state["dense/kernel/accumulator"]), 1e12)
    assert (host(view.state["dense/bias/accumulator"]) < 1e3).all()
    assert len(view.state["*/bias/accumulator"]) == 2
    view.state["dense/kernel/accumulator"] = numpy.full((3, 4), 0.5, "float32")
    assert (host(view.state["dense/kernel/accumulator"]) == 0.5).all()
    with pytest.raises(ValueError, match="has shape"):
        view.state["dense/kernel/accumulator"] = numpy.ones((4, 3), "float32")
    with pytest.raises(ValueError, match="float64"):
        view.state["dense/kernel/accumulator"] = numpy.ones((3, 4))
    assert view.state["Adagrad/iteration"] is optimizer._iterations
    view.reset("dense/*/accumulator")
    assert (host(view.state["dense/kernel/accumulator"]) == 0.25).all()
    assert (host(view.state["out/kernel/accumulator"]) != 0.25).any()
    view.reset("out/kernel")
    average = host(view.state["out/kernel/average"])
    numpy.testing.assert_array_equal(average, weights(model)["out/kernel"])
    with pytest.raises(ValueError, match="no state 'momentum'"):
        view.reset("dense/kernel/momentum")


class Begins(pellucid.Rule):
    """Its slot begins as the first gradient."""

    learning_rate = pellucid.hyper(0.1)
    first = pellucid.slot(init="grad")

    def update(self, param: Any, grad: Any) -> Any:
        self.first = 0.5 * self.first + 0.5 * grad
        return param - self.learning_rate * self.first


def test_reset_and_assignment_regard_what_has_begun() -> None:
    optimizer = pellucid.keras.Optimizer(Begins())
    variable = keras.Variable(numpy.zeros(2, "float32"), name="w")
    view = pellucid.view(optimizer)

    def step(number: float) -> float:
        optimizer.apply([keras.ops.full((2,), number)], [variable])
        return float(host(view.state["w/first"])[0])

    assert step(1.0) == 1.0
    assert step(2.0) == 1.5
    view.reset("w")
    assert step(3.0) == 3.0
    view.reset("w")
    view.state["w/first"] = 7.0
    assert step(5.0) == 6.0


# -- writing -------------------------------------------------------------------------------


def test_a_group_gets_its_own_value_in_fit() -> None:
    optimizer = adam()
    model = model_of(optimizer)
    view = pellucid.view(optimizer)

    def change() -> None:
        view.set("*/bias/learning_rate", 0.5, reason="biases lag")
        optimizer.learning_rate = 0.02  # the optimizer's own; the override stays
        with pytest.raises(ValueError, match=r"view\.split\('out/\*'\)"):
            view["out/*/beta_1"] = 0.5
        with pytest.raises(HyperparameterError, match="learning_rate"):
            view["*/bias/learning_rate"] = -1.0

    train(model, [At(b2=change)])
    assert view["lr"] == {"group 0/learning_rate": 0.02, "*/bias/learning_rate": 0.5}
    other = adam()
    twin = model_of(other)

    def same() -> None:
        other["*/bias/learning_rate"] = 0.5
        other["group 0/learning_rate"] = 0.02

    other.build(twin.trainable_variables)
    pellucid.view(other)["*/bias/learning_rate"] = 0.01  # its own from the start
    pellucid.view(other)["*/bias/learning_rate"] = 0.03
    pellucid.view(other)["*/bias/learning_rate"] = 0.01
    train(twin, [At(b2=same)])
    close(model, twin)
    entries = [(c.step, c.group, c.old, c.new, c.source, c.reason) for c in view.journal]
    assert entries == [
        (3, "*/bias", 0.01, 0.5, "view", "biases lag"),
        (3, "group 0", 0.01, 0.02, "assignment", ""),
    ]
    again = pellucid.keras.AdamW.from_config(optimizer.get_config())
    again.build(model.trainable_variables)
    assert pellucid.view(again)["lr"] == view["lr"]


def test_split_in_fit_equals_groups_from_the_start() -> None:
    optimizer = pellucid.keras.SGD(0.1, momentum=0.9)
    model = model_of(optimizer)
    view = pellucid.view(optimizer)

    def change() -> None:
        assert view.split("dense/*") == ("dense/*",)
        view["dense/*/lr"] = 0.001
        view["dense/*/momentum"] = 0.5

    train(model, [At(b1=lambda: None, b2=change)])
    assert view["lr"] == {"group 0/learning_rate": 0.1, "dense/*/learning_rate": 0.001}
    assert optimizer["dense/*/momentum"].value is not None
    other = pellucid.keras.SGD(0.1, momentum=0.9, groups={"dense/*": {"momentum": 0.9}})
    twin = model_of(other)

    def same() -> None:
        pellucid.view(other)["dense/*/lr"] = 0.001
        other["dense/*/momentum"] = 0.5

    train(twin, [At(b2=same)])
    close(model, twin)
    view["dense/*/nesterov"] = True
    optimizer.learning_rate = 0.2
    assert view["lr"] == {"group 0/learning_rate": 0.2, "dense/*/learning_rate": 0.001}
    view.split("dense/bias")  # a part of the part has what that has
    assert view["dense/bias/lr"] == 0.001
    with pytest.raises(ValueError, match="whole groups already"):
        view.split("dense/bias")
    again = pellucid.keras.SGD.from_config(json.loads(json.dumps(optimizer.get_config())))
    again.build(model.trainable_variables)
    assert pellucid.view(again).groups == view.groups
    assert pellucid.view(again)["lr"] == view["lr"]
    assert pellucid.view(again)["nesterov"] == {
        "group 0/nesterov": False, "dense/*/nesterov": True, "dense/bias/nesterov": True
    }  # fmt: skip
    train(model)


def test_a_ref_follows_the_value_of_its_own_group() -> None:
    stage = chain(Adam(0.01, weight_decay=ref("learning_rate")))
    optimizer = pellucid.keras.Optimizer(stage, groups={"*/bias": {"epsilon": 1e-6}})
    optimizer.build(model_of().trainable_variables)
    view = pellucid.view(optimizer)
    view["*/bias/lr"] = 0.5
    assert view["weight_decay"] == {"group 0/weight_decay": 0.01, "*/bias/weight_decay": 0.5}
    with pytest.raises(HyperparameterError, match="ref"):
        view["learning_rate"] = ref("weight_decay")
    assert view["lr"] == {"group 0/learning_rate": 0.01, "*/bias/learning_rate": 0.5}


def test_override_shares_again() -> None:
    optimizer = adam()
    model = model_of(optimizer)
    train(model)
    view, before = pellucid.view(optimizer), len(optimizer.variables)
    with view.override("*/bias/lr", Linear(0.5, 0.0, 100), reason="try"):
        train(model)
        assert view["*/bias/lr"] == pytest.approx(0.5 * (1 - 7 / 100))
        assert view["group 0/lr"] == 0.01
    assert len(optimizer.variables) == before
    optimizer.learning_rate = 0.05
    assert view["lr"] == 0.05
    with view.override("lr", 0.5), view.override("ema_momentum", 0.5):
        assert view["lr"] == 0.5
        assert optimizer.ema_momentum == 0.5
    assert view["lr"] == 0.05
    assert optimizer.ema_momentum == 0.99
    with pytest.raises(ValueError, match="whole optimizer's"):
        view["*/bias/ema_momentum"] = 0.5
    with pytest.raises(ValueError, match="when it is built"):
        view["use_ema"] = True
    train(model)
    names = [(c.group, c.name) for c in view.journal if c.source == "view"]
    assert names.count(("*/bias", "ema_momentum")) == 2


def test_routes_and_shared_stages() -> None:
    stages = chain(
        clip_by_global_norm(1.0),
        route({"dense/*": pellucid.SGD(0.1), "*": Adam(0.01)}),
    )
    optimizer = pellucid.keras.Optimizer(stages)
    view = pellucid.view(optimizer)
    assert view["SGD/learning_rate"] == 0.1
    with pytest.raises(ValueError, match="until the optimizer is built"):
        view["SGD/clip_by_global_norm.max_norm"] = 2.0
    model = model_of(optimizer)
    train(model)
    view["SGD/learning_rate"] = 0.2
    view["Adam/amsgrad"] = True
    assert view["learning_rate"] == {"dense/*/learning_rate": 0.2, "*/learning_rate": 0.01}
    train(model)
    assert host(view.state["out/kernel/velocity_hat"]).any()
    with pytest.raises(UnknownNameError):
        view.state["dense/kernel/velocity_hat"]


# -- what stands around it, and other views ------------------------------------------------


def test_loss_scale_optimizer_and_lists() -> None:
    inner = pellucid.keras.Adam(0.01)
    outer = keras.optimizers.LossScaleOptimizer(inner, initial_scale=8.0, dynamic_growth_steps=3)
    model = model_of(outer)
    view = pellucid.view(outer)
    train(model, [At(b2=lambda: view.set("beta_1", 0.5))])
    assert view["Adam/beta_1"] == 0.5
    assert view["initial_scale"] == 8.0
    assert "loss_scale_factor" not in view
    view["dynamic_growth_steps"] = 5
    assert outer.dynamic_growth_steps == 5
    assert view.state["LossScaleOptimizer/dynamic_scale"] is outer.dynamic_scale
    assert [c.name for c in pellucid.journal(outer)] == ["beta1", "dynamic_growth_steps"]
    both = pellucid.view([outer, keras.optimizers.SGD(0.5)])
    assert both["SGD/learning_rate"] == 0.5
    both["LossScaleOptimizer/learning_rate"] = 0.25
    assert view["lr"] == 0.25
    several = keras.optimizers.MultiOptimizer(
        keras.optimizers.OptimizerMap(keras.optimizers.SGD(0.5), {".*kernel": adam()})
    )
    mixed = pellucid.view(several)
    assert mixed["learning_rate"] == {
        "AdamW/group 0/learning_rate": 0.01, "AdamW/*/bias/learning_rate": 0.01,
        "SGD/group 0/learning_rate": 0.5,
    }  # fmt: skip


class Forgetful:
    """A function of the step that no file can hold."""

    def __call__(self, step: Any) -> float:
        return 0.1


def test_measure_statistics_and_warnings() -> None:
    optimizer = pellucid.keras.SGD(0.1)
    model = model_of(optimizer)
    train(model)
    view, before = pellucid.view(optimizer, model=model), weights(model)
    with view.measure() as found:
        model.train_on_batch(X[:8], Y[:8])
    moved = weights(model)["dense/kernel"] - before["dense/kernel"]
    assert found.updates == 1
    assert found["dense/kernel"].update_norm == pytest.approx(numpy.linalg.norm(moved), rel=1e-4)
    norm = numpy.linalg.norm(weights(model)["dense/kernel"])
    assert view.statistics()["dense/kernel"].norm == pytest.approx(norm, rel=1e-5)
    optimizer.learning_rate = 0.0
    assert [one.kind for one in view.warnings()] == ["still"]
    optimizer.learning_rate = lambda step: 0.1 / (1 + step)
    assert view.warnings() == []
    optimizer.learning_rate = Forgetful()
    assert [one.kind for one in view.warnings()] == ["unsaved"]
    other = pellucid.keras.SGD(0.1)
    other.build(model.trainable_variables[:2])
    lost = [one.where for one in pellucid.view(other, model=model).warnings()]
    assert lost == ["out/kernel", "out/bias"]


def test_an_update_that_was_skipped_is_told() -> None:
    optimizer = pellucid.keras.SGD(0.1)
    variable = keras.Variable(numpy.ones(2, "float32"), name="w")
    optimizer.build([variable])
    view = pellucid.view(optimizer)
    assert view.warnings() == []
    optimizer._refused.assign(1)
    (warning,) = view.warnings()
    assert warning.kind == "refused"
    assert "learning_rate" in warning.text
    with pytest.raises(HyperparameterError, match="learning_rate"):
        optimizer.report_refused()
    assert view.warnings() == []


def test_diff_with_keras_and_with_torch() -> None:
    model = model_of()
    theirs, ours = keras.optimizers.Adam(0.01), pellucid.keras.Adam(0.02)
    for one in (theirs, ours):
        one.build(model.trainable_variables)
    rows = {(row.kind, row.name): (row.a, row.b) for row in pellucid.diff(theirs, ours)}
    assert rows["value", "learning_rate"] == (0.01, 0.02)
    assert not {"slot", "shape", "dtype", "state", "parameter"} & {kind for kind, _ in rows}
    assert not {"beta1", "epsilon"} & {name for _, name in rows}
    if BACKEND == "torch":
        from pellucid.torch import Optimizer as TorchOptimizer

        same = pellucid.keras.Optimizer(Adam(0.01))
        same.build(model.trainable_variables)
        named = [(one.path, one.value) for one in model.trainable_variables]
        torchs = TorchOptimizer(named, Adam(0.02))
        rows = {(row.kind, row.name): (row.a, row.b) for row in pellucid.diff(same, torchs)}
        assert rows["value", "learning_rate"] == (0.01, 0.02)
        assert not {"beta1", "epsilon"} & {name for _, name in rows}


def test_bad_arguments() -> None:
    optimizer = pellucid.keras.SGD(0.1)
    with pytest.raises(TypeError, match="scheduler"):
        pellucid.view(optimizer, scheduler=object())
    with pytest.raises(TypeError, match="trainable_variables"):
        pellucid.view(optimizer, model=object())
    view = pellucid.view(optimizer)
    with pytest.raises(TypeError, match="reason"):
        view.set("lr", 0.5, reason=3)  # type: ignore[arg-type]
    for value in ("fast", None, [0.1, 0.2], float("nan"), numpy.ones(2)):
        with pytest.raises(HyperparameterError, match="learning_rate"):
            view["learning_rate"] = value
    assert view["lr"] == 0.1


# -- the journal ---------------------------------------------------------------------------


def test_journal_of_all_that_happens(tmp_path: Any) -> None:
    optimizer = pellucid.keras.Adam(schedules.ExponentialDecay(0.1, 1, 0.5))
    model = model_of(optimizer)
    file = tmp_path / "journal.jsonl"
    change = At(
        b1=lambda: setattr(optimizer, "beta_1", 0.8),
        b2=lambda: optimizer["beta_2"].assign(0.99),
        b3=lambda: setattr(optimizer, "learning_rate", lambda step: 0.5 / (1 + step)),
        b5=lambda: pellucid.view(optimizer).set("lr", Linear(1.0, 0.0, 10), "warm"),
    )
    train(model, [change, JournalCallback(file)], epochs=2)
    journal = pellucid.journal(optimizer)
    assert journal is optimizer.journal
    found = [(c.step, c.until, c.name, c.source, c.reason) for c in journal]
    assert found == [
        (1, 3, "learning_rate", "schedule", ""),
        (2, None, "beta1", "assignment", ""),
        (3, None, "beta2", "assignment", ""),
        (4, 5, "learning_rate", "assignment", ""),
        (6, 8, "learning_rate", "view", "warm"),
    ]
    rates = [journal.at(step)["group 0/learning_rate"] for step in range(1, 9)]
    wanted = [0.1, 0.05, 0.025, 0.5 / 4, 0.5 / 5, 0.5, 0.4, 0.3]
    numpy.testing.assert_allclose(rates, wanted, rtol=1e-6)
    assert journal.at(1)["group 0/beta1"] == 0.9
    assert journal.at(2)["group 0/beta1"] == 0.8
    assert len(journal.table().rows) == 5
    kept = Journal.from_file(file)
    assert [kept.at(step)["group 0/learning_rate"] for step in range(1, 9)] == rates
    assert pellucid.view(optimizer)["lr"] == pytest.approx(0.3)
    assert pellucid.view(optimizer).schedule("lr") == Linear(1.0, 0.0, 10)


def test_journal_finds_writes_that_bypass_it() -> None:
    optimizer = adam()
    model = model_of(optimizer)
    train(model)
    view = pellucid.view(optimizer)
    assert [*view.journal] == []
    keras.Variable.assign(optimizer.beta_1, 0.5)  # past the check, as a program's assign
    entries = [(c.step, c.group, c.name, c.old, c.new, c.source) for c in optimizer.journal]
    assert entries == [
        (5, "group 0", "beta1", 0.9, 0.5, "direct write"),
        (5, "*/bias", "beta1", 0.9, 0.5, "direct write"),
    ]
    train(model)
    assert len(optimizer.journal) == 2
    optimizer.ema_momentum = 0.5
    optimizer.amsgrad = True
    last = [(c.step, c.name, c.new) for c in [*optimizer.journal][-4:]]
    assert last == [(9, "ema_momentum", 0.5)] * 2 + [(9, "amsgrad", True)] * 2


def test_journal_over_a_load(tmp_path: Any) -> None:
    optimizer = pellucid.keras.Adam(0.01)
    model = model_of(optimizer)
    train(model)
    model.save(tmp_path / "m.keras")
    optimizer.beta_1 = 0.5
    train(model)
    other = keras.models.load_model(tmp_path / "m.keras")
    assert other.optimizer.updates == BATCHES
    assert [*other.optimizer.journal] == []
    model.load_weights(tmp_path / "m.keras")
    view = pellucid.view(model.optimizer)
    assert view["beta_1"] == 0.9
    assert view.journal.at(BATCHES)["group 0/beta1"] == 0.9
    train(model)
    assert view.journal.at(BATCHES + 1)["group 0/beta1"] == 0.9
    assert [(c.step, c.new, c.abandoned) for c in view.journal] == [(5, 0.5, True)]


@pytest.mark.backends("tensorflow", "jax")
def test_the_step_is_not_slowed() -> None:
    """Numbers and views cost no trace: a value is written, and the compiled step reads it."""
    optimizer = adam()
    model = model_of(optimizer)
    train(model)
    view, before = pellucid.view(optimizer), model.train_function
    train(model, [At(b1=lambda: view.set("*/bias/beta_1", 0.5))])
    first = model.train_function
    assert first is not before  # the group has its own now
    train(model, [At(b1=lambda: view.set("*/bias/beta_1", 0.25))])
    assert model.train_function is first
