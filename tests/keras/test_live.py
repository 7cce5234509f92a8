"""Every hyperparameter is live: what is assigned acts at the next step, compiled or not."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest

import pellucid
import pellucid.keras
import pellucid.numpy
from fitting import BEFORE, EVENTS, STEPS, At, Traces, model_of, train, weight
from pellucid import CATALOGUE, HyperparameterError
from pellucid.keras.host_values import on_host
from reference.test_references import ACTIVE, INITIAL_ONLY
from stepper import Stepper

BACKEND = keras.backend.backend()
COMPILED = BACKEND != "torch"
SHAPE = (3, 2)


def variable(value: Any = 1.0, name: str = "w") -> Any:
    return keras.Variable(np.full(SHAPE, value, "float32"), name=name)


def ones() -> Any:
    return np.ones(SHAPE, "float32")


# -- each hyperparameter of each rule -------------------------------------------------------


LAST = 14
NOT_HERE = {("Rprop", "learning_rate"), ("ASGD", "t0")}
"""Read in a parameter's first update alone; acts on the average alone."""


def gradient(step: int) -> Any:
    return np.cos(np.arange(6.0) * (step + 1)).reshape(SHAPE).astype("float32")


def with_numpy(rule: str, values: dict[str, Any], steps: int) -> Any:
    params = {"w": np.full(SHAPE, 0.5, "float32")}
    optimizer = pellucid.numpy.Optimizer(params, CATALOGUE[rule](**values))
    for step in range(steps):
        optimizer.step({"w": gradient(step)})
    return params["w"]


@pytest.mark.parametrize("rule", CATALOGUE)
def test_each_hyperparameter_acts_without_a_trace(rule: str) -> None:
    """One after another is changed between compiled steps: as if each had been a schedule."""
    active = {name: float(value) for name, value in ACTIVE[rule].items() if value is not True}
    names = [name for name in CATALOGUE[rule].declared.hypers if name not in INITIAL_ONLY]
    declared = CATALOGUE[rule].declared.hypers
    start = {name: active.get(name, declared[name].default) for name in names}
    rest = {name: value for name, value in ACTIVE[rule].items() if name not in names}
    names = [name for name in names if isinstance(start[name], float) and start[name] != 0.0]
    changed = {name: float(np.float32(start[name])) * 0.875 for name in names}
    target = variable(0.5)
    optimizer = pellucid.keras.Optimizer(CATALOGUE[rule](**rest, **start))
    stepper = Stepper(optimizer, [target])
    stepper([gradient(0)])
    for step in range(1, LAST):
        if step <= len(names):
            setattr(optimizer, names[step - 1], changed[names[step - 1]])
        stepper([gradient(step)])

    def at(name: str, since: int | None) -> Any:
        if since is None:
            return start[name]
        return lambda updates: changed[name] if updates >= since else start[name]

    def wanted(left_out: str | None = None) -> Any:
        given = {
            name: at(name, None if name == left_out else names.index(name) + 1) for name in names
        }
        return with_numpy(rule, {**rest, **start, **given}, LAST)

    assert stepper.traces == (1 if COMPILED else 0)
    np.testing.assert_allclose(on_host(target), wanted(), rtol=2e-5, atol=2e-6)
    for name in names:
        if (rule, name) in NOT_HERE:
            continue
        assert not np.allclose(wanted(name), wanted(), rtol=2e-5, atol=2e-6), name


# -- ways to write --------------------------------------------------------------------------

