"""Each transform, in a chain with a rule on NumPy arrays, against the float64 references."""

from __future__ import annotations

import doctest
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

import pellucid
import pellucid.numpy
from pellucid import SGD, Adam, AdamW, chain, every, route, transforms
from reference import REFERENCES
from reference import transforms as reference
from reference.gradients import awkward_gradients, initial_parameter, mild_gradients
from reference.steps import Array

from .cases import LAYOUTS, RTOL, SHAPES

Tensors = dict[str, Array]
Transform = Callable[[Tensors, Tensors], Tensors]

STEPS, RATE = 6, 0.125
ROUNDING = 64 * 2.0**-23
"""Relative to the largest value that an element had, its updates included. Each step rounds the
parameter, the transformed gradient and the product with the rate, by half a unit of 2**-23; a
projection and a quotient of norms add one each. A unit may hold elements larger than the one that
is compared: their errors come in through its norm, which is a float64 sum, so they stay small."""


def each(function: Callable[[Array, Array], Array]) -> Transform:
    """A transform of all tensors, from one of a parameter and its gradient."""
    return lambda params, grads: {n: function(params[n], g) for n, g in grads.items()}


GRADIENT: dict[str, tuple[Any, Transform]] = {
    "value": (transforms.clip_by_value(0.25), lambda p, g: reference.clip_by_value(g, 0.25)),
    "norm": (transforms.clip_by_norm(0.5), each(lambda p, g: reference.clip_by_norm(g, 0.5))),
    "global norm": (
        transforms.clip_by_global_norm(2.0),
        lambda p, g: reference.clip_by_global_norm(g, 2.0),
    ),
    "global norm above": (
        transforms.clip_by_global_norm(1e9),
        lambda p, g: reference.clip_by_global_norm(g, 1e9),
    ),
    "adaptive": (transforms.adaptive_clip(), each(reference.adaptive_clip)),
    "adaptive, all given": (
        transforms.adaptive_clip(clipping=0.5, epsilon=0.75),
        each(lambda p, g: reference.adaptive_clip(p, g, 0.5, 0.75)),
    ),
    "centralize": (transforms.centralize(), each(lambda p, g: reference.centralize(g))),
    "normalize": (transforms.normalize(), each(lambda p, g: reference.normalize(g, 1e-8))),
    "normalize, epsilon": (
        transforms.normalize(0.5),
        each(lambda p, g: reference.normalize(g, 0.5)),
    ),
    "scale": (transforms.scale(-0.75), each(lambda p, g: -0.75 * g)),
    "skip": (transforms.skip_nonfinite(), lambda p, g: g),
    "noise of size 0": (transforms.add_noise(0.0), lambda p, g: g),
}
PARAMETER: dict[str, tuple[Any, Callable[[Array], Array]]] = {
    "max": (transforms.project(1.5), lambda p: reference.project_max_norm(p, 1.5)),
    "unit": (transforms.project(mode="unit"), reference.project_weight_norm),
    "unit, norm": (
        transforms.project(2.5, mode="unit"),
        lambda p: reference.project_weight_norm(p, 2.5),
    ),
    "max, tensor": (
        transforms.project(1.5, over="tensor"),
        lambda p: reference.project_max_norm(p.reshape(-1), 1.5).reshape(p.shape),
    ),
    "unit, tensor": (
        transforms.project(mode="unit", over="tensor"),
        lambda p: reference.project_weight_norm(p.reshape(-1)).reshape(p.shape),
    ),
}


def descent(transform: Transform) -> Transform:
    """Where SGD goes with transformed gradients."""

    def follow(params: Tensors, grads: Tensors) -> Tensors:
        return {n: params[n] - RATE * g for n, g in transform(params, grads).items()}

    return follow


def many_at_once() -> tuple[Any, Transform, Tensors]:
    """A chain of many transforms, the references in its order, and the averages they keep."""
    stage = chain(
        transforms.centralize(),
        transforms.clip_by_norm(3.0),
        transforms.clip_by_global_norm(2.0),
        SGD(RATE),
        transforms.decay_weights(0.5),
        transforms.project(1.5),
        transforms.average_weights(0.75),
    )
    averages: Tensors = {}

    def follow(params: Tensors, grads: Tensors) -> Tensors:
        grads = {n: reference.clip_by_norm(reference.centralize(g), 3.0) for n, g in grads.items()}
        done = {}
        for name, grad in reference.clip_by_global_norm(grads, 2.0).items():
            update = reference.decay_weights(-RATE * grad, params[name], RATE, 0.5)
            done[name] = reference.project_max_norm(params[name] + update, 1.5)
            averages[name] = reference.average_weights(done[name], averages.get(name), 0.75)
        return done

    return stage, follow, averages


