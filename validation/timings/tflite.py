"""TFLite files: LiteRT's own profiler, which asks XNNPACK how long each of its kernels took."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata as installed
from pathlib import Path
from typing import Any

from mobileseg.types import NotRun
from mobileseg.validation.graphs.tflite import DELEGATE, partitions
from mobileseg.validation.graphs.xnnpack import KERNELS, reason
from mobileseg.validation.timings import litert
from mobileseg.validation.timings.assignment import assigned
from mobileseg.validation.timings.base import OperatorTime, Timed, median_ms

Called = tuple[str, float]
"""A kernel's name, and its time in ms."""


def time_operators(path: Path, runs: int = 30) -> Timed | NotRun:
    """Of a file that is known to load. LiteRT's clock gives whole µs, rounded down: of 300 operators up to 0.3 ms are
    missing. An operator's name is that of its (first) output."""
    profile = litert.profile(path, runs)
    if isinstance(profile, NotRun):
        return profile
    details, tensors = _listed(path)
    calls = partitions(details)
    times = [median_ms(row) for row in zip(*profile.us, strict=True)]
    pieces = list(_pieces(profile.events, times))
    if len(pieces) != len(calls):
        return NotRun(
            f"LiteRT's compiled model hands XNNPACK {len(pieces)} pieces of the file, and its interpreter {len(calls)}"
        )
    plain = {d["index"]: d for d in details if d["op_name"] != DELEGATE}
    called = {
        event.index: [(event.tag, ms)]
        for event, ms in zip(profile.events, times, strict=True)
        if event.kind == litert.KERNEL
    }
    nameless = list[OperatorTime]()
    for number, (indices, piece) in enumerate(zip(calls, pieces, strict=True)):
        parts = assigned([plain[index]["op_name"] for index in indices], [name for name, _ in piece], KERNELS)
        if parts is None:
            nameless += _by_kernel(number, piece)
        else:
            called |= {index: [piece[n] for n in part] for index, part in zip(indices, parts, strict=True)}
    taken = {index for indices in calls for index in indices}
    named = (
        _timed(operator, called.get(index, ()), "" if index in taken else _reason(operator, tensors))
        for index, operator in plain.items()
    )
    return Timed(
        runtime=f"ai-edge-litert {installed.version('ai-edge-litert')} (XNNPACK), by LiteRT's profiler",
        threads=1,
        runs=len(profile.us),
        whole_ms=statistics.median(profile.whole_ms),
        operators=(*named, *nameless),
        partitions=len(calls),
        waited=profile.waited,
    )


def _listed(path: Path) -> tuple[list[dict[str, Any]], dict[int, Mapping[str, Any]]]:
    """Operators, with ``name``, and tensors, as the interpreter lists them."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(path), num_threads=1)
    interpreter.allocate_tensors()
    tensors = {int(d["index"]): d for d in interpreter.get_tensor_details()}
    operators = interpreter._get_ops_details()
    return [{**d, "name": tensors[int(d["outputs"][0])]["name"]} for d in operators], tensors


def _reason(operator: Mapping[str, Any], tensors: Mapping[int, Mapping[str, Any]]) -> str:
    inputs, outputs = ([tensors[int(i)] for i in operator[key] if int(i) in tensors] for key in ("inputs", "outputs"))
    return reason(operator["op_name"], inputs, outputs)


def _pieces(events: Sequence[litert.Event], times: Sequence[float]) -> Iterator[list[Called]]:
    """The kernels of each of the delegate's calls: its kernels are counted from 0."""
    piece: list[Called] = []
    for event, ms in zip(events, times, strict=True):
        if event.kind != litert.DELEGATE:
            continue
        if event.index == 0 and piece:
            yield piece
            piece = []
        piece.append((event.tag, ms))
    if piece:
        yield piece


def _timed(details: Mapping[str, Any], kernels: Sequence[Called], why: str) -> OperatorTime:
    return OperatorTime(
        name=details["name"],
        operator=details["op_name"],
        ms=sum(ms for _, ms in kernels),
        calls=len(kernels),
        delegated=not why,
        kernels=tuple(name for name, _ in kernels),
        why=why,
    )


def _by_kernel(number: int, piece: Sequence[Called]) -> Iterator[OperatorTime]:
    """Of a partition whose kernels cannot be told apart by operator."""
    for n, (name, ms) in enumerate(piece):
        yield OperatorTime(f"kernel {n} of partition {number}", name, ms, 1, True, (name,))
