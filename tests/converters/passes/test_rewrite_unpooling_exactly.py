"""Max-unpooling as arithmetic, as a property: every window, every kind of value, bit for bit against torch's scatter.

"Bit for bit" holds for every number but zero: a zero that no window writes, or a negative zero that one does, may carry
the other sign (the module's docstring says so), so zeros are compared without theirs. Subnormal numbers are
not zeros here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Generator, Tensor, nn

from mobileseg.converters.forms import TABLE, Forms
from mobileseg.converters.passes.blocks import BLOCKS
from mobileseg.converters.passes.rewrite_unpooling import MASKS, PASS, Window, not_maximum, unpool

INTEGERS = {torch.float32: torch.int32, torch.float16: torch.int16}


def bits(x: Tensor) -> Tensor:
    """The numbers as integers of their own width, zeros without their sign."""
    integers = x.contiguous().view(INTEGERS[x.dtype])
    return torch.where((integers & torch.iinfo(integers.dtype).max) == 0, 0, integers)


@dataclass(frozen=True)
class Geometry:
    """A pooling and the plane it pools."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    ceil_mode: bool
    plane: tuple[int, int]

    def pool(self, x: Tensor) -> tuple[Tensor, Tensor]:
        pooled, indices = F.max_pool2d(
            x, self.kernel, self.stride, self.padding, self.dilation, self.ceil_mode, return_indices=True
        )
        return pooled, indices

    def window(self, pooled: Tensor) -> Window:
        size = (pooled.shape[-2], pooled.shape[-1])
        return Window(self.kernel, self.stride, self.padding, self.dilation, self.plane, size)


