"""The references against torch.optim in float64, and by properties where torch has no such rule."""

import inspect
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pytest

from . import REFERENCES
from .gradients import awkward_gradients, initial_parameter, mild_gradients
from .steps import Array, Gradients

SHAPES = [(), (7,), (4, 3, 5)]
STEPS = 50

# rule -> canonical names of the numbers that torch calls otherwise
HYPERPARAMETERS = {
    "RMSprop": {"rho": "alpha"},
    "Adagrad": {"learning_rate_decay": "lr_decay"},
}
HYPERPARAMETERS_OF_ALL = {"learning_rate": "lr", "epsilon": "eps"}
PAIRS = {
    "betas": ("beta1", "beta2"),
    "etas": ("eta_minus", "eta_plus"),
    "step_sizes": ("minimum_step", "maximum_step"),
}
MOMENTS = {"exp_avg": "first_moment", "exp_avg_sq": "second_moment"}
SLOTS = {
    "SGD": {"momentum_buffer": "velocity"},
    "Adam": {**MOMENTS, "max_exp_avg_sq": "max_second_moment"},
    "AdamW": {**MOMENTS, "max_exp_avg_sq": "max_second_moment"},
    "NAdam": {**MOMENTS, "mu_product": "mu_product"},
    "RAdam": MOMENTS,
    "Adamax": {"exp_avg": "first_moment", "exp_inf": "infinity_norm"},
    "RMSprop": {
        "square_avg": "second_moment",
        "grad_avg": "first_moment",
        "momentum_buffer": "velocity",
    },
    "Adagrad": {"sum": "accumulator"},
    "Adadelta": {"square_avg": "second_moment", "acc_delta": "update_moment"},
    "Rprop": {"prev": "previous_gradient", "step_size": "step_size"},
    "ASGD": {"eta": "eta", "mu": "mu", "ax": "average"},
}

# Values at which every hyperparameter of the rule acts, the options switched on where needed.
ADAM_ACTIVE = {
    "learning_rate": 0.1,
    "beta1": 0.8,
    "beta2": 0.9,
    "epsilon": 0.1,
    "weight_decay": 0.2,
}
ADAGRAD_ACTIVE = {
    "learning_rate": 0.3,
    "learning_rate_decay": 0.1,
    "weight_decay": 0.2,
    "initial_accumulator_value": 0.5,
    "epsilon": 0.1,
}
ACTIVE: dict[str, dict[str, Any]] = {
    "SGD": {"learning_rate": 0.05, "momentum": 0.8, "dampening": 0.3, "weight_decay": 0.1},
    "Adam": ADAM_ACTIVE,
    "AdamW": ADAM_ACTIVE,
    "NAdam": {**ADAM_ACTIVE, "momentum_decay": 0.5},
    "RAdam": ADAM_ACTIVE,
    "Adamax": ADAM_ACTIVE,
    "RMSprop": {
        "learning_rate": 0.05,
        "rho": 0.8,
        "epsilon": 0.1,
        "weight_decay": 0.1,
        "momentum": 0.5,
    },
    "Adagrad": ADAGRAD_ACTIVE,
    "RowwiseAdagrad": ADAGRAD_ACTIVE,
    "Adadelta": {"learning_rate": 0.7, "rho": 0.8, "epsilon": 0.01, "weight_decay": 0.1},
    "FTRL": {
        "learning_rate": 0.3,
        "learning_rate_power": -0.4,
        "initial_accumulator_value": 0.5,
        "l1": 0.2,
        "l2": 0.3,
        "l2_shrinkage": 0.1,
        "beta": 0.4,
        "weight_decay": 0.5,
    },
    "Rprop": {
        "learning_rate": 0.1,
        "eta_minus": 0.6,
        "eta_plus": 1.3,
        "minimum_step": 0.05,
        "maximum_step": 0.14,
    },
    "ASGD": {"learning_rate": 0.1, "lambd": 0.2, "alpha": 0.6, "t0": 10, "weight_decay": 0.1},
    "Lion": {"learning_rate": 0.02, "beta1": 0.7, "beta2": 0.8, "weight_decay": 0.5},
    "Signum": {"learning_rate": 0.02, "momentum": 0.7, "weight_decay": 0.5},
}
# rule -> the options that torch has not, and what they are in the other form
OTHER_FORM: dict[str, dict[str, Any]] = {
    "SGD": {"velocity_of": "step", "decoupled_weight_decay": True},
    "Adam": {"corrected": "rate"},
    "AdamW": {"corrected": "rate"},
    "Adamax": {"epsilon_inside": False, "decoupled_weight_decay": True},
    "RMSprop": {"epsilon_inside": True, "velocity_of": "step", "decoupled_weight_decay": True},
    "Adagrad": {"epsilon_inside": True, "decoupled_weight_decay": True},
    "RowwiseAdagrad": {"epsilon_inside": True, "decoupled_weight_decay": True},
    "Adadelta": {"decoupled_weight_decay": True},
}
INITIAL_ONLY = {"initial_accumulator_value"}  # torch reads it when the optimizer is made

