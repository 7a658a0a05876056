"""Paddings that a backend does not have, by slices and concatenations.

Before: x -> pad((-1, 2, -2, 1)) -> z              After: x -> slice off 1 column, 2 rows -> pad((0, 2, 0, 1)) -> z
Before: x -> pad((l, r, t, b), "circular") -> z    After: x -> cat(last t rows, x, first b rows)
                                                            -> cat(last l columns, it, first r columns) -> z

Preconditions: negative widths, of a constant padding, that leave something; circular widths that are not negative.

Exactness: bit-exact. Core ML has neither, and ExecuTorch's portable kernel fails on a negative width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch
import torch.nn.functional as F

from mobileseg.converters.passes.base import Outcome, Pass, arguments_of, aten, is_call, replace, value

if TYPE_CHECKING:
    from torch import Tensor
    from torch.fx import GraphModule, Node

    from mobileseg.converters.forms import Forms

Widths = tuple[tuple[int, int, int], ...]
"""Axis, numbers before, numbers behind."""

_PADDINGS = (aten.pad.default, aten.constant_pad_nd.default)


def widths_of(pad: list[int], ndim: int) -> Widths:
    """torch's list, which begins with the last axis."""
    return tuple((ndim - 1 - i, pad[2 * i], pad[2 * i + 1]) for i in range(len(pad) // 2))


def _cropped(x: Tensor, widths: Widths, fill: float) -> Tensor:
    for axis, before, behind in widths:
        start, end = max(-before, 0), x.shape[axis] - max(-behind, 0)
        x = x.narrow(axis, start, end - start) if (start, end) != (0, x.shape[axis]) else x
    rest = [max(w, 0) for _, before, behind in widths for w in (before, behind)]
    return F.pad(x, rest, value=fill) if any(rest) else x


def _circular(x: Tensor, widths: Widths) -> Tensor:
    for axis, before, behind in sorted(widths):
        parts = [x.narrow(axis, x.shape[axis] - before, before), x, x.narrow(axis, 0, behind)]
        x = torch.cat([part for part in parts if part.shape[axis]], axis)
    return x


def _apply(module: GraphModule, forms: Forms) -> Outcome:
    count = 0
    for node in list(module.graph.nodes):
        if not is_call(node, *_PADDINGS):
            continue
        x, a = cast("Node", node.args[0]), arguments_of(node)
        widths, mode = widths_of(list(a["pad"]), value(x).ndim), a.get("mode", "constant")
        negative = any(min(before, behind) < 0 for _, before, behind in widths)
        if mode == "constant" and negative and value(node).numel():
            fill = float(a.get("value") or 0.0)
            replace(node, lambda x, widths=widths, fill=fill: _cropped(x, widths, fill), x)
        elif mode == "circular" and not negative:
            replace(node, lambda x, widths=widths: _circular(x, widths), x)
        else:
            continue
        count += 1
    return Outcome(count)


PASS = Pass(
    name="rewrite_padding",
    exact="bit-exact",
    why="Core ML has no negative and no circular padding; ExecuTorch's kernel fails on a negative one",
    apply=_apply,
)