@st.composite
def geometries(draw: st.DrawFn) -> Geometry:
    """Strides below, at and above the kernel, odd planes down to the smallest, padding up to torch's limit."""
    kernel = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    stride = draw(st.integers(1, 5)), draw(st.integers(1, 5))
    dilation = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    padding = draw(st.integers(0, kernel[0] // 2)), draw(st.integers(0, kernel[1] // 2))
    least = [max(1, (k - 1) * d + 1 - 2 * p) for k, d, p in zip(kernel, dilation, padding, strict=True)]
    plane = least[0] + draw(st.integers(0, 6)), least[1] + draw(st.integers(0, 6))
    geometry = Geometry(kernel, stride, padding, dilation, draw(st.booleans()), plane)
    # A dilated window may see nothing but padding: torch's index is then outside of the plane, its own unpooling fails.
    assume(bool(torch.isfinite(geometry.pool(torch.zeros(1, 1, *plane))[0]).all()))
    return geometry


def _subnormal(dtype: torch.dtype) -> float:
    return torch.finfo(dtype).tiny * torch.finfo(dtype).eps


def _integers(low: int, high: int) -> Callable[..., Tensor]:
    return lambda shape, g, dtype: torch.randint(low, high + 1, shape, generator=g).to(dtype)


VALUES: dict[str, Callable[[tuple[int, ...], Generator, torch.dtype], Tensor]] = {
    "normal": lambda shape, g, dtype: torch.randn(shape, generator=g).to(dtype),
    "ties everywhere": _integers(0, 2),
    "all equal": lambda shape, g, dtype: torch.full(shape, float(torch.randn((), generator=g))).to(dtype),
    "negative": _integers(-3, -1),
    "signed zeros": lambda shape, g, dtype: torch.where(torch.rand(shape, generator=g) < 0.5, -0.0, 0.0).to(dtype),
    "zeros and ones": lambda shape, g, dtype: (
        _integers(-1, 1)(shape, g, dtype) * -0.0 + _integers(0, 1)(shape, g, dtype)
    ),
    # From the least to the greatest number: their difference overflows.
    "large": lambda shape, g, dtype: _integers(-1, 1)(shape, g, dtype) * torch.finfo(dtype).max,
    "tiny differences": lambda shape, g, dtype: 1 + _integers(0, 2)(shape, g, dtype) * torch.finfo(dtype).eps,
    "subnormal differences": lambda shape, g, dtype: (
        torch.finfo(dtype).tiny + _integers(0, 2)(shape, g, dtype) * _subnormal(dtype)
    ),
    "subnormal": lambda shape, g, dtype: _integers(-2, 2)(shape, g, dtype) * _subnormal(dtype),
}


def numbers(kind: str, shape: tuple[int, ...], seed: int, dtype: torch.dtype) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    if kind != "mixed":
        return VALUES[kind](shape, generator, dtype)
    candidates = torch.stack([make(shape, generator, dtype) for make in VALUES.values()])
    return candidates.gather(0, torch.randint(len(candidates), (1, *shape), generator=generator))[0]


KINDS = st.sampled_from([*VALUES, "mixed"])
SEEDS = st.integers(0, 2**31)


def test_the_numbers_that_zeros_could_hide_are_told_apart() -> None:
    for dtype, integer in INTEGERS.items():
        x = torch.tensor([0.0, -0.0, _subnormal(dtype), -_subnormal(dtype)], dtype=dtype)
        assert bits(x).dtype == integer
        assert bits(x).unique().numel() == 3


@pytest.mark.parametrize("blocks", sorted(BLOCKS))
@pytest.mark.parametrize("mask", sorted(MASKS))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=["fp32", "fp16"])
@given(
    geometry=geometries(),
    batch=st.integers(1, 2),
    channels=st.integers(1, 3),
    kinds=st.tuples(KINDS, KINDS),
    seed=SEEDS,
)
@settings(max_examples=150, deadline=None)
def test_windows_and_products_equal_the_scatter(
    dtype: torch.dtype,
    mask: str,
    blocks: str,
    geometry: Geometry,
    batch: int,
    channels: int,
    kinds: tuple[str, str],
    seed: int,
) -> None:
    x = numbers(kinds[0], (batch, channels, *geometry.plane), seed, dtype)
    pooled, indices = geometry.pool(x)
    y = numbers(kinds[1], tuple(pooled.shape), seed + 1, dtype)
    expected = torch.ops.aten.max_unpool2d(y, indices, geometry.plane)
    window = geometry.window(pooled)
    below = not_maximum(x, pooled, window, MASKS[mask], BLOCKS[blocks])
    assert all(bool(((n == 0) | (n == 1)).all()) for n in below)
    assert torch.equal(bits(unpool(y, below, window, BLOCKS[blocks])), bits(expected))


class Unpooling(nn.Module):
    """A pooling of x, the unpooling of the upper left corner of y with its indices."""

    def __init__(self, geometry: Geometry) -> None:
        super().__init__()
        self.geometry = geometry

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        height, width = self.geometry.plane
        pooled, indices = self.geometry.pool(x[:, :, :height, :width])
        values = y[:, :, : pooled.shape[-2], : pooled.shape[-1]]
        result: Tensor = torch.ops.aten.max_unpool2d(values, indices, self.geometry.plane)
        return result


@given(cases=st.lists(geometries(), min_size=3, max_size=4), kinds=st.tuples(KINDS, KINDS), seed=SEEDS)
@settings(max_examples=3, deadline=None)
def test_the_pass_reads_every_geometry_from_the_graph(
    exported: Any, several: Any, lines: tuple[Forms, ...], cases: list[Geometry], kinds: tuple[str, str], seed: int
) -> None:
    side = max(max(c.plane) for c in cases) + 2
    x, y = (numbers(kind, (2, 2, side, side), seed + i, torch.float32) for i, kind in enumerate(kinds))
    network = several([Unpooling(c) for c in cases])
    program = exported(network, x, y)
    assert set(lines) == set(TABLE.values())
    for forms in lines:
        rewritten = program.rewrite(PASS, forms)
        assert rewritten.outcome.count == len(cases)
        assert rewritten.outcome.left == ()
        for result, expected in zip(rewritten(x, y), network(x, y), strict=True):
            assert torch.equal(bits(result), bits(expected))
