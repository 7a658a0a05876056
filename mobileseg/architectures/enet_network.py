"""The networks behind the variants of `mobileseg.architectures.enet`: davidtvs' present one, and what others change.

Attribute names are davidtvs' present state dict keys; layouts with other keys are renamed to these.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mobileseg.architectures.blocks import activation, conv_unit

INTERNAL_RATIO = 4
HALF, QUARTER, EIGHTH = range(3)  # index into ENet's widths: channels at that fraction of the picture's size


@dataclass(frozen=True)
class Block:
    """What one bottleneck is: its kind, its levels in and out (indices into the widths), and where it stands."""

    kind: str
    source: int
    target: int
    dropout: float
    dilation: int = 1
    decoder: bool = False

    def internal(self, channels: tuple[int, ...]) -> int:
        """The bottleneck's width where nothing else is said: a quarter of its input's."""
        return channels[self.source] // INTERNAL_RATIO


REGULAR = Block("regular", EIGHTH, EIGHTH, 0.1)
DEEP = (
    REGULAR,
    replace(REGULAR, kind="dilated", dilation=2),
    replace(REGULAR, kind="asymmetric"),
    replace(REGULAR, kind="dilated", dilation=4),
    REGULAR,
    replace(REGULAR, kind="dilated", dilation=8),
    replace(REGULAR, kind="asymmetric"),
    replace(REGULAR, kind="dilated", dilation=16),
)
"""Stage 2 after its downsampling, and all of stage 3."""

STAGE1 = {f"regular1_{i}": Block("regular", QUARTER, QUARTER, 0.01) for i in range(1, 5)}
STAGE2 = {f"{block.kind}2_{i}": block for i, block in enumerate(DEEP, start=1)}
STAGE3 = {f"{block.kind}3_{i}": block for i, block in enumerate(DEEP)}
STAGE4 = {f"regular4_{i}": Block("regular", QUARTER, QUARTER, 0.1, decoder=True) for i in (1, 2)}
STAGE5 = {"regular5_1": Block("regular", HALF, HALF, 0.1, decoder=True)}
BLOCKS = {
    "downsample1_0": Block("downsample", HALF, QUARTER, 0.01),
    **STAGE1,
    "downsample2_0": Block("downsample", QUARTER, EIGHTH, 0.1),
    **STAGE2,
    **STAGE3,
    "upsample4_0": Block("upsample", EIGHTH, QUARTER, 0.1, decoder=True),
    **STAGE4,
    "upsample5_0": Block("upsample", QUARTER, HALF, 0.1, decoder=True),
    **STAGE5,
}


class Activations(NamedTuple):
    """``inner`` makes the activations inside a block's extension; ``out`` is the one after the addition."""

    inner: Callable[[], nn.Module]
    out: nn.Module


class Shape(NamedTuple):
    """Channels of one bottleneck, and the dilation of its 3x3 convolution."""

    inputs: int
    outputs: int
    internal: int
    dilation: int


class InitialBlock(nn.Module):
    """``(N, 3, H, W)`` to ``(N, channels, H/2, W/2)``: a strided convolution beside max-pooling, both 3x3."""

    def __init__(self, channels: int, out: nn.Module) -> None:
        super().__init__()
        self.main_branch = nn.Conv2d(3, channels - 3, 3, stride=2, padding=1, bias=False)
        self.ext_branch = nn.MaxPool2d(3, stride=2, padding=1)
        self.batch_norm = nn.BatchNorm2d(channels)
        self.out_activation = out

    def forward(self, x: Tensor) -> Tensor:
        joined = torch.cat((self.main_branch(x), self.ext_branch(x)), 1)
        out: Tensor = self.out_activation(self.batch_norm(joined))
        return out


