"""The graph reader of TFLite files, on files made by hand: every kind of product, and what it cannot know."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mobileseg.types import NotRun
from mobileseg.validation.graphs import Graph, read_graph
from mobileseg.validation.graphs.base import ANY_SIZE, ONE_PICTURE

schema = pytest.importorskip("ai_edge_litert.schema_py_generated")
Make = Callable[..., Graph]
SHAPE = (1, 4, 5, 6)
"""Of the input, NHWC."""


def operator(model: Any, name: str, inputs: Sequence[int], outputs: Sequence[int], **options: Any) -> Any:
    """An operator of the model, whose code is added to it."""
    code, found = schema.OperatorCodeT(), schema.OperatorT()
    code.builtinCode = getattr(schema.BuiltinOperator, name)
    code.deprecatedBuiltinCode, code.version = min(code.builtinCode, 127), 1
    model.operatorCodes.append(code)
    found.opcodeIndex, found.inputs, found.outputs = len(model.operatorCodes) - 1, list(inputs), list(outputs)
    for table, values in options.items():
        found.builtinOptionsType = getattr(schema.BuiltinOptions, table)
        found.builtinOptions = getattr(schema, f"{table}T")()
        for key, value in values.items():
            setattr(found.builtinOptions, key, value)
    return found


def tensor(model: Any, name: str, content: Any, dtype: str, signature: Sequence[int] | None) -> Any:
    """``content``: a constant, whose bytes become a buffer of the model, or the shape of a value."""
    found = schema.TensorT()
    found.name, found.buffer, found.type = name, 0, getattr(schema.TensorType, dtype)
    if isinstance(content, np.ndarray):
        found.shape, found.type = list(content.shape), getattr(schema.TensorType, content.dtype.name.upper())
        found.buffer, buffer = len(model.buffers), schema.BufferT()
        buffer.data = np.frombuffer(content.tobytes(), np.uint8)
        model.buffers.append(buffer)
    else:
        found.shape = list(content)
        found.shapeSignature = None if signature is None else [*signature, content[-1]]
    return found


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """The graph of a file of one operator: name, inputs, options. ``tensors``: arrays of constants, or shapes of
    values, the first of which is the input and the last the output, of type ``result``; ``signature``: of all values,
    but for the channels, where lengths are open."""

    def written(
        tensors: Sequence[Any], *given: Any, result: str = "FLOAT32", signature: Sequence[int] | None = None
    ) -> Graph:
        import flatbuffers

        (name, inputs, options), last = given, len(tensors) - 1
        model, graph = schema.ModelT(), schema.SubGraphT()
        model.version, model.operatorCodes, model.subgraphs, model.buffers = 3, [], [graph], [schema.BufferT()]
        types = {last: result}
        graph.tensors = [
            tensor(model, f"t{i}", content, types.get(i, "FLOAT32"), signature) for i, content in enumerate(tensors)
        ]
        graph.inputs, graph.outputs = [0], [last]
        graph.operators = [operator(model, name, inputs, [last], **options)]
        builder, path = flatbuffers.Builder(1024), tmp_path / "made.tflite"
        builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
        path.write_bytes(bytes(builder.Output()))
        return read_graph(path)

    return written


def floats(*shape: int) -> np.ndarray:
    return np.ones(shape, np.float32)


SAME = {"padding": schema.Padding.SAME, "strideH": 1, "strideW": 1, "dilationHFactor": 1, "dilationWFactor": 1}
CONV = {"Conv2DOptions": SAME}
DEPTHWISE = {"DepthwiseConv2DOptions": {**SAME, "depthMultiplier": 2}}
DOUBLED = {"TransposeConvOptions": {"padding": schema.Padding.SAME, "strideH": 2, "strideW": 2}}
AXES_KEPT = {"FullyConnectedOptions": {"keepNumDims": True}}


@pytest.mark.parametrize(
    ("operator", "inputs", "weights", "result", "options", "kind", "macs"),
    [
        ("CONV_2D", [0, 1, 2], (7, 3, 3, 6), (1, 4, 5, 7), CONV, "convolution", 20 * 7 * 54),
        ("CONV_2D", [0, 1, 2], (6, 3, 3, 2), (1, 4, 5, 6), CONV, "grouped convolution", 20 * 6 * 18),
        ("DEPTHWISE_CONV_2D", [0, 1], (1, 3, 3, 12), (1, 4, 5, 12), DEPTHWISE, "depthwise convolution", 20 * 12 * 9),
        ("TRANSPOSE_CONV", [3, 1, 0], (3, 2, 2, 6), (1, 8, 10, 3), DOUBLED, "transposed convolution", 20 * 6 * 3 * 4),
        ("FULLY_CONNECTED", [0, 1, -1], (7, 6), (1, 4, 5, 7), AXES_KEPT, "matrix product", 20 * 7 * 6),
        ("BATCH_MATMUL", [0, 1], (1, 1, 6, 7), (1, 4, 5, 7), {"BatchMatMulOptions": {}}, "matrix product", 20 * 6 * 7),
    ],
)
def test_multiply_accumulates(make, operator, inputs, weights, result, options, kind, macs):
    bias, size = floats(result[-1]), np.array(result, np.int32)
    graph = make([SHAPE, floats(*weights), bias, size, result], operator, inputs, options)
    (operation,) = graph.operations
    assert (operation.kind, operation.macs, operation.shape) == (kind, macs, result)
    others = (bias.nbytes if 2 in inputs else 0) + (size.nbytes if 3 in inputs else 0)
    assert operation.bytes_read == 4 * (120 + int(np.prod(weights))) + others
    assert operation.bytes_written == 4 * int(np.prod(result))
    assert graph.peak.bytes == 4 * 120 + operation.bytes_written
    assert graph.notes == ()


def test_operators_that_are_not_known_count_their_bytes(make):
    """TFLite's Fourier transform, whose result is complex."""
    size = np.array([4, 8], np.int32)
    graph = make([(1, 4, 8), size, (1, 4, 5)], "RFFT2D", [0, 1], {"Rfft2dOptions": {}}, result="COMPLEX64")
    (operation,) = graph.operations
    assert (operation.kind, operation.macs) == ("unknown", None)
    assert (operation.bytes_read, operation.bytes_written) == (4 * 32 + 8, 8 * 20)


CONVOLUTION = ("CONV_2D", [0, 1, 2], CONV)


def test_any_number_of_pictures_is_counted_as_one(make):
    graph = make([SHAPE, floats(7, 1, 1, 6), floats(7), (1, 4, 5, 7)], *CONVOLUTION, signature=(-1, 4, 5))
    assert (graph.operations[0].shape, graph.operations[0].macs) == ((1, 4, 5, 7), 20 * 42)
    assert graph.notes == (ONE_PICTURE,)


def test_pictures_of_any_size_are_said_and_not_counted(make):
    graph = make([SHAPE, floats(7, 1, 1, 6), floats(7), (1, 4, 5, 7)], *CONVOLUTION, signature=(1, -1, -1))
    assert (graph.operations[0].shape, graph.operations[0].macs) == ((1, None, None, 7), None)
    assert graph.notes == (ANY_SIZE,)
    assert isinstance(graph.peak, NotRun)