def gradients(kind: Callable[..., list[Array]], steps: int = STEPS) -> list[Tensors]:
    """For each step a gradient of every parameter; at the second step, none for ``skipped``."""
    drawn = {n: kind(shape, steps, 200 + i) for i, (n, shape) in enumerate(SHAPES.items())}
    stepwise = [{name: grads[step] for name, grads in drawn.items()} for step in range(steps)]
    del stepwise[1]["skipped"]
    return stepwise


def initial() -> Tensors:
    return {n: initial_parameter(shape, 200 + i) for i, (n, shape) in enumerate(SHAPES.items())}


def optimizer(stage: Any, dtype: str = "float64", **keywords: Any) -> pellucid.numpy.Optimizer:
    params = {n: LAYOUTS.get(n, np.array)(p.astype(dtype)) for n, p in initial().items()}
    return pellucid.numpy.Optimizer(params, stage, **keywords)


def given(grads: Tensors, dtype: str = "float64") -> Tensors:
    return {name: grad.astype(dtype) for name, grad in grads.items()}


def assert_follows(
    stage: Any, grads: list[Tensors], follow: Callable[[Tensors, Tensors], Tensors]
) -> None:
    """An optimizer with the stage takes every parameter where ``follow`` does, in both dtypes."""
    runs = {dtype: optimizer(stage, dtype) for dtype in ("float64", "float32")}
    params = initial()
    largest = {name: np.abs(param) for name, param in params.items()}
    for step in grads:
        for dtype, one in runs.items():
            assert one.step(given(step, dtype))
        params |= follow(params, step)
        for name, param in params.items():
            largest[name] = np.maximum(largest[name], np.abs(param))
    for name, param in params.items():
        wide, narrow = runs["float64"].params[name], runs["float32"].params[name]
        np.testing.assert_allclose(wide, param, rtol=RTOL, atol=1e-15, err_msg=name)
        assert narrow.dtype == np.float32
        error = np.abs(narrow - param)
        assert np.all(error <= ROUNDING * largest[name]), f"{name}: {error}"


@pytest.mark.parametrize("kind", [awkward_gradients, mild_gradients])
@pytest.mark.parametrize("name", GRADIENT)
def test_gradient_transform(name: str, kind: Any) -> None:
    stage, transform = GRADIENT[name]
    assert_follows(chain(stage, SGD(RATE)), gradients(kind), descent(transform))


@pytest.mark.parametrize("name", PARAMETER)
def test_parameter_transform(name: str) -> None:
    stage, transform = PARAMETER[name]
    follow = each(lambda param, grad: transform(param - RATE * grad))
    assert_follows(chain(SGD(RATE), stage), gradients(mild_gradients), follow)


def test_all_at_once() -> None:
    """Two clippings and a centring, decay, averaging and a projection, as one program."""
    stage, follow, averages = many_at_once()
    steps = gradients(mild_gradients)
    assert_follows(stage, steps, follow)
    averages.clear()
    one, params = optimizer(stage), initial()
    for step in steps:
        one.step(step)
        params |= follow(params, step)
    for name, average in averages.items():
        held = one.state[name]["average_weights.average"]
        np.testing.assert_allclose(held, average, rtol=RTOL, err_msg=name)


def step_once(stage: Any, grads: Mapping[str, list[float]]) -> Tensors:
    params = {name: np.zeros(len(grad)) for name, grad in grads.items()}
    pellucid.numpy.Optimizer(params, stage).step({n: np.array(g) for n, g in grads.items()})
    return params


def test_adaptive_clip_of_small_gradients() -> None:
    """Below a norm of 1e-6 the authors' divisor acts; a parameter of zeros has epsilon's limit."""
    stage = transforms.adaptive_clip(clipping=0.01, epsilon=1e-5)
    grad = np.array([3e-7, -4e-7])
    done = step_once(chain(stage, SGD(1.0)), {"a": [*grad], "b": [0.0]})
    wanted = reference.adaptive_clip(np.zeros(2), grad, 0.01, 1e-5)
    np.testing.assert_allclose(wanted, grad / 10, rtol=1e-12)
    np.testing.assert_allclose(done["a"], -wanted, rtol=RTOL)
    np.testing.assert_array_equal(done["b"], 0)


# -- norms that are not finite, and skipped updates --------------------------------------------


