"""ONNX files: what is in them, and that ONNX Runtime computes from them what torch computes from the network."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
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
from mobileseg.converters.export import Deployed, RewrittenProgram, export, rewrite
from mobileseg.converters.target import Lowering
from mobileseg.errors import MissingExtraError, OptionError, RewriteError
from mobileseg.types import Head, Size

INSTALL = "install the extra: pip install 'mobileseg[onnx]'"
onnx = pytest.importorskip("onnx", reason=INSTALL)
onnxruntime = pytest.importorskip("onnxruntime", reason=INSTALL)
pytest.importorskip("onnxsim", reason=INSTALL)

from mobileseg.converters.onnx import TARGET, half, lower  # noqa: E402  after the packages that it needs

METADATA = {"classes": 5, "architecture": "little", "head": "logits"}
SIZE = (32, 48)
FORBIDDEN = ("Gather", "Scatter", "TopK", "NonZero", "Where")
NEEDLESS = {"Identity", "Constant", "Shape", "ConstantOfShape", "Expand", "Dropout", "BatchNormalization"}


class Little(nn.Module):
    """One of each operator that the rewrites and the fp16 conversion treat in their own way.

    The first pooling overlaps, so that many neighbours in the second one's windows are equal.
    """

    def __init__(self, num_classes: int = 5) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.slopes = nn.PReLU(8)
        self.same_slopes = self.slopes
        self.wide = nn.Conv2d(8, 64, 3, padding=1)
        self.narrow = nn.Conv2d(64, 8, 3, padding=1)
        self.last = nn.ConvTranspose2d(8, num_classes, 2, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.slopes(self.norm(F.max_pool2d(self.first(x), 3, stride=1, padding=1)))
        y, indices = F.max_pool2d(x, 2, return_indices=True)
        y = self.narrow(F.relu(self.wide(y)))
        y = y + F.interpolate(F.avg_pool2d(y, 2), scale_factor=2.0, mode="bilinear", align_corners=True)
        y = y * torch.sigmoid(F.adaptive_avg_pool2d(y, 1))
        return cast("Tensor", self.last(self.same_slopes(F.max_unpool2d(y, indices, 2, output_size=x.shape[-2:]))))


def seeded(build: Callable[[], nn.Module]) -> nn.Module:
    """The network with the same weights everywhere and batch statistics that are not those of no training."""
    torch.manual_seed(0)
    network = build().eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1.0, 0.2)
            nn.init.normal_(module.bias, 0.0, 0.1)
            module.running_mean = torch.randn(module.num_features) * 0.1
            module.running_var = torch.rand(module.num_features) + 0.5
    return network


@cache
def deployed(head: Head, preprocessing: str = "imagenet") -> Deployed:
    return Deployed(seeded(Little), registry.preprocessing(preprocessing), head)


@cache
def program(head: Head = "logits", preprocessing: str = "imagenet", batch: int = 1) -> RewrittenProgram:
    return rewrite(export(deployed(head, preprocessing), SIZE, batch=batch), "onnx", "fp32")


def write_little(path: str) -> None:
    """Called in another process, too."""
    TARGET.lower(program(), Lowering("fp32", "logits", METADATA), Path(path))


def picture(size: Size = SIZE, batch: int = 1) -> Tensor:
    """A noisy gradient: (N, 3, H, W) float32, whole numbers in 0..255."""
    generator = torch.Generator().manual_seed(1)
    slope = torch.linspace(0, 200, size[1]).expand(batch, 3, *size)
    return (slope + 55 * torch.rand(batch, 3, *size, generator=generator)).round()


def run(path: Path, x: Tensor) -> NDArray[Any]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"picture": x.numpy()})[0])


def expected(module: nn.Module, x: Tensor) -> NDArray[Any]:
    with torch.no_grad():
        return cast("Tensor", module(x)).numpy()


def sqnr_db(reference: NDArray[Any], other: NDArray[Any]) -> float:
    noise = np.square(reference.astype(np.float64) - other).sum()
    return float(10 * np.log10(np.square(reference.astype(np.float64)).sum() / max(noise, 1e-30)))


def operators(model: Any) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node)


def element_types(model: Any) -> dict[str, int]:
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    return {v.name: v.type.tensor_type.elem_type for v in (*inferred.value_info, *inferred.input, *inferred.output)}


class Written(NamedTuple):
    path: Path
    model: Any


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> Callable[[RewrittenProgram, Lowering], Written]:
    """Lowers a program, each program and lowering once."""
    folder = tmp_path_factory.mktemp("onnx")
    done: dict[tuple[int, str], Written] = {}

    def write(rewritten: RewrittenProgram, lowering: Lowering) -> Written:
        key = (id(rewritten), repr(lowering))
        if key not in done:
            path = folder / f"{len(done)}.onnx"
            TARGET.lower(rewritten, lowering, path)
            done[key] = Written(path, onnx.load(path))
        return done[key]

    return write


LOGITS = Lowering("fp32", "logits", METADATA)
HALF = replace(LOGITS, precision="fp16")


def test_agrees_with_torch(written: Any) -> None:
    reference = expected(deployed("logits"), picture())
    output = run(written(program(), LOGITS).path, picture())
    assert output.shape == (1, 5, *SIZE)
    assert sqnr_db(reference, output) > 110


def test_batch_of_two(written: Any) -> None:
    x = picture(batch=2)
    x[1] = x[1].flip(-1)
    assert sqnr_db(expected(deployed("logits"), x), run(written(program(batch=2), LOGITS).path, x)) > 110


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_softmax_head(written: Any, precision: str) -> None:
    file = written(program("softmax"), Lowering(precision, "softmax", METADATA))
    output = run(file.path, picture())
    assert [o.name for o in file.model.graph.output] == ["probabilities"]
    assert output.dtype == np.float32
    np.testing.assert_allclose(output.sum(axis=1), 1.0, atol=1e-6)
    np.testing.assert_allclose(
        output, expected(deployed("softmax"), picture()), atol=1e-5 if precision == "fp32" else 1e-2
    )


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_argmax_head(written: Any, precision: str) -> None:
    file = written(program("argmax"), Lowering(precision, "argmax", METADATA))
    output = run(file.path, picture())
    assert [o.name for o in file.model.graph.output] == ["classes"]
    assert (output.dtype, output.shape) == (np.uint8, (1, *SIZE))
    agreement = (output == expected(deployed("argmax"), picture())).mean()
    assert agreement == 1.0 if precision == "fp32" else agreement > 0.98


def test_names_and_types(written: Any) -> None:
    graph = written(program(), LOGITS).model.graph
    assert [(v.name, v.type.tensor_type.elem_type) for v in graph.input] == [("picture", onnx.TensorProto.FLOAT)]
    assert [(v.name, v.type.tensor_type.elem_type) for v in graph.output] == [("logits", onnx.TensorProto.FLOAT)]
    assert [d.dim_value for d in graph.input[0].type.tensor_type.shape.dim] == [1, 3, *SIZE]


def test_metadata(written: Any) -> None:
    model = written(program(), LOGITS).model
    assert {p.key: p.value for p in model.metadata_props} == {"mobileseg": json.dumps(METADATA, sort_keys=True)}
    assert model.producer_name == "mobileseg"


def test_one_file_and_no_weight_twice(written: Any) -> None:
    file = written(program(), LOGITS)
    weights = sum(p.numel() for p in Little().parameters()) * 4
    assert not [i.name for i in file.model.graph.initializer if i.external_data]
    assert weights * 0.9 < file.path.stat().st_size < weights + 20_000
    slopes = [n.input[1] for n in file.model.graph.node if n.op_type == "PRelu"]
    assert (len(slopes), len(set(slopes))) == (2, 1)


@pytest.mark.parametrize("lowering", [LOGITS, HALF], ids=["fp32", "fp16"])
def test_only_standard_operators_without_indices_and_booleans(written: Any, lowering: Lowering) -> None:
    model = written(program(), lowering).model
    found = operators(model)
    assert ([o.domain for o in model.opset_import], len(model.functions)) == ([""], 0)
    assert not [name for name in found if name.startswith(FORBIDDEN)]
    assert not NEEDLESS & set(found)
    assert found["Cast"] == 0 or lowering is HALF
    assert onnx.TensorProto.BOOL not in element_types(model).values()


@pytest.mark.parametrize("opset", [lower.OPSETS[0], lower.OPSETS[-1]])
def test_opset(written: Any, opset: int) -> None:
    file = written(program(), replace(LOGITS, options={"opset": opset}))
    assert [o.version for o in file.model.opset_import] == [opset]
    assert sqnr_db(expected(deployed("logits"), picture()), run(file.path, picture())) > 110


@pytest.mark.parametrize("opset", [17, 24, "18", 18.0])
def test_refuses_other_opsets(tmp_path: Path, opset: object) -> None:
    with pytest.raises(OptionError, match=r"18 to 23.*--opset"):
        TARGET.lower(program(), replace(LOGITS, options={"opset": opset}), tmp_path / "x.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("module", ["onnxscript", "onnxsim"])
def test_names_the_extra_that_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, module: str) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError, match=rf"{module}.*mobileseg\[onnx\]"):
        TARGET.lower(program(), LOGITS, tmp_path / "x.onnx")


def test_another_process_writes_the_same_bytes_and_prints_nothing(written: Any, tmp_path: Path) -> None:
    here = written(program(), LOGITS).path.read_bytes()
    write = f"runpy.run_path({__file__!r}, run_name='little')['write_little']({str(tmp_path / 'x.onnx')!r})"
    code = f"import runpy; {write}"
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (tmp_path / "x.onnx").read_bytes() == here


@pytest.mark.parametrize("lowering", [LOGITS, HALF], ids=["fp32", "fp16"])
def test_no_path_of_the_machine(written: Any, lowering: Lowering) -> None:
    content = written(program(), lowering).path.read_bytes()
    folders = (str(Path(__file__).resolve().parents[2]), str(Path(torch.__file__).parents[1]))
    traces = (*folders, "site-packages", "pkg.torch", "stack_trace")
    assert not [t for t in traces if t.encode() in content]


def test_fp16_halves_the_file_and_agrees(written: Any) -> None:
    full, halved = written(program(), LOGITS), written(program(), HALF)
    assert halved.path.stat().st_size < 0.62 * full.path.stat().st_size
    types = element_types(halved.model)
    assert types["picture"] == types["logits"] == onnx.TensorProto.FLOAT
    computing = [n for n in halved.model.graph.node if n.op_type in {"Conv", "ConvTranspose", "PRelu", "Resize"}]
    assert {types.get(n.output[0]) for n in computing} == {onnx.TensorProto.FLOAT16}
    # An element that does not equal its own window's maximum, by a rounding, leaves less than 10 dB.
    assert sqnr_db(expected(deployed("logits"), picture()), run(halved.path, picture())) > 45


def test_the_first_layers_of_an_fp16_file_in_float32(written: Any) -> None:
    quarter, half, whole = (written(program(), replace(HALF, float32_share=share)) for share in (0.25, 0.5, 1.0))
    reference = expected(deployed("logits"), picture())
    assert [is_wide(file.model) for file in (quarter, half, whole)] == [
        [True, False, False, False],
        [True, True, False, False],
        [True, True, True, True],
    ]
    assert sqnr_db(reference, run(whole.path, picture())) > 100
    assert sqnr_db(reference, run(half.path, picture())) > 45


def is_wide(model: Any) -> list[bool]:
    """Of each layer in order: whether it computes in float32."""
    types = element_types(model)
    layers = [n for n in model.graph.node if n.op_type in {"Conv", "ConvTranspose", "Gemm", "MatMul"}]
    return [types[n.output[0]] == onnx.TensorProto.FLOAT for n in layers]


@pytest.mark.parametrize("preprocessing", ["imagenet", "espnet-camvid"])
def test_fp16_keeps_the_preprocessing_in_float32(written: Any, preprocessing: str) -> None:
    file = written(program("logits", preprocessing), HALF)
    cast = next(n for n in file.model.graph.node if n.op_type == "Cast")
    assert element_types(file.model)[cast.input[0]] == onnx.TensorProto.FLOAT
    assert cast.input[0] != "picture"
    assert sqnr_db(expected(deployed("logits", preprocessing), picture()), run(file.path, picture())) > 40


def short_enet() -> nn.Module:
    """Without the blocks between its poolings and unpoolings, which keep the planes' sizes."""
    network = registry.variant("enet", "davidtvs").build(num_classes=5)
    for name in [name for name, _ in network.named_children() if re.match(r"(regular|dilated|asymmetric)[1-4]", name)]:
        setattr(network, name, nn.Identity())
    return cast("nn.Module", network)