class Bottleneck(nn.Module):
    """A main branch and an extension, which are added: the extension is three units with dropout at its end."""

    def __init__(self, shape: Shape, acts: Activations, dropout: float) -> None:
        super().__init__()
        self.ext_conv1 = self.projection(shape, acts)
        self.ext_conv2 = self.middle(shape, acts)
        self.ext_conv3 = self.expansion(shape, acts)
        self.ext_regul = nn.Dropout2d(dropout)
        self.out_activation = acts.out

    def projection(self, shape: Shape, acts: Activations) -> nn.Sequential:
        return conv_unit(nn.Conv2d(shape.inputs, shape.internal, 1, bias=False), act=acts.inner())

    def middle(self, shape: Shape, acts: Activations) -> nn.Sequential:
        conv = nn.Conv2d(shape.internal, shape.internal, 3, 1, shape.dilation, shape.dilation, bias=False)
        return conv_unit(conv, act=acts.inner())

    def expansion(self, shape: Shape, acts: Activations) -> nn.Sequential:
        return conv_unit(nn.Conv2d(shape.internal, shape.outputs, 1, bias=False), act=acts.inner())

    def join(self, main: Tensor, x: Tensor) -> Tensor:
        extension = self.ext_regul(self.ext_conv3(self.ext_conv2(self.ext_conv1(x))))
        out: Tensor = self.out_activation(main + extension)
        return out


class Regular(Bottleneck):
    """Residual 1x1, 3x3 (dilated), 1x1; shape unchanged."""

    def forward(self, x: Tensor) -> Tensor:
        return self.join(x, x)


class Asymmetric(Regular):
    """The 3x3 convolution replaced by 5x1 and 1x5, each with batch normalisation and activation."""

    def middle(self, shape: Shape, acts: Activations) -> nn.Sequential:
        column = nn.Conv2d(shape.internal, shape.internal, (5, 1), padding=(2, 0), bias=False)
        row = nn.Conv2d(shape.internal, shape.internal, (1, 5), padding=(0, 2), bias=False)
        return nn.Sequential(*conv_unit(column, act=acts.inner()), *conv_unit(row, act=acts.inner()))


class Downsampling(Bottleneck):
    """Max-pooling padded with zero channels, plus a bottleneck of stride 2; also returns the pooling's indices."""

    def __init__(self, shape: Shape, acts: Activations, dropout: float) -> None:
        super().__init__(shape, acts, dropout)
        self.main_max1 = nn.MaxPool2d(2, stride=2, return_indices=True)

    def projection(self, shape: Shape, acts: Activations) -> nn.Sequential:
        return conv_unit(nn.Conv2d(shape.inputs, shape.internal, 2, stride=2, bias=False), act=acts.inner())

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        pooled, indices = self.main_max1(x)
        channels = self.ext_conv3[0].out_channels
        main = F.pad(pooled, (0, 0, 0, 0, 0, channels - pooled.shape[1]))
        return self.join(main, x), indices


class Unpooling(Bottleneck):
    """Max-unpooling of a 1x1 convolution, plus a bottleneck whose middle is a 3x3 transposed convolution of stride 2.

    Doubles the size: for pictures whose sides divide by 8.
    """

    def __init__(self, shape: Shape, acts: Activations, dropout: float) -> None:
        super().__init__(shape, acts, dropout)
        self.main_conv1 = self.main(shape)
        self.main_unpool1 = nn.MaxUnpool2d(2)

    def main(self, shape: Shape) -> nn.Sequential:
        return conv_unit(nn.Conv2d(shape.inputs, shape.outputs, 1, bias=False))

    def middle(self, shape: Shape, acts: Activations) -> nn.Sequential:
        conv = nn.ConvTranspose2d(shape.internal, shape.internal, 3, 2, padding=1, output_padding=1, bias=False)
        return conv_unit(conv, act=acts.inner())

    def forward(self, x: Tensor, indices: Tensor, size: list[int]) -> Tensor:
        return self.join(self.main_unpool1(self.main_conv1(x), indices, output_size=size), x)


class Upsampling(nn.Module):
    """davidtvs' present form, with a 2x2 transposed convolution: any size."""

    def __init__(self, shape: Shape, acts: Activations, dropout: float) -> None:
        super().__init__()
        self.main_conv1 = conv_unit(nn.Conv2d(shape.inputs, shape.outputs, 1, bias=False))
        self.main_unpool1 = nn.MaxUnpool2d(2)
        self.ext_conv1 = conv_unit(nn.Conv2d(shape.inputs, shape.internal, 1, bias=False), act=acts.inner())
        self.ext_tconv1 = nn.ConvTranspose2d(shape.internal, shape.internal, 2, stride=2, bias=False)
        self.ext_tconv1_bnorm = nn.BatchNorm2d(shape.internal)
        self.ext_tconv1_activation = acts.inner()
        self.ext_conv2 = self.expansion(shape, acts)
        self.ext_regul = nn.Dropout2d(dropout)
        self.out_activation = acts.out

    def expansion(self, shape: Shape, acts: Activations) -> nn.Sequential:
        return conv_unit(nn.Conv2d(shape.internal, shape.outputs, 1, bias=False))

    def forward(self, x: Tensor, indices: Tensor, size: list[int]) -> Tensor:
        main = self.main_unpool1(self.main_conv1(x), indices, output_size=size)
        raised = self.ext_tconv1_bnorm(self.ext_tconv1(self.ext_conv1(x), output_size=size))
        extension = self.ext_regul(self.ext_conv2(self.ext_tconv1_activation(raised)))
        out: Tensor = self.out_activation(main + extension)
        return out


