"""A weight that passes made anew keeps its name in the network, up to the finished file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from mobileseg.converters.export import Deployed, export, rewrite
from mobileseg.converters.passes.base import add_constant, module_of, name_of
from mobileseg.converters.target import Lowering
from mobileseg.types import Preprocessing
from mobileseg.validation.graphs import read_graph

SIZE = (16, 24)


class Encoder(nn.Module):
    """A normalization behind a convolution, and one that stands alone."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(16)
        self.after = nn.BatchNorm2d(16)
        self.last = nn.Conv2d(16, 4, 1)
        for norm in (self.norm, self.after):
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.normal_(norm.bias)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.last(self.after(torch.relu(self.norm(self.conv(x)))).tanh())
        return logits


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = Encoder()

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.encoder(x)
        return logits


@pytest.fixture(scope="module")
def exported():
    torch.manual_seed(0)
    return export(Deployed(Network().eval(), Preprocessing("none"), "logits"), SIZE)


FOLDED, KEPT = "network_encoder_conv_weight", "network_encoder_after_gain"


@pytest.mark.parametrize("form", ["executorch", "tflite", "coreml", "onnx"])
def test_what_passes_fold_keeps_its_name(exported, form):
    module = rewrite(exported, form, "fp32").module
    targets = {str(node.target) for node in module.graph.nodes if node.op == "get_attr"}
    for name in (FOLDED, KEPT, "network_encoder_conv_bias", "network.encoder.last.weight"):
        assert [target for target in targets if target.startswith(name)]


def test_a_weight_made_of_one_twice_has_a_number_and_one_made_of_none_its_own_name(exported):
    module = rewrite(exported, "coreml", "fp32").module
    node = next(n for n in module.graph.nodes if n.op == "get_attr" and n.target == FOLDED)
    first = add_constant(module, node, "unused", torch.ones(2), node)
    second = add_constant(module, node, "unused", torch.ones(2), first)
    bias = add_constant(module, node, "unused", torch.ones(2), node, "offset")
    alone = add_constant(module, node, "pool.2_weight", torch.ones(2), module.graph.output_node())
    names = [str(n.target) for n in (first, second, bias, alone)]
    assert names == [f"{FOLDED}_1", f"{FOLDED}_2", "network_encoder_conv_offset", "pool_2_weight"]
    assert [name_of(n) for n in (first, second)] == [FOLDED, FOLDED]
    assert name_of(module.graph.output_node()) is None


@pytest.mark.parametrize("target", ["tflite", "onnx", "coreml", "executorch"])
def test_operators_that_a_rewriting_writes_are_of_the_module_that_they_stand_for(exported, target: str):
    module = rewrite(exported, target, "int8").module
    calls = [n for n in module.graph.nodes if n.op == "call_function"]
    assert {module_of(n) for n in calls} <= {module_of(n) for n in exported.program.graph.nodes}
    written = [n for n in calls if "nn_module_stack" not in n.meta]
    assert [n for n in written if module_of(n).startswith("network.")]
    assert module_of(module.graph.output_node()) == ""


@pytest.mark.parametrize(
    ("target", "package", "form", "suffix", "precision"),
    [
        ("tflite", "litert_torch", "tflite", ".tflite", "fp32"),
        ("tflite", "litert_torch", "tflite", ".tflite", "fp16"),
        ("executorch", "executorch.exir", "executorch", ".pte", "fp32"),
        ("onnx", "onnx", "onnx", ".onnx", "fp32"),
    ],
)
def test_names_reach_the_file(exported, tmp_path: Path, target, package, form, suffix, precision):
    from importlib import import_module

    pytest.importorskip(package, reason=f"install the extra: pip install 'mobileseg[{target}]'")
    path = tmp_path / f"network{suffix}"
    metadata = {"input": {"layout": "NCHW"}, "output": {"layout": "NCHW"}}
    lowering = Lowering(precision, "logits", metadata, {})
    import_module(f"mobileseg.converters.{target}").TARGET.lower(rewrite(exported, form, precision), lowering, path)
    assert KEPT.encode() in path.read_bytes()
    if target != "onnx":
        assert any(layer.name.startswith(KEPT) for layer in read_graph(path).layers)


def test_what_a_tflite_computes_is_called_after_its_operator(exported, tmp_path: Path):
    pytest.importorskip("litert_torch", reason="install the extra: pip install 'mobileseg[tflite]'")
    from mobileseg.converters.tflite import TARGET

    path = tmp_path / "network.tflite"
    metadata = {"input": {"layout": "NHWC"}, "output": {"layout": "NHWC"}}
    TARGET.lower(rewrite(exported, "tflite", "fp32"), Lowering("fp32", "logits", metadata, {}), path)
    content = path.read_bytes()
    assert b"conv_2d_" in content
    assert b"_ChannelsLast;" not in content
