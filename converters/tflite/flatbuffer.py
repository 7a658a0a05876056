"""Editing a finished .tflite: its flatbuffer as ai-edge-litert's schema objects and back.

Schema: https://ai.google.dev/edge/litert/conversion/tensorflow/model_schema (tensorflow/lite/schema/schema.fbs).
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

METADATA_NAME = "mobileseg"
_FILE_IDENTIFIER = b"TFL3"


def read(content: bytes) -> Any:
    """The ``ModelT`` of a .tflite's bytes."""
    from ai_edge_litert import schema_py_generated as schema

    return schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(content, 0))


def write(model: Any) -> bytes:
    """The bytes of a ``ModelT``."""
    import flatbuffers

    builder = flatbuffers.Builder(1 << 20)
    builder.Finish(model.Pack(builder), _FILE_IDENTIFIER)
    return bytes(builder.Output())


def add_buffer(model: Any, data: bytes) -> int:
    """The index of a new buffer that holds ``data``."""
    from ai_edge_litert import schema_py_generated as schema

    buffer = schema.BufferT()
    buffer.data = np.frombuffer(data, np.uint8)
    model.buffers.append(buffer)
    return len(model.buffers) - 1


def embed(model: Any, metadata: Mapping[str, Any]) -> None:
    """Put a JSON object into the model's metadata, under our name."""
    from ai_edge_litert import schema_py_generated as schema

    entry = schema.MetadataT()
    entry.name = METADATA_NAME
    entry.buffer = add_buffer(model, json.dumps(metadata, sort_keys=True).encode())
    model.metadata = [*(model.metadata or []), entry]


def count_from_corners(model: Any) -> None:
    """Let each RESIZE_NEAREST_NEIGHBOR read row ``floor(i * scale)``, as torch's ``"nearest"`` does.

    litert-torch writes that mode with half-pixel centres, which is another row wherever the sizes do not divide.
    """
    from ai_edge_litert import schema_py_generated as schema

    for graph in model.subgraphs:
        for operator in graph.operators:
            if operator.builtinOptionsType == schema.BuiltinOptions.ResizeNearestNeighborOptions:
                operator.builtinOptions.halfPixelCenters = False


def unshare_paddings(model: Any) -> None:
    """Give each convolution that reads a PAD one of its own.

    XNNPACK lets a convolution pad its own input where nothing else reads the padded tensor; one PAD of the picture that
    two convolutions read takes 1.3 ms of ESPNetV2's 11.6 at 256x512, and two of them nothing.
    """
    from ai_edge_litert import schema_py_generated as schema

    builtin = schema.BuiltinOperator
    pads = _codes(model, (builtin.PAD,))
    convolutions = _codes(model, (builtin.CONV_2D, builtin.DEPTHWISE_CONV_2D))
    for graph in model.subgraphs:
        makers = {int(o.outputs[0]): o for o in graph.operators if o.opcodeIndex in pads}
        readers = {tensor: [o for o in graph.operators if tensor in o.inputs] for tensor in makers}
        ordered = []
        for operator in graph.operators:
            padded = int(operator.inputs[0]) if operator.opcodeIndex in convolutions else -1
            if padded in makers and len(readers[padded]) > 1 and padded not in graph.outputs:
                readers[padded].remove(operator)
                tensor, own = copy.copy(graph.tensors[padded]), copy.copy(makers[padded])
                tensor.name = tensor.name + f"_{len(graph.tensors)}".encode()
                own.outputs = [len(graph.tensors)]
                operator.inputs = [len(graph.tensors), *operator.inputs[1:]]
                graph.tensors.append(tensor)
                ordered.append(own)
            ordered.append(operator)
        graph.operators = ordered


def _codes(model: Any, builtins: Sequence[int]) -> set[int]:
    """The indices of these builtin operators' codes."""
    return {i for i, c in enumerate(model.operatorCodes) if max(c.builtinCode, c.deprecatedBuiltinCode) in builtins}


def operator_code(model: Any, builtin: int) -> int:
    """The index of a builtin operator's code, added where the model has none."""
    from ai_edge_litert import schema_py_generated as schema

    for index, code in enumerate(model.operatorCodes):
        if max(code.builtinCode, code.deprecatedBuiltinCode) == builtin:
            return index
    code = schema.OperatorCodeT()
    code.builtinCode = builtin
    code.deprecatedBuiltinCode = min(builtin, 127)
    code.version = 1
    model.operatorCodes.append(code)
    return len(model.operatorCodes) - 1