# rule -> what to compare with torch beyond its defaults and ACTIVE
OPTIONS: list[tuple[str, dict[str, Any]]] = [
    ("SGD", {"learning_rate": 0.05, "weight_decay": 0.1}),
    ("SGD", {"learning_rate": 0.05, "momentum": 0.8, "nesterov": True}),
    ("SGD", {"momentum": 0.8, "nesterov": True, "weight_decay": 0.1, "maximize": True}),
    ("Adam", {**ADAM_ACTIVE, "amsgrad": True}),
    ("Adam", {**ADAM_ACTIVE, "decoupled_weight_decay": True}),
    ("Adam", {"beta2": 0.7, "amsgrad": True}),
    ("AdamW", {**ADAM_ACTIVE, "amsgrad": True, "maximize": True}),
    ("NAdam", {**ADAM_ACTIVE, "decoupled_weight_decay": True}),
    ("RAdam", {**ADAM_ACTIVE, "decoupled_weight_decay": True}),
    ("RAdam", {"beta2": 0.5}),
    ("RMSprop", {"centered": True}),
    ("RMSprop", {"momentum": 0.6}),
    ("RMSprop", {**ACTIVE["RMSprop"], "centered": True}),
    ("Adagrad", {"initial_accumulator_value": 0.1}),
    ("Rprop", {"learning_rate": 100.0, "minimum_step": 1e-3, "maximum_step": 0.3}),
    ("ASGD", {"t0": 0.0, "lambd": 0.0}),
]
MAXIMIZED = [(rule, {**ACTIVE[rule], "maximize": True}) for rule in SLOTS]
DEFAULTS: list[tuple[str, dict[str, Any]]] = [(rule, {}) for rule in SLOTS]
CASES = DEFAULTS + [(rule, ACTIVE[rule]) for rule in SLOTS] + MAXIMIZED + OPTIONS


def with_missing(grads: Gradients) -> Gradients:
    """Take away the first gradient, every seventh, and two in a row."""
    return [None if i % 7 == 0 or i in (15, 16) else grad for i, grad in enumerate(grads)]


def wave(value: float) -> Callable[[int], float]:
    """Return a schedule that stays within a tenth of the value and repeats itself nowhere."""
    return lambda update: value * (1 + 0.1 * math.cos(update))


def defaults_of(rule: str) -> dict[str, Any]:
    parameters = list(inspect.signature(REFERENCES[rule]).parameters.items())
    return {name: parameter.default for name, parameter in parameters[2:]}


def torch_settings(rule: str, hyperparameters: Mapping[str, Any]) -> dict[str, Any]:
    """Rename and pair up; pairs need both of their values, so the defaults fill in."""
    names = HYPERPARAMETERS_OF_ALL | HYPERPARAMETERS.get(rule, {})
    defaults = defaults_of(rule)
    paired = {name for pair in PAIRS.values() for name in pair}
    settings = {names.get(k, k): v for k, v in hyperparameters.items() if k not in paired}
    for name, pair in PAIRS.items():
        if any(component in hyperparameters for component in pair):
            settings[name] = tuple(hyperparameters.get(c, defaults[c]) for c in pair)
    return settings


@pytest.fixture
def torch() -> Iterator[Any]:
    """Torch with float64 scalars: NAdam's and ASGD's are of the default dtype."""
    module = pytest.importorskip("torch")
    default = module.get_default_dtype()
    module.set_default_dtype(module.float64)
    yield module
    module.set_default_dtype(default)


