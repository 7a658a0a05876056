"""Static int8 files run, compute what the float file computes, and unpool exactly."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

pytest.importorskip("ai_edge_litert", reason="install the extra: pip install 'mobileseg[tflite]'")

from ai_edge_litert.interpreter import Interpreter, OpResolverType

from mobileseg.checkpoint import load_checkpoint
from mobileseg.converters.export import Deployed, export, rewrite
from mobileseg.converters.target import Lowering
from mobileseg.converters.tflite import TARGET
from mobileseg.errors import MissingExtraError, OptionError, PictureError, UsageError
from mobileseg.pictures import iter_pictures
from mobileseg.quantization.calibration import choose_pictures
from mobileseg.quantization.params import Params, params_of
from mobileseg.quantization.tflite import quantize_static, quantize_wide
from mobileseg.quantization.tflite.flatbuffer import Graph
from mobileseg.quantization.tflite.numbers import INT8
from mobileseg.quantization.tflite.scales import Groups, quantize_weights
from mobileseg.types import NotRun
from mobileseg.validation.graphs import read_graph

Pictures = Sequence[NDArray[np.uint8]]
REFERENCE = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
XNNPACK = OpResolverType.AUTO


def run(content: bytes, picture: NDArray[Any], resolver: Any = XNNPACK) -> list[NDArray[Any]]:
    """All outputs as they lie in the file, for one picture (H, W, 3) in the file's own type."""
    interpreter = Interpreter(model_content=content, num_threads=1, experimental_op_resolver_type=resolver)
    interpreter.allocate_tensors()
    source = interpreter.get_input_details()[0]
    interpreter.set_tensor(source["index"], picture[None].astype(source["dtype"]))
    interpreter.invoke()
    return [interpreter.get_tensor(o["index"]) for o in interpreter.get_output_details()]


def real(content: bytes, q: NDArray[Any]) -> NDArray[np.float32]:
    """The first output's numbers, dequantized by what the file says of it."""
    interpreter = Interpreter(model_content=content)
    scale, zero_point = interpreter.get_output_details()[0]["quantization"]
    return ((q.astype(np.int32) - zero_point) * scale).astype(np.float32)


def sqnr(expected: NDArray[np.float32], found: NDArray[np.float32]) -> float:
    return float(10 * np.log10((expected**2).mean() / ((expected - found) ** 2).mean()))


def kinds(content: bytes) -> list[str]:
    graph = Graph(content)
    return [graph.kind(operator) for operator in graph.operators]


def float_tensors(content: bytes) -> int:
    graph = Graph(content)
    return sum(graph.is_float(i) for i in range(len(graph.subgraph.tensors)))


@pytest.mark.parametrize("model", ["unpooling_model", "branches_model", "dead_channels_model"])
def test_int8_file_runs_wholly_in_int8_and_agrees(model: str, pictures: Pictures, request: Any) -> None:
    content = request.getfixturevalue(model)
    quantized = quantize_static(content, pictures[:4])
    assert quantized.images == 4
    assert quantized.kept_float == ()
    assert kinds(quantized.content).count("DEQUANTIZE") == 1
    assert float_tensors(quantized.content) == 2, "input and output"
    (expected,), (found,) = run(content, pictures[5]), run(quantized.content, pictures[5])
    assert found.dtype == np.float32
    assert sqnr(expected, found) > 25.0
    assert (expected.argmax(-1) == found.argmax(-1)).mean() > 0.95


@pytest.mark.parametrize("input_dtype", ["uint8", "int8", "float32"])
@pytest.mark.parametrize("output_dtype", ["uint8", "int8", "float32"])
def test_input_and_output_types_hold_the_same_numbers(
    unpooling_model: bytes, pictures: Pictures, input_dtype: Any, output_dtype: Any
) -> None:
    baseline = run(quantize_static(unpooling_model, pictures[:2]).content, pictures[2])[0]
    quantized = quantize_static(unpooling_model, pictures[:2], input_dtype=input_dtype, output_dtype=output_dtype)
    picture = pictures[2].astype(np.int16) - (128 if input_dtype == "int8" else 0)
    (found,) = run(quantized.content, picture)
    assert found.dtype == np.dtype(output_dtype)
    if output_dtype != "float32":
        found = real(quantized.content, found)
    np.testing.assert_allclose(found, baseline, rtol=0, atol=1e-6)


def test_the_signature_still_names_the_input_and_output(unpooling_model: bytes, pictures: Pictures) -> None:
    content = quantize_static(unpooling_model, pictures[:1], input_dtype="uint8").content
    before, after = (Interpreter(model_content=c).get_signature_list() for c in (unpooling_model, content))
    assert before == after
    runner = Interpreter(model_content=content).get_signature_runner()
    assert [d["dtype"] for d in runner.get_input_details().values()] == [np.uint8]


