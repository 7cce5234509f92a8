"""The references of transforms, by values worked out by hand and by the norms they promise."""

import numpy as np
import pytest

from . import transforms
from .gradients import awkward_gradients, initial_parameter
from .steps import Array

ROWS = np.array([[3.0, 4.0], [0.0, 0.0], [0.6, -0.8]])  # of norm 5, 0 and 1


def norm(tensor: Array) -> float:
    return float(np.sqrt(np.sum(tensor**2)))


def test_clip_by_value_limits_each_element() -> None:
    grads = [np.array([-3.0, 0.5]), np.array(2.0)]
    clipped = transforms.clip_by_value(grads, 1.0)
    np.testing.assert_array_equal(clipped[0], [-1.0, 0.5])
    np.testing.assert_array_equal(clipped[1], 1.0)


@pytest.mark.parametrize(
    ("grad", "expected"),
    [([3.0, -4.0], [1.5, -2.0]), ([0.3, -0.4], [0.3, -0.4]), ([0.0, 0.0], [0.0, 0.0])],
)
def test_clip_by_norm_only_shrinks(grad: list[float], expected: list[float]) -> None:
    np.testing.assert_allclose(transforms.clip_by_norm(np.array(grad), 2.5), expected, rtol=1e-15)


def test_clip_by_global_norm_takes_all_gradients_together() -> None:
    grads = {"a": np.array([3.0, 0.0]), "b": np.zeros(()), "c": np.array([[-4.0]])}
    clipped = transforms.clip_by_global_norm(grads, 2.5)
    np.testing.assert_allclose(clipped["a"], [1.5, 0.0], rtol=1e-15)
    np.testing.assert_allclose(clipped["c"], [[-2.0]], rtol=1e-15)
    assert list(clipped) == ["a", "b", "c"]
    below = transforms.clip_by_global_norm(grads, 5.1)
    for name, grad in grads.items():
        np.testing.assert_array_equal(below[name], grad)


def test_clip_by_global_norm_leaves_zeros() -> None:
    clipped = transforms.clip_by_global_norm([np.zeros(3), np.zeros(())], 1.0)
    np.testing.assert_array_equal(clipped[0], np.zeros(3))


@pytest.mark.parametrize("max_norm", [1e-6, 1.0, 1e6])
def test_clip_by_global_norm_reaches_its_norm(max_norm: float) -> None:
    grads = [awkward_gradients(shape, 1, seed=20)[0] for shape in [(5,), (4, 3), (2, 2, 2)]]
    everything = np.concatenate([grad.ravel() for grad in grads])
    clipped = transforms.clip_by_global_norm(grads, max_norm)
    together = np.concatenate([grad.ravel() for grad in clipped])
    assert norm(together) == pytest.approx(min(max_norm, norm(everything)), rel=1e-12)


def test_adaptive_clip_limits_each_row_by_its_parameter() -> None:
    grad = np.array([[3.0, 4.0], [3.0, 4.0], [0.003, 0.004]])
    clipped = transforms.adaptive_clip(ROWS, grad, clipping=0.1, epsilon=0.5)
    # limits 0.1 x 5, 0.1 x 0.5 (the floor) and 0.1 x 1; the last gradient, 0.005, is below its own
    np.testing.assert_allclose(clipped, [[0.3, 0.4], [0.03, 0.04], [0.003, 0.004]], rtol=1e-14)


def test_adaptive_clip_takes_a_vector_whole() -> None:
    clipped = transforms.adaptive_clip(np.array([6.0, 8.0]), np.array([3.0, 4.0]))
    np.testing.assert_allclose(clipped, [0.06, 0.08], rtol=1e-14)
    scalar = transforms.adaptive_clip(np.array(-2.0), np.array(-7.0))
    np.testing.assert_allclose(scalar, -0.02, rtol=1e-14)
    floored = transforms.adaptive_clip(np.zeros(2), np.array([3.0, 4.0]))
    np.testing.assert_allclose(floored, [0.6e-5, 0.8e-5], rtol=1e-14)