def test_odd_size_of_enet(written: Any) -> None:
    size = (97, 131)
    module = Deployed(seeded(short_enet), None, "logits")
    file = written(rewrite(export(module, size), "onnx", "fp32"), LOGITS)
    x = picture(size) / 255
    assert sqnr_db(expected(module, x), run(file.path, x)) > 100
    assert not [name for name in operators(file.model) if name.startswith(FORBIDDEN)]


def graph_model(nodes: list[Any], constants: dict[str, NDArray[Any]], outputs: tuple[str, ...] = ("y",)) -> Any:
    """A float32 model of ``x`` (1, 2, 4, 4)."""
    float32 = onnx.TensorProto.FLOAT
    graph = onnx.helper.make_graph(
        nodes,
        "test",
        [onnx.helper.make_tensor_value_info("x", float32, [1, 2, 4, 4])],
        [onnx.helper.make_tensor_value_info(name, float32, None) for name in outputs],
        [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=8)


def evaluate(model: Any, x: NDArray[np.float32]) -> list[NDArray[Any]]:
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return [np.asarray(y) for y in session.run(None, {"x": x})]


X = np.arange(-16, 16, dtype=np.float32).reshape(1, 2, 4, 4)
RELU = onnx.helper.make_node("Relu", ["x"], ["r"])


def test_half_keeps_an_infinite_padding() -> None:
    pads = np.array([0, 0, 1, 1, 0, 0, 0, 0], np.int64)
    nodes = [RELU, onnx.helper.make_node("Pad", ["r", "pads", "fill"], ["y"])]
    converted = half.to_half(graph_model(nodes, {"pads": pads, "fill": np.array(-np.inf, np.float32)}))
    (y,) = evaluate(converted, X)
    assert np.isneginf(y[:, :, 0]).all()
    assert {i.data_type for i in converted.graph.initializer} == {onnx.TensorProto.INT64, onnx.TensorProto.FLOAT16}


def test_half_leaves_scales_of_resize() -> None:
    constants = {"scales": np.array([1, 1, 2, 2], np.float32)}
    nodes = [RELU, onnx.helper.make_node("Resize", ["r", "", "scales"], ["y"], mode="nearest")]
    converted = half.to_half(graph_model(nodes, constants))
    (y,) = evaluate(converted, X)
    assert {i.name: i.data_type for i in converted.graph.initializer} == {"scales": onnx.TensorProto.FLOAT}
    np.testing.assert_array_equal(y, np.maximum(X, 0).repeat(2, axis=2).repeat(2, axis=3))


def test_half_computes_with_a_great_constant_in_float32() -> None:
    nodes = [RELU, onnx.helper.make_node("Mul", ["r", "c"], ["p"]), onnx.helper.make_node("Div", ["p", "c"], ["y"])]
    converted = half.to_half(graph_model(nodes, {"c": np.array(1e6, np.float32)}))
    (y,) = evaluate(converted, X)
    np.testing.assert_array_equal(y, np.maximum(X, 0))
    assert [i.data_type for i in converted.graph.initializer] == [onnx.TensorProto.FLOAT]


def test_half_of_a_result_that_is_used_inside() -> None:
    nodes = [onnx.helper.make_node("Neg", ["x"], ["y"]), onnx.helper.make_node("Abs", ["y"], ["z"])]
    y, z = evaluate(half.to_half(graph_model(nodes, {}, ("y", "z"))), X)
    assert y.dtype == z.dtype == np.float32
    np.testing.assert_array_equal(z, np.abs(X))


def test_half_retargets_casts() -> None:
    nodes = [
        onnx.helper.make_node("ArgMax", ["x"], ["i"], axis=1),
        onnx.helper.make_node("Cast", ["i"], ["f"], to=onnx.TensorProto.FLOAT),
        onnx.helper.make_node("Add", ["f", "x"], ["y"]),
    ]
    (y,) = evaluate(half.to_half(graph_model(nodes, {})), X)
    np.testing.assert_array_equal(y, X + 1)


def test_half_compares_one_float32_tensor_with_its_maximum() -> None:
    nodes = [
        onnx.helper.make_node("Exp", ["x"], ["e"]),
        onnx.helper.make_node("MaxPool", ["e"], ["m"], kernel_shape=[4, 4], strides=[4, 4]),
        onnx.helper.make_node("Slice", ["e", "start", "end", "axes"], ["last"]),
        onnx.helper.make_node("Sub", ["m", "last"], ["d"]),
        onnx.helper.make_node("Sign", ["d"], ["y"]),
    ]
    constants = {"start": np.array([3, 3]), "end": np.array([4, 4]), "axes": np.array([2, 3])}
    converted = half.to_half(graph_model(nodes, constants))
    types, by_type = element_types(converted), {n.op_type: n for n in converted.graph.node}
    assert types["e"] == onnx.TensorProto.FLOAT16
    assert types["m"] == types["last"] == types["d"] == onnx.TensorProto.FLOAT
    assert by_type["MaxPool"].input[0] == by_type["Slice"].input[0]
    np.testing.assert_array_equal(evaluate(converted, X / 16)[0], np.zeros((1, 2, 1, 1)))


def test_half_refuses_subgraphs() -> None:
    branch = onnx.helper.make_graph(
        [onnx.helper.make_node("Identity", ["x"], ["b"])], "b", [], [onnx.helper.make_tensor_value_info("b", 1, None)]
    )
    node = onnx.helper.make_node("If", ["c"], ["y"], name="choice", then_branch=branch, else_branch=branch)
    with pytest.raises(RewriteError, match="choice"):
        half.to_half(graph_model([node], {"c": np.array(True)}))


@pytest.mark.parametrize(
    ("values", "fits"),
    [
        ([65504.0], True),
        ([65519.0], True),
        ([65520.0], False),
        ([-1e5, 1.0], False),
        ([np.inf, -np.inf], True),
        ([1e-5, -1e-6], False),
        ([1e-5, 1.0], True),
        ([0.0], True),
        ([], True),
    ],
)
def test_fits_half(values: list[float], fits: bool) -> None:
    assert half.fits_half(np.array(values, np.float32)) == fits
