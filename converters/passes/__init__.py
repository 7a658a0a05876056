"""The rewrites, one per file, and the order they run in."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mobileseg.converters.passes import (
    fold_batch_norm,
    fold_constants,
    fuse_clamps,
    hoist_limits,
    move_affine,
    remove_identities,
    rewrite_adaptive_pooling,
    rewrite_affine,
    rewrite_average_pooling,
    rewrite_channel_reduction,
    rewrite_channel_shuffle,
    rewrite_expansion,
    rewrite_grouped_convolution,
    rewrite_max_pooling,
    rewrite_nearest,
    rewrite_padding,
    rewrite_prelu,
    rewrite_resizing,
    rewrite_transposed_convolution,
    rewrite_unpooling,
    turn_signs,
)

if TYPE_CHECKING:
    from mobileseg.converters.passes.base import Pass

PASSES: tuple[Pass, ...] = (
    remove_identities.PASS,
    # After the identities, which may stand between two limits.
    fuse_clamps.PASS,
    rewrite_padding.PASS,
    rewrite_expansion.PASS,
    # Before those that look for constant weights.
    fold_constants.PASS,
    # Before the transposed convolutions are taken apart: it scales their weights while they are still one tensor.
    fold_batch_norm.PASS,
    # Before the PReLUs become extremes, while a shuffle is still the network's own.
    turn_signs.PASS,
    # Before the shuffles, one of which may disappear into its weights.
    rewrite_grouped_convolution.PASS,
    # Before the rewritings that may interleave phases by a shuffle of their own, which is none of the network's.
    rewrite_channel_shuffle.PASS,
    rewrite_unpooling.PASS,
    # After the unpoolings, which leave plain max-poolings; before what writes averages and transposed convolutions
    # otherwise.
    move_affine.PASS,
    rewrite_transposed_convolution.PASS,
    rewrite_resizing.PASS,
    rewrite_nearest.PASS,
    rewrite_adaptive_pooling.PASS,
    # After the adaptive ones, some of which become plain poolings.
    rewrite_average_pooling.PASS,
    rewrite_prelu.PASS,
    rewrite_max_pooling.PASS,
    # What found no better place.
    rewrite_affine.PASS,
    # After all that moves numbers between a convolution and its limit.
    hoist_limits.PASS,
    rewrite_channel_reduction.PASS,
)
