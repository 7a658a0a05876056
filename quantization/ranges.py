"""Which range of a tensor's values eight bits should represent: statistics that stream, and the methods that read them.

A method is one function and one line of `METHODS`. All take `Statistics` and give `(low, high)`; zero is always inside,
because padding writes it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from mobileseg.errors import OptionError, unknown_option

Range = tuple[float, float]

BINS = 4096
SAMPLES = 1 << 16
"""Largest number of values of one picture's tensor that enter the histogram; the extremes are exact."""

LEVELS = 255
"""Steps between the lowest and the highest of 256 numbers."""

PERCENTILE = 99.99
"""Default share of the values, in percent, on either side of which a `percentile` range ends.

Of 99.9, 99.99, 99.999 and the extremes it kept most pixels equal in ESPNet, ESPNetV2 and ENet on calibration pictures
held back; least squared error kept fewer than any (docs/measurements.md).
"""

BORDER = 1e30
"""What is at least as large stands for minus infinity: the border of a padded maximum pooling."""

MOMENTUM = 0.9
"""Of the moving average: what the pictures before weigh against one more."""

CUTS = np.linspace(1.0, 0.2, 41)
"""Shares of the observed extremes that are tried as ends of a range."""


@dataclass
class Statistics:
    """Extremes, their moving average over the pictures, and a histogram of a tensor's values, symmetric about zero; it
    doubles its radius where a value does not fit. Memory does not grow with the pictures."""

    low: float = math.inf
    high: float = -math.inf
    mean_low: float = 0.0
    mean_high: float = 0.0
    pictures: int = 0
    radius: float = 2.0**-20
    counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(BINS, np.int64))

    def add(self, values: NDArray[np.float32], channels: int = 1) -> None:
        """Take in one picture's values, the last axis of ``channels`` running fastest. Borders are left out.

        What remains is finite: a network that computes infinities or no numbers fails its parity in float.
        """
        values = values.reshape(-1)
        low, high = (float(values.min()), float(values.max())) if values.size else (math.nan, math.nan)
        if not (low > -BORDER and high < BORDER):
            values = values[np.abs(values) < BORDER]
            if not values.size:
                return
            low, high = float(values.min()), float(values.max())
        self.low, self.high = min(self.low, low), max(self.high, high)
        kept = MOMENTUM if self.pictures else 0.0
        self.mean_low = kept * self.mean_low + (1 - kept) * low
        self.mean_high = kept * self.mean_high + (1 - kept) * high
        self.pictures += 1
        step = max(1, values.size // SAMPLES)
        while math.gcd(step, channels) > 1:  # else some channels would never be looked at
            step += 1
        self._count(values[::step])

    def _count(self, sample: NDArray[np.float32]) -> None:
        greatest = float(np.abs(sample).max())
        while self.radius <= greatest:
            middle = self.counts.reshape(-1, 2).sum(axis=1)
            self.counts = np.pad(middle, BINS // 4)
            self.radius *= 2
        places = ((sample.astype(np.float64) + self.radius) * (BINS / (2 * self.radius))).astype(np.int64)
        self.counts += np.bincount(np.minimum(places, BINS - 1), minlength=BINS)

    @property
    def centres(self) -> NDArray[np.float64]:
        width = 2 * self.radius / BINS
        return np.asarray((np.arange(BINS) + 0.5) * width - self.radius, np.float64)


def extremes(statistics: Statistics) -> Range:
    """From the least to the greatest value seen."""
    return min(statistics.low, 0.0), max(statistics.high, 0.0)


def moving_average(statistics: Statistics) -> Range:
    """The pictures' extremes, averaged with `MOMENTUM` (Jacob et al. 2018, arXiv 1712.05877)."""
    return min(statistics.mean_low, 0.0), max(statistics.mean_high, 0.0)


def percentile(statistics: Statistics, percent: float = PERCENTILE) -> Range:
    """What ``percent`` of the values lie below, and what as many lie above; never beyond the extremes."""
    shares = np.cumsum(statistics.counts) / max(1, statistics.counts.sum())
    width = 2 * statistics.radius / BINS
    high = (int(np.searchsorted(shares, percent / 100)) + 1) * width - statistics.radius
    low = int(np.searchsorted(shares, 1 - percent / 100, side="right")) * width - statistics.radius
    least, greatest = extremes(statistics)
    return min(max(low, least), 0.0), max(min(high, greatest), 0.0)


def least_squares(statistics: Statistics) -> Range:
    """The range in which 8 bits represent the values with the least squared error.

    Error of a range: what its ends cut off, from the histogram, plus a twelfth of the squared step for every value.
    """
    counts, centres = statistics.counts, statistics.centres
    low, high = extremes(statistics)
    lows, highs = low * CUTS, high * CUTS
    cut_low = (counts * np.maximum(lows[:, None] - centres, 0.0) ** 2).sum(axis=1)
    cut_high = (counts * np.maximum(centres - highs[:, None], 0.0) ** 2).sum(axis=1)
    step = (highs[None, :] - lows[:, None]) / LEVELS
    error = cut_low[:, None] + cut_high[None, :] + counts.sum() * step**2 / 12
    i, j = np.unravel_index(int(error.argmin()), error.shape)
    return float(lows[i]), float(highs[j])


def least_divergence(statistics: Statistics) -> Range:
    """The range after which the values' distribution diverges least, in Kullback's and Leibler's sense, from before
    (Migacz, "8-bit inference with TensorRT", 2017): both ends are cut by the same share."""
    low, high = extremes(statistics)
    if low == high:
        return low, high
    found = [(_divergence(statistics, low * cut, high * cut), low * cut, high * cut) for cut in CUTS]
    _, best_low, best_high = min(found, key=lambda item: item[0])
    return float(best_low), float(best_high)


def _divergence(statistics: Statistics, low: float, high: float) -> float:
    counts = statistics.counts.astype(np.float64)
    step = max((high - low) / LEVELS, float(np.finfo(np.float32).tiny))
    clipped = np.clip(statistics.centres, low, high)
    clipped_counts = np.zeros(BINS)
    width = 2 * statistics.radius / BINS
    places = np.clip(((clipped + statistics.radius) / width).astype(np.int64), 0, BINS - 1)
    np.add.at(clipped_counts, places, counts)
    levels = np.round((statistics.centres - low) / step).astype(np.int64)
    inside = (levels >= 0) & (levels <= LEVELS)
    sums, used = np.zeros(LEVELS + 1), np.zeros(LEVELS + 1)
    np.add.at(sums, levels[inside], counts[inside])
    np.add.at(used, levels[inside], counts[inside] > 0)
    spread = np.zeros(BINS)
    spread[inside] = np.where(counts[inside] > 0, (sums / np.maximum(used, 1))[levels[inside]], 0.0)
    p = clipped_counts / max(clipped_counts.sum(), 1.0)
    q = np.maximum(spread / max(spread.sum(), 1.0), 1e-12)
    present = p > 0
    return float((p[present] * np.log(p[present] / q[present])).sum())


METHODS: dict[str, Callable[[Statistics], Range]] = {
    "min-max": extremes,
    "moving-average": moving_average,
    "percentile": percentile,
    "mse": least_squares,
    "entropy": least_divergence,
}


def range_method(name: str) -> Callable[[Statistics], Range]:
    """A method by its name: one of `METHODS`, or ``"percentile:99.9"``. Raises `OptionError` for another."""
    word, colon, figure = name.partition(":")
    if word == "percentile" and colon:
        try:
            percent = float(figure)
        except ValueError:
            percent = math.nan
        if not 50.0 < percent <= 100.0:
            raise OptionError(f"'{figure}' is no percentile; expected a number above 50, up to 100: percentile:99.9.")
        return lambda statistics: percentile(statistics, percent)
    if name not in METHODS:
        raise unknown_option("range method", name, METHODS)
    return METHODS[name]