class ENet(nn.Module):
    """davidtvs' ENet: ``(N, 3, H, W)`` RGB / 255 to logits ``(N, num_classes, H, W)``, any size.

    ``channels``: at strides 2, 4 and 8. ``internal``: by block name, the bottleneck widths that are not a quarter of
    the block's input. ``encoder_relu``, ``decoder_relu``: ReLU there instead of PReLU.
    """

    initial: type[InitialBlock] = InitialBlock
    kinds: ClassVar[Mapping[str, type[nn.Module]]] = {
        "downsample": Downsampling,
        "regular": Regular,
        "dilated": Regular,
        "asymmetric": Asymmetric,
        "upsample": Upsampling,
    }

    def __init__(
        self,
        num_classes: int,
        channels: tuple[int, ...] = (16, 64, 128),
        internal: Mapping[str, int] | None = None,
        encoder_relu: bool = False,
        decoder_relu: bool = True,
    ) -> None:
        super().__init__()
        self.initial_block = self.initial(channels[HALF], self.activations("initial", encoder_relu, channels[HALF]).out)
        for name, block in BLOCKS.items():
            acts = self.activations(block.kind, decoder_relu if block.decoder else encoder_relu, channels[block.target])
            inner = (internal or {}).get(name, block.internal(channels))
            shape = Shape(channels[block.source], channels[block.target], inner, block.dilation)
            self.add_module(name, self.kinds[block.kind](shape, acts, block.dropout))
        self.transposed_conv = nn.ConvTranspose2d(channels[HALF], num_classes, 3, stride=2, padding=1, bias=False)

    def activations(self, kind: str, relu: bool, channels: int) -> Activations:
        """The activations of a block of ``kind`` with ``channels`` outputs."""
        return Activations(functools.partial(activation, relu), activation(relu))

    def run(self, names: Mapping[str, Block], x: Tensor) -> Tensor:
        for name in names:
            x = self.get_submodule(name)(x)
        return x

    def raise_to(self, name: str, x: Tensor, indices: Tensor, before: Tensor) -> Tensor:
        raised: Tensor = self.get_submodule(name)(x, indices, before.shape)
        return raised

    def forward(self, x: Tensor) -> Tensor:
        half = self.initial_block(x)
        pooled, indices1 = self.get_submodule("downsample1_0")(half)
        quarter = self.run(STAGE1, pooled)
        pooled, indices2 = self.get_submodule("downsample2_0")(quarter)
        eighth = self.run(STAGE3, self.run(STAGE2, pooled))
        up = self.run(STAGE4, self.raise_to("upsample4_0", eighth, indices2, quarter))
        up = self.run(STAGE5, self.raise_to("upsample5_0", up, indices1, half))
        logits: Tensor = self.transposed_conv(up, output_size=x.shape)
        return logits


class UpsamplingPre2021(Upsampling):
    def expansion(self, shape: Shape, acts: Activations) -> nn.Sequential:
        return conv_unit(nn.Conv2d(shape.internal, shape.outputs, 1, bias=False), act=acts.inner())


class ENetPre2021(ENet):
    """davidtvs' ENet before commit 7cd31d4: one more activation at the end of the upsampling extension."""

    kinds: ClassVar[Mapping[str, type[nn.Module]]] = {**ENet.kinds, "upsample": UpsamplingPre2021}


class OverlappingDownsampling(Downsampling):
    def __init__(self, shape: Shape, acts: Activations, dropout: float) -> None:
        super().__init__(shape, acts, dropout)
        self.main_max1 = nn.MaxPool2d(3, stride=2, padding=1, return_indices=True)


