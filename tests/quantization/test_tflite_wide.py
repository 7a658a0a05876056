"""Files of int8 weights and activations of 16 bits run, and compute what the float file computes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

pytest.importorskip("ai_edge_litert", reason="install the extra: pip install 'mobileseg[tflite]'")

from ai_edge_litert.interpreter import Interpreter

from mobileseg.errors import PictureError
from mobileseg.quantization.params import Params
from mobileseg.quantization.tflite import quantize_observed, quantize_wide, static
from mobileseg.quantization.tflite.flatbuffer import Graph
from mobileseg.quantization.tflite.numbers import INT8, INT16
from mobileseg.quantization.tflite.scales import quantize_weights

Pictures = Sequence[NDArray[np.uint8]]
NETWORKS = ("unpooling", "branches", "dead channels")
MOVING = {"RESHAPE", "SLICE", "TRANSPOSE", "CONCATENATION", "MAX_POOL_2D"}


@pytest.fixture(scope="module")
def wide(wide_models: Mapping[str, bytes], pictures: Pictures) -> dict[str, Any]:
    return {name: quantize_wide(content, pictures[:4]) for name, content in wide_models.items()}


def run(content: bytes, picture: NDArray[Any]) -> NDArray[np.float32]:
    interpreter = Interpreter(model_content=content, num_threads=1)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], picture[None].astype(np.float32))
    interpreter.invoke()
    return np.asarray(interpreter.get_tensor(interpreter.get_output_details()[0]["index"]))


def sqnr(expected: NDArray[np.float32], found: NDArray[np.float32]) -> float:
    return float(10 * np.log10((expected**2).mean() / ((expected - found) ** 2).mean()))


@pytest.mark.parametrize("network", NETWORKS)
def test_everything_but_the_ends_is_in_16_bits(wide: Any, network: str) -> None:
    assert wide[network].kept_float == ()
    graph = Graph(wide[network].content)
    types = Counter(t.type for t in graph.subgraph.tensors if graph.model.buffers[t.buffer].data is None)
    assert types[graph.schema.TensorType.FLOAT32] == 2, "input and output"
    assert types[graph.schema.TensorType.INT16] > 4
    assert set(types) <= {graph.schema.TensorType.FLOAT32, graph.schema.TensorType.INT16}
    zero_points = {
        int(z)
        for t in graph.subgraph.tensors
        if t.type == graph.schema.TensorType.INT16
        for z in t.quantization.zeroPoint
    }
    assert zero_points == {0}


@pytest.mark.parametrize("network", NETWORKS)
def test_only_the_rounding_of_weights_shows(wide_models: Any, wide: Any, pictures: Pictures, network: str) -> None:
    expected, found = run(wide_models[network], pictures[5]), run(wide[network].content, pictures[5])
    assert found.dtype == np.float32
    assert sqnr(expected, found) > 35.0
    assert (expected.argmax(-1) == found.argmax(-1)).mean() > 0.98


def test_what_moves_numbers_does_not_scale_them(wide: Any) -> None:
    graph = Graph(wide["unpooling"].content)

    def scale(tensor: int) -> float:
        return float(graph.tensor(tensor).quantization.scale[0])

    for operator in graph.operators:
        if graph.kind(operator) in MOVING:
            numbers = [int(i) for i in operator.inputs if graph.tensor(int(i)).type == graph.schema.TensorType.INT16]
            assert {scale(i) for i in numbers} == {scale(int(operator.outputs[0]))}, graph.label(operator)


def test_other_pictures_are_not_cut_off(wide_models: Any, pictures: Pictures, monkeypatch: pytest.MonkeyPatch) -> None:
    model, dark = wide_models["dead channels"], pictures[0] // 2
    expected = run(model, pictures[0])
    whole = sqnr(expected, run(quantize_wide(model, [dark]).content, pictures[0]))
    monkeypatch.setattr(static, "HEADROOM", 1.0)
    cut_off = sqnr(expected, run(quantize_wide(model, [dark]).content, pictures[0]))
    assert whole > max(35.0, cut_off + 5.0)


@pytest.mark.parametrize("level", [0, 255])
def test_pictures_of_one_colour_give_finite_scales(wide_models: Any, pictures: Pictures, level: int) -> None:
    content = quantize_wide(wide_models["branches"], [np.full_like(pictures[0], level)]).content
    assert np.isfinite(run(content, pictures[1])).all()


def test_a_file_is_quantized_in_place(wide_models: Any, wide: Any, pictures: Pictures, tmp_path: Path) -> None:
    path = tmp_path / "x.tflite"
    path.write_bytes(wide_models["branches"])
    said = quantize_observed(path, "w8a16", lambda: iter(pictures[:4]))
    assert path.read_bytes() == wide["branches"].content
    assert "activations int16" in said.recipe
    with pytest.raises(PictureError, match="--calibration"):
        quantize_observed(path, "w8a16", lambda: iter(()))


@given(low=st.floats(-1e30, 0), high=st.floats(0, 1e30))
@settings(max_examples=100, deadline=None)
def test_numbers_of_16_bits_are_symmetric_about_zero(low: float, high: float) -> None:
    params = INT16.params(low, high)
    assert params.zero_point == 0
    assert params.scale > 0
    ends = INT16.quantize(np.asarray([low, high, -np.inf, np.inf], np.float32), params)
    assert ends.dtype == np.int16
    assert ends[2:].tolist() == [-32767, 32767]
    assert np.abs(ends[:2].astype(np.int32) * params.scale - [low, high]).max() <= params.scale * 0.51


def test_flags_and_differences() -> None:
    assert INT16.quantize(np.asarray([0.0, 1.0], np.float32), INT16.flag).tolist() == [0, 32767]
    assert INT16.of_differences(Params(0.5, 0)) == Params(0.5, 0)
    assert INT8.of_differences(Params(0.5, 3)) == Params(0.5, -128)


def test_biases_have_64_bits() -> None:
    weights, bias = np.asarray([[1.0], [1e-6]], np.float32), np.asarray([10.0, 10.0], np.float32)
    q, scales, steps = quantize_weights(weights, bias, 1e-4, 1e-3, 0, INT16)
    assert steps is not None
    assert steps.dtype == np.int64
    assert q[:, 0].tolist() == [127, 127], "no scale is widened for its bias"
    np.testing.assert_allclose(steps * (1e-4 * scales.astype(np.float64)), bias, rtol=1e-6)
    assert np.abs(steps).max() > 2**31
