"""Padded max-pooling as unpadded pooling of a plane whose border is repeated: equal to the bit, every geometry."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from mobileseg.converters.forms import Forms
from mobileseg.converters.passes.rewrite_max_pooling import PASS

Axis = tuple[int, int, int, int]


@pytest.fixture(scope="module")
def repeated(lines: tuple[Forms, ...]) -> Forms:
    return replace(lines[0], max_pooling="repeated_border")


class Cropped(nn.Module):
    """A pooling of the upper left corner of the picture."""

    def __init__(self, size: tuple[int, int], pooling: nn.MaxPool2d) -> None:
        super().__init__()
        self.size, self.pooling = size, pooling

    def forward(self, x: Tensor) -> Tensor:
        return self.pooling(x[:, :, : self.size[0], : self.size[1]])  # type: ignore[no-any-return]


@st.composite
def axes(draw: st.DrawFn) -> Axis:
    """Kernel, stride, padding and size."""
    kernel = draw(st.integers(1, 5))
    padding = draw(st.integers(0, kernel // 2))
    return kernel, draw(st.integers(1, 4)), padding, draw(st.integers(max(1, kernel - 2 * padding), 9))


@st.composite
def poolings(draw: st.DrawFn) -> Cropped:
    kernel, stride, padding, size = zip(draw(axes()), draw(axes()), strict=True)
    return Cropped((size[0], size[1]), nn.MaxPool2d(kernel, stride, padding, ceil_mode=draw(st.booleans())))


def picture(batch: int, seed: int) -> Tensor:
    """Few different numbers, all negative, so that there are ties, and zeros of a padding would be seen."""
    return torch.randint(-5, 0, (batch, 3, 9, 9), generator=torch.Generator().manual_seed(seed)).float()


@given(cases=st.lists(poolings(), min_size=6, max_size=10), batch=st.integers(1, 2), seed=st.integers(0, 2**31))
@settings(max_examples=4, deadline=None)
def test_every_geometry(
    exported: Any, several: Any, repeated: Forms, cases: list[Cropped], batch: int, seed: int
) -> None:
    x, network = picture(batch, seed), several(cases)
    rewritten = exported(network, x).rewrite(PASS, repeated)
    assert rewritten.outcome.left == ()
    assert rewritten.operators["max_pool2d"] == len(cases)
    for case, result, expected in zip(cases, rewritten(x), network(x), strict=True):
        assert torch.equal(result, expected), (case.pooling, case.size)


def test_what_is_padded_and_no_more(exported: Any, several: Any, repeated: Forms) -> None:
    enet, overhang = nn.MaxPool2d(3, 2, 1), nn.MaxPool2d(2, 2, ceil_mode=True)
    plain, even = nn.MaxPool2d(3, 2), Cropped((8, 8), nn.MaxPool2d(2, 2, ceil_mode=True))
    rewritten = exported(several([enet, overhang, plain, even]), picture(2, 0)).rewrite(PASS, repeated)
    assert (rewritten.outcome.count, rewritten.outcome.left) == (2, ())
    # The first reaches beyond every border of 9 pixels; the second beyond two.
    assert rewritten.operators["cat"] == 4


def test_dilated_windows_are_left_and_named(exported: Any, repeated: Forms) -> None:
    rewritten = exported(nn.MaxPool2d(3, 2, 1, dilation=2), picture(1, 0)).rewrite(PASS, repeated)
    assert rewritten.outcome.count == 0
    assert [reason.split(":")[1] for reason in rewritten.outcome.left] == [" its windows are dilated and padded"]


def test_other_targets_keep_the_padding(exported: Any, repeated: Forms) -> None:
    rewritten = exported(nn.MaxPool2d(3, 2, 1), picture(1, 0)).rewrite(PASS, replace(repeated, max_pooling="native"))
    assert (rewritten.outcome.count, dict(rewritten.operators)) == (0, {"max_pool2d": 1})