@pytest.mark.parametrize("clip", [transforms.clip_by_norm, transforms.clip_by_global_norm])
def test_clipping_leaves_zeros(clip: Any) -> None:
    done = step_once(chain(clip(1.0), SGD(1.0)), {"a": [0.0, 0.0], "b": [0.0]})
    np.testing.assert_array_equal(done["a"], 0)
    np.testing.assert_array_equal(done["b"], 0)


def test_what_is_not_finite_stays_visible_after_clipping() -> None:
    stage = chain(transforms.clip_by_global_norm(1.0), SGD(1.0))
    done = step_once(stage, {"a": [1.0, math.nan], "b": [2.0]})
    assert np.isnan(done["a"]).all()
    assert np.isnan(done["b"]).all()
    done = step_once(stage, {"a": [1.0, math.inf], "b": [2.0]})
    np.testing.assert_array_equal(done["a"], [0.0, math.nan])
    np.testing.assert_array_equal(done["b"], [0.0])
    done = step_once(chain(transforms.clip_by_norm(1.0), SGD(1.0)), {"a": [math.nan], "b": [4.0]})
    assert np.isnan(done["a"]).all()
    np.testing.assert_array_equal(done["b"], [-1.0])


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("behind", [False, True])
def test_skip_nonfinite_skips_the_update_whole(bad: float, behind: bool) -> None:
    """Also behind a clipping; the updates around it are as if it had never been tried."""
    guards = [transforms.skip_nonfinite(), transforms.clip_by_global_norm(1.0)]
    stage = chain(*(reversed(guards) if behind else guards), Adam(0.1))
    steps = gradients(mild_gradients, 4)
    one, other = optimizer(stage), optimizer(stage)
    for number, step in enumerate(steps):
        assert one.step(given(step))
        assert other.step(given(step))
        if number in (0, 2):  # new slots, and those that have been there
            broken = given(step)
            broken["cube"][1, 2, 3] = bad
            before = {n: (p.copy(), dict(other.state[n])) for n, p in other.params.items()}
            assert other.step(broken) is False
            assert other.updates == number + 1
            for name, (param, slots) in before.items():
                np.testing.assert_array_equal(other.params[name], param)
                assert other.state[name].keys() == slots.keys()
    for name, param in one.params.items():
        np.testing.assert_array_equal(other.params[name], param)
        for slot, array in one.state[name].items():
            np.testing.assert_array_equal(other.state[name][slot], array)


def test_a_vetoed_first_update_leaves_no_state() -> None:
    one = optimizer(chain(transforms.skip_nonfinite(), Adam()))
    assert one.step({"one": np.array([math.nan])}) is False
    assert one.updates == 0
    assert not any(one.state.values())


# -- chains with routes, every and schedules ---------------------------------------------------


def test_a_global_norm_is_over_all_branches_of_a_route() -> None:
    branches = route({"matrix": Adam(0.1), "*": SGD(RATE)})
    stage = chain(transforms.clip_by_global_norm(2.0), branches)
    steps = gradients(mild_gradients)
    one, params, clipped = optimizer(stage), initial(), []
    for step in steps:
        one.step(step)
        clipped.append(reference.clip_by_global_norm(step, 2.0))
        params |= {n: params[n] - RATE * g for n, g in clipped[-1].items()}
    params["matrix"] = REFERENCES["Adam"](
        initial()["matrix"], [step["matrix"] for step in clipped], learning_rate=0.1
    )[0]
    for name, param in params.items():
        np.testing.assert_allclose(one.params[name], param, rtol=RTOL, err_msg=name)


def test_every_lets_a_stage_act_in_each_kth_update_only() -> None:
    number = 0

    def follow(params: Tensors, grads: Tensors) -> Tensors:
        nonlocal number
        number += 1
        used = reference.clip_by_value(grads, 0.25) if number % 3 == 0 else grads
        return {n: params[n] - RATE * g for n, g in used.items()}

    stage = chain(every(3, transforms.clip_by_value(0.25)), SGD(RATE))
    assert_follows(stage, gradients(mild_gradients), follow)


def test_a_schedule_drives_a_transform() -> None:
    number = 0

    def follow(params: Tensors, grads: Tensors) -> Tensors:
        nonlocal number
        clipped = reference.clip_by_global_norm(grads, 1 / (1 + number))
        number += 1
        return {n: params[n] - RATE * g for n, g in clipped.items()}

    stage = chain(transforms.clip_by_global_norm(lambda update: 1 / (1 + update)), SGD(RATE))
    assert_follows(stage, gradients(mild_gradients), follow)


# -- decay -------------------------------------------------------------------------------------


