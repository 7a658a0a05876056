"""TFLite files of 8-bit weights: what they compute, what is left, and how large they are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

pytest.importorskip("litert_torch", reason="install the extra: pip install 'mobileseg[tflite]'")

from ai_edge_litert.interpreter import Interpreter, OpResolverType

from mobileseg.converters.export import Deployed, export, rewrite
from mobileseg.converters.target import Lowering
from mobileseg.converters.tflite import TARGET
from mobileseg.errors import OptionError, UsageError
from mobileseg.quantization.tflite import compress_weights
from mobileseg.quantization.tflite.flatbuffer import Graph
from mobileseg.types import Preprocessing, Quantized

SIZE = (16, 24)
WEIGHTS = {"CONV_2D": (1, 0), "DEPTHWISE_CONV_2D": (1, 3)}
RESOLVERS = {"XNNPACK": OpResolverType.AUTO, "alone": OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES}

Made = tuple[bytes, Quantized]


class Layers(nn.Module):
    """A small convolution, one used twice, a depthwise one, and one with a dead channel."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 32, 3, padding=1)
        self.twice = nn.Conv2d(32, 32, 1)
        self.depthwise = nn.Conv2d(128, 128, 3, padding=1, groups=128)
        self.wide = nn.Conv2d(32, 128, 1)
        self.last = nn.Conv2d(128, 10, 1)
        self.last.weight.data[3] = 0.0

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.twice(torch.relu(self.twice(torch.relu(self.first(x))))))
        logits: Tensor = self.last(torch.relu(self.depthwise(torch.relu(self.wide(x)))))
        return logits


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("plain") / "x.tflite"
    deployed = Deployed(Layers().eval(), Preprocessing("unit"), "logits")
    TARGET.lower(rewrite(export(deployed, SIZE), "tflite", "w8"), Lowering("fp32", "logits", {}), path)
    return path.read_bytes()


@pytest.fixture(scope="module")
def made(plain: bytes, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Made]:
    folder, done = tmp_path_factory.mktemp("compressed"), dict[str, Made]()

    def make(precision: str) -> Made:
        if precision not in done:
            path = folder / f"{precision}.tflite"
            path.write_bytes(plain)
            said = compress_weights(path, precision)
            done[precision] = path.read_bytes(), said
        return done[precision]

    return make


def run(content: bytes, resolver: str = "XNNPACK") -> NDArray[np.float32]:
    interpreter = Interpreter(model_content=content, num_threads=1, experimental_op_resolver_type=RESOLVERS[resolver])
    interpreter.allocate_tensors()
    picture = np.random.default_rng(0).integers(0, 256, (1, *SIZE, 3)).astype(np.float32)
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], picture)
    interpreter.invoke()
    return np.asarray(interpreter.get_tensor(interpreter.get_output_details()[0]["index"]))


def sqnr(expected: NDArray[np.float32], found: NDArray[np.float32]) -> float:
    return float(10 * np.log10((expected**2).mean() / ((expected - found) ** 2).mean()))


def with_rounded_weights(content: bytes) -> bytes:
    """The float file, whose weights of 1024 numbers and more are multiples of their channels' scales."""
    graph = Graph(content)
    for operator in graph.operators:
        place, axis = WEIGHTS.get(graph.kind(operator), (0, 0))
        weights = graph.constant(int(operator.inputs[place])) if place else None
        if weights is None or weights.size < 1024:
            continue
        others = tuple(i for i in range(weights.ndim) if i != axis)
        step = np.maximum(np.abs(weights).max(axis=others, keepdims=True) / 127, 1e-30)
        rounded = (np.round(weights / step) * step).astype(np.float32)
        buffer = graph.model.buffers[graph.tensor(int(operator.inputs[place])).buffer]
        buffer.data = np.frombuffer(rounded.tobytes(), np.uint8)
    return graph.to_bytes()


def stored(graph: Graph, operator: Any) -> str:
    types = {number: name for name, number in vars(graph.schema.TensorType).items()}
    return str(types[graph.tensor(int(operator.inputs[WEIGHTS[graph.kind(operator)][0]])).type])


@pytest.mark.parametrize("resolver", RESOLVERS)
def test_w8_computes_as_the_float_file_does_with_rounded_weights(plain: bytes, made: Any, resolver: str) -> None:
    content, _ = made("w8")
    expected = run(with_rounded_weights(plain), resolver)
    np.testing.assert_allclose(run(content, resolver), expected, rtol=1e-4, atol=1e-5)
    assert 25 < sqnr(run(plain), expected) < 80, "rounding shows"


def test_w8_dequantizes_each_weight_once(made: Any) -> None:
    graph = Graph(made("w8")[0])
    kinds = [graph.kind(operator) for operator in graph.operators]
    assert kinds.count("DEQUANTIZE") == 4, "one for the convolution that is there twice"
    assert kinds[:4] == ["DEQUANTIZE"] * 4
    assert not any(graph.kind(o) != "DEQUANTIZE" and stored(graph, o) == "INT8" for o in graph.operators)


def test_xnnpack_takes_a_w8_file_whole(made: Any) -> None:
    interpreter = Interpreter(model_content=made("w8")[0], num_threads=1)
    interpreter.allocate_tensors()
    assert [d["op_name"] for d in interpreter._get_ops_details()].count("DELEGATE") == 1


@pytest.mark.parametrize("resolver", RESOLVERS)
def test_dynamic_rounds_what_convolutions_read(plain: bytes, made: Any, resolver: str) -> None:
    content, _ = made("dynamic")
    assert sqnr(run(plain), run(content, resolver)) > 25
    rounded = with_rounded_weights(plain)
    assert sqnr(run(rounded, resolver), run(content, resolver)) < 60, "activations are rounded, too"


def test_dynamic_hands_int8_weights_to_the_kernels_that_compute_in_integers(made: Any) -> None:
    graph = Graph(made("dynamic")[0])
    types = [(graph.kind(o), stored(graph, o)) for o in graph.operators if graph.kind(o) in WEIGHTS]
    assert types.count(("CONV_2D", "INT8")) == 4
    assert [kind for kind, dtype in types if dtype == "FLOAT32"].count("DEPTHWISE_CONV_2D") == 1


@pytest.mark.parametrize("precision", ["w8", "dynamic"])
def test_small_weights_stay_and_are_named(made: Any, precision: str) -> None:
    content, said = made(precision)
    assert said.kept_float
    graph = Graph(content)
    small = {graph.label(o) for o in graph.operators if graph.kind(o) in WEIGHTS and stored(graph, o) == "FLOAT32"}
    assert {name.partition(":")[0] for name in said.kept_float} == {"CONV_2D"}
    assert set(said.kept_float) <= small
    assert "a scale per output channel" in said.recipe


@pytest.mark.parametrize("precision", ["w8", "dynamic"])
def test_files_are_small_and_the_same_each_time(plain: bytes, made: Any, precision: str, tmp_path: Path) -> None:
    content, _ = made(precision)
    weights = sum(p.numel() for p in Layers().parameters())
    assert len(plain) - len(content) > 2 * weights
    again = tmp_path / "x.tflite"
    again.write_bytes(plain)
    compress_weights(again, precision)
    assert again.read_bytes() == content


def test_refuses_what_it_cannot_do(plain: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.tflite"
    path.write_bytes(plain)
    with pytest.raises(OptionError, match=r"w4.*w8"):
        compress_weights(path, "w4")
    assert path.read_bytes() == plain
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(UsageError, match="not a TFLite file"):
        compress_weights(path, "w8")
