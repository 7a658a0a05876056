"""SegNet in both layouts, against a second writing of the paper's network that goes through the file's own keys."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mobileseg import registry
from mobileseg.architectures.segnet import SegNet
from mobileseg.checkpoint import load_checkpoint

CHANNELS, DEPTHS = (6, 8, 10, 12, 12), (2, 2, 3, 3, 3)
Weights = dict[str, Tensor]


def layer(weights: Weights, conv: str, norm: str, inputs: int, outputs: int, generator: torch.Generator) -> None:
    """Random weights of one convolution and its batch normalisation, under their names in a file."""
    weights[f"{conv}.weight"] = torch.randn(outputs, inputs, 3, 3, generator=generator) * (2 / (9 * inputs)) ** 0.5
    for name in (f"{conv}.bias", f"{norm}.weight", f"{norm}.bias", f"{norm}.running_mean", f"{norm}.running_var"):
        weights[name] = torch.rand(outputs, generator=generator) + (0.5 if "var" in name else 0.1)


def apply(weights: Weights, conv: str, norm: str, x: Tensor) -> Tensor:
    w = weights
    x = F.conv2d(x, w[f"{conv}.weight"], w[f"{conv}.bias"], padding=1)
    if f"{norm}.weight" not in w:
        return x
    mean, var = w[f"{norm}.running_mean"], w[f"{norm}.running_var"]
    return F.relu(F.batch_norm(x, mean, var, w[f"{norm}.weight"], w[f"{norm}.bias"]))


def flat(stage: int, i: int, decoder: bool) -> tuple[str, str]:
    return f"conv{stage}{i}{'d' * decoder}", f"bn{stage}{i}{'d' * decoder}"


def semseg(stage: int, i: int, decoder: bool) -> tuple[str, str]:
    place = f"up{stage}.conv{DEPTHS[stage - 1] + 1 - i}" if decoder else f"down{stage}.conv{i}"
    return f"{place}.cbr_unit.0", f"{place}.cbr_unit.1"


LAYOUTS = {"flat": flat, "semseg": semseg}


def make(layout: str, num_classes: int) -> Weights:
    generator = torch.Generator().manual_seed(1)
    weights: Weights = {}
    sources = (3, *CHANNELS)
    targets = (num_classes, *CHANNELS)
    for s, depth in enumerate(DEPTHS, start=1):
        for i in range(1, depth + 1):
            layer(weights, *LAYOUTS[layout](s, i, False), sources[s - (i == 1)], CHANNELS[s - 1], generator)
            layer(weights, *LAYOUTS[layout](s, i, True), CHANNELS[s - 1], targets[s - (i == 1)], generator)
    return {k: v for k, v in weights.items() if not k.startswith("bn11d")}


def reference(layout: str, weights: Weights, x: Tensor) -> Tensor:
    places = []
    for s, depth in enumerate(DEPTHS, start=1):
        for i in range(1, depth + 1):
            x = apply(weights, *LAYOUTS[layout](s, i, False), x)
        size = x.shape
        x, indices = F.max_pool2d(x, 2, 2, return_indices=True)
        places.append((indices, size))
    for s in range(5, 0, -1):
        indices, size = places[s - 1]
        x = F.max_unpool2d(x, indices, [2, 2], output_size=list(size))
        for i in range(DEPTHS[s - 1], 0, -1):
            x = apply(weights, *LAYOUTS[layout](s, i, True), x)
    return x


@pytest.mark.parametrize(("layout", "size"), [("flat", (32, 64)), ("semseg", (64, 32)), ("semseg", (67, 45))])
def test_computes_what_the_paper_says(tmp_path: Path, layout: str, size: tuple[int, int]) -> None:
    weights = make(layout, num_classes=5)
    torch.save(weights, tmp_path / "w.pth")
    pictures = torch.rand(1, 3, *size)

    loaded = load_checkpoint(tmp_path / "w.pth")

    assert (loaded.architecture, loaded.variant, loaded.num_classes) == ("segnet", layout, 5)
    assert loaded.hyperparameters["channels"] == CHANNELS
    expected = reference(layout, weights, pictures)
    assert torch.allclose(loaded.network(pictures), expected, atol=1e-5 * float(expected.abs().max()))
    assert [n.option for n in loaded.notices] == ["--preprocessing"]


def test_ends_in_relu_in_one_layout_only() -> None:
    pictures = torch.rand(1, 3, 32, 32)
    both = {layout: reference(layout, make(layout, 5), pictures) for layout in LAYOUTS}
    assert both["semseg"].min() >= 0 > both["flat"].min()


def test_has_vgg16s_widths_and_depths() -> None:
    with torch.device("meta"):
        network = SegNet(21)
    convolutions = [m for m in network.modules() if isinstance(m, torch.nn.Conv2d)]
    assert len(convolutions) == 26
    assert sum(p.numel() for p in network.get_submodule("down5").parameters()) == 3 * (512 * 512 * 9 + 3 * 512)


def test_default_sizes_suit_five_poolings() -> None:
    size = registry.variant("segnet", "flat").default_size
    assert size is not None
    assert [size(n) for n in (2, 12, 19)] == [(256, 512), (384, 480), (512, 1024)]


def test_exports_at_an_odd_size() -> None:
    network = SegNet(3, channels=CHANNELS).eval()
    pictures = torch.rand(1, 3, 67, 45)
    program = torch.export.export(network, (pictures,), strict=False)
    assert torch.allclose(program.module()(pictures), network(pictures), atol=1e-6)
