"""LiteRT's profiler, by the C interface of the library inside ai-edge-litert, which its Python package does not reach.

All that depends on how that library lays out its data is here, and runs in a process of its own
(``python -m mobileseg.validation.timings.litert``), which alone a mistake could end. The interface is LiteRT's
``litert/c/*.h``; the runtime's options are TOML under names (``litert/runtime/litert_runtime_options.cc``,
``litert/c/options/litert_cpu_options.cc``).
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from importlib import metadata, util
from pathlib import Path
from typing import Any

from mobileseg.types import NotRun
from mobileseg.validation.timings.base import in_turn, noise

TESTED = ("2.3.0",)
"""Versions of ai-edge-litert with which this was tried: another one's structures may be others."""

KERNEL, DELEGATE = 2, 8
"""Types of events: an operator run by TFLite's own kernel; one run inside a delegate."""

_SYMBOLS = (
    "LiteRtCreateEnvironment",
    "LiteRtCreateModelFromFile",
    "LiteRtCreateOptions",
    "LiteRtSetOptionsHardwareAccelerators",
    "LiteRtCreateOpaqueOptions",
    "LiteRtAddOpaqueOptions",
    "LiteRtCreateCompiledModel",
    "LiteRtGetModelSignature",
    "LiteRtGetSignatureInputTensorByIndex",
    "LiteRtGetSignatureOutputTensorByIndex",
    "LiteRtGetRankedTensorType",
    "LiteRtGetCompiledModelInputBufferRequirements",
    "LiteRtGetCompiledModelOutputBufferRequirements",
    "LiteRtCreateManagedTensorBufferFromRequirements",
    "LiteRtGetTensorBufferPackedSize",
    "LiteRtLockTensorBuffer",
    "LiteRtUnlockTensorBuffer",
    "LiteRtRunCompiledModel",
    "LiteRtCompiledModelGetProfiler",
    "LiteRtStartProfiler",
    "LiteRtStopProfiler",
    "LiteRtResetProfiler",
    "LiteRtGetNumProfilerEvents",
    "LiteRtGetProfilerEvents",
)
_LIBRARIES = {"linux": "libLiteRt.so"}
"""By the system: those where this was tried."""
_CPU, _WRITE = 1, 1
_TENSOR_TYPE_BYTES = 1024
"""More than LiteRtRankedTensorType has; only LiteRT reads it."""


@dataclass(frozen=True)
class Event:
    """``kind``: `KERNEL` or `DELEGATE`; ``index``: an operator's in the file, or a kernel's in its partition."""

    tag: str
    kind: int
    index: int


@dataclass(frozen=True)
class Profile:
    """``whole_ms``: of each run of the usual interpreter; ``events`` of a run; ``us``: a row of each event a run.
    ``waited``: `base.Turns`."""

    whole_ms: tuple[float, ...]
    waited: float
    events: tuple[Event, ...]
    us: tuple[tuple[int, ...], ...]


class _ProfiledEvent(ctypes.Structure):
    """``ProfiledEventData`` of litert/c/litert_profiler_event.h; both memory usages have three fields of 8 bytes."""

    _fields_ = (
        ("tag", ctypes.c_char_p),
        ("event_type", ctypes.c_int),
        ("start_timestamp_us", ctypes.c_uint64),
        ("elapsed_time_us", ctypes.c_uint64),
        ("memory_usage", ctypes.c_uint64 * 6),
        ("event_metadata1", ctypes.c_uint64),
        ("event_metadata2", ctypes.c_uint64),
        ("event_source", ctypes.c_int),
    )


