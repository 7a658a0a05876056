"""Channels that a file has scaled, told from their numbers."""

from __future__ import annotations

import numpy as np
import pytest

from mobileseg.validation.bisect.factors import channel_at, factors, factors_of

FACTORS = np.array([1.0, 2.0, 0.25, -1.0, 16.0, -0.5], np.float32)


@pytest.mark.parametrize("shape", [(2, 6, 4, 5), (1, 2, 3, 4, 5)])
def test_powers_of_two_are_told_through_rounding(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    expected = rng.normal(size=shape).astype(np.float32)
    given = FACTORS.reshape((1, *shape[1:-2], 1, 1))
    noisy = expected * given * rng.uniform(0.8, 1.2, shape).astype(np.float32)
    found = factors(expected, noisy)
    np.testing.assert_array_equal(found, given)
    places = rng.choice(expected.size, 600)
    channels = channel_at(places, shape)
    sampled = factors_of(channels, *(v.reshape(-1)[places].astype(np.float64) for v in (expected, noisy)))
    np.testing.assert_array_equal(sampled, FACTORS[channels])


def test_no_other_factor_is_undone() -> None:
    expected = np.arange(1.0, 33.0, dtype=np.float32).reshape(1, 4, 2, 4)
    actual = expected * np.array([3.0, 1.3, 0.0, 1000.0], np.float32)[:, None, None]
    np.testing.assert_array_equal(factors(expected, actual).reshape(-1), [4.0, 1.0, 1.0, 16.0])


def test_what_a_limit_cut_off_says_nothing() -> None:
    """Of a ReLU, mostly negative numbers in front of it; and of a range that ends early."""
    expected = np.random.default_rng(0).normal(-1.0, 1.0, (1, 4, 30, 30)).astype(np.float32)
    actual = np.clip(expected * np.array([1.0, 2.0, 4.0, 8.0], np.float32)[:, None, None], 0.0, 4.0)
    assert factors(expected, actual).reshape(-1).tolist() == [1.0, 2.0, 4.0, 8.0]


def test_channels_of_zeros_and_of_what_is_no_number_stay() -> None:
    expected = np.zeros((1, 2, 2, 2), np.float32)
    expected[:, 1] = np.nan
    np.testing.assert_array_equal(factors(expected, np.ones_like(expected)).reshape(-1), [1.0, 1.0])


def test_what_has_no_channels_has_one_factor() -> None:
    expected = np.arange(-3.0, 3.0, dtype=np.float32).reshape(2, 3)
    assert factors(expected, 2 * expected).tolist() == [[2.0]]
    assert channel_at(np.arange(6), (2, 3)).tolist() == [0] * 6
