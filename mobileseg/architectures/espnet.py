"""ESPNet: Mehta, Rastegari, Caspi, Shapiro, Hajishirzi, "ESPNet: Efficient Spatial Pyramid of Dilated Convolutions for
Semantic Segmentation", ECCV 2018, arXiv 1803.06815; code and weights: github.com/sacmehta/ESPNet.

Two variants: ``sacmehta`` has the decoder and answers at the picture's size (keys ``encoder.*`` and ``level3_C``,
``br``, ``conv``, ``up_l*``, ``combine_l2_l3``, ``classifier``); ``sacmehta-encoder`` is the paper's ESPNet-C, which
answers at stride 8 (the same keys without ``encoder.``).

Facts of the code that the checkpoints follow:

- Batch normalization's epsilon is 1e-3; PReLU has one slope a channel; no convolution has a bias.
- An ESP block of C channels has branches of dilation 1, 2, 4, 8, 16; four give C // 5 channels, the first one the rest.
  The sums run over dilations 2, 4, 8, 16 only: the branch of dilation 1 is concatenated as it is.
- The picture, averaged 3x3 with stride 2 once and twice, is concatenated to the features at strides 2 and 4.
- The decoder's skip connection at stride 2 is that concatenation, normalized, in the repository's training code, and
  ``level1``'s output alone in its test code: the inputs of ``conv.conv`` tell which.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from mobileseg.architectures.blocks import default_size
from mobileseg.architectures.esp_blocks import Conv, ConvNormAct, NormAct, children, fan_in, halve, width
from mobileseg.errors import OptionError
from mobileseg.types import Notice, StateDict, Variant

Widths = tuple[int, int, int]
"""The encoder's channels at strides 2, 4, 8."""

EPS = 1e-3
BRANCHES = 5
PICTURE = 3
WIDTHS: Widths = (16, 64, 128)
SIZE_MULTIPLE = 8


class Pyramid(nn.Module):
    """What the ESP block and its downsampling share: a reducing convolution and five dilated ones, summed in turn."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int) -> None:
        super().__init__()
        branch = outputs // BRANCHES
        self.c1 = Conv(inputs, branch, kernel, stride=stride)
        self.d1 = Conv(branch, outputs - (BRANCHES - 1) * branch, 3)
        self.d2 = Conv(branch, branch, 3, dilation=2)
        self.d4 = Conv(branch, branch, 3, dilation=4)
        self.d8 = Conv(branch, branch, 3, dilation=8)
        self.d16 = Conv(branch, branch, 3, dilation=16)

    def branches(self, x: Tensor) -> Tensor:
        """The concatenated branches, before normalization."""
        reduced = self.c1(x)
        sum2 = self.d2(reduced)
        sum4 = sum2 + self.d4(reduced)
        sum8 = sum4 + self.d8(reduced)
        sum16 = sum8 + self.d16(reduced)
        return torch.cat([self.d1(reduced), sum2, sum4, sum8, sum16], 1)


class ESP(Pyramid):
    """Efficient spatial pyramid at constant size; ``residual`` adds the input before the normalization."""

    def __init__(self, inputs: int, outputs: int, *, residual: bool = True) -> None:
        super().__init__(inputs, outputs, kernel=1, stride=1)
        self.bn = NormAct(outputs, eps=EPS)
        self.residual = residual

    def forward(self, x: Tensor) -> Tensor:
        out = self.branches(x)
        normalized: Tensor = self.bn(x + out if self.residual else out)
        return normalized


class Downsampling(Pyramid):
    """Efficient spatial pyramid at half the size."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, kernel=3, stride=2)
        self.bn = nn.BatchNorm2d(outputs, eps=EPS)
        self.act = nn.PReLU(outputs)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.act(self.bn(self.branches(x)))
        return out