WRITES: dict[str, Any] = {
    "attribute": lambda o, x: setattr(o, "learning_rate", x),
    "lr": lambda o, x: setattr(o, "lr", x),
    "item": lambda o, x: o.__setitem__("learning_rate", x),
    "path": lambda o, x: o.__setitem__(f"{o.name}/learning_rate:0", x),
    "assign": lambda o, x: o.learning_rate.assign(x),
    "assign of an item": lambda o, x: o["learning_rate"].assign(x),
    "assign_add": lambda o, x: o.learning_rate.assign_add(x - 0.25),
    "assign_sub": lambda o, x: o.learning_rate.assign_sub(0.25 - x),
    "variable": lambda o, x: o.variable("learning_rate").assign(x),
    "setter of Keras": lambda o, x: setattr(o, "learning_rate", o.learning_rate * (x / 0.25)),
}
KINDS: dict[str, Any] = {
    "float": float, "float32": np.float32, "array": lambda x: np.array(x, "float64"),
    "one in a list": lambda x: np.array([x], "float32"),
    "tensor": keras.ops.convert_to_tensor, "Variable": keras.Variable,
}  # fmt: skip


@pytest.mark.parametrize("way", WRITES)
def test_written_number_is_used(way: str) -> None:
    target, optimizer = variable(), pellucid.keras.SGD(0.25)
    stepper = Stepper(optimizer, [target])
    stepper([ones()])
    WRITES[way](optimizer, 0.5)
    stepper([ones()])
    assert on_host(target)[0, 0] == pytest.approx(0.25)
    assert stepper.traces == (1 if COMPILED else 0)
    assert float(on_host(optimizer.learning_rate)) == optimizer.get_config()["learning_rate"] == 0.5


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("way", ["attribute", "item", "assign"])
def test_numbers_of_all_kinds(kind: str, way: str) -> None:
    target, optimizer = variable(), pellucid.keras.SGD(0.25)
    stepper = Stepper(optimizer, [target])
    stepper([ones()])
    WRITES[way](optimizer, KINDS[kind](0.5))
    stepper([ones()])
    assert on_host(target)[0, 0] == pytest.approx(0.25)
    assert stepper.traces == (1 if COMPILED else 0)


def test_whole_numbers() -> None:
    optimizer = pellucid.keras.SGD(0.25)
    for number in (2, np.int64(2), np.array(2)):
        optimizer.learning_rate = 1.0
        optimizer.learning_rate = number
        assert optimizer.get_config()["learning_rate"] == 2.0


@pytest.mark.parametrize("number", [0.95, 0.999, 1e-7, 0.1, 3e-4, 0.123456])
def test_configuration_has_the_number_that_was_written(number: float) -> None:
    optimizer = pellucid.keras.Adam()
    optimizer.beta_1 = number
    assert optimizer.get_config()["beta_1"] == number
    optimizer.beta_1.assign(0.5)
    optimizer.beta_1.assign(keras.ops.convert_to_tensor(number, "float32"))
    assert optimizer.get_config()["beta_1"] == number
    optimizer.build([variable()])
    assert optimizer.get_config()["beta_1"] == number


def test_keras_get_value() -> None:
    """Seed 001 reads the rate so; `keras.backend.get_value` is legacy and may be gone."""
    optimizer = pellucid.keras.Adam(0.25)
    read = getattr(keras.backend, "get_value", None)
    if read is None:
        from keras.src.legacy.backend import get_value as read
    assert float(read(optimizer.learning_rate)) == 0.25


# -- in fit ---------------------------------------------------------------------------------


@pytest.mark.parametrize("event", EVENTS)
def test_change_in_a_callback_that_holds_the_optimizer(event: str) -> None:
    """No retrace, and what is read there is true, too."""
    optimizer = pellucid.keras.SGD(0.25, momentum=0.0)
    model, traces, seen = model_of(optimizer), Traces(), []

    def change(count: int) -> None:
        seen.append(float(on_host(optimizer.learning_rate)))
        if count == 1:
            optimizer.learning_rate = optimizer.learning_rate * 2

    train(model, [At(event, change), traces], epochs=2)
    before = BEFORE[event]
    assert weight(model) == pytest.approx(1 - 0.25 * before - 0.5 * (2 * STEPS - before))
    assert seen == [0.25] + [0.5] * (len(seen) - 1)
    if COMPILED:
        assert len(set(traces.after)) == 1