def test_decay_follows_the_learning_rate_unless_independent() -> None:
    def rate(update: int) -> float:
        return RATE / (1 + update)

    for times, factor in ((None, lambda _: 1.0), (0.5, lambda _: 0.5), ("rate", rate)):
        number = 0

        def follow(params: Tensors, grads: Tensors, factor: Any = factor) -> Tensors:
            nonlocal number
            now, number = number, number + 1
            return {
                n: params[n]
                + reference.decay_weights(-rate(now) * g, params[n], factor(now), 0.25)
                for n, g in grads.items()
            }

        given_times = {} if times == "rate" else {"times": times}
        stage = chain(SGD(rate), transforms.decay_weights(0.25, **given_times))
        assert_follows(stage, gradients(mild_gradients), follow)


def test_adam_with_decay_is_adamw() -> None:
    steps = gradients(mild_gradients)
    one = optimizer(chain(Adam(0.1), transforms.decay_weights(0.3)))
    other = optimizer(AdamW(0.1, weight_decay=0.3))
    for step in steps:
        one.step(given(step))
        other.step(given(step))
    for name, param in other.params.items():
        np.testing.assert_allclose(one.params[name], param, rtol=RTOL, err_msg=name)


def test_times_none_is_one_and_survives_the_config() -> None:
    free, tied = transforms.decay_weights(0.1, times=None), transforms.decay_weights(0.1)
    assert free == transforms.decay_weights(0.1, None) == transforms.decay_weights(0.1, times=1.0)
    assert free != tied
    for stage in (free, tied, every(2, free), transforms.decay_weights(weight=0.1, name="w")):
        assert type(stage).from_json(stage.to_json()) == stage
        assert eval(repr(stage), vars(pellucid.transforms) | {"every": every}) == stage
    with pytest.raises(TypeError, match="weight"):
        transforms.decay_weights()  # type: ignore[call-arg]


# -- noise -------------------------------------------------------------------------------------


def noise(seed: int, steps: int, scale: Any = 1.0) -> list[Tensors]:
    """What `add_noise` added at each step."""
    params = {"a": np.zeros((150, 100)), "b": np.zeros((150, 100))}
    stage = chain(transforms.add_noise(scale), SGD(1.0))
    one = pellucid.numpy.Optimizer(params, stage, seed=seed)
    added = []
    for _ in range(steps):
        before = {name: param.copy() for name, param in params.items()}
        one.step({name: np.zeros_like(param) for name, param in params.items()})
        added.append({name: before[name] - param for name, param in params.items()})
    return added


def test_noise_is_normal_and_each_draw_another() -> None:
    first, second = noise(seed=0, steps=2)
    draws = [first["a"], first["b"], second["a"], second["b"], noise(seed=1, steps=1)[0]["a"]]
    drawn = np.stack([draw.reshape(-1) for draw in draws])
    bound = 5 / math.sqrt(drawn.shape[1])  # 5 standard errors of a mean; kurtosis has sqrt(24)
    assert np.abs(drawn.mean(axis=1)).max() < bound
    assert np.abs((drawn**2).mean(axis=1) - 1).max() < bound * math.sqrt(2)
    assert np.abs((drawn**4).mean(axis=1) - 3).max() < bound * math.sqrt(96)
    correlated = np.corrcoef(drawn) - np.eye(len(draws))
    assert np.abs(correlated).max() < bound
    along = drawn[:, :-1] * drawn[:, 1:]
    assert np.abs(along.mean(axis=1)).max() < bound


def test_noise_repeats_with_its_seed_and_follows_its_schedule() -> None:
    plain, again = noise(seed=3, steps=2), noise(seed=3, steps=2)
    falling = noise(seed=3, steps=2, scale=lambda update: 0.5 / (1 + update))
    for one, other in zip(plain, again, strict=True):
        np.testing.assert_array_equal(one["a"], other["a"])
    for update, (one, less) in enumerate(zip(plain, falling, strict=True)):
        np.testing.assert_allclose(less["b"], 0.5 / (1 + update) * one["b"], atol=1e-12)


# -- text --------------------------------------------------------------------------------------


def test_examples_run() -> None:
    assert doctest.testmod(transforms).failed == 0


@pytest.mark.parametrize("name", transforms.__all__)
def test_is_exported_and_explained(name: str) -> None:
    stage = getattr(pellucid, name)
    assert stage is getattr(transforms, name)
    assert ">>> " in stage.__doc__
    for key, one in stage.declared.arguments.items():
        assert one.doc.endswith("."), f"{name}.{key} has no doc"
