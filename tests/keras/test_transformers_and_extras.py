"""What a user hands to `apply` beside gradients: functions of pairs, and extra inputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest

import pellucid.keras
from pellucid import Rule, chain, extra, hyper, slot
from pellucid.keras import optimizer as module
from pellucid.keras.host_values import on_host

BACKEND = keras.backend.backend()
HOW = ["interpreted"] if BACKEND == "jax" else ["fused", "interpreted"]
Pairs = list[tuple[Any, Any]]


@pytest.fixture(params=HOW, autouse=True)
def how(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "interpreted":
        monkeypatch.setattr(module.Optimizer, "_fused", lambda self, pairs, extras: None)
    return str(request.param)


def variables() -> list[Any]:
    return [keras.Variable(np.ones(3, "float32"), name=name) for name in "ab"]


def array(number: float, *shape: int) -> Any:
    return keras.ops.full(shape or (3,), number)


def state_of(optimizer: Any) -> list[bytes]:
    """All that an optimizer and its variables hold."""
    held = [*optimizer.variables, *(one.variable for one in optimizer.core.parameters)]
    return [np.asarray(on_host(one)).tobytes() for one in held]


# -- gradient transformers ---------------------------------------------------------------------


def returns_none(pairs: Pairs) -> None:
    """Forgets its return."""


def not_pairs(pairs: Pairs) -> list[Any]:
    return [grad for grad, _ in pairs]


def triples(pairs: Pairs) -> list[Any]:
    return [(grad, variable, 1) for grad, variable in pairs]


other = keras.Variable(np.ones(3, "float32"), name="other")


def foreign(pairs: Pairs) -> Pairs:
    return [*pairs, (array(1.0), other)]


def foreign_array(pairs: Pairs) -> Pairs:
    return [(grad, array(1.0)) for grad, _ in pairs]


def doubled(pairs: Pairs) -> Pairs:
    return [*pairs, pairs[0]]


def too_long(pairs: Pairs) -> Pairs:
    return [(array(1.0, 4), variable) for _, variable in pairs]


dropped: Pairs = []


def drops(pairs: Pairs) -> Pairs:
    dropped[:] = pairs[:1]
    return pairs[1:]


def restores(pairs: Pairs) -> Pairs:
    """Gives a pair that an earlier function has dropped."""
    return [*pairs, *dropped]


WRONG: dict[str, tuple[list[Callable[[Pairs], Any]], Any, str]] = {
    "None": ([returns_none], TypeError, r"returns_none gave NoneType; allowed is a list of \(grad"),
    "no pairs": ([not_pairs], TypeError, r"not_pairs gave .*; allowed is .*\(gradient, variable\)"),
    "triples": ([triples], TypeError, "triples gave tuple; allowed is a list"),
    "foreign": ([foreign], ValueError, "foreign gave a pair for 'other', which it was not given"),
    "array": ([foreign_array], ValueError, "gave a pair for a foreign array.*keep the variables"),
    "doubled": ([doubled], ValueError, "doubled gave two pairs for 'a'"),
    "dropped": ([drops, restores], ValueError, "restores gave a pair for 'a', which it was not"),
    "shape": ([too_long], ValueError, r"too_long gave .* shape \(4,\) for 'a', whose .* \(3,\)"),
}


@pytest.mark.parametrize("where", ["argument", "chain"])
@pytest.mark.parametrize("kind", WRONG)
def test_transformer_that_fails(kind: str, where: str) -> None:
    """An error names the function; nothing is updated, and the next step goes on."""
    functions, error, says = WRONG[kind]
    broken = False

    def sometimes(function: Callable[[Pairs], Any]) -> Callable[[Pairs], Any]:
        def run(pairs: Pairs) -> Any:
            return function(pairs) if broken else pairs

        run.__name__ = function.__name__
        return run

    steps, rule = [*map(sometimes, functions)], pellucid.SGD(0.25, momentum=0.5)
    if where == "chain":
        optimizer = pellucid.keras.Optimizer(chain(*steps, rule))
    else:
        optimizer = pellucid.keras.Optimizer(rule, gradient_transformers=steps)
    targets, grads = variables(), [array(1.0), array(2.0)]
    optimizer.apply(grads, targets)
    before, broken = state_of(optimizer), True
    with pytest.raises(error, match=says):
        optimizer.apply(grads, targets)
    assert state_of(optimizer) == before
    broken = False
    optimizer.apply(grads, targets)
    assert optimizer.updates == 2
    assert state_of(optimizer) != before


def test_transformers_may_give_any_iterable() -> None:
    """A generator, in another order; None and what is left out skip their variables."""
    targets = variables()
    for function, wanted in (
        (lambda pairs: ((grad * 2, one) for grad, one in reversed(pairs)), [0.5, 0.0]),
        (lambda pairs: pairs[1:], [0.5, -0.5]),
        (lambda pairs: ((None if one is targets[0] else g, one) for g, one in pairs), [0.5, -1.0]),
        (lambda pairs: [], [0.5, -1.0]),
    ):
        optimizer = pellucid.keras.Optimizer(
            pellucid.SGD(0.25), gradient_transformers=[function]
        )
        optimizer.apply([array(1.0), array(2.0)], targets)
        assert [float(on_host(one)[0]) for one in targets] == wanted


# -- extra inputs ------------------------------------------------------------------------------


class Curved(Rule):
    """Reads the loss and a Hessian's diagonal."""

    learning_rate = hyper(1.0)
    loss = extra("scalar")
    hessian = extra("param")
    seen = slot()

    def update(self, param: Any, grad: Any) -> Any:
        self.seen = self.seen + self.hessian
        return param - self.learning_rate * self.loss * grad / self.hessian


