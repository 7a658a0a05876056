"""A palette of few numbers for many: k-means in one dimension, the same every time.

The numbers in order are merged, always the two neighbouring groups whose merging adds the least squared error (Ward
1963, and for palettes Equitz 1989), until as many groups are left as the palette has places. Lloyd's algorithm (1957)
then moves each mean to the numbers that are nearest to it, until none moves. From there it finds palettes within a few
tenths of a dB of the best; started from quantiles it stops several dB short.
"""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_MOST_ROUNDS = 300


def palette_of(values: NDArray[np.floating], bits: int) -> tuple[NDArray[np.floating], NDArray[np.uint8]]:
    """The palette, 2^bits numbers in the values' dtype and in order, and the index of each value's nearest, flat.

    Values that are no more than 2^bits different ones are kept as they are.
    """
    distinct, inverse, counts = np.unique(values.reshape(-1), return_inverse=True, return_counts=True)
    if len(distinct) <= 1 << bits:
        levels = np.pad(distinct, (0, (1 << bits) - len(distinct)), mode="edge")
        return levels, inverse.astype(np.uint8)
    numbers = distinct.astype(np.float64)
    levels = _lloyd(numbers, counts, _merged(numbers, counts, 1 << bits)).astype(values.dtype)
    return levels, _nearest(numbers, levels.astype(np.float64))[inverse].astype(np.uint8)


def _merged(numbers: NDArray[np.float64], counts: NDArray[np.int64], groups: int) -> NDArray[np.float64]:
    """The means of ``groups`` groups of neighbours. ``left``, ``right``: each group's neighbours; a group lives on
    under the index of its first number, and a cost in the heap is stale once either size has changed."""
    means, sizes = numbers.tolist(), counts.tolist()
    count = len(means)
    left, right = list(range(-1, count - 1)), list(range(1, count + 1))

    def cost(a: int, b: int) -> tuple[float, int, int, int, int]:
        error = sizes[a] * sizes[b] / (sizes[a] + sizes[b]) * (means[a] - means[b]) ** 2
        return error, a, b, sizes[a], sizes[b]

    heap = [cost(i, i + 1) for i in range(count - 1)]
    heapq.heapify(heap)
    while count > groups:
        _, a, b, size_a, size_b = heapq.heappop(heap)
        if (sizes[a], sizes[b]) != (size_a, size_b):
            continue
        means[a] = (means[a] * size_a + means[b] * size_b) / (size_a + size_b)
        sizes[a], sizes[b] = size_a + size_b, 0
        right[a] = right[b]
        if right[a] < len(means):
            left[right[a]] = a
            heapq.heappush(heap, cost(a, right[a]))
        if left[a] >= 0:
            heapq.heappush(heap, cost(left[a], a))
        count -= 1
    return np.array([mean for mean, size in zip(means, sizes, strict=True) if size])


def _lloyd(numbers: NDArray[np.float64], counts: NDArray[np.int64], levels: NDArray[np.float64]) -> NDArray[np.float64]:
    """A level that no number is nearest to stays where it is."""
    for _ in range(_MOST_ROUNDS):
        nearest = _nearest(numbers, levels)
        total = np.bincount(nearest, weights=counts, minlength=len(levels))
        summed = np.bincount(nearest, weights=counts * numbers, minlength=len(levels))
        moved = np.where(total > 0, summed / np.maximum(total, 1), levels)
        if np.array_equal(moved, levels):
            break
        levels = moved
    return levels


def _nearest(numbers: NDArray[np.float64], levels: NDArray[np.float64]) -> NDArray[np.intp]:
    return np.searchsorted((levels[1:] + levels[:-1]) / 2, numbers)