def test_centralize_takes_the_mean_of_each_row_alone() -> None:
    grad = np.arange(12.0).reshape(2, 3, 2)
    expected = [grad[0] - 2.5, grad[1] - 8.5]
    np.testing.assert_array_equal(transforms.centralize(grad), expected)
    for small in (np.array(3.0), np.array([1.0, 2.0])):
        np.testing.assert_array_equal(transforms.centralize(small), small)


def test_normalize_divides_by_norm_and_epsilon() -> None:
    normalized = transforms.normalize(np.array([[3.0], [4.0]]), 3.0)
    np.testing.assert_array_equal(normalized, [[0.375], [0.5]])
    np.testing.assert_array_equal(transforms.normalize(np.zeros(2), 1e-8), np.zeros(2))


def test_decay_weights_pulls_the_update_towards_zero() -> None:
    decayed = transforms.decay_weights(np.array([1.0, 1.0]), np.array([2.0, -4.0]), 0.5, 0.25)
    np.testing.assert_array_equal(decayed, [0.75, 1.5])


def test_average_weights_starts_at_the_parameter() -> None:
    param = np.array([1.0, 2.0])
    first = transforms.average_weights(param, None, 0.75)
    np.testing.assert_array_equal(first, param)
    assert first is not param
    second = transforms.average_weights(np.array([5.0, -2.0]), first, 0.75)
    np.testing.assert_array_equal(second, [2.0, 1.0])


def test_project_max_norm_only_shrinks_rows() -> None:
    projected = transforms.project_max_norm(ROWS, 2.0)
    np.testing.assert_allclose(projected, [[1.2, 1.6], [0.0, 0.0], [0.6, -0.8]], rtol=1e-15)
    small = transforms.project_max_norm(0.16 * ROWS, 0.1)  # norms 0.8, 0 and 0.16
    np.testing.assert_allclose(small, [[0.06, 0.08], [0.0, 0.0], [0.06, -0.08]], rtol=1e-14)
    whole = transforms.project_max_norm(np.array([3.0, 4.0]), 2.0)
    np.testing.assert_allclose(whole, [1.2, 1.6], rtol=1e-15)
    np.testing.assert_array_equal(transforms.project_max_norm(np.array(-3.0), 2.0), -2.0)


def test_project_weight_norm_gives_every_row_but_zeros_its_norm() -> None:
    projected = transforms.project_weight_norm(0.1 * ROWS)
    np.testing.assert_allclose(projected, [[0.6, 0.8], [0.0, 0.0], [0.6, -0.8]], rtol=1e-14)
    param = initial_parameter((4, 3, 2), seed=21)
    for row in transforms.project_weight_norm(param, norm=2.5):
        assert norm(row) == pytest.approx(2.5, rel=1e-14)
    assert norm(transforms.project_weight_norm(np.array([3.0, 4.0]))) == pytest.approx(1.0)


@pytest.mark.parametrize("shape", [(), (3,), (4, 3), (2, 3, 4)])
def test_shapes_and_dtypes_stay(shape: tuple[int, ...]) -> None:
    param, grad = initial_parameter(shape, seed=22), awkward_gradients(shape, 1, seed=23)[0]
    for transformed in (
        transforms.clip_by_value([grad], 1e-3)[0],
        transforms.clip_by_norm(grad, 1e-3),
        transforms.clip_by_global_norm([grad], 1e-3)[0],
        transforms.adaptive_clip(param, grad),
        transforms.centralize(grad),
        transforms.normalize(grad, 1e-8),
        transforms.decay_weights(grad, param, 0.1, 0.1),
        transforms.average_weights(param, grad, 0.9),
        transforms.project_max_norm(param, 0.1),
        transforms.project_weight_norm(param),
    ):
        assert np.shape(transformed) == shape
        assert np.asarray(transformed).dtype == np.float64
