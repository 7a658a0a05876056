"""int8 plans as Core ML packages: what they compute beside torch's simulation, and what is in them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mobileseg import registry
from mobileseg.converters.export import Deployed, RewrittenProgram, export, rewrite
from mobileseg.converters.target import Lowering
from mobileseg.errors import OptionError
from mobileseg.quantization.coreml.values import values_for_core_ml
from mobileseg.quantization.program.insert import inserted
from mobileseg.quantization.program.plan import Plan, plan_for, ranges_of
from mobileseg.quantization.program.simulate import LEAST_SHARE, Simulator, observe, round_weights
from mobileseg.quantization.program.values import values_of
from mobileseg.quantization.ranges import range_method

coremltools = pytest.importorskip("coremltools", reason="install the extra: pip install 'mobileseg[coreml]'")

from mobileseg import mlpackage  # noqa: E402  after the package that it needs
from mobileseg.converters.coreml import TARGET  # noqa: E402
from mobileseg.validation.coreml import Executor, load  # noqa: E402
from mobileseg.validation.coreml.program import Constant, Operation, Reference  # noqa: E402
from mobileseg.validation.graphs import read_graph  # noqa: E402

SIZE = (32, 48)
SMALLEST = 2.0**-14
"""float16's smallest normal number."""


class Unpooling(nn.Module):
    """An ENet in small: PReLU, a shuffle, max-unpooling, a sum, a transposed convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.slopes = nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.PReLU(8)
        nn.init.uniform_(self.slopes.weight, 0.0, 0.5)
        self.branches = nn.ModuleList(nn.Conv2d(8, 4, 1) for _ in range(2))
        self.beside = nn.Conv2d(8, 8, 3, padding=1)
        self.last = nn.ConvTranspose2d(8, 5, 3, stride=2, padding=1, output_padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.slopes(self.first(x))
        y, indices = F.max_pool2d(x, 2, return_indices=True)
        y = F.channel_shuffle(torch.cat([branch(y) for branch in self.branches], 1), 2)
        x = F.relu(F.max_unpool2d(y, indices, 2) + self.beside(x))
        return cast("Tensor", self.last(x))


class Plain(nn.Module):
    """Without unpooling: depthwise, pooled and concatenated, a sum, resized."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.depthwise = nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.point, self.last = nn.Conv2d(16, 8, 1), nn.Conv2d(8, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.first(x))
        x = torch.cat([self.depthwise(x), F.avg_pool2d(x, 3, stride=1, padding=1)], 1)
        x = F.leaky_relu(self.point(x), 0.1) + x[:, 4:12]
        return F.interpolate(self.last(x), scale_factor=2, mode="bilinear", align_corners=False)


class OnlyUnpooled(nn.Module):
    """Returns the unpooled plane. ``gain``: how large its numbers are."""

    def __init__(self, gain: float) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, padding=1)
        self.gain = gain

    def forward(self, x: Tensor) -> Tensor:
        x = F.conv2d(x, self.first.weight * self.gain, padding=1)
        return F.max_unpool2d(*F.max_pool2d(x, 2, return_indices=True), 2)


@dataclass(frozen=True)
class Case:
    """A program, its int8 plan, and the package made of it."""

    rewritten: RewrittenProgram
    plan: Plan
    picture: Tensor
    path: Path

    @cached_property
    def executor(self) -> Executor:
        return load(self.path)

    @cached_property
    def simulated(self) -> Tensor:
        with torch.no_grad():
            result = Simulator(self.rewritten.module, self.plan).run(self.picture)
        return cast("Tensor", result if isinstance(result, Tensor) else result[0])

    @cached_property
    def values(self) -> dict[str, np.ndarray]:
        """Everything that the package computes of the picture."""
        seen = dict[str, np.ndarray]()
        self.executor.run({"picture": self.picture.numpy()}, watch=seen.__setitem__)
        return seen

    @property
    def result(self) -> Tensor:
        return torch.from_numpy(self.values[self.executor.program.outputs[0]].astype(np.float32))

    @property
    def operations(self) -> list[Operation]:
        return [o for o in self.executor.program.operations if o.kind != "const"]

    @property
    def operators(self) -> Counter[str]:
        return Counter(o.kind for o in self.operations)

    def constant(self, argument: Constant | Reference) -> Any:
        return self.executor.constants[argument.name] if isinstance(argument, Reference) else argument.value


