"""One small network in every format: its operators cost what can be worked out by hand, and its weights are in each
file once."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from mobileseg import mlpackage
from mobileseg.types import NotRun, Preprocessing
from mobileseg.validation import memory
from mobileseg.validation.graphs import read_graph
from mobileseg.validation.graphs.estimate import Coverage, estimated
from mobileseg.validation.memory import held_bytes
from mobileseg.validation.runners import open_artifact

SIZE = (32, 48)
WEIGHTS = 64 * 27 + 64 + 64 * 9 + 64 + 64 * 16 * 9 + 64 + 12 * 24 + 5 * 64 + 5
WORK = [
    ("convolution", 16 * 24 * 64 * 3 * 9),
    ("depthwise convolution", 16 * 24 * 64 * 9),
    ("grouped convolution", 16 * 24 * 64 * 16 * 9),
    ("grouped convolution", 16 * 24 * 64 * 16 * 9),
    ("matrix product", 64 * 16 * 12 * 24),
    ("convolution", 16 * 12 * 5 * 64),
]
"""Kind and multiply-accumulates of each layer: places of the result x its channels x what each of them sums."""

NOTICEABLE = 1024
"""Bytes of a constant that is not to be in a file twice."""


class Kinds(nn.Module):
    """Convolutions of several kinds, one of them used twice, and a product with a constant matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 64, 3, stride=2, padding=1)
        self.depthwise = nn.Conv2d(64, 64, 3, padding=2, dilation=2, groups=64)
        self.shared = nn.Conv2d(64, 64, 3, padding=1, groups=4, bias=False)
        self.slopes = nn.PReLU(64)
        self.narrow = nn.Linear(24, 12, bias=False)
        self.last = nn.Conv2d(64, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.slopes(self.depthwise(F.relu(self.first(x))))
        logits: Tensor = self.last(self.narrow(torch.tanh(self.shared(torch.sigmoid(self.shared(x))))))
        return logits


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    return Kinds().eval().requires_grad_(False)


FORMS = {
    "onnx": (".onnx", ("fp32", "fp16"), {}),
    "tflite": (".tflite", ("fp32", "fp16", "int8"), {}),
    "coreml": (".mlpackage", ("fp32", "fp16", "w8", "palette4"), {}),
    "xnnpack": (".pte", ("fp32", "fp16"), {"delegate": "xnnpack"}),
    "coreml in executorch": (".pte", ("fp32",), {"delegate": "coreml"}),
    "vulkan": (".pte", ("fp32",), {"delegate": "vulkan"}),
    "portable": (".pte", ("fp32",), {"delegate": "portable"}),
}
"""Suffix, precisions and options."""

CASES = [(form, precision) for form, (_, precisions, _) in FORMS.items() for precision in precisions]
TARGETS = {"onnx": "onnx", "tflite": "tflite", "coreml": "coreml"}
PACKAGES = {"onnx": "onnx", "tflite": "litert_torch", "coreml": "coremltools"}


@pytest.fixture(scope="module")
def made(network: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Path]:
    """The network in a form and a precision."""
    folder, files = tmp_path_factory.mktemp("kinds"), dict[tuple[str, str], Path]()

    def make(form: str, precision: str) -> Path:
        if (form, precision) not in files:
            files[form, precision] = lowered(network, folder / str(len(files)), form, precision)
        return files[form, precision]

    return make


def lowered(network: nn.Module, path: Path, form: str, precision: str) -> Path:
    from importlib import import_module

    from mobileseg.converters.export import Deployed, export, rewrite
    from mobileseg.converters.target import Lowering

    name = TARGETS.get(form, "executorch")
    pytest.importorskip(
        PACKAGES.get(form, "executorch.exir"), reason=f"install the extra: pip install 'mobileseg[{name}]'"
    )
    suffix, _, options = FORMS[form]
    target = import_module(f"mobileseg.converters.{name}").TARGET
    base = "fp16" if precision in ("w8", "palette4") else precision
    layout = "NHWC" if form == "tflite" else "NCHW"
    metadata = {"input": {"layout": layout}, "output": {"layout": layout}, "raw_input": True}
    exported = export(Deployed(network, Preprocessing("none"), "logits"), SIZE)
    path = path.with_suffix(suffix)
    target.lower(rewrite(exported, target.backend(options), base), Lowering(base, "logits", metadata, options), path)
    if precision == "int8":
        from mobileseg.quantization.tflite.static import quantize_static

        noise = np.random.default_rng(0).integers(0, 256, (2, *SIZE, 3), np.uint8)
        path.write_bytes(quantize_static(path.read_bytes(), list(noise)).content)
    if base != precision:
        from mobileseg.quantization.coreml import compress_weights

        compress_weights(path, precision)
    return path


@pytest.mark.parametrize(("form", "precision"), CASES)
def test_each_layer_costs_what_it_does_by_hand(made, form, precision):
    graph = read_graph(made(form, precision))
    work = [(operation.kind, operation.macs) for operation in graph.operations if operation.macs]
    assert work == WORK
    assert not [operation for operation in graph.operations if operation.macs is None or operation.bytes_moved is None]


def test_torch_counts_as_many(network):
    with FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, 3, *SIZE))
    assert counter.get_total_flops() == 2 * sum(macs for _, macs in WORK)


