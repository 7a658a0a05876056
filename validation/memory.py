"""How much memory a runtime takes for a file, measured: what is on the heap once the file has been run.

glibc counts every byte that is allocated (``mallinfo2``), so that the figure is the same each time; the size of a
process is known in pages only, and rests on what ran before. For the same reason a process of its own runs the file:
ExecuTorch keeps XNNPACK's memory for the next.

``python -m mobileseg.validation.memory FILE DTYPE LENGTH...`` prints the count, for an input of this type and shape.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mobileseg.types import NotRun
from mobileseg.validation.runners import executorch_coreml
from mobileseg.validation.runners.base import DYNAMIC

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mobileseg.validation.runners import Runner

_NOT_GLIBC = NotRun("only the C library of Linux (glibc 2.33 and later) counts what is allocated")
_ON_THE_DEVICE = NotRun("Core ML plans its memory on the device")
_ANY_SIZE = NotRun("the file takes pictures of more than one size")
_DOES_NOT_RUN = NotRun("the file does not run on zeros")


_FIELDS = (
    *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
    *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
)


class _Counts(ctypes.Structure):
    """glibc's ``struct mallinfo2``."""

    _fields_ = tuple((name, ctypes.c_size_t) for name in _FIELDS)


def held_bytes(runner: Runner) -> int | NotRun:
    """What the file's runtime holds after one run on zeros, on one thread: its plan, the values between operators,
    weights in the order in which its kernels read them; without the bytes of the file itself."""
    path, source = runner.artifact.path, runner.inputs[0]
    if path.suffix not in _RUNS or executorch_coreml.NOTE in runner.notes:
        return _ON_THE_DEVICE
    if runner.cannot_run:
        return NotRun(runner.cannot_run)
    if DYNAMIC in source.shape[1:]:
        return _ANY_SIZE
    if _counter() is None:
        return _NOT_GLIBC
    shape = [str(1 if length == DYNAMIC else length) for length in source.shape]
    done = subprocess.run(
        [sys.executable, "-P", "-m", __name__, str(path), source.dtype, *shape],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        check=False,
    )
    found = done.stdout.split()
    return int(found[-1]) if done.returncode == 0 and found else _DOES_NOT_RUN


def _counter() -> Callable[[], int] | None:
    try:
        function = ctypes.CDLL(None).mallinfo2
    # No such symbol; or, on Windows, no library without a name.
    except (AttributeError, OSError, TypeError):
        return None
    function.restype = _Counts

    def count() -> int:
        counts = function()
        return int(counts.uordblks + counts.hblkhd)

    return count


def _tflite(content: bytes, zeros: NDArray[Any]) -> Callable[[], object]:
    from ai_edge_litert.interpreter import Interpreter

    def run() -> object:
        interpreter = Interpreter(model_content=content, num_threads=1)
        interpreter.allocate_tensors()
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], zeros)
        interpreter.invoke()
        return interpreter

    return run


def _executorch(content: bytes, zeros: NDArray[Any]) -> Callable[[], object]:
    import torch
    from executorch.extension.pybindings import portable_lib
    from executorch.runtime import Runtime

    from mobileseg.validation.runners.executorch import FORWARD

    portable_lib._unsafe_reset_threadpool(1)
    runtime, tensor = Runtime.get(), torch.from_numpy(zeros)

    def run() -> object:
        program = runtime.load_program(content)
        method = program.load_method(FORWARD)
        method.execute([tensor])
        return program, method

    return run


def _onnx(content: bytes, zeros: NDArray[Any]) -> Callable[[], object]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1

    def run() -> object:
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        session.run(None, {session.get_inputs()[0].name: zeros})
        return session

    return run


# Suffix of an artifact -> what makes a function that loads and runs it, and gives what holds the memory.
_RUNS: dict[str, Callable[[bytes, NDArray[Any]], Callable[[], object]]] = {
    ".onnx": _onnx,
    ".pte": _executorch,
    ".tflite": _tflite,
}


def _main(file: str, dtype: str, *shape: str) -> None:
    path, count = Path(file), _counter()
    if count is None:
        sys.exit(1)
    run = _RUNS[path.suffix](path.read_bytes(), np.zeros([int(n) for n in shape], dtype))
    before = count()
    kept = run()
    after = count()
    del kept
    sys.stdout.write(f"{after - before}\n")


if __name__ == "__main__":
    _main(*sys.argv[1:])
