"""Blocks of pixels taken apart and put together: by definition, and as inverses."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
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
    phases = BLOCKS[form].split(x, block)
    for r in range(sh):
        for q in range(sw):
            assert torch.equal(phases[r][q], x[:, :, r::sh, q::sw])
    assert torch.equal(BLOCKS[form].merge(phases), x)


def test_a_plane_that_blocks_do_not_fill_is_an_error() -> None:
    for form in BLOCKS.values():
        with pytest.raises(RuntimeError, match="invalid for input of size"):
            form.split(torch.zeros(1, 1, 5, 4), (2, 2))
