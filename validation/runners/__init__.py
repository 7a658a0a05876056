"""Runners: one module a runtime, each of which opens an artifact and runs it on pictures."""

from __future__ import annotations

import importlib
from pathlib import Path

from mobileseg import registry
from mobileseg.errors import OptionError, UsageError
from mobileseg.types import Placement
from mobileseg.validation.runners.base import Runner

__all__ = ["RUNNERS", "Runner", "open_artifact"]

# Suffix of an artifact -> module with `open_runner(path: Path, placement: Placement) -> Runner`.
RUNNERS = {
    ".mlpackage": "mobileseg.validation.runners.coreml",
    ".onnx": "mobileseg.validation.runners.onnx",
    ".pte": "mobileseg.validation.runners.executorch",
    ".tflite": "mobileseg.validation.runners.tflite",
}


def open_artifact(path: Path, placement: Placement | None = None) -> Runner:
    """Loads an artifact in the runtime that its suffix names; on this machine's CPU with one thread where no
    ``placement`` says otherwise.

    Raises `UsageError` for a file that is missing, of no known suffix, or does not load; `OptionError` for an unknown
    device, or where compute units are chosen for a file that is not Core ML's; `MissingExtraError` where the runtime is
    not installed, `UnavailableError` where the device is not usable.
    """
    if path.suffix not in RUNNERS:
        raise UsageError(f"No runtime is known for '{path}'; expected a file ending in {', '.join(sorted(RUNNERS))}.")
    if not path.exists():
        raise UsageError(f"There is no artifact '{path}'. Make one with: mobileseg convert CHECKPOINT")
    placed = placement or Placement()
    if path.suffix != ".mlpackage" and placed.compute_units != Placement().compute_units:
        raise OptionError(f"Only Core ML files have compute units to choose; leave out --compute-units for '{path}'.")
    here = placed.device == registry.HOST
    module = importlib.import_module(RUNNERS[path.suffix]) if here else registry.device(placed.device)
    runner: Runner = module.open_runner(path, placed)
    return runner