@pytest.mark.filterwarnings("ignore:Gradients do not exist")
def test_arrays_are_in_the_order_of_the_build() -> None:
    """None may stand for a variable without a gradient."""
    targets = variables()
    optimizer = pellucid.keras.Optimizer(Curved())
    grads = [array(1.0), array(1.0)]
    optimizer.apply(grads, targets, loss=0.5, hessian=[array(2.0), array(4.0)])
    assert [float(on_host(one)[0]) for one in targets] == [0.75, 0.875]
    optimizer.apply(grads[1:], targets[1:], loss=0.5, hessian=(array(4.0), array(1.0)))
    assert [float(on_host(one)[0]) for one in targets] == [0.75, 0.375]
    optimizer.apply([array(1.0), None], targets, loss=1.0, hessian=[array(4.0), None])
    assert [float(on_host(one)[0]) for one in targets] == [0.5, 0.375]


WRONG_INPUTS: dict[str, tuple[Callable[[], dict[str, Any]], Any, str]] = {
    "too few": (
        lambda: {"hessian": [array(1.0)]}, ValueError,
        r"hessian is a list of length 1; allowed is 2: one array for each variable .* \(a, b\)",
    ),
    "too many": (
        lambda: {"hessian": [array(1.0)] * 3}, ValueError,
        "hessian is a list of length 3; allowed is 2",
    ),
    "none": (lambda: {"hessian": []}, ValueError, "hessian is a list of length 0; allowed is 2"),
    "a dict": (
        lambda: {"hessian": {"a": array(1.0), "b": array(1.0)}}, TypeError,
        "hessian is dict; allowed is a list of arrays, one for each variable",
    ),
    "an array": (lambda: {"hessian": np.ones((2, 3))}, TypeError, "hessian is ndarray; allowed"),
    "a generator": (
        lambda: {"hessian": (array(1.0) for _ in "ab")}, TypeError, "hessian is generator",
    ),
    "a number": (lambda: {"hessian": 1.0}, TypeError, "hessian is float; allowed"),
    "text": (lambda: {"hessian": "ab"}, TypeError, "hessian is str; allowed"),
    "missing": (lambda: {"hessian": ...}, TypeError, "apply needs hessian="),
    "unknown": (lambda: {"closure": 1}, TypeError, "no input 'closure' .*: loss, hessian"),
}  # fmt: skip


@pytest.mark.parametrize("kind", WRONG_INPUTS)
def test_extra_inputs_are_checked(kind: str) -> None:
    """At the first call, which builds, and later; also where only some variables are updated."""
    change, error, says = WRONG_INPUTS[kind]
    targets, grads = variables(), [array(1.0), array(1.0)]
    optimizer = pellucid.keras.Optimizer(Curved())
    inputs = {"loss": 1.0, "hessian": [array(2.0), array(2.0)]}

    def wrong() -> dict[str, Any]:
        return {name: one for name, one in {**inputs, **change()}.items() if one is not ...}

    with pytest.raises(error, match=says):
        optimizer.apply(grads, targets, **wrong())
    assert not optimizer.built
    optimizer.apply(grads, targets, **inputs)
    before = state_of(optimizer)
    for place in (targets, None):
        with pytest.raises(error, match=says):
            optimizer.apply(grads, place, **wrong())
    with pytest.raises(error, match=says):
        optimizer.apply(grads[:1], targets[:1], **wrong())
    assert state_of(optimizer) == before
    optimizer.apply(grads, **inputs)
    assert optimizer.updates == 2


class Weighted(Rule):
    """Has no hyperparameter, but an input."""

    loss = extra("scalar")

    def update(self, param: Any, grad: Any) -> Any:
        return param - self.loss * grad


def test_a_rule_of_inputs_alone() -> None:
    targets = variables()
    optimizer = pellucid.keras.Optimizer(Weighted())
    optimizer.apply([array(1.0), array(2.0)], iter(targets), loss=0.25)
    assert [float(on_host(one)[0]) for one in targets] == [0.75, 0.5]
