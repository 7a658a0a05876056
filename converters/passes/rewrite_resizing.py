"""Kinds of resizing that backends lack, by two constant matrix products.

Before: x (N, C, H, W) -> bicubic | bilinear or bicubic with antialiasing | nearest-exact, to (h, w) -> z
After:  x -> A x B                  A (h, H) and B (W, w): what the operator makes of each row and column alone

All of them are linear and separable. A is what the operator itself makes of the rows of a unit matrix, so that its
rules for borders, centres, scales and antialiasing are those of torch.

Preconditions: four axes, float32. Plain nearest and bilinear resizing stay: every backend has them.

Exactness: nearest-exact is bit-exact (the matrices hold 0 and 1); else 2^-20 of the largest value, from the order of
summation. Core ML needs it: coremltools has none of them; litert-torch has no antialiasing, and makes gathers of a
bicubic.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch

from mobileseg.converters.passes.base import Outcome, Pass, arguments_of, aten, is_call, value
from mobileseg.converters.passes.separable import replace_by_products

if TYPE_CHECKING:
    from torch import Tensor
    from torch.fx import GraphModule, Node

    from mobileseg.converters.forms import Forms

_KINDS = (
    aten.upsample_bicubic2d.vec,
    aten._upsample_bicubic2d_aa.vec,
    aten._upsample_bilinear2d_aa.vec,
    aten._upsample_nearest_exact2d.vec,
)


def resizing_matrix(node: Node, axis: int) -> Tensor:
    """(h, H) float32 of axis 2, (w, W) of axis 3."""
    given, own = arguments_of(node), axis - 2
    number = value(cast("Node", node.args[0])).shape[axis]
    size, scales = given["output_size"], given["scale_factors"]
    options = {
        **given,
        "input": torch.eye(number)[None, None],
        "output_size": None if size is None else [size[own], number],
        "scale_factors": None if scales is None else [scales[own], 1.0],
    }
    return cast("Tensor", cast("Any", node.target)(**options)[0, 0])


def _apply(module: GraphModule, forms: Forms) -> Outcome:
    count = 0
    for node in list(module.graph.nodes):
        if is_call(node, *_KINDS) and value(node).dtype == torch.float32:
            x = cast("Node", node.args[0])
            matrices = {"rows": resizing_matrix(node, 2), "columns": resizing_matrix(node, 3)}
            replace_by_products(module, node, x, forms.adaptive_pooling, matrices)
            count += 1
    return Outcome(count)


PASS = Pass(
    name="rewrite_resizing",
    exact="bit-exact (nearest-exact); 2^-20 of the largest value (order of summation)",
    why="coremltools has no bicubic, antialiased or nearest-exact resizing, litert-torch no antialiasing",
    apply=_apply,
)