class ESPNetC(nn.Module):
    """The encoder alone: ``(N, 3, H, W)`` to logits ``(N, num_classes, H / 8, W / 8)``, H and W multiples of 8.

    ``p``, ``q``: ESP blocks at strides 4 and 8.
    """

    def __init__(self, num_classes: int = 20, *, p: int = 2, q: int = 8, channels: Widths = WIDTHS) -> None:
        super().__init__()
        c1, c2, c3 = channels
        self.halve = halve()
        self.level1 = ConvNormAct(PICTURE, c1, 3, stride=2, eps=EPS)
        self.b1 = NormAct(c1 + PICTURE, eps=EPS)
        self.level2_0 = Downsampling(c1 + PICTURE, c2)
        self.level2 = nn.ModuleList(ESP(c2, c2) for _ in range(p))
        self.b2 = NormAct(2 * c2 + PICTURE, eps=EPS)
        self.level3_0 = Downsampling(2 * c2 + PICTURE, c3)
        self.level3 = nn.ModuleList(ESP(c3, c3) for _ in range(q))
        self.b3 = NormAct(2 * c3, eps=EPS)
        self.classifier = Conv(2 * c3, num_classes, 1)

    def features(self, picture: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """``level1``'s output, the concatenations at strides 2 and 4, and the logits at stride 8."""
        half = self.halve(picture)
        quarter = self.halve(half)
        level1 = self.level1(picture)
        stride2 = self.b1(torch.cat([level1, half], 1))
        first = out = self.level2_0(stride2)
        for block in self.level2:
            out = block(out)
        stride4 = self.b2(torch.cat([out, first, quarter], 1))
        first = out = self.level3_0(stride4)
        for block in self.level3:
            out = block(out)
        logits = self.classifier(self.b3(torch.cat([first, out], 1)))
        return level1, stride2, stride4, logits

    def forward(self, x: Tensor) -> Tensor:
        return self.features(x)[-1]


class ESPNet(nn.Module):
    """Encoder and decoder: ``(N, 3, H, W)`` to logits ``(N, num_classes, H, W)``, H and W multiples of 8.

    ``picture_in_skip``: the skip connection at stride 2 holds the averaged picture too. The decoder's ESP block divides
    the classes among its five branches; fewer classes raise `OptionError`.
    """

    def __init__(
        self,
        num_classes: int = 20,
        *,
        p: int = 2,
        q: int = 8,
        channels: Widths = WIDTHS,
        picture_in_skip: bool = True,
    ) -> None:
        super().__init__()
        if num_classes < BRANCHES:
            raise OptionError(
                f"ESPNet's decoder cannot have {num_classes} classes: at least {BRANCHES} are needed, one for each "
                f"branch of its last pyramid. The variant 'sacmehta-encoder' has no such limit."
            )
        c1, c2, _ = channels
        self.picture_in_skip = picture_in_skip
        self.encoder = ESPNetC(num_classes, p=p, q=q, channels=channels)
        self.level3_C = Conv(2 * c2 + PICTURE, num_classes, 1)
        self.br = nn.BatchNorm2d(num_classes, eps=EPS)
        self.conv = ConvNormAct(c1 + PICTURE * picture_in_skip + num_classes, num_classes, 3, eps=EPS)
        self.up_l3 = nn.Sequential(_double(num_classes))
        self.combine_l2_l3 = nn.Sequential(
            NormAct(2 * num_classes, eps=EPS), ESP(2 * num_classes, num_classes, residual=False)
        )
        self.up_l2 = nn.Sequential(_double(num_classes), NormAct(num_classes, eps=EPS))
        self.classifier = _double(num_classes)

    def forward(self, x: Tensor) -> Tensor:
        level1, stride2, stride4, logits = self.encoder.features(x)
        out = self.up_l3(self.br(logits))
        out = self.up_l2(self.combine_l2_l3(torch.cat([self.level3_C(stride4), out], 1)))
        out = self.conv(torch.cat([out, stride2 if self.picture_in_skip else level1], 1))
        doubled: Tensor = self.classifier(out)
        return doubled


def _double(channels: int) -> nn.ConvTranspose2d:
    return nn.ConvTranspose2d(channels, channels, 2, stride=2, bias=False)


def _infer_encoder(state: StateDict, prefix: str = "") -> dict[str, Any] | None:
    channels = tuple(width(state, f"{prefix}{level}.act.weight") for level in ("level1", "level2_0", "level3_0"))
    head = f"{prefix}classifier.conv.weight"
    if f"{prefix}level2_0.d16.conv.weight" not in state or head not in state or 0 in channels:
        return None
    return {
        "num_classes": width(state, head),
        "p": children(state, f"{prefix}level2."),
        "q": children(state, f"{prefix}level3."),
        "channels": channels,
    }


def _infer_full(state: StateDict) -> dict[str, Any] | None:
    encoder = _infer_encoder(state, "encoder.")
    if encoder is None or "level3_C.conv.weight" not in state:
        return None
    skip = fan_in(state, "conv.conv.weight") - encoder["num_classes"]
    return {**encoder, "picture_in_skip": skip != encoder["channels"][0]}


def _preprocessing(num_classes: int) -> str:
    return "espnet-camvid" if num_classes == 12 else "espnet-cityscapes"


_NOTICE = Notice(
    "The weights do not tell what the network was fed; assumed BGR pictures with the authors' mean and standard "
    "deviation (CamVid's for 12 classes, else Cityscapes'), then divided by 255.",
    "--preprocessing",
)

VARIANTS: tuple[Variant, ...] = (
    Variant(
        architecture="espnet",
        name="sacmehta",
        summary="ESPNet with its decoder, logits at the picture's size; any p, q and class count from 5",
        source="github.com/sacmehta/ESPNet, arXiv 1803.06815",
        infer=_infer_full,
        build=ESPNet,
        preprocessing=_preprocessing,
        size_multiple=SIZE_MULTIPLE,
        min_size=SIZE_MULTIPLE,
        default_size=default_size(SIZE_MULTIPLE),
        notices=(_NOTICE,),
    ),
    Variant(
        architecture="espnet",
        name="sacmehta-encoder",
        summary="ESPNet-C, the encoder alone, logits at an eighth of the picture's size; any p, q and class count",
        source="github.com/sacmehta/ESPNet, arXiv 1803.06815",
        infer=_infer_encoder,
        build=ESPNetC,
        preprocessing=_preprocessing,
        size_multiple=SIZE_MULTIPLE,
        min_size=SIZE_MULTIPLE,
        default_size=default_size(SIZE_MULTIPLE),
        notices=(_NOTICE,),
    ),
)