def run_torch(
    torch: Any,
    rule: str,
    param: Array,
    grads: Gradients,
    hyperparameters: Mapping[str, Any],
    schedules: Mapping[str, Callable[[int], float]],
) -> tuple[Array, dict[str, Array]]:
    """Run torch's optimizer of that name, one tensor at a time, the schedules set at each step."""
    tensor = torch.tensor(param, dtype=torch.float64, requires_grad=True)
    settings = torch_settings(rule, hyperparameters)
    optimizer = getattr(torch.optim, rule)([tensor], foreach=False, **settings)
    for update, grad in enumerate(grads):
        now = {**hyperparameters, **{name: at(update) for name, at in schedules.items()}}
        optimizer.param_groups[0].update(torch_settings(rule, now))
        tensor.grad = None if grad is None else torch.tensor(grad, dtype=torch.float64)
        optimizer.step()
    state = optimizer.state[tensor]
    slots = {name: state[native].numpy() for native, name in SLOTS[rule].items() if native in state}
    return tensor.detach().numpy(), slots


def assert_equal(
    actual: tuple[Array, dict[str, Array]], expected: tuple[Array, dict[str, Array]]
) -> None:
    """Compare parameter and slots to 1e-12 of each element, with no absolute tolerance."""
    assert actual[1].keys() == expected[1].keys()
    np.testing.assert_allclose(actual[0], expected[0], rtol=1e-12, atol=0, err_msg="param")
    for name, slot in expected[1].items():
        assert actual[1][name].shape == slot.shape
        np.testing.assert_allclose(actual[1][name], slot, rtol=1e-12, atol=0, err_msg=name)


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("rule", "hyperparameters"), CASES)
def test_equals_torch(
    torch: Any, rule: str, hyperparameters: dict[str, Any], shape: tuple[int, ...], missing: bool
) -> None:
    param = initial_parameter(shape, seed=1)
    grads: Gradients = awkward_gradients(shape, STEPS, seed=2)
    if missing:
        grads = with_missing(grads)
    expected = run_torch(torch, rule, param, grads, hyperparameters, {})
    assert_equal(REFERENCES[rule](param, grads, **hyperparameters), expected)


@pytest.mark.parametrize("rule", SLOTS)
def test_schedules_equal_torch_with_its_groups_rewritten(torch: Any, rule: str) -> None:
    param = initial_parameter((4, 3), seed=3)
    grads = with_missing(awkward_gradients((4, 3), STEPS, seed=4))
    scheduled = {k: wave(v) for k, v in ACTIVE[rule].items() if k not in INITIAL_ONLY}
    expected = run_torch(torch, rule, param, grads, ACTIVE[rule], scheduled)
    assert_equal(REFERENCES[rule](param, grads, **{**ACTIVE[rule], **scheduled}), expected)


@pytest.mark.parametrize("rule", SLOTS)
def test_defaults_are_those_of_torch(torch: Any, rule: str) -> None:
    optimizer = getattr(torch.optim, rule)([torch.zeros(1, requires_grad=True)])
    defaults = defaults_of(rule)
    for option in OTHER_FORM.get(rule, {}):
        del defaults[option]
    settings = torch_settings(rule, defaults)
    assert {name: optimizer.defaults[name] for name in settings} == settings


def test_defaults_are_those_of_keras_and_the_papers() -> None:
    assert defaults_of("RowwiseAdagrad") == defaults_of("Adagrad")
    assert list(defaults_of("FTRL").values()) == [1e-3, -0.5, 0.1, 0, 0, 0, 0, 0, False]
    assert list(defaults_of("Lion").values()) == [1e-4, 0.9, 0.99, 0, False]
    assert list(defaults_of("Signum").values()) == [1e-4, 0.9, 0, False]


@pytest.mark.parametrize(
    ("rule", "name"), [(rule, name) for rule in REFERENCES for name in defaults_of(rule)]
)
def test_every_hyperparameter_matters(rule: str, name: str) -> None:
    """A tenth more of any number, or any option turned over, shows in float32."""
    param = initial_parameter((4, 3), seed=5)
    grads = mild_gradients((4, 3), STEPS, seed=6)
    values = defaults_of(rule) | ACTIVE[rule]
    value = values[name]
    other = not value if isinstance(value, bool) else OTHER_FORM.get(rule, {}).get(name)
    other = value * 1.1 if other is None else other
    if name == "velocity_of":  # whether the velocity has the rate shows where the rate changes
        values["learning_rate"] = wave(values["learning_rate"])
    before, slots = REFERENCES[rule](param, grads, **values)
    after, other_slots = REFERENCES[rule](param, grads, **{**values, name: other})
    if (rule, name) == ("ASGD", "t0"):  # where the averaging starts: the parameter never sees it
        before, after = slots["average"], other_slots["average"]
    assert np.max(np.abs(after - before)) > 1e-3 * np.max(np.abs(before))