@pytest.mark.parametrize("value", ["Python", "tensor"])
def test_assign_to_a_held_variable_in_fit(value: str) -> None:
    """On JAX the trainer has the values: a write to the Variable itself is no exception."""
    optimizer = pellucid.keras.SGD(0.25)
    held = optimizer.learning_rate
    number = 0.5 if value == "Python" else keras.ops.convert_to_tensor(0.5)
    model = model_of(optimizer)
    train(model, [At("on_train_batch_end", lambda n: held.assign(number) if n == 1 else None)])
    assert weight(model) == pytest.approx(1 - 0.25 - 3 * 0.5)
    assert optimizer.get_config()["learning_rate"] == 0.5


def test_change_between_fits() -> None:
    optimizer = pellucid.keras.SGD(0.25)
    model = model_of(optimizer)
    train(model)
    traces = model.traces
    optimizer.learning_rate = 0.5
    train(model)
    assert weight(model) == pytest.approx(1 - 4 * 0.25 - 4 * 0.5)
    if COMPILED:
        assert model.traces == traces


SWAPS: dict[str, Any] = {
    "schedule of Keras": lambda: keras.optimizers.schedules.PiecewiseConstantDecay([2], [8.0, 0.5]),
    "schedule of ours": lambda: pellucid.schedules.Piecewise((3,), (8.0, 0.5)),
    "callable of the step": lambda: lambda step: 0.5 if step >= 3 else 8.0,
    "callable without": lambda: lambda: 0.5,
}


@pytest.mark.parametrize("swap", SWAPS)
def test_number_to_schedule_and_back_in_fit(swap: str) -> None:
    """Three updates with a number, three with the schedule, two with a number again."""
    optimizer = pellucid.keras.SGD(0.25)
    model, traces = model_of(optimizer), Traces()

    def change(count: int) -> None:
        if count == 3:
            optimizer.learning_rate = SWAPS[swap]()
        elif count == 6:
            assert float(on_host(optimizer.learning_rate)) == 0.5
            optimizer.learning_rate = 1.0

    train(model, [At("on_train_batch_end", change), traces], epochs=2)
    assert weight(model) == pytest.approx(1 - 3 * 0.25 - 3 * 0.5 - 2 * 1.0)
    if COMPILED:
        steps = np.diff(traces.after).tolist()
        assert steps == [0, 0, 1, 0, 0, 1, 0] or steps == [0, 0, 0, 1, 0, 0, 1][:7]


@pytest.mark.parametrize("swap", SWAPS)
def test_schedule_from_the_start_and_between_fits(swap: str) -> None:
    optimizer = pellucid.keras.SGD(SWAPS[swap]())
    optimizer.learning_rate = 0.25  # before build
    model = model_of(optimizer)
    train(model)
    optimizer.learning_rate = SWAPS[swap]()
    train(model)
    assert weight(model) == pytest.approx(1 - 4 * 0.25 - 4 * 0.5)


def test_schedules_on_anything() -> None:
    """beta_1, decay, clipping, a group's: as the same optimizer with numbers written each step."""
    line = pellucid.schedules.Linear

    def made(**values: Any) -> Any:
        return pellucid.keras.Adam(
            0.125, epsilon=0.25, groups={"b": {"learning_rate": values.pop("group")}}, **values
        )

    driven = {
        "beta_1": line(0.5, 0.75, 4), "beta_2": keras.optimizers.schedules.ExponentialDecay(
            0.875, 8, 0.5
        ), "weight_decay": lambda step: 0.0625 * step, "clipnorm": line(0.25, 1.0, 4),
        "group": line(0.5, 0.25, 4),
    }  # fmt: skip
    values = {
        name: [float(keras.ops.convert_to_numpy(of(step))) for step in range(4)]
        for name, of in driven.items()
    }
    scheduled, twin = ([variable(name="a"), variable(name="b")] for _ in range(2))
    one = made(**driven)
    other = made(**{name: numbers[0] for name, numbers in values.items()})
    first, second = Stepper(one, scheduled), Stepper(other, twin)
    for step in range(4):
        for name, numbers in values.items():
            other["b/learning_rate" if name == "group" else name] = numbers[step]
        first([gradient(step), gradient(step + 9)])
        second([gradient(step), gradient(step + 9)])
    for a, b in zip(scheduled, twin, strict=True):
        np.testing.assert_allclose(on_host(a), on_host(b), rtol=2e-6)
    assert first.traces == second.traces == (1 if COMPILED else 0)


