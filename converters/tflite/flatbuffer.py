"""Editing a finished .tflite: its flatbuffer as ai-edge-litert's schema objects and back.

Schema: https://ai.google.dev/edge/litert/conversion/tensorflow/model_schema (tensorflow/lite/schema/schema.fbs).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
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
