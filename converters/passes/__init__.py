"""The rewrites, one per file, and the order they run in."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mobileseg.converters.passes import (
    fold_batch_norm,
    rewrite_adaptive_pooling,
    rewrite_channel_shuffle,
    rewrite_prelu,
    rewrite_transposed_convolution,
    rewrite_unpooling,
)

if TYPE_CHECKING:
    from mobileseg.converters.passes.base import Pass

PASSES: tuple[Pass, ...] = (
    # Before the transposed convolutions are taken apart: it scales their weights while they are still one tensor.
    fold_batch_norm.PASS,
    rewrite_unpooling.PASS,
    rewrite_transposed_convolution.PASS,
    rewrite_adaptive_pooling.PASS,
    rewrite_channel_shuffle.PASS,
    rewrite_prelu.PASS,
)
