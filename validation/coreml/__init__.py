"""A reference executor for Core ML programs: runs a saved ``.mlpackage`` on any machine, from the file itself.

It computes what MIL's documentation says each operator computes, in float32 with PyTorch on the CPU. It is not Core ML:
the Neural Engine and the GPU order their sums otherwise, and round where they see fit.
"""

from __future__ import annotations

from pathlib import Path

from mobileseg import mlpackage
from mobileseg.validation.coreml.executor import Arithmetic, Executor, Feature, Picture
from mobileseg.validation.coreml.operators import OPERATORS
from mobileseg.validation.coreml.program import read_program

__all__ = ["OPERATORS", "Arithmetic", "Executor", "Feature", "Picture", "load"]


def load(path: Path, *, arithmetic: Arithmetic = "file") -> Executor:
    """The package at ``path``, its weights read and decompressed.

    ``arithmetic`` ``"file"``: a value that the program declares float16 is rounded to float16 after the operator that
    gives it, and each operator computes in float32 inside. ``"float32"``: nothing is rounded, float16 constants are
    widened.

    Raises `UsageError` where the package or its weights are damaged, `MissingExtraError` without coremltools. An
    operator that is not implemented is no error here: `Executor.unsupported`.
    """
    spec, weights = mlpackage.read_spec(path)
    executor = Executor(path, spec.description, read_program(spec, weights, path), arithmetic)
    if not executor.unsupported:
        _ = executor.constants  # a damaged one is met here and not in the first run
    return executor
