"""Which values Core ML rounds."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mobileseg.converters.export import Deployed, export, rewrite
from mobileseg.quantization.coreml.values import values_for_core_ml
from mobileseg.quantization.program.values import Values, name_of, values_of


class Written(nn.Module):
    def __init__(self, compute: Callable[..., Tensor]) -> None:
        super().__init__()
        self.conv, self.slopes, self.compute = nn.Conv2d(3, 4, 1), nn.PReLU(4), compute
        self.gain, self.offset = (nn.Parameter(torch.rand(1, 4, 1, 1) + 0.5) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        return self.compute(self, self.conv(x))


def values(compute: Callable[..., Tensor]) -> Values:
    module = rewrite(export(Deployed(Written(compute).eval(), None, "logits"), (4, 6)), "coreml", "int8").module
    return values_for_core_ml(values_of(module))


def rounded(found: Values) -> list[str]:
    return [name_of(node) for node in found.rounded if node.op != "placeholder"]


def test_a_convolution_and_its_activation_are_rounded_once() -> None:
    for activation in (lambda m, x: m.slopes(x), lambda m, x: F.leaky_relu(x, 0.1), lambda m, x: torch.sigmoid(x)):
        found = values(activation)
        (end,) = [node for node in found.rounded if node.op != "placeholder"]
        assert name_of(end) in {"prelu", "leaky_relu", "sigmoid"}
        (convolution,) = found.fused
        assert (name_of(convolution), found.root(convolution)) == ("conv2d", end)


def test_gain_offset_and_activation_are_rounded_once() -> None:
    found = values(lambda m, x: m.slopes(torch.cat([x, -x], 1)[:, 2:6] * m.gain + m.offset))
    assert rounded(found) == ["conv2d", "neg", "cat", "prelu"]
    assert [name_of(node) for node in found.fused] == ["mul", "add"]
    assert {name_of(found.root(node)) for node in found.fused} == {"prelu"}


def test_what_others_read_too_is_rounded() -> None:
    found = values(lambda m, x: m.slopes(x) + x)
    assert rounded(found) == ["conv2d", "prelu", "add"]


def test_sums_of_two_values_and_squares_are_no_gains() -> None:
    assert rounded(values(lambda m, x: x * x)) == ["conv2d", "mul"]
    assert rounded(values(lambda m, x: torch.cat([x, x.neg()], 1)[:, 2:6] + x)) == ["conv2d", "neg", "cat", "add"]


def test_a_mean_is_rounded_before_its_activation() -> None:
    """Core ML's pooling is an operator with int8 around it."""
    assert rounded(values(lambda m, x: m.slopes(F.avg_pool2d(x, 3, 1, 1)))) == ["conv2d", "avg_pool2d", "prelu"]
