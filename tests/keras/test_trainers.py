"""Trainers are found, synchronised and traced anew, on whichever backend Keras runs."""

from __future__ import annotations

import gc
import threading
import weakref
from typing import Any

import keras
import numpy
import pytest

from pellucid.keras import trainers
from pellucid.keras.trainers import compiled, rebuild, synchronise, trainers_of

BACKEND = keras.backend.backend()
STEPS = 4
JITS = ["auto", False, True] if BACKEND != "torch" else ["auto"]  # torch.compile: needs a compiler


def model_of(optimizer: Any, cls: type = keras.Sequential, **how: Any) -> Any:
    """One weight, 1 at first, whose loss is its square: gradient 2w."""
    layer = keras.layers.Dense(1, use_bias=False, kernel_initializer="ones")
    if cls is keras.Sequential:
        model = keras.Sequential([keras.Input((1,)), layer])
    else:
        inputs = keras.Input((1,))
        model = cls(inputs, layer(inputs))
    model.compile(optimizer, "mse", **how)
    return model


def train(model: Any, callbacks: Any = (), epochs: int = 1, **how: Any) -> None:
    x = numpy.ones((STEPS * 8, 1), "float32")
    model.fit(
        x, 0 * x, batch_size=8, epochs=epochs, verbose=0, shuffle=False,
        callbacks=[*callbacks], **how,
    )  # fmt: skip


def weight(model: Any) -> float:
    return float(keras.ops.convert_to_numpy(model.trainable_variables[0])[0, 0])


class At(keras.callbacks.Callback):
    """Calls a function of (model, place, count) at each event that is asked for."""

    def __init__(self, function: Any, *events: str) -> None:
        super().__init__()
        self.counts = dict.fromkeys(events, 0)
        for event in events:
            setattr(self, event, self._caller(event, function))

    def _caller(self, event: str, function: Any) -> Any:
        def called(*_: Any, **__: Any) -> None:
            self.counts[event] += 1
            function(self._model, self.counts[event])  # `.model` would synchronise by itself

        return called


EVENTS = ("on_train_batch_begin", "on_train_batch_end", "on_epoch_begin", "on_epoch_end")


# -- finding -------------------------------------------------------------------------------


def test_model_is_found_and_not_kept_alive() -> None:
    optimizer = keras.optimizers.SGD(0.1)
    assert trainers_of(optimizer) == []
    model = model_of(optimizer)
    other = model_of(keras.optimizers.SGD(0.1))
    found = trainers_of(optimizer)
    assert [id(each) for each in found] == [id(model)]
    assert found[0] is not other
    seen = weakref.ref(model)
    del model, found
    keras.backend.clear_session()
    gc.collect()
    assert seen() is None
    assert trainers_of(optimizer) == []
    assert rebuild(optimizer) == 0


def test_inner_optimizers_are_found() -> None:
    inner = keras.optimizers.Adam(0.1)
    model = model_of(keras.optimizers.LossScaleOptimizer(inner))
    assert trainers_of(inner) == [model]
    assert trainers_of(model.optimizer) == [model]


def test_optimizers_of_a_map_are_found() -> None:
    first, rest = keras.optimizers.Adam(0.1), keras.optimizers.SGD(0.1)
    table = keras.optimizers.OptimizerMap(rest, {"dense.*": first})
    multi = keras.optimizers.MultiOptimizer(table)
    model = model_of(multi)
    assert trainers_of(first) == trainers_of(rest) == trainers_of(multi) == [model]


def test_optimizers_under_other_names_are_found() -> None:
    class Two(keras.Model):
        def compile(self, optimizer: Any, *args: Any, **kwargs: Any) -> None:
            super().compile(optimizer, *args, **kwargs)
            self.generators = [keras.optimizers.SGD(0.1)]

    optimizer = keras.optimizers.SGD(0.1)
    model = model_of(optimizer, Two)
    assert trainers_of(model.generators[0]) == [model]


def test_model_in_the_middle_of_fit_is_found_though_frozen() -> None:
    optimizer = keras.optimizers.SGD(0.1)
    model = model_of(optimizer)
    found = []
    gc.collect()
    gc.freeze()  # hides what there is from gc.get_objects()
    try:
        train(model, [At(lambda *_: found.append(trainers_of(optimizer)), "on_train_batch_end")])
    finally:
        gc.unfreeze()
    assert found == [[model]] * STEPS


# -- synchronising -------------------------------------------------------------------------


