"""ONNX files of 8-bit weights: what they compute, what is left, and how large they are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

pytest.importorskip("onnxsim", reason="install the extra: pip install 'mobileseg[onnx]'")

import onnx
import onnxruntime
from onnx import numpy_helper

from mobileseg.converters.export import Deployed, export, rewrite
from mobileseg.converters.onnx import TARGET
from mobileseg.converters.target import Lowering
from mobileseg.errors import OptionError, UsageError
from mobileseg.quantization.onnx import compress_weights
from mobileseg.types import Preprocessing, Quantized

SIZE = (16, 24)
Made = tuple[Path, Quantized]


class Layers(nn.Module):
    """A small convolution, one used twice, a grouped, a transposed one without a bias, and a value read twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 32, 3, padding=1)
        self.twice = nn.Conv2d(32, 32, 1)
        self.grouped = nn.Conv2d(32, 64, 3, padding=1, groups=4)
        self.beside = nn.Conv2d(32, 64, 3, padding=1, bias=False)
        self.last = nn.ConvTranspose2d(64, 8, 2, stride=2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.twice(torch.relu(self.twice(torch.relu(self.first(x))))))
        logits: Tensor = self.last(torch.relu(self.grouped(x) + self.beside(x)))
        return logits


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("plain") / "x.onnx"
    deployed = Deployed(Layers().eval(), Preprocessing("unit"), "logits")
    rewritten = rewrite(export(deployed, SIZE), "onnx", "w8")
    TARGET.lower(rewritten, Lowering("fp32", "logits", {"precision": "w8"}), path)
    return path


@pytest.fixture(scope="module")
def made(plain: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Made]:
    folder, done = tmp_path_factory.mktemp("compressed"), dict[str, Made]()

    def make(precision: str) -> Made:
        if precision not in done:
            path = folder / f"{precision}.onnx"
            path.write_bytes(plain.read_bytes())
            done[precision] = path, compress_weights(path, precision)
        return done[precision]

    return make


def run(content: bytes) -> NDArray[np.float32]:
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    picture = np.random.default_rng(0).integers(0, 256, (1, 3, *SIZE)).astype(np.float32)
    (result,) = session.run(None, {session.get_inputs()[0].name: picture})
    return np.asarray(result)


def sqnr(expected: NDArray[np.float32], found: NDArray[np.float32]) -> float:
    return float(10 * np.log10((expected**2).mean() / ((expected - found) ** 2).mean()))


def with_rounded_weights(path: Path) -> bytes:
    """The float file, whose weights of 1024 numbers and more are multiples of their channels' scales."""
    model = onnx.load(path)
    kinds = {name: node.op_type for node in model.graph.node for name in node.input[1:2]}
    for initializer in model.graph.initializer:
        weights = numpy_helper.to_array(initializer)
        axis = {"Conv": 0, "ConvTranspose": 1}.get(kinds.get(initializer.name, ""))
        if axis is None or weights.size < 1024:
            continue
        step = np.abs(weights).max(axis=tuple(i for i in range(4) if i != axis), keepdims=True) / 127
        rounded = (np.round(weights / step) * step).astype(np.float32)
        initializer.CopyFrom(numpy_helper.from_array(rounded, initializer.name))
    return model.SerializeToString()


def kinds(path: Path) -> Counter[str]:
    return Counter(node.op_type for node in onnx.load(path).graph.node)


def test_w8_computes_as_the_float_file_does_with_rounded_weights(plain: Path, made: Any) -> None:
    expected = run(with_rounded_weights(plain))
    np.testing.assert_allclose(run(made("w8")[0].read_bytes()), expected, rtol=1e-4, atol=1e-5)
    assert 25 < sqnr(run(plain.read_bytes()), expected) < 80, "rounding shows"


def test_w8_leaves_nothing_for_each_run(plain: Path, made: Any, tmp_path: Path) -> None:
    """ONNX Runtime multiplies the weights out when it loads the file."""
    assert kinds(made("w8")[0]) - kinds(plain) == {"Cast": 4, "Mul": 4}
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    onnxruntime.InferenceSession(made("w8")[0], options, providers=["CPUExecutionProvider"])
    assert not kinds(tmp_path / "optimized.onnx")["Cast"]


def test_dynamic_rounds_what_convolutions_read(plain: Path, made: Any) -> None:
    found = run(made("dynamic")[0].read_bytes())
    assert sqnr(run(plain.read_bytes()), found) > 25
    assert sqnr(run(with_rounded_weights(plain)), found) < 60, "activations are rounded, too"


def test_dynamic_computes_plain_convolutions_in_integers(made: Any) -> None:
    found = kinds(made("dynamic")[0])
    assert (found["ConvInteger"], found["DynamicQuantizeLinear"]) == (3, 3), "two of them read one value"
    assert (found["Conv"], found["ConvTranspose"]) == (2, 1), "of groups, small, transposed"


@pytest.mark.parametrize("precision", ["w8", "dynamic"])
def test_small_weights_stay_and_are_named(made: Any, precision: str) -> None:
    path, said = made(precision)
    model = onnx.load(path)
    names = {f"{node.op_type}: {node.output[0]}" for node in model.graph.node}
    assert len(said.kept_float) == 1
    assert set(said.kept_float) <= names
    assert {p.key: p.value for p in model.metadata_props}.keys() >= {"mobileseg"}


@pytest.mark.parametrize("precision", ["w8", "dynamic"])
def test_files_are_small_and_the_same_each_time(plain: Path, made: Any, precision: str, tmp_path: Path) -> None:
    content = made(precision)[0].read_bytes()
    weights = sum(p.numel() for p in Layers().parameters())
    assert len(plain.read_bytes()) - len(content) > 2 * weights
    again = tmp_path / "x.onnx"
    again.write_bytes(plain.read_bytes())
    compress_weights(again, precision)
    assert again.read_bytes() == content


def test_refuses_what_it_cannot_do(plain: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.onnx"
    path.write_bytes(plain.read_bytes())
    with pytest.raises(OptionError, match=r"w4.*w8"):
        compress_weights(path, "w4")
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(UsageError, match="not an ONNX file"):
        compress_weights(path, "w8")
