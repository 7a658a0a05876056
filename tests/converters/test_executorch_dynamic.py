"""ExecuTorch files for XNNPACK whose convolutions compute in integers, by ranges that are found as they run."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mobileseg.channel_rounding import along, round_channels
from mobileseg.converters.executorch import TARGET
from mobileseg.converters.export import Deployed, export, rewrite
from mobileseg.converters.forms import forms_for
from mobileseg.converters.target import Lowering
from mobileseg.errors import OptionError

pytest.importorskip("executorch.exir", reason="install the extra: pip install 'mobileseg[executorch]'")

from executorch.runtime import Runtime

from mobileseg.converters.executorch.delegates import xnnpack
from mobileseg.converters.executorch.delegates.xnnpack_orders import kind, tensor

SIZE = (32, 32)


class Layers(nn.Module):
    """Convolutions that read the picture, what others read, and what an unpooling puts together (as many channels as
    rows: the shape does not tell the order of the axes); one used twice, a depthwise, a small and a transposed one."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 48, 3, padding=1)
        self.twice = nn.Conv2d(48, 48, 1, bias=False)
        self.wide = nn.Conv2d(48, 128, 1)
        self.depthwise = nn.Conv2d(128, 128, 3, padding=1, groups=128)
        self.narrow = nn.Conv2d(128, 32, 1)
        self.inner = nn.Conv2d(32, 32, 3, padding=1)
        self.blocks = nn.Conv2d(32, 32, 3, padding=1)
        self.small = nn.Conv2d(32, 8, 1)
        self.last = nn.ConvTranspose2d(8, 5, 2, stride=2)
        for parameter in self.parameters():
            if parameter.ndim > 1:  # else biases would make most of the result
                nn.init.kaiming_normal_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x))
        x = torch.relu(self.twice(torch.relu(self.twice(x))) + x)
        x = torch.relu(self.narrow(torch.relu(self.depthwise(torch.relu(self.wide(x))))))
        y, indices = nn.functional.max_pool2d(x, 2, return_indices=True)
        x = nn.functional.max_unpool2d(torch.relu(self.inner(y)), indices, 2)
        logits: Tensor = self.last(torch.relu(self.small(torch.relu(self.blocks(x)))))
        return logits


class Case:
    """A file in a precision, and the graphs that were written into it."""

    def __init__(self, path: Path, graphs: list[Any]) -> None:
        self.program = Runtime.get().load_program(path.read_bytes())
        self.content, (self.graph,) = path.read_bytes(), graphs
        self.kinds = Counter(kind(node) for node in self.graph.xnodes)

    def run(self, picture: Tensor) -> Tensor:
        (result,) = self.program.load_method("forward").execute([picture])
        return result.clone()

    @property
    def delegation(self) -> Any:
        return json.loads(self.program.load_method("delegation").execute([])[0])


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    return Layers().eval().requires_grad_(False)


def lowered(network: nn.Module, precision: str, path: Path) -> Case:
    from executorch.backends.xnnpack import xnnpack_preprocess

    graphs: list[Any] = []
    serialize = xnnpack_preprocess.serialize_xnnpack_binary

    def written(graph: Any, constants: Any) -> Any:
        graphs.append(graph)
        return serialize(graph, constants)

    rewritten = rewrite(export(Deployed(network, None, "logits"), SIZE), "executorch", precision)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(xnnpack_preprocess, "serialize_xnnpack_binary", written)
        TARGET.lower(rewritten, Lowering(precision, "logits", {}), path)
    return Case(path, graphs)


@pytest.fixture(scope="module")
def made(network: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Case]:
    folder, done = tmp_path_factory.mktemp("dynamic"), dict[str, Case]()

    def make(precision: str) -> Case:
        if precision not in done:
            done[precision] = lowered(network, precision, folder / f"{precision}.pte")
        return done[precision]

    return make


def picture() -> Tensor:
    return torch.rand((1, 3, *SIZE), generator=torch.Generator().manual_seed(0))


def sqnr(expected: Tensor, found: Tensor) -> float:
    return float(10 * torch.log10(expected.square().mean() / (expected - found).square().mean()))


def large(network: nn.Module) -> dict[str, nn.Conv2d]:
    """The convolutions that compute in integers."""
    return {
        name: m
        for name, m in network.named_modules()
        if isinstance(m, nn.Conv2d) and m.groups == 1 and m.weight.numel() >= 1024
    }


