"""A small network, and faults to plant in it: each makes a file that runs, looks sound, and is wrong."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from mobileseg.types import Preprocessing

SIZE = (64, 64)
CLASSES = 5
PREPROCESSING = Preprocessing("own", mean=(0.4, 0.45, 0.5), std=(0.2, 0.25, 0.3))


class Block(nn.Module):
    """Convolution, normalization, PReLU; ``slopes``: one, or one a channel."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1, slopes: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm = nn.BatchNorm2d(outputs)
        self.activation = nn.PReLU(slopes)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.activation(self.norm(self.conv(x)))
        return y


class Unpool(nn.Module):
    def forward(self, x: Tensor, indices: Tensor, pooled: Tensor) -> Tensor:
        return functional.max_unpool2d(x, indices, 2, 2, output_size=pooled.shape[2:])


class EqualityUnpool(nn.Module):
    """The usual replacement: wrong where a window has two equal maxima."""

    def forward(self, x: Tensor, indices: Tensor, pooled: Tensor) -> Tensor:
        largest = functional.interpolate(functional.max_pool2d(pooled, 2), scale_factor=2.0)
        return functional.interpolate(x, scale_factor=2.0) * (pooled == largest).to(x.dtype)


class Upsample(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return functional.interpolate(x, scale_factor=2.0, mode="bilinear")


class ShiftedUpsample(Upsample):
    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return torch.cat([y[..., :1], y[..., :-1]], dim=3)


class Transposed(nn.Module):
    """Rows for columns at the end."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.network(x)
        return y.transpose(2, 3)


class Small(nn.Module):
    """What the family is made of: a stem, pooling with indices, unpooling, a bilinear branch, a concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = Block(3, 8, stride=2)
        self.inner = nn.Sequential(Block(8, 8, slopes=8), nn.Dropout(0.1), Block(8, 8))
        self.unpool: nn.Module = Unpool()
        self.upsample: nn.Module = Upsample()
        self.side = nn.Conv2d(8, 4, 1)
        self.fuse = Block(12, 8, slopes=8)
        self.head = nn.ConvTranspose2d(8, CLASSES, 2, 2)

    def forward(self, x: Tensor) -> Tensor:
        # Overlapping windows leave equal neighbours behind, as ENet's first block does.
        stem = functional.max_pool2d(self.stem(x), 3, 1, 1)
        pooled, indices = functional.max_pool2d(stem, 2, 2, return_indices=True)
        inner = self.inner(pooled)
        up = self.unpool(inner, indices, stem)
        side = self.upsample(self.side(inner))
        y: Tensor = self.head(self.fuse(torch.cat([up, side], dim=1)))
        return y


class Steady(Small):
    """One that keeps the gates of int8, and that each target's quantizer takes: without unpooling, one of whose indices
    soon flips, and without the transposed convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Conv2d(8, CLASSES, 1)

    def forward(self, x: Tensor) -> Tensor:
        stem = functional.max_pool2d(self.stem(x), 3, 1, 1)
        inner = self.inner(functional.max_pool2d(stem, 2, 2))
        side = self.upsample(self.side(inner))
        y: Tensor = self.head(self.fuse(torch.cat([stem, side], dim=1)))
        return y


def small() -> Small:
    """The sound network."""
    return _by_chance(Small, 3)


Network = TypeVar("Network", bound=nn.Module)


def _by_chance(build: type[Network], seed: int) -> Network:
    """Weights by chance, normalizations as if it had been trained."""
    torch.manual_seed(seed)
    network = build()
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            nn.init.kaiming_normal_(module.weight)
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.3)
            nn.init.normal_(module.running_mean, 0, 0.3)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
        if isinstance(module, nn.PReLU):
            nn.init.uniform_(module.weight, 0.1, 0.4)
    return network.eval().requires_grad_(False)


def steady() -> Steady:
    """The network of the quantized files."""
    return _by_chance(Steady, 1)


Planted = tuple[nn.Module, Preprocessing]


@dataclass(frozen=True)
class Fault:
    """``plant``: the sound network to the faulty one, and the preprocessing that goes into the file. ``torch``,
    ``module``: the operator of the sound network, and its module, at which the file leaves it."""

    plant: Callable[[Small], Planted]
    torch: tuple[str, ...]
    module: str


def _with(network: Small, change: Callable[[Small], None]) -> Planted:
    changed = copy.deepcopy(network)
    change(changed)
    return changed, PREPROCESSING


def _steeper(network: Small) -> None:
    network.inner[2].activation.weight += 0.05


def _permuted(network: Small) -> None:
    order = torch.tensor([1, 0, *range(2, CLASSES)])
    network.head.weight.copy_(network.head.weight[:, order])
    assert network.head.bias is not None
    network.head.bias.copy_(network.head.bias[order])


FAULTS = {
    "swapped channel order": Fault(
        lambda network: (copy.deepcopy(network), replace(PREPROCESSING, channel_order="BGR")),
        ("mul", "add"),
        "",
    ),
    "wrong PReLU slope": Fault(lambda network: _with(network, _steeper), ("prelu",), "inner.2.activation"),
    "equality mask": Fault(
        lambda network: _with(network, lambda n: setattr(n, "unpool", EqualityUnpool())), ("max_unpool2d",), "unpool"
    ),
    "shifted upsampling": Fault(
        lambda network: _with(network, lambda n: setattr(n, "upsample", ShiftedUpsample())),
        # The shift is two operators of the file that torch has not, behind an upsampling that is right.
        ("cat",),
        "",
    ),
    "mean and std left out": Fault(
        lambda network: (copy.deepcopy(network), replace(PREPROCESSING, mean=(0.0,) * 3, std=(1.0,) * 3)),
        ("mul", "add"),
        "",
    ),
    "transposed output": Fault(
        lambda network: (Transposed(copy.deepcopy(network)).eval(), PREPROCESSING), ("conv_transpose2d",), "head"
    ),
    "permuted classes": Fault(lambda network: _with(network, _permuted), ("conv_transpose2d",), "head"),
}
"""All but a zero point off by one, which is a fault of a quantized file and not of a network."""
