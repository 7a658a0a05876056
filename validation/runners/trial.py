"""A file that can end the process that runs it is run first in one that may end.

LiteRT and ExecuTorch check how a file is built, and trust much of what it says: of files with one damaged byte, LiteRT
ends the process on 1 in 200, ExecuTorch on 1 in 30 (docs/measurements.md).

``python -m mobileseg.validation.runners.trial FILE`` runs a file once, on zeros.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np

from mobileseg.types import Placement
from mobileseg.validation.runners.base import DYNAMIC, does_not_load

_KINDS = {".pte": "an ExecuTorch file", ".tflite": "a TFLite file"}

_ENDED_BY_ITSELF = (0, 1)
"""Of an interpreter: 1 after an exception, which the caller meets as well."""


def tflite_tried(*files: str | Path | None) -> None:
    """`tried`, for each that is a TFLite file. (An ExecuTorch file is tried by its runner, where it does not carry the
    digest of its bytes.)"""
    for path in (Path(file) for file in files if file is not None):
        if path.suffix == ".tflite" and path.is_file():
            tried(path)


def tried(path: Path) -> None:
    """Raises `UsageError` for a file, TFLite or ExecuTorch, whose trial ended the process."""
    done = subprocess.run(
        [sys.executable, "-P", "-m", __name__, str(path)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=False,
    )
    if done.returncode not in _ENDED_BY_ITSELF:
        status = done.returncode
        how = signal.Signals(-status).name if status < 0 else f"status {status}"
        raise does_not_load(path, _KINDS[path.suffix], f"it ends the process that runs it ({how})")


def _run(path: Path) -> None:
    if path.suffix == ".pte":
        from mobileseg.validation.runners.executorch import run_untried

        run_untried(path)
        return
    from mobileseg.validation.runners import open_artifact

    runner = open_artifact(path, Placement())
    spec = runner.inputs[0]
    runner.invoke(np.zeros([1 if n == DYNAMIC else n for n in spec.shape], spec.dtype))


if __name__ == "__main__":
    _run(Path(sys.argv[1]))