def unpooled(content: bytes, picture: NDArray[np.uint8], resolver: Any) -> list[torch.Tensor]:
    """Integers relative to zero, NCHW: the pooled tensor, the unpooled values, and the plane they were put into."""
    graph = Graph(content)
    pool = next(o for o in graph.operators if graph.kind(o) == "MAX_POOL_2D" and o.builtinOptions.strideH == 2)
    # The first product of a mask takes the values; the merged plane is what the last convolution reads.
    masks = [o for o in graph.operators if graph.kind(o) == "SUB" and int(pool.outputs[0]) in o.inputs]
    flags = {int(o.outputs[0]) for o in graph.operators if graph.kind(o) == "MUL" and o.inputs[0] in outputs_of(masks)}
    product = next(o for o in graph.operators if graph.kind(o) == "MUL" and set(map(int, o.inputs)) & flags)
    values = next(int(i) for i in product.inputs if int(i) not in flags)
    last = [o for o in graph.operators if graph.kind(o) == "CONV_2D"][-1]
    wanted = [int(pool.inputs[0]), values, int(last.inputs[0])]
    zero_points = [int(graph.tensor(i).quantization.zeroPoint[0]) for i in wanted]
    graph.subgraph.outputs = np.asarray([*graph.outputs, *wanted], np.int32)
    found = run(graph.to_bytes(), picture, resolver)[1:]
    return [
        torch.from_numpy(t.astype(np.float32)).permute(0, 3, 1, 2) - z for t, z in zip(found, zero_points, strict=True)
    ]


def outputs_of(operators: Sequence[Any]) -> set[int]:
    return {int(o.outputs[0]) for o in operators}


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("resolver", [REFERENCE, XNNPACK], ids=["reference kernels", "XNNPACK"])
def test_each_window_gets_its_value_once_at_the_integer_tensors_first_maximum(
    unpooling_model: bytes, wide_models: Mapping[str, bytes], pictures: Pictures, resolver: Any, bits: int
) -> None:
    if bits == 8:
        content = quantize_static(unpooling_model, pictures[:2]).content
    else:
        content = quantize_wide(wide_models["unpooling"], pictures[:2]).content
    x, y, plane = unpooled(content, pictures[4], resolver)
    pooled, indices = F.max_pool2d(x, 2, return_indices=True)
    windows = F.unfold(x.transpose(0, 1), 2, stride=2)
    tied = (windows == windows.amax(1, keepdim=True)).sum(1) > 1
    assert tied.float().mean() > 0.3, "a picture without ties would not show a double write"
    assert torch.equal(plane, F.max_unpool2d(y, indices, 2))
    assert pooled.unique().numel() > 10
    assert y.unique().numel() > 10


def test_the_same_pictures_give_the_same_bytes(branches_model: bytes, pictures: Pictures) -> None:
    first, again, other = (
        quantize_static(branches_model, chosen).content for chosen in (pictures[:3], iter(pictures[:3]), pictures[3:5])
    )
    assert first == again
    assert first != other


def test_pictures_are_taken_one_at_a_time_and_counted(branches_model: bytes, pictures: Pictures) -> None:
    events: list[str] = []

    def feed() -> Any:
        for i, picture in enumerate(pictures[:3]):
            events.append(f"taken {i + 1}")
            yield picture

    quantize_static(branches_model, feed(), progress=lambda done: events.append(f"done {done}"))
    assert events == ["taken 1", "done 1", "taken 2", "done 2", "taken 3", "done 3"]


def test_what_has_no_fast_int8_kernel_comes_as_convolutions_and_maxima(branches_model: bytes) -> None:
    found = set(kinds(branches_model))
    assert {"DEPTHWISE_CONV_2D", "MAXIMUM"} <= found
    assert found.isdisjoint({"AVERAGE_POOL_2D", "PRELU", "RELU", "BATCH_MATMUL"})


def test_a_relu_alone_is_a_product_that_the_delegate_takes(
    joined_model: bytes, pictures: Pictures, tmp_path: Path
) -> None:
    assert kinds(joined_model).count("RELU") == 1
    path = tmp_path / "joined.tflite"
    quantized = quantize_static(joined_model, pictures[:4])
    path.write_bytes(quantized.content)
    delegation = read_graph(path).delegation
    assert not isinstance(delegation, NotRun)
    assert (delegation.partitions, dict(delegation.left)) == (1, {})
    assert quantized.kept_float == ()
    assert "RELU" not in kinds(quantized.content)
    (expected,), (found,) = run(joined_model, pictures[5]), run(quantized.content, pictures[5])
    assert sqnr(expected, found) > 25.0


def test_a_last_resizing_stays_float_where_the_file_gives_floats(pictures: Pictures, enlarged_model: bytes) -> None:
    inside = quantize_static(enlarged_model, pictures[:2], output_dtype="int8")
    assert inside.kept_float == ()
    quantized = quantize_static(enlarged_model, pictures[:2])
    assert [name.split(":")[0] for name in quantized.kept_float] == ["RESIZE_BILINEAR"]
    assert kinds(quantized.content)[-2:] == ["DEQUANTIZE", "RESIZE_BILINEAR"]
    (expected,), (found,) = run(enlarged_model, pictures[3]), run(quantized.content, pictures[3])
    assert sqnr(expected, found) > 30.0


