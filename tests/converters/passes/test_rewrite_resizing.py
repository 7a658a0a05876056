"""Bicubic, antialiased and nearest-exact resizing as matrix products: sizes and scales, up and down, odd, batch 2."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mobileseg.converters.forms import Forms
from mobileseg.converters.passes.rewrite_resizing import PASS

KINDS: dict[str, dict[str, Any]] = {
    "bicubic": {"mode": "bicubic"},
    "bicubic by corners": {"mode": "bicubic", "align_corners": True},
    "bicubic, antialiased": {"mode": "bicubic", "antialias": True},
    "bilinear, antialiased": {"mode": "bilinear", "antialias": True},
    "nearest-exact": {"mode": "nearest-exact"},
}
SIZES: dict[str, dict[str, Any]] = {
    "up": {"size": (13, 23)},
    "down": {"size": (4, 3)},
    "one of each": {"size": (17, 5)},
    "by a scale": {"scale_factor": 2},
    "by two scales, not whole": {"scale_factor": (1.7, 0.6)},
    "to one": {"size": (1, 1)},
}


class Resized(nn.Module):
    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.options = options

    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(x, **self.options)


def numbers() -> Tensor:
    return torch.randn(2, 3, 9, 11, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_as_torch_resizes(exported: Any, lines: tuple[Forms, ...], kind: dict[str, Any], size: dict[str, Any]) -> None:
    network, x = Resized(**kind, **size), numbers()
    program = exported(network, x)
    expected = network(x)
    for forms in {f.adaptive_pooling: f for f in lines}.values():
        rewritten = program.rewrite(PASS, forms)
        assert rewritten.outcome.count == 1
        assert not [name for name in rewritten.operators if "upsample" in name]
        result = rewritten(x)
        if kind["mode"] == "nearest-exact":
            assert torch.equal(result, expected)
        torch.testing.assert_close(result, expected, rtol=0, atol=2.0**-20 * float(x.abs().max()))


def test_what_it_does_not_touch(exported: Any, several: Any, lines: tuple[Forms, ...]) -> None:
    network = several([Resized(scale_factor=2), Resized(size=(7, 5), mode="bilinear")])
    program = exported(network, numbers())
    assert [program.rewrite(PASS, forms).outcome.count for forms in lines] == [0] * len(lines)
