"""Batch normalization folded into the convolution in front of it, or turned into a gain and an offset, or left."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mobileseg.converters.forms import Forms
from mobileseg.converters.passes.fold_batch_norm import PASS

TOLERANCE = 1e-5  # of the largest output, as the pass says


def norm(channels: int, seed: int = 0, *, affine: bool = True, tiny: bool = False) -> nn.BatchNorm2d:
    """Trained-looking statistics: gains of both signs and zero; ``tiny``: variances far below eps."""
    g = torch.Generator().manual_seed(seed)
    module = nn.BatchNorm2d(channels, eps=1e-3, affine=affine)
    module.running_mean = torch.randn(channels, generator=g)
    module.running_var = torch.rand(channels, generator=g) * (1e-12 if tiny else 3)
    if affine:
        with torch.no_grad():
            module.weight.copy_(torch.randn(channels, generator=g))
            module.weight[0], module.weight[1] = 0.0, -1.5
            module.bias.copy_(torch.randn(channels, generator=g))
    return module


def assert_close(result: Tensor, expected: Tensor, name: str = "") -> None:
    assert result.shape == expected.shape, name
    assert float((result - expected).detach().abs().max()) <= TOLERANCE * float(expected.detach().abs().max()), name


def picture(channels: int = 4) -> Tensor:
    return torch.randn(2, channels, 7, 9, generator=torch.Generator().manual_seed(5))


FOLDED: dict[str, Callable[[], list[nn.Module]]] = {
    "bias": lambda: [nn.Conv2d(4, 6, 3, padding=1), norm(6)],
    "no bias": lambda: [nn.Conv2d(4, 6, 3, stride=2, bias=False), norm(6)],
    "grouped": lambda: [nn.Conv2d(4, 6, 3, groups=2), norm(6)],
    "depthwise, dilated": lambda: [nn.Conv2d(4, 4, 3, dilation=2, groups=4, bias=False), norm(4)],
    "padding by name": lambda: [nn.Conv2d(4, 6, (3, 1), padding="same"), norm(6)],
    "transposed": lambda: [nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1), norm(6)],
    "transposed, grouped": lambda: [nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2, bias=False), norm(6)],
    "transposed, depthwise": lambda: [nn.ConvTranspose2d(4, 4, 2, stride=2, groups=4), norm(4)],
    "no gain and bias": lambda: [nn.Conv2d(4, 6, 1), norm(6, affine=False)],
    "tiny variance": lambda: [nn.Conv2d(4, 6, 3), norm(6, tiny=True)],
    "no dropout between": lambda: [nn.Conv2d(4, 6, 3), nn.Dropout2d(0.5), norm(6)],
}


def test_a_normalization_disappears_into_its_convolution(exported: Any, several: Any, forms: Forms) -> None:
    torch.manual_seed(0)
    network = several([nn.Sequential(*make()) for make in FOLDED.values()])
    rewritten = exported(network, picture()).rewrite(PASS, forms)
    assert (rewritten.outcome.count, rewritten.outcome.left) == (len(FOLDED), ())
    assert set(rewritten.operators) == {"conv2d", "conv_transpose2d"}
    assert rewritten.operators.total() == len(FOLDED)
    for name, result, expected in zip(FOLDED, rewritten(picture()), network(picture()), strict=True):
        assert_close(result, expected, name)


def test_weights_are_rounded_once(exported: Any, lines: tuple[Forms, ...]) -> None:
    torch.manual_seed(0)
    convolution, normalization = nn.Conv2d(4, 6, 1), norm(6)
    rewritten = exported(nn.Sequential(convolution, normalization), picture()).rewrite(PASS, lines[0])
    mean, variance = normalization.running_mean, normalization.running_var
    assert mean is not None
    assert variance is not None
    gain = normalization.weight.double() / (variance.double() + normalization.eps).sqrt()
    weight = convolution.weight.double() * gain[:, None, None, None]
    assert convolution.bias is not None
    bias = (convolution.bias.double() - mean.double()) * gain + normalization.bias.double()
    stored = dict(rewritten.module.named_buffers())  # type: ignore[attr-defined]
    assert torch.equal(stored["0_weight"], weight.float())
    assert torch.allclose(stored["0_bias"].double(), bias, rtol=0, atol=2.0**-23 * float(bias.detach().abs().max()))


class AfterConcatenation(nn.Module):
    """ENet's initial block: nothing in front that could take the gain."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(4, 3, 3, stride=2, padding=1), norm(7)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(torch.cat([self.conv(x), F.max_pool2d(x, 3, 2, 1)], 1))  # type: ignore[no-any-return]


