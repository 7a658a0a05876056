"""What is inside an artifact: its operators, which of them the runtime's delegate takes, its tensors, its bytes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mobileseg.errors import MissingExtraError
from mobileseg.types import NotRun, TensorSpec
from mobileseg.validation.report import size_and_digest
from mobileseg.validation.runners import open_artifact

DELEGATE = "DELEGATE"
"""What TFLite calls an operator that stands for all those a delegate took."""


@dataclass(frozen=True)
class Delegation:
    """``operators``: how many of each the delegate takes; ``partitions``: in how many pieces it runs them."""

    name: str
    operators: Mapping[str, int]
    partitions: int


@dataclass(frozen=True)
class Graph:
    """``operators``: how many of each there are, the most frequent first. ``weight_bytes``: of all constants."""

    operators: Mapping[str, int]
    weight_bytes: int
    delegation: Delegation | NotRun


@dataclass(frozen=True)
class ArtifactSummary:
    """One ``.tflite`` or ``.onnx`` file. ``notes``: what had to be assumed about it."""

    path: Path
    target: str
    precision: str
    runtime: str
    bytes: int
    sha256: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    graph: Graph
    metadata: Mapping[str, Any]
    notes: tuple[str, ...]
    kind: Literal["artifact"] = "artifact"


def inspect_artifact(path: Path) -> ArtifactSummary:
    """Loads the file in its runtime and reads its graph.

    Raises `UsageError` for a file that does not load, `MissingExtraError` where what reads it is not installed.
    """
    runner = open_artifact(path)
    size, digest = size_and_digest(path)
    return ArtifactSummary(
        path=path,
        target=runner.artifact.target,
        precision=runner.artifact.precision,
        runtime=runner.runtime,
        bytes=size,
        sha256=digest,
        inputs=runner.inputs,
        outputs=runner.outputs,
        graph=_GRAPHS[path.suffix](path),
        metadata=runner.metadata,
        notes=runner.notes,
    )


def _tflite_graph(path: Path) -> Graph:
    try:
        from ai_edge_litert import schema_py_generated as schema
        from ai_edge_litert.interpreter import Interpreter
    except ModuleNotFoundError as error:
        raise MissingExtraError("tflite", error.name or "ai_edge_litert") from error
    content = path.read_bytes()
    interpreter = Interpreter(model_content=content, num_threads=1)
    interpreter.allocate_tensors()
    details = interpreter._get_ops_details()
    model = schema.Model.GetRootAs(content, 0)
    tensors = (
        model.Subgraphs(s).Tensors(t)
        for s in range(model.SubgraphsLength())
        for t in range(model.Subgraphs(s).TensorsLength())
    )
    buffers = {tensor.Buffer() for tensor in tensors}
    return Graph(
        operators=_counted(d["op_name"] for d in details if d["op_name"] != DELEGATE),
        weight_bytes=sum(model.Buffers(b).DataLength() for b in buffers),
        delegation=xnnpack_delegation(details),
    )


def xnnpack_delegation(details: Sequence[Mapping[str, Any]]) -> Delegation:
    """From the interpreter's list of operators, in which those that a delegate took stand beside the delegate's own.

    A partition's operators are those between its outputs and its inputs.
    """
    plain = {d["index"]: d for d in details if d["op_name"] != DELEGATE}
    maker = {int(tensor): d for d in plain.values() for tensor in d["outputs"]}
    partitions = [d for d in details if d["op_name"] == DELEGATE]
    taken: set[int] = set()
    for partition in partitions:
        given = {int(tensor) for tensor in partition["inputs"]}
        open_tensors = [int(tensor) for tensor in partition["outputs"]]
        while open_tensors:
            tensor = open_tensors.pop()
            if tensor in given or tensor not in maker or maker[tensor]["index"] in taken:
                continue
            taken.add(maker[tensor]["index"])
            open_tensors += [int(source) for source in maker[tensor]["inputs"]]
    return Delegation("XNNPACK", _counted(plain[index]["op_name"] for index in taken), len(partitions))


def _onnx_graph(path: Path) -> Graph:
    try:
        import onnx
    except ModuleNotFoundError as error:
        raise MissingExtraError("onnx", "onnx") from error
    graph = onnx.load(path).graph
    return Graph(
        operators=_counted(node.op_type for node in graph.node),
        weight_bytes=sum(np.asarray(onnx.numpy_helper.to_array(i)).nbytes for i in graph.initializer),
        delegation=NotRun("ONNX Runtime's CPU provider runs every operator itself"),
    )


def _counted(names: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(names).items(), key=lambda item: (-item[1], item[0])))


_GRAPHS: Mapping[str, Callable[[Path], Graph]] = {".onnx": _onnx_graph, ".tflite": _tflite_graph}