@pytest.mark.parametrize("rule", REFERENCES)
def test_arguments_stay_untouched_and_results_are_new_arrays(rule: str) -> None:
    param = initial_parameter((), seed=7)
    grads = mild_gradients((), 3, seed=8)
    copies = [param.copy(), *(grad.copy() for grad in grads)]
    final, slots = REFERENCES[rule](param, grads, **ACTIVE[rule])
    np.testing.assert_array_equal([param, *grads], copies)
    for array in [final, *slots.values()]:
        assert type(array) is np.ndarray
        assert array.dtype == np.float64
        assert not any(np.shares_memory(array, given) for given in [param, *grads])


@pytest.mark.parametrize("rule", REFERENCES)
def test_a_parameter_without_gradients_stays_and_has_no_slots(rule: str) -> None:
    param = initial_parameter((3,), seed=9)
    final, slots = REFERENCES[rule](param, [None, None], **ACTIVE[rule])
    np.testing.assert_array_equal(final, param)
    assert slots == {}


@pytest.mark.parametrize("rule", REFERENCES)
def test_a_schedule_counts_missing_gradients_and_a_step_does_not(rule: str) -> None:
    grads = mild_gradients((3,), 6, seed=10)
    late: Gradients = [None, grads[0], None, *grads[1:]]
    param = initial_parameter((3,), seed=11)
    update_of_gradient = [1, 3, 4, 5, 6, 7]
    scheduled = {k: wave(v) for k, v in ACTIVE[rule].items()}
    renumbered = {
        k: lambda update, at=at: at(update_of_gradient[update]) for k, at in scheduled.items()
    }
    actual = REFERENCES[rule](param, late, **scheduled)
    assert_equal(actual, REFERENCES[rule](param, grads, **renumbered))


def test_ftrl_from_zero_without_penalties_is_adagrad() -> None:
    """McMahan et al. 2013, section 3: then FTRL-Proximal is gradient descent with those rates."""
    zeros, grads = np.zeros((4, 3)), awkward_gradients((4, 3), STEPS, seed=12)
    settings = {"learning_rate": 0.3, "initial_accumulator_value": 0.5}
    actual, slots = REFERENCES["FTRL"](zeros, grads, **settings)
    expected, adagrad = REFERENCES["Adagrad"](zeros, grads, epsilon=0.0, **settings)
    np.testing.assert_allclose(actual, expected, rtol=1e-9, atol=0)
    np.testing.assert_allclose(slots["accumulator"], adagrad["accumulator"], rtol=1e-15)


def test_ftrl_minimizes_its_regularized_sum() -> None:
    """Its result is optimal in eq. 1 of the paper, to which Keras adds beta and l2_shrinkage.

    w = argmin of sum_s [ (g_s + 2 shrinkage w_s) w + sigma_s / 2 (w - w_s)^2 ]
    + n_0^k / (2 lr) w^2 + (l2 + beta / (2 lr)) w^2 + l1 |w|, by trying points around w.
    """
    settings = {**ACTIVE["FTRL"], "weight_decay": 0.0}
    lr, k = settings["learning_rate"], -settings["learning_rate_power"]
    grads = [np.asarray(g) for g in (0.7, -1.3, 0.2, 0.9)]
    points = [np.array(0.4)]
    for count in range(1, 5):
        points.append(REFERENCES["FTRL"](points[0], grads[:count], **settings)[0])

    def objective(w: float) -> float:
        n = settings["initial_accumulator_value"]
        total = n**k / (2 * lr) * w**2 + settings["l1"] * abs(w)
        total += (settings["l2"] + settings["beta"] / (2 * lr)) * w**2
        for g, point in zip(grads, points, strict=False):
            sigma = ((n + g**2) ** k - n**k) / lr
            total += (g + 2 * settings["l2_shrinkage"] * point) * w + sigma / 2 * (w - point) ** 2
            n += g**2
        return float(total)

    best = float(points[-1])
    assert best != 0
    for distance in (1e-4, 1e-2, 1.0):
        assert objective(best) < min(objective(best - distance), objective(best + distance))


def test_ftrl_with_a_large_l1_is_exactly_zero() -> None:
    final, slots = REFERENCES["FTRL"](np.ones(3), [np.array([1.0, -1.0, 0.5])], l1=1e4)
    np.testing.assert_array_equal(final, np.zeros(3))
    np.testing.assert_array_equal(slots["accumulator"], 0.1 + np.array([1.0, 1.0, 0.25]))


