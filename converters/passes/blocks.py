"""Taking an image apart into the s x s phases of its blocks, and putting it together again.

``split``: x (N, C, H, W) with H, W divisible by the block -> phases[r][c] (N, C, H/sh, W/sw), where phases[r][c][...,
i, j] = x[..., i*sh + r, j*sw + c].
``merge`` is its inverse. Both are exact: they move numbers and compute none.

channels_last   in memory order (N, H, W, C) a block row is one contiguous run of sw*C numbers, so that a phase is a
                slice of a reshape and the merge is a concatenation seen through a reshape: no transposition is left
                once the target itself is channels-last.
channels_first  in memory order (N, C, H, W) one 3-D transposition sorts each line by phase; a phase is then a slice, and
                the merge is one concatenation and the transposition back. (Selecting from a 6-D reshape instead becomes
                Gather in ONNX; measured equal in speed.)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Block = tuple[int, int]
Phases = Sequence[Sequence[Tensor]]


@dataclass(frozen=True)
class BlockForm:
    split: Callable[[Tensor, Block], list[list[Tensor]]]
    merge: Callable[[Phases], Tensor]


def _split_channels_last(x: Tensor, block: Block) -> list[list[Tensor]]:
    sh, sw = block
    n, c, h, w = x.shape
    rows = x.permute(0, 2, 3, 1).reshape(n, h // sh, sh, w // sw, sw * c)
    return [[rows[:, :, r, :, q * c : (q + 1) * c].permute(0, 3, 1, 2) for q in range(sw)] for r in range(sh)]


def _merge_channels_last(phases: Phases) -> Tensor:
    sh, sw = len(phases), len(phases[0])
    n, c, h, w = phases[0][0].shape
    rows = [torch.cat([p.permute(0, 2, 3, 1) for p in row], dim=3).reshape(n, h, 1, w * sw, c) for row in phases]
    return torch.cat(rows, dim=2).reshape(n, h * sh, w * sw, c).permute(0, 3, 1, 2)


def _split_channels_first(x: Tensor, block: Block) -> list[list[Tensor]]:
    sh, sw = block
    n, c, h, w = x.shape
    run = w // sw
    lines = x.reshape(n * c * h, run, sw).transpose(1, 2).reshape(n, c, h // sh, sh * w)
    return [[lines[:, :, :, (r * sw + q) * run : (r * sw + q + 1) * run] for q in range(sw)] for r in range(sh)]


def _merge_channels_first(phases: Phases) -> Tensor:
    sh, sw = len(phases), len(phases[0])
    n, c, h, w = phases[0][0].shape
    lines = torch.cat([p for row in phases for p in row], dim=3).reshape(n * c * h * sh, sw, w)
    return lines.transpose(1, 2).reshape(n, c, h * sh, w * sw)


BLOCKS = {
    "channels_last": BlockForm(_split_channels_last, _merge_channels_last),
    "channels_first": BlockForm(_split_channels_first, _merge_channels_first),
}
