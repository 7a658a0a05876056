"""Timings: one module a kind of file, each of which says how long every operator takes."""

from __future__ import annotations

import importlib
from pathlib import Path

from mobileseg.errors import OptionError
from mobileseg.types import NotRun
from mobileseg.validation.timings.base import Kind, OperatorTime, Timed, kinds

__all__ = ["TIMERS", "Kind", "OperatorTime", "Timed", "kinds", "time_operators"]

# Suffix of an artifact -> module with `time_operators(path: Path, runs: int) -> Timed | NotRun`.
TIMERS = {
    ".mlpackage": "mobileseg.validation.timings.coreml",
    ".onnx": "mobileseg.validation.timings.onnx",
    ".pte": "mobileseg.validation.timings.executorch",
    ".tflite": "mobileseg.validation.timings.tflite",
}


def time_operators(path: Path, runs: int = 30) -> Timed | NotRun:
    """Each operator's time on one thread of this machine, of a file that is known to load.

    `NotRun` where the runtime does not tell, or does not exist here. Raises `UsageError` for a file that does not load,
    `MissingExtraError` without its runtime's package, `OptionError` for no runs.
    """
    if runs < 1:
        raise OptionError(f"Of {runs} runs there is no median: ask for 1 at least.")
    timed: Timed | NotRun = importlib.import_module(TIMERS[path.suffix]).time_operators(path, runs)
    return timed
