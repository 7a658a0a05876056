"""The Core ML runner: what a sound package is said to be, what it computes away from macOS, and every
damage that is refused."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from mobileseg import resources
from mobileseg.errors import MissingExtraError, OptionError, SizeError, UnavailableError, UsageError
from mobileseg.types import Checkpoint, Placement, Preprocessing, TensorSpec
from mobileseg.validation.parity import reference_of

coremltools = pytest.importorskip("coremltools", reason="install the extra: pip install 'mobileseg[coreml]'")

from mobileseg import mlpackage  # noqa: E402  after the package that it needs
from mobileseg.validation.runners import coreml, open_artifact  # noqa: E402

SIZE = (16, 24)
PROGRAM = "Data/com.apple.CoreML/model.mlmodel"
WEIGHTS = "Data/com.apple.CoreML/weights/weight.bin"


@pytest.fixture(autouse=True)
def _not_on_a_mac(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coreml, "is_here", lambda: False)


@pytest.fixture
def package(make_mlpackage: Any, tmp_path: Path) -> Path:
    """One to damage."""
    return Path(shutil.copytree(make_mlpackage(), tmp_path / "x.mlpackage"))


def edit(package: Path, change: Callable[[Any], None]) -> None:
    spec = coremltools.proto.Model_pb2.Model.FromString((package / PROGRAM).read_bytes())
    change(spec)
    (package / PROGRAM).write_bytes(spec.SerializeToString(deterministic=True))


def test_an_image_and_logits(make_mlpackage: Any) -> None:
    runner = open_artifact(make_mlpackage())
    assert runner.inputs == (TensorSpec("picture", (1, 3, 16, 24), "uint8", "NCHW", range=(0.0, 255.0)),)
    assert runner.outputs == (TensorSpec("logits", (1, 5, 16, 24), "float32", "NCHW"),)
    assert (runner.head, runner.size, runner.raw_input) == ("logits", SIZE, False)
    assert (runner.artifact.target, runner.artifact.precision) == ("coreml", "fp32")


def test_a_class_map(make_mlpackage: Any) -> None:
    runner = open_artifact(make_mlpackage(head="argmax", output={"layout": "NHW"}))
    assert runner.outputs == (TensorSpec("classes", (1, 16, 24), "int32", "NHW"),)
    assert runner.head == "argmax"


def test_raw_input(make_mlpackage: Any) -> None:
    runner = open_artifact(make_mlpackage(raw=True))
    assert runner.inputs == (TensorSpec("picture", (1, 3, 16, 24), "float32", "NCHW"),)
    assert runner.raw_input


# What it computes


@pytest.fixture(scope="session")
def pictures() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (2, *SIZE, 3), np.uint8)


@pytest.fixture(scope="session")
def expected(small_network: nn.Module, pictures: np.ndarray) -> np.ndarray:
    unit = Preprocessing("unit")
    checkpoint = Checkpoint(small_network, "small", "test", 5, {}, unit, SIZE, 1, 8, 0, "", Path("small.pth"))
    return reference_of(checkpoint)(pictures)


def test_it_runs_and_calls_itself_a_reference(make_mlpackage: Any, pictures: np.ndarray, expected: np.ndarray) -> None:
    runner = open_artifact(make_mlpackage())
    result = runner.run(pictures)
    assert (result.dtype, result.shape) == (np.float32, (2, 5, *SIZE))
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-5)
    assert runner.runtime.startswith("mobileseg reference executor for Core ML (not Core ML itself: PyTorch ")
    assert (runner.notes, runner.cannot_run) == ((coreml.NOTE,), "")
    assert "Neural Engine" in coreml.NOTE


def test_heads_and_raw_input_run(make_mlpackage: Any, pictures: np.ndarray, expected: np.ndarray) -> None:
    classes = open_artifact(make_mlpackage(head="argmax", output={"layout": "NHW"})).run(pictures)
    assert classes.dtype == np.int64
    np.testing.assert_array_equal(classes, expected.argmax(axis=1))
    raw = (pictures.transpose(0, 3, 1, 2) / np.float32(255)).astype(np.float32)
    np.testing.assert_allclose(open_artifact(make_mlpackage(raw=True)).run(raw), expected, rtol=1e-5, atol=1e-5)


def test_float16_is_rounded(make_mlpackage: Any, pictures: np.ndarray, expected: np.ndarray) -> None:
    result = open_artifact(make_mlpackage("fp16")).run(pictures)
    np.testing.assert_allclose(result, expected, atol=2e-2)
    assert np.array_equal(result, result.astype(np.float16).astype(np.float32))
    assert not np.array_equal(expected, expected.astype(np.float16).astype(np.float32))


@pytest.mark.parametrize("threads", [1, 2])
def test_as_many_threads_as_are_asked_for(
    make_mlpackage: Any, pictures: np.ndarray, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the process had: the last bits of sums hang on their number."""
    runner, before, used = (
        open_artifact(make_mlpackage(), Placement(threads=threads)),
        torch.get_num_threads(),
        list[int](),
    )
    set_threads = torch.set_num_threads
    monkeypatch.setattr(torch, "set_num_threads", lambda n: (used.append(n), set_threads(n)))
    results = []
    for others in (1, 2, 3):
        with resources.torch_threads(others):
            results.append(runner.run(pictures[:1]))
            assert torch.get_num_threads() == others
    assert used == [n for others in (1, 2, 3) for n in (others, threads, others, before)]
    assert all(np.array_equal(results[0], result) for result in results)


