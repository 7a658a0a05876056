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
_UNINTERRUPTED = 0.98
"""The share of its time that a run must have had a processor: an interruption takes some milliseconds."""
_PATIENCE = 4
_ENOUGH = 3


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

    ``partitions``: in how many pieces a delegate runs its part; 0 without a delegate. ``waited``: the share of the
    runs' time in which other processes had the processor. Runs without such interruption are looked for; where they
    were not found, it is large, and long operators look longer than they are.
    """

    runtime: str
    threads: int
    runs: int
    whole_ms: float
    operators: tuple[OperatorTime, ...]
    partitions: int
    waited: float

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


@dataclass(frozen=True)
class Turns:
    """``whole_ms``: of the plain runs that count; ``counted``: the numbers of the measured ones that do, from 0;
    ``waited``: the share of all these runs' time in which this process had no processor."""

    whole_ms: tuple[float, ...]
    counted: tuple[int, ...]
    waited: float


def in_turn(plain: Callable[[], Any], measured: Callable[[], Any], runs: int) -> Turns:
    """Run both once, and then some of each kind in a row, until there are ``runs`` of each in which no other process
    had this one's processor, or `_PATIENCE` times as many. Only those without interruption count, where there are
    `_ENOUGH`; otherwise all."""
    plain()
    measured()
    taken: tuple[list[_Taken], list[_Taken]] = ([], [])
    while len(taken[0]) < _PATIENCE * runs and any(len(_quiet(kind)) < runs for kind in taken):
        for kind, run in zip(taken, (plain, measured), strict=True):
            kind.extend(_taken(run) for _ in range(min(_BLOCK, runs)))
    kept = [_quiet(kind)[:runs] for kind in taken]
    if any(len(numbers) < min(_ENOUGH, runs) for numbers in kept):
        kept = [list(range(len(kind))) for kind in taken]
    counted = [kind[n] for kind, numbers in zip(taken, kept, strict=True) for n in numbers]
    passed = math.fsum(run.passed for run in counted)
    return Turns(
        whole_ms=tuple(taken[0][n].passed * 1000 for n in kept[0]),
        counted=tuple(kept[1]),
        waited=max(0.0, 1 - math.fsum(run.worked for run in counted) / passed),
    )


@dataclass(frozen=True)
class _Taken:
    """Seconds that passed in a run, and those in which this process had a processor."""

    passed: float
    worked: float


def _taken(run: Callable[[], Any]) -> _Taken:
    start, began = time.perf_counter(), time.process_time()
    run()
    return _Taken(time.perf_counter() - start, time.process_time() - began)


def _quiet(taken: Sequence[_Taken]) -> list[int]:
    """The numbers of the runs without interruption."""
    return [n for n, run in enumerate(taken) if run.worked > _UNINTERRUPTED * run.passed]


def median_ms(microseconds: Iterable[int]) -> float:
    """Of numbers that are whole: interpolated among equal ones."""
    return statistics.median_grouped(microseconds) / 1000
