"""How operators hang together, read from files of every kind: of a turn, a convolution and a turn back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mobileseg.converters.executorch.delegates import DELEGATES, delegate_named
from mobileseg.errors import UnavailableError
from mobileseg.validation.wiring import Value, Wiring, read_wiring, vulkan
from mobileseg.validation.wiring.needless import needless

SIZE = (6, 10)
THERE, BACK = (0, 3, 1, 2), (0, 2, 3, 1)


class Turned(nn.Module):
    """Takes and gives (1, H, W, C)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.conv(x.permute(*THERE)).permute(*BACK)
        return result


def example() -> tuple[Tensor]:
    return (torch.zeros(1, *SIZE, 3),)


def assert_is_a_chain(wiring: Wiring) -> None:
    """Each operator reads what the one before it gives, and the last gives the file's output."""
    for before, after in zip(wiring.operators, wiring.operators[1:], strict=False):
        assert before.outputs == after.inputs
    assert wiring.operators[-1].outputs == wiring.outputs
    assert {*wiring.outputs, *wiring.operators[0].inputs} <= wiring.values.keys()


def test_onnx(make_onnx: Callable[..., Path]) -> None:
    wiring = read_wiring(make_onnx(channels_last=True))
    assert [(o.kind, o.order) for o in wiring.operators] == [
        ("Cast", ()),
        ("Transpose", THERE),
        ("Conv", ()),
        ("Transpose", BACK),
    ]
    assert_is_a_chain(wiring)
    assert wiring.values[wiring.operators[2].outputs[0]].shape == (1, 4, *SIZE)
    # The Cast is from float32 to float32.
    assert len(needless(wiring)) == 1


def tflite_file(path: Path) -> Path:
    """(1, 6, 10, 3) uint8 -> QUANTIZE to int8 -> TRANSPOSE."""
    schema = pytest.importorskip("ai_edge_litert.schema_py_generated", reason="pip install 'mobileseg[tflite]'")
    from mobileseg.converters.tflite.flatbuffer import operator_code, write

    model, graph = schema.ModelT(), schema.SubGraphT()
    model.version, model.operatorCodes, model.subgraphs = 3, [], [graph]
    model.buffers = [schema.BufferT(), schema.BufferT()]
    model.buffers[1].data = np.frombuffer(np.array(THERE, np.int32).tobytes(), np.uint8)
    graph.tensors, graph.operators, graph.inputs, graph.outputs = [], [], [0], [3]
    tensors = [("UINT8", (1, *SIZE, 3), 128), ("INT8", (1, *SIZE, 3), 0), ("INT32", (4,), None)]
    for kind, shape, zero_point in [*tensors, ("INT8", (1, 3, *SIZE), 0)]:
        tensor = schema.TensorT()
        tensor.name, tensor.shape, tensor.type = f"tensor {len(graph.tensors)}", shape, getattr(schema.TensorType, kind)
        tensor.buffer = 1 if kind == "INT32" else 0
        if zero_point is not None:
            tensor.quantization = schema.QuantizationParametersT()
            tensor.quantization.scale, tensor.quantization.zeroPoint = [0.5], [zero_point]
        graph.tensors.append(tensor)
    for kind, inputs, outputs in (("QUANTIZE", [0], [1]), ("TRANSPOSE", [1, 2], [3])):
        operator = schema.OperatorT()
        operator.opcodeIndex = operator_code(model, getattr(schema.BuiltinOperator, kind))
        operator.inputs, operator.outputs = inputs, outputs
        graph.operators.append(operator)
    path.write_bytes(write(model))
    return path


def test_tflite(tmp_path: Path) -> None:
    wiring = read_wiring(tflite_file(tmp_path / "turned.tflite"))
    assert [(o.kind, o.name, o.order) for o in wiring.operators] == [
        ("QUANTIZE", "tensor 1", ()),
        ("TRANSPOSE", "tensor 3", THERE),
    ]
    assert_is_a_chain(wiring)
    before, after = (wiring.values[o.outputs[0]] for o in wiring.operators)
    assert before == Value((1, *SIZE, 3), "int8", 0.5, 0)
    assert after.shape == (1, 3, *SIZE)
    assert needless(wiring) == ()


def test_core_ml(make_mlpackage: Callable[..., Path]) -> None:
    wiring = read_wiring(make_mlpackage())
    assert [o.kind for o in wiring.operators] == ["mul", "conv", "relu", "conv", "conv"]
    assert_is_a_chain(wiring)
    assert wiring.values[wiring.outputs[0]].dtype == "fp32"


def test_compressed_weights_of_core_ml_are_no_operators(make_mlpackage: Callable[..., Path]) -> None:
    kinds = [o.kind for o in read_wiring(make_mlpackage("w8")).operators]
    assert [kind for kind in kinds if kind != "cast"] == ["mul", "conv", "relu", "conv", "conv"]


@pytest.fixture(scope="module")
def make_pte(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    pytest.importorskip("executorch.exir", reason="install the extra: pip install 'mobileseg[executorch]'")
    from executorch.exir import to_edge_transform_and_lower

    def make(delegate: str) -> Path:
        chosen = delegate_named(delegate)
        for module in chosen.modules:
            pytest.importorskip(module, reason=f"install the extra: pip install 'mobileseg[{chosen.extra}]'")
        program = torch.export.export(Turned().eval(), example())
        edge = to_edge_transform_and_lower(program, partitioner=chosen.partitioners())
        path = tmp_path_factory.mktemp(delegate) / "turned.pte"
        path.write_bytes(edge.to_executorch().buffer)
        return path

    return make


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("delegate", DELEGATES)
def test_executorch(make_pte: Callable[[str], Path], delegate: str) -> None:
    wiring = read_wiring(make_pte(delegate))
    # XNNPACK gets turns of ExecuTorch's own, too.
    assert {THERE, BACK} <= {o.order for o in wiring.operators}
    assert any("conv" in o.kind.lower() for o in wiring.operators)
    assert_is_a_chain(wiring)


def test_a_payload_of_vulkan_in_another_form_is_told() -> None:
    with pytest.raises(UnavailableError, match="Convert it again"):
        vulkan.read(b"\0" * 64)
