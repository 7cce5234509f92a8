"""Saving and loading: training goes on bit for bit, and Keras's own files are read."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras.src.saving.serialization_lib import SafeModeScope

import pellucid.keras
from pellucid import chain, ref, route, schedules
from pellucid.keras.host_values import on_host
from pellucid.transforms import add_noise, average_weights, clip_by_global_norm

BACKEND = keras.backend.backend()
X = np.random.default_rng(0).normal(size=(32, 4)).astype("float32")
Y = np.tanh(X.sum(1, keepdims=True)).astype("float32")
BATCH = 8  # four updates an epoch
PLAIN = {"run_eagerly": True} if BACKEND == "tensorflow" else {}
"""Where it does not matter how a model runs: on TensorFlow, a trace costs more than some steps."""


def model(optimizer: Any, **compile_arguments: Any) -> Any:
    keras.utils.set_random_seed(3)
    made = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(3, "tanh", name="inner"),
            keras.layers.Dense(1, name="outer"),
        ]
    )
    made.compile(optimizer, "mse", **compile_arguments)
    return made


def fit(made: Any, epochs: int = 1, **arguments: Any) -> Any:
    made.fit(X, Y, BATCH, epochs, shuffle=False, verbose=0, **arguments)
    return made


def whole(**arguments: Any) -> Any:
    """An optimizer with all kinds of state."""
    stage = chain(
        clip_by_global_norm(0.3),
        add_noise(1e-3),
        pellucid.SGD(schedules.Cosine(0.1, 40), momentum=0.9, nesterov=True),
        average_weights(0.9),
    )
    groups = {"*/bias": {"momentum": 0.5}}
    return pellucid.keras.Optimizer(stage, groups=groups, seed=7, weight_decay=0.01, **arguments)


def same(one: Any, other: Any) -> None:
    """Weights and slots are equal to the last bit."""
    for a, b in zip(one.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    a, b = inner(one), inner(other)
    assert int(on_host(a._iterations)) == int(on_host(b._iterations))
    for mine, theirs in zip(a.core.parameters, b.core.parameters, strict=True):
        assert mine.slots.keys() == theirs.slots.keys()
        for full, slot in mine.slots.items():
            np.testing.assert_array_equal(on_host(slot), on_host(theirs.slots[full]))


def inner(made: Any) -> Any:
    return getattr(made.optimizer, "inner_optimizer", made.optimizer)


def close(one: Any, other: Any) -> None:
    for a, b in zip(one.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6)


# -- going on -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["model.keras", "x.weights.h5", "unbuilt.weights.h5"])
def test_training_goes_on_bit_for_bit(kind: str, tmp_path: Path) -> None:
    stopped = fit(model(whole()))
    path = tmp_path / kind
    if kind == "model.keras":
        stopped.save(path)
        resumed = keras.models.load_model(path)
    else:
        stopped.save_weights(path)
        resumed = model(whole())
        if not kind.startswith("unbuilt"):
            fit(resumed)
        resumed.load_weights(path)
    same(fit(stopped), fit(resumed))


@pytest.mark.parametrize("rule", ["Adagrad", "Nadam", "ASGD"])
def test_every_kind_of_slot_goes_on(rule: str, tmp_path: Path) -> None:
    stopped = fit(model(getattr(pellucid.keras, rule)(0.01)))
    stopped.save(tmp_path / "m.keras")
    same(fit(stopped), fit(keras.models.load_model(tmp_path / "m.keras")))


def test_slots_that_ask_whether_they_are_new(tmp_path: Path) -> None:
    def made() -> Any:
        rule = pellucid.SGD(0.05, momentum=0.9)  # its velocity starts as the first gradient
        return model(pellucid.keras.Optimizer(chain(rule, average_weights(0.9))))

    stopped = fit(made())
    stopped.save_weights(tmp_path / "x.weights.h5")
    resumed = made()
    resumed.load_weights(tmp_path / "x.weights.h5")
    same(fit(stopped), fit(resumed))


def test_averages_accumulators_and_a_changed_momentum_go_on(tmp_path: Path) -> None:
    def made() -> Any:
        return model(
            pellucid.keras.Lion(
                1e-3, use_ema=True, ema_momentum=0.9, gradient_accumulation_steps=3
            )
        )

    stopped = fit(made())
    stopped.optimizer.ema_momentum = 0.8
    stopped.save_weights(tmp_path / "x.weights.h5")
    resumed = fit(made())
    resumed.load_weights(tmp_path / "x.weights.h5")
    assert resumed.optimizer.ema_momentum == 0.8
    same(fit(stopped), fit(resumed))


def test_checkpoints_and_backups_of_fit(tmp_path: Path) -> None:
    class Stop(keras.callbacks.Callback):
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            if int(on_host(self.model.optimizer.iterations)) == 6:
                raise KeyboardInterrupt

    straight = fit(model(whole()), 3)
    backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
    keep = keras.callbacks.ModelCheckpoint(tmp_path / "{epoch}.keras")
    with pytest.raises(KeyboardInterrupt):
        fit(model(whole()), 3, callbacks=[backup, keep, Stop()])
    resumed = fit(model(whole()), 3, callbacks=[backup])
    same(straight, resumed)
    again = keras.models.load_model(tmp_path / "1.keras")
    fit(again, 3, initial_epoch=1)
    same(straight, again)


def test_a_load_inside_of_fit(tmp_path: Path) -> None:
    class Load(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
            if batch == 2 and not self.done:
                self.model.load_weights(tmp_path / "x.weights.h5")
                self.done = True

        done = False

    start = model(pellucid.keras.SGD(0.1, momentum=0.9))
    fit(start)
    start.save_weights(tmp_path / "x.weights.h5")
    other = model(pellucid.keras.SGD(0.1))  # without a velocity: one appears in the middle of fit
    fit(other, callbacks=[Load()])
    assert other.optimizer.momentum.value == np.float32(0.9)
    start.fit(X[16:], Y[16:], BATCH, shuffle=False, verbose=0)
    same(start, other)


def test_present_values_come_without_a_configuration(tmp_path: Path) -> None:
    stopped = fit(model(pellucid.keras.Adam(1e-3, clipnorm=1.0)))
    stopped.optimizer.beta_1 = 0.95
    stopped.optimizer.clipnorm = 0.5
    stopped.optimizer.epsilon = schedules.Constant(1e-5)
    stopped.save_weights(tmp_path / "x.weights.h5")
    resumed = fit(model(pellucid.keras.Adam(0.5, clipnorm=9.0)))
    resumed.load_weights(tmp_path / "x.weights.h5")
    found = resumed.optimizer
    assert found.get_config() | {"name": ""} == stopped.optimizer.get_config() | {"name": ""}
    assert found.get_config()["beta_1"] == 0.95  # no copy in float32
    same(fit(stopped), fit(resumed))
    values = {full: cell.number for full, cell in found.core.groups[0].cells.items()}
    assert (values["beta1"], values["clipnorm.max_norm"]) == (0.95, 0.5)


def test_an_option_and_its_slot_come_and_go(tmp_path: Path) -> None:
    plain, other = fit(model(pellucid.keras.Adam())), fit(model(pellucid.keras.Adam(amsgrad=True)))
    for one, path in ((plain, "a.weights.h5"), (other, "b.weights.h5")):
        one.save_weights(tmp_path / path)
    first = fit(model(pellucid.keras.Adam()))
    first.load_weights(tmp_path / "b.weights.h5")
    same(fit(other), fit(first))
    second = fit(model(pellucid.keras.Adam(amsgrad=True)))
    second.load_weights(tmp_path / "a.weights.h5")
    same(fit(plain), fit(second))


def test_routes_go_on(tmp_path: Path) -> None:
    def made() -> Any:
        return model(
            pellucid.keras.Optimizer(
                route({"*/bias": pellucid.SGD(0.1, momentum=0.9), "*": pellucid.NAdam()})
            )
        )

    stopped = fit(made())
    stopped.save(tmp_path / "m.keras")
    same(fit(stopped), fit(keras.models.load_model(tmp_path / "m.keras")))


def test_the_journal_goes_on(tmp_path: Path) -> None:
    stopped = fit(model(pellucid.keras.Adam()))
    stopped.optimizer.beta_1 = 0.95
    stopped.save_weights(tmp_path / "x.weights.h5")
    resumed = model(pellucid.keras.Adam())
    resumed.load_weights(tmp_path / "x.weights.h5")
    fit(resumed)
    (change,) = resumed.optimizer.journal
    assert (change.step, change.name, change.old, change.new) == (5, "beta1", 0.9, 0.95)


def test_loss_scaling_goes_on(tmp_path: Path) -> None:
    def made() -> Any:
        scaled = keras.optimizers.LossScaleOptimizer(
            pellucid.keras.Adam(schedules.Cosine(0.01, 20)), dynamic_growth_steps=3
        )
        return model(scaled)

    stopped = fit(made())
    stopped.save(tmp_path / "m.keras")
    stopped.save_weights(tmp_path / "x.weights.h5")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    resumed = fit(made())
    resumed.load_weights(tmp_path / "x.weights.h5")
    scale = resumed.optimizer.dynamic_scale
    assert float(on_host(scale)) == float(on_host(stopped.optimizer.dynamic_scale))
    fit(stopped)
    same(stopped, fit(loaded))
    same(stopped, fit(resumed))


def test_copies_have_the_state(tmp_path: Path) -> None:
    stopped = fit(model(whole()))
    weights = stopped.get_weights()
    one, other = pickle.loads(pickle.dumps(stopped.optimizer)), copy.deepcopy(stopped.optimizer)
    assert one.get_config() == other.get_config() == stopped.optimizer.get_config()
    resumed = model(one)
    resumed.set_weights(weights)
    same(fit(stopped), fit(resumed))
    fresh = type(stopped.optimizer).from_config(stopped.optimizer.get_config())
    assert not fresh.built
    assert int(on_host(fresh.iterations)) == 0


def test_a_model_saved_before_training_loads(tmp_path: Path) -> None:
    made = model(pellucid.keras.Adam(0.5))
    made.save(tmp_path / "m.keras")
    made.save_weights(tmp_path / "x.weights.h5")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    same(fit(made), fit(loaded))
    with pytest.raises(ValueError, match="saved before the optimizer was built"):
        loaded.load_weights(tmp_path / "x.weights.h5")


# -- Keras's own ----------------------------------------------------------------------------

OWN = [
    ("SGD", {}),
    ("SGD", {"momentum": 0.9, "nesterov": True}),
    ("Adam", {}),
    ("Adam", {"amsgrad": True}),
    ("AdamW", {}),
    ("RMSprop", {"momentum": 0.5, "centered": True}),
    ("Adagrad", {}),
    ("Adadelta", {"learning_rate": 0.5}),
    ("Adamax", {}),
    ("Nadam", {}),
    ("Ftrl", {}),
    ("Lion", {}),
    ("Adam", {"gradient_accumulation_steps": 2}),
    ("Adam", {"learning_rate": "schedule"}),
]
if BACKEND != "jax":  # where a second fit fails with Keras's own averages: they share arrays
    OWN.append(("Adam", {"use_ema": True, "ema_momentum": 0.9, "gradient_accumulation_steps": 2}))


def arguments_of(given: dict[str, Any]) -> dict[str, Any]:
    if given.get("learning_rate") == "schedule":
        return {"learning_rate": keras.optimizers.schedules.ExponentialDecay(0.01, 3, 0.5)}
    return {"learning_rate": 0.01, **given}


@pytest.mark.parametrize(("name", "given"), OWN, ids=str)
def test_files_go_between_ours_and_kerass_own(
    name: str, given: dict[str, Any], tmp_path: Path
) -> None:
    def ours() -> Any:
        return model(getattr(pellucid.keras, name)(**arguments_of(given)))

    def theirs() -> Any:
        return model(getattr(keras.optimizers, name)(**arguments_of(given)), **PLAIN)

    path = tmp_path / "x.weights.h5"
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # Keras warns where it skips a load
        straight = fit(theirs())
        straight.save_weights(path)
        one = ours()
        one.load_weights(path)
        close(fit(straight), fit(one))
        assert int(on_host(one.optimizer._iterations)) == 8
        one.save_weights(path)
        other = theirs()
        other.build((None, 4))
        other.optimizer.build(other.trainable_variables)
        other.load_weights(path)
        close(fit(straight), fit(other))


def test_a_learning_rate_of_a_file_of_kerass_own(tmp_path: Path) -> None:
    path = tmp_path / "x.weights.h5"
    fit(model(keras.optimizers.Adam(0.25))).save_weights(path)
    one = fit(model(pellucid.keras.Adam(0.5)))
    one.load_weights(path)
    assert one.optimizer.get_config()["learning_rate"] == 0.25
    assert [(c.name, c.old, c.new, c.source) for c in one.optimizer.journal] == [
        ("learning_rate", 0.5, 0.25, "load")
    ]


def test_parameters_that_missed_updates_keep_their_own_product(tmp_path: Path) -> None:
    variables = [keras.Variable(np.ones(2, "float32"), name=name) for name in "ab"]
    optimizer = pellucid.keras.Nadam()
    optimizer.build(variables)
    grad = keras.ops.ones(2)
    optimizer.apply([grad, grad], variables)
    with pytest.warns(UserWarning, match="Gradients do not exist"):
        optimizer.apply([grad, None], variables)
    again = pickle.loads(pickle.dumps(optimizer))
    again.build(variables)
    found = [
        [float(on_host(one.slots["mu_product"])) for one in each.core.parameters]
        for each in (optimizer, again)
    ]
    assert found[0] == found[1]
    assert found[0][0] != found[0][1]


# -- what does not fit ----------------------------------------------------------------------


def state(made: Any) -> list[Any]:
    return [on_host(one).copy() for one in made.optimizer.variables]


@pytest.mark.parametrize(
    ("saved", "words"),
    [
        (lambda: pellucid.keras.Adam(), "it was saved by Adam"),
        (lambda: keras.optimizers.Adam(), "it has 10 arrays without names.*has 6: iteration"),
        (lambda: keras.optimizers.SGD(), "missing are at least the last, .*outer/bias/momentum"),
        (
            lambda: pellucid.keras.SGD(momentum=0.9, use_ema=True),
            "only the file has .*inner/kernel/average",
        ),
        (
            lambda: pellucid.keras.SGD(momentum=0.9, groups={"*/bias": {"momentum": 0.5}}),
            r"its groups of variables are .*'\*/bias' of 2; here 'group 0' of 4",
        ),
        (
            lambda: pellucid.keras.SGD(momentum=0.9, gradient_accumulation_steps=2),
            "gradient_accumulation_steps is 2 there and None here",
        ),
    ],
)
def test_what_does_not_fit_is_named_and_nothing_loaded(
    saved: Any, words: str, tmp_path: Path
) -> None:
    fit(model(saved(), **PLAIN)).save_weights(tmp_path / "x.weights.h5")
    made = fit(model(pellucid.keras.SGD(momentum=0.9)))
    before, config = state(made), made.optimizer.get_config()
    with pytest.raises(ValueError, match=f"(?s)does not fit.*{words}.*Nothing of the optimizer"):
        made.load_weights(tmp_path / "x.weights.h5")
    for a, b in zip(before, state(made), strict=True):
        np.testing.assert_array_equal(a, b)
    assert made.optimizer.get_config() == config
    fit(made)


def test_a_shape_that_differs_is_named(tmp_path: Path) -> None:
    store: dict[str, Any] = {}
    made = fit(model(pellucid.keras.SGD(momentum=0.9)))
    made.optimizer.save_own_variables(store)
    store["3"] = np.zeros(7, "float32")
    with pytest.raises(ValueError, match=r"bias/momentum has shape \(7,\) there, \(3,\) here"):
        made.optimizer.load_own_variables(store)


def test_a_mismatch_found_at_the_build_leaves_nothing_half_built(tmp_path: Path) -> None:
    fit(model(pellucid.keras.Adam())).save_weights(tmp_path / "x.weights.h5")
    good = fit(model(pellucid.keras.SGD(momentum=0.9)))
    good.save_weights(tmp_path / "y.weights.h5")
    made = model(pellucid.keras.SGD(momentum=0.9))
    made.load_weights(tmp_path / "x.weights.h5")  # it waits for the build
    variables = len(made.optimizer.variables)
    for _ in range(2):
        with pytest.raises(ValueError, match="it was saved by Adam"):
            made.optimizer.build(made.trainable_variables)
        assert not made.optimizer.built
        assert len(made.optimizer.variables) == variables
    made.load_weights(tmp_path / "y.weights.h5")
    same(fit(good), fit(made))


def test_weights_without_an_optimizers_state_load(tmp_path: Path) -> None:
    bare = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    bare.save_weights(tmp_path / "x.weights.h5")
    made = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    made.compile(pellucid.keras.Adam(), "mse")
    fit(made)
    with pytest.warns(UserWarning, match="no state of an optimizer"):
        made.load_weights(tmp_path / "x.weights.h5")
    np.testing.assert_array_equal(made.get_weights()[0], bare.get_weights()[0])


# -- functions ------------------------------------------------------------------------------


def halved(step: int) -> float:
    return 0.01 * 0.5**step


def test_a_function_with_a_name_is_saved(tmp_path: Path) -> None:
    stopped = fit(model(pellucid.keras.SGD(halved)))
    stopped.save(tmp_path / "m.keras")
    same(fit(stopped), fit(keras.models.load_model(tmp_path / "m.keras")))


def test_a_lambda_is_saved_as_keras_does(tmp_path: Path) -> None:
    def made() -> Any:
        return model(pellucid.keras.SGD(lambda step: 0.01 * 0.5**step))

    stopped = fit(made())
    stopped.save_weights(tmp_path / "x.weights.h5")
    with pytest.warns(UserWarning, match="lambda"):
        stopped.save(tmp_path / "m.keras")
    resumed = made()
    resumed.load_weights(tmp_path / "x.weights.h5")
    straight = fit(stopped)
    same(straight, fit(resumed))
    number = fit(model(pellucid.keras.SGD(0.3)))
    with pytest.raises(ValueError, match="assign the function first, then load"):
        number.load_weights(tmp_path / "x.weights.h5")
    number.optimizer.learning_rate = halved
    number.load_weights(tmp_path / "x.weights.h5")
    same(straight, fit(number))
    with pytest.raises((ValueError, TypeError), match=r"unsafe|safe_mode"):
        keras.models.load_model(tmp_path / "m.keras")
    with SafeModeScope(False):
        same(straight, fit(keras.models.load_model(tmp_path / "m.keras", safe_mode=False)))


def test_kerass_schedules_and_refs_are_saved(tmp_path: Path) -> None:
    def made() -> Any:
        rate = keras.optimizers.schedules.CosineDecay(0.1, 20)
        rule = pellucid.SGD(rate, momentum=0.9, dampening=ref("momentum"))
        return model(pellucid.keras.Optimizer(rule))

    stopped = fit(made())
    stopped.save(tmp_path / "m.keras")
    same(fit(stopped), fit(keras.models.load_model(tmp_path / "m.keras")))


# -- TensorFlow's checkpoints ---------------------------------------------------------------


@pytest.mark.backends("tensorflow")
@pytest.mark.parametrize("built", [True, False])
def test_a_tensorflow_checkpoint_goes_on(built: bool, tmp_path: Path) -> None:
    import tensorflow as tf

    stopped = fit(model(whole()))
    manager = tf.train.CheckpointManager(
        tf.train.Checkpoint(model=stopped, optimizer=stopped.optimizer), tmp_path, 2
    )
    manager.save()
    resumed = model(whole())
    if built:
        fit(resumed)
    found = tf.train.Checkpoint(model=resumed, optimizer=resumed.optimizer)
    status = found.restore(manager.latest_checkpoint)
    if built:
        status.assert_existing_objects_matched()
    same(fit(stopped), fit(resumed))
    status.assert_existing_objects_matched()


@pytest.mark.backends("tensorflow")
def test_slots_of_a_tensorflow_checkpoint_come_and_go(tmp_path: Path) -> None:
    import tensorflow as tf

    path = str(tmp_path / "x")
    other = fit(model(pellucid.keras.Adam(amsgrad=True)))
    other.optimizer.beta_1 = 0.95
    tf.train.Checkpoint(model=other, optimizer=other.optimizer).write(path)
    plain = fit(model(pellucid.keras.Adam()))
    tf.train.Checkpoint(model=plain, optimizer=plain.optimizer).read(path).assert_consumed()
    assert plain.optimizer.get_config()["beta_1"] == 0.95
    same(fit(other), fit(plain))
    wrong = fit(model(pellucid.keras.SGD()))
    before = state(wrong)
    with pytest.raises(ValueError, match="it was saved by Adam"):
        tf.train.Checkpoint(model=wrong, optimizer=wrong.optimizer).read(path)
    for a, b in zip(before, state(wrong), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.backends("tensorflow")
@pytest.mark.parametrize("name", ["Adam", "Adagrad", "Nadam"])
@pytest.mark.parametrize("built", [True, False])
def test_tensorflow_checkpoints_of_kerass_own(name: str, built: bool, tmp_path: Path) -> None:
    import tensorflow as tf

    def made(of: Any) -> Any:
        return model(getattr(of, name)(0.01))

    path = str(tmp_path / "x")
    stopped = fit(made(keras.optimizers))
    tf.train.Checkpoint(model=stopped, optimizer=stopped.optimizer).write(path)
    ours = made(pellucid.keras)
    if built:
        fit(ours)
    tf.train.Checkpoint(model=ours, optimizer=ours.optimizer).read(path)
    close(fit(stopped), fit(ours))
    tf.train.Checkpoint(model=ours, optimizer=ours.optimizer).write(path)
    theirs = fit(made(keras.optimizers))
    tf.train.Checkpoint(model=theirs, optimizer=theirs.optimizer).read(path)
    close(fit(stopped), fit(theirs))


@pytest.mark.backends("tensorflow")
def test_a_trained_model_is_exported(tmp_path: Path) -> None:
    import tensorflow as tf

    made = fit(model(whole()))
    made.export(str(tmp_path / "x"), verbose=False)
    loaded = tf.saved_model.load(str(tmp_path / "x"))
    np.testing.assert_allclose(loaded.serve(X), made.predict(X, verbose=0), rtol=1e-6)


@pytest.mark.backends("torch")
def test_a_step_under_torchs_compiler_calls_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where a file of JAX's says ``jit_compile=True``."""
    import torch

    from pellucid.keras import stepping as module

    def interpreted(*_: Any) -> None:
        raise AssertionError("fell back to the interpreter")

    monkeypatch.setattr(module, "traced_update", interpreted)
    variable = keras.Variable(np.ones(3, "float32"), name="w")
    optimizer = pellucid.keras.SGD(0.5)
    optimizer.build([variable])

    @torch.compile(backend="eager")  # type: ignore[untyped-decorator]
    def step(grad: Any) -> None:
        optimizer.apply([grad * 2], [variable])

    step(torch.ones(3))
    np.testing.assert_array_equal(on_host(variable), [0, 0, 0])


