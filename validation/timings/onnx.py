"""ONNX files: ONNX Runtime's profiler. The operators are those that it runs: of the graph after its optimizations."""

from __future__ import annotations

import json
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from importlib import metadata as installed
from pathlib import Path
from statistics import median
from typing import Any

from mobileseg.errors import MissingExtraError
from mobileseg.types import NotRun, Placement
from mobileseg.validation.runners.base import DYNAMIC
from mobileseg.validation.runners.onnx import open_runner
from mobileseg.validation.timings.base import OperatorTime, Timed, in_turn, median_ms, noise

_NODE, _KERNEL, _RUN = "Node", "_kernel_time", "model_run"


def time_operators(path: Path, runs: int = 30) -> Timed | NotRun:
    """Raises as `runners.onnx.open_runner` does. ONNX Runtime's clock gives whole µs."""
    source = open_runner(path, Placement()).inputs[0]
    try:
        import onnxruntime
    except ModuleNotFoundError as error:
        raise MissingExtraError("onnx", error.name or "onnxruntime") from error
    fed = {source.name: noise([1 if n == DYNAMIC else n for n in source.shape], source.dtype)}
    with tempfile.TemporaryDirectory() as folder:
        plain, profiled = _session(onnxruntime, path), _session(onnxruntime, path, Path(folder, "profile"))
        turns = in_turn(lambda: plain.run(None, fed), lambda: profiled.run(None, fed), runs)
        events = json.loads(Path(profiled.end_profiling()).read_text())
    return Timed(
        runtime=f"onnxruntime {installed.version('onnxruntime')}, by its profiler, after its optimizations",
        threads=1,
        runs=len(turns.counted),
        whole_ms=median(turns.whole_ms),
        operators=_operators(events, turns.counted),
        partitions=0,
        waited=turns.waited,
    )


def _session(onnxruntime: Any, path: Path, profile: Path | None = None) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile)
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def _operators(events: list[dict[str, Any]], counted: Sequence[int]) -> tuple[OperatorTime, ...]:
    """In the order of the first run, which is none of those that are counted."""
    kernels: dict[tuple[str, str], list[int]] = defaultdict(list)
    for event in events:
        if event["cat"] == _NODE and event["name"].endswith(_KERNEL):
            kernels[event["name"].removesuffix(_KERNEL), event["args"]["op_name"]].append(event["dur"])
    return tuple(
        OperatorTime(name, operator, median_ms(times[1 + n] for n in counted), 1, delegated=False)
        for (name, operator), times in kernels.items()
    )