@pytest.mark.parametrize("event", EVENTS)
def test_variables_hold_true_values(event: str) -> None:
    optimizer = keras.optimizers.SGD(0.1)
    model = model_of(optimizer)
    seen = []

    def look(_: Any, count: int) -> None:
        synchronise(optimizer)
        steps = int(keras.ops.convert_to_numpy(optimizer.iterations))
        seen.append((steps, weight(model)))

    train(model, [At(look, event)], epochs=2)
    steps = {
        "on_train_batch_begin": [*range(8)], "on_train_batch_end": [*range(1, 9)],
        "on_epoch_begin": [0, 4], "on_epoch_end": [4, 8],
    }[event]  # fmt: skip
    assert [count for count, _ in seen] == steps
    assert [value for _, value in seen] == pytest.approx([0.8**count for count in steps], rel=1e-5)
    assert weight(model) == pytest.approx(0.8**8, rel=1e-5)


@pytest.mark.parametrize("event", EVENTS)
def test_written_variable_is_taken_up_by_the_next_step(event: str) -> None:
    optimizer = keras.optimizers.SGD(0.1)
    model = model_of(optimizer)

    def write(_: Any, count: int) -> None:
        if count == 1:
            synchronise(optimizer)
            optimizer.learning_rate.assign(0.25)

    train(model, [At(write, event)], epochs=2)
    before = {
        "on_train_batch_begin": 0, "on_train_batch_end": 1, "on_epoch_begin": 0, "on_epoch_end": 4,
    }[event]  # fmt: skip
    assert weight(model) == pytest.approx(0.8**before * 0.5 ** (8 - before), rel=1e-5)


def test_inner_optimizer_is_synchronised() -> None:
    inner = keras.optimizers.SGD(0.1)
    model = model_of(keras.optimizers.LossScaleOptimizer(inner, initial_scale=2.0))
    seen = []

    def look(_: Any, count: int) -> None:
        synchronise(inner)
        seen.append(int(keras.ops.convert_to_numpy(inner.iterations)))

    train(model, [At(look, "on_train_batch_end")])
    assert seen == [1, 2, 3, 4]


def test_evaluation_inside_of_fit() -> None:
    optimizer = keras.optimizers.SGD(0.1)
    model = model_of(optimizer)
    seen = []

    def look(_: Any, count: int) -> None:
        synchronise(optimizer)
        seen.append(weight(model))

    x = numpy.ones((8, 1), "float32")
    train(model, [At(look, "on_test_batch_end")], validation_data=(x, x))
    assert seen == pytest.approx([0.8**4], rel=1e-5)


@pytest.mark.backends("jax")  # the others keep no state in the trainer
def test_nothing_is_searched_where_nothing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    optimizer = keras.optimizers.SGD(0.1)
    model = model_of(optimizer)
    train(model)
    searches = []

    def search(which: Any) -> Any:
        searches.append(which)
        return trainers_of(which)

    monkeypatch.setattr(trainers, "trainers_of", search)
    synchronise(optimizer)
    assert searches == []
    train(model, [At(lambda *_: synchronise(optimizer), "on_train_batch_end")])
    assert len(searches) <= 1  # the model is remembered


@pytest.mark.backends("jax")  # the others keep no state in the trainer
def test_other_thread_is_refused_and_does_no_harm() -> None:
    optimizer = keras.optimizers.SGD(0.1)
    model = model_of(optimizer)
    errors = []

    def look() -> None:
        try:
            synchronise(optimizer)
        except RuntimeError as error:
            errors.append(str(error))

    def beside(*_: Any) -> None:
        thread = threading.Thread(target=look)
        thread.start()
        thread.join()

    train(model, [At(beside, "on_train_batch_end")])
    assert len(errors) == STEPS
    assert "another thread" in errors[0]
    assert weight(model) == pytest.approx(0.8**4, rel=1e-5)


@pytest.mark.backends("jax")  # the others keep no state in the trainer
def test_changed_number_of_variables_is_refused() -> None:
    optimizer = keras.optimizers.SGD(0.1)
    model = model_of(optimizer)

    def change(_: Any, count: int) -> None:
        optimizer.learning_rate = keras.optimizers.schedules.CosineDecay(0.1, 10)
        synchronise(optimizer)

    with pytest.raises(RuntimeError, match="had 2 variables in the last step and has 1 now"):
        train(model, [At(change, "on_train_batch_end")])


# -- tracing anew --------------------------------------------------------------------------


