"""Taking an image apart into the s x s phases of its blocks, and putting it together again, in the target's order.

A form works on tensors of its own order: ``enter`` brings (N, C, H, W) into it, ``leave`` back.

``split``: x with H, W divisible by the block -> phases[r][c]; its pixel (i, j) is x's pixel (i*sh + r, j*sw + c).
``merge`` is its inverse; ``interleave`` merges phases that lie side by side as channels (sh*sw*C, rows outermost), and
``stack`` the rows of blocks, sh tensors of sw*C channels.
All are exact: they move numbers and compute none.

depth_to_space  (N, H, W, C): TFLite's SPACE_TO_DEPTH and DEPTH_TO_SPACE, and a slice of channels for each phase: one
                pass over memory, where channels_last's reshape costs a second one wherever it is the file's output
                (ENet's last layer for 20 classes at 256x512: 5.3 ms in place of 6.8; between two convolutions both
                take the same time). Blocks that are not square are taken apart and put together as channels_last.

channels_last   (N, H, W, C): a block row is one contiguous run of sw*C numbers, and the rows of a block follow each
                other as whole lines. So a phase is a slice of a reshape to (N, H/sh, sh*W/sw, sw*C), and the merge is
                concatenations along channels and lines, seen through a reshape. Once the target itself is
                channels-last, no transposition is left.
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
    interleave: Callable[[Tensor, Block], Tensor]
    stack: Callable[[Sequence[Tensor], int], Tensor]

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
    run = w // sw
    lines = x.reshape(n, h // sh, sh * run, sw * c)
    return [[lines[:, :, r * run : (r + 1) * run, q * c : (q + 1) * c] for q in range(sw)] for r in range(sh)]


def _merge_channels_last(phases: Phases) -> Tensor:
    return _stack_channels_last([torch.cat(list(row), dim=3) for row in phases], len(phases[0]))


def _stack_channels_last(rows: Sequence[Tensor], width: int) -> Tensor:
    n, h, w, c = rows[0].shape
    return torch.cat(list(rows), dim=2).reshape(n, h * len(rows), w * width, c // width)


def _interleave_channels_last(x: Tensor, block: Block) -> Tensor:
    # Slices, for XNNPACK under ExecuTorch has no split.
    run = x.shape[3] // block[0]
    return _stack_channels_last([x[..., r * run : (r + 1) * run] for r in range(block[0])], block[1])


@torch.library.custom_op("mobileseg::depth_to_space", mutates_args=())
def depth_to_space(x: Tensor, block: int) -> Tensor:
    """x (N, H, W, block * block * C) -> (N, H * block, W * block, C): TFLite's DEPTH_TO_SPACE."""
    n, h, w, c = x.shape
    depth = c // block**2
    ordered = x.reshape(n, h, w, block, block, depth).permute(0, 1, 3, 2, 4, 5)
    return ordered.reshape(n, h * block, w * block, depth).clone()


@depth_to_space.register_fake
def _(x: Tensor, block: int) -> Tensor:
    n, h, w, c = x.shape
    return x.new_empty((n, h * block, w * block, c // block**2))


DEPTH_TO_SPACE = torch.ops.mobileseg.depth_to_space.default


@torch.library.custom_op("mobileseg::space_to_depth", mutates_args=())
def space_to_depth(x: Tensor, block: int) -> Tensor:
    """The inverse of `depth_to_space`: TFLite's SPACE_TO_DEPTH."""
    n, h, w, c = x.shape
    ordered = x.reshape(n, h // block, block, w // block, block, c).permute(0, 1, 3, 2, 4, 5)
    return ordered.reshape(n, h // block, w // block, block**2 * c).clone()


@space_to_depth.register_fake
def _(x: Tensor, block: int) -> Tensor:
    n, h, w, c = x.shape
    return x.new_empty((n, h // block, w // block, c * block**2))


SPACE_TO_DEPTH = torch.ops.mobileseg.space_to_depth.default


def _split_depth(x: Tensor, block: Block) -> list[list[Tensor]]:
    (sh, sw), c = block, x.shape[3]
    if sh != sw:
        return _split_channels_last(x, block)
    deep = SPACE_TO_DEPTH(x, sh)
    return [[deep[:, :, :, (r * sw + q) * c : (r * sw + q + 1) * c] for q in range(sw)] for r in range(sh)]


def _merge_depth(phases: Phases) -> Tensor:
    if len(phases) != len(phases[0]):
        return _merge_channels_last(phases)
    return _interleave_depth(torch.cat([phase for row in phases for phase in row], dim=3), (len(phases), len(phases)))


def _interleave_depth(x: Tensor, block: Block) -> Tensor:
    if block[0] != block[1]:
        return _interleave_channels_last(x, block)
    deep: Tensor = DEPTH_TO_SPACE(x, block[0])
    return deep


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


def _interleave_by(merge: Callable[[Phases], Tensor]) -> Callable[[Tensor, Block], Tensor]:
    def interleave(x: Tensor, block: Block) -> Tensor:
        (sh, sw), phases = block, x.split(x.shape[1] // (block[0] * block[1]), dim=1)
        return merge([phases[r * sw : (r + 1) * sw] for r in range(sh)])

    return interleave


def _stack_by(interleave: Callable[[Tensor, Block], Tensor]) -> Callable[[Sequence[Tensor], int], Tensor]:
    return lambda rows, width: interleave(torch.cat(list(rows), dim=1), (len(rows), width))


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
        interleave=_interleave_channels_last,
        stack=_stack_channels_last,
    ),
    "depth_to_space": BlockForm(
        height=1,
        channels=3,
        enter=lambda x: x.permute(0, 2, 3, 1),
        leave=lambda x: x.permute(0, 3, 1, 2),
        split=_split_depth,
        merge=_merge_depth,
        interleave=_interleave_depth,
        stack=_stack_channels_last,
    ),
    "channels_first": BlockForm(
        height=2,
        channels=1,
        enter=_same,
        leave=_same,
        split=_split_channels_first,
        merge=_merge_channels_first,
        interleave=_interleave_by(_merge_channels_first),
        stack=_stack_by(_interleave_by(_merge_channels_first)),
    ),
    "strided": BlockForm(
        height=2,
        channels=1,
        enter=_same,
        leave=_same,
        split=_split_strided,
        merge=_merge_strided,
        interleave=_interleave_by(_merge_strided),
        stack=_stack_by(_interleave_by(_merge_strided)),
    ),
}
