"""The Core ML runner and graph reader: what a sound package is said to be, and every damage that is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from mobileseg import registry
from mobileseg.converters.export import Deployed, export, rewrite
from mobileseg.converters.target import Lowering
from mobileseg.errors import MissingExtraError, UnavailableError, UsageError
from mobileseg.types import NotRun, TensorSpec

coremltools = pytest.importorskip("coremltools", reason="install the extra: pip install 'mobileseg[coreml]'")

from mobileseg import mlpackage  # noqa: E402  after the package that it needs
from mobileseg.converters.coreml import TARGET  # noqa: E402
from mobileseg.quantization.coreml import compress_weights  # noqa: E402
from mobileseg.validation.graphs import read_graph  # noqa: E402
from mobileseg.validation.runners import open_artifact  # noqa: E402

PROGRAM = "Data/com.apple.CoreML/model.mlmodel"
WEIGHTS = "Data/com.apple.CoreML/weights/weight.bin"
METADATA = {
    "target": "coreml",
    "precision": "fp32",
    "head": "logits",
    "raw_input": False,
    "input": {"layout": "NCHW", "size": [16, 24]},
    "output": {"layout": "NCHW"},
}


@pytest.fixture(scope="session")
def make(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A package of a small network, with other metadata, or none."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 40, 1), nn.Conv2d(40, 5, 1))
    folder = tmp_path_factory.mktemp("runner")
    made: dict[str, Path] = {}

    def make(precision: str = "fp32", head: Any = "logits", raw: bool = False, **changes: Any) -> Path:
        key = repr((precision, head, raw, changes))
        if key not in made:
            made[key] = folder / f"{len(made)}.mlpackage"
            preprocessing = None if raw else registry.preprocessing("unit")
            exported = export(Deployed(network.eval(), preprocessing, head), (16, 24))
            metadata = {**METADATA, "precision": precision, "head": head, "raw_input": raw, **changes}
            base = "fp32" if precision == "fp32" else "fp16"
            TARGET.lower(rewrite(exported, "coreml", precision), Lowering(base, head, metadata), made[key])
            if precision not in ("fp32", "fp16"):
                compress_weights(made[key], precision)
        return made[key]

    return make


@pytest.fixture
def package(make: Any, tmp_path: Path) -> Path:
    """One to damage."""
    return Path(shutil.copytree(make(), tmp_path / "x.mlpackage"))


def edit(package: Path, change: Callable[[Any], None]) -> None:
    spec = coremltools.proto.Model_pb2.Model.FromString((package / PROGRAM).read_bytes())
    change(spec)
    (package / PROGRAM).write_bytes(spec.SerializeToString(deterministic=True))


def test_an_image_and_logits(make: Any) -> None:
    runner = open_artifact(make())
    assert runner.inputs == (TensorSpec("picture", (1, 3, 16, 24), "uint8", "NCHW", range=(0.0, 255.0)),)
    assert runner.outputs == (TensorSpec("logits", (1, 5, 16, 24), "float32", "NCHW"),)
    assert (runner.head, runner.size, runner.raw_input, runner.notes) == ("logits", (16, 24), False, ())
    assert (runner.artifact.target, runner.artifact.precision) == ("coreml", "fp32")
    assert coremltools.__version__ in runner.runtime


def test_a_class_map(make: Any) -> None:
    runner = open_artifact(make(head="argmax", output={"layout": "NHW"}))
    assert runner.outputs == (TensorSpec("classes", (1, 16, 24), "int32", "NHW"),)
    assert runner.head == "argmax"


def test_raw_input(make: Any) -> None:
    runner = open_artifact(make(raw=True))
    assert runner.inputs == (TensorSpec("picture", (1, 3, 16, 24), "float32", "NCHW"),)
    assert runner.raw_input


def test_it_says_what_can_run_it(make: Any) -> None:
    runner = open_artifact(make())
    with pytest.raises(UnavailableError, match=r"cannot be run here.*A Mac runs the file.*Xcode.*predict"):
        runner.run(np.zeros((1, 16, 24, 3), np.uint8))


def test_a_package_without_our_metadata(package: Path) -> None:
    edit(package, lambda spec: spec.description.metadata.userDefined.clear())
    runner = open_artifact(package)
    assert (runner.inputs[0].layout, runner.outputs[0].layout) == ("NCHW", "NCHW")
    assert "inferred" in runner.notes[0]


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


def bgr(spec: Any) -> None:
    spec.description.input[0].type.imageType.colorSpace = coremltools.proto.FeatureTypes_pb2.ImageFeatureType.BGR


def dictionary(spec: Any) -> None:
    spec.description.output[0].type.dictionaryType.stringKeyType.SetInParent()


def network_of_old(spec: Any) -> None:
    spec.neuralNetwork.SetInParent()


def unknown_operator(spec: Any) -> None:
    (block,) = spec.mlProgram.functions["main"].block_specializations.values()
    next(o for o in block.operations if o.type == "conv").type = "convolve"


def missing_value(spec: Any) -> None:
    (block,) = spec.mlProgram.functions["main"].block_specializations.values()
    del block.operations[0]


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
    "no weights, no digest": (without_digest(lambda p: (p / WEIGHTS).unlink()), "program does not load"),
    "no weights but noise, no digest": (
        without_digest(lambda p: (p / WEIGHTS).write_bytes(b"\xff" * 4096)),
        "program does not load",
    ),
    "a wrong description": (lambda p: edit(p, other_shape), r"as picture uint8 \(1, 3, 16, 25\).*its program"),
    "a wrong name": (lambda p: edit(p, other_name), "described as.*other float32.*its program has.*logits"),
    "BGR": (lambda p: edit(p, bgr), "BGR images; expected RGB"),
    "a dictionary": (lambda p: edit(p, dictionary), "expected an image or a multi-array"),
    "a neural network": (lambda p: edit(p, network_of_old), "kind 'neuralNetwork'; expected an mlProgram"),
    "an unknown operator": (lambda p: edit(p, unknown_operator), "program does not load"),
    "a missing value": (lambda p: edit(p, missing_value), "program does not load"),
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


# Weights and biases: 32 x 27 + 32, 40 x 32 + 40, 5 x 40 + 5 numbers; the gain is one number a channel.
NUMBERS = 896 + 1320 + 205
GAIN = 3 * 4


def test_graph_of_a_float32_package(make: Any) -> None:
    graph = read_graph(make())
    assert dict(graph.operators) == {"conv": 3, "mul": 1, "relu": 1}
    assert graph.weight_bytes == 4 * NUMBERS + GAIN
    assert dict(graph.quantization) == {"float32": 7}
    assert [(layer.operator, layer.bytes) for layer in graph.layers] == [
        ("conv", 4 * 1320),
        ("conv", 4 * 896),
        ("conv", 4 * 205),
        ("mul", GAIN),
    ]
    assert isinstance(graph.delegation, NotRun)


@pytest.mark.parametrize(
    ("precision", "kind", "stored"),
    [
        ("fp16", "float16", 2 * 1280),
        # A scale for each of 40 channels; Core ML's affine form also has zero points.
        ("w8", "int8 per channel", 1280 + 2 * 40 + 40),
        ("palette4", "palette 4 bit", 1280 // 2 + 2 * 16),
        ("palette6", "palette 6 bit", 1280 * 6 // 8 + 2 * 64),
        ("palette8", "palette 8 bit", 1280 + 2 * 256),
    ],
)
def test_graph_of_a_compressed_package(make: Any, precision: str, kind: str, stored: int) -> None:
    graph = read_graph(make(precision))
    (largest, *_) = sorted(graph.layers, key=lambda layer: "conv2d_1" not in layer.name)
    assert (largest.operator, largest.dtype, largest.bytes) == ("conv", kind, stored + 2 * 40)
    assert graph.quantization[kind] == (6 if precision == "fp16" else 1)
    assert dict(graph.operators) == {"conv": 3, "cast": 2, "mul": 1, "relu": 1}
    assert graph.weight_bytes == 2 * (NUMBERS - 1280) + stored + GAIN
