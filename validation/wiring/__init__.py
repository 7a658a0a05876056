"""How the operators of a file hang together: one module a kind of file, read from the file and not run."""

from __future__ import annotations

import importlib
from pathlib import Path

from mobileseg.validation.wiring.base import Operator, Value, Wiring

__all__ = ["READERS", "Operator", "Value", "Wiring", "read_wiring"]

# Suffix of an artifact -> module with `read(path: Path) -> Wiring`.
READERS = {
    ".mlpackage": "mobileseg.validation.wiring.coreml",
    ".onnx": "mobileseg.validation.wiring.onnx",
    ".pte": "mobileseg.validation.wiring.executorch",
    ".tflite": "mobileseg.validation.wiring.tflite",
}


def read_wiring(path: Path) -> Wiring:
    """The operators of an artifact, those inside a delegate's calls among them (XNNPACK's, Vulkan's and Core ML's in
    ExecuTorch files).

    Raises `UsageError` for a damaged file, `UnavailableError` for a delegate's payload that is in an unknown form,
    `MissingExtraError` where the package that reads it is not installed.
    """
    wiring: Wiring = importlib.import_module(READERS[path.suffix]).read(path)
    return wiring
