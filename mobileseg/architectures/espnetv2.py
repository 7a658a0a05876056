"""ESPNetV2 for segmentation: Mehta, Rastegari, Shapiro, Hajishirzi, "ESPNetv2: A Light-weight, Power Efficient, and
General Purpose Convolutional Neural Network", CVPR 2019, arXiv 1811.11431.

Two repositories of the authors share the encoder and differ in everything after it:

- ``2018``, github.com/sacmehta/ESPNetv2: keys ``net.*``, ``proj_L4_C``, ``pspMod``, ``project_l*``; a pyramid of
  average pooling at stride 8; BGR pictures.
- ``edgenets``, github.com/sacmehta/EdgeNets: keys ``base_net.*``, ``bu_dec_l*``, ``merge_enc_dec_l*``, ``bu_br_l*``; an
  efficient pyramid at each of four strides; RGB pictures.

Facts of the code that the paper doesn't state, and that the checkpoints follow:

- An EESP block has four depthwise branches, dilations 1, 2, 3, 4, and in the blocks at stride 16 and in the PSP head
  1, 1, 2, 3; each branch adds the one before it.
- A downsampling EESP has a ``module_act`` that nothing uses. The 1x1 convolutions before and after the four branches
  have four groups, so that every width is a multiple of 16.
- The picture that reinforces a downsampling is averaged (3x3, stride 2) as often as the features were halved.
- All upsampling is bilinear with ``align_corners=True``; batch normalization's epsilon is 1e-5.

In training the authors' 2018 network returns a second output; here there is one output in both modes.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mobileseg.architectures.blocks import default_size
from mobileseg.architectures.esp_blocks import (
    Conv,
    ConvNormAct,
    NormAct,
    children,
    halve,
    width,
)
from mobileseg.architectures.espnetv2_blocks import (
    BRANCHES,
    EESP,
    NARROW,
    WIDE,
    Downsampling,
    EfficientPyramid,
    GatedConv,
    PoolingPyramid,
    upsample,
)
from mobileseg.errors import OptionError
from mobileseg.types import Notice, StateDict, Variant

Widths = tuple[int, int, int, int]
"""The encoder's channels at strides 2, 4, 8, 16."""

WIDTHS: Widths = (16, 32, 64, 128)
"""The authors' s = 0.5."""

WIDTH_MULTIPLE = BRANCHES * BRANCHES
SIZE_MULTIPLE = 16
DECODER_PLANES = 16


def widths(scale: float) -> Widths:
    """The authors' channel counts for a nominal width ``s``: 0.5, 1.0, 1.25, 1.5, 2.0.

    Raises `OptionError` where they don't divide into the groups that the blocks need (0.75, for one).
    """
    base = BRANCHES * math.ceil(int(32 * scale) / BRANCHES)
    channels = (min(base, 32), 2 * base, 4 * base, 8 * base)
    _check_widths(channels)
    return channels


def _are_widths(channels: Widths) -> bool:
    increasing = all(a < b for a, b in zip((0, *channels[:-1]), channels, strict=True))
    return increasing and all(c % WIDTH_MULTIPLE == 0 for c in channels)


def _check_widths(channels: Widths) -> None:
    if not _are_widths(channels):
        raise OptionError(
            f"ESPNetV2 cannot have the widths {channels}: each must be a multiple of {WIDTH_MULTIPLE} and larger "
            f"than the one before it. The authors' are widths(s) for s = 0.5, 1.0, 1.25, 1.5, 2.0."
        )