def profile(path: Path, runs: int) -> Profile | NotRun:
    """Run a TFLite file on one thread, with XNNPACK, ``runs`` times with the profiler and as often without
    (`base.in_turn`)."""
    if reason := _unsupported():
        return NotRun(reason)
    with tempfile.TemporaryDirectory() as folder:
        answer, said = Path(folder, "answer.json"), Path(folder, "said")
        with said.open("wb") as log:
            done = subprocess.run(
                [sys.executable, "-P", "-m", __name__, str(path), str(runs), str(answer)],
                env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                check=False,
            )
        if done.returncode:
            return NotRun(_why(done.returncode, said.read_text(errors="replace")))
        found = json.loads(answer.read_text())
    return Profile(
        whole_ms=tuple(found["whole_ms"]),
        waited=found["waited"],
        events=tuple(Event(**event) for event in found["events"]),
        us=tuple(map(tuple, found["us"])),
    )


def _unsupported() -> str:
    """Why this installation's profiler cannot be used, or nothing."""
    try:
        version = metadata.version("ai-edge-litert")
    except metadata.PackageNotFoundError:
        return "LiteRT's profiler needs ai-edge-litert, which is not installed: pip install 'mobileseg[tflite]'"
    if version not in TESTED:
        return (
            f"LiteRT's profiler was tried with ai-edge-litert {', '.join(TESTED)}, and this is {version}: "
            f"pip install ai-edge-litert=={TESTED[-1]}"
        )
    library = _library_path()
    if library is None or not library.is_file():
        return f"ai-edge-litert {version} has no library with LiteRT's profiler on this system ({sys.platform})"
    return ""


def _library_path() -> Path | None:
    found, name = util.find_spec("ai_edge_litert"), _LIBRARIES.get(sys.platform)
    return None if name is None or found is None or found.origin is None else Path(found.origin).with_name(name)


def _why(status: int, said: str) -> str:
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    last = f": {lines[-1].rstrip('.')}" if lines else ""
    how = f"was ended by {signal.Signals(-status).name}" if status < 0 else "failed"
    return f"the process that runs the file with LiteRT's profiler {how}{last}"


# In the process of its own


class _RefusalError(Exception):
    """Why there is no answer."""


class _Library:
    def __init__(self, path: Path) -> None:
        self._library = ctypes.CDLL(str(path))
        missing = [name for name in _SYMBOLS if not hasattr(self._library, name)]
        if missing:
            raise _RefusalError(f"{path.name} lacks {', '.join(missing)}")

    def call(self, name: str, *arguments: Any) -> None:
        status = getattr(self._library, name)(*arguments)
        if status:
            raise _RefusalError(f"{name} answered {status}")

    def made(self, name: str, *arguments: Any) -> ctypes.c_void_p:
        """A handle, which a function hands out by its last argument."""
        handle = ctypes.c_void_p()
        self.call(name, *arguments, ctypes.byref(handle))
        return handle


def _opened(path: Path, content: bytes) -> Callable[[], list[tuple[Event, int]]]:
    """A function that runs the file once on ``content``, the bytes of its one input, and returns events with µs."""
    location = _library_path()
    if location is None:
        raise _RefusalError("there is no library")
    library = _Library(location)
    environment = library.made("LiteRtCreateEnvironment", 0, None)
    model = library.made("LiteRtCreateModelFromFile", environment, str(path).encode())
    options = library.made("LiteRtCreateOptions")
    library.call("LiteRtSetOptionsHardwareAccelerators", options, _CPU)
    _add_options(library, options, "xnnpack", {"num_threads": "1"})
    _add_options(library, options, "runtime_options_string", {"enable_profiling": "true"})
    compiled = library.made("LiteRtCreateCompiledModel", environment, model, options)
    signature = library.made("LiteRtGetModelSignature", model, ctypes.c_size_t(0))
    source, result = (_buffer(library, environment, compiled, signature, side) for side in ("Input", "Output"))
    _fill(library, source, content)
    profiler = library.made("LiteRtCompiledModelGetProfiler", compiled)
    sources, results = (ctypes.c_void_p * 1)(source.value), (ctypes.c_void_p * 1)(result.value)

    def run() -> list[tuple[Event, int]]:
        library.call("LiteRtResetProfiler", profiler)
        library.call("LiteRtStartProfiler", profiler)
        library.call(
            "LiteRtRunCompiledModel",
            compiled,
            ctypes.c_size_t(0),
            ctypes.c_size_t(1),
            sources,
            ctypes.c_size_t(1),
            results,
        )
        library.call("LiteRtStopProfiler", profiler)
        return _events(library, profiler)

    return run


