"""TFLite files: LiteRT's own profiler, which asks XNNPACK how long each of its kernels took."""

from __future__ import annotations

import statistics
from importlib import metadata as installed
from pathlib import Path

from mobileseg.types import NotRun
from mobileseg.validation.timings import litert
from mobileseg.validation.timings.base import OperatorTime, Timed


def time_operators(path: Path, runs: int = 30) -> Timed | NotRun:
    """Of a file that is known to load."""
    found = litert.profile(path, runs)
    if isinstance(found, NotRun):
        return found
    times = [statistics.median_grouped(row) / 1000 for row in zip(*found.us, strict=True)]
    operators = tuple(
        OperatorTime(f"#{n}", event.tag, ms, 1, event.kind == litert.DELEGATE, (event.tag,))
        for n, (event, ms) in enumerate(zip(found.events, times, strict=True))
    )
    partitions = sum(event.kind == litert.DELEGATE and event.index == 0 for event in found.events)
    return Timed(
        f"ai-edge-litert {installed.version('ai-edge-litert')} (XNNPACK), LiteRT's profiler",
        1,
        runs,
        statistics.median(found.whole_ms),
        operators,
        partitions,
        {},
    )
