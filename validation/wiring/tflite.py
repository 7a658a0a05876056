"""TFLite files, read with LiteRT's schema."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from mobileseg.errors import MissingExtraError
from mobileseg.validation.wiring.base import Operator, Value, Wiring

_TRANSPOSE = "TRANSPOSE"


def read(path: Path) -> Wiring:
    """Of the first subgraph. Keys are the tensors' indices. Raises `MissingExtraError` without ai-edge-litert."""
    try:
        from ai_edge_litert import schema_py_generated as schema
    except ModuleNotFoundError as error:
        raise MissingExtraError("tflite", error.name or "ai_edge_litert") from error
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(path.read_bytes(), 0))
    graph = model.subgraphs[0]
    kinds = {number: name for name, number in vars(schema.BuiltinOperator).items() if isinstance(number, int)}
    types = {number: name.lower() for name, number in vars(schema.TensorType).items() if isinstance(number, int)}
    constants = {i: data for i, t in enumerate(graph.tensors) if (data := model.buffers[t.buffer].data) is not None}

    def operator(record: Any) -> Operator:
        code = model.operatorCodes[record.opcodeIndex]
        kind = kinds[max(code.builtinCode, code.deprecatedBuiltinCode)]
        inputs, outputs = ([int(i) for i in side if i >= 0] for side in (record.inputs, record.outputs))
        order = np.asarray(constants[inputs[1]], np.uint8).view(np.int32) if kind == _TRANSPOSE else ()
        return Operator(
            kind,
            graph.tensors[outputs[0]].name.decode(errors="replace"),
            tuple(str(i) for i in inputs if i not in constants),
            tuple(map(str, outputs)),
            tuple(int(axis) for axis in order),
        )

    return Wiring(
        operators=tuple(operator(record) for record in graph.operators),
        values={str(i): _value(tensor, types[tensor.type]) for i, tensor in enumerate(graph.tensors)},
        outputs=tuple(str(i) for i in graph.outputs),
    )


def _value(tensor: Any, dtype: str) -> Value:
    shape = () if tensor.shape is None else tuple(int(n) for n in tensor.shape)
    scales = None if tensor.quantization is None else tensor.quantization.scale
    if scales is None or len(scales) != 1:
        return Value(shape, dtype)
    return Value(shape, dtype, float(scales[0]), int(tensor.quantization.zeroPoint[0]))
