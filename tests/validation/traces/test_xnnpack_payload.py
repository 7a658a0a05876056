"""The graph inside a call of XNNPACK: int8 files of ExecuTorch's own quantizer, and the payload read and written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple, cast

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mobileseg.errors import UnavailableError
from mobileseg.validation.graphs.executorch import deserialized
from mobileseg.validation.traces import trace_artifact, xnnpack
from mobileseg.validation.traces.base import Trace

pytest.importorskip("executorch.exir", reason="install the extra: pip install 'mobileseg[executorch]'")

SIZE = (16, 24)


class Quantizable(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.last = nn.Conv2d(16, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.first(x))
        z = self.depthwise(F.max_pool2d(y, 2))
        z = F.interpolate(z, scale_factor=2.0, mode="bilinear", align_corners=False)
        return cast("Tensor", self.last(torch.cat([y, z + y], 1)))


class Linear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(SIZE[1], 8)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.linear(x * 2))


class Made(NamedTuple):
    """A file; the module with quantizations and dequantizations that it was made of."""

    path: Path
    module: Any
    trace: Trace


def picture(seed: int = 0) -> Tensor:
    return (torch.rand(1, 3, *SIZE, generator=torch.Generator().manual_seed(seed)) * 255).round()


def made(folder: Path, network: nn.Module, **configuration: bool) -> Made:
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
        XNNPACKQuantizer,
        get_symmetric_quantization_config,
    )
    from executorch.exir import to_edge_transform_and_lower
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    exported = torch.export.export(network, (picture(),)).module()
    quantizer = XNNPACKQuantizer().set_global(get_symmetric_quantization_config(is_per_channel=True, **configuration))
    prepared = prepare_pt2e(exported, quantizer)
    for seed in range(3):
        prepared(picture(seed))
    module = convert_pt2e(prepared)
    edge = to_edge_transform_and_lower(torch.export.export(module, (picture(),)), partitioner=[XnnpackPartitioner()])
    path = folder / f"{type(network).__name__.lower()}.pte"
    path.write_bytes(edge.to_executorch().buffer)
    return Made(path, module, trace_artifact(path, picture().numpy(), folder))


def seeded(build: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return build().eval()


def values(module: Any) -> dict[str, Tensor]:
    """What each node of the module gives, by its name."""
    found: dict[str, Tensor] = {}

    class Listening(torch.fx.Interpreter):
        def run_node(self, node: torch.fx.Node) -> Any:
            found[node.name] = result = super().run_node(node)
            return result

    with torch.no_grad():
        Listening(module).run(picture())
    return found


@pytest.fixture(scope="module")
def int8(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return made(tmp_path_factory.mktemp("int8"), seeded(Quantizable))


def payload(path: Path) -> bytes:
    (data,) = deserialized(path).program.backend_delegate_data
    return bytes(data.data)


def test_int8_values_stand_for_what_torch_has_there_within_a_step(int8):
    torchs, trace = values(int8.module), int8.trace
    for name in ("relu", "max_pool2d", "conv2d_1", "upsample_bilinear2d", "add", "cat", "conv2d_2"):
        want = torchs[name].numpy()
        steps_off = min(
            float(np.abs(trace.value(key).transpose(0, 3, 1, 2) - want).max()) / spec.scale
            for key, spec in trace.specs.items()
            if spec.dtype == "int8" and spec.scale and np.take(spec.shape, (0, 3, 1, 2)).tolist() == list(want.shape)
        )
        assert steps_off <= 1.001, name


def test_scales_and_zero_points_are_those_of_the_quantizer(int8):
    quantizations = [node for node in int8.module.graph.nodes if "quantize_per_tensor" in str(node.target)]
    wanted = {(float(np.float32(node.args[1])), node.args[2]) for node in quantizations}
    found = {(spec.scale, spec.zero_point) for spec in int8.trace.specs.values() if spec.dtype == "int8"}
    assert len(found) >= 4
    assert found <= wanted


def test_the_clamp_that_an_operator_ends_with_is_named(int8):
    operators = [step.operator for step in int8.trace.steps]
    assert operators.count("Conv2d+Clamp") == 1
    assert {"Convert", "Conv2d", "DepthwiseConv2d", "StaticResizeBilinear2D", "Add"} <= set(operators)


def test_constants_are_no_inputs(int8):
    (convolution,) = [step for step in int8.trace.steps if step.operator == "DepthwiseConv2d"]
    (pooling,) = [step for step in int8.trace.steps if step.operator == "MaxPooling2d"]
    assert convolution.inputs == pooling.outputs


def test_what_only_xnnpack_can_read_is_left_out(tmp_path):
    """Numbers that are quantized as they come: each row has a scale of its own."""
    trace = made(tmp_path, seeded(Linear), is_dynamic=True).trace
    product, linear = trace.steps
    assert (product.operator, linear.operator) == ("Multiply", "FullyConnected+Clamp")
    assert linear.inputs == product.outputs
    np.testing.assert_allclose(trace.value(product.outputs[0]), picture().numpy() * 2)


def test_a_payload_written_anew_is_the_same_graph(int8):
    old = payload(int8.path)
    new = xnnpack.handing_out(old, [])
    assert xnnpack.read(new) == xnnpack.read(old)
    assert xnnpack.handing_out(new, []) == new


def test_values_handed_out_come_after_those_that_were(int8):
    network = xnnpack.read(payload(int8.path))
    inner = [key for node in network.nodes for key in node.outputs if network.values[key].external is None]
    externals = [value.external for value in network.values.values() if value.external is not None]
    changed = xnnpack.read(xnnpack.handing_out(payload(int8.path), inner[:3])).values
    assert [changed[key].external for key in inner[:3]] == [max(externals) + n for n in (1, 2, 3)]
    assert changed[inner[3]].external is None


def test_a_delegate_that_is_not_here_is_refused_before_anything_is_run(int8, tmp_path):
    path = tmp_path / "other.pte"
    path.write_bytes(int8.path.read_bytes().replace(b"XnnpackBackend", b"NoSuchBackend1"))
    with pytest.raises(UnavailableError, match=r"NoSuchBackend1 runs them as one.*--delegate xnnpack"):
        trace_artifact(path, picture().numpy(), tmp_path)


def test_an_older_concatenation_of_two_has_two_inputs():
    none = 0xFFFFFFFF
    old = {"input1Id": 4, "input2Id": 5, "input3Id": none, "input4Id": none, "outputId": 6, "flags": 0, "input5Id": 0}
    node = SimpleNamespace(xnodeUnion=SimpleNamespace(**old), debugHandle=65535, outputMinMax=None)
    assert xnnpack._node("Concatenate2", node) == xnnpack.Node("Concatenate2", None, (4, 5), (6,))


def test_a_payload_without_a_header_is_refused(int8):
    with pytest.raises(UnavailableError, match="first versions of ExecuTorch"):
        xnnpack.read(payload(int8.path)[32:])
