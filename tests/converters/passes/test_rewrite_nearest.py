"""Nearest resizing to multiples as copies side by side: equal to the bit."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mobileseg.converters.forms import Forms
from mobileseg.converters.passes.blocks import BLOCKS
from mobileseg.converters.passes.rewrite_nearest import PASS


class Resized(nn.Module):
    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.options = options

    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(x, mode="nearest", **self.options)


MULTIPLES = [{"scale_factor": 2}, {"size": (10, 14)}, {"size": (15, 14)}, {"scale_factor": (1, 3)}, {"size": (5, 7)}]
OTHERS = [{"size": (7, 9)}, {"scale_factor": 1.5}, {"size": (3, 7)}, {"size": (10, 8)}]


@pytest.mark.parametrize("blocks", sorted(BLOCKS))
def test_multiples(exported: Any, several: Any, lines: tuple[Forms, ...], blocks: Any) -> None:
    x, network = torch.randn(2, 3, 5, 7), several([Resized(**options) for options in MULTIPLES])
    rewritten = exported(network, x).rewrite(PASS, replace(lines[0], nearest="blocks", blocks=blocks))
    assert (rewritten.outcome.count, rewritten.outcome.left) == (len(MULTIPLES), ())
    assert "upsample_nearest2d" not in rewritten.operators
    for result, expected in zip(rewritten(x), network(x), strict=True):
        assert torch.equal(result, expected)


def test_other_sizes_stay(exported: Any, several: Any, lines: tuple[Forms, ...]) -> None:
    x, network = torch.randn(1, 3, 5, 7), several([Resized(**options) for options in OTHERS])
    rewritten = exported(network, x).rewrite(PASS, replace(lines[0], nearest="blocks"))
    assert (rewritten.outcome.count, dict(rewritten.operators)) == (0, {"upsample_nearest2d": len(OTHERS)})


def test_rows_that_torch_repeats_unequally_stay(exported: Any, lines: tuple[Forms, ...]) -> None:
    # 49 times the float that is nearest to 1/49 lies below 1.
    x, network = torch.randn(1, 1, 3, 3), Resized(size=(3 * 41, 3 * 41))
    repeated = x.repeat_interleave(41, 2).repeat_interleave(41, 3)
    rewritten = exported(network, x).rewrite(PASS, replace(lines[0], nearest="blocks"))
    assert rewritten.outcome.count == int(torch.equal(network(x), repeated))
    assert torch.equal(rewritten(x), network(x))


def test_form_native(exported: Any, lines: tuple[Forms, ...]) -> None:
    rewritten = exported(Resized(scale_factor=2), torch.randn(1, 3, 5, 7)).rewrite(
        PASS, replace(lines[0], nearest="native")
    )
    assert (rewritten.outcome.count, dict(rewritten.operators)) == (0, {"upsample_nearest2d": 1})