# -- other backends -------------------------------------------------------------------------


def goes_on(path: str, out: str) -> None:
    """In a process of another backend."""
    loaded = keras.models.load_model(path)
    loaded.jit_compile = False  # a file of JAX's says True; torch then takes a minute to compile
    fit(loaded)
    loaded.save(out + ".keras")
    np.savez(out, *loaded.get_weights())


@pytest.mark.backends("jax")  # both ways: what the others save is loaded here
def test_a_file_trains_on_the_other_backends(tmp_path: Path) -> None:
    stopped = fit(model(whole()))
    path = tmp_path / "m.keras"
    stopped.save(path)
    here = Path(__file__).parent
    program = "import sys, test_files as t; t.goes_on(*sys.argv[1:])"
    started = {}
    for other in sorted({"tensorflow", "jax", "torch"} - {BACKEND}):
        paths = [str(here), str(here.parent), os.environ.get("PYTHONPATH", "")]
        environment = {
            **os.environ, "KERAS_BACKEND": other, "PYTHONPATH": os.pathsep.join(paths)
        }  # fmt: skip
        arguments = [sys.executable, "-c", program, str(path), str(tmp_path / other)]
        started[other] = subprocess.Popen(
            arguments, env=environment, stderr=subprocess.PIPE, text=True
        )
    fit(stopped)
    for other, process in started.items():
        _, errors = process.communicate(timeout=600)
        assert process.returncode == 0, errors
        with np.load(tmp_path / f"{other}.npz") as found:
            for a, b in zip(stopped.get_weights(), found.values(), strict=True):
                np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6)
        loaded = keras.models.load_model(tmp_path / f"{other}.keras")
        assert int(on_host(loaded.optimizer.iterations)) == 8
        for a, b in zip(state(stopped), state(loaded), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)

