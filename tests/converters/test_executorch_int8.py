"""ExecuTorch files for XNNPACK in int8: one call, int8 between its ends, and what the plan's simulation gives."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mobileseg.architectures.enet_network import Activations, Downsampling, InitialBlock, Shape, Upsampling
from mobileseg.converters.executorch import TARGET
from mobileseg.converters.export import Deployed, export, rewrite
from mobileseg.converters.target import Lowering
from mobileseg.quantization.program.insert import inserted
from mobileseg.quantization.program.plan import Plan, plan_for, ranges_of
from mobileseg.quantization.program.simulate import Simulator, observe
from mobileseg.quantization.program.values import units_of, values_of
from mobileseg.quantization.ranges import extremes

pytest.importorskip("executorch.exir", reason="install the extra: pip install 'mobileseg[executorch]'")

from executorch.runtime import Runtime

from mobileseg.converters.executorch.delegates import xnnpack
from mobileseg.converters.executorch.delegates.xnnpack_int8 import parameters
from mobileseg.converters.executorch.delegates.xnnpack_orders import inputs, kind, outputs, tensor

SIZE = (32, 48)


class Unpooling(nn.Module):
    """ENet's blocks around its pooling and unpooling, PReLU with a slope per channel."""

    def __init__(self) -> None:
        super().__init__()
        acts = Activations(nn.PReLU, nn.PReLU())
        self.initial = InitialBlock(16, nn.PReLU(16))
        self.down = Downsampling(Shape(16, 24, 4, 1), acts, 0.1)
        self.up = Upsampling(Shape(24, 16, 4, 1), acts, 0.1)
        self.last = nn.ConvTranspose2d(16, 5, 3, 2, padding=1, output_padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.initial(x)
        z, indices = self.down(y)
        return cast("Tensor", self.last(self.up(z, indices, list(y.shape[-2:]))))


class Pyramid(nn.Module):
    """Branches with scales of their own put together, a gain behind them, averages, a sigmoid, a bilinear resizing."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, 2, padding=1)
        self.wide = nn.Conv2d(8, 8, 3, padding=2, dilation=2)
        self.norm = nn.BatchNorm2d(16)
        self.gate, self.last = nn.Conv2d(16, 16, 1), nn.Conv2d(16, 5, 1)
        self.act = nn.PReLU(16)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.first(x))
        z = self.act(self.norm(torch.cat([y, 3 * self.wide(y)], 1)))
        z = z + torch.sigmoid(self.gate(F.avg_pool2d(z, 3, 1, 1)))
        return cast("Tensor", F.interpolate(self.last(z), scale_factor=2, mode="bilinear"))


class Rows(nn.Module):
    """A transposed convolution of two rows by two unlike kernels, which share its bias."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.up = nn.Conv2d(3, 8, 3, padding=1), nn.ConvTranspose2d(8, 6, 3, 2, 1, output_padding=1)
        with torch.no_grad():
            self.up.weight[:, :, 1] *= 0.02
            self.up.weight *= 0.01
        nn.init.constant_(cast("Tensor", self.up.bias), 1.0)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(cast("Tensor", self.up(F.relu(self.first(x)))))


class Overlapping(nn.Module):
    """A pooling of windows that overlap, in float, whose masks an unpooling in int8 is multiplied by, padded."""

    floats = 1

    def __init__(self) -> None:
        super().__init__()
        self.first, self.middle = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 6, 1)
        self.last = nn.Conv2d(6, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        z, indices = F.max_pool2d(y, 3, 2, 1, return_indices=True)
        up = F.max_unpool2d(self.middle(z), indices, 3, 2, 1, output_size=y.shape[2:])
        return cast("Tensor", self.last(up))


class Vanishing(nn.Module):
    """A branch that training has left next to nothing: behind it, a convolution's bias is all that counts, which in
    steps of so small a product is no 32-bit number."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, 2, padding=1)
        self.second = nn.Conv2d(8, 8, 1)
        self.beside = nn.Conv2d(3, 8, 3, 2, padding=1)
        self.last = nn.Conv2d(8, 5, 1)
        self.first.weight.data *= 1e-13
        self.first.bias = None
        self.second.bias = nn.Parameter(torch.linspace(-40.0, 40.0, 8))

    def forward(self, x: Tensor) -> Tensor:
        y = self.second(F.leaky_relu(self.first(x), 0.2)) + self.beside(x)
        return cast("Tensor", self.last(F.leaky_relu(y, 0.2)))


class Bare(nn.Module):
    """A pooling and the unpooling by its indices, nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 6, 1)
        nn.init.constant_(cast("Tensor", self.last.bias), 500)  # so that no value is 0

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        z, indices = F.max_pool2d(y, 2, 2, return_indices=True)
        return F.max_unpool2d(self.last(z), indices, 2, 2)