@pytest.mark.parametrize("event", EVENTS)
@pytest.mark.parametrize("jit", JITS)
def test_rebuilt_step_uses_changed_numbers(event: str, jit: Any) -> None:
    optimizer = keras.optimizers.SGD(0.1, weight_decay=5.0)
    model = model_of(optimizer, jit_compile=jit)
    held = []  # old functions that somebody keeps must not lend the new one their traces

    def change(which: Any, count: int) -> None:
        held.append(which.train_function)
        if count == 1:
            optimizer.weight_decay = 0.0
            assert rebuild(optimizer) == 1

    train(model, [At(change, event)], epochs=2)
    before = {
        "on_train_batch_begin": 0, "on_train_batch_end": 1, "on_epoch_begin": 0, "on_epoch_end": 4,
    }[event]  # fmt: skip
    # decay comes before the step, which has the gradient 2w of before: w (1 - 0.5 - 0.2)
    assert weight(model) == pytest.approx(0.3**before * 0.8 ** (8 - before), rel=1e-4)
    assert "train_step" not in vars(model)


def test_number_is_frozen_without_rebuilding() -> None:
    """What `rebuild` is for: Keras itself ignores the change where steps are compiled."""
    optimizer = keras.optimizers.SGD(0.1, weight_decay=5.0)
    model = model_of(optimizer)
    assert not compiled(optimizer)
    train(model)
    assert compiled(optimizer) == (BACKEND != "torch")
    optimizer.weight_decay = 0.0
    train(model)
    last = 0.8 if BACKEND == "torch" else 0.3
    assert weight(model) == pytest.approx(0.3**4 * last**4, rel=1e-4)


def test_own_train_step_and_several_models() -> None:
    class Own(keras.Model):
        def train_step(self, *args: Any) -> Any:
            return super().train_step(*args)

    optimizer = keras.optimizers.SGD(0.1, weight_decay=5.0)
    model = model_of(optimizer, Own)
    idle = model_of(keras.optimizers.SGD(0.1))
    idle.optimizer = optimizer
    train(model)
    assert rebuild(optimizer) == 1  # the other has no train function yet
    optimizer.weight_decay = 0.0
    train(model)
    assert weight(model) == pytest.approx(0.3**4 * 0.8**4, rel=1e-4)


@pytest.mark.backends("tensorflow", "jax")  # Keras has no steps_per_execution on torch
def test_several_steps_an_execution() -> None:
    optimizer = keras.optimizers.SGD(0.1, weight_decay=5.0)
    model = model_of(optimizer, steps_per_execution=2)

    def change(_: Any, count: int) -> None:
        if count == 1:
            optimizer.weight_decay = 0.0
            rebuild(optimizer)

    train(model, [At(change, "on_train_batch_end")])
    assert weight(model) == pytest.approx(0.3**2 * 0.8**2, rel=1e-4)


def test_new_variables_after_synchronising() -> None:
    """A rate that becomes a schedule: one variable less, all later ones shift by one."""
    optimizer = keras.optimizers.SGD(0.1, momentum=0.5)
    model = model_of(optimizer)
    twin = keras.optimizers.SGD(0.1, momentum=0.5)
    expected = model_of(twin)

    def change(_: Any, count: int) -> None:
        if count == 2:
            synchronise(optimizer)
            optimizer.learning_rate = keras.optimizers.schedules.PiecewiseConstantDecay(
                [0], [1.0, 0.2]
            )
            rebuild(optimizer)

    def write(_: Any, count: int) -> None:
        if count == 2:
            synchronise(twin)
            twin.learning_rate.assign(0.2)

    train(model, [At(change, "on_train_batch_end")])
    train(expected, [At(write, "on_train_batch_end")])
    assert weight(model) == pytest.approx(weight(expected), rel=1e-5)
    assert int(keras.ops.convert_to_numpy(optimizer.iterations)) == STEPS


def test_failure_keeps_the_old_function() -> None:
    class Broken(keras.Model):
        broken = False

        def make_train_function(self, force: bool = False) -> Any:
            if self.broken:
                raise ValueError("no")
            return super().make_train_function(force)

    optimizer = keras.optimizers.SGD(0.1)
    model = model_of(optimizer, Broken)
    train(model)
    before = model.train_function
    model.broken = True
    with pytest.raises(ValueError, match="no"):
        rebuild(optimizer)
    assert model.train_function is before
    assert "train_step" not in vars(model)
