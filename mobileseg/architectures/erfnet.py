"""ERFNet: Romera, Alvarez, Bergasa, Arroyo, "ERFNet: Efficient Residual Factorized ConvNet for Real-Time Semantic
Segmentation", IEEE T-ITS 19(1), 2018 (first 2017). Layout of the authors' code, github.com/Eromera/erfnet_pytorch.

The encoder's own head, ``encoder.output_conv``, serves its pre-training and is unused in the whole network; files that
hold it keep it, so that their keys and parameter count are unchanged.
"""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mobileseg.architectures.blocks import default_size, width
from mobileseg.types import StateDict, Variant

BN_EPS = 1e-3
DILATIONS = (2, 4, 8, 16)
"""Of the blocks of the encoder's second stage, over and over; all others have 1."""


class Downsampler(nn.Module):
    """3x3 convolution of stride 2 beside 2x2 max-pooling, concatenated; batch normalisation, ReLU."""

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, out_channels - channels, 3, stride=2, padding=1)
        self.pool = nn.MaxPool2d(2)
        self.bn = nn.BatchNorm2d(out_channels, eps=BN_EPS)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(torch.cat((self.conv(x), self.pool(x)), 1)))


class Upsampler(nn.Module):
    """3x3 transposed convolution that doubles the size, batch normalisation, ReLU."""

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.ConvTranspose2d(channels, out_channels, 3, stride=2, padding=1, output_padding=1)
        self.bn = nn.BatchNorm2d(out_channels, eps=BN_EPS)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


class NonBottleneck1D(nn.Module):
    """Residual block of two factorized 3x3 convolutions, the second dilated; shape unchanged."""

    def __init__(self, channels: int, dropout: float = 0.0, dilation: int = 1) -> None:
        super().__init__()
        self.conv3x1_1 = nn.Conv2d(channels, channels, (3, 1), padding=(1, 0))
        self.conv1x3_1 = nn.Conv2d(channels, channels, (1, 3), padding=(0, 1))
        self.bn1 = nn.BatchNorm2d(channels, eps=BN_EPS)
        self.conv3x1_2 = nn.Conv2d(channels, channels, (3, 1), padding=(dilation, 0), dilation=(dilation, 1))
        self.conv1x3_2 = nn.Conv2d(channels, channels, (1, 3), padding=(0, dilation), dilation=(1, dilation))
        self.bn2 = nn.BatchNorm2d(channels, eps=BN_EPS)
        self.dropout = nn.Dropout2d(dropout)

    def forward(self, x: Tensor) -> Tensor:
        first = F.relu(self.bn1(self.conv1x3_1(F.relu(self.conv3x1_1(x)))))
        second = self.bn2(self.conv1x3_2(F.relu(self.conv3x1_2(first))))
        return F.relu(self.dropout(second) + x)


class Encoder(nn.Module):
    def __init__(self, channels: tuple[int, ...], blocks: tuple[int, ...], head_classes: int | None) -> None:
        super().__init__()
        stem, first, second = channels
        self.initial_block = Downsampler(3, stem)
        dilations = itertools.islice(itertools.cycle(DILATIONS), blocks[1])
        self.layers = nn.Sequential(
            Downsampler(stem, first),
            *(NonBottleneck1D(first, 0.03) for _ in range(blocks[0])),
            Downsampler(first, second),
            *(NonBottleneck1D(second, 0.3, dilation) for dilation in dilations),
        )
        if head_classes is not None:
            self.output_conv = nn.Conv2d(second, head_classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layers(self.initial_block(x))
        return out


class Decoder(nn.Module):
    def __init__(self, inputs: int, channels: tuple[int, ...], blocks: tuple[int, ...], num_classes: int) -> None:
        super().__init__()
        first, second = channels
        self.layers = nn.Sequential(
            Upsampler(inputs, first),
            *(NonBottleneck1D(first) for _ in range(blocks[0])),
            Upsampler(first, second),
            *(NonBottleneck1D(second) for _ in range(blocks[1])),
        )
        self.output_conv = nn.ConvTranspose2d(second, num_classes, 2, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.output_conv(self.layers(x))
        return out


class ERFNet(nn.Module):
    """``(N, 3, H, W)`` RGB / 255 to logits ``(N, num_classes, H, W)``; sides divide by 8.

    ``channels``: at strides 2, 4, 8; ``decoder_channels``: at strides 4, 2. ``blocks``, ``decoder_blocks``: residual
    blocks after each. ``encoder_classes``: outputs of the encoder's unused head, None where there is none.
    """

    def __init__(
        self,
        num_classes: int,
        channels: tuple[int, ...] = (16, 64, 128),
        blocks: tuple[int, ...] = (5, 8),
        decoder_channels: tuple[int, ...] = (64, 16),
        decoder_blocks: tuple[int, ...] = (2, 2),
        encoder_classes: int | None = None,
    ) -> None:
        super().__init__()
        self.encoder = Encoder(channels, blocks, encoder_classes)
        self.decoder = Decoder(channels[-1], decoder_channels, decoder_blocks, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.decoder(self.encoder(x))
        return logits


def stages(state: StateDict, layers: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Channels and number of residual blocks of each stage under the key prefix ``layers``."""
    channels: list[int] = []
    blocks: list[int] = []
    for i in itertools.count():
        resampled = width(state, f"{layers}.{i}.bn.weight")
        if resampled is not None:
            channels.append(resampled)
            blocks.append(0)
        elif blocks and f"{layers}.{i}.bn1.weight" in state:
            blocks[-1] += 1
        else:
            break
    return tuple(channels), tuple(blocks)


def infer(state: StateDict) -> dict[str, Any] | None:
    stem = width(state, "encoder.initial_block.bn.weight")
    num_classes = width(state, "decoder.output_conv.weight", axis=1)
    channels, blocks = stages(state, "encoder.layers")
    decoder_channels, decoder_blocks = stages(state, "decoder.layers")
    if stem is None or num_classes is None or (len(channels), len(decoder_channels)) != (2, 2):
        return None
    return {
        "num_classes": num_classes,
        "channels": (stem, *channels),
        "blocks": blocks,
        "decoder_channels": decoder_channels,
        "decoder_blocks": decoder_blocks,
        "encoder_classes": width(state, "encoder.output_conv.weight"),
    }


VARIANTS: tuple[Variant, ...] = (
    Variant(
        architecture="erfnet",
        name="eromera",
        summary="the authors' layout",
        source="https://github.com/Eromera/erfnet_pytorch",
        infer=infer,
        build=ERFNet,
        size_multiple=8,
        default_size=default_size(8),
    ),
)
