"""fp16 for TFLite: weights stored in 16 bits, each behind a DEQUANTIZE.

Before: weight (float32 constant) -> CONV_2D
After:  weight (float16 constant) -> DEQUANTIZE -> CONV_2D

The delegates read such weights as they are: XNNPACK and the portable kernels compute in float32, a GPU or an NPU in
float16 throughout.

Exactness: each weight carries at most 2^-11 relative error (subnormals below 6e-5: 2^-25 absolute). Constants that
float16 cannot hold (beyond 65504, infinities) and those of fewer than 8 numbers stay in float32: a scalar saves
nothing.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mobileseg.converters.tflite.flatbuffer import add_buffer, operator_code

_SMALLEST = 8
_LARGEST = float(np.finfo(np.float16).max)


def halve_weights(model: Any) -> int:
    """Store the float constants of a ``ModelT`` in float16, in place; how many."""
    from ai_edge_litert import schema_py_generated as schema

    halved: dict[int, int] = {}
    for graph in model.subgraphs:
        written = {int(i) for op in graph.operators for i in op.outputs} | {int(i) for i in graph.inputs}
        operators = []
        for index in [i for i in range(len(graph.tensors)) if i not in written]:
            tensor = graph.tensors[index]
            data = model.buffers[tensor.buffer].data
            if tensor.type != schema.TensorType.FLOAT32 or data is None:
                continue
            numbers = np.asarray(data, np.uint8).tobytes()
            values = np.frombuffer(numbers, np.float32)
            if values.size < _SMALLEST or not bool((np.abs(values) <= _LARGEST).all()):
                continue
            if tensor.buffer not in halved:
                halved[tensor.buffer] = add_buffer(model, values.astype(np.float16).tobytes())
            operators.append(_dequantize(model, graph, index, halved[tensor.buffer]))
        graph.operators = [*operators, *graph.operators]
    for buffer in halved:
        model.buffers[buffer].data = None
    return len(halved)


def _dequantize(model: Any, graph: Any, index: int, buffer: int) -> Any:
    """Turn tensor ``index`` into the output of a DEQUANTIZE of a new float16 tensor on ``buffer``; the operator."""
    from ai_edge_litert import schema_py_generated as schema

    tensor = graph.tensors[index]
    half = schema.TensorT()
    half.shape, half.type, half.buffer = tensor.shape, schema.TensorType.FLOAT16, buffer
    half.name = tensor.name + b"_fp16"
    graph.tensors.append(half)
    tensor.buffer = 0
    operator = schema.OperatorT()
    operator.opcodeIndex = operator_code(model, schema.BuiltinOperator.DEQUANTIZE)
    operator.inputs, operator.outputs = [len(graph.tensors) - 1], [index]
    operator.builtinOptionsType = schema.BuiltinOptions.DequantizeOptions
    operator.builtinOptions = schema.DequantizeOptionsT()
    return operator
