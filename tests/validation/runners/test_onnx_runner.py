"""The ONNX runner, and what all runners share, on files of a network that is known in NumPy."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from mobileseg.errors import MissingExtraError, SizeError, UsageError
from mobileseg.types import TensorSpec
from mobileseg.validation.runners import open_artifact
from mobileseg.validation.runners.base import make_runner


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("batch", [1, 3, "N"])
def test_logits_come_back_nchw_whatever_the_layout_and_batch(make_onnx, tiny, pictures, channels_last, batch):
    reference, description = tiny
    layout = "NHWC" if channels_last else "NCHW"
    runner = open_artifact(
        make_onnx(
            description(input={"layout": layout}, output={"layout": layout}), channels_last=channels_last, batch=batch
        )
    )
    assert runner.size == (6, 10)
    assert (runner.head, runner.raw_input, runner.notes) == ("logits", False, ())
    assert runner.artifact.precision == "fp32"
    np.testing.assert_allclose(runner.run(pictures), reference(pictures), atol=1e-5)


@pytest.mark.parametrize("channels_last", [False, True])
def test_layouts_are_inferred_and_said_to_be(make_onnx, tiny, pictures, channels_last):
    runner = open_artifact(make_onnx(channels_last=channels_last))
    layout = "NHWC" if channels_last else "NCHW"
    assert (runner.inputs[0].layout, runner.outputs[0].layout) == (layout, layout)
    assert runner.artifact.precision == "unknown"
    assert len(runner.notes) == 1
    assert layout in runner.notes[0]
    np.testing.assert_allclose(runner.run(pictures), tiny[0](pictures), atol=1e-5)


@pytest.mark.parametrize("with_metadata", [True, False])
def test_argmax_returns_integer_class_maps(make_onnx, tiny, pictures, with_metadata):
    reference, description = tiny
    metadata = description(head="argmax", output={"layout": "NHW"}) if with_metadata else None
    runner = open_artifact(make_onnx(metadata, head="argmax"))
    assert runner.head == "argmax"
    classes = runner.run(pictures)
    assert classes.dtype == np.int64
    np.testing.assert_array_equal(classes, reference(pictures).argmax(axis=1))


def test_bytes_go_to_an_unsigned_input_as_they_are(make_onnx, tiny, pictures):
    import onnx

    runner = open_artifact(make_onnx(tiny[1](), input_dtype=onnx.TensorProto.UINT8))
    np.testing.assert_allclose(runner.run(pictures), tiny[0](pictures), atol=1e-5)


def test_half_precision_input_holds_every_pixel_value(make_onnx, tiny, pictures):
    import onnx

    runner = open_artifact(make_onnx(tiny[1](), input_dtype=onnx.TensorProto.FLOAT16))
    np.testing.assert_allclose(runner.run(pictures), tiny[0](pictures), atol=1e-5)


def test_a_signed_input_without_scale_is_refused(make_onnx, tiny, pictures):
    import onnx

    runner = open_artifact(make_onnx(tiny[1](), input_dtype=onnx.TensorProto.INT8))
    with pytest.raises(UsageError, match="scale and zero point"):
        runner.run(pictures)


def test_raw_input_takes_the_networks_tensor_only(make_onnx, tiny, pictures):
    reference, description = tiny
    runner = open_artifact(make_onnx(description(raw_input=True)))
    assert runner.inputs[0].range is None
    tensor = pictures.transpose(0, 3, 1, 2).astype(np.float32)
    np.testing.assert_allclose(runner.run(tensor), reference(pictures), atol=1e-5)
    with pytest.raises(UsageError, match="float32"):
        runner.run(pictures)


def test_another_size_and_another_dtype_are_refused(make_onnx, tiny, pictures):
    runner = open_artifact(make_onnx(tiny[1]()))
    with pytest.raises(SizeError, match="6x10"):
        runner.run(pictures[:, :4])
    with pytest.raises(UsageError, match="uint8"):
        runner.run(pictures.astype(np.float32))
    with pytest.raises(UsageError, match="uint8"):
        runner.run(pictures[0])


def test_a_batch_that_does_not_divide_is_refused(make_onnx, tiny, pictures):
    runner = open_artifact(make_onnx(tiny[1](), batch=2))
    with pytest.raises(SizeError, match="2 pictures at a time"):
        runner.run(pictures)


@pytest.mark.parametrize("text", ["{", "[]", '{"head": "boxes"}', '{"input": {"layout": "NHW"}}'])
def test_metadata_that_is_not_ours_is_refused(make_onnx, text):
    with pytest.raises(UsageError, match="metadata"):
        open_artifact(make_onnx(text))


@pytest.mark.parametrize("content", [b"", b"not a model at all", b"\x08\x08\x3a\xff\xff"])
def test_a_file_that_is_no_model_is_refused(tmp_path, content):
    pytest.importorskip("onnxruntime")
    path = tmp_path / "broken.onnx"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=r"broken\.onnx"):
        open_artifact(path)


def test_a_truncated_file_is_refused(make_onnx):
    path = make_onnx()
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(UsageError, match=r"tiny\.onnx"):
        open_artifact(path)


def test_an_input_that_is_no_picture_is_refused(tmp_path):
    onnx = pytest.importorskip("onnx")
    helper = onnx.helper
    value = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 5, 6, 7]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", value[:1], value[1:])
    path = tmp_path / "five.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    with pytest.raises(UsageError, match="3 channels"):
        open_artifact(path)


def test_missing_files_and_unknown_suffixes_are_refused(tmp_path):
    with pytest.raises(UsageError, match="no artifact"):
        open_artifact(tmp_path / "absent.onnx")
    with pytest.raises(UsageError, match=r"\.onnx, \.pte, \.tflite"):
        open_artifact(tmp_path / "model.pth")


@pytest.mark.parametrize(
    ("suffix", "modules"), [("onnx", ["onnxruntime"]), ("tflite", ["ai_edge_litert.interpreter", "tflite_runtime"])]
)
def test_a_missing_runtime_names_its_extra(tmp_path, monkeypatch, suffix, modules):
    for module in modules:
        monkeypatch.setitem(sys.modules, module, None)
    path = tmp_path / f"model.{suffix}"
    path.write_bytes(b"x")
    with pytest.raises(MissingExtraError, match=rf"mobileseg\[{suffix}\]"):
        open_artifact(path)


@pytest.mark.parametrize(
    ("source", "output", "layouts"),
    [
        ((1, 6, 10, 3), (1, 4, 3, 5), ("NHWC", "NCHW")),
        ((1, 3, 6, 10), (1, 3, 5, 4), ("NCHW", "NHWC")),
        ((1, 3, 6, 6), (1, 4, 4, 4), ("NCHW", "NCHW")),
        ((1, 6, 6, 3), (1, 4, 4, 4), ("NHWC", "NHWC")),
        ((1, 3, -1, -1), (1, 4, -1, -1), ("NCHW", "NCHW")),
        ((1, 6, 10, 3), (1, 3, 5), ("NHWC", "NHW")),
    ],
)
def test_the_output_layout_is_the_one_in_the_inputs_proportion(source, output, layouts):
    runner = make_runner(
        Path("other.tflite"),
        "test",
        (TensorSpec("image", source, "float32", ""),),
        (TensorSpec("y", output, "float32", ""),),
        None,
        lambda tensor: tensor,
    )
    assert (runner.inputs[0].layout, runner.outputs[0].layout) == layouts


@pytest.mark.parametrize("shapes", [(), ((1, 3, 6, 10),) * 2, ((1, 30),)])
def test_a_file_that_is_not_one_picture_in_is_refused(shapes):
    specs = tuple(TensorSpec("x", shape, "float32", "") for shape in shapes)
    with pytest.raises(UsageError, match="inputs"):
        make_runner(Path("other.tflite"), "test", specs, specs, None, lambda tensor: tensor)
