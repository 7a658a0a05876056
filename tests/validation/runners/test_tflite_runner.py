"""The TFLite runner on a converted convolution and on hand-built quantized files."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from mobileseg.errors import UsageError
from mobileseg.validation.runners import open_artifact

pytest.importorskip("ai_edge_litert")

SIZE = (6, 10)


@pytest.fixture(scope="session")
def convolution():
    """A fixed 1x1 convolution from RGB to four classes, as a torch module."""
    import torch

    torch.manual_seed(0)
    return torch.nn.Conv2d(3, 4, 1).eval()


@pytest.fixture(scope="session", params=["NCHW", "NHWC"])
def converted(request, convolution, tmp_path_factory) -> tuple[str, Path]:
    """The convolution as a .tflite file of either layout, without metadata."""
    litert_torch = pytest.importorskip("litert_torch")
    import torch

    module, example = convolution, torch.zeros(1, 3, *SIZE)
    if request.param == "NHWC":
        module = litert_torch.to_channel_last_io(convolution, args=[0], outputs=[0])
        example = example.permute(0, 2, 3, 1)
    path = tmp_path_factory.mktemp("tflite") / f"{request.param}.tflite"
    litert_torch.convert(module, (example,)).export(str(path))
    return request.param, path


def with_metadata(source: Path, target: Path, metadata: bytes) -> Path:
    """A copy of a .tflite file with a metadata entry of our name, after an entry of another."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(source.read_bytes(), 0))
    model.metadata = list(model.metadata or [])
    for name, text in (("other", b"not json"), ("mobileseg", metadata)):
        buffer, entry = schema.BufferT(), schema.MetadataT()
        buffer.data = np.frombuffer(text, np.uint8)
        entry.name, entry.buffer = name, len(model.buffers)
        model.buffers.append(buffer)
        model.metadata.append(entry)
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    target.write_bytes(bytes(builder.Output()))
    return target


