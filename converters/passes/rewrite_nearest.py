"""Nearest resizing to a multiple, as copies put side by side.

Before: x -> upsample_nearest2d to (sh H, sw W) -> z
After:  x -> sh x sw copies -> merge (see `blocks`) -> z

Preconditions: form "blocks"; a multiple of both sides, of which torch takes each row and column equally often (the
reciprocal of a factor, rounded, may lie below it: then a row is repeated once more, and another once less).

Exactness: bit-exact. TFLite and ExecuTorch need it: XNNPACK has no nearest resizing, and litert-torch puts
transpositions around it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch

from mobileseg.converters.passes.base import Outcome, Pass, aten, is_call, replace, value
from mobileseg.converters.passes.blocks import BLOCKS

if TYPE_CHECKING:
    from torch import Tensor
    from torch.fx import GraphModule, Node

    from mobileseg.converters.forms import Forms


def _factors(node: Node) -> tuple[int, int] | None:
    """How often each row and each column is repeated; None where they are not all repeated equally often."""
    (height, width), (h, w) = value(cast("Node", node.args[0])).shape[-2:], value(node).shape[-2:]
    if h % height or w % width:
        return None
    rows, columns = torch.arange(height).float()[:, None], torch.arange(width).float()[None]
    places = torch.stack([rows.expand(height, width), columns.expand(height, width)])[None]
    factors = (h // height, w // width)
    repeated = places.repeat_interleave(factors[0], 2).repeat_interleave(factors[1], 3)
    resized = aten.upsample_nearest2d.vec(places, *node.args[1:], **node.kwargs)
    return factors if torch.equal(resized, repeated) else None


def _apply(module: GraphModule, forms: Forms) -> Outcome:
    if forms.nearest == "native":
        return Outcome(0)
    blocks, count = BLOCKS[forms.blocks], 0
    for node in list(module.graph.nodes):
        factors = _factors(node) if is_call(node, aten.upsample_nearest2d.vec) else None
        if factors is None:
            continue

        def repeated(x: Tensor, factors: tuple[int, int] = factors) -> Tensor:
            copy = blocks.enter(x)
            return blocks.leave(blocks.merge([[copy] * factors[1]] * factors[0]))

        replace(node, repeated, cast("Node", node.args[0]))
        count += 1
    return Outcome(count)


PASS = Pass(
    name="rewrite_nearest",
    exact="bit-exact",
    why="XNNPACK has no nearest resizing; copies side by side run everywhere",
    apply=_apply,
)
