"""SegNet: Badrinarayanan, Kendall, Cipolla, "SegNet: A Deep Convolutional Encoder-Decoder Architecture for Image
Segmentation", 2015, arXiv:1511.00561: VGG-16's convolutions, five max-poolings, and their mirror image with unpoolings.

Two layouts, which compute the same but for the last layer:

``flat``    ``conv11, bn11, ..., conv53, bn53, conv53d, bn53d, ..., conv11d`` (github.com/delta-onera/segnet_pytorch and
            many others); ``conv11d`` gives the logits. Unpools without an output size, so sides must divide by 32.
``semseg``  ``down1.conv1.cbr_unit.0, ..., up1.conv2.cbr_unit.1`` (github.com/meetps/pytorch-semseg, also known as
            meetshah1995's); batch normalisation and ReLU also after the last convolution. Unpools to the size before
            pooling: any size.
"""

from __future__ import annotations

import functools
import itertools
import re
from typing import Any

from torch import Tensor, nn

from mobileseg.architectures.blocks import default_size, width
from mobileseg.types import Notice, StateDict, Variant

STAGES = range(1, 6)


class Unit(nn.Module):
    """3x3 convolution, and unless ``linear`` batch normalisation and ReLU."""

    def __init__(self, channels: int, out_channels: int, *, linear: bool = False) -> None:
        super().__init__()
        conv = nn.Conv2d(channels, out_channels, 3, padding=1)
        self.cbr_unit = nn.Sequential(conv, *([] if linear else [nn.BatchNorm2d(out_channels), nn.ReLU()]))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.cbr_unit(x)
        return out


def add_units(stage: nn.Module, channels: list[int], *, linear: bool = False) -> None:
    """``conv1``, ``conv2``, ... between successive ``channels``; ``linear``: of the last."""
    last = len(channels) - 1
    for i, (inputs, outputs) in enumerate(itertools.pairwise(channels), start=1):
        stage.add_module(f"conv{i}", Unit(inputs, outputs, linear=linear and i == last))


class Down(nn.Module):
    """Convolutions, then 2x2 max-pooling: returns pooled map, indices, and the shape before pooling."""

    def __init__(self, channels: int, out_channels: int, depth: int) -> None:
        super().__init__()
        add_units(self, [channels] + [out_channels] * depth)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, list[int]]:
        for unit in self.children():
            x = unit(x)
        pooled, indices = nn.functional.max_pool2d(x, 2, return_indices=True)
        return pooled, indices, list(x.shape)


class Up(nn.Module):
    """Unpooling to the shape before pooling, then convolutions, of which the last changes the channels."""

    def __init__(self, channels: int, out_channels: int, depth: int, *, linear: bool = False) -> None:
        super().__init__()
        add_units(self, [channels] * depth + [out_channels], linear=linear)

    def forward(self, x: Tensor, indices: Tensor, shape: list[int]) -> Tensor:
        x = nn.functional.max_unpool2d(x, indices, [2, 2], output_size=shape)
        for unit in self.children():
            x = unit(x)
        return x


class SegNet(nn.Module):
    """``(N, 3, H, W)`` to logits ``(N, num_classes, H, W)``.

    ``channels``, ``depths``: channels and number of convolutions of the five stages. ``linear_head``: the last
    convolution's output is the logits; otherwise batch normalisation and ReLU follow it.
    """

    def __init__(
        self,
        num_classes: int,
        channels: tuple[int, ...] = (64, 128, 256, 512, 512),
        depths: tuple[int, ...] = (2, 2, 3, 3, 3),
        linear_head: bool = False,
    ) -> None:
        super().__init__()
        for stage, inputs, outputs, depth in zip(STAGES, (3, *channels), channels, depths, strict=False):
            self.add_module(f"down{stage}", Down(inputs, outputs, depth))
        targets = (num_classes, *channels)
        for stage in reversed(STAGES):
            up = Up(channels[stage - 1], targets[stage - 1], depths[stage - 1], linear=linear_head and stage == 1)
            self.add_module(f"up{stage}", up)

    def forward(self, x: Tensor) -> Tensor:
        pooled = []
        for stage in STAGES:
            x, indices, shape = self.get_submodule(f"down{stage}")(x)
            pooled.append((indices, shape))
        for stage in reversed(STAGES):
            x = self.get_submodule(f"up{stage}")(x, *pooled[stage - 1])
        return x


def depth(state: StateDict, stage: str) -> int:
    """Number of convolutions under the key prefix ``stage``."""
    return sum(re.fullmatch(rf"{stage}\.conv\d+\.cbr_unit\.0\.weight", key) is not None for key in state)


def infer(state: StateDict) -> dict[str, Any] | None:
    """Reads the hyperparameters from the ``semseg`` layout's keys."""
    depths = tuple(depth(state, f"down{stage}") for stage in STAGES)
    channels = [width(state, f"down{stage}.conv1.cbr_unit.0.weight") for stage in STAGES]
    num_classes = width(state, f"up1.conv{depths[0]}.cbr_unit.0.weight")
    if num_classes is None or None in channels:
        return None
    return {"num_classes": num_classes, "channels": tuple(channels), "depths": depths}


def rename_flat(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The flat layout's keys to the semseg layout's: ``conv53`` is ``down5.conv3``, ``conv53d`` is ``up5.conv1``."""
    names = {key: re.fullmatch(r"(conv|bn)([1-5])([1-9])(d?)\.(\w+)", key) for key in state}
    depths = {s: max((int(m[3]) for m in names.values() if m and m[2] == str(s)), default=0) for s in STAGES}
    renamed = {}
    for key, match in names.items():
        if match is None:
            renamed[key] = state[key]
            continue
        kind, stage, number, decoder, leaf = match.groups()
        place = f"up{stage}.conv{depths[int(stage)] + 1 - int(number)}" if decoder else f"down{stage}.conv{number}"
        renamed[f"{place}.cbr_unit.{int(kind == 'bn')}.{leaf}"] = state[key]
    return renamed


def infer_flat(state: StateDict) -> dict[str, Any] | None:
    return infer(rename_flat(dict(state))) if "conv11d.weight" in state else None


PREPROCESSING = Notice(
    "SegNets in this layout were trained on pictures prepared in different ways; RGB / 255 was assumed.",
    "--preprocessing",
)

VARIANTS: tuple[Variant, ...] = (
    Variant(
        architecture="segnet",
        name="flat",
        summary="conv11, bn11, ..., conv11d",
        source="https://github.com/delta-onera/segnet_pytorch",
        infer=infer_flat,
        build=functools.partial(SegNet, linear_head=True),
        size_multiple=32,
        default_size=default_size(32),
        notices=(PREPROCESSING,),
        rename=rename_flat,
    ),
    Variant(
        architecture="segnet",
        name="semseg",
        summary="down1.conv1.cbr_unit, ..., up1.conv2.cbr_unit; ReLU after the last layer",
        source="https://github.com/meetps/pytorch-semseg",
        infer=infer,
        build=SegNet,
        default_size=default_size(),
        notices=(PREPROCESSING,),
    ),
)