class Encoder(nn.Module):
    """``(N, 3, H, W)`` to features at strides 2, 4, 8 and 16; ``depths``: EESP blocks at strides 8 and 16."""

    def __init__(self, channels: Widths, depths: tuple[int, int]) -> None:
        super().__init__()
        _check_widths(channels)
        c1, c2, c3, c4 = channels
        self.halve = halve()
        self.level1 = ConvNormAct(3, c1, 3, stride=2)
        self.level2_0 = Downsampling(c1, c2)
        self.level3_0 = Downsampling(c2, c3)
        self.level3 = nn.ModuleList(EESP(c3, c3, WIDE) for _ in range(depths[0]))
        self.level4_0 = Downsampling(c3, c4)
        self.level4 = nn.ModuleList(EESP(c4, c4, NARROW) for _ in range(depths[1]))

    def forward(self, picture: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        quarter = self.halve(self.halve(picture))
        eighth = self.halve(quarter)
        sixteenth = self.halve(eighth)
        level1 = self.level1(picture)
        level2 = self.level2_0(level1, quarter)
        level3 = self.level3_0(level2, eighth)
        for block in self.level3:
            level3 = block(level3)
        level4 = self.level4_0(level3, sixteenth)
        for block in self.level4:
            level4 = block(level4)
        return level1, level2, level3, level4


class ESPNetV2(nn.Module):
    """The 2018 repository's network: ``(N, 3, H, W)`` to logits ``(N, num_classes, H, W)``, H and W multiples of 16."""

    def __init__(
        self,
        num_classes: int = 20,
        *,
        channels: Widths = WIDTHS,
        depths: tuple[int, int] = (3, 7),
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        c1, c2, c3, c4 = channels
        self.net = Encoder(channels, depths)
        self.proj_L4_C = ConvNormAct(c4, c3, 1)
        self.pspMod = nn.Sequential(EESP(2 * c3, c3, NARROW), PoolingPyramid(c3))
        self.project_l3 = nn.Sequential(nn.Dropout2d(dropout), Conv(c3, num_classes, 1))
        self.act_l3 = NormAct(num_classes)
        self.project_l2 = ConvNormAct(c2 + num_classes, num_classes, 1)
        self.project_l1 = nn.Sequential(nn.Dropout2d(dropout), Conv(c1 + num_classes, num_classes, 1))
        initialize(self)

    def forward(self, x: Tensor) -> Tensor:
        level1, level2, level3, level4 = self.net(x)
        out = self.pspMod(torch.cat([level3, upsample(self.proj_L4_C(level4))], 1))
        out = self.act_l3(self.project_l3(out))
        out = self.project_l2(torch.cat([level2, upsample(out)], 1))
        out = self.project_l1(torch.cat([level1, upsample(out)], 1))
        return upsample(out)


def initialize(network: nn.Module) -> None:
    """The authors' starting weights: normal, scaled by the convolution's outputs."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


class EdgeNetsESPNetV2(nn.Module):
    """EdgeNets' network: ``(N, 3, H, W)`` to logits ``(N, num_classes, H, W)``, H and W multiples of 16.

    ``decoder``: channels at strides 16, 8, 4; ``projection``: channels inside each pyramid, by default
    half the class count, at most 16. The authors chose both by data set.
    """

    def __init__(
        self,
        num_classes: int = 20,
        *,
        channels: Widths = WIDTHS,
        depths: tuple[int, int] = (3, 7),
        decoder: tuple[int, int, int] = (4 * DECODER_PLANES, 3 * DECODER_PLANES, 2 * DECODER_PLANES),
        projection: int | None = None,
    ) -> None:
        super().__init__()
        c1, c2, c3, c4 = channels
        d1, d2, d3 = decoder
        inner = projection or max(1, min(num_classes // 2, DECODER_PLANES))
        self.base_net = Encoder(channels, depths)
        self.bu_dec_l1 = EfficientPyramid(c4, inner, d1)
        self.bu_dec_l2 = EfficientPyramid(d1, inner, d2)
        self.bu_dec_l3 = EfficientPyramid(d2, inner, d3)
        self.bu_dec_l4 = EfficientPyramid(d3, inner, num_classes, last=True)
        self.merge_enc_dec_l2 = GatedConv(c3, d1)
        self.merge_enc_dec_l3 = GatedConv(c2, d2)
        self.merge_enc_dec_l4 = GatedConv(c1, d3)
        self.bu_br_l2 = nn.Sequential(nn.BatchNorm2d(d1), nn.PReLU(d1))
        self.bu_br_l3 = nn.Sequential(nn.BatchNorm2d(d2), nn.PReLU(d2))
        self.bu_br_l4 = nn.Sequential(nn.BatchNorm2d(d3), nn.PReLU(d3))
        initialize(self)

    def forward(self, x: Tensor) -> Tensor:
        level1, level2, level3, level4 = self.base_net(x)
        out = upsample(self.bu_dec_l1(level4))
        out = upsample(self.bu_dec_l2(self.bu_br_l2(self.merge_enc_dec_l2(level3) + out)))
        out = upsample(self.bu_dec_l3(self.bu_br_l3(self.merge_enc_dec_l3(level2) + out)))
        out = self.bu_dec_l4(self.bu_br_l4(self.merge_enc_dec_l4(level1) + out))
        return F.interpolate(out, x.shape[2:], mode="bilinear", align_corners=True)


def _infer_encoder(state: StateDict, prefix: str) -> dict[str, Any] | None:
    channels = (
        width(state, f"{prefix}level1.conv.weight"),
        width(state, f"{prefix}level2_0.act.weight"),
        width(state, f"{prefix}level3_0.act.weight"),
        width(state, f"{prefix}level4_0.act.weight"),
    )
    if not _are_widths(channels):
        return None
    return {"channels": channels, "depths": (children(state, f"{prefix}level3."), children(state, f"{prefix}level4."))}


def _infer_2018(state: StateDict) -> dict[str, Any] | None:
    encoder = _infer_encoder(state, "net.")
    head = "project_l1.1.conv.weight"
    return {"num_classes": width(state, head), **encoder} if encoder and head in state else None


def _infer_edgenets(state: StateDict) -> dict[str, Any] | None:
    encoder = _infer_encoder(state, "base_net.")
    head = "bu_dec_l4.merge_layer.3.bias"
    decoder = tuple(width(state, f"bu_dec_l{level}.merge_layer.3.weight") for level in (1, 2, 3))
    projection = width(state, "bu_dec_l1.projection_layer.cbr.0.weight")
    if not encoder or head not in state or 0 in (*decoder, projection):
        return None
    return {"num_classes": width(state, head), **encoder, "decoder": decoder, "projection": projection}


def _without_classifier(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Leaves out the ImageNet classifier's levels, which the authors delete: segmentation never runs them."""
    unused = tuple(f"{prefix}{part}" for prefix in ("net.", "base_net.") for part in ("level5", "classifier."))
    return {key: value for key, value in state.items() if not key.startswith(unused)}


VARIANTS: tuple[Variant, ...] = (
    Variant(
        architecture="espnetv2",
        name="2018",
        summary="ESPNetV2 of the authors' first repository, with a PSP head; any width and class count",
        source="github.com/sacmehta/ESPNetv2, arXiv 1811.11431",
        infer=_infer_2018,
        build=ESPNetV2,
        preprocessing=lambda num_classes: "espnet-cityscapes",
        size_multiple=SIZE_MULTIPLE,
        min_size=SIZE_MULTIPLE,
        default_size=default_size(SIZE_MULTIPLE),
        notices=(
            Notice(
                "The weights do not tell what the network was fed; assumed BGR pictures with the authors' Cityscapes "
                "mean and standard deviation, then divided by 255.",
                "--preprocessing",
            ),
        ),
        rename=_without_classifier,
    ),
    Variant(
        architecture="espnetv2",
        name="edgenets",
        summary="ESPNetV2 of EdgeNets, with efficient pyramid pooling at four strides; any width and class count",
        source="github.com/sacmehta/EdgeNets, arXiv 1811.11431",
        infer=_infer_edgenets,
        build=EdgeNetsESPNetV2,
        preprocessing=lambda num_classes: "imagenet",
        size_multiple=SIZE_MULTIPLE,
        min_size=SIZE_MULTIPLE,
        default_size=default_size(SIZE_MULTIPLE),
        notices=(
            Notice(
                "The weights do not tell what the network was fed; assumed RGB pictures with ImageNet's mean and "
                "standard deviation.",
                "--preprocessing",
            ),
        ),
        rename=_without_classifier,
    ),
)