def rounded(module: nn.Module, arguments: tuple[Tensor, ...]) -> Tensor:
    """What a convolution reads, to 8 bits between its extremes."""
    (x,) = arguments
    low, high = min(float(x.min()), 0.0), max(float(x.max()), 0.0)
    step = (high - low) / 255
    return torch.fake_quantize_per_tensor_affine(x, step, round(-128 - low / step), -128, 127)


def test_it_computes_what_the_network_computes_with_rounded_weights_and_inputs(tmp_path: Path) -> None:
    torch.manual_seed(1)
    # 3x3: XNNPACK's 1x1 convolutions come out nearer to the float ones than one range explains.
    layers = nn.Conv2d(3, 48, 3, padding=1), nn.PReLU(), nn.Conv2d(48, 40, 3, padding=1)
    network = nn.Sequential(*layers).requires_grad_(False)
    found = lowered(network.eval(), "dynamic", tmp_path / "x.pte").run(picture())
    exact = network(picture())
    for module in large(network).values():
        numbers, scales = round_channels(module.weight.numpy(), 0)
        module.weight.copy_(torch.from_numpy(numbers * along(scales, 0, 4)))
        module.register_forward_pre_hook(rounded)
    assert sqnr(exact, found) > 30.0
    # Numbers halfway between two steps go to one here and to the other there.
    assert sqnr(network(picture()), found) > sqnr(exact, found) + 10.0


def test_networks_with_every_kind_of_layer_stay_near(network: nn.Module, made: Any) -> None:
    """Where an unpooling puts a value changes with the last step of a maximum."""
    expected = network(picture())
    assert sqnr(expected, made("fp32").run(picture())) > 80.0
    assert sqnr(expected, made("dynamic").run(picture())) > 10.0


def test_one_call_takes_everything(made: Any) -> None:
    delegation = made("dynamic").delegation
    assert len(delegation["calls"]) == 1
    assert delegation["left"] == {}


def test_what_is_read_twice_is_rounded_once_and_weights_are_there_once(network: nn.Module, made: Any) -> None:
    plain, case = made("fp32"), made("dynamic")
    assert case.kinds - plain.kinds == {"XNNConvert": len(large(network)) + 1}, "one layer is used twice"
    types = Counter(tensor(value).datatype.name for value in case.graph.xvalues)
    assert types["xnn_datatype_qdint8"] == len(large(network)) + 1
    assert types["xnn_datatype_qcint8"] == len(large(network))
    weights = sum(m.weight.numel() for m in large(network).values())
    assert len(plain.content) - len(case.content) > 2.5 * weights


def test_the_file_says_how_its_weights_are_stored(network: nn.Module, made: Any) -> None:
    assert made("fp32").delegation["constants"].keys() == {"float32"}
    delegation = made("dynamic").delegation
    assert delegation["constants"]["int8"] == len(large(network))
    layers = {name: (dtype, size) for name, _, dtype, size in delegation["layers"]}
    module = network.get_submodule("blocks")
    found = next(value for name, value in layers.items() if "blocks" in name)
    assert found == ("int8", module.weight.numel() + 4 * 32 + 4 * 32), "numbers, scales, bias"
    assert next(value for name, value in layers.items() if "depthwise" in name)[0] == "float32"


def test_any_range_of_inputs_gives_finite_results(made: Any) -> None:
    for level in (0.0, 1e-30, 1e6):
        assert torch.isfinite(made("dynamic").run(torch.full((1, 3, *SIZE), level))).all(), level


def test_two_lowerings_write_the_same_bytes(network: nn.Module, made: Any, tmp_path: Path) -> None:
    path = tmp_path / "again.pte"
    rewritten = rewrite(export(Deployed(network, None, "logits"), SIZE), "executorch", "dynamic")
    TARGET.lower(rewritten, Lowering("dynamic", "logits", {}), path)
    assert np.array_equal(np.frombuffer(path.read_bytes(), np.uint8), np.frombuffer(made("dynamic").content, np.uint8))


def test_other_delegates_have_it_not() -> None:
    assert xnnpack.DELEGATE.name == "xnnpack"
    with pytest.raises(OptionError, match="executorch-vulkan has no precision dynamic"):
        forms_for(TARGET.backend({"delegate": "vulkan"}), "dynamic")