def test_keras_schedule_counts_micro_batches_as_keras_does() -> None:
    """With accumulation the schedule sees Keras's own count, on each road."""
    results = []
    for kind in (keras.optimizers.SGD, pellucid.keras.SGD):
        schedule = keras.optimizers.schedules.PolynomialDecay(1.0, 8, 0.0)
        target = variable()
        optimizer = kind(schedule, gradient_accumulation_steps=2)
        optimizer.build([target])
        for _ in range(6):
            optimizer.apply([keras.ops.ones(SHAPE)], [target])
        results.append(on_host(target)[0, 0])
    assert results[0] == pytest.approx(results[1])


# -- structure ------------------------------------------------------------------------------


def momentum_from(start: int, steps: int, nesterov_from: int = 99) -> float:
    value, velocity = 1.0, 0.0
    for step in range(steps):
        velocity = (0.5 if step >= start else 0.0) * velocity - 0.25
        nesterov = step >= nesterov_from
        value += 0.5 * velocity - 0.25 if nesterov else velocity if step >= start else -0.25
    return value


def test_momentum_in_the_middle_of_fit() -> None:
    """A slot that did not exist: it appears, and training goes on."""
    optimizer = pellucid.keras.SGD(0.25)
    model = model_of(optimizer)
    start = At("on_train_batch_end", lambda n: setattr(optimizer, "momentum", 0.5) if n == 3 else 0)
    train(model, [start], epochs=2)
    expected, velocity = 1 - 3 * 0.25, 0.0
    for _ in range(5):
        velocity = 0.5 * velocity - 0.25
        expected += velocity
    assert weight(model) == pytest.approx(expected)
    assert any(each.path.endswith("kernel_momentum") for each in optimizer.variables)
    assert int(on_host(optimizer.iterations)) == 8


def test_options_in_the_middle_of_fit() -> None:
    """nesterov on SGD, amsgrad on Adam (whose third slot appears then)."""
    results = []
    for nesterov_at in (2, None):
        optimizer = pellucid.keras.SGD(0.25, momentum=0.5, nesterov=nesterov_at is None)
        model = model_of(optimizer)

        def turn(count: int, optimizer: Any = optimizer, at: Any = nesterov_at) -> None:
            if count == at:
                optimizer.nesterov = True

        train(model, [At("on_train_batch_end", turn)])
        results.append(weight(model))
    velocity, value = 0.0, 1.0
    for step in range(4):
        velocity = 0.5 * velocity - 0.25
        value += velocity if step < 2 else 0.5 * velocity - 0.25
    assert results[0] == pytest.approx(value)
    assert results[1] != pytest.approx(value)


def test_amsgrad_in_the_middle() -> None:
    target, optimizer = variable(), pellucid.keras.Adam(0.125, beta_2=0.5)
    stepper = Stepper(optimizer, [target])
    for size in (8.0, 8.0):
        stepper([ones() * size])
    plain = np.asarray(on_host(target)).copy()
    optimizer.amsgrad = True
    stepper.forget()
    for size in (8.0, 0.125):
        stepper([ones() * size])
    twin, other = variable(), pellucid.keras.Adam(0.125, beta_2=0.5)
    again = Stepper(other, [twin])
    for size in (8.0, 8.0, 8.0, 0.125):
        again([ones() * size])
    assert optimizer.amsgrad is True
    assert not np.allclose(on_host(target), on_host(twin), rtol=1e-4)
    assert not np.allclose(on_host(target), plain)
    slots = optimizer.core.parameters[0].slots
    assert on_host(slots["max_second_moment"])[0, 0] > on_host(slots["second_moment"])[0, 0]


