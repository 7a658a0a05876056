"""A zero point that is off by one, in a quantized file of each kind: refused, without effect, or found."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from mobileseg import convert
from mobileseg.converters.export import Deployed, Exported, export
from mobileseg.errors import UsageError
from mobileseg.mobile_assets.demo import scene
from mobileseg.validation.bisect import Candidate, Candidates, Comparison, Located, Network, locate
from mobileseg.validation.runners import Runner, open_artifact
from mobileseg.validation.traces import trace_artifact

AS_QUANTIZED_DB = 25.0
"""Against the sound int8 file: what lies below changed the output more than quantizing it did."""


@pytest.fixture(scope="module")
def picture(planted: Any) -> NDArray[np.uint8]:
    return scene(10_000, planted.SIZE).picture[None]


@pytest.fixture(scope="module")
def exported(planted: Any) -> Exported:
    return export(Deployed(planted.steady(), planted.PREPROCESSING, "logits"), planted.SIZE)


@pytest.fixture
def look(exported: Exported, picture: NDArray[np.uint8], tmp_path: Path) -> Callable[..., Located]:
    """What `mobileseg.bisecting` does, with one export for many files."""

    def located(runner: Runner, precision: str) -> Located:
        folder = tmp_path / "values"
        folder.mkdir(exist_ok=True)
        trace = trace_artifact(runner.artifact.path, runner.encoded(picture), folder)
        fed = torch.from_numpy(picture.transpose(0, 3, 1, 2).astype(np.float32))
        output = Candidate(trace.outputs[0], channels_last=runner.outputs[0].layout == "NHWC")
        network = Network(exported.program.module(check_guards=False))
        return locate(Comparison(network, Candidates(trace), precision, fed, output))

    return located


def made(planted: Any, folder: Path, target: str, precision: str, **options: Any) -> Path:
    """A sound file."""
    (found,) = convert(
        model=planted.steady(),
        to=target,
        precision=precision,
        size=planted.SIZE,
        preprocessing=planted.PREPROCESSING,
        image_count=2,
        output=folder,
        **options,
    ).artifacts
    assert found.report["parity"]["pixel_agreement"] > 0.9
    return found.artifact.path


def decibels(reference: NDArray[np.float32], actual: NDArray[np.float32]) -> float:
    noise = float(np.square(reference - actual, dtype=np.float64).sum())
    return 10 * np.log10(float(np.square(reference, dtype=np.float64).sum()) / max(noise, 1e-30))


# TFLite


def test_tflite(planted: Any, picture: NDArray[np.uint8], look: Callable[..., Located], tmp_path: Path) -> None:
    """Every activation's zero point in turn. The runtime refuses most, since an operator that hands integers on wants
    one for both sides; in others the integers move with it, and nothing changes; the rest is found where it is."""
    schema = pytest.importorskip("ai_edge_litert.schema_py_generated")
    from mobileseg.converters.tflite.flatbuffer import read, write
    from mobileseg.quantization.tflite import quantize_static

    # Int8 throughout: `convert` would keep half of so small a network in float.
    floating = made(planted, tmp_path, "tflite", "fp32").read_bytes()
    sound = tmp_path / "sound.tflite"
    sound.write_bytes(quantize_static(floating, [scene(seed, planted.SIZE).picture for seed in range(16)]).content)
    content = sound.read_bytes()
    reference = open_artifact(sound).run(picture)
    assert look(open_artifact(sound), "int8").faults == ()
    operators = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(content, 0)).subgraphs[0].operators
    refused, without_effect, found = list[int](), list[int](), list[int]()
    for index, operator in enumerate(operators):
        model = read(content)
        quantization = model.subgraphs[0].tensors[operator.outputs[0]].quantization
        if quantization is None or quantization.zeroPoint is None:
            continue
        quantization.zeroPoint = np.asarray(quantization.zeroPoint) + 1
        path = tmp_path / "off.tflite"
        path.write_bytes(write(model))
        try:
            runner = open_artifact(path)
        except UsageError:
            refused.append(index)
            continue
        faults = look(runner, "int8").faults
        if faults:
            found.append(index)
            # At the operator, or at the next one of torch's where the operator is a part of it.
            assert index <= faults[0].steps[-1].index <= index + 4
        else:
            without_effect.append(index)
            assert decibels(reference, runner.run(picture)) > AS_QUANTIZED_DB, index
    assert refused
    assert without_effect
    assert found


@pytest.mark.parametrize("precision", ["w8a16", "dynamic"])
def test_in_other_integers_a_sound_file_has_no_fault(
    planted: Any, look: Callable[..., Located], tmp_path: Path, precision: str
) -> None:
    pytest.importorskip("litert_torch", reason="install the extra: pip install 'mobileseg[tflite]'")
    sound = made(planted, tmp_path, "tflite", precision, calibration="synthetic")
    assert look(open_artifact(sound), precision).faults == ()


# ONNX


@pytest.fixture(scope="module")
def quantized_onnx(planted: Any, picture: NDArray[np.uint8], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As ONNX Runtime's own quantizer makes it."""
    pytest.importorskip("onnxruntime", reason="install the extra: pip install 'mobileseg[onnx]'")
    from onnxruntime import quantization

    folder = tmp_path_factory.mktemp("onnx")
    plain = made(planted, folder, "onnx", "fp32")
    scenes = [scene(seed, planted.SIZE).picture for seed in range(8)]

    class Scenes(quantization.CalibrationDataReader):
        def __init__(self) -> None:
            fed = (s.transpose(2, 0, 1)[None].astype(np.float32) for s in scenes)
            self.feeds: Iterator[dict[str, Any]] = ({"picture": array} for array in fed)

        def get_next(self) -> dict[str, Any] | None:
            return next(self.feeds, None)

    path = folder / "theirs.onnx"
    quantization.quantize_static(plain, path, Scenes(), per_channel=True, quant_format=quantization.QuantFormat.QDQ)
    return path