def test_an_operator_without_a_rule_stays_in_float_and_is_named(
    branches_model: bytes, pictures: Pictures, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(INT8.rules, "RESIZE_BILINEAR")
    quantized = quantize_static(branches_model, pictures[:3], output_dtype="int8")
    assert [name.split(":")[0] for name in quantized.kept_float] == ["RESIZE_BILINEAR"]
    (expected,) = run(branches_model, pictures[3])
    found = real(quantized.content, run(quantized.content, pictures[3])[0])
    assert sqnr(expected, found) > 25.0


def test_errors_say_what_to_do(unpooling_model: bytes, pictures: Pictures) -> None:
    with pytest.raises(PictureError, match="--calibration"):
        quantize_static(unpooling_model, [])
    with pytest.raises(PictureError, match=r"picture 2 is \(16, 16, 3\).*--size"):
        quantize_static(unpooling_model, [pictures[0], np.zeros((16, 16, 3), np.uint8)])
    with pytest.raises(OptionError, match="Did you mean 'int8'"):
        quantize_static(unpooling_model, pictures[:1], input_dtype="int9")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="not a TFLite file"):
        quantize_static(b"no flatbuffer at all", pictures[:1])


def test_without_the_runtime_the_extra_is_named(unpooling_model: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ai_edge_litert", None)
    with pytest.raises(MissingExtraError, match=r"mobileseg\[tflite\]"):
        quantize_static(unpooling_model, [])


@pytest.mark.slow
def test_a_real_network_with_overlapping_unpooling_agrees(shared: Path, tmp_path: Path) -> None:
    checkpoint = load_checkpoint(shared / "checkpoints" / "enet-camvid-davidtvs2018.pth")
    size = (240, 320)
    path = tmp_path / "enet.tflite"
    deployed = Deployed(checkpoint.network, checkpoint.preprocessing, "logits")
    TARGET.lower(rewrite(export(deployed, size), "tflite", "int8"), Lowering("int8", "logits", {}), path)
    content = path.read_bytes()
    images = shared / "images" / "camvid"
    quantized = quantize_static(content, iter_pictures(choose_pictures(images / "calibration", 12), size))
    agreement = [
        (run(content, p)[0].argmax(-1) == run(quantized.content, p)[0].argmax(-1)).mean()
        for p in iter_pictures(choose_pictures(images / "test", 6), size)
    ]
    assert quantized.kept_float == ()
    assert np.mean(agreement) > 0.965


# The arithmetic


def test_ranges_hold_zero_exactly_and_infinity_goes_to_the_end() -> None:
    params = params_of(0.5, 3.0)
    assert params == Params(pytest.approx(3.0 / 255), -128)
    values = np.asarray([0.0, -np.inf, 3.0, 99.0], np.float32)
    assert INT8.quantize(values, params_of(-1.0, 3.0)).tolist() == [params_of(-1.0, 3.0).zero_point, -128, 127, 127]


def test_bias_beside_tiny_weights_fits_into_int32() -> None:
    weights = np.asarray([[1.0], [1e-30], [0.0]], np.float32)
    bias = np.asarray([0.5, 0.5, 0.0], np.float32)
    q, scales, quantized = quantize_weights(weights, bias, 0.1, 0.5, 0)
    assert quantized is not None
    assert q[:, 0].tolist() == [127, 0, 0]
    np.testing.assert_allclose(quantized * (0.1 * scales.astype(np.float64)), bias, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(("x_scale", "y_scale"), [(0.1, 0.5), (1.0, 1e-5), (1e-5, 1.0)])
def test_weights_next_to_nothing_have_a_scale_that_kernels_take(x_scale: float, y_scale: float) -> None:
    weights = np.asarray([[1e-38], [1e-43], [0.0]], np.float32)
    for bias in (None, np.zeros(3, np.float32)):
        q, scales, _ = quantize_weights(weights, bias, x_scale, y_scale, 0)
        np.testing.assert_allclose(x_scale * scales.astype(np.float64) / y_scale, 2.0**-31, rtol=1e-6)
        assert not q.any()


def test_xnnpack_takes_convolutions_with_dead_channels(
    dead_channels_model: bytes, pictures: Pictures, tmp_path: Path
) -> None:
    path = tmp_path / "dead.tflite"
    path.write_bytes(quantize_static(dead_channels_model, pictures[:4]).content)
    graph = read_graph(path)
    assert not isinstance(graph.delegation, NotRun)
    for kind in ("CONV_2D", "DEPTHWISE_CONV_2D"):
        assert graph.operators[kind] == graph.delegation.operators[kind] > 0


def test_scales_that_kernels_dictate_are_not_joined() -> None:
    groups = Groups({0: (0.0, 1.0), 1: (-5.0, 1.0), 2: (0.0, 9.0)})
    groups.fix(0, Params(1 / 256, -128))
    groups.fix(2, Params(1 / 255, -128))
    groups.join(0, 1)
    groups.join(0, 2)
    assert groups.params(1) == Params(1 / 256, -128)
    assert groups.params(2) == Params(1 / 255, -128)