def test_lion_by_hand() -> None:
    """The second gradient turns the momentum's sign for the slot, but not for the step."""
    settings = {"learning_rate": 0.5, "beta1": 0.75, "beta2": 0.5, "weight_decay": 0.25}
    grads = [np.array([4.0]), np.array([-5.0])]
    final, slots = REFERENCES["Lion"](np.array([2.0]), grads, **settings)
    # step 1: sign 1, p = 2 - 0.5 (1 + 0.5) = 1.25, m = 2
    # step 2: sign(1.5 - 1.25) = 1, p = 1.25 - 0.5 (1 + 0.3125) = 0.59375, m = 1 - 2.5 = -1.5
    np.testing.assert_array_equal(final, [0.59375])
    np.testing.assert_array_equal(slots["first_moment"], [-1.5])


def test_lion_with_equal_betas_is_signum() -> None:
    param, grads = initial_parameter((4, 3), 13), awkward_gradients((4, 3), STEPS, 14)
    lion = REFERENCES["Lion"](param, grads, beta1=0.8, beta2=0.8, weight_decay=0.1)
    assert_equal(lion, REFERENCES["Signum"](param, grads, momentum=0.8, weight_decay=0.1))


def test_signum_without_momentum_steps_along_the_sign() -> None:
    grads = [np.array([1e-12, -1e4, 0.0]), np.array([-2.0, -1.0, 0.0])]
    final, slots = REFERENCES["Signum"](np.ones(3), grads, learning_rate=0.25, momentum=0.0)
    np.testing.assert_array_equal(final, [1.0, 1.5, 1.0])
    np.testing.assert_array_equal(slots["first_moment"], grads[-1])


@pytest.mark.parametrize("shape", [(), (7,)])
def test_rowwise_adagrad_of_rows_of_one_element_is_adagrad(shape: tuple[int, ...]) -> None:
    param, grads = initial_parameter(shape, 15), awkward_gradients(shape, STEPS, 16)
    rowwise = REFERENCES["RowwiseAdagrad"](param, grads, **ADAGRAD_ACTIVE)
    assert_equal(rowwise, REFERENCES["Adagrad"](param, grads, **ADAGRAD_ACTIVE))


def test_rowwise_adagrad_by_hand() -> None:
    grad = np.array([[[3.0, 4.0], [0.0, 5.0]], [[0.0, 0.0], [0.0, 0.0]]])  # squares: 50 of 4
    settings = {"learning_rate": 1.0, "initial_accumulator_value": 3.75, "epsilon": 1.0}
    final, slots = REFERENCES["RowwiseAdagrad"](np.zeros((2, 2, 2)), [grad], **settings)
    np.testing.assert_array_equal(slots["accumulator"], [[[16.25]], [[3.75]]])
    np.testing.assert_allclose(final, -grad / (math.sqrt(16.25) + 1), rtol=1e-15)


@pytest.mark.parametrize("shape", [(64,), (8, 8)])
def test_awkward_gradients_are_awkward(shape: tuple[int, ...]) -> None:
    grads = np.array(awkward_gradients(shape, STEPS, seed=17)).reshape(STEPS, 64)
    sizes = np.abs(grads[grads != 0])
    assert 0.99e-12 <= sizes.min() < 1e-11
    assert 1e3 < sizes.max() <= 1.01e4
    assert np.sum(grads == 0) > grads.size / 10
    assert np.all(grads[STEPS // 2] == 0)
    for element in grads.T:
        assert element.min() < 0 < element.max()
        agreement = element[:-1] * element[1:]
        assert agreement.min() < 0 < agreement.max()


@pytest.mark.parametrize("shape", [*SHAPES, (0,), (2, 0)])
def test_gradients_are_float32_values_in_float64_and_repeatable(shape: tuple[int, ...]) -> None:
    for make in (awkward_gradients, mild_gradients):
        first, again, other = (make(shape, 4, seed) for seed in (18, 18, 19))
        for grad, same in zip(first, again, strict=True):
            assert_float32_values(grad, shape)
            np.testing.assert_array_equal(grad, same)
        assert 0 in shape or not np.array_equal(first, other)
    assert_float32_values(initial_parameter(shape, 18), shape)


def assert_float32_values(array: Array, shape: tuple[int, ...]) -> None:
    assert type(array) is np.ndarray
    assert array.dtype == np.float64
    assert array.shape == shape
    np.testing.assert_array_equal(array, array.astype(np.float32))
