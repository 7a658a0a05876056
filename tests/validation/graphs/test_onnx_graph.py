"""The graph reader of ONNX files, on graphs made by hand: every kind of convolution, and what it cannot know."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mobileseg.types import NotRun
from mobileseg.validation.graphs import Graph, read_graph
from mobileseg.validation.graphs.base import ANY_SIZE, ONE_PICTURE

onnx = pytest.importorskip("onnx")
helper, FLOAT = onnx.helper, onnx.TensorProto.FLOAT
Make = Callable[..., Graph]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """The graph of nodes that come from ``x`` to ``y``; ``weights`` by name."""

    def written(
        nodes: Sequence[Any], weights: dict[str, np.ndarray], shape: Sequence[Any] = (1, 6, 8, 10), **more: Any
    ) -> Graph:
        graph = helper.make_graph(
            nodes,
            "graph",
            [helper.make_tensor_value_info("x", FLOAT, shape)],
            [helper.make_tensor_value_info("y", FLOAT, None)],
            [onnx.numpy_helper.from_array(array, name) for name, array in weights.items()],
        )
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
        onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8, **more), tmp_path / "a.onnx")
        return read_graph(tmp_path / "a.onnx")

    return written


def floats(*shape: int) -> np.ndarray:
    return np.ones(shape, np.float32)


@pytest.mark.parametrize(
    ("operator", "weights", "attributes", "kind", "macs"),
    [
        ("Conv", (4, 6, 3, 3), {}, "convolution", 6 * 8 * 4 * 54),
        ("Conv", (4, 6, 3, 3), {"pads": [1] * 4, "strides": [2, 2]}, "convolution", 4 * 5 * 4 * 54),
        ("Conv", (4, 6, 3, 3), {"dilations": [2, 2]}, "convolution", 4 * 6 * 4 * 54),
        ("Conv", (4, 3, 3, 3), {"group": 2}, "grouped convolution", 6 * 8 * 4 * 27),
        ("Conv", (12, 1, 3, 3), {"group": 6}, "depthwise convolution", 6 * 8 * 12 * 9),
        ("ConvTranspose", (6, 4, 2, 2), {"strides": [2, 2]}, "transposed convolution", 80 * 6 * 4 * 4),
        ("ConvTranspose", (6, 2, 3, 3), {"group": 2, "pads": [1] * 4}, "transposed convolution", 80 * 6 * 2 * 9),
        ("MatMul", (10, 7), {}, "matrix product", 6 * 8 * 7 * 10),
    ],
)
def test_multiply_accumulates(make, operator, weights, attributes, kind, macs):
    graph = make([helper.make_node(operator, ["x", "w"], ["y"], **attributes)], {"w": floats(*weights)})
    (operation,) = graph.operations
    assert (operation.kind, operation.macs, operation.operator) == (kind, macs, operator)
    assert operation.bytes_read == 4 * (480 + np.prod(weights))
    assert (operation.delegated, graph.notes) == (None, ())


def test_matrices_that_are_turned(make):
    nodes = [helper.make_node("Gemm", ["x", "w"], ["y"], transA=1, transB=1)]
    (operation,) = make(nodes, {"w": floats(7, 5)}, (5, 3)).operations
    assert (operation.shape, operation.macs) == ((3, 7), 3 * 7 * 5)


def test_quantized_convolutions(make):
    """As ONNX Runtime's tools write them: in integers; and between conversions, whose weights count as stored."""
    weights = {"w": np.ones((4, 6, 3, 3), np.int8), "s": np.float32(0.1), "z": np.uint8(3), "wz": np.int8(0)}
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("QLinearConv", ["q", "s", "z", "w", "s", "wz", "s", "z"], ["p"]),
        helper.make_node("DequantizeLinear", ["p", "s", "z"], ["f"]),
        helper.make_node("DequantizeLinear", ["w", "s"], ["wide"]),
        helper.make_node("Conv", ["x", "wide"], ["y"]),
    ]
    operations = make(nodes, weights).operations
    assert [(o.kind, o.macs, o.dtype) for o in operations if o.macs] == [
        ("convolution", 6 * 8 * 4 * 54, "uint8"),
        ("convolution", 6 * 8 * 4 * 54, "float32"),
    ]
    assert operations[0].bytes_written == 480
    assert operations[3].bytes_moved == 0
    assert operations[4].bytes_read == 4 * 480 + 4 * 54 + 4


