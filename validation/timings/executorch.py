"""ExecuTorch files: ExecuTorch's event tracer (ETDump), into which XNNPACK writes how long each of its kernels took.

The Python package's runtime is built with both.
"""

from __future__ import annotations

import re
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from mobileseg.errors import UnavailableError
from mobileseg.types import NotRun, Placement
from mobileseg.validation.graphs.executorch import delegation_record, deserialized, plan_named, weight_names
from mobileseg.validation.runners.executorch import FORWARD, captured_stderr, open_runner
from mobileseg.validation.timings.assignment import CLAMP, assigned
from mobileseg.validation.timings.base import OperatorTime, Timed, Turns, in_turn, median_ms, noise
from mobileseg.validation.traces.program import Operator, Program, all_operators, dissect

_CONVOLUTIONS = {"Convolution", "Fully Connected"}
# An operator of ExecuTorch's graph for XNNPACK (``XNodeUnion`` of its schema.fbs) -> XNNPACK's kernels.
_KERNELS = {
    "Abs": {"Abs"},
    "Add": {"Add"},
    "ArgMaxPooling2d": {"ArgMax Pooling"},
    "AvgPooling2d": {"Average Pooling"},
    "BatchMatrixMultiply": {"Batch Matrix Multiply"},
    "Ceiling": {"Ceiling"},
    "Clamp": {CLAMP},
    "Concatenate2": {"Copy"},
    "Concatenate3": {"Copy"},
    "Concatenate4": {"Copy"},
    "Concatenate5": {"Copy"},
    "Conv2d": _CONVOLUTIONS,
    "ConvTranspose2d": {"Deconvolution"},
    "Convert": {"Convert", "Copy"},
    "Copy": {"Copy"},
    "Cos": {"Cosine"},
    "DepthwiseConv2d": _CONVOLUTIONS,
    "Div": {"Divide"},
    "ELU": {"ELU"},
    "Exp": {"Exp"},
    "Floor": {"Floor"},
    "FullyConnected": {"Fully Connected", "Dynamic Fully Connected"},
    "Gelu": {"GELU", "ApproxGELU"},
    "GlobalAvgPooling2d": {"Average Pooling", "Mean"},
    "Hardswish": {"HardSwish"},
    "LeakyReLU": {"LeakyReLU"},
    "Log": {"Log"},
    "MaxPooling2d": {"Max Pooling"},
    "Maximum": {"Maximum"},
    "Minimum": {"Minimum"},
    "Multiply": {"Multiply"},
    "Negate": {"Negate"},
    "PReLU": {"PReLU"},
    "ReciprocalSquareRoot": {"Reciprocal Square Root"},
    "Sigmoid": {"Sigmoid"},
    "Sin": {"Sine"},
    "Softmax": {"Softmax"},
    "Square": {"Square"},
    "SquareRoot": {"Square Root"},
    "StaticConstantPad": {"Constant Pad"},
    "StaticReshape": {"Static Reshape", "Copy"},
    "StaticResizeBilinear2D": {"Resize Bilinear"},
    "StaticSlice": {"Slice"},
    "StaticTranspose": {"Transpose"},
    "Subtract": {"Subtract"},
    "Tanh": {"TanH"},
}
_CLAMPED = f"+{CLAMP}"
_KERNEL_CALL = "OPERATOR_CALL"
_EXECUTE = "Execute"
# XNNPACK's kernels of a kind are counted: "Add (ND) #2".
_COUNT = re.compile(r" #\d+$")

Called = tuple[str, int]
"""A kernel's name, and its time in ns."""


def time_operators(path: Path, runs: int = 30) -> Timed | NotRun:
    """Raises as `runners.executorch.open_runner` does. XNNPACK's clock gives whole µs, rounded down."""
    runner = open_runner(path, Placement())
    if runner.cannot_run:
        return NotRun(runner.cannot_run)
    file = deserialized(path)
    try:
        program = dissect(file, plan_named(file, FORWARD))
    except UnavailableError as error:
        return NotRun(str(error))
    source = runner.inputs[0]
    turns, rows = _measured(path.read_bytes(), noise(source.shape, source.dtype), runs)
    record = delegation_record(file)
    operators = tuple(_timed(program, record, rows))
    return Timed(
        runtime=f"{runner.runtime}, by ExecuTorch's event tracer",
        threads=1,
        runs=len(rows),
        whole_ms=median(turns.whole_ms),
        operators=operators,
        partitions=len(program.networks),
        waited=turns.waited,
    )