@pytest.mark.parametrize("how", [{"run_eagerly": True}, {"steps_per_execution": 2}])
def test_other_ways_to_compile(how: dict[str, Any]) -> None:
    if BACKEND == "torch" and "steps_per_execution" in how:
        how = {}  # Keras has none there
    optimizer = pellucid.keras.SGD(0.25)
    model = model_of(optimizer, **how)

    def change(count: int) -> None:
        if count == 1:
            optimizer.learning_rate = 0.5
        if count == 2:
            optimizer.learning_rate = lambda step: 1.0 if step >= 2 else 9.0

    train(model, [At("on_train_batch_end", change)], steps=6)
    each = 2 if "steps_per_execution" in how else 1
    wanted = 1 - each * 0.25 - each * 0.5 - (6 - 2 * each) * 1.0
    assert weight(model) == pytest.approx(wanted)


def test_ema_momentum_is_live_in_fit() -> None:
    """Keras's own number: its compiled step is made anew."""
    optimizer = pellucid.keras.SGD(1.0, use_ema=True, ema_momentum=0.5)
    model = model_of(optimizer)
    change = At("on_train_batch_end", lambda n: setattr(optimizer, "ema_momentum", 0.25))
    train(model, [change])
    average, value = 1.0, 1.0
    for step in range(4):
        value -= 1.0
        momentum = 0.5 if step == 0 else 0.25
        average = value if step == 0 else momentum * average + (1 - momentum) * value
    (held,) = optimizer._model_variables_moving_average
    assert float(on_host(held)[0, 0]) == pytest.approx(average)


# -- loops of one's own ---------------------------------------------------------------------


@pytest.mark.backends("tensorflow")
def test_assignment_inside_of_a_tf_function() -> None:
    import tensorflow as tf

    target, optimizer = variable(), pellucid.keras.SGD(0.25)
    optimizer.build([target])

    @tf.function
    def by_assign(rate: Any) -> Any:
        optimizer.learning_rate.assign(rate)
        optimizer.apply([tf.ones(SHAPE)], [target])
        return target.value[0, 0]

    @tf.function
    def by_attribute(rate: Any) -> Any:
        optimizer.learning_rate = rate
        optimizer.apply([tf.ones(SHAPE)], [target])
        return target.value[0, 0]

    @tf.function
    def by_number() -> Any:
        optimizer["learning_rate"] = 0.125
        optimizer.apply([tf.ones(SHAPE)], [target])
        optimizer.learning_rate.assign_add(0.5)
        return target.value[0, 0]

    assert float(by_assign(tf.constant(0.5))) == 0.5
    assert float(by_assign(tf.constant(0.25))) == 0.25
    assert float(by_attribute(tf.constant(1.0))) == -0.75
    assert float(by_attribute(tf.constant([0.25]))) == -1.0
    for count in (1, 2):
        assert float(by_number()) == -1.0 - 0.125 * count
        assert optimizer.get_config()["learning_rate"] == 0.625
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"sgd/learning_rate is -1\.0"):
        by_assign(tf.constant(-1.0))
    assert float(target.value[0, 0]) == -1.25
    assert int(optimizer.iterations) == 6


@pytest.mark.backends("jax")
def test_assignment_inside_of_a_jitted_loop() -> None:
    import jax

    target, optimizer = variable(), pellucid.keras.SGD(0.25)
    optimizer.build([target])
    traces = []

    @jax.jit
    def step(params: Any, state: Any, rate: Any) -> Any:
        traces.append(1)
        mapping = [*zip(optimizer.variables, state, strict=True)]
        with keras.StatelessScope(state_mapping=mapping) as scope:
            optimizer.learning_rate = rate
            state = [scope.get_current_value(each) for each in optimizer.variables]
        return optimizer.stateless_apply(state, [np.ones(SHAPE, "float32")], params)

    params, state = [target.value], [each.value for each in optimizer.variables]
    for rate in (0.5, 0.25, 1.0):
        params, state = step(params, state, rate)
    assert float(params[0][0, 0]) == -0.75
    assert len(traces) == 1
    for each, value in zip(optimizer.variables, state, strict=True):
        each.assign(value)
    assert optimizer.get_config()["learning_rate"] == 1.0


