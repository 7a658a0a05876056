"""Traces: one module a kind of file, each of which runs it once and keeps what every operator gives."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mobileseg.validation.traces.base import Step, Trace

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["TRACERS", "Step", "Trace", "trace_artifact"]

# Suffix of an artifact -> module with `trace(path: Path, tensor: NDArray, folder: Path) -> Trace`.
TRACERS = {
    ".mlpackage": "mobileseg.validation.traces.coreml",
    ".onnx": "mobileseg.validation.traces.onnx",
    ".pte": "mobileseg.validation.traces.executorch",
    ".tflite": "mobileseg.validation.traces.tflite",
}


def trace_artifact(path: Path, tensor: NDArray[Any], folder: Path) -> Trace:
    """Run an artifact once, and keep the result of every operator in ``folder``.

    ``tensor``: the input as the file declares it (`Runner.encoded`). The artifact has a runner that runs it here.
    Raises `UnavailableError` for a file whose operators cannot be looked into, with the reason.
    """
    traced: Trace = importlib.import_module(TRACERS[path.suffix]).trace(path, tensor, folder)
    return traced