def test_compute_units_are_a_matter_of_macos(make_mlpackage: Any) -> None:
    runner = open_artifact(make_mlpackage(), Placement(compute_units="cpu_and_ne"))
    assert runner.notes == (coreml.NOTE, "The compute units cpu_and_ne exist on macOS alone.")
    with pytest.raises(OptionError, match=r"no choice of compute units 'cpu_only_'. Did you mean 'cpu_only'\?"):
        open_artifact(make_mlpackage(), Placement(compute_units="cpu_only_"))


@pytest.mark.parametrize("name", ["x.onnx", "x.tflite", "x.pte"])
def test_other_files_have_no_compute_units(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    with pytest.raises(OptionError, match="Only Core ML files have compute units"):
        open_artifact(tmp_path / name, Placement(compute_units="cpu_only"))


def test_an_operator_that_the_executor_has_not_is_named_with_its_place(package: Path, pictures: np.ndarray) -> None:
    edit(package, unknown_operator)
    runner = open_artifact(package)
    assert runner.outputs == (TensorSpec("logits", (1, 5, *SIZE), "float32", "NCHW"),)
    assert re.search(r"has not: main: op \d+ 'convolve' output '\w+'\. A Mac runs the file", runner.cannot_run)
    with pytest.raises(UnavailableError, match=r"cannot be run here.*'convolve'"):
        runner.run(pictures)


def test_of_many_such_operators_three_are_named(package: Path) -> None:
    def all_unknown(spec: Any) -> None:
        for operation in operations_of(spec):
            operation.type += "x"

    edit(package, all_unknown)
    cannot_run = open_artifact(package).cannot_run
    assert cannot_run.count("main: op ") == 3
    assert re.search(r"; and \d\d more\. A Mac", cannot_run)


def test_blue_comes_first_where_the_file_says_so(package: Path, pictures: np.ndarray) -> None:
    before = open_artifact(package).run(np.ascontiguousarray(pictures[..., ::-1]))
    edit(package, bgr)
    np.testing.assert_array_equal(open_artifact(package).run(pictures), before)


# Files of others


@pytest.fixture(scope="session")
def of_any_size(small_network: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """coremltools' own work: blue first, scaled in the image's type, of two sizes, float16 where it pleases."""
    path = tmp_path_factory.mktemp("theirs") / "theirs.mlpackage"
    sizes = coremltools.EnumeratedShapes(shapes=[(1, 3, *SIZE), (1, 3, 32, 48)], default=(1, 3, *SIZE))
    picture = coremltools.ImageType(
        name="image", shape=sizes, scale=1 / 255, bias=[-0.5, -0.4, -0.3], color_layout=coremltools.colorlayout.BGR
    )
    with mlpackage.quietly():
        coremltools.convert(
            torch.jit.trace(small_network, torch.zeros(1, 3, *SIZE)),
            inputs=[picture],
            minimum_deployment_target=coremltools.target.iOS16,
            skip_model_load=True,
        ).save(str(path))
    return path


@pytest.mark.parametrize("size", [SIZE, (32, 48)])
def test_a_file_of_others_that_takes_more_than_one_size(of_any_size: Path, small_network: nn.Module, size: Any) -> None:
    runner = open_artifact(of_any_size)
    assert (runner.inputs[0].shape, runner.size) == ((1, 3, -1, -1), (-1, -1))
    assert runner.outputs[0].shape == (1, 5, -1, -1)
    assert "inferred" in runner.notes[1]
    picture = np.random.default_rng(1).integers(0, 256, (1, *size, 3), np.uint8)
    fed = torch.from_numpy(picture[..., ::-1].copy()).permute(0, 3, 1, 2) / 255
    fed -= torch.tensor([0.5, 0.4, 0.3])[:, None, None]
    np.testing.assert_allclose(runner.run(picture), small_network(fed).numpy(), atol=2e-2)


def test_a_package_without_our_metadata(package: Path) -> None:
    edit(package, lambda spec: spec.description.metadata.userDefined.clear())
    runner = open_artifact(package)
    assert (runner.inputs[0].layout, runner.outputs[0].layout) == ("NCHW", "NCHW")
    assert "inferred" in runner.notes[1]
    with pytest.raises(SizeError, match="16x24"):
        runner.run(np.zeros((1, 16, 25, 3), np.uint8))


# Damage


def flip(file: Path, at: int) -> None:
    content = bytearray(file.read_bytes())
    content[at] ^= 1
    file.write_bytes(content)


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


def no_manifest_entry(package: Path) -> None:
    manifest = json.loads((package / "Manifest.json").read_text())
    manifest["itemInfoEntries"] = {}
    (package / "Manifest.json").write_text(json.dumps(manifest))


def as_file(package: Path) -> None:
    shutil.rmtree(package)
    package.write_bytes(b"PK\x03\x04")


def as_empty_folder(package: Path) -> None:
    shutil.rmtree(package)
    package.mkdir()


def without_digest(change: Callable[[Path], None]) -> Callable[[Path], None]:
    def damage(package: Path) -> None:
        edit(package, lambda spec: spec.description.metadata.userDefined.pop(mlpackage.WEIGHTS_DIGEST))
        change(package)

    return damage


def note(key: str, value: Any) -> Callable[[Path], None]:
    def change(spec: Any) -> None:
        noted = spec.description.metadata.userDefined
        noted["mobileseg"] = json.dumps({**json.loads(noted["mobileseg"]), key: value})

    return lambda package: edit(package, change)


def other_shape(spec: Any) -> None:
    spec.description.input[0].type.imageType.width = 25


def other_name(spec: Any) -> None:
    spec.description.output[0].name = "other"


def colours(name: str) -> Callable[[Any], None]:
    def change(spec: Any) -> None:
        image = coremltools.proto.FeatureTypes_pb2.ImageFeatureType
        spec.description.input[0].type.imageType.colorSpace = image.ColorSpace.Value(name)

    return change


bgr = colours("BGR")


def image_of_classes(spec: Any) -> None:
    spec.description.output[0].type.imageType.width = 24


def no_output(spec: Any) -> None:
    del spec.description.output[:]
    (block,) = spec.mlProgram.functions["main"].block_specializations.values()
    del block.outputs[:]


def dictionary(spec: Any) -> None:
    spec.description.output[0].type.dictionaryType.stringKeyType.SetInParent()


def network_of_old(spec: Any) -> None:
    spec.neuralNetwork.SetInParent()


def operations_of(spec: Any) -> Any:
    (block,) = spec.mlProgram.functions["main"].block_specializations.values()
    return block.operations


def unknown_operator(spec: Any) -> None:
    next(o for o in operations_of(spec) if o.type == "conv").type = "convolve"


def missing_value(spec: Any) -> None:
    del operations_of(spec)[0]


DAMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "a file": (as_file, "it is no folder"),
    "an empty folder": (as_empty_folder, "manifest or its program cannot be read"),
    "no program": (lambda p: (p / PROGRAM).unlink(), "manifest or its program cannot be read"),
    "a manifest that is no JSON": (lambda p: (p / "Manifest.json").write_text("{"), "manifest or its program"),
    "a manifest that is a list": (lambda p: (p / "Manifest.json").write_text("[]"), "manifest or its program"),
    "a manifest without the program": (no_manifest_entry, "does not list"),
    "a program of noise": (lambda p: (p / PROGRAM).write_bytes(b"\xff" * 999), "no Core ML model"),
    "an empty program": (lambda p: (p / PROGRAM).write_bytes(b""), "is empty"),
    "half a program": (lambda p: truncate(p / PROGRAM), "no Core ML model"),
    "no weights": (lambda p: (p / WEIGHTS).unlink(), "not those it was written with"),
    "no folder of weights": (lambda p: shutil.rmtree((p / WEIGHTS).parent), "not those it was written with"),
    "a bit of a weight": (lambda p: flip(p / WEIGHTS, -1), "not those it was written with"),
    "fewer weights": (lambda p: truncate(p / WEIGHTS), "not those it was written with"),
    "no weights, no digest": (without_digest(lambda p: (p / WEIGHTS).unlink()), "weights .*cannot be read"),
    "no weights but noise, no digest": (
        without_digest(lambda p: (p / WEIGHTS).write_bytes(b"\xff" * 4096)),
        "weights .*are damaged: they are of version",
    ),
    "a wrong description": (lambda p: edit(p, other_shape), r"as picture uint8 \(1, 3, 16, 25\).*its program"),
    "a wrong name": (lambda p: edit(p, other_name), "described as.*other float32.*its program has.*logits"),
    "grey pictures": (lambda p: edit(p, colours("GRAYSCALE")), "takes GRAYSCALE images; expected RGB or BGR"),
    "an image of classes": (lambda p: edit(p, image_of_classes), "returns an image, 'logits'; expected a multi-array"),
    "no output": (lambda p: edit(p, no_output), "outputs of shapes none"),
    "a dictionary": (lambda p: edit(p, dictionary), "expected an image or a multi-array"),
    "a neural network": (lambda p: edit(p, network_of_old), "kind 'neuralNetwork'; expected an mlProgram"),
    "a missing value": (lambda p: edit(p, missing_value), r"damaged: operator \d+ 'conv' reads '\w+', which nothing"),
    "another size in the metadata": (note("input", {"layout": "NCHW", "size": [32, 24]}), r"\[32, 24\].*\(16, 24\)"),
    "another head in the metadata": (note("head", "argmax"), "returns argmax, its output is logits float32"),
    "an unknown head in the metadata": (note("head", "tail"), "not what mobileseg writes"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_refused(package: Path, damage: str) -> None:
    apply, message = DAMAGES[damage]
    apply(package)
    with pytest.raises(UsageError, match=message):
        open_artifact(package)


def test_a_path_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no artifact"):
        open_artifact(tmp_path / "x.mlpackage")


def test_names_the_extra_that_is_missing(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "coremltools", None)
    with pytest.raises(MissingExtraError, match=r"mobileseg\[coreml\]"):
        open_artifact(package)