@cache
def planned(network: Callable[[], nn.Module], preprocessing: str | None) -> tuple[RewrittenProgram, Plan, Tensor]:
    torch.manual_seed(0)
    chosen = registry.preprocessing(preprocessing) if preprocessing else None
    rewritten = rewrite(export(Deployed(network().eval(), chosen, "logits"), SIZE), "coreml", "int8")
    pictures = [torch.randint(0, 256, (1, 3, *SIZE)).float() for _ in range(3)]
    values = values_for_core_ml(values_of(rewritten.module))
    statistics, _ = observe(rewritten.module, values, pictures[:2])
    return rewritten, plan_for(values, ranges_of(values, statistics, range_method("percentile"))), pictures[2]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Case]:
    folder = tmp_path_factory.mktemp("int8")
    done = dict[Any, Case]()

    def make(network: Callable[[], nn.Module], preprocessing: str | None = "imagenet", **options: Any) -> Case:
        key = (network, preprocessing, repr(options))
        if key not in done:
            rewritten, plan, picture = planned(network, preprocessing)
            path = folder / f"{len(done)}.mlpackage"
            program = replace(rewritten, module=inserted(rewritten.module, plan))
            TARGET.lower(program, Lowering("int8", "logits", {}, options), path)
            done[key] = Case(rewritten, plan, picture, path)
        return done[key]

    return make


@pytest.mark.parametrize("network", [Unpooling, Plain])
def test_it_computes_what_torch_simulates(made: Any, network: Any) -> None:
    """Up to one level, and the half that rounding the result, which the file does not, takes away."""
    case = made(network)
    (result,) = case.plan.values.outputs
    apart = (case.result - case.simulated).abs() / case.plan.scales[result].scale
    assert float((apart <= 1.51).float().mean()) > 0.99
    assert float((case.result.argmax(1) == case.simulated.argmax(1)).float().mean()) > 0.98


@pytest.mark.parametrize("gain", [1e-4, 1e-2, 1.0, 50.0])
def test_exactly_one_position_of_a_window_gets_its_value(made: Any, gain: float) -> None:
    """In float16, and where a scale is subnormal in it."""
    case = made(_only_unpooled(gain), "unit")
    (pooling,) = (o for o in case.operations if o.kind == "max_pool")
    x = torch.from_numpy(case.values[pooling.arguments["x"][0].name].astype(np.float32))
    wanted = F.max_unpool2d(*F.max_pool2d(x, 2, return_indices=True), 2)
    assert torch.equal(case.result, wanted)
    (scale,) = {case.plan.scales[node].scale for node in case.plan.values.rounded[-1:]}
    levels = x / np.float32(np.float16(scale) if scale >= SMALLEST else scale)
    assert float((levels - levels.round()).abs().max()) < 0.2, "the windows hold levels, on which many maxima are equal"
    ties = (F.unfold(x[:, :1], 2, stride=2) == F.max_pool2d(x[:, :1], 2).flatten(2)).sum(1)
    assert int(ties.max()) > 1


@cache
def _only_unpooled(gain: float) -> Callable[[], nn.Module]:
    return lambda: OnlyUnpooled(gain)


def test_no_pair_stands_between_moves(made: Any, tmp_path: Path) -> None:
    """The file has the operators of a float16 one, and nothing that broken patterns would leave."""
    case = made(Unpooling)
    path = tmp_path / "float.mlpackage"
    TARGET.lower(case.rewritten, Lowering("fp16", "logits", {}), path)
    ours = {"quantize", "dequantize", "constexpr_affine_dequantize", "cast"}
    plain = Counter(o.kind for o in load(path).program.operations if o.kind not in {"const", "cast"})
    assert Counter({kind: n for kind, n in case.operators.items() if kind not in ours}) == plain
    # The network's input, PReLU, the pooled, two branches, the unpooled, the convolution beside it, their sum.
    assert case.operators["quantize"] == 8
    assert case.operators["constexpr_affine_dequantize"] == 5


def test_convolutions_read_and_write_int8(made: Any) -> None:
    case = made(Plain)
    source = {value.name: o for o in case.operations for value in o.outputs}
    convolutions = [o for o in case.operations if o.kind == "conv"]
    assert len(convolutions) == 4
    for o in convolutions:
        assert source[o.arguments["x"][0].name].kind == "dequantize"
        assert source[o.arguments["weight"][0].name].kind == "constexpr_affine_dequantize"


def test_the_preprocessing_is_float32_and_the_picture_unrounded(made: Any) -> None:
    gain, offset, rounding, back, *_ = (o for o in made(Plain).operations if not o.kind.startswith("constexpr_"))
    assert [o.kind for o in (gain, offset, rounding, back)] == ["mul", "add", "quantize", "dequantize"]
    assert gain.arguments["x"][0].name == "picture"
    assert [o.outputs[0].type.kind for o in (gain, offset, rounding, back)] == ["fp32", "fp32", "int8", "fp16"]


def test_an_exchange_of_colours_is_float32(made: Any) -> None:
    first, rounding, *_ = (o for o in made(Plain, "espnet-camvid").operations if not o.kind.startswith("constexpr_"))
    assert (first.kind, first.outputs[0].type.kind, rounding.kind) == ("conv", "fp32", "quantize")


