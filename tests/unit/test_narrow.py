"""Rounding to 16 bits: the definition against torch's casts, kernels against the definition."""

from __future__ import annotations

from typing import Any

import numba
import numpy
import pytest
import torch

from pellucid.fuse import counter, narrow
from pellucid.fuse.runtime_narrow import NAMES

DTYPES = ["bfloat16", "float16"]
RNG = numpy.random.default_rng(7)


def every_kind() -> Any:
    """float32 of all magnitudes, halves between neighbours, NaN, infinities, subnormals."""
    bits = RNG.integers(0, 1 << 32, 20000, dtype=numpy.uint32)
    ties = ((bits[:4000] >> 16) << 16) | 0x8000
    ties16 = ((bits[4000:8000] >> 13) << 13) | 0x1000
    nan = (bits & 0x7F800000) == 0x7F800000
    bits[nan] |= 0x400000  # arithmetic gives no other NaN than quiet ones
    special = [0.0, -0.0, numpy.inf, -numpy.inf, numpy.nan, 65504.0, 65519.9, 65520.0, 3.4e38,
               1e-45, 6e-8, 2.9e-8, 3.1e-8, 2.0**-14, 2.0**-14 - 2.0**-26, -1e-7, 1e-40]
    return numpy.concatenate([
        bits.view(numpy.float32), ties.view(numpy.float32), ties16.view(numpy.float32),
        RNG.standard_normal(4000).astype(numpy.float32) * numpy.float32(1e-6),
        numpy.array(special, numpy.float32),
    ])  # fmt: skip


def same(a: Any, b: Any) -> bool:
    nan = numpy.isnan(a) & numpy.isnan(b)
    return bool(((a.view(numpy.uint32) == b.view(numpy.uint32)) | nan).all())


def by_torch(x: Any, dtype: str) -> Any:
    return torch.from_numpy(x).to(getattr(torch, dtype)).float().numpy()


@pytest.mark.parametrize("dtype", DTYPES)
def test_nearest_is_what_torch_rounds_to(dtype: str) -> None:
    x = every_kind()
    assert same(narrow.nearest(x, dtype), by_torch(x, dtype))


@pytest.mark.parametrize("dtype", DTYPES)
def test_kernels_round_as_the_definition_does(dtype: str) -> None:
    nearest, randomly = NAMES[f"nearest_{dtype}"], NAMES[f"randomly_{dtype}"]
    key0, key1 = counter.tensor_key(11, counter.ROUNDING, 3, 5)

    @numba.njit
    def loop(x, near, random, key0, key1):  # type: ignore[no-untyped-def]
        for i in range(len(x)):
            near[i] = nearest(x[i])
            random[i] = randomly(x[i], key0, key1, i + 5000000000)

    x = every_kind()
    near, random = numpy.empty_like(x), numpy.empty_like(x)
    loop(x, near, random, key0, key1)
    assert same(near, narrow.nearest(x, dtype))
    places = numpy.arange(len(x)) + 5000000000
    assert same(random, narrow.randomly(x, counter.rounding_bits(key0, key1, places), dtype))


@pytest.mark.parametrize("dtype", DTYPES)
def test_random_rounding_gives_a_neighbour(dtype: str) -> None:
    """A number of the type itself stays; any other becomes the one below it or the one above."""
    x = every_kind()
    x = x[numpy.isfinite(x) & (abs(x) < 65504)]
    bits = counter.rounding_bits(1, 2, numpy.arange(len(x)))
    found = narrow.randomly(x, bits, dtype)
    assert same(found, by_torch(found, dtype))
    exact = by_torch(x, dtype) == x
    assert exact.any()
    assert (found[exact] == x[exact]).all()
    steps = torch.from_numpy(found).to(getattr(torch, dtype)).view(torch.int16).int()
    near = torch.from_numpy(x).to(getattr(torch, dtype)).view(torch.int16).int()
    magnitude = (steps & 0x7FFF) - (near & 0x7FFF)
    assert int(magnitude.abs().max()) == 1


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [1.001, -0.333, 3e-6, 1234.5, -7e-8])
def test_random_rounding_keeps_the_mean(dtype: str, value: float) -> None:
    """Over a million elements the mean is the number itself, within five standard errors."""
    count = 1 << 20
    x = numpy.full(count, value, numpy.float32)
    found = narrow.randomly(x, counter.rounding_bits(123, 456, numpy.arange(count)), dtype)
    low, high = float(found.min()), float(found.max())
    assert low < float(x[0]) < high or low == float(x[0]) == high
    error = abs(float(found.astype(numpy.float64).mean()) - float(x[0]))
    share = (float(x[0]) - low) / (high - low) if high > low else 0.0
    bound = 5 * (high - low) * (share * (1 - share) / count) ** 0.5
    assert error <= bound + 2.0**-13 * (high - low), (error, bound)


def test_bits_of_neighbours_steps_and_tensors_are_unlike() -> None:
    """Each bit is set half of the time, and no two sequences agree more than by chance."""
    places = numpy.arange(1 << 16)
    drawn = [
        counter.rounding_bits(*counter.tensor_key(seed, counter.ROUNDING, tensor, step), places)
        for seed, tensor, step in [(0, 0, 1), (0, 0, 2), (0, 1, 1), (1, 0, 1)]
    ]
    drawn.append(numpy.roll(drawn[0], 1))
    bits = [((one[:, None] >> numpy.arange(16, 32)) & 1) for one in drawn]  # those that round
    limit = 5 * 0.5 / (1 << 16) ** 0.5
    for number, one in enumerate(bits):
        assert abs(one.mean(axis=0) - 0.5).max() < limit
        for other in bits[:number]:
            assert abs((one == other).mean(axis=0) - 0.5).max() < limit
