"""Which channels hang together: any factors for the classes that are found leave a network's outputs bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mobileseg.converters.export import export
from mobileseg.quantization.recovery.channels import find_channels
from mobileseg.quantization.recovery.classes import PINNED, Classes, compressed
from mobileseg.quantization.recovery.equalize import scaled
from mobileseg.quantization.recovery.rules import RULES

SIZE = (13, 17)


class Network(nn.Module):
    """A first convolution of 8 channels, something in between, and a last one."""

    def __init__(self, between: Callable[[Network, Tensor], Tensor], channels: int = 8, **layers: nn.Module) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.layers = nn.ModuleDict(layers)
        self.last = nn.Conv2d(channels, 4, 1)
        self.register_buffer("zero", torch.zeros(1, 8, 1, 1))
        self.register_buffer("ramp", torch.arange(1.0, 9.0).view(1, 8, 1, 1))
        self.between = between

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.last(self.between(self, self.first(x)))
        return result


def norm(channels: int = 8, affine: bool = True) -> nn.BatchNorm2d:
    layer = nn.BatchNorm2d(channels, affine=affine)
    for tensor in (layer.running_mean, layer.running_var, layer.weight, layer.bias):
        if tensor is not None:
            nn.init.uniform_(tensor, 0.3, 1.7)
    return layer


def prelu() -> nn.PReLU:
    layer = nn.PReLU(8)
    nn.init.uniform_(layer.weight, -0.3, 0.5)
    return layer


def shuffle(x: Tensor, groups: int = 2) -> Tensor:
    n, c, h, w = x.shape
    return x.view(n, groups, c // groups, h, w).transpose(1, 2).contiguous().view(n, c, h, w)


def unpooled(x: Tensor, other: Tensor) -> Tensor:
    pooled, indices = F.max_pool2d(x, 2, return_indices=True)
    return F.max_unpool2d(F.relu(pooled + F.max_pool2d(other, 2)), indices, 2, output_size=x.shape[2:])


def twice(n: Network, x: Tensor) -> Tensor:
    again: Tensor = n.layers["c"](F.relu(n.layers["c"](F.relu(x))))
    return again


def gated(n: Network, x: Tensor) -> Tensor:
    return x * torch.sigmoid(n.layers["c"](F.adaptive_avg_pool2d(x, 1)))


def squeezed(n: Network, x: Tensor) -> Tensor:
    means = n.layers["l"](F.adaptive_avg_pool2d(x, 1).view(x.shape[0], 8))
    return x + F.relu(means).view(x.shape[0], 8, 1, 1).expand_as(x)


def conv(channels: int = 8, out: int = 8, size: int = 1, **options: Any) -> nn.Conv2d:
    return nn.Conv2d(channels, out, size, **options)


# The network, and how many classes of channels can be scaled.
FREE: dict[str, tuple[Callable[[], Network], int]] = {
    "relu": (lambda: Network(lambda n, x: F.relu(x)), 8),
    "leaky relu": (lambda: Network(lambda n, x: F.leaky_relu(x, 0.1)), 8),
    "prelu with a slope a channel": (lambda: Network(lambda n, x: n.layers["p"](x), p=prelu()), 8),
    "prelu with one slope": (lambda: Network(lambda n, x: n.layers["p"](x), p=nn.PReLU()), 8),
    "a limit at zero": (lambda: Network(lambda n, x: torch.clamp(x, min=0)), 8),
    "an infinite limit": (lambda: Network(lambda n, x: F.hardtanh(x, 0.0, float("inf"))), 8),
    "absolute, negated": (lambda: Network(lambda n, x: torch.cat([x.abs(), -x], 1), 16), 8),
    "normalization": (lambda: Network(lambda n, x: F.relu(n.layers["n"](x)), n=norm()), 16),
    "normalization without a weight": (lambda: Network(lambda n, x: n.layers["n"](x), n=norm(8, False)), 8),
    "normalization of a pooling": (lambda: Network(lambda n, x: n.layers["n"](F.avg_pool2d(x, 3)), n=norm()), 16),
    "residual": (lambda: Network(lambda n, x: x + F.relu(n.layers["c"](F.relu(x))), c=conv()), 8),
    "difference": (lambda: Network(lambda n, x: x - n.layers["c"](x), c=conv()), 8),
    "maximum": (lambda: Network(lambda n, x: torch.maximum(x, n.layers["c"](x)), c=conv()), 8),
    "addition of zero": (lambda: Network(lambda n, x: n.zero - x), 8),
    "concatenation": (lambda: Network(lambda n, x: torch.cat([n.layers["c"](x), x], 1), 13, c=conv(8, 5)), 13),
    "concatenated rows": (lambda: Network(lambda n, x: torch.cat([n.layers["c"](x), x], 2), c=conv()), 8),
    "slices": (lambda: Network(lambda n, x: x[:, 2:7, 1:, ::2], 5), 8),
    "split": (lambda: Network(lambda n, x: torch.add(*x.split(4, 1)), 4), 4),
    "chunk, flip": (lambda: Network(lambda n, x: torch.cat([c.flip(1) for c in x.chunk(3, 1)], 1)), 8),
    "shuffle into groups": (
        lambda: Network(lambda n, x: n.layers["c"](shuffle(x)), c=conv(8, 8, 3, groups=4)),
        16,
    ),
    "shuffle added to itself": (lambda: Network(lambda n, x: x + shuffle(x)), 4),
    "depthwise": (lambda: Network(lambda n, x: n.layers["c"](x), c=conv(8, 8, 3, padding="same", groups=8)), 16),
    "more outputs a group": (lambda: Network(lambda n, x: n.layers["c"](x), 12, c=conv(8, 12, 3, groups=2)), 20),
    "transposed": (lambda: Network(lambda n, x: n.layers["c"](x), 6, c=nn.ConvTranspose2d(8, 6, 3, 2)), 14),
    "grouped transposed": (
        lambda: Network(lambda n, x: n.layers["c"](x), 12, c=nn.ConvTranspose2d(8, 12, 2, 2, groups=4)),
        20,
    ),
    "transposed without a bias": (
        lambda: Network(lambda n, x: n.layers["c"](x), 6, c=nn.ConvTranspose2d(8, 6, 2, 2, groups=2, bias=False)),
        14,
    ),
    "max-pooling": (lambda: Network(lambda n, x: F.max_pool2d(x, 3, 2, 1)), 8),
    "average pooling": (lambda: Network(lambda n, x: F.avg_pool2d(x, 3, 2, 1)), 8),
    "adaptive pooling": (lambda: Network(lambda n, x: F.adaptive_avg_pool2d(x, (3, 5))), 8),
    "unpooling": (lambda: Network(lambda n, x: unpooled(x, F.relu(n.layers["c"](x))), c=conv()), 8),
    "bilinear": (lambda: Network(lambda n, x: F.interpolate(x, (9, 30), mode="bilinear", align_corners=True)), 8),
    "nearest": (lambda: Network(lambda n, x: F.interpolate(x, scale_factor=2)), 8),
    "zeros around": (lambda: Network(lambda n, x: F.pad(x, (1, 2, -1, 0))), 8),
    "mirrored around": (lambda: Network(lambda n, x: F.pad(x, (1, 2, 1, 0), mode="reflect")), 8),
    "channels of zeros": (lambda: Network(lambda n, x: F.pad(x, (0, 0, 0, 0, 0, 4)), 12), 12),
    "channels of zeros in front, added": (
        lambda: Network(lambda n, x: F.pad(x, (0, 0, 0, 0, 3, 1)) + n.layers["c"](x), 12, c=conv(8, 12)),
        12,
    ),
    "a number times": (lambda: Network(lambda n, x: x * 0.3 / n.ramp), 8),
    "a gate": (lambda: Network(gated, c=conv()), 8),
    "a gate from elsewhere": (lambda: Network(lambda n, x: torch.sigmoid(x) * n.layers["c"](x), c=conv()), 8),
    "a gate for all channels": (
        lambda: Network(lambda n, x: F.relu(n.layers["c"](x)) * torch.sigmoid(x).mean(1, keepdim=True), c=conv()),
        8,
    ),
    "means over a plane": (lambda: Network(lambda n, x: F.relu(x - x.mean((2, 3), keepdim=True))), 8),
    "means of channels": (lambda: Network(lambda n, x: x.mean(1, keepdim=True), 1), 1),
    "extremes of channels": (lambda: Network(lambda n, x: x.max(1, keepdim=True)[0] + x.amin(1, keepdim=True), 1), 1),
    "a layer of numbers": (lambda: Network(squeezed, l=nn.Linear(8, 8)), 8),
    "a convolution used twice": (lambda: Network(twice, c=conv()), 8),
    "pixel shuffle": (lambda: Network(lambda n, x: F.relu(F.pixel_shuffle(x, 2)), 2), 2),
    "pixel unshuffle": (lambda: Network(lambda n, x: F.pixel_unshuffle(x[..., :12, :16], 2), 32), 8),
    "channels last": (
        lambda: Network(lambda n, x: n.layers["l"](x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), l=nn.Linear(8, 8)),
        16,
    ),
}

KEPT: dict[str, Callable[[], Network]] = {
    "sigmoid": lambda: Network(lambda n, x: torch.sigmoid(x)),
    "softmax": lambda: Network(lambda n, x: torch.softmax(x, 1)),
    "relu6": lambda: Network(lambda n, x: F.relu6(x)),
    "a limit below zero": lambda: Network(lambda n, x: torch.clamp(x, min=-1.0)),
    "an operator without a rule": lambda: Network(lambda n, x: F.gelu(x)),
    "addition of a number": lambda: Network(lambda n, x: x + 1.0),
    "addition of a constant": lambda: Network(lambda n, x: x - n.ramp),
    "addition of what is made of no weight": lambda: Network(lambda n, x: x + torch.ones(1, 8, 1, 1)),
    "addition of what weights make": lambda: Network(lambda n, x: x + n.first.weight.sum()),
    "ones around": lambda: Network(lambda n, x: F.pad(x, (1, 1, 1, 1), value=1.0)),
    "a square": lambda: Network(lambda n, x: x * x),
    "a quotient": lambda: Network(lambda n, x: 1.0 / x),
    "a weight that is computed": lambda: Network(
        lambda n, x: F.conv2d(x, torch.tanh(n.layers["c"].weight)), 8, c=conv(bias=False)
    ),
    "a slope that is computed": lambda: Network(lambda n, x: F.prelu(x, x.mean((0, 2, 3)))),
    "a group norm": lambda: Network(lambda n, x: n.layers["g"](x), 8, g=nn.GroupNorm(2, 8)),
}


def scaled_anyhow(network: nn.Module, batch: int = 1, seed: int = 0) -> tuple[int, Tensor, Tensor]:
    """How many classes can be scaled, and the outputs before and after all were, by random factors."""
    program = export(network, SIZE, batch=batch).program
    channels = find_channels(program, RULES)
    found = {r for ids, _ in channels.weights.values() for r in channels.classes.roots(ids).flatten().tolist()}
    found |= {r for _, ids in channels.weights.values() for r in channels.classes.roots(ids).flatten().tolist()}
    free = sorted(found - {PINNED})
    generator = torch.Generator().manual_seed(seed)
    exponents = torch.randint(-4, 5, (len(free),), generator=generator).tolist()
    other = scaled(program, channels, {root: 2.0**e for root, e in zip(free, exponents, strict=True)})
    picture = torch.rand(batch, 3, *SIZE, generator=generator) * 255
    with torch.no_grad():
        return len(free), program.module()(picture), other.module()(picture)


@pytest.mark.parametrize(("build", "free"), FREE.values(), ids=FREE)
def test_factors_go_through_and_change_nothing(build: Callable[[], Network], free: int) -> None:
    torch.manual_seed(0)
    found, before, after = scaled_anyhow(build())
    assert found == free
    assert torch.equal(before, after)
    assert before.std() > 0


@pytest.mark.parametrize("build", KEPT.values(), ids=KEPT)
def test_what_knows_no_factors_keeps_what_it_reads(build: Callable[[], Network]) -> None:
    torch.manual_seed(0)
    found, before, after = scaled_anyhow(build())
    assert found == 0
    assert torch.equal(before, after)


def test_several_pictures_at_once() -> None:
    torch.manual_seed(0)
    network = Network(lambda n, x: unpooled(shuffle(x), F.relu(n.layers["c"](x))), c=conv())
    found, before, after = scaled_anyhow(network, batch=2)
    assert found > 0
    assert torch.equal(before, after)


def test_a_weight_that_something_else_reads_is_kept() -> None:
    torch.manual_seed(0)
    network = Network(lambda n, x: F.relu(n.layers["c"](x)) + n.layers["c"].weight.mean(), c=conv(bias=False))
    found, before, after = scaled_anyhow(network)
    assert found == 0
    assert torch.equal(before, after)


def test_a_weight_near_the_largest_float_is_kept() -> None:
    torch.manual_seed(0)
    network = Network(lambda n, x: F.relu(x))
    network.first.weight.data[5] = 1e38
    found, before, after = scaled_anyhow(network)
    assert found == 0
    assert torch.equal(before, after)


def test_tied_layers_are_scaled_alike_or_apart_but_rightly() -> None:
    """The same parameter under two names."""
    torch.manual_seed(0)
    network = Network(lambda n, x: n.layers["d"](F.relu(n.layers["c"](x))), c=conv(), d=conv())
    network.layers["d"].weight = network.layers["c"].weight
    found, before, after = scaled_anyhow(network)
    assert found > 0
    assert torch.equal(before, after)


def test_classes_join_by_pairs_and_the_pinned_one_keeps_its_number() -> None:
    classes = Classes()
    a, b, c = classes.new(4), classes.new(4), classes.new(1)
    classes.join(a, b.flip(0))
    assert classes.roots(a).tolist() == classes.roots(b.flip(0)).tolist()
    assert len(set(classes.roots(a).tolist())) == 4
    classes.join(b[1:2], c)
    classes.pin(c)
    assert classes.roots(a).tolist()[2] == PINNED
    assert not classes.are_pinned(a)
    assert classes.are_pinned(torch.cat((b[1:2], a[2:3], c)))


def test_numbers_are_kept_once_where_they_do_not_change() -> None:
    ids = torch.arange(6).view(1, 6, 1, 1).expand(2, 6, 3, 5)
    assert compressed(ids).shape == (1, 6, 1, 1)
    assert compressed(ids.transpose(1, 3)).shape == (1, 1, 1, 6)
