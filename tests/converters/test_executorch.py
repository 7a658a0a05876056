"""ExecuTorch files: what each delegate takes, what is in them, and that the runtime computes what torch computes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from mobileseg import registry
from mobileseg.converters.executorch import TARGET
from mobileseg.converters.export import Deployed, export, rewrite
from mobileseg.converters.target import Lowering
from mobileseg.errors import MissingExtraError, OptionError, RewriteError
from mobileseg.quick_graphs import quick_graphs
from mobileseg.types import Head

INSTALL = "install the extra: pip install 'mobileseg[executorch]'"
pytest.importorskip("executorch.exir", reason=INSTALL)

from executorch.runtime import Runtime  # noqa: E402  after the package that it needs

from mobileseg.converters.executorch.half import fits_half  # noqa: E402

SIZE = (32, 48)
METADATA = {
    "head": "logits",
    "classes": {"names": ["road", "sky", "tree", "car", "void"], "palette": [[1, 2, 3]] * 5},
    "input": {"name": "picture", "layout": "NCHW", "size": list(SIZE), "range": [0, 255]},
}
CONVERSION = "dim_order_ops._to_dim_order_copy.default"


class Little(nn.Module):
    """One of each operator that a delegate leaves unless it is rewritten, and a bias that float16 holds only as
    subnormals."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.slopes = nn.PReLU(8)
        self.wide = nn.Conv2d(8, 64, 3, padding=1)
        self.narrow = nn.Conv2d(64, 8, 3, padding=1)
        self.last = nn.ConvTranspose2d(8, 5, 2, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.slopes(self.norm(F.max_pool2d(self.first(x), 3, stride=1, padding=1)))
        y, indices = F.max_pool2d(x, 2, return_indices=True)
        y = self.narrow(F.relu(self.wide(y)))
        size = (y.shape[2], y.shape[3])
        y = y + F.interpolate(F.avg_pool2d(y, 3, 2, 1), size, mode="bilinear", align_corners=True)
        y = y + F.interpolate(F.adaptive_avg_pool2d(y, (5, 7)), size, mode="bilinear", align_corners=False)
        y = F.channel_shuffle(y * torch.sigmoid(F.adaptive_avg_pool2d(y, 1)), 4)
        return cast("Tensor", self.last(F.max_unpool2d(y, indices, 2, output_size=x.shape[-2:])))


class Greatest(nn.Module):
    """A maximum over the channels, which XNNPACK's partitioner would take and its writer refuse."""

    def forward(self, x: Tensor) -> Tensor:
        return x - x.max(dim=1, keepdim=True).values


class Reflected(nn.Module):
    """A kernel that refuses unlike memory orders (the reflection's gather), behind a rewriting that permutes."""

    def forward(self, x: Tensor) -> Tensor:
        y = F.channel_shuffle(torch.cat([x, x + 1], 1), 2)
        return F.pad(y, (1, 1, 1, 1), mode="reflect") * 2


class Turned(nn.Module):
    """Indices that no rewrite follows: the unpooling stays."""

    def forward(self, x: Tensor) -> Tensor:
        y, indices = F.max_pool2d(x, 2, return_indices=True)
        return F.max_unpool2d(y.flip(1), indices.flip(1), 2)


def seeded(build: Callable[[], nn.Module]) -> nn.Module:
    """The network with the same weights everywhere and batch statistics that are not those of no training."""
    torch.manual_seed(0)
    network = build().eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean = torch.randn(module.num_features) * 0.1
            module.running_var = torch.rand(module.num_features) + 0.5
        if isinstance(module, nn.Conv2d) and module.out_channels == 64:
            nn.init.constant_(cast("Tensor", module.bias), 2.0**-18)
    return network


@cache
def deployed(head: Head = "logits", *, raw: bool = False) -> Deployed:
    return Deployed(seeded(Little), None if raw else registry.preprocessing("imagenet"), head)


def classifier(head: Head) -> Deployed:
    """A network of two layers, where only the head counts."""

    def build() -> nn.Module:
        first, last = nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.ConvTranspose2d(8, 5, 2, stride=2)
        return nn.Sequential(first, nn.ReLU(), last)

    return Deployed(seeded(build), registry.preprocessing("imagenet"), head)


def lower(
    path: Path, module: nn.Module, precision: str, options: Mapping[str, Any], head: Head = "logits", batch: int = 1
) -> None:
    rewritten = rewrite(export(module, SIZE, batch=batch), TARGET.backend(options), precision)
    TARGET.lower(rewritten, Lowering(precision, head, METADATA | {"head": head}, options), path)


def write_all(folder: str) -> None:
    """Called in another process."""
    with quick_graphs():
        for name, precision in (("xnnpack", "fp16"), ("coreml", "fp16"), ("vulkan", "fp32")):
            lower(Path(folder, f"{name}.{precision}.pte"), deployed(), precision, {"delegate": name})


def picture(batch: int = 1) -> Tensor:
    """A noisy gradient: (N, 3, H, W) float32, whole numbers in 0..255."""
    generator = torch.Generator().manual_seed(1)
    slope = torch.linspace(0, 200, SIZE[1]).expand(batch, 3, *SIZE)
    return (slope + 55 * torch.rand(batch, 3, *SIZE, generator=generator)).round()


def expected(module: nn.Module, x: Tensor) -> NDArray[Any]:
    with torch.no_grad():
        return cast("Tensor", module(x)).numpy()


def sqnr_db(reference: NDArray[Any], other: NDArray[Any]) -> float:
    noise = np.square(reference.astype(np.float64) - other).sum()
    return float(10 * np.log10(np.square(reference.astype(np.float64)).sum() / max(noise, 1e-30)))


class Written(NamedTuple):
    path: Path
    program: Any

    def call(self, method: str, *inputs: Tensor) -> Any:
        (result, *more) = self.program.load_method(method).execute(inputs)
        return [result, *more] if more else result

    def run(self, x: Tensor) -> NDArray[Any]:
        return cast("Tensor", self.call("forward", x)).numpy()

    @property
    def delegation(self) -> dict[str, Any]:
        return cast("dict[str, Any]", json.loads(self.call("delegation")))


def loaded(path: Path) -> Written:
    return Written(path, Runtime.get().load_program(path.read_bytes()))


Write = Callable[..., Written]


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> Write:
    """Lowers the little network for a delegate, each combination once."""
    folder = tmp_path_factory.mktemp("executorch")
    done: dict[str, Written] = {}

    def write(
        delegate: str = "xnnpack", precision: str = "fp32", head: Head = "logits", *, raw: bool = False, batch: int = 1
    ) -> Written:
        key = f"{delegate}.{precision}.{head}.{raw}.{batch}"
        if key not in done:
            path = folder / f"{key}.pte"
            lower(path, deployed(head, raw=raw), precision, {"delegate": delegate}, head, batch)
            done[key] = loaded(path)
        return done[key]

    return write


@pytest.mark.parametrize("delegate", ["xnnpack", "portable"])
def test_agrees_with_torch(written: Write, delegate: str) -> None:
    output = written(delegate).run(picture())
    assert (output.shape, output.dtype) == ((1, 5, *SIZE), np.float32)
    assert sqnr_db(expected(deployed(), picture()), output) > 110


def test_xnnpack_takes_the_whole_network_in_one_call(written: Write) -> None:
    delegation = written().delegation
    assert (delegation["delegate"], len(delegation["calls"]), delegation["left"]) == ("xnnpack", 1, {})
    assert {"aten.linear.default", "aten.maximum.default", "aten.ceil.default"} <= set(delegation["calls"][0])
    assert not {"aten.sign.default", "aten.avg_pool2d.default"} & set(delegation["calls"][0])


def test_portable_has_no_delegate(written: Write) -> None:
    delegation = written("portable").delegation
    assert (delegation["calls"], delegation["left"]) == ([], {})


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("delegate", ["coreml", "vulkan"])
def test_other_delegates_take_the_whole_network_in_one_call(written: Write, delegate: str, precision: str) -> None:
    if delegate == "coreml":
        pytest.importorskip("coremltools", reason="install the extra: pip install 'mobileseg[coreml]'")
    delegation = written(delegate, precision).delegation
    assert (len(delegation["calls"]), delegation["left"]) == (1, {})


def test_batch_of_two_with_raw_input(written: Write) -> None:
    x = picture(batch=2) / 255
    x[1] = x[1].flip(-1)
    file = written(raw=True, batch=2)
    assert sqnr_db(expected(deployed(raw=True), x), file.run(x)) > 110
    assert len(file.delegation["calls"]) == 1


def test_softmax_head_stays_in_the_call(tmp_path: Path) -> None:
    # XNNPACK's own softmax over the last of four channels-last axes is one over the width.
    module, path = classifier("softmax"), tmp_path / "softmax.pte"
    lower(path, module, "fp32", {}, "softmax")
    file = loaded(path)
    np.testing.assert_allclose(file.run(picture()), expected(module, picture()), atol=1e-6)
    assert (len(file.delegation["calls"]), file.delegation["left"]) == (1, {})


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_argmax_head_leaves_the_argmax_alone(tmp_path: Path, precision: str) -> None:
    module, path = classifier("argmax"), tmp_path / "argmax.pte"
    lower(path, module, precision, {}, "argmax")
    file = loaded(path)
    output = file.run(picture())
    assert (output.dtype, output.shape) == (np.uint8, (1, *SIZE))
    agreement = (output == expected(module, picture())).mean()
    assert agreement == 1.0 if precision == "fp32" else agreement > 0.98
    assert set(file.delegation["left"]) == {"aten.argmax.default", CONVERSION}
    assert len(file.delegation["calls"]) == 1


def test_fp16_halves_the_weights_and_keeps_the_preprocessing(written: Write) -> None:
    full, half = written(), written("xnnpack", "fp16")
    output = half.run(picture())
    assert output.dtype == np.float32
    # An element that does not equal its own window's maximum, by a rounding, leaves less than 10 dB.
    assert sqnr_db(expected(deployed(), picture()), output) > 45
    assert half.path.stat().st_size < full.path.stat().st_size - 2 * 2 * 64 * 8 * 9 * 0.9
    delegation = half.delegation
    assert (len(delegation["calls"]), delegation["left"]) == (1, {})
    assert delegation["calls"][0]["mobileseg.as_type.default"] >= 2
    # The preprocessing's gain and offset, and nothing else: a bias of subnormals does not split the network.
    assert delegation["constants"]["float32"] == 2


def test_the_first_layers_of_an_fp16_file_in_float32(written: Write, tmp_path: Path) -> None:
    """Still one call, and with all of them the fp32 file's numbers."""
    rewritten = rewrite(export(deployed(), SIZE), TARGET.backend({}), "fp16")
    wide = [written("xnnpack", "fp16").delegation["constants"]["float32"]]
    for share in (0.25, 1.0):
        path = tmp_path / f"little.{share}.pte"
        TARGET.lower(rewritten, Lowering("fp16", "logits", METADATA | {"head": "logits"}, {}, share), path)
        file = loaded(path)
        assert len(file.delegation["calls"]) == 1
        wide.append(file.delegation["constants"]["float32"])
        assert sqnr_db(expected(deployed(), picture()), file.run(picture())) > (100 if share == 1.0 else 45)
    assert 2 == wide[0] < wide[1] < wide[2] == written().delegation["constants"]["float32"]


def test_softmax_in_fp16_is_float32(written: Write) -> None:
    output = written("portable", "fp16", "softmax").run(picture())
    np.testing.assert_allclose(output.sum(axis=1), 1.0, atol=1e-6)
    np.testing.assert_allclose(output, expected(deployed("softmax"), picture()), atol=1e-2)


def test_coreml_fp16_keeps_the_preprocessing(written: Write, tmp_path: Path) -> None:
    coremltools = pytest.importorskip("coremltools")
    from executorch.backends.apple.coreml import executorchcoreml
    from executorch.exir._serialize._program import deserialize_pte_binary

    program = deserialize_pte_binary(written("coreml", "fp16").path.read_bytes()).program
    assert executorchcoreml.unflatten_directory_contents(program.backend_delegate_data[0].data, str(tmp_path))
    (model,) = tmp_path.rglob("*.mlmodel")
    spec = coremltools.proto.Model_pb2.Model.FromString(model.read_bytes())
    (block,) = next(iter(spec.mlProgram.functions.values())).block_specializations.values()
    operations = [o for o in block.operations if o.type != "const"]
    names = [o.type for o in operations]
    assert names[: names.index("cast")] == ["mul", "add"]
    halves = coremltools.proto.MIL_pb2.DataType.FLOAT16
    types = [o.outputs[0].type.tensorType.dataType for o in operations if o.type.startswith("conv")]
    assert len(types) == 4
    # The one whose bias float16 holds only as subnormals stays.
    assert types.count(halves) == len(types) - 1 == 3


def test_metadata_methods(written: Write) -> None:
    file = written()
    assert json.loads(file.call("mobileseg")) == METADATA
    assert file.call("labels") == METADATA["classes"]["names"]  # type: ignore[index]
    assert (file.call("input_size"), file.call("input_range")) == (list(SIZE), [0.0, 255.0])
    assert (file.call("num_classes"), file.call("head"), file.call("palette")) == (5, "logits", [1, 2, 3] * 5)


def test_no_weight_twice_and_none_unused(written: Write) -> None:
    file = written("portable")
    weights = sum(p.numel() for p in Little().parameters()) * 4
    assert weights < file.path.stat().st_size < weights + 25_000
    layers = file.delegation["layers"]
    assert sum(size for *_, size in layers) < weights + 3_000
    assert ["network.wide.weight", "aten.convolution.default", "float32", 64 * (8 * 9 + 1) * 4] in layers
    assert not [name for name, *_ in layers if name.startswith("network.norm")]


def test_etrecord_on_request(tmp_path: Path) -> None:
    path, plain = tmp_path / "record.pte", tmp_path / "plain.pte"
    lower(path, classifier("logits"), "fp32", {"etrecord": True})
    lower(plain, classifier("logits"), "fp32", {})
    assert {f.name for f in tmp_path.iterdir()} == {"record.pte", "record.etrecord", "plain.pte"}
    from executorch.devtools.etrecord import parse_etrecord

    assert parse_etrecord(str(path.with_suffix(".etrecord"))).edge_dialect_program is not None
    assert path.read_bytes() == plain.read_bytes()


def test_another_process_writes_the_same_bytes(written: Write, tmp_path: Path) -> None:
    pytest.importorskip("coremltools")
    code = f"import runpy; runpy.run_path({__file__!r}, run_name='little')['write_all']({str(tmp_path)!r})"
    root = Path(__file__).resolve().parents[2]
    environment = os.environ | {"PYTHONHASHSEED": "77"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False, env=environment
    )
    # This file itself imports executorch, which is not silent.
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    files = sorted(tmp_path.iterdir())
    assert len(files) == 3
    for file in files:
        delegate, precision, _ = file.name.split(".")
        assert file.read_bytes() == written(delegate, precision).path.read_bytes(), file.name


@pytest.mark.parametrize("delegate", ["xnnpack", "coreml", "vulkan"])
def test_no_path_of_the_machine_and_no_day(written: Write, delegate: str) -> None:
    content = written(delegate).path.read_bytes()
    folders = (str(Path(__file__).resolve().parents[2]), str(Path(torch.__file__).parents[1]))
    assert not [t for t in (*folders, "site-packages", "conversion_date") if t.encode() in content]


def test_an_unpooling_without_a_rewrite_runs_on_portable_kernels(tmp_path: Path) -> None:
    path = tmp_path / "turned.pte"
    lower(path, Deployed(Turned(), None, "logits"), "fp32", {})
    file, x = loaded(path), picture()
    np.testing.assert_array_equal(file.run(x), expected(Turned(), x))
    assert file.delegation["left"]


def test_kernels_get_one_memory_order(tmp_path: Path) -> None:
    path = tmp_path / "reflected.pte"
    lower(path, Deployed(Reflected(), None, "logits"), "fp32", {})
    file, x = loaded(path), picture()
    np.testing.assert_array_equal(file.run(x), expected(Reflected(), x))
    assert "aten.index.Tensor" in file.delegation["left"]
    assert "dim_order_ops._clone_dim_order.default" not in file.delegation["left"]


def test_a_maximum_over_the_channels_is_left(tmp_path: Path) -> None:
    path = tmp_path / "greatest.pte"
    lower(path, Deployed(Greatest(), None, "logits"), "fp32", {})
    file, x = loaded(path), picture()
    np.testing.assert_array_equal(file.run(x), expected(Greatest(), x))
    assert set(file.delegation["left"]) == {"aten.max.dim"}


def test_copies_side_by_side_stay_in_the_call(tmp_path: Path) -> None:
    # ExecuTorch's partitioner counts the tensors of a concatenation without repetition.
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Upsample(scale_factor=2)).eval()
    path = tmp_path / "nearest.pte"
    lower(path, Deployed(module, None, "logits"), "fp32", {})
    file, x = loaded(path), picture()
    # Sums of 27 products of numbers up to 255: a float's last place there, not one of what is left of them.
    np.testing.assert_allclose(file.run(x), expected(module, x), rtol=0, atol=27 * 255 * 2**-23)
    assert (len(file.delegation["calls"]), file.delegation["left"]) == (1, {})


