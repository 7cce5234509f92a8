"""The catalogue on NumPy arrays, compiled, against the float64 references."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest

import pellucid.numpy
from pellucid import CATALOGUE, SGD
from pellucid.compose import Pipeline
from pellucid.fuse.trace import Variant, trace
from reference import REFERENCES
from reference.steps import Result

from .cases import (
    CASES,
    GAP,
    STEPS,
    Case,
    Largest,
    assert_exact,
    assert_rounded,
    expected,
    problem,
)


class Run:
    """An optimizer at work on the problem, in one dtype."""

    def __init__(self, case: Case, dtype: str, **keywords: Any) -> None:
        self.problem, self.dtype = problem(), dtype
        self.params = {n: t.layout(t.initial.astype(dtype)) for n, t in self.problem.items()}
        rule = CATALOGUE[case.rule](**case.values)
        self.optimizer = pellucid.numpy.Optimizer(self.params, rule, **keywords)

    def step(self, update: int) -> None:
        given = {}
        for name, tensor in self.problem.items():
            grad = tensor.gradients[update]
            layout = tensor.layout if update % 2 else np.array  # the parameter's, or plain
            given[name] = None if grad is None else layout(grad.astype(self.dtype))
        assert self.optimizer.step(given)

    def result(self, name: str) -> Result:
        return self.params[name], self.optimizer.state.get(name, {})


@pytest.mark.parametrize("case", CASES, ids=str)
def test_equals_its_reference(case: Case) -> None:
    wide, narrow, largest = Run(case, "float64"), Run(case, "float32"), Largest()
    for update in range(STEPS):
        wide.step(update)
        narrow.step(update)
        for name in wide.problem:
            param, slots = wide.result(name)
            for what, array in {"param": param, **slots}.items():
                largest.look(name, what, array)
    for name, tensor in wide.problem.items():
        wanted = expected(case, tensor, clock="optimizer")
        assert_exact(wide.result(name), wanted, name)
        largest.look(name, "param", tensor.initial)
        assert_rounded(narrow.result(name), wanted, largest, name, case.rule)
    for run in (wide, narrow):
        gaps = run.params["gappy"].base[:, 1::2]
        np.testing.assert_array_equal(gaps, GAP, err_msg="wrote between the elements of a slice")


@pytest.mark.parametrize("case", CASES, ids=str)
def test_line_by_line_equals_compiled(case: Case) -> None:
    compiled, plain = Run(case, "float64"), Run(case, "float64", compiled=False)
    for update in range(10):
        compiled.step(update)
        plain.step(update)
    for name in plain.problem:
        assert_exact(plain.result(name), compiled.result(name), name)


def test_cases_have_names_of_their_own() -> None:
    names = [case.name for case in CASES]
    assert len(set(names)) == len(names)


def test_the_problem_is_awkward() -> None:
    params = Run(CASES[0], "float32").params
    assert not params["transposed"].flags.c_contiguous
    assert params["transposed"].flags.f_contiguous
    assert not params["gappy"].flags.forc
    assert problem()["skipped"].gradients[0] is None
    assert any(grad is not None for grad in problem()["skipped"].gradients)


# -- the catalogue itself ----------------------------------------------------------------------


def test_the_catalogue_has_the_references_rules() -> None:
    assert CATALOGUE.keys() == REFERENCES.keys()


@pytest.mark.parametrize("name", CATALOGUE)
def test_arguments_and_defaults_are_the_references(name: str) -> None:
    parameters = list(inspect.signature(REFERENCES[name]).parameters.items())[2:]
    declared = CATALOGUE[name].declared.arguments
    assert {k: one.default for k, one in declared.items()} == {
        k: parameter.default for k, parameter in parameters
    }
    hypers = [key for key, _ in parameters if key in CATALOGUE[name].declared.hypers]
    assert list(inspect.signature(CATALOGUE[name]).parameters)[: len(hypers)] == hypers


@pytest.mark.parametrize("name", CATALOGUE)
def test_every_argument_is_explained(name: str) -> None:
    for key, one in CATALOGUE[name].declared.arguments.items():
        assert one.doc.endswith("."), f"{name}.{key} has no doc"
        assert f"    {key}: " in (CATALOGUE[name].__doc__ or "")


@pytest.mark.parametrize("name", CATALOGUE)
def test_the_update_is_kept_exactly(name: str) -> None:
    """Written as ``param + update``, so that later stages never subtract two near numbers."""
    rule = CATALOGUE[name]()
    options = tuple((key, rule.values[key]) for key in rule.declared.options)
    slots = tuple((key, str(one.shape)) for key, one in rule.declared.slots.items())
    traced = trace(Pipeline((rule,), (0,)), Variant(options, slots))
    assert (traced.update is not None) == (name != "FTRL")  # which sets the value itself


@pytest.mark.parametrize("name", CATALOGUE)
def test_config_and_repr_round_trip(name: str) -> None:
    rule = CATALOGUE[name](learning_rate=0.25, maximize=True)
    assert type(rule).from_config(rule.get_config()) == rule
    assert eval(repr(rule), dict(CATALOGUE)) == rule


@pytest.mark.parametrize(("name", "key", "value"), [
    ("SGD", "learning_rate", -0.1),
    ("SGD", "dampening", 1.5),
    ("Adam", "beta1", 1.0),
    ("Adam", "beta2", -0.1),
    ("AdamW", "epsilon", float("nan")),
    ("FTRL", "learning_rate", 0.0),
    ("FTRL", "learning_rate_power", 0.5),
    ("Rprop", "eta_plus", 1.0),
    ("Rprop", "eta_minus", 1.0),
])  # fmt: skip
def test_bounds_hold(name: str, key: str, value: float) -> None:
    with pytest.raises(pellucid.HyperparameterError, match=rf"{name}\({key}=\.\.\.\) is"):
        CATALOGUE[name](**{key: value})


def test_a_velocity_exists_only_with_momentum() -> None:
    params = {"w": np.ones(3, np.float32)}
    optimizer = pellucid.numpy.Optimizer(params, SGD(0.5))
    optimizer.step({"w": np.ones(3, np.float32)})
    assert "velocity" not in optimizer.state.get("w", {})
    optimizer.param_groups[0]["momentum"] = 0.5
    optimizer.step({"w": np.full(3, 2.0, np.float32)})
    np.testing.assert_array_equal(optimizer.state["w"]["velocity"], np.full(3, 2.0))
    optimizer.step({"w": np.ones(3, np.float32)})
    np.testing.assert_array_equal(optimizer.state["w"]["velocity"], np.full(3, 2.0))
    np.testing.assert_array_equal(params["w"], np.full(3, 1 - 0.5 - 1.0 - 1.0))