@pytest.mark.backends("jax")
def test_state_written_back_keeps_what_drives_a_value() -> None:
    import jax

    target, optimizer = variable(), pellucid.keras.SGD(lambda step: 0.25 * (step + 1))
    optimizer.build([target])
    step = jax.jit(lambda params, state: optimizer.stateless_apply(state, [ones()], params))
    params = [target.value]
    for count in range(3):
        params, state = step(params, [each.value for each in optimizer.variables])
        for each, value in zip(optimizer.variables, state, strict=True):
            each.assign(value)
        assert float(params[0][0, 0]) == 1 - 0.25 * sum(range(count + 2))
    with pytest.raises(HyperparameterError, match=r"sgd/learning_rate follows .* assign a Python"):
        optimizer.learning_rate.assign(keras.ops.convert_to_tensor(9.0))
    optimizer.learning_rate = keras.ops.convert_to_tensor(9.0)
    assert optimizer.get_config()["learning_rate"] == 9.0


CHANGES: dict[str, Any] = {
    "schedule": lambda o: setattr(o, "learning_rate", pellucid.schedules.Linear(0.25, 0.75, 2)),
    "slot": lambda o: setattr(o, "momentum", 0.5),
    "option": lambda o: setattr(o, "maximize", True),
}
AFTER = {"schedule": 0.25,  "slot": 0.5, "option": 1.0}


@pytest.mark.parametrize("change", CHANGES)
def test_loop_of_ones_own_does_not_go_on_with_the_old_structure(change: str) -> None:
    """JAX compiles anew; TensorFlow cannot, and says so; torch is eager."""
    target, optimizer = variable(), pellucid.keras.SGD(0.25)
    stepper = Stepper(optimizer, [target])
    stepper([ones()])
    CHANGES[change](optimizer)
    if BACKEND == "tensorflow":
        import tensorflow as tf

        with pytest.raises(tf.errors.InvalidArgumentError, match=r"sgd has changed \(sgd/"):
            stepper([ones()])
        assert on_host(target)[0, 0] == 0.75
        assert int(optimizer.iterations) == 1
        stepper.forget()
    stepper([ones()])
    assert on_host(target)[0, 0] == AFTER[change]
    assert stepper.traces == (2 if COMPILED else 0)


@pytest.mark.backends("tensorflow")
@pytest.mark.parametrize("change", CHANGES)
def test_traced_update_of_before_is_skipped_and_reported(change: str) -> None:
    """Where XLA must compile all of it, nothing can be raised from within."""
    import tensorflow as tf

    target, optimizer = variable(), pellucid.keras.SGD(0.25)
    optimizer.build([target])
    step = tf.function(lambda: optimizer.apply([tf.ones(SHAPE)], [target]), jit_compile=True)
    step()
    CHANGES[change](optimizer)
    step()
    assert on_host(target)[0, 0] == 0.75
    with pytest.raises(HyperparameterError, match=r"sgd has changed \(sgd/.* Compile it anew"):
        _ = optimizer.learning_rate
    tf.function(lambda: optimizer.apply([tf.ones(SHAPE)], [target]), jit_compile=True)()
    assert on_host(target)[0, 0] == AFTER[change]


@pytest.mark.backends("tensorflow")
def test_structure_does_not_change_inside_of_a_tf_function() -> None:
    import tensorflow as tf

    target, optimizer = variable(), pellucid.keras.SGD(0.25)
    optimizer.build([target])
    for name, value, text in (
        ("momentum", tf.constant(0.5), "decides which slots"), ("momentum", 0.5, "decides which"),
        ("learning_rate", pellucid.schedules.Linear(1.0, 0.0, 5), "assign it outside"),
        ("nesterov", True, "assign it outside"),
    ):  # fmt: skip
        def assign(name: str = name, value: Any = value) -> None:
            setattr(optimizer, name, value)

        with pytest.raises(HyperparameterError, match=f"sgd/{name} .*{text}"):
            tf.function(assign, autograph=False)()
    assert optimizer.get_config()["momentum"] == 0.0
    optimizer.learning_rate = lambda step: 0.5
    with pytest.raises(HyperparameterError, match="follows"):
        tf.function(lambda: optimizer.learning_rate.assign(0.5), autograph=False)()


