"""Conversions of int8 files get short names and no types, and compute what they did."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx", reason="install the extra: pip install 'mobileseg[onnx]'")

import onnx
from onnx import TensorProto, helper, numpy_helper

from mobileseg.converters.onnx import compact


def model() -> Any:
    """x -> Q -> DQ -> Relu -> Q -> DQ, weights beside with a scale per channel; the last result is the graph's."""
    constants = {
        "scale": np.float32(0.1),
        "zero": np.int8(3),
        "scales": np.array([0.5, 0.25], np.float32),
        "weights": np.array([[1, 2], [3, 4]], np.int8),
        "q2": np.float32(1.0),  # a name that a conversion would get
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["a_long_name"], name="node_1", axis=1),
        helper.make_node("DequantizeLinear", ["a_long_name", "scale", "zero"], ["b_long_name"], axis=1),
        helper.make_node("QuantizeLinear", ["b_long_name", "scale", "zero"], ["c_long_name"], axis=1),
        helper.make_node("DequantizeLinear", ["weights", "scales"], ["d_long_name"], axis=0),
        helper.make_node("DequantizeLinear", ["c_long_name", "scale", "zero"], ["e_long_name"], axis=1),
        helper.make_node("MatMul", ["e_long_name", "d_long_name"], ["f_long_name"], name="product"),
        helper.make_node("Mul", ["f_long_name", "q2"], ["g_long_name"], name="scaled"),
        helper.make_node("QuantizeLinear", ["g_long_name", "scale", "zero"], ["h_long_name"], axis=1),
        helper.make_node("DequantizeLinear", ["h_long_name", "scale", "zero"], ["result"], axis=1),
    ]
    x, result = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [2, 2]) for n in ("x", "result"))
    held = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "graph", [x], [result], held)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def run(made: Any) -> Any:
    ort = pytest.importorskip("onnxruntime")
    session = ort.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": np.array([[0.31, -0.2], [5.0, 0.04]], np.float32)})[0]


def shortened() -> Any:
    made = model()
    compact.shorten(made)
    made = onnx.shape_inference.infer_shapes(made, strict_mode=True)
    compact.without_types_of_conversions(made)
    onnx.checker.check_model(made, full_check=True)
    return made


def test_the_numbers_are_the_same() -> None:
    np.testing.assert_array_equal(run(shortened()), run(model()))


def test_conversions_have_short_names_and_others_their_own() -> None:
    nodes = list(shortened().graph.node)
    assert [n.name for n in nodes] == ["q0", "dq1", "q2", "dq3", "dq4", "product", "scaled", "q7", "dq8"]
    assert [n.output[0] for n in nodes][:3] == ["q0", "dq1", "c_long_name"], "q2 is a constant's name"
    assert nodes[-1].output[0] == "result"
    assert nodes[5].output[0] == "f_long_name"


def test_only_scales_per_channel_keep_an_axis() -> None:
    assert [n.name for n in shortened().graph.node if n.attribute] == ["dq3"]


def test_types_are_kept_of_what_computes() -> None:
    assert {v.name for v in shortened().graph.value_info} == {"f_long_name", "g_long_name"}


def computing() -> Any:
    """x * gains + offsets -> Q -> DQ, and a resizing; of 600 numbers each, those of the conversion and the resizing
    included."""
    numbers = np.linspace(-3, 3, 600, dtype=np.float32)
    constants = {
        "gains": numbers,
        "offsets": numbers[::-1].copy(),
        "large": numbers * 1e6,
        "few": numbers[:1],
        "scales": np.abs(numbers) + np.float32(0.01),
        "both": numbers + 1,
    }
    nodes = [
        helper.make_node("Mul", ["x", "gains"], ["a"]),
        helper.make_node("Add", ["a", "offsets"], ["b"]),
        helper.make_node("Mul", ["b", "large"], ["c"]),
        helper.make_node("Mul", ["c", "few"], ["d"]),
        helper.make_node("Mul", ["d", "both"], ["e"]),
        helper.make_node("Max", ["e", "both"], ["f"]),
        helper.make_node("QuantizeLinear", ["f", "scales"], ["g"], axis=0),
        helper.make_node("DequantizeLinear", ["g", "scales"], ["result"], axis=0),
    ]
    x, result = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [600]) for n in ("x", "result"))
    held = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "graph", [x], [result], held)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def test_large_constants_to_compute_with_are_float16() -> None:
    made = computing()
    compact.halve_constants(made)
    onnx.checker.check_model(made, full_check=True)
    types = {i.name: i.data_type for i in made.graph.initializer}
    assert {name for name, kind in types.items() if kind == TensorProto.FLOAT16} == {"gains/half", "offsets/half"}
    assert {name for name, kind in types.items() if kind == TensorProto.FLOAT} == {"large", "few", "scales", "both"}
    ort = pytest.importorskip("onnxruntime")
    plain = computing()
    for held in plain.graph.initializer:
        if held.name in {"gains", "offsets"}:
            rounded = numpy_helper.to_array(held).astype(np.float16).astype(np.float32)
            held.CopyFrom(numpy_helper.from_array(rounded, held.name))
    x = np.random.default_rng(0).normal(size=600).astype(np.float32)
    found, expected = (
        ort.InferenceSession(m.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]
        for m in (made, plain)
    )
    np.testing.assert_array_equal(found, expected)
