"""How long each operator of a file takes, as its runtime measures it."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_BLOCK = 5
"""Runs of a kind in a row: each kind has its own weights and activations, and drives the other's from the caches."""


@dataclass(frozen=True)
class OperatorTime:
    """One operator in one run of a file. ``operator``: in the file's own words (``CONV_2D``, ``Conv``,
    ``Conv2d+Clamp``); ``name``: what a person finds it by in the file.

    ``ms``: the median over the runs. ``kernels``: what the runtime calls for it, in its own words; ``calls``: how many
    calls those are, 0 for what a runtime leaves out because another operator does its work. ``delegated``: whether a
    delegate runs it; ``why``: why not, where there is a delegate and that is known.
    """

    name: str
    operator: str
    ms: float
    calls: int
    delegated: bool
    kernels: tuple[str, ...] = ()
    why: str = ""


@dataclass(frozen=True)
class Kind:
    """All operators of a kind: how many, their time together, and its share of all operators' time (0 to 1)."""

    operator: str
    count: int
    ms: float
    share: float


@dataclass(frozen=True)
class Timed:
    """``runtime``: what ran the file, and how its operators' times were had. ``whole_ms``: the median of whole runs
    without any measurement inside. ``operators``: in the order of execution.

    ``partitions``: in how many pieces a delegate runs its part; 0 without a delegate.
    """

    runtime: str
    threads: int
    runs: int
    whole_ms: float
    operators: tuple[OperatorTime, ...]
    partitions: int

    @property
    def sum_ms(self) -> float:
        """Of all operators. It is not `whole_ms`: the runtime's own work between operators is missing in it, and the
        clock's reading is in it."""
        return math.fsum(operator.ms for operator in self.operators)

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """The costliest first."""
        return kinds(self.operators)

    def costliest(self, count: int) -> tuple[OperatorTime, ...]:
        """Single operators, the costliest first."""
        return tuple(sorted(self.operators, key=lambda operator: -operator.ms)[:count])


def kinds(operators: Iterable[OperatorTime]) -> tuple[Kind, ...]:
    """The costliest first."""
    found: dict[str, list[float]] = {}
    for operator in operators:
        found.setdefault(operator.operator, []).append(operator.ms)
    whole = math.fsum(ms for times in found.values() for ms in times)
    rows = [
        Kind(operator, len(times), math.fsum(times), math.fsum(times) / whole if whole else 0.0)
        for operator, times in found.items()
    ]
    return tuple(sorted(rows, key=lambda row: (-row.ms, row.operator)))


def noise(shape: Sequence[int], dtype: str) -> NDArray[Any]:
    """An input: numbers from 0 to 255, or of all the values of an integer; the same each time."""
    kind = np.dtype(dtype)
    low, high = (0, 255) if kind.kind == "f" else (np.iinfo(kind).min, np.iinfo(kind).max)
    return np.random.default_rng(0).uniform(low, high, shape).astype(kind)


def in_turn(plain: Callable[[], Any], measured: Callable[[], Any], runs: int) -> list[float]:
    """Run both once, and then ``runs`` times, some of each kind in a row; returns the ms of those of ``plain``."""
    plain()
    measured()
    whole = list[float]()
    while len(whole) < runs:
        block = min(_BLOCK, runs - len(whole))
        for _ in range(block):
            start = time.perf_counter()
            plain()
            whole.append((time.perf_counter() - start) * 1000)
        for _ in range(block):
            measured()
    return whole


def median_ms(microseconds: Iterable[int]) -> float:
    """Of numbers that are whole: interpolated among equal ones."""
    return statistics.median_grouped(microseconds) / 1000