@pytest.mark.backends("torch")
def test_torch_loop_with_grad() -> None:
    import torch

    model = model_of(pellucid.keras.SGD(0.25))
    optimizer = model.optimizer
    optimizer.build(model.trainable_variables)
    for rate in (0.25, 0.5):
        optimizer.learning_rate = rate
        model.zero_grad()
        model(torch.ones(1, 1)).sum().backward()
        grads = [each.value.grad for each in model.trainable_variables]
        with torch.no_grad():
            optimizer.apply(grads, model.trainable_variables)
    assert weight(model) == 0.25


@pytest.mark.backends("tensorflow")
def test_gradient_tape() -> None:
    import tensorflow as tf

    model = model_of(pellucid.keras.SGD(0.25))
    for rate in (0.25, 0.5):
        model.optimizer.lr = rate
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(model(tf.ones((1, 1))))
        grads = tape.gradient(loss, model.trainable_variables)
        model.optimizer.apply_gradients(zip(grads, model.trainable_variables, strict=True))
    assert weight(model) == 0.25


def test_train_on_batch() -> None:
    optimizer = pellucid.keras.SGD(0.25)
    model = model_of(optimizer)
    x = np.ones((1, 1), "float32")
    model.train_on_batch(x, x)
    optimizer.learning_rate = 0.5
    model.train_on_batch(x, x)
    optimizer.learning_rate = lambda step: float(step)
    model.train_on_batch(x, x)
    assert weight(model) == pytest.approx(1 - 0.25 - 0.5 - 2.0)


# -- Keras's callbacks ----------------------------------------------------------------------


def test_learning_rate_scheduler_and_plateau() -> None:
    optimizer = pellucid.keras.SGD(0.25)
    model = model_of(optimizer)
    scheduler = keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate * 2)
    history = train(model, [scheduler], epochs=2)
    assert history.history["learning_rate"] == [0.5, 1.0]
    assert weight(model) == pytest.approx(1 - 4 * 0.5 - 4 * 1.0)
    plateau = keras.callbacks.ReduceLROnPlateau("loss", factor=0.5, patience=1, mode="max")
    optimizer.learning_rate = 0.5
    train(model, [plateau], epochs=3)
    assert optimizer.get_config()["learning_rate"] == 0.125


def test_other_callbacks(tmp_path: Any) -> None:
    optimizer = pellucid.keras.SGD(0.25, use_ema=True, ema_momentum=0.5)
    model = model_of(optimizer)
    change = At("on_train_batch_end", lambda n: setattr(optimizer, "learning_rate", 0.5))
    x = np.ones((2, 1), "float32")
    model.fit(
        x, x, batch_size=1, epochs=2, verbose=0, shuffle=False, validation_data=(x, x),
        callbacks=[
            change, keras.callbacks.CSVLogger(tmp_path / "log.csv"),
            keras.callbacks.EarlyStopping("loss", patience=3),
            keras.callbacks.BackupAndRestore(tmp_path / "backup"),
            keras.callbacks.SwapEMAWeights(),
            keras.callbacks.ModelCheckpoint(tmp_path / "model.weights.h5", save_weights_only=True),
            keras.callbacks.TerminateOnNaN(),
        ],
    )  # fmt: skip
    average, value = 1.0, 1.0
    for step, rate in enumerate((0.25, 0.5, 0.5, 0.5)):
        value -= rate
        average = value if step == 0 else 0.5 * average + 0.5 * value
    assert weight(model) == pytest.approx(average)
    assert len((tmp_path / "log.csv").read_text().splitlines()) == 3
    assert optimizer.get_config()["learning_rate"] == 0.5