@dataclass(frozen=True)
class Made:
    """``graphs``: XNNPACK's, one for each call of the delegate. ``step``: of the result."""

    graphs: list[Any]
    plan: Plan
    simulated: Tensor
    computed: Tensor
    step: float


@pytest.fixture(scope="module")
def pictures() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [
        F.interpolate(torch.rand(1, 3, 8, 12, generator=generator) * 255, SIZE, mode="bicubic").clamp(0, 255)
        for _ in range(3)
    ]


@pytest.fixture(scope="module")
def made(pictures: list[Tensor], tmp_path_factory: pytest.TempPathFactory) -> Callable[[type[nn.Module]], Made]:
    found: dict[type[nn.Module], Made] = {}

    def get(network: type[nn.Module]) -> Made:
        if network not in found:
            found[network] = _made(network, pictures, tmp_path_factory.mktemp("int8") / "network.pte")
        return found[network]

    return get


def _made(network: type[nn.Module], pictures: list[Tensor], path: Path) -> Made:
    torch.manual_seed(0)
    deployed = Deployed(network().eval(), None, "logits")
    rewritten = rewrite(export(deployed, SIZE), "executorch", "int8")
    values = values_of(rewritten.module)
    statistics, _ = observe(rewritten.module, values, pictures)
    units = list(units_of(values, rewritten.module))[: getattr(network, "floats", 0)]
    plan = plan_for(values, ranges_of(values, statistics, extremes), frozenset(n for unit in units for n in unit))
    with pytest.MonkeyPatch.context() as patch:
        graphs: list[Any] = []
        rearranged = xnnpack.rearranged

        def kept(graph: Any, data: dict[str, bytes]) -> Any:
            graphs.append(rearranged(graph, data))
            return graphs[-1]

        patch.setattr(xnnpack, "rearranged", kept)
        given = replace(rewritten, module=inserted(rewritten.module, plan))
        TARGET.lower(given, Lowering("fp32", "logits", {}, {}, 0.0), path)
    with torch.no_grad():
        simulated = _first(Simulator(rewritten.module, plan).run(pictures[0]))
    program = Runtime.get().load_program(path.read_bytes())
    computed = _first(program.load_method("forward").execute([pictures[0]]))
    (result,) = rewritten.module.graph.output_node().all_input_nodes
    return Made(graphs, plan, simulated, computed, plan.scales[plan.values.root(result)].scale)


def _first(result: Any) -> Tensor:
    return cast("Tensor", result if isinstance(result, Tensor) else result[0])


def _types(graph: Any) -> Iterator[tuple[str, set[str]]]:
    values = {tensor(value).id_out: tensor(value).datatype.name for value in graph.xvalues}
    for node in graph.xnodes:
        yield kind(node), {values[key] for _, key in (*inputs(node)[:1], *outputs(node))}


@pytest.mark.parametrize("network", [Unpooling, Pyramid, Rows, Bare])
def test_the_file_is_one_call_with_int8_between_its_ends(
    made: Callable[[type[nn.Module]], Made], network: type[nn.Module]
) -> None:
    (graph,) = made(network).graphs
    conversions = Counter(name for name, types in _types(graph) if len(types) > 1)
    in_float = Counter(name for name, types in _types(graph) if types == {"xnn_datatype_fp32"})
    assert set(in_float) <= FLOATS[network]
    assert conversions == {
        "XNNConvert": 2 + 2 * sum(in_float[name] for name in FLOATS[network] if name != "XNNStaticTranspose")
    }


FLOATS: dict[type[nn.Module], set[str]] = {
    Unpooling: {"XNNPReLU", "XNNStaticTranspose"},
    Pyramid: {"XNNPReLU", "XNNStaticTranspose"},
    Bare: {"XNNStaticTranspose"},
    Rows: {"XNNStaticTranspose"},
}


@pytest.mark.parametrize("network", [Unpooling, Pyramid, Rows, Bare, Overlapping, Vanishing])
def test_the_file_gives_what_the_simulation_gives(
    made: Callable[[type[nn.Module]], Made], network: type[nn.Module]
) -> None:
    found = made(network)
    off = (found.computed - found.simulated).abs() / found.step
    assert float(off.mean()) < 0.5
    assert float(off.max()) < 8


def test_each_window_of_an_unpooling_receives_its_value_once(made: Callable[[type[nn.Module]], Made]) -> None:
    windows = F.unfold(made(Bare).computed.transpose(0, 1), 2, stride=2)
    assert bool(((windows != 0).sum(1) == 1).all())


def test_masks_are_exact_in_int8(made: Callable[[type[nn.Module]], Made]) -> None:
    (graph,) = made(Bare).graphs
    values = {tensor(value).id_out: value for value in graph.xvalues}
    flags = [parameters(values[n.xnode_union.output_id]) for n in graph.xnodes if kind(n) == "XNNCeiling"]
    assert len(flags) == 3  # the last position gets what the others left
    assert {(round(1 / flag.scale), flag.zero_point) for flag in flags} == {(255, -128)}