def _measured(content: bytes, picture: Any, runs: int) -> tuple[Turns, list[Mapping[int, list[Called]]]]:
    """The second: of each traced run that counts, the kernels of each of the program's instructions."""
    import torch
    from executorch.devtools.etdump.serialize import deserialize_from_etdump_flatcc
    from executorch.runtime import Runtime

    tensor = torch.from_numpy(picture)
    with captured_stderr(), tempfile.TemporaryDirectory() as folder:
        # Both are held: a program owns the bytes that its method reads.
        plain, traced = (Runtime.get().load_program(content, enable_etdump=traces) for traces in (False, True))
        plainly, tracing = plain.load_method(FORWARD), traced.load_method(FORWARD)
        turns = in_turn(lambda: _execute(plainly, tensor), lambda: _execute(tracing, tensor), runs)
        dump = Path(folder, "etdump")
        traced.write_etdump_result_to_file(str(dump), str(Path(folder, "values")))
        found = deserialize_from_etdump_flatcc(dump.read_bytes())
    traces = [run for run in found.run_data if run.name == _EXECUTE][1:]
    return turns, [_by_instruction(traces[n]) for n in turns.counted]


def _execute(method: Any, tensor: Any) -> None:
    """`Method.execute` copies the result, which an app reads where it lies."""
    method._method([tensor], clone_outputs=False)


def _by_instruction(run: Any) -> Mapping[int, list[Called]]:
    found = defaultdict(list)
    for event in (event.profile_event for event in run.events if event.profile_event is not None):
        inside = event.delegate_debug_id_str
        if inside or event.name == _KERNEL_CALL:
            name = _COUNT.sub("", inside) if inside else event.name
            found[event.instruction_id].append((name, event.end_time - event.start_time))
    return found


def _timed(
    program: Program, record: Mapping[str, Any], rows: Sequence[Mapping[int, list[Called]]]
) -> Iterator[OperatorTime]:
    found = list(all_operators(program))
    weights = weight_names([(operator.kind, operator.inside) for operator in found], record)
    names = [f"{weights[n]} ({operator.name})" if n in weights else operator.name for n, operator in enumerate(found)]
    # In the file a kernel has another overload's name: aten.argmax.default is aten.argmax.
    left = {name.rpartition(".")[0]: why for name, why in record.get("left", {}).items()}
    start = 0
    for position in range(len(program.calls)):
        count = len(program.networks[position].nodes) if position in program.networks else 1
        kernels = [name for name, _ in rows[0].get(position, ())]
        times = [[ns // 1000 for _, ns in row[position]] for row in rows] if kernels else []
        ms = [median_ms(column) for column in zip(*times, strict=True)]
        if position in program.networks:
            yield from _call(found[start : start + count], names[start : start + count], kernels, ms, position)
        else:
            kind = found[start].kind
            yield OperatorTime(names[start], kind, sum(ms), len(ms), delegated=False, why=left.get(kind, ""))
        start += count


def _call(
    operators: Sequence[Operator], names: Sequence[str], kernels: Sequence[str], ms: Sequence[float], position: int
) -> Iterator[OperatorTime]:
    """Of one call of XNNPACK."""
    parts = assigned([operator.kind.removesuffix(_CLAMPED) for operator in operators], kernels, _KERNELS)
    for operator, name, part in zip(operators, names, parts or [range(0)] * len(operators), strict=True):
        called = tuple(kernels[n] for n in part)
        yield OperatorTime(name, operator.kind, sum(ms[n] for n in part), len(part), True, called)
    if parts is None:
        for n, (kernel, time) in enumerate(zip(kernels, ms, strict=True)):
            yield OperatorTime(f"kernel {n} of call {position}", kernel, time, 1, True, (kernel,))
