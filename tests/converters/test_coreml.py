"""Core ML packages: what is in them, read back and compared with torch's graph."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mobileseg import registry
from mobileseg.converters.export import Deployed, RewrittenProgram, export, rewrite
from mobileseg.converters.target import Lowering
from mobileseg.errors import MissingExtraError, OptionError, RewriteError
from mobileseg.types import Head

coremltools = pytest.importorskip("coremltools", reason="install the extra: pip install 'mobileseg[coreml]'")

from mobileseg import mlpackage  # noqa: E402  after the package that it needs
from mobileseg.converters.coreml import DEPLOYMENT_TARGETS, TARGET  # noqa: E402

SIZE = (32, 48)
COLOURS = [[0, 0, 0], [255, 128, 1], [1, 2, 3], [4, 5, 6], [10, 11, 12]]
METADATA = {
    "architecture": "little",
    "variant": "one",
    "version": "1.2.3",
    "checkpoint_sha256": "ab" * 32,
    "classes": {"names": ["void", "road", "tree", "car", "sky"], "palette": COLOURS},
}


class Little(nn.Module):
    """What the Core ML forms treat in their own way: an unpooling, a shuffle, PReLU, transposed convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.slopes = nn.PReLU(8)
        nn.init.uniform_(self.slopes.weight, 0.0, 0.5)
        self.branches = nn.ModuleList(nn.Conv2d(8, 4, 1) for _ in range(2))
        self.up = nn.ConvTranspose2d(8, 8, 3, stride=2, padding=1, output_padding=1)
        self.last = nn.ConvTranspose2d(8, 5, 2, stride=1, output_padding=0, padding=0)

    def forward(self, x: Tensor) -> Tensor:
        x = self.slopes(F.max_pool2d(self.first(x), 3, stride=1, padding=1))
        y, indices = F.max_pool2d(x, 2, return_indices=True)
        y = F.channel_shuffle(torch.cat([branch(y) for branch in self.branches], 1), 2)
        x = F.max_unpool2d(y, indices, 2, output_size=x.shape[-2:])
        return cast("Tensor", self.last(self.up(x)))[:, :, :-1, :-1]


@cache
def little() -> nn.Module:
    torch.manual_seed(0)
    return Little().eval()


@cache
def program(head: Head = "logits", preprocessing: str | None = "imagenet", batch: int = 1) -> RewrittenProgram:
    chosen = registry.preprocessing(preprocessing) if preprocessing else None
    return rewrite(export(Deployed(little(), chosen, head), SIZE, batch=batch), "coreml", "fp32")


def write_little(path: str) -> None:
    """Called in another process, too."""
    TARGET.lower(program(), Lowering("fp16", "logits", METADATA), Path(path))


class Written(NamedTuple):
    path: Path
    package: mlpackage.Package

    @property
    def description(self) -> Any:
        return self.package.spec.description

    @property
    def operations(self) -> list[Any]:
        return [o for o in self.package.function.operations if o.op_type != "const"]

    @property
    def operators(self) -> Counter[str]:
        return Counter(o.op_type for o in self.operations)


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Written]:
    """Lowers a program, each program and lowering once."""
    folder = tmp_path_factory.mktemp("coreml")
    done: dict[tuple[int, str], Written] = {}

    def write(rewritten: RewrittenProgram, precision: str = "fp32", head: Head = "logits", **changes: Any) -> Written:
        options = changes.pop("options", {})
        lowering = Lowering(precision, head, {**METADATA, **changes}, options)
        key = (id(rewritten), repr(lowering))
        if key not in done:
            path = folder / f"{len(done)}.mlpackage"
            TARGET.lower(rewritten, lowering, path)
            done[key] = Written(path, mlpackage.read(path))
        return done[key]

    return write


def dtype_of(var: Any) -> str:
    from coremltools.converters.mil.mil import types

    return str(types.builtin_to_string(var.dtype))


def files(package: Path) -> dict[str, bytes]:
    return {str(p.relative_to(package)): p.read_bytes() for p in sorted(package.rglob("*")) if p.is_file()}


def array(feature: Any) -> tuple[str, tuple[int, ...], str]:
    kinds = coremltools.proto.FeatureTypes_pb2.ArrayFeatureType.ArrayDataType
    kind = feature.type.multiArrayType
    return feature.name, tuple(kind.shape), kinds.Name(kind.dataType)


