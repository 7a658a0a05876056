"""TFLite files, read with LiteRT's schema and its interpreter."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mobileseg.errors import MissingExtraError
from mobileseg.validation.graphs.base import Delegation, Graph, Layer, counted, largest_first

DELEGATE = "DELEGATE"
"""What TFLite calls an operator that stands for all those a delegate took."""


def read(path: Path) -> Graph:
    """Raises `MissingExtraError` without ai-edge-litert."""
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
    constants = dict(_constants(model))
    plain = [d for d in details if d["op_name"] != DELEGATE]
    return Graph(
        operators=counted(d["op_name"] for d in plain),
        weight_bytes=sum({buffer: size for buffer, size, _ in constants.values()}.values()),
        layers=largest_first(_layers(plain, constants, model.Subgraphs(0))),
        quantization=counted(kind for _, _, kind in constants.values()),
        delegation=xnnpack_delegation(details),
    )


def _constants(model: Any) -> Iterator[tuple[int, tuple[int, int, str]]]:
    """Index of each constant tensor of the first subgraph: its buffer, that buffer's bytes, how it is stored."""
    from ai_edge_litert import schema_py_generated as schema

    types = {number: name.lower() for name, number in vars(schema.TensorType).items() if isinstance(number, int)}
    graph = model.Subgraphs(0)
    for index in range(graph.TensorsLength()):
        tensor = graph.Tensors(index)
        size = model.Buffers(tensor.Buffer()).DataLength()
        if not size:
            continue
        kind, quantization = types[tensor.Type()], tensor.Quantization()
        scales = 0 if quantization is None else quantization.ScaleLength()
        stored = f"{kind} per channel" if scales > 1 else f"{kind} per tensor" if scales else kind
        yield index, (tensor.Buffer(), size, stored)


def _layers(
    operators: Sequence[Mapping[str, Any]], constants: Mapping[int, tuple[int, int, str]], graph: Any
) -> Iterator[Layer]:
    seen: set[int] = set()
    for operator in operators:
        own = [constants[int(t)] for t in operator["inputs"] if int(t) in constants]
        own = list({c[0]: c for c in own if c[0] not in seen}.values())
        seen.update(buffer for buffer, _, _ in own)
        if own:
            name = graph.Tensors(int(operator["outputs"][0])).Name().decode()
            dtype = max(own, key=lambda c: c[1])[2]
            yield Layer(name, operator["op_name"], dtype, int(np.sum([size for _, size, _ in own])))


def xnnpack_delegation(details: Sequence[Mapping[str, Any]]) -> Delegation:
    """From the interpreter's list of operators, in which those that a delegate took stand beside the delegate's own."""
    found = partitions(details)
    taken = {index for partition in found for index in partition}
    names = {d["index"]: d["op_name"] for d in details}
    return Delegation("XNNPACK", counted(names[index] for index in taken), len(found))


def partitions(details: Sequence[Mapping[str, Any]]) -> tuple[tuple[int, ...], ...]:
    """The operators (``index``) that each call of the delegate stands for, from the interpreter's list of operators.

    A partition's operators are those between its outputs and its inputs.
    """
    plain = {d["index"]: d for d in details if d["op_name"] != DELEGATE}
    maker = {int(tensor): d for d in plain.values() for tensor in d["outputs"]}
    taken: set[int] = set()

    def between(partition: Mapping[str, Any]) -> Iterator[int]:
        given = {int(tensor) for tensor in partition["inputs"]}
        open_tensors = [int(tensor) for tensor in partition["outputs"]]
        while open_tensors:
            tensor = open_tensors.pop()
            if tensor in given or tensor not in maker or maker[tensor]["index"] in taken:
                continue
            taken.add(maker[tensor]["index"])
            yield maker[tensor]["index"]
            open_tensors += [int(source) for source in maker[tensor]["inputs"]]

    return tuple(tuple(sorted(between(d))) for d in details if d["op_name"] == DELEGATE)
