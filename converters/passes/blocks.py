"""Taking an image apart into the s x s phases of its blocks, and putting it together again, in the target's order.

A form works on tensors of its own order: ``enter`` brings (N, C, H, W) into it, ``leave`` back.

``split``: x with H, W divisible by the block -> phases[r][c]; its pixel (i, j) is x's pixel (i*sh + r, j*sw + c).
``merge`` is its inverse. All are exact: they move numbers and compute none.

channels_last   (N, H, W, C): a block row is one contiguous run of sw*C numbers, so that a phase is a slice of a reshape
                and the merge is a concatenation seen through a reshape. Once the target itself is channels-last, no
                transposition is left.
channels_first  (N, C, H, W): one 3-D transposition sorts each line by phase; a phase is then a slice, and the merge is
                one concatenation and the transposition back. (Selecting from a 6-D reshape instead becomes Gather in
                ONNX; measured equal in speed.)
strided         (N, C, H, W): a phase is a strided slice, and the merge of square blocks a channel-interleaving
                concatenation (a 5-D transposition here, one operator of Core ML) and a pixel shuffle. Nothing but
                these touches the plane's two axes.
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
    """``height``, ``channels``: the axes of rows (columns are the next) and of channels."""

    height: int
    channels: int
    enter: Callable[[Tensor], Tensor]
    leave: Callable[[Tensor], Tensor]
    split: Callable[[Tensor, Block], list[list[Tensor]]]
    merge: Callable[[Phases], Tensor]

    def size(self, x: Tensor) -> tuple[int, int]:
        """Height and width."""
        return x.shape[self.height], x.shape[self.height + 1]

    def cut(self, x: Tensor, top: int, left: int, height: int, width: int, fill: float) -> Tensor:
        """The rectangle of x that starts at (top, left), ``fill`` where it reaches beyond x."""
        h, w = self.size(x)
        bottom, right = top + height, left + width
        if max(top, left) > 0 or bottom < h or right < w:
            inside = (slice(max(top, 0), min(bottom, h)), slice(max(left, 0), min(right, w)))
            x = x[(slice(None),) * self.height + inside]
        margins = [0, 0] * (x.ndim - self.height - 2)
        margins += [max(-left, 0), max(right - w, 0), max(-top, 0), max(bottom - h, 0)]
        return torch.ops.aten.constant_pad_nd.default(x, margins, fill) if any(margins) else x


def _split_channels_last(x: Tensor, block: Block) -> list[list[Tensor]]:
    sh, sw = block
    n, h, w, c = x.shape
    rows = x.reshape(n, h // sh, sh, w // sw, sw * c)
    phases = [[rows[:, :, r : r + 1, :, q * c : (q + 1) * c] for q in range(sw)] for r in range(sh)]
    return [[phase.reshape(n, h // sh, w // sw, c) for phase in row] for row in phases]


def _merge_channels_last(phases: Phases) -> Tensor:
    sh, sw = len(phases), len(phases[0])
    n, h, w, c = phases[0][0].shape
    rows = [torch.cat(list(row), dim=3).reshape(n, h, 1, w * sw, c) for row in phases]
    return torch.cat(rows, dim=2).reshape(n, h * sh, w * sw, c)


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


def _split_strided(x: Tensor, block: Block) -> list[list[Tensor]]:
    sh, sw = block
    h, w = x.shape[2:]
    if h % sh or w % sw:
        raise RuntimeError(f"Blocks of {sh}x{sw} are invalid for input of size {h}x{w}.")
    return [[x[:, :, r::sh, q::sw] for q in range(sw)] for r in range(sh)]


def _merge_strided(phases: Phases) -> Tensor:
    sh, sw = len(phases), len(phases[0])
    if sh != sw:
        return _merge_channels_first(phases)
    n, c, h, w = phases[0][0].shape
    stacked = torch.cat([p for row in phases for p in row], dim=1).reshape(n, sh * sw, c, h, w)
    return torch.pixel_shuffle(stacked.transpose(1, 2).reshape(n, c * sh * sw, h, w), sh)


def _same(x: Tensor) -> Tensor:
    return x


BLOCKS = {
    "channels_last": BlockForm(
        height=1,
        channels=3,
        enter=lambda x: x.permute(0, 2, 3, 1),
        leave=lambda x: x.permute(0, 3, 1, 2),
        split=_split_channels_last,
        merge=_merge_channels_last,
    ),
    "channels_first": BlockForm(
        height=2, channels=1, enter=_same, leave=_same, split=_split_channels_first, merge=_merge_channels_first
    ),
    "strided": BlockForm(height=2, channels=1, enter=_same, leave=_same, split=_split_strided, merge=_merge_strided),
}