def test_onnx(quantized_onnx: Path, picture: NDArray[np.uint8], look: Callable[..., Located], tmp_path: Path) -> None:
    """What widens the integers takes off another zero point than was put on."""
    import onnx

    sound = open_artifact(quantized_onnx)
    reference = sound.run(picture)
    assert look(sound, "int8").faults == ()
    model = onnx.load(quantized_onnx)
    narrowed = {node.output[0] for node in model.graph.node if node.op_type == "QuantizeLinear"}
    widening = [i for i, n in enumerate(model.graph.node) if n.op_type == "DequantizeLinear" and n.input[0] in narrowed]
    assert len(widening) >= 8
    # The last is the output's: one number more in all classes is no other class.
    for position in widening[1:-1:2]:
        changed = onnx.ModelProto()
        changed.CopyFrom(model)
        node = changed.graph.node[position]
        zero = next(i for i in changed.graph.initializer if i.name == node.input[2])
        array = onnx.numpy_helper.to_array(zero)
        changed.graph.initializer.append(onnx.numpy_helper.from_array(array + array.dtype.type(1), "off_by_one"))
        node.input[2] = "off_by_one"
        path = tmp_path / "off.onnx"
        onnx.save(changed, path)
        runner = open_artifact(path)
        first, *_ = look(runner, "int8").faults
        assert node.output[0] in {key for step in first.steps for key in step.outputs}
        assert first.match is not None
        assert first.match.difference.bias_steps is not None
        assert first.match.difference.bias_steps < -0.8
        assert decibels(reference, runner.run(picture)) < 60


# Core ML