@pytest.mark.parametrize(("form", "precision"), CASES)
def test_what_the_delegate_takes(made, form, precision):
    graph = read_graph(made(form, precision))
    costs = estimated(graph)
    flags = {operation.delegated for operation in graph.operations}
    if isinstance(graph.delegation, NotRun):
        assert flags == ({False} if form == "portable" else {None})
        assert costs.delegated == graph.delegation
    elif precision == "int8":
        assert costs.delegated.macs == 1.0
        assert 0.5 < costs.delegated.operators < 1
    else:
        assert flags == {True}
        assert costs.delegated == Coverage(operators=1.0, macs=1.0, bytes=1.0, time=1.0)
    assert costs.macs == sum(macs for _, macs in WORK)
    assert costs.unknown_macs == costs.unknown_bytes == {}


PLANE = 64 * 16 * 24
"""Numbers in the largest values, of which an operator has one as its input and one as its result."""


@pytest.mark.parametrize(
    ("form", "precision", "size"),
    [
        *(("onnx", "fp32", 4), ("coreml", "fp32", 4), ("xnnpack", "fp32", 4), ("tflite", "fp32", 4)),
        *(("onnx", "fp16", 2), ("coreml", "w8", 2), ("xnnpack", "fp16", 2), ("tflite", "fp16", 4)),
    ],
)
def test_the_peak_is_one_value_and_the_next(made, form, precision, size):
    """Where weights alone are float16, as in TFLite, the values between are float32."""
    graph = read_graph(made(form, precision))
    assert graph.peak.bytes == 2 * size * PLANE
    assert graph.operations[graph.peak.operation].bytes_written == size * PLANE