OUTPUTS: list[tuple[Head, tuple[str, tuple[int, ...], str]]] = [
    ("logits", ("logits", (1, 5, *SIZE), "FLOAT32")),
    ("softmax", ("probabilities", (1, 5, *SIZE), "FLOAT32")),
    ("argmax", ("classes", (1, *SIZE), "INT32")),
]


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize(("head", "output"), OUTPUTS, ids=[head for head, _ in OUTPUTS])
def test_an_image_in_and_one_array_out(written: Any, head: Head, output: Any, precision: str) -> None:
    description = written(program(head), precision, head).description
    (source,), (result,) = description.input, description.output
    assert source.name == "picture"
    assert source.type.WhichOneof("Type") == "imageType"
    assert (source.type.imageType.height, source.type.imageType.width) == SIZE
    assert source.type.imageType.colorSpace == coremltools.proto.FeatureTypes_pb2.ImageFeatureType.RGB
    assert array(result) == output
    assert "32 x 48" in source.shortDescription
    assert " x ".join(map(str, output[1])) in result.shortDescription


def test_raw_input_and_more_pictures_are_arrays(written: Any) -> None:
    raw = written(program("logits", None), raw_input=True).description.input[0]
    assert array(raw) == ("picture", (1, 3, *SIZE), "FLOAT32")
    assert "already preprocessed" in raw.shortDescription
    two = written(program(batch=2))
    assert array(two.description.input[0]) == ("picture", (2, 3, *SIZE), "FLOAT32")
    assert array(two.description.output[0])[1] == (2, 5, *SIZE)
    assert "com.apple.coreml.model.preview.type" not in two.description.metadata.userDefined


