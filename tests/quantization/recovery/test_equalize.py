"""Equalized networks: the same outputs bit for bit, less noise in int8."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from typing import Any, cast

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx import Interpreter

from mobileseg import registry
from mobileseg.architectures.enet_network import BLOCKS
from mobileseg.converters.export import Deployed, export
from mobileseg.errors import OptionError, PictureError
from mobileseg.mobile_assets.demo import scene
from mobileseg.quantization.recovery.equalize import Equalized, best_factors, equalize
from mobileseg.quantization.recovery.noise import Rounded
from mobileseg.types import Head, Preprocessing, Size

SIZE = (24, 40)


class Uneven(nn.Module):
    """A chain whose channels have ranges from 1/32 to 4, all of which count alike in the logits."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.slope = nn.PReLU(8)
        self.residual = nn.Conv2d(8, 8, 3, padding=1)
        self.last = nn.Conv2d(8, 5, 1)
        ranges = 2.0 ** torch.arange(-5.0, 3.0)
        self.norm.weight.data = ranges.clone()
        self.norm.bias.data = 0.3 * ranges
        self.residual.weight.data *= ranges.view(8, 1, 1, 1) / ranges.view(1, 8, 1, 1)
        self.residual.bias.data = 0.1 * ranges
        self.last.weight.data /= ranges.view(1, 8, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.slope(self.norm(self.first(x)))
        logits: Tensor = self.last(x + F.relu(self.residual(x)))
        return logits


class Ties(nn.Module):
    """Poolings of rectified and rounded numbers, in whose windows maxima are mostly equal, and their unpooling."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 1)
        self.middle = nn.Conv2d(8, 8, 3, padding=1)
        self.last = nn.Conv2d(8, 4, 1)
        self.first.weight.data = (self.first.weight.data * 4).round() * 2.0 ** torch.arange(-4.0, 4.0).view(8, 1, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.first(x)), 3, 1, 1)
        y, indices = F.max_pool2d(x, 2, return_indices=True)
        y = F.max_unpool2d(y + F.relu(self.middle(y)), indices, 2, output_size=x.shape[2:])
        logits: Tensor = self.last(y)
        return logits


def program_of(network: nn.Module, size: Size = SIZE, batch: int = 1, head: Head = "logits") -> ExportedProgram:
    return export(Deployed(network.eval(), Preprocessing("unit"), head), size, batch=batch).program


def picture(seed: int, size: Size = SIZE) -> Tensor:
    return torch.from_numpy(scene(seed, size).picture).permute(2, 0, 1)[None].float()


def outputs(program: ExportedProgram, x: Tensor) -> Tensor:
    with torch.no_grad():
        return cast("Tensor", program.module()(x))


def int8_error(program: ExportedProgram, x: Tensor) -> float:
    """The mean squared error of the logits where every float tensor is rounded to 255 steps of its span."""

    class Rounding(Interpreter):
        def run_node(self, n: torch.fx.Node) -> Any:
            result = super().run_node(n)
            if n.op != "call_function" or not isinstance(result, Tensor) or not result.is_floating_point():
                return result
            low, high = result.min().clamp(max=0.0), result.max().clamp(min=0.0)
            step = float(high - low) / 255
            return ((result - low) / step).round() * step + low if step else result

    module = program.module(check_guards=False)
    with torch.no_grad():
        rounded = Rounding(module).run(x)
        rounded = rounded[0] if isinstance(rounded, (tuple, list)) else rounded
        return float((rounded - outputs(program, x)).square().mean())


@pytest.fixture(scope="module")
def uneven() -> ExportedProgram:
    torch.manual_seed(0)
    return program_of(Uneven())


@pytest.fixture(scope="module")
def equalized(uneven: ExportedProgram) -> Equalized:
    return equalize(uneven, [picture(0), picture(1)])


def test_uneven_channels_lose_less_in_int8(uneven: ExportedProgram, equalized: Equalized) -> None:
    before, after = int8_error(uneven, picture(2)), int8_error(equalized.program, picture(2))
    assert after < before / 10
    assert equalized.gain_db > 10
    assert equalized.pictures == 2
    assert (equalized.groups, equalized.scaled) == (8, 7)


def test_outputs_are_the_same_bit_for_bit(uneven: ExportedProgram, equalized: Equalized) -> None:
    assert torch.equal(outputs(equalized.program, picture(3)), outputs(uneven, picture(3)))


def test_nodes_are_the_same_and_the_given_program_is_not_changed(uneven: ExportedProgram, equalized: Equalized) -> None:
    torch.manual_seed(0)
    fresh = program_of(Uneven())
    assert str(fresh.graph) == str(uneven.graph) == str(equalized.program.graph)
    assert equalized.program.graph is not uneven.graph
    assert all(torch.equal(uneven.state_dict[k], v) for k, v in fresh.state_dict.items())
    differing = {k for k, v in uneven.state_dict.items() if not torch.equal(v, equalized.program.state_dict[k])}
    assert any("norm.running_mean" in k for k in differing) or any("norm.weight" in k for k in differing)
    assert not any("running_var" in k or "slope" in k for k in differing)


def test_factors_are_powers_of_two_within_the_limit(uneven: ExportedProgram) -> None:
    made = equalize(uneven, [picture(0)], limit=5.0)
    assert made.largest == 4.0
    weight, scaled = (p.state_dict["network.norm.weight"].detach() for p in (uneven, made.program))
    exponents = torch.log2(scaled / weight)
    assert torch.equal(exponents, exponents.round())
    assert torch.equal(outputs(made.program, picture(3)), outputs(uneven, picture(3)))


def test_a_limit_of_one_changes_nothing(uneven: ExportedProgram) -> None:
    made = equalize(uneven, [picture(0)], limit=1.0)
    assert (made.scaled, made.largest, made.gain_db) == (0, 1.0, 0.0)
    assert all(torch.equal(made.program.state_dict[k], v) for k, v in uneven.state_dict.items())


def test_equalizing_again_finds_little(equalized: Equalized) -> None:
    again = equalize(equalized.program, [picture(0), picture(1)])
    assert again.gain_db < equalized.gain_db / 20


def test_the_same_pictures_give_the_same_weights(uneven: ExportedProgram, equalized: Equalized) -> None:
    again = equalize(uneven, [picture(0), picture(1)])
    assert all(torch.equal(again.program.state_dict[k], v) for k, v in equalized.program.state_dict.items())


@pytest.mark.parametrize(("size", "batch"), [((24, 40), 1), ((23, 37), 1), ((22, 30), 2)])
def test_positions_of_equal_maxima_stay(size: Size, batch: int) -> None:
    torch.manual_seed(0)
    program = program_of(Ties(), size, batch)
    made = equalize(program, [picture(0, size)])
    x = torch.cat([(picture(seed, size) / 32).round() * 32 for seed in range(1, batch + 1)])
    assert made.scaled > 0
    assert torch.equal(outputs(made.program, x), outputs(program, x))


@pytest.mark.parametrize("head", ["softmax", "argmax"])
def test_classes_and_probabilities_are_equalized_by_their_logits(head: Head, equalized: Equalized) -> None:
    torch.manual_seed(0)
    program = program_of(Uneven(), head=head)
    made = equalize(program, [picture(0), picture(1)])
    assert made.gain_db == pytest.approx(equalized.gain_db, abs=1.0)
    assert torch.equal(outputs(made.program, picture(3)), outputs(program, picture(3)))


def test_dead_channels_have_no_factor_of_their_own() -> None:
    torch.manual_seed(0)
    network = Uneven()
    network.norm.weight.data[2] = network.norm.bias.data[2] = 0.0
    network.residual.weight.data[2] = network.residual.bias.data[2] = 0.0
    network.norm.weight.data[3] *= 1e-38
    network.norm.bias.data[3] *= 1e-38
    program = program_of(network)
    made = equalize(program, [picture(0)])
    key = "network.last.weight"
    unscaled, scaled = program.state_dict[key][:, 2], made.program.state_dict[key][:, 2]
    assert torch.equal(unscaled, scaled)
    assert made.scaled > 0
    assert all(bool(v.isfinite().all()) for v in made.program.state_dict.values())
    torch.testing.assert_close(outputs(made.program, picture(3)), outputs(program, picture(3)), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("value", [0.0, 255.0])
def test_a_picture_of_one_colour(uneven: ExportedProgram, value: float) -> None:
    made = equalize(uneven, [torch.full((1, 3, *SIZE), value)])
    assert made.largest <= 16
    assert torch.equal(outputs(made.program, picture(3)), outputs(uneven, picture(3)))


def test_a_network_that_gives_the_same_always() -> None:
    torch.manual_seed(0)
    network = Uneven()
    network.last.weight.data.zero_()
    made = equalize(program_of(network), [picture(0)])
    assert (made.scaled, made.gain_db) == (0, 0.0)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e38])
def test_numbers_that_are_none_or_huge_leave_factors_finite(value: float) -> None:
    torch.manual_seed(0)
    network = Uneven()
    network.norm.bias.data[1] = value
    program = program_of(network)
    made = equalize(program, [picture(0)])
    before, after = outputs(program, picture(3)), outputs(made.program, picture(3))
    assert 1.0 <= made.largest <= 16.0
    assert torch.equal(before.isfinite(), after.isfinite())
    assert torch.equal(before.nan_to_num(), after.nan_to_num())


def test_pictures_are_taken_one_at_a_time(uneven: ExportedProgram) -> None:
    held: list[weakref.ref[Tensor]] = []

    def streamed() -> Iterator[Tensor]:
        for seed in range(4):
            taken = picture(seed)
            held.append(weakref.ref(taken))
            assert sum(r() is not None for r in held) <= 2
            yield taken
            del taken

    assert equalize(uneven, streamed()).pictures == 4


def test_no_picture_is_refused(uneven: ExportedProgram) -> None:
    with pytest.raises(PictureError, match="--calibration"):
        equalize(uneven, [])


def test_a_picture_of_another_size_is_refused(uneven: ExportedProgram) -> None:
    with pytest.raises(PictureError, match=r"picture 2 is \(1, 3, 25, 40\).*--size"):
        equalize(uneven, [picture(0), picture(1, (25, 40))])


@pytest.mark.parametrize("limit", [0.5, 2000.0, float("nan")])
def test_a_limit_outside_is_refused(uneven: ExportedProgram, limit: float) -> None:
    with pytest.raises(OptionError, match="expected 1 to 1024"):
        equalize(uneven, [picture(0)], limit=limit)


def test_a_wide_channel_that_matters_little_is_lowered() -> None:
    """Where the others are raised instead it comes to the same."""
    tensor = Rounded(np.array([1, 2, 3, 4]), np.zeros(4), np.array([8.0, 1, 1, 1]), np.array([1e-3, 1, 1, 1]))
    factors, gain = best_factors([tensor], 16.0)
    spans = [8 * factors[1], factors[2], factors[3], factors[4]]
    assert max(spans) == spans[1] == spans[2] == spans[3]
    assert gain == pytest.approx(18, abs=1)


def test_what_tensors_share_is_weighed_in_all_of_them() -> None:
    """A class that is small in one tensor and wide in another, of more weight, stays."""
    small = Rounded(np.array([0, 1]), np.zeros(2), np.array([8.0, 1]), np.array([0.0, 1]))
    wide = Rounded(np.array([0, 1]), np.zeros(2), np.array([1.0, 8]), np.array([100.0, 0]))
    assert best_factors([small], 16.0)[0] == {1: 8.0}
    assert best_factors([wide], 16.0)[0] == {1: 0.125}
    assert best_factors([small, wide], 16.0)[0][1] < 1


# The networks of the package.

SMALL: dict[str, dict[str, Any]] = {
    "enet davidtvs": {"channels": (8, 12, 16)},
    "enet davidtvs-2018": {"channels": (8, 12, 16)},
    "enet iarunava": {},
    "erfnet eromera": {"blocks": (1, 1), "decoder_blocks": (1, 1)},
    "espnet sacmehta": {"p": 1, "q": 1},
    "espnet sacmehta-encoder": {"p": 1, "q": 1},
    "espnetv2 2018": {"depths": (1, 1)},
    "espnetv2 edgenets": {"depths": (1, 1)},
    "segnet flat": {"channels": (8, 8, 8, 8, 8), "depths": (1, 1, 1, 1, 1)},
}
KEPT_BLOCKS = {
    *("downsample1_0", "regular1_1", "downsample2_0", "dilated2_2", "asymmetric2_3"),
    *("upsample4_0", "regular4_1", "upsample5_0", "regular5_1"),
}


def build(name: str) -> nn.Module:
    """Random weights, statistics and slopes that are all different."""
    architecture, _, variant = name.partition(" ")
    torch.manual_seed(0)
    network = registry.variant(architecture, variant).build(num_classes=5, **SMALL[name])
    for block in BLOCKS if architecture == "enet" else ():
        if block not in KEPT_BLOCKS:
            setattr(network, block, nn.Identity())
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.running_mean, module.running_var, module.weight, module.bias):
                nn.init.uniform_(cast("Tensor", tensor), 0.2, 2.0)
        elif isinstance(module, nn.PReLU):
            nn.init.uniform_(module.weight, -0.2, 0.5)
    return cast("nn.Module", network)


# Where rounding changes a maximum's position, its value lands elsewhere, which no gradient tells.
UNPOOLING = {"enet davidtvs", "enet davidtvs-2018", "enet iarunava", "segnet flat"}
LIKE_OTHERS = {"enet davidtvs-2018", "espnet sacmehta-encoder"}


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] if n in LIKE_OTHERS else []) for n in SMALL])
def test_networks_keep_their_outputs_and_lose_less_in_int8(name: str) -> None:
    size = (64, 96)
    program = program_of(build(name), size)
    made = equalize(program, [picture(0, size), picture(1, size)])
    assert made.scaled > made.groups / 10
    assert made.gain_db > 1
    x = picture(2, size)
    assert torch.equal(outputs(made.program, x), outputs(program, x))
    if name not in UNPOOLING:
        assert int8_error(made.program, x) < int8_error(program, x)
