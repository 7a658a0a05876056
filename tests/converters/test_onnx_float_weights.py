"""ONNX Runtime computes convolutions in float with the weights that the file holds, between int8 or not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx", reason="install the extra: pip install 'mobileseg[onnx]'")

import onnx
from onnx import TensorProto, helper, numpy_helper

from mobileseg.converters.onnx.float_weights import keep_weights_float

# The weights' channels are of unlike size: one scale for all of them would leave nothing of the small ones.
SPREAD = np.array([1.0, 0.01, 0.003, 0.001], np.float32)


def weights(kind: str) -> Any:
    rng = np.random.default_rng(0)
    if kind == "ConvTranspose":
        return (rng.normal(size=(3, 4, 2, 2)) * SPREAD[None, :, None, None]).astype(np.float32)
    if kind == "Gemm":
        return (rng.normal(size=(3, 4)) * SPREAD).astype(np.float32)
    if kind == "Conv, groups":
        return (rng.normal(size=(6, 1, 2, 2)) * np.resize(SPREAD, 6)[:, None, None, None]).astype(np.float32)
    return (rng.normal(size=(4, 3, 2, 2)) * SPREAD[:, None, None, None]).astype(np.float32)


def model(kind: str, batch: int = 1) -> Any:
    """x -> Q -> DQ -> the layer in float -> Q -> DQ -> y, and DQ -> Relu -> z."""
    shape = [batch, 3] if kind == "Gemm" else [batch, 3, 5, 7]
    constants = {"scale": np.float32(0.02), "fine": np.float32(1e-4), "zero": np.int8(-5), "w": weights(kind)}
    constants["b"] = np.full(constants["w"].shape[0 if kind.startswith("Conv,") or kind == "Conv" else 1], 1e-3, "f")
    attributes = {"group": 3} if kind == "Conv, groups" else {}
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["dq"]),
        helper.make_node(kind.split(",")[0], ["dq", "w", "b"], ["computed"], **attributes),
        helper.make_node("QuantizeLinear", ["computed", "fine", "zero"], ["rounded"]),
        helper.make_node("DequantizeLinear", ["rounded", "fine", "zero"], ["y"]),
        helper.make_node("Relu", ["dq"], ["z"]),
    ]
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None] * len(shape)) for name in "yz"]
    held = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
    graph = helper.make_graph(nodes, "graph", [x], outputs, held)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def run(made: Any, *, optimized: bool, batch: int = 1) -> Any:
    ort = pytest.importorskip("onnxruntime")
    options = ort.SessionOptions()
    level = ort.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimized else level.ORT_DISABLE_ALL
    session = ort.InferenceSession(made.SerializeToString(), options, providers=["CPUExecutionProvider"])
    shape = [n if isinstance(n, int) else batch for n in session.get_inputs()[0].shape]
    return session.run(None, {"x": np.random.default_rng(1).normal(size=shape).astype(np.float32)})


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("kind", ["Conv", "Conv, groups", "ConvTranspose", "Gemm"])
def test_float_weights_stay_float(kind: str, batch: int) -> None:
    made = model(kind, batch)
    keep_weights_float(made)
    onnx.checker.check_model(made, full_check=True)
    exact = run(model(kind, batch), optimized=False)
    for found, expected in zip(run(made, optimized=True), exact, strict=True):
        np.testing.assert_allclose(found, expected, atol=1.01e-4)  # a step
        assert float((found != expected).mean()) < 0.02
    for found, expected in zip(run(made, optimized=False), exact, strict=True):
        np.testing.assert_array_equal(found, expected)


def test_without_it_the_runtime_rounds_them() -> None:
    """Where this fails, ONNX Runtime does so no longer, and `keep_weights_float` can go."""
    found, expected = (run(model("Conv"), optimized=optimized)[0] for optimized in (True, False))
    assert float(np.abs(found - expected).max()) > 5e-4


def test_int8_weights_and_other_readers_keep_their_conversion() -> None:
    made = model("Conv")
    quantized = np.clip(np.round(weights("Conv") / 0.01), -127, 127).astype(np.int8)
    made.graph.initializer.append(numpy_helper.from_array(quantized, "w8"))
    made.graph.initializer.append(numpy_helper.from_array(np.float32(0.01), "w_scale"))
    made.graph.node.insert(0, helper.make_node("DequantizeLinear", ["w8", "w_scale"], ["dq_w"]))
    assert made.graph.node[3].op_type == "Conv"
    made.graph.node[3].input[1] = "dq_w"
    before = made.SerializeToString(deterministic=True)
    keep_weights_float(made)
    assert made.SerializeToString(deterministic=True) == before


def test_a_conversion_that_nothing_else_reads_is_replaced() -> None:
    made = model("Conv")
    del made.graph.node[-1], made.graph.output[1]
    keep_weights_float(made)
    assert [node.op_type for node in made.graph.node] == [
        "QuantizeLinear",
        "DequantizeLinear",
        "Conv",
        "QuantizeLinear",
        "DequantizeLinear",
    ]
    onnx.checker.check_model(made, full_check=True)