def test_deployment_targets(written: Any) -> None:
    versions = {s: coremltools.target[s].value for s in DEPLOYMENT_TARGETS}
    assert versions["iOS16"] == min(versions.values())
    assert written(program()).package.spec.specificationVersion == versions["iOS16"]
    newest = written(program(), "fp16", options={"deployment_target": "iOS26"})
    assert newest.package.spec.specificationVersion == versions["iOS26"] == max(versions.values())
    newest_known = max(t for t in coremltools.target if t.name.startswith("iOS"))
    assert versions["iOS26"] == newest_known.value, "coremltools knows a newer system: add it"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"deployment_target": "iOS15"}, "no Core ML deployment target 'iOS15'.*iOS16, iOS17"),
        ({"deployment_target": "16"}, "Known: iOS16"),
        ({"author": 3}, "--author takes a text"),
        ({"license": ["MIT"]}, "--license takes a text"),
    ],
)
def test_refuses_options(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        TARGET.check(options, "fp32")
    with pytest.raises(OptionError, match=message):
        TARGET.lower(program(), Lowering("fp32", "logits", METADATA, options), tmp_path / "x.mlpackage")
    assert not list(tmp_path.iterdir())


def test_metadata(written: Any) -> None:
    options = {"author": "Ada", "license": "CC0", "deployment_target": None}
    about = written(program(), options=options).description.metadata
    assert (about.author, about.license, about.versionString) == ("Ada", "CC0", "1.2.3")
    assert "little one" in about.shortDescription
    noted = about.userDefined
    assert json.loads(noted["mobileseg"]) == METADATA
    assert noted["checkpoint_sha256"] == METADATA["checkpoint_sha256"]
    assert noted["com.apple.coreml.model.preview.type"] == "imageSegmenter"
    assert json.loads(noted["com.apple.coreml.model.preview.params"]) == {
        "labels": METADATA["classes"]["names"],  # type: ignore[index]
        "colors": ["#000000", "#FF8001", "#010203", "#040506", "#0A0B0C"],
    }
    assert not [key for key in noted if "date" in key]
    without = written(program()).description.metadata
    assert (without.author, without.license) == ("", "")


def test_weights_are_the_networks_bit_for_bit(written: Any) -> None:
    operations = written(program()).operations
    convolutions = {o.outputs[0].name: o.weight.val for o in operations if o.op_type in ("conv", "conv_transpose")}
    network = cast("Little", little())
    layers = [network.first, *network.branches, network.up, network.last]
    expected = [layer.weight.detach().numpy() for layer in layers]
    assert len(convolutions) == len(expected)
    for value, want in zip(convolutions.values(), expected, strict=True):
        np.testing.assert_array_equal(value, want)
    (slopes,) = (o.alpha.val for o in operations if o.op_type == "prelu")
    np.testing.assert_array_equal(slopes, network.slopes.weight.detach().numpy())


def test_no_operator_that_the_forms_avoid(written: Any) -> None:
    found = written(program()).operators
    assert not {"reshape", "transpose", "batch_norm", "gather", "scatter", "select", "equal", "stack"} & set(found)
    assert (found["pixel_shuffle"], found["sign"], found["conv_transpose"], found["crop"]) == (1, 3, 2, 1)
    interleaving = [o for o in written(program()).operations if o.op_type == "concat" and o.interleave.val]
    # The shuffle of two branches, and the four phases of the unpooling.
    assert sorted(len(o.values) for o in interleaving) == [2, 4]


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_rgb_preprocessing_is_one_gain_and_one_offset_in_float32(written: Any, precision: str) -> None:
    first, second, *_ = written(program(), precision).operations
    module = Deployed(little(), registry.preprocessing("imagenet"), "logits")
    assert (first.op_type, second.op_type) == ("mul", "add")
    np.testing.assert_array_equal(constant_of(first), cast("Tensor", module.gain).numpy())
    np.testing.assert_array_equal(constant_of(second), cast("Tensor", module.offset).numpy())
    assert {dtype_of(first.outputs[0]), dtype_of(second.outputs[0])} == {"fp32"}


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_bgr_preprocessing_is_a_1x1_convolution_in_float32(written: Any, precision: str) -> None:
    first, *_ = written(program("logits", "espnet-camvid"), precision).operations
    module = Deployed(little(), registry.preprocessing("espnet-camvid"), "logits")
    assert (first.op_type, dtype_of(first.outputs[0])) == ("conv", "fp32")
    np.testing.assert_array_equal(first.weight.val, cast("Tensor", module.gain).numpy())
    np.testing.assert_array_equal(first.bias.val, cast("Tensor", module.offset).numpy())
    red_of_picture = first.weight.val[:, 0, 0, 0]
    assert (red_of_picture != 0).tolist() == [False, False, True]


def constant_of(operation: Any) -> Any:
    return operation.y.val if operation.y.val is not None else operation.x.val


def test_fp16_computes_in_float16_all_but_softmax(written: Any) -> None:
    operations = written(program("softmax"), "fp16", "softmax").operations
    wide = [o.op_type for o in operations if dtype_of(o.outputs[0]) == "fp32"]
    assert wide == ["mul", "add", "cast", "softmax"]
    assert {dtype_of(o.weight) for o in operations if o.op_type == "conv"} == {"fp16"}


@pytest.mark.parametrize(("share", "kept"), [(0.2, 1), (0.25, 2), (0.75, 4), (1.0, 5)])
def test_the_first_layers_stay_float32_on_demand(tmp_path: Path, share: float, kept: int) -> None:
    """And what is computed before the next one."""
    path = tmp_path / "x.mlpackage"
    TARGET.lower(program(), Lowering("fp16", "logits", METADATA, float32_share=share), path)
    operations = [o for o in mlpackage.read(path).function.operations if o.op_type not in ("const", "cast")]
    layers = [i for i, o in enumerate(operations) if o.op_type in ("conv", "conv_transpose")]
    first = [*layers, len(operations)][kept]
    kinds = ["fp32" if i < first else "fp16" for i in range(len(operations))]
    assert [dtype_of(o.outputs[0]) for o in operations] == kinds
    assert [dtype_of(operations[i].weight) for i in layers] == [kinds[i] for i in layers]


def test_a_maximum_and_its_window_are_the_same_rounded_numbers(written: Any) -> None:
    """Or no element would equal its maximum."""
    masks = [o for o in written(program(), "fp16").operations if o.op_type == "sign"]
    assert len(masks) == 3  # the fourth position takes what the others leave
    for mask in masks:
        difference = mask.x.op
        pooling, phase = difference.x.op, difference.y
        assert (difference.op_type, pooling.op_type) == ("sub", "max_pool")
        while phase is not pooling.x:
            assert phase.op.op_type == "slice_by_index"
            phase = phase.op.x
        assert dtype_of(pooling.x) == "fp16"


def test_constants_that_float16_cannot_hold_stay_float32(written: Any) -> None:
    class Tiny(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return F.relu(x)[:, :1] * torch.tensor([[[[1e-6]]]]).expand(1, 1, 2, 2).repeat(1, 1, 16, 24)

    rewritten = rewrite(export(Deployed(Tiny(), None, "logits"), SIZE), "coreml", "fp16")
    kinds = {o.op_type: dtype_of(o.outputs[0]) for o in written(rewritten, "fp16", raw_input=True).operations}
    assert (kinds["relu"], kinds["mul"]) == ("fp16", "fp32")


def test_output_padding_beyond_the_padding(written: Any) -> None:
    """coremltools would refuse it, or give another size."""
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ConvTranspose2d(4, 2, 3, stride=3, padding=1, output_padding=2))
    rewritten = rewrite(export(Deployed(network, None, "logits"), (8, 12)), "coreml", "fp32")
    file = written(rewritten, raw_input=True)
    assert array(file.description.output[0])[1] == tuple(network(torch.zeros(1, 3, 8, 12)).shape)
    assert (file.operators["conv_transpose"], file.operators["pixel_shuffle"]) == (0, 1)


def test_odd_sizes(written: Any) -> None:
    """The last row and column of the unpooled plane belong to no window."""
    rewritten = rewrite(export(Deployed(little(), None, "argmax"), (33, 49)), "coreml", "fp16")
    file = written(rewritten, "fp16", "argmax", raw_input=True)
    assert array(file.description.output[0]) == ("classes", (1, 34, 50), "INT32")
    assert not {"gather", "scatter", "transpose", "reshape"} & set(file.operators)


def test_what_coremltools_frontend_stumbles_over(written: Any) -> None:
    class Spelled(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            x = F.avg_pool2d(F.max_pool2d(x, 2), 2)
            return torch.clamp(F.hardtanh(torch.ops.aten.alias(x), 0, 6) - 2, -1, 5)

    rewritten = rewrite(export(Deployed(Spelled(), None, "logits"), SIZE), "coreml", "fp32")
    file = written(rewritten, raw_input=True)
    pools = [o for o in file.operations if o.op_type.endswith("_pool")]
    assert [o.strides.val.tolist() for o in pools] == [[2, 2], [2, 2]]
    assert [(float(o.alpha.val), float(o.beta.val)) for o in file.operations if o.op_type == "clip"] == [
        (0, 6),
        (-1, 5),
    ]


def test_an_operator_that_coremltools_does_not_know(tmp_path: Path) -> None:
    class Odd(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.special.bessel_j0(x)

    rewritten = rewrite(export(Deployed(Odd(), None, "logits"), SIZE), "coreml", "fp32")
    with pytest.raises(RewriteError, match=r"coremltools cannot convert.*bessel_j0"):
        TARGET.lower(rewritten, Lowering("fp32", "logits", METADATA), tmp_path / "x.mlpackage")
    assert not list(tmp_path.iterdir())


def test_names_the_extra_that_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "coremltools", None)
    with pytest.raises(MissingExtraError, match=r"coremltools.*mobileseg\[coreml\]"):
        TARGET.lower(program(), Lowering("fp32", "logits", METADATA), tmp_path / "x.mlpackage")


@pytest.fixture(scope="session")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """The package as another process writes it, and what that process printed."""
    path = tmp_path_factory.mktemp("elsewhere") / "x.mlpackage"
    code = f"import runpy; runpy.run_path({__file__!r}, run_name='little')['write_little']({str(path)!r})"
    root = Path(__file__).resolve().parents[2]
    return path, subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)


def test_another_process_writes_the_same_bytes_and_prints_nothing(written: Any, elsewhere: Any) -> None:
    path, done = elsewhere
    # Its standard error is not looked at: this file's own import of coremltools speaks there.
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert files(path) == files(written(program(), "fp16").path)


def test_a_package_is_three_files_that_name_no_path(written: Any) -> None:
    found = files(written(program(), "fp16").path)
    data = "Data/com.apple.CoreML/"
    assert set(found) == {"Manifest.json", f"{data}model.mlmodel", f"{data}weights/weight.bin"}
    folders = (str(Path(__file__).resolve().parents[2]), str(Path(torch.__file__).parents[1]), "site-packages")
    assert not [f for f in folders for content in found.values() if f.encode() in content]


def test_writing_again_replaces_the_package(tmp_path: Path) -> None:
    path = tmp_path / "x.mlpackage"
    path.mkdir()
    (path / "stale").touch()
    write_little(str(path))
    assert not (path / "stale").exists()


def test_lowering_is_quiet(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_little(str(tmp_path / "x.mlpackage"))
    assert capfd.readouterr() == ("", "")