def test_operators_that_are_not_known_count_their_bytes(make):
    """A convolution of another's domain is another operator, whose result's shape is not known either."""
    nodes = [
        helper.make_node("Einsum", ["x"], ["a"], equation="nchw->nhwc"),
        helper.make_node("Conv", ["a", "w"], ["y"], domain="own", name="theirs"),
    ]
    graph = make(nodes, {"w": floats(4, 6, 3, 3)})
    assert [(o.kind, o.macs) for o in graph.operations] == [("unknown", None), ("unknown", None)]
    assert (graph.operations[0].bytes_read, graph.operations[0].bytes_written) == (1920, 1920)
    assert (graph.operations[1].bytes_read, graph.operations[1].bytes_written) == (1920 + 4 * 216, None)
    assert (graph.operations[1].name, graph.operations[1].shape) == ("theirs", None)
    assert isinstance(graph.peak, NotRun)


def test_functions_of_the_file_are_written_out(make):
    body = [helper.make_node("Conv", ["a", "b"], ["c"]), helper.make_node("Relu", ["c"], ["d"])]
    function = helper.make_function("own", "Block", ["a", "b"], ["d"], body, [helper.make_opsetid("", 17)])
    nodes = [helper.make_node("Block", ["x", "w"], ["y"], domain="own")]
    graph = make(nodes, {"w": floats(4, 6, 3, 3)}, functions=[function])
    assert [o.operator for o in graph.operations] == ["Conv", "Relu"]
    assert graph.operations[0].macs == 6 * 8 * 4 * 54


def test_any_number_of_pictures_is_counted_as_one(make):
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"])]
    graph = make(nodes, {"w": floats(4, 6, 3, 3)}, ("batch", 6, 8, 10))
    assert graph.operations[0].macs == 6 * 8 * 4 * 54
    assert graph.notes == (ONE_PICTURE,)


def test_pictures_of_any_size_are_said_and_not_counted(make):
    nodes = [helper.make_node("Conv", ["x", "w"], ["a"]), helper.make_node("GlobalAveragePool", ["a"], ["y"])]
    graph = make(nodes, {"w": floats(4, 6, 3, 3)}, (1, 6, "height", "width"))
    assert (graph.operations[0].shape, graph.operations[0].macs) == ((1, 4, None, None), None)
    assert (graph.operations[1].shape, graph.operations[1].macs) == ((1, 4, 1, 1), 0)
    assert graph.notes == (ANY_SIZE,)
    assert isinstance(graph.peak, NotRun)


def test_constants_in_nodes_are_constants(make):
    weight = helper.make_tensor("t", FLOAT, (4, 6, 1, 1), np.ones(24, np.float32))
    nodes = [
        helper.make_node("Constant", [], ["w"], value=weight),
        helper.make_node("Constant", [], ["slope"], value_float=0.5),
        helper.make_node("Conv", ["x", "w"], ["a"]),
        helper.make_node("Mul", ["a", "slope"], ["y"]),
    ]
    operations = make(nodes, {}).operations
    assert [(o.macs, o.bytes_moved) for o in operations[:2]] == [(0, 0), (0, 0)]
    assert (operations[2].macs, operations[2].bytes_read) == (80 * 24, 1920 + 96)


def test_a_branch_is_an_operator_that_is_not_known(make):
    def branch(name: str) -> Any:
        node = helper.make_node("Relu", ["x"], [name])
        return helper.make_graph([node], name, [], [helper.make_tensor_value_info(name, FLOAT, None)])

    nodes = [helper.make_node("If", ["c"], ["y"], then_branch=branch("a"), else_branch=branch("b"))]
    (operation,) = make(nodes, {"c": np.array(True)}).operations
    assert (operation.kind, operation.macs) == ("unknown", None)
