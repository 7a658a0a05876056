from __future__ import annotations

import numpy as np
import pytest

from mobileseg.errors import OptionError
from mobileseg.quantization.ranges import BINS, METHODS, Statistics, least_squares, percentile, range_method


def statistics_of(*pictures: list[float] | np.ndarray) -> Statistics:  # type: ignore[type-arg]
    statistics = Statistics()
    for values in pictures:
        statistics.add(np.asarray(values, np.float32))
    return statistics


def heavy() -> Statistics:
    """Twenty pictures of a normal distribution, and one value far out."""
    rng = np.random.default_rng(0)
    return statistics_of(*(rng.normal(0, 1, 30000) for _ in range(20)), [100.0])


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize(
    "values",
    [[0.0], [3.5], [-2.0, -1.0], [0.0, 0.0, 0.0], [1e-42, 0.0], [3e38, -3e38], [1e-30] * 99 + [1e29]],
    ids=["zero", "one positive", "negative", "dead", "subnormal", "huge", "one far out"],
)
def test_any_values_give_a_finite_range_with_zero_inside(name: str, values: list[float]) -> None:
    low, high = METHODS[name](statistics_of(values))
    assert np.isfinite([low, high]).all()
    assert low <= 0.0 <= high


def test_a_value_that_was_never_seen_has_no_picture_and_a_border_is_no_value() -> None:
    statistics = statistics_of([-np.inf, -3.4e38, np.inf])
    assert statistics.pictures == 0
    statistics.add(np.asarray([-np.inf, 1.0, -2.0], np.float32))
    assert (statistics.low, statistics.high) == (-2.0, 1.0)


def test_rare_extremes_are_cut_off_and_plain_ranges_are_not() -> None:
    assert least_squares(heavy())[1] < 60.0
    assert percentile(heavy())[1] < 6.0
    assert METHODS["entropy"](heavy())[1] < 90.0
    assert METHODS["min-max"](heavy())[1] == 100.0
    plain = statistics_of(*(np.random.default_rng(i).uniform(-1, 1, 30000) for i in range(3)))
    assert least_squares(plain) == pytest.approx((plain.low, plain.high))
    assert percentile(plain) == pytest.approx((plain.low, plain.high), abs=2e-3)


def test_the_moving_average_follows_the_pictures_extremes() -> None:
    steady = statistics_of(*([-1.0, 2.0] for _ in range(5)), [-1.0, 12.0])
    assert METHODS["moving-average"](steady) == pytest.approx((-1.0, 3.0))


def test_percentiles_end_where_so_many_values_lie_beyond() -> None:
    even = statistics_of(np.linspace(-1.0, 1.0, 50001))
    assert percentile(even, 99.0) == pytest.approx((-0.98, 0.98), abs=2e-3)
    assert range_method("percentile:99")(even) == percentile(even, 99.0)
    assert percentile(even, 100.0) == (-1.0, 1.0)


def test_the_histogram_widens_without_losing_counts() -> None:
    statistics = statistics_of(*(np.linspace(-radius, radius, 1001) for radius in (1e-3, 1.0, 1e3)))
    assert statistics.counts.sum() == 3003
    assert statistics.counts.shape == (BINS,)
    assert statistics.counts[BINS // 2 - 8 : BINS // 2 + 8].sum() >= 2002


@pytest.mark.parametrize("name", ["percentil", "percentile:40", "percentile:101", "percentile:many", ""])
def test_an_unknown_method_is_refused_by_name(name: str) -> None:
    with pytest.raises(OptionError, match="percentile"):
        range_method(name)