def test_weights_are_the_plans_numbers(made: Any) -> None:
    case = made(Plain)
    network = next(iter(n for n in case.rewritten.module.state_dict().values() if n.shape == (8, 16, 1, 1)))
    numbers, scales = round_weights(network, 0)
    (held,) = (o for o in case.operations if o.kind.startswith("constexpr_") and o.outputs[0].type.shape[1] == 16)
    np.testing.assert_array_equal(case.constant(held.arguments["quantized_data"][0]), numbers.numpy())
    np.testing.assert_array_equal(case.constant(held.arguments["scale"][0]), scales.flatten().half().numpy())


class Tiny(nn.Module):
    """The first convolution has no weight that float16 holds well; of the second, one channel has none."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 5, 1)
        with torch.no_grad():
            self.first.weight *= 1e-3
            self.second.weight *= 100
            self.second.weight[2] = torch.tensor([1e-3, -1e-4, 1e-5, 1e-9]).reshape(4, 1, 1)
            self.second.weight[3] = 0.0

    def forward(self, x: Tensor) -> Tensor:
        return cast("Tensor", self.second(F.relu(self.first(x))))


def test_scales_that_float16_holds_badly(made: Any) -> None:
    case = made(Tiny, "unit")
    first, second = (o for o in case.operations if o.kind.startswith("constexpr_"))
    assert [o.outputs[0].type.kind for o in (first, second)] == ["fp32", "fp16"]
    assert {o.outputs[0].type.kind for o in case.operations if o.kind == "cast"} <= {"fp16", "fp32"}
    (wide,) = (
        o for o in case.operations if o.kind == "conv" and o.arguments["weight"][0].name == first.outputs[0].name
    )
    assert wide.outputs[0].type.kind == "fp32", "no weights are converted while it runs"
    scales = case.constant(second.arguments["scale"][0]).astype(np.float32)
    least = max(float(scales.max()) * LEAST_SHARE, SMALLEST)
    assert scales[2:4] == pytest.approx(least, rel=1e-3)
    assert (scales >= SMALLEST).all()
    weights = case.executor.constants[second.outputs[0].name]
    wanted = dict(case.rewritten.module.named_parameters())["network.second.weight"].detach()
    assert float((weights - wanted)[2:4].abs().max()) <= least * 0.501
    assert float((case.result.argmax(1) == case.simulated.argmax(1)).float().mean()) > 0.98


def test_the_oldest_system_with_int8_activations_is_the_default(made: Any) -> None:
    spec = mlpackage.read_spec(made(Plain).path)[0]
    assert spec.specificationVersion == coremltools.target.iOS17.value


@pytest.mark.parametrize("system", ["iOS16", "macOS13"])
def test_refuses_older_systems(tmp_path: Path, system: str) -> None:
    rewritten, plan, _ = planned(Plain, "imagenet")
    program = replace(rewritten, module=inserted(rewritten.module, plan))
    options = {"deployment_target": system}
    message = f"int8 activations from iOS17 on; got --deployment-target {system}.*--precision w8"
    with pytest.raises(OptionError, match=message):
        TARGET.check(options, "int8")
    with pytest.raises(OptionError, match=message):
        TARGET.lower(program, Lowering("int8", "logits", {}, options), tmp_path / "x.mlpackage")
    assert not list(tmp_path.iterdir())


def test_a_newer_system_gets_its_own_form_and_the_same_numbers(made: Any) -> None:
    newer = made(Plain, deployment_target="iOS18")
    assert newer.operators["constexpr_blockwise_shift_scale"] == 4
    assert torch.equal(newer.result, made(Plain).result)


def test_equal_small_constants_are_one(made: Any) -> None:
    spec = mlpackage.read_spec(made(Unpooling).path)[0]
    (block,) = spec.mlProgram.functions["main"].block_specializations.values()
    small = [o for o in block.operations if o.type == "const" and o.attributes["val"].HasField("immediateValue")]
    values = [o.attributes["val"].SerializeToString(deterministic=True) for o in small]
    assert len(values) == len(set(values))
    names = [value.name for o in block.operations for value in o.outputs]
    assert len(names) == len(set(names))
    assert {"conv2d", "quantize_0", "weights", "conv_transpose2d"} <= set(names)
    assert list(block.outputs) == ["logits"]
    assert {"picture", *names} >= {b.name for o in block.operations for i in o.inputs.values() for b in i.arguments}


def test_two_lowerings_write_the_same_bytes(made: Any, tmp_path: Path) -> None:
    case = made(Plain)
    path = tmp_path / "again.mlpackage"
    program = replace(case.rewritten, module=inserted(case.rewritten.module, case.plan))
    TARGET.lower(program, Lowering("int8", "logits", {}), path)
    files = [
        sorted((p.relative_to(root), p.read_bytes()) for p in root.rglob("*") if p.is_file())
        for root in (path, case.path)
    ]
    assert files[0] == files[1]


def test_it_is_read_as_int8(made: Any) -> None:
    graph = read_graph(made(Plain).path)
    assert graph.quantization["int8 per channel"] == 4
    assert graph.operators["quantize"] == made(Plain).operators["quantize"]
    assert not isinstance(graph.operations, str)
