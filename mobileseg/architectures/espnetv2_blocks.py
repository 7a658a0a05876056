"""The blocks of ESPNetV2 (arXiv 1811.11431) and of its two segmentation heads, under the authors' key names.

`EESP`, `Downsampling`: the encoder. `PoolingPyramid`: the 2018 head. `EfficientPyramid`, `GatedConv`: EdgeNets' head.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mobileseg.architectures.esp_blocks import Conv, ConvNorm, ConvNormAct, NormAct, halve

BRANCHES = 4
WIDE = (1, 2, 3, 4)
NARROW = (1, 1, 2, 3)
PYRAMID_SCALES = (2.0, 1.5, 1.0, 0.5, 0.1)
PYRAMID_MIN_SIDE = 5


def upsample(x: Tensor) -> Tensor:
    """Twice the height and width, bilinear between the corner pixels' centres."""
    return F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=True)


class EESP(nn.Module):
    """Extremely efficient spatial pyramid: grouped 1x1, dilated depthwise branches summed in turn, grouped 1x1.

    The input is added where its shape is that of the output.
    """

    def __init__(self, inputs: int, outputs: int, dilations: tuple[int, ...], *, stride: int = 1) -> None:
        super().__init__()
        branch = outputs // BRANCHES
        self.residual = stride == 1 and inputs == outputs
        self.proj_1x1 = ConvNormAct(inputs, branch, 1, groups=BRANCHES)
        self.spp_dw = nn.ModuleList(
            Conv(branch, branch, 3, stride=stride, groups=branch, dilation=dilation) for dilation in dilations
        )
        self.br_after_cat = NormAct(outputs)
        self.conv_1x1_exp = ConvNorm(outputs, outputs, 1, groups=BRANCHES)
        self.module_act = nn.PReLU(outputs)

    def expand(self, x: Tensor) -> Tensor:
        """The block before its residual sum and activation."""
        reduced = self.proj_1x1(x)
        sums: list[Tensor] = []
        for branch in self.spp_dw:
            out = branch(reduced)
            sums.append(out + sums[-1] if sums else out)
        expanded: Tensor = self.conv_1x1_exp(self.br_after_cat(torch.cat(sums, 1)))
        return expanded

    def forward(self, x: Tensor) -> Tensor:
        expanded = self.expand(x)
        out: Tensor = self.module_act(expanded + x if self.residual else expanded)
        return out


class Downsampling(nn.Module):
    """Half the size: averaged input beside a strided EESP, plus a projection of the picture at the new size."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.eesp = EESP(inputs, outputs - inputs, WIDE, stride=2)
        self.avg = halve()
        self.inp_reinf = nn.Sequential(ConvNormAct(3, 3, 3), ConvNorm(3, outputs, 1))
        self.act = nn.PReLU(outputs)

    def forward(self, x: Tensor, picture: Tensor) -> Tensor:
        out: Tensor = self.act(torch.cat([self.avg(x), self.eesp.expand(x)], 1) + self.inp_reinf(picture))
        return out


class PoolingPyramid(nn.Module):
    """The 2018 head's PSP module: depthwise convolutions of ever smaller averages, projected with the input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.halve = halve()
        self.stages = nn.ModuleList(Conv(channels, channels, 3, groups=channels) for _ in range(4))
        self.project = ConvNormAct(5 * channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        size = x.shape[2:]
        parts = [x]
        for stage in self.stages:
            x = self.halve(x)
            parts.append(F.interpolate(stage(x), size, mode="bilinear", align_corners=True))
        out: Tensor = self.project(torch.cat(parts, 1))
        return out


class SequentialConvNormAct(nn.Module):
    """`ConvNormAct` under EdgeNets' key names ``cbr.0``, ``cbr.1``, ``cbr.2``."""

    def __init__(self, inputs: int, outputs: int, kernel: int, *, groups: int = 1) -> None:
        super().__init__()
        self.cbr = nn.Sequential(
            nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, groups=groups, bias=False),
            nn.BatchNorm2d(outputs),
            nn.PReLU(outputs),
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.cbr(x)
        return out


class SequentialNormAct(nn.Module):
    """`NormAct` under EdgeNets' key names ``br.0``, ``br.1``."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.br = nn.Sequential(nn.BatchNorm2d(channels), nn.PReLU(channels))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.br(x)
        return out


class Shuffle(nn.Module):
    """Channel shuffle: channel ``g * n + i`` of ``groups`` groups of n becomes channel ``i * groups + g``."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        return x.reshape(n, self.groups, c // self.groups, h, w).transpose(1, 2).reshape(n, c, h, w)


class EfficientPyramid(nn.Module):
    """Depthwise 3x3 convolutions at five sizes (at least 5 pixels a side), brought back, shuffled and merged.

    ``last``: the network's logits come out, with a bias and nothing after it.
    """

    def __init__(self, inputs: int, projection: int, outputs: int, *, last: bool = False) -> None:
        super().__init__()
        count = len(PYRAMID_SCALES)
        self.projection_layer = SequentialConvNormAct(inputs, projection, 1)
        self.stages = nn.ModuleList(
            nn.Conv2d(projection, projection, 3, padding=1, groups=projection, bias=False) for _ in PYRAMID_SCALES
        )
        self.merge_layer = nn.Sequential(
            SequentialNormAct(count * projection),
            Shuffle(count),
            SequentialConvNormAct(count * projection, projection, 3, groups=projection),
            nn.Conv2d(projection, outputs, 1, bias=last),
        )
        self.br = nn.Identity() if last else SequentialNormAct(outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = self.projection_layer(x)
        parts = [_at_scale(x, scale, stage) for scale, stage in zip(PYRAMID_SCALES, self.stages, strict=True)]
        out: Tensor = self.br(self.merge_layer(torch.cat(parts, 1)))
        return out


def _at_scale(x: Tensor, scale: float, stage: Callable[[Tensor], Tensor]) -> Tensor:
    """``stage`` at ``scale`` times the size of ``x``, the result at that of ``x``: interpolated up, averaged down."""
    if scale == 1.0:
        return stage(x)
    size = (x.shape[2], x.shape[3])
    scaled = (
        max(math.ceil(size[0] * scale), PYRAMID_MIN_SIDE),
        max(math.ceil(size[1] * scale), PYRAMID_MIN_SIDE),
    )
    if scale > 1.0:
        enlarged = F.interpolate(x, scaled, mode="bilinear", align_corners=True)
        return F.adaptive_avg_pool2d(stage(enlarged), size)
    return F.interpolate(stage(F.adaptive_avg_pool2d(x, scaled)), size, mode="bilinear", align_corners=True)


class GatedConv(nn.Module):
    """Grouped 3x3 convolution, each output channel weighted by a sigmoid of the averaged input."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.wt_layer = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(inputs, outputs, 1, bias=False), nn.Sigmoid())
        self.expansion_layer = SequentialConvNormAct(inputs, outputs, 3, groups=math.gcd(inputs, outputs))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.expansion_layer(x) * self.wt_layer(x)
        return out