class ENet2018(ENet):
    """davidtvs' ENet of 2018: output PReLU per channel, and 3x3 pooling windows that overlap.

    Two windows can have one maximum, so unpooling writes some places twice; in torch on a CPU the last in row-major
    order stays.
    """

    kinds: ClassVar[Mapping[str, type[nn.Module]]] = {
        **ENet.kinds,
        "downsample": OverlappingDownsampling,
        "upsample": Unpooling,
    }

    def activations(self, kind: str, relu: bool, channels: int) -> Activations:
        return Activations(functools.partial(activation, relu), nn.PReLU(channels))


class IArunavaInitial(InitialBlock):
    """Batch normalisation of the convolution only, beside 2x2 max-pooling."""

    def __init__(self, channels: int, out: nn.Module) -> None:
        super().__init__(channels, out)
        self.main_branch = nn.Conv2d(3, channels - 3, 3, stride=2, padding=1)
        self.ext_branch = nn.MaxPool2d(2)
        self.batch_norm = nn.BatchNorm2d(channels - 3)

    def forward(self, x: Tensor) -> Tensor:
        joined = torch.cat((self.batch_norm(self.main_branch(x)), self.ext_branch(x)), 1)
        out: Tensor = self.out_activation(joined)
        return out


class LinearExpansion(Bottleneck):
    """No activation between the expansion and the addition."""

    def expansion(self, shape: Shape, acts: Activations) -> nn.Sequential:
        return conv_unit(nn.Conv2d(shape.internal, shape.outputs, 1, bias=False))


class IArunavaRegular(LinearExpansion, Regular):
    def middle(self, shape: Shape, acts: Activations) -> nn.Sequential:
        conv = nn.Conv2d(shape.internal, shape.internal, 3, 1, shape.dilation, shape.dilation)
        return conv_unit(conv, act=acts.inner())


class IArunavaAsymmetric(LinearExpansion, Regular):
    """1x5 first, then 5x1, with nothing between."""

    def middle(self, shape: Shape, acts: Activations) -> nn.Sequential:
        row = nn.Conv2d(shape.internal, shape.internal, (1, 5), padding=(0, 2), bias=False)
        column = nn.Conv2d(shape.internal, shape.internal, (5, 1), padding=(2, 0), bias=False)
        return conv_unit(row, column, act=acts.inner())


class IArunavaDownsampling(LinearExpansion, Downsampling):
    """The stride is in the 3x3 convolution."""

    def projection(self, shape: Shape, acts: Activations) -> nn.Sequential:
        return Bottleneck.projection(self, shape, acts)

    def middle(self, shape: Shape, acts: Activations) -> nn.Sequential:
        return conv_unit(nn.Conv2d(shape.internal, shape.internal, 3, 2, padding=1), act=acts.inner())


class IArunavaUnpooling(LinearExpansion, Unpooling):
    def main(self, shape: Shape) -> nn.Sequential:
        return nn.Sequential(nn.Conv2d(shape.inputs, shape.outputs, 1))


class ENetIArunava(ENet):
    """iArunava's ENet. In most blocks one PReLU module stands in all three places, so its weight is one parameter."""

    initial = IArunavaInitial
    kinds: ClassVar[Mapping[str, type[nn.Module]]] = {
        "downsample": IArunavaDownsampling,
        "regular": IArunavaRegular,
        "dilated": IArunavaRegular,
        "asymmetric": IArunavaAsymmetric,
        "upsample": IArunavaUnpooling,
    }

    def activations(self, kind: str, relu: bool, channels: int) -> Activations:
        if kind == "initial":
            return Activations(nn.PReLU, nn.PReLU(channels))
        if kind == "asymmetric":
            return Activations(nn.PReLU, nn.PReLU())
        shared = activation(relu)
        return Activations(lambda: shared, shared)


class ENetIArunavaOneBN(ENetIArunava):
    """iArunava's first ENet: the batch normalisation of a bottleneck's first unit is that of its second too."""

    def __init__(
        self,
        num_classes: int,
        channels: tuple[int, ...] = (16, 64, 128),
        internal: Mapping[str, int] | None = None,
        encoder_relu: bool = False,
        decoder_relu: bool = True,
    ) -> None:
        super().__init__(num_classes, channels, internal, encoder_relu, decoder_relu)
        for block in self.children():
            if isinstance(block, Bottleneck):
                block.ext_conv2[-2] = block.ext_conv1[1]