def test_coreml(
    planted: Any,
    picture: NDArray[np.uint8],
    look: Callable[..., Located],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The weights of one layer, all one step too large."""
    pytest.importorskip("coremltools", reason="install the extra: pip install 'mobileseg[coreml]'")
    from mobileseg import mlpackage
    from mobileseg.quantization.coreml import weights

    monkeypatch.setattr(weights, "SMALLEST", 1)
    sound = made(planted, tmp_path, "coreml", "w8")
    assert look(open_artifact(sound), "w8").faults == ()
    spec, folder = mlpackage.read_spec(sound)
    (block,) = spec.mlProgram.functions["main"].block_specializations.values()
    compressed = [o for o in block.operations if o.type == "constexpr_affine_dequantize"]
    assert len(compressed) >= 4
    zero = compressed[1].attributes["zero_point"]
    kept = tmp_path / "weights"
    shutil.copytree(folder, kept)
    _off_by_one(zero.immediateValue.tensor)
    path = tmp_path / "off.mlpackage"
    mlpackage.write(spec, kept, path)
    (fault,) = look(open_artifact(path), "w8").faults
    assert fault.alone
    assert fault.steps[-1].operator == "conv"
    readers = [o for o in block.operations if compressed[1].outputs[0].name in str(o.inputs)]
    assert fault.steps[-1].name == readers[0].outputs[0].name


def _off_by_one(tensor: Any) -> None:
    values = np.frombuffer(tensor.bytes.values, np.int8) + np.int8(1)
    tensor.bytes.values = values.tobytes()


# ExecuTorch


@pytest.fixture(scope="module")
def quantized_pte(planted: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As ExecuTorch's own quantizer for XNNPACK makes it."""
    pytest.importorskip("executorch", reason="install the extra: pip install 'mobileseg[executorch]'")
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
        XNNPACKQuantizer,
        get_symmetric_quantization_config,
    )
    from executorch.exir import to_edge_transform_and_lower
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    deployed = Deployed(planted.steady(), planted.PREPROCESSING, "logits").eval()
    pictures = [
        torch.from_numpy(np.ascontiguousarray(scene(seed, planted.SIZE).picture.transpose(2, 0, 1)[None], np.float32))
        for seed in range(8)
    ]
    quantizer = XNNPACKQuantizer().set_global(get_symmetric_quantization_config(is_per_channel=True))
    prepared = prepare_pt2e(torch.export.export(deployed, (pictures[0],)).module(), quantizer)
    for fed in pictures:
        prepared(fed)
    program = torch.export.export(convert_pt2e(prepared), (pictures[0],))
    path = tmp_path_factory.mktemp("pte") / "theirs.pte"
    edge = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
    path.write_bytes(edge.to_executorch().buffer)
    return path


@pytest.mark.parametrize("every", [5, pytest.param(1, marks=pytest.mark.slow)])
def test_executorch(
    every: int,
    quantized_pte: Path,
    picture: NDArray[np.uint8],
    look: Callable[..., Located],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Values inside XNNPACK in turn; see `test_tflite`."""
    from mobileseg.validation.graphs.executorch import deserialized, plan_named
    from mobileseg.validation.traces import program, xnnpack

    sound = open_artifact(quantized_pte)
    reference = sound.run(picture)
    assert look(sound, "int8").faults == ()
    file = deserialized(quantized_pte)
    dissected = program.dissect(file, plan_named(file, "forward"))
    quantized = [
        (call, key)
        for call, network in dissected.networks.items()
        for node in network.nodes
        for key in node.outputs
        if network.values[key].scale is not None
    ]
    assert len(quantized) >= 10
    unchanged = xnnpack._graph
    refused, without_effect, found = list[Any](), list[Any](), list[Any]()
    for place in quantized[::every]:

        def changed(flatbuffer: bytes, place: Any = place) -> Any:
            graph = unchanged(flatbuffer)
            for value in graph.xvalues:
                if getattr(value.xvalueUnion, "tensorValue", value.xvalueUnion).idOut == place[1]:
                    value.xvalueUnion.quantParams.zeroPoint += 1
            return graph

        with monkeypatch.context() as patched:
            patched.setattr(xnnpack, "_graph", changed)
            content = program.handing_out(dissected, [])
        path = tmp_path / "off.pte"
        path.write_bytes(content)
        try:
            runner = open_artifact(path)
            actual = runner.run(picture)
        except UsageError:
            refused.append(place)
            continue
        faults = look(runner, "int8").faults
        if faults:
            found.append(place)
        else:
            without_effect.append(place)
            assert decibels(reference, actual) > AS_QUANTIZED_DB, place
    assert refused or found
