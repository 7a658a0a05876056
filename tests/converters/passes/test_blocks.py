"""Blocks of pixels taken apart and put together: by definition, and as inverses."""

from __future__ import annotations

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mobileseg.converters.passes.blocks import BLOCKS

SIDES = st.integers(1, 4)


@pytest.mark.parametrize("form", sorted(BLOCKS))
@given(n=st.integers(1, 3), c=SIDES, h=SIDES, w=SIDES, block=st.tuples(SIDES, SIDES), channels_last=st.booleans())
@settings(max_examples=60, deadline=None)
def test_phases_are_strided_slices_and_merge_to_the_image(
    form: str, n: int, c: int, h: int, w: int, block: tuple[int, int], channels_last: bool
) -> None:
    sh, sw = block
    x = torch.arange(n * c * h * sh * w * sw, dtype=torch.float32).reshape(n, c, h * sh, w * sw)
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    blocks = BLOCKS[form]
    phases = blocks.split(blocks.enter(x), block)
    for r in range(sh):
        for q in range(sw):
            assert torch.equal(blocks.leave(phases[r][q]), x[:, :, r::sh, q::sw])
    assert torch.equal(blocks.leave(blocks.merge(phases)), x)


@pytest.mark.parametrize("form", sorted(BLOCKS))
@given(h=SIDES, w=SIDES, top=st.integers(-3, 3), left=st.integers(-3, 3), height=SIDES, width=SIDES)
@settings(max_examples=60, deadline=None)
def test_a_cut_reaches_beyond_the_plane(
    form: str, h: int, w: int, top: int, left: int, height: int, width: int
) -> None:
    assume(top < h and left < w and top + height > 0 and left + width > 0)
    blocks = BLOCKS[form]
    x = torch.rand(2, 3, h, w) + 1
    framed = torch.nn.functional.pad(x, (8, 8, 8, 8), value=-1.0)
    expected = framed[:, :, 8 + top : 8 + top + height, 8 + left : 8 + left + width]
    assert torch.equal(blocks.leave(blocks.cut(blocks.enter(x), top, left, height, width, -1.0)), expected)


def test_a_plane_that_blocks_do_not_fill_is_an_error() -> None:
    for form in BLOCKS.values():
        with pytest.raises(RuntimeError, match="invalid for input of size"):
            form.split(torch.zeros(1, 1, 5, 4), (2, 2))