def test_what_a_compiler_does_not_survive_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from executorch.backends.xnnpack.xnnpack_preprocess import XnnpackBackend

    def fail(*arguments: Any) -> None:
        raise RuntimeError("amax is not what it was")

    monkeypatch.setattr(XnnpackBackend, "preprocess", fail)
    with pytest.raises(RewriteError, match=r"xnnpack delegate cannot convert.*amax.*--delegate portable"):
        lower(tmp_path / "x.pte", Deployed(Greatest(), None, "logits"), "fp32", {})
    assert not list(tmp_path.iterdir())


def test_file_names_and_rows_of_the_table() -> None:
    assert TARGET.file_name("enet", "fp32", {}) == "enet.fp32.pte"
    assert TARGET.file_name("enet", "fp16", {"delegate": "xnnpack"}) == "enet.fp16.pte"
    assert TARGET.file_name("enet", "fp32", {"delegate": "vulkan"}) == "enet.fp32.vulkan.pte"
    assert TARGET.backend({"delegate": "coreml"}) == "executorch-coreml"


def test_refuses_what_it_does_not_know() -> None:
    with pytest.raises(OptionError, match=r"'vulcan'.*Did you mean 'vulkan'\?.*coreml, portable, vulkan, xnnpack"):
        TARGET.check({"delegate": "vulcan"}, "fp32")
    with pytest.raises(OptionError, match="etrecord"):
        TARGET.check({"etrecord": "yes"}, "fp32")
    TARGET.check({"delegate": None, "etrecord": None}, "fp32")


def test_names_the_extra_that_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("mobileseg.converters.executorch.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"coremltools.*mobileseg\[coreml\]"):
        TARGET.check({"delegate": "coreml"}, "fp32")
    monkeypatch.setitem(sys.modules, "executorch.exir", None)
    with pytest.raises(MissingExtraError, match=r"executorch.*mobileseg\[executorch\]"):
        lower(tmp_path / "x.pte", Deployed(Turned(), None, "logits"), "fp32", {})


def test_what_float16_holds() -> None:
    assert fits_half(torch.tensor([0.0, 65504.0, 1e-7, -torch.inf]))
    assert fits_half(torch.zeros(0))
    assert not fits_half(torch.tensor([65520.0]))
    assert not fits_half(torch.tensor([2.0**-15, 0.0]))
    assert fits_half(torch.tensor([2.0**-15, 0.0]), added=True)
    assert not fits_half(torch.tensor([1e9]), added=True)