def _add_options(library: _Library, options: ctypes.c_void_p, name: str, values: Mapping[str, str]) -> None:
    # LiteRT owns the text from then on, and frees it with C's function.
    c = ctypes.CDLL(None)
    c.strdup.restype = ctypes.c_void_p
    text = "".join(f"{key} = {value}\n" for key, value in values.items())
    payload = ctypes.c_void_p(c.strdup(text.encode()))
    made = library.made("LiteRtCreateOpaqueOptions", name.encode(), payload, c.free)
    library.call("LiteRtAddOpaqueOptions", options, made)


def _buffer(
    library: _Library, environment: ctypes.c_void_p, compiled: ctypes.c_void_p, signature: ctypes.c_void_p, side: str
) -> ctypes.c_void_p:
    """For the file's first input or output."""
    first = ctypes.c_size_t(0)
    tensor = library.made(f"LiteRtGetSignature{side}TensorByIndex", signature, first)
    declared = (ctypes.c_uint8 * _TENSOR_TYPE_BYTES)()
    library.call("LiteRtGetRankedTensorType", tensor, ctypes.byref(declared))
    wanted = library.made(f"LiteRtGetCompiledModel{side}BufferRequirements", compiled, first, first)
    return library.made("LiteRtCreateManagedTensorBufferFromRequirements", environment, ctypes.byref(declared), wanted)


def _fill(library: _Library, buffer: ctypes.c_void_p, content: bytes) -> None:
    size, address = ctypes.c_size_t(), ctypes.c_void_p()
    library.call("LiteRtGetTensorBufferPackedSize", buffer, ctypes.byref(size))
    if size.value != len(content):
        raise _RefusalError(f"the input has {size.value} bytes, and {len(content)} were made for it")
    library.call("LiteRtLockTensorBuffer", buffer, ctypes.byref(address), _WRITE)
    ctypes.memmove(address, content, len(content))
    library.call("LiteRtUnlockTensorBuffer", buffer)


def _events(library: _Library, profiler: ctypes.c_void_p) -> list[tuple[Event, int]]:
    count = ctypes.c_int()
    library.call("LiteRtGetNumProfilerEvents", profiler, ctypes.byref(count))
    found = (_ProfiledEvent * count.value)()
    library.call("LiteRtGetProfilerEvents", profiler, count, found)
    return [
        (Event(event.tag.decode(), event.event_type, event.event_metadata1), event.elapsed_time_us)
        for event in found
        # The second number is the subgraph: what a loop's operators take is in the loop's own time.
        if event.event_type in (KERNEL, DELEGATE) and event.event_metadata2 == 0
    ]


def _measure(path: Path, runs: int) -> Profile:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(path), num_threads=1)
    interpreter.allocate_tensors()
    declared = interpreter.get_input_details()
    if len(declared) != 1:
        raise _RefusalError(f"the file has {len(declared)} inputs, and one can be fed")
    picture = noise(declared[0]["shape"], declared[0]["dtype"])
    interpreter.set_tensor(declared[0]["index"], picture)
    run = _opened(path, picture.tobytes())
    found = list[list[tuple[Event, int]]]()
    turns = in_turn(interpreter.invoke, lambda: found.append(run()), runs)
    events, rows = zip(*(zip(*found[1 + n], strict=True) for n in turns.counted), strict=True)
    if len(set(events)) != 1:
        raise _RefusalError("two runs of the file called different kernels")
    return Profile(turns.whole_ms, turns.waited, events[0], rows)


def _main(path: str, runs: str, answer: str) -> None:
    Path(answer).write_text(json.dumps(asdict(_measure(Path(path), int(runs)))))


if __name__ == "__main__":
    try:
        _main(*sys.argv[1:])
    except _RefusalError as refusal:
        sys.exit(str(refusal))