@pytest.mark.parametrize(
    ("form", "precision", "size", "weights"),
    [
        ("onnx", "fp32", 4, 4 * 64 * 28),
        ("xnnpack", "fp16", 2, 2 * 64 * 28),
        ("vulkan", "fp32", 4, 4 * 64 * 28),
        # A scale and a zero point for each channel.
        ("coreml", "w8", 2, 64 * 27 + 2 * 64 + 64 + 2 * 64),
        # Half a byte each, and 16 levels.
        ("coreml", "palette4", 2, 64 * 27 // 2 + 2 * 16 + 2 * 64),
    ],
)
def test_what_the_first_convolution_moves(made, form, precision, size, weights):
    """Weights as they are stored."""
    first = next(operation for operation in read_graph(made(form, precision)).operations if operation.macs)
    assert (first.bytes_read, first.bytes_written) == (3 * 32 * 48 * size + weights, PLANE * size)


@pytest.mark.parametrize(("form", "precision"), CASES)
def test_no_weight_is_in_a_file_twice(made, form, precision):
    seen = [hashlib.sha256(data).hexdigest() for data in stored(made(form, precision)) if len(data) > NOTICEABLE]
    assert len(seen) >= 2
    assert len(set(seen)) == len(seen)


class Poolings(nn.Module):
    """Two padded average poolings, which become depthwise convolutions with equal constants where a delegate leaves
    them."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 128, 1)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = F.avg_pool2d(torch.sigmoid(F.avg_pool2d(self.first(x), 3, 1, 1)), 3, 1, 1)
        return logits


@pytest.mark.parametrize(("form", "precision", "width"), [("tflite", "int8", 1), ("xnnpack", "fp32", 4)])
def test_no_constant_of_a_rewrite_is_in_a_file_twice(tmp_path, form, precision, width):
    torch.manual_seed(0)
    path = lowered(Poolings().eval(), tmp_path / "poolings", form, precision)
    kinds = [operation.kind for operation in read_graph(path).operations if operation.macs]
    assert kinds == ["convolution", "depthwise convolution", "depthwise convolution"]
    assert [len(data) for data in stored(path)].count(width * 9 * 128) == 1


@pytest.mark.parametrize(
    ("form", "precision", "share", "tolerance"),
    [
        ("onnx", "fp16", 0.5, 0.01),
        ("tflite", "fp16", 0.5, 0.01),
        ("coreml", "fp16", 0.5, 0.01),
        # Beside the weights: the gain and offset of the picture, rows of float32.
        ("xnnpack", "fp16", 0.5, 0.02),
        # Beside the weights: biases of 32 bits; a scale and a zero point for each channel, small weights in float16.
        ("tflite", "int8", 0.25, 0.02),
        ("coreml", "w8", 0.25, 0.05),
    ],
)
def test_weights_of_half_the_width_take_half_the_bytes(made, form, precision, share, tolerance):
    """In what the file holds, and in what is said of it; numbers that configure operators are in neither precision."""
    whole, part = made(form, "fp32"), made(form, precision)
    found = [sum(len(data) for data in stored(path) if len(data) >= 64) for path in (part, whole)]
    assert found[1] == pytest.approx(4 * WEIGHTS, rel=0.02)
    assert found[0] / found[1] == pytest.approx(share, abs=tolerance)
    assert read_graph(part).weight_bytes / read_graph(whole).weight_bytes == pytest.approx(share, abs=tolerance + 0.02)


@pytest.mark.skipif(memory._counter() is None, reason="only glibc counts what is allocated")
@pytest.mark.parametrize("form", ["onnx", "tflite", "xnnpack", "portable"])
def test_a_runtime_holds_weights_and_values(made, form):
    """ExecuTorch's own kernels read the weights where the file is; the others pack them anew. A value may lie where
    that lay which it is made of. ONNX Runtime takes memory in pieces of 1 MiB."""
    held = held_bytes(open_artifact(made(form, "fp32")))
    least = 4 * PLANE + (0 if form == "portable" else 4 * WEIGHTS)
    assert least < held < 5 * least + (2 << 20)


def stored(path: Path) -> Iterator[bytes]:
    """Every constant that a file holds, as its bytes."""
    return READERS[path.suffix](path)


def in_tflite(path: Path) -> Iterator[bytes]:
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(path.read_bytes(), 0))
    used = {tensor.buffer for tensor in model.subgraphs[0].tensors}
    held = (buffer.data for index, buffer in enumerate(model.buffers) if index in used)
    return (np.asarray(data, np.uint8).tobytes() for data in held if data is not None)


def in_onnx(path: Path) -> Iterator[bytes]:
    import onnx

    graph = onnx.load(path).graph
    nodes = [a.t for node in graph.node for a in node.attribute if a.HasField("t")]
    return (onnx.numpy_helper.to_array(tensor).tobytes() for tensor in (*graph.initializer, *nodes))


def in_mlpackage(path: Path) -> Iterator[bytes]:
    """The arrays in the file of weights, each behind a record (`mobileseg.validation.coreml.blobs`)."""
    _, folder = mlpackage.read_spec(path)
    for file in folder.iterdir():
        content = file.read_bytes()
        (count,), record = struct.unpack_from("<I", content), 64
        for _ in range(count):
            _, _, size, start, _ = struct.unpack_from("<IIQQQ", content, record)
            yield content[start : start + size]
            record = -(-(start + size) // 64) * 64


def in_pte(path: Path) -> Iterator[bytes]:
    """The program's own constants, those that its delegates find by name, and those in their payloads."""
    from mobileseg.validation.graphs.executorch import deserialized, plan_named
    from mobileseg.validation.runners.executorch_coreml import unpacked
    from mobileseg.validation.traces import xnnpack

    file = deserialized(path)
    yield from (bytes(buffer.storage) for buffer in file.program.constant_buffer)
    yield from (bytes(data) for data in (file.named_data.buffers if file.named_data else ()))
    for delegate in plan_named(file, "forward").delegates:
        payload = bytes(file.program.backend_delegate_data[delegate.processed.index].data)
        if delegate.id == "CoreMLBackend":
            with unpacked(payload) as package:
                yield from list(in_mlpackage(package))
        if delegate.id == "XnnpackBackend":
            flatbuffer, constants = xnnpack._sections(payload)
            places = xnnpack._graph(flatbuffer).constantData or ()
            yield from (constants[p.offset : p.offset + p.size] for p in places if not p.namedKey)


READERS = {".tflite": in_tflite, ".onnx": in_onnx, ".mlpackage": in_mlpackage, ".pte": in_pte}
