"""What is wrong is said, with its name and what is allowed, and nothing is changed by it."""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np
import pytest

import pellucid
import pellucid.keras
from fitting import At, model_of, train, weight
from pellucid import HyperparameterError
from pellucid.keras.host_values import on_host
from stepper import Stepper

BACKEND = keras.backend.backend()
Error = (HyperparameterError, TypeError, ValueError)


def variable(name: str = "a", dtype: str = "float32") -> Any:
    return keras.Variable(np.ones(3, dtype), dtype=dtype, name=name)


def ones(*shape: int) -> Any:
    return keras.ops.ones(shape or (3,))


# -- hyperparameters ------------------------------------------------------------------------

BAD: dict[str, Any] = {
    "negative": -0.1, "one": 1.0, "nan": math.nan, "inf": math.inf, "None": None, "text": "0.5",
    "bool": True, "complex": 0.5j, "two": np.array([0.1, 0.2]), "list": [0.1, 0.2],
    "none": np.array([]), "a dict": {}, "a class": float, "a bad tensor": np.float32(-1),
    "an array of bool": np.array(True), "text array": np.array("0.5"),
    "complex array": np.array(0.5j), "falling": lambda step: -1.0,
    "text of the step": lambda step: "x",
    "failing": lambda step: 1 / step,
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.parametrize("way", ["attribute", "item", "assign"])
def test_bad_value_keeps_the_old_one(kind: str, way: str) -> None:
    optimizer = pellucid.keras.Adam()
    optimizer.build([variable()])
    write = {
        "attribute": lambda x: setattr(optimizer, "beta_1", x),
        "item": lambda x: optimizer.__setitem__("beta_1", x),
        "assign": lambda x: optimizer.beta_1.assign(x),
    }[way]
    with pytest.raises(HyperparameterError, match="adam/beta_1"):
        write(BAD[kind])
    assert optimizer.get_config()["beta_1"] == 0.9
    assert optimizer.setting("beta_1").driver is None
    assert float(on_host(optimizer.beta_1)) == pytest.approx(0.9)


def test_bad_tensors() -> None:
    optimizer = pellucid.keras.Adam()
    for bad in (keras.ops.convert_to_tensor(-1.0), keras.ops.convert_to_tensor([0.1, 0.2])):
        for write in (optimizer.beta_1.assign, lambda x: setattr(optimizer, "beta_1", x)):
            with pytest.raises(HyperparameterError, match="adam/beta_1"):
                write(bad)
    assert optimizer.get_config()["beta_1"] == 0.9


@pytest.mark.parametrize(
    ("name", "near"),
    [("beta1_", "beta_1"), ("betta_1", "beta_1"), ("learning_rat", "learning_rate"),
     ("LR", "learning_rate"), ("epsilonn", "epsilon"), ("amsgradd", "amsgrad")],
)  # fmt: skip
def test_unknown_attribute(name: str, near: str) -> None:
    class Own(pellucid.keras.Adam):  # type: ignore[name-defined, misc]
        pass

    for optimizer in (pellucid.keras.Adam(), Own()):
        before = set(vars(optimizer))
        hint = f"did you mean {near!r}" if name != "LR" else "no attribute 'LR'"
        with pytest.raises(AttributeError, match=hint):
            setattr(optimizer, name, 0.5)
        with pytest.raises(AttributeError, match=hint):
            getattr(optimizer, name)
        with pytest.raises(KeyError, match="no attribute"):
            _ = optimizer[name]
        assert set(vars(optimizer)) == before


def test_options_and_fixed_attributes() -> None:
    optimizer = pellucid.keras.Adam()
    optimizer.build([variable()])
    with pytest.raises(HyperparameterError, match="adam/amsgrad is 'yes'; allowed is one of False"):
        optimizer.amsgrad = "yes"
    for name, value in (("use_ema", True), ("gradient_accumulation_steps", 2)):
        with pytest.raises(AttributeError, match=f"adam/{name} is .* make another optimizer"):
            setattr(optimizer, name, value)
    for name, value in (
        ("ema_momentum", 2.0), ("ema_momentum", "x"), ("ema_momentum", lambda step: 0.5),
        ("loss_scale_factor", -1.0), ("loss_scale_factor", "x"), ("ema_overwrite_frequency", 0),
    ):  # fmt: skip
        before = getattr(optimizer, name)
        with pytest.raises(HyperparameterError, match=f"adam/{name} is .*; allowed is"):
            setattr(optimizer, name, value)
        assert getattr(optimizer, name) == before
    with pytest.raises(AttributeError, match="was made without clipnorm"):
        optimizer.clipnorm = 1.0
    with pytest.raises(ValueError, match="adam is built"):
        optimizer.exclude_from_weight_decay(var_names=["a"])


def test_schedule_that_leaves_its_bounds_in_fit() -> None:
    """Updates with it are skipped whole; what is raised names the hyperparameter."""
    fall = pellucid.schedules.Piecewise((2,), (0.25, -1.0))
    optimizer = pellucid.keras.SGD(fall, momentum=0.0)
    model = model_of(optimizer)
    with pytest.raises(Exception, match=r"sgd/learning_rate"):
        train(model)
    assert weight(model) == 0.5
    optimizer.learning_rate = 0.5
    train(model)
    assert weight(model) == 0.5 - 4 * 0.5


def test_schedule_that_leaves_its_bounds_is_reported_at_the_next_look() -> None:
    target = variable()
    optimizer = pellucid.keras.SGD(pellucid.schedules.Piecewise((1,), (0.25, -1.0)))
    stepper = Stepper(optimizer, [target])
    stepper([np.ones(3, "float32")])
    raised = []
    try:
        stepper([np.ones(3, "float32")])
    except Exception as error:
        raised.append(str(error))
    assert bool(raised) == (BACKEND != "jax")
    with pytest.raises(HyperparameterError, match="sgd/learning_rate"):
        _ = optimizer.learning_rate
    assert on_host(target)[0] == 0.75
    assert int(on_host(optimizer.iterations)) == 1


def test_write_of_a_bad_number_in_fit() -> None:
    optimizer = pellucid.keras.SGD(0.25)
    model, errors = model_of(optimizer), []

    def write(count: int) -> None:
        try:
            optimizer.learning_rate = -1.0
        except HyperparameterError as error:
            errors.append(str(error))

    train(model, [At("on_train_batch_end", write)])
    assert len(errors) == 4
    assert weight(model) == 0.0


# -- gradients ------------------------------------------------------------------------------

GRADIENTS: dict[str, tuple[Any, str]] = {
    "another shape": (lambda: [ones(4), ones()], r"'a' has shape \(4,\); the variable's is \(3,\)"),
    "to be broadcast": (lambda: [ones(1), ones()], r"'a' has shape \(1,\)"),
    "a scalar": (lambda: [keras.ops.convert_to_tensor(1.0), ones()], r"'a' has shape \(\)"),
    "a number": (lambda: [1.0, ones()], "gradient of 'a' is 1.0; allowed is an array"),
    "a list": (lambda: [[1.0] * 3, ones()], "gradient of 'a' is .*; allowed is an array"),
    "text": (lambda: [ones(), "x"], "gradient of 'b' is 'x'; allowed is an array"),
    "complex": (lambda: [np.ones(3, "complex64"), ones()], "'a' is of type complex64"),
    "of bool": (lambda: [np.ones(3, "bool"), ones()], "'a' is of type bool"),
    "too few": (lambda: [ones()], r"1 gradients for 2 variables \(a, b\)"),
    "too many": (lambda: [ones(), ones(), ones()], "3 gradients for 2 variables"),
    "none at all": (lambda: None, "grads is NoneType"),
    "all None": (lambda: [None, None], "No gradients provided"),
}


@pytest.mark.parametrize("kind", GRADIENTS)
def test_bad_gradients_change_nothing(kind: str) -> None:
    made, text = GRADIENTS[kind]
    variables = [variable("a"), variable("b")]
    optimizer = pellucid.keras.SGD(0.25, momentum=0.5)
    optimizer.build(variables)
    with pytest.raises((TypeError, ValueError), match=text):
        optimizer.apply(made(), variables)
    state = [on_host(one) for one in [*variables, *optimizer.core.parameters[0].slots.values()]]
    assert [float(one.sum()) for one in state] == [3.0, 3.0, 0.0]
    assert int(on_host(optimizer.iterations)) == 0
    optimizer.apply([ones(), np.ones(3)], variables)
    assert on_host(variables[1])[0] == 0.75


def test_variables_that_are_unknown_or_twice() -> None:
    a, b = variable("a"), variable("b")
    optimizer = pellucid.keras.SGD(0.25)
    optimizer.build([a, b])
    with pytest.raises(ValueError, match=r"(?s)Unknown variable.*other"):
        optimizer.apply([ones(), ones()], [a, variable("other")])
    with pytest.raises(ValueError, match="'a' is given twice"):
        optimizer.apply([ones(), ones()], [a, a])
    assert on_host(a)[0] == 1.0
    optimizer.apply([ones()], [b])
    assert (on_host(a)[0], on_host(b)[0]) == (1.0, 0.75)
    optimizer.apply_gradients([(ones(), a)])
    assert on_host(a)[0] == 0.75
    optimizer.apply([ones(), ones()])
    assert (on_host(a)[0], on_host(b)[0]) == (0.5, 0.5)


def test_inputs_that_are_not_declared() -> None:
    optimizer = pellucid.keras.SGD(0.25)
    with pytest.raises(TypeError, match=r"no input 'loss' \(declared by the stages: none"):
        optimizer.apply([ones()], [variable()], loss=1.0)


def test_nan_gradients() -> None:
    """Through, as in Keras; with `skip_nonfinite` the update does not happen, nor count."""
    nan = [keras.ops.convert_to_tensor(np.array([1, np.nan, 1], "float32")), ones()]
    for skipped in (False, True):
        stages = [pellucid.skip_nonfinite()] if skipped else []
        variables = [variable("a"), variable("b")]
        rule = pellucid.chain(*stages, pellucid.SGD(0.25)) if stages else pellucid.SGD(0.25)
        optimizer = pellucid.keras.Optimizer(rule)
        optimizer.build(variables)
        optimizer.apply(nan, variables)
        assert np.isnan(on_host(variables[0])).tolist() == [False, not skipped, False]
        assert on_host(variables[1])[0] == (1.0 if skipped else 0.75)
        assert int(on_host(optimizer.iterations)) == (0 if skipped else 1)


# -- construction ---------------------------------------------------------------------------

CALLS: dict[str, tuple[Any, str]] = {
    "two decays": (
        lambda: pellucid.keras.Optimizer(pellucid.Adam(weight_decay=0.1), weight_decay=0.2),
        r"weight_decay=0\.2 is given, and .* has one, too",
    ),
    "two clips": (lambda: pellucid.keras.Adam(clipnorm=1.0, clipvalue=1.0), "(?i)only one of"),
    "negative clip": (lambda: pellucid.keras.Adam(clipnorm=-1.0), "max_norm.* is -1.0"),
    "sparse": (lambda: pellucid.keras.Adam(sparse="rows"), "sparse is 'rows'; allowed is 'dense'"),
    "seed": (lambda: pellucid.keras.Adam(seed=-1), "seed is -1; allowed"),
    "groups no dict": (lambda: pellucid.keras.Adam(groups=[1]), r"groups is \[1\]; allowed is"),
    "groups key": (lambda: pellucid.keras.Adam(groups={3: {"lr": 1.0}}), "groups: the key 3"),
    "groups value": (lambda: pellucid.keras.Adam(groups={"*": 0.1}), r"groups\['\*'\] is 0.1"),
    "groups name": (
        lambda: pellucid.keras.Adam(groups={"*": {"learning_rat": 0.1}}), "mean 'learning_rate'",
    ),
    "groups number": (
        lambda: pellucid.keras.Adam(groups={"*": {"learning_rate": -1}}),
        r"groups\['\*'\]\['learning_rate'\] is -1",
    ),
    "argument": (lambda: pellucid.keras.Adam(betta_1=0.9), "Adam takes no 'betta_1'; .*'beta_1'"),
    "our name": (lambda: pellucid.keras.Adam(beta1=0.9), "Adam takes no 'beta1'; .*'beta_1'"),
    "lr": (lambda: pellucid.keras.Adam(lr=0.1), "Adam takes no 'lr'; .*'learning_rate'"),
    "decay": (lambda: pellucid.keras.Adam(decay=0.1), "Adam takes no 'decay'"),
    "too many": (lambda: pellucid.keras.SGD(*[0.1] * 30), "too many positional"),
    "no stage": (lambda: pellucid.keras.Optimizer(3), "takes a rule, a chain or a route, got 3"),
    "class": (lambda: pellucid.keras.Optimizer(pellucid.Adam), r"construct it: Adam\(\)"),
    "number": (lambda: pellucid.keras.Adam(-1), "learning_rate.* is -1"),
    "text": (lambda: pellucid.keras.Adam("0.1"), "learning_rate.* is '0.1'"),
    "ema": (lambda: pellucid.keras.Adam(ema_momentum=2), "ema_momentum is 2; allowed"),
    "ema text": (lambda: pellucid.keras.Adam(ema_momentum="x"), "ema_momentum is 'x'; allowed"),
    "scale": (lambda: pellucid.keras.Adam(loss_scale_factor=0), "loss_scale_factor is 0; allowed"),
    "frequency": (
        lambda: pellucid.keras.Adam(use_ema=True, ema_overwrite_frequency=0), "frequency is 0",
    ),
    "accumulation": (
        lambda: pellucid.keras.Adam(gradient_accumulation_steps=2.5), "accumulation_steps is 2.5",
    ),
    "transformer": (lambda: pellucid.keras.Adam(gradient_transformers=[3]), "has 3, which is no"),
    "name": (lambda: pellucid.keras.Adam(name="a/b"), "name"),
}  # fmt: skip


@pytest.mark.parametrize("kind", CALLS)
def test_construction(kind: str) -> None:
    call, text = CALLS[kind]
    with pytest.raises(Error, match=text):
        call()


def test_variables_of_other_types() -> None:
    for dtype in ("int32", "bool") if BACKEND == "torch" else ("int32", "bool", "complex64"):
        other = keras.Variable(np.ones(3, dtype), dtype=dtype, name="other", trainable=False)
        optimizer = pellucid.keras.SGD(0.25)
        with pytest.raises(TypeError, match=f"'other' is of type {dtype}; allowed"):
            optimizer.build([variable(), other])
        assert not optimizer.built
        optimizer.build([variable()])
    with pytest.raises(ValueError, match="'a' is given twice"):
        pellucid.keras.SGD(0.25).build([one := variable(), one])


def test_a_subclass_may_have_attributes_of_its_own() -> None:
    class Own(pellucid.keras.Adam):  # type: ignore[name-defined, misc]
        def __init__(self, threshold: float) -> None:
            super().__init__(1e-3)
            self.threshold = threshold

    optimizer = Own(0.5)
    assert optimizer.threshold == 0.5
    optimizer.threshold = 0.25
    assert optimizer.threshold == 0.25