def requantizing_model(path: Path, dtype: str, source: tuple[float, int], target: tuple[float, int]) -> Path:
    """One QUANTIZE from an integer NHWC picture to integer logits of three classes, each (scale, zero point)."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    def tensor(name, scale, zero_point):
        made = schema.TensorT()
        made.name, made.shape, made.buffer = name, [1, *SIZE, 3], 0
        made.type = getattr(schema.TensorType, dtype.upper())
        made.quantization = schema.QuantizationParametersT()
        made.quantization.scale, made.quantization.zeroPoint = [scale], [zero_point]
        return made

    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.QUANTIZE
    code.version = 2
    operator = schema.OperatorT()
    operator.opcodeIndex, operator.inputs, operator.outputs = 0, [0], [1]
    graph = schema.SubGraphT()
    graph.tensors = [tensor("image", *source), tensor("logits", *target)]
    graph.inputs, graph.outputs, graph.operators = [0], [1], [operator]
    model = schema.ModelT()
    model.version, model.operatorCodes, model.subgraphs, model.buffers = 3, [code], [graph], [schema.BufferT()]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    path.write_bytes(bytes(builder.Output()))
    return path


def test_both_layouts_give_the_modules_logits(converted, convolution, pictures):
    import torch

    layout, path = converted
    runner = open_artifact(path)
    assert runner.inputs[0].layout == layout
    assert runner.size == SIZE
    assert "inferred" in runner.notes[0]
    assert runner.runtime.startswith("ai-edge-litert ")
    with torch.inference_mode():
        expected = convolution(torch.from_numpy(pictures.transpose(0, 3, 1, 2).astype(np.float32))).numpy()
    np.testing.assert_allclose(runner.run(pictures), expected, rtol=1e-5, atol=1e-4)


def test_embedded_metadata_is_read(converted, tmp_path, tiny):
    layout, path = converted
    metadata = tiny[1](target="tflite", input={"layout": layout}, output={"layout": layout})
    runner = open_artifact(with_metadata(path, tmp_path / "described.tflite", json.dumps(metadata).encode()))
    assert runner.metadata == metadata
    assert (runner.artifact.target, runner.artifact.precision, runner.notes) == ("tflite", "fp32", ())


@pytest.mark.parametrize("text", [b"{", b"\xff\xfe\xfd"])
def test_metadata_that_is_not_json_is_refused(converted, tmp_path, text):
    with pytest.raises(UsageError, match="metadata"):
        open_artifact(with_metadata(converted[1], tmp_path / "odd.tflite", text))


def test_a_truncated_file_is_refused(converted, tmp_path):
    path = tmp_path / "cut.tflite"
    path.write_bytes(converted[1].read_bytes()[:-200])
    with pytest.raises(UsageError, match=r"cut\.tflite"):
        open_artifact(path)


@pytest.mark.parametrize(
    ("dtype", "source", "target"),
    [
        ("int8", (1.0, -128), (2.0, -100)),
        ("uint8", (1.0, 0), (4.0, 7)),
        ("int8", (1.0, -128), (0.5, -128)),
    ],
)
def test_quantized_tensors_are_encoded_and_decoded(tmp_path, pictures, dtype, source, target):
    runner = open_artifact(requantizing_model(tmp_path / "q.tflite", dtype, source, target))
    assert (runner.inputs[0].scale, runner.inputs[0].zero_point) == source
    assert (runner.outputs[0].scale, runner.outputs[0].zero_point) == target
    assert runner.head == "logits"
    logits = runner.run(pictures)
    assert logits.dtype == np.float32
    bounds = np.iinfo(dtype)
    lowest, highest = ((bound - target[1]) * target[0] for bound in (bounds.min, bounds.max))
    values = np.clip(pictures.transpose(0, 3, 1, 2).astype(np.float32), lowest, highest)
    # The kernel rounds to the output's grid: half a step, and no more.
    assert np.abs(logits - values).max() <= target[0] / 2
    assert set(np.unique((logits / target[0]) % 1)) == {0.0}


def test_encoding_rounds_halves_away_from_zero_and_saturates():
    from mobileseg.types import TensorSpec
    from mobileseg.validation.runners.base import decode, encode

    spec = TensorSpec("x", (4,), "int8", "", scale=2.0, zero_point=10)
    assert encode(np.array([1.0, -1.0, 3.0, 1000.0, -1000.0]), spec).tolist() == [11, 9, 12, 127, -128]
    assert decode(np.array([11, 9, 127], np.int8), spec).tolist() == [2.0, -2.0, 234.0]


@pytest.mark.parametrize("content", [b"", b"not a flatbuffer", b"\x1c\x00\x00\x00TFL3" + bytes(40)])
def test_a_file_that_is_no_model_is_refused(tmp_path, content):
    path = tmp_path / "broken.tflite"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=r"broken\.tflite"):
        open_artifact(path)


def test_a_file_that_ends_the_process_that_runs_it(tmp_path):
    """The interpreter does not check that a zero point is one of its type."""
    import mobileseg
    from mobileseg.validation.inspection import inspect_artifact
    from mobileseg.validation.runners.trial import tried

    Image.fromarray(np.zeros((*SIZE, 3), np.uint8)).save(tmp_path / "picture.png")
    bad = requantizing_model(tmp_path / "bad.tflite", "int8", (1.0, -128), (2.0, 0x560000))
    for use in (
        lambda: mobileseg.validate(bad, against=bad, random=1),
        lambda: mobileseg.predict(bad, [tmp_path / "picture.png"]),
        lambda: inspect_artifact(bad),
    ):
        with pytest.raises(UsageError, match=r"bad\.tflite' does not load.*ends the process that runs it \(SIG"):
            use()
    tried(requantizing_model(tmp_path / "good.tflite", "int8", (1.0, -128), (2.0, -100)))


def test_a_picture_that_the_interpreter_gives_up_is_the_file_s_fault(converted):
    runner = open_artifact(converted[1])
    with pytest.raises(UsageError, match=r"loads as a TFLite file and does not run: .*Convert it again"):
        runner.invoke(np.zeros((1, 2, 2, 2), np.float32))


def test_tflite_runtime_serves_where_it_is_what_there_is(converted, pictures, tiny, tmp_path, monkeypatch):
    """Its module and its version only; metadata is read without the other package's schema."""
    from ai_edge_litert import interpreter

    from mobileseg.validation.runners import tflite

    layout, path = converted
    metadata = tiny[1](target="tflite", input={"layout": layout}, output={"layout": layout})
    file = with_metadata(path, tmp_path / "described.tflite", json.dumps(metadata).encode())
    before = open_artifact(file).run(pictures)
    monkeypatch.setitem(sys.modules, "ai_edge_litert", None)
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", None)
    monkeypatch.setitem(sys.modules, "tflite_runtime", ModuleType("tflite_runtime"))
    monkeypatch.setitem(sys.modules, "tflite_runtime.interpreter", interpreter)
    monkeypatch.setattr(tflite.installed, "version", {"tflite-runtime": "2.14.0"}.__getitem__)
    runner = open_artifact(file)
    assert runner.runtime == "tflite-runtime 2.14.0 (XNNPACK)"
    assert runner.metadata == metadata
    np.testing.assert_array_equal(runner.run(pictures), before)