class TwoUsers(nn.Module):
    """The convolution's own output is used too, so its weights must stay."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(4, 6, 3), norm(6)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.conv(x)
        return self.norm(y), y


class TwoNorms(nn.Module):
    """One convolution module and two normalizations; each call has weights of its own after the fold."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.first, self.second = nn.Conv2d(4, 4, 3, padding=1), norm(4, 1), norm(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.conv(F.relu(self.first(self.conv(x)))))  # type: ignore[no-any-return]


class ComputedWeight(nn.Module):
    """A convolution with the picture's own weights cannot take the gain."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = norm(2)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(F.conv2d(x, x[:, :, :3, :3]))  # type: ignore[no-any-return]


# Network, convolutions, gains left as products.
AFFINE: dict[str, tuple[Callable[[], nn.Module], int, int]] = {
    "after a concatenation": (AfterConcatenation, 1, 1),
    "two users": (TwoUsers, 1, 1),
    "computed weight": (ComputedWeight, 1, 1),
    "after a ReLU": (lambda: nn.Sequential(nn.Conv2d(4, 6, 3), nn.ReLU(), norm(6)), 1, 1),
    "two in a row": (lambda: nn.Sequential(nn.Conv2d(4, 6, 3), norm(6, 1), norm(6, 2)), 1, 0),
    "shared convolution": (TwoNorms, 2, 0),
    "vectors": (lambda: nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.BatchNorm1d(4)), 0, 1),
}


@pytest.mark.parametrize("case", AFFINE)
def test_elsewhere_it_becomes_a_gain_and_an_offset(exported: Any, lines: tuple[Forms, ...], case: str) -> None:
    torch.manual_seed(0)
    make, convolutions, gains = AFFINE[case]
    network = make()
    rewritten = exported(network, picture()).rewrite(PASS, lines[0])
    assert rewritten.outcome.left == ()
    assert rewritten.outcome.count == sum(isinstance(m, (nn.BatchNorm1d, nn.BatchNorm2d)) for m in network.modules())
    assert "_native_batch_norm_legit_no_training" not in rewritten.operators
    assert rewritten.operators["conv2d"] == convolutions
    assert rewritten.operators["mul"] == rewritten.operators["add"] == gains
    results, expected = rewritten(picture()), network(picture())
    for r, e in zip(*((t,) if isinstance(t, Tensor) else t for t in (results, expected)), strict=True):
        assert_close(r, e)


def test_a_shared_output_is_not_scaled(exported: Any, lines: tuple[Forms, ...]) -> None:
    torch.manual_seed(0)
    network = TwoUsers()
    rewritten = exported(network, picture()).rewrite(PASS, lines[0])
    assert torch.equal(rewritten(picture())[1], network(picture())[1])


def test_statistics_of_the_picture_itself_are_left_by_name(exported: Any, lines: tuple[Forms, ...]) -> None:
    class Whitening(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return F.batch_norm(x, x.mean((0, 2, 3)), x.var((0, 2, 3)))

    rewritten = exported(Whitening(), picture()).rewrite(PASS, lines[0])
    assert rewritten.outcome.count == 0
    assert rewritten.outcome.left == ("_native_batch_norm_legit_no_training: its statistics are not constants",)
    assert_close(rewritten(picture()), Whitening()(picture()))


def test_other_normalizations_are_left_alone(exported: Any, several: Any, lines: tuple[Forms, ...]) -> None:
    network = several([nn.BatchNorm2d(4, track_running_stats=False), nn.InstanceNorm2d(4), nn.GroupNorm(2, 4)])
    rewritten = exported(network, picture()).rewrite(PASS, lines[0])
    assert (rewritten.outcome.count, rewritten.outcome.left) == (0, ())
    for result, expected in zip(rewritten(picture()), network(picture()), strict=True):
        assert_close(result, expected)
