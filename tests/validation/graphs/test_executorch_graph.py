"""The graph reader of ExecuTorch files, on files of ExecuTorch's own tools: transposed convolutions, operators that are
not known, branches, pictures of more than one size, and delegates that nothing here can look into."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from mobileseg.errors import MissingExtraError
from mobileseg.types import NotRun
from mobileseg.validation.graphs import Graph, delegates, read_graph

pytest.importorskip("executorch.exir", reason="install the extra: pip install 'mobileseg[executorch]'")
SHAPE = (1, 6, 4, 5)
NARROWER, WIDER = 4, 16


class Of(nn.Module):
    """What a function makes of the picture and of a layer of its own."""

    def __init__(self, function: Callable[..., Tensor], *layers: nn.Module) -> None:
        super().__init__()
        self.function, self.layers = function, nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, *self.layers)


class Branching(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return cast("Tensor", torch.cond(x.sum() > 0, lambda y: y + 1, lambda y: y - 1, (x,)))


def written(
    path: Path, module: nn.Module, delegate: str = "", heights: Any = None, shape: Sequence[int] = SHAPE
) -> Path:
    from executorch.backends.vulkan.partitioner.vulkan_partitioner import VulkanPartitioner
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    known = {"": [], "xnnpack": [XnnpackPartitioner], "vulkan": [VulkanPartitioner]}
    program = torch.export.export(module.eval(), (torch.ones(*shape),), dynamic_shapes=heights and ({2: heights},))
    edge = to_edge_transform_and_lower(program, partitioner=[maker() for maker in known[delegate]])
    path.write_bytes(edge.to_executorch().buffer)
    return path


@pytest.fixture
def made(tmp_path: Path) -> Callable[..., Graph]:
    return lambda *given, **more: read_graph(written(tmp_path / "made.pte", *given, **more))


@pytest.fixture(scope="module")
def convolved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A convolution for XNNPACK, between two searches along the channels that it leaves."""

    def function(x: Tensor, layer: nn.Module) -> Tensor:
        return cast("Tensor", layer(x - x.argmax(1, keepdim=True)).argmax(1))

    module = Of(function, nn.Conv2d(6, 4, 3, padding=1))
    return written(tmp_path_factory.mktemp("pte") / "convolved.pte", module, "xnnpack")


@pytest.mark.parametrize("delegate", ["", "xnnpack", "vulkan"])
def test_a_transposed_convolution(made, delegate):
    graph = made(Of(lambda x, layer: layer(x), nn.ConvTranspose2d(6, 3, 2, stride=2)), delegate)
    (operation,) = (o for o in graph.operations if o.macs != 0)
    assert (operation.kind, operation.macs) == ("transposed convolution", 20 * 6 * 3 * 4)
    assert operation.bytes_moved == 4 * (120 + 6 * 3 * 4 + 3 + 3 * 80)
    assert operation.delegated == bool(delegate)


@pytest.mark.parametrize("delegate", ["", "xnnpack"])
def test_a_product_of_two_values(made, delegate):
    graph = made(Of(lambda x: torch.matmul(x, x.transpose(2, 3).sigmoid())), delegate)
    (product,) = (o for o in graph.operations if o.macs)
    assert (product.kind, product.macs) == ("matrix product", 6 * 4 * 4 * 5)


def test_what_xnnpack_leaves_is_around_its_call(convolved):
    graph = read_graph(convolved)
    assert [(o.operator, o.delegated) for o in graph.operations] == [
        ("aten.argmax", False),
        ("dim_order_ops._to_dim_order_copy", False),
        *(("Subtract", True), ("StaticTranspose", True), ("Conv2d", True), ("StaticTranspose", True)),
        ("aten.argmax", False),
    ]
    assert graph.delegation.partitions == 1
    assert graph.delegation.operators == {"StaticTranspose": 2, "Conv2d": 1, "Subtract": 1}
    assert graph.delegation.left["aten.argmax"] == "the file does not say why"
    # An operator of a call bears no number of the call where there is one alone.
    assert graph.operations[4].name == "node 2"


def test_values_live_across_the_border_of_a_call(convolved):
    """The picture, where its maxima are as float32, and the difference: the first operator inside."""
    graph = read_graph(convolved)
    assert (graph.peak.bytes, graph.peak.operation) == (4 * (120 + 20 + 120), 2)
    assert graph.operations[0].bytes_written == 8 * 20


def test_operators_that_are_not_known_count_their_bytes(made):
    graph = made(Of(lambda x: torch.cdist(x, x + 1)))
    (operation,) = (o for o in graph.operations if o.macs is None)
    assert (operation.operator, operation.kind) == ("aten._cdist_forward", "unknown")
    assert (operation.bytes_read, operation.bytes_written) == (2 * 4 * 120, 4 * 6 * 4 * 4)
    assert isinstance(graph.delegation, NotRun)


def test_branches_are_said(made):
    graph = made(Branching())
    assert {"aten.add", "aten.sub"} <= {o.operator for o in graph.operations}
    assert graph.notes == ("The file has branches: each operator is counted once, whether it is run or not.",)


@pytest.mark.parametrize("delegate", ["", "xnnpack"])
def test_the_largest_of_the_sizes_is_counted_and_said(made, delegate):
    heights = torch.export.Dim("height", min=NARROWER, max=WIDER)
    graph = made(Of(lambda x, layer: layer(x), nn.Conv2d(6, 4, 1)), delegate, heights, shape=(1, 6, 8, 5))
    (operation,) = (o for o in graph.operations if o.macs)
    assert operation.macs == WIDER * 5 * 24
    assert graph.notes == ("The file takes pictures of more than one size: costs are those of the largest.",)


def test_a_delegate_that_cannot_be_looked_into_is_one_operator(convolved, monkeypatch):
    monkeypatch.delitem(delegates._READERS, "XnnpackBackend")
    graph = read_graph(convolved)
    (call,) = (o for o in graph.operations if o.operator == "XnnpackBackend")
    assert (call.kind, call.macs, call.delegated) == ("unknown", None, True)
    # The picture and where its maxima are come in; what goes out is the convolution's.
    assert (call.bytes_read, call.bytes_written) == (4 * (120 + 20), 4 * 4 * 20)
    assert graph.notes == ("What XnnpackBackend is handed is not counted: it is in a form of its own.",)


def test_what_reads_a_payload_may_be_missing(convolved, monkeypatch):
    def missing(identifier: str, payload: bytes) -> None:
        raise MissingExtraError("coreml", "coremltools")

    monkeypatch.setattr("mobileseg.validation.graphs.executorch.read_payload", missing)
    (note,) = read_graph(convolved).notes
    assert "mobileseg[coreml]" in note


@pytest.mark.parametrize("identifier", ["CoreMLBackend", "VulkanBackend", "XnnpackBackend"])
@pytest.mark.parametrize("payload", [b"", b"no payload", bytes(100), b"\0\0\0\0VH00" + bytes(200)])
def test_a_payload_of_another_form_is_told_apart(identifier, payload):
    from mobileseg.errors import UnavailableError

    pytest.importorskip("coremltools")
    with pytest.raises(UnavailableError):
        delegates.read_payload(identifier, payload)
