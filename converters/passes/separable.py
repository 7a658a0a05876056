"""A constant matrix along the height and one along the width of (N, C, H, W) tensors, in each form.

``rows``: (H', H) float32, ``columns``: (W', W) float32; None leaves an axis as it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from mobileseg.converters.passes.base import add_constant, replace

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor
    from torch.fx import GraphModule, Node


def _channels_first(x: Tensor, rows: Tensor | None = None, columns: Tensor | None = None) -> Tensor:
    x = x if rows is None else torch.matmul(rows, x)
    return x if columns is None else torch.matmul(x, columns.T)


def _channels_last(x: Tensor, rows: Tensor | None = None, columns: Tensor | None = None) -> Tensor:
    x = x.permute(0, 2, 3, 1)
    n, height, width, c = x.shape
    if rows is not None:
        height = rows.shape[0]
        x = torch.matmul(rows, x.reshape(n, -1, width * c)).reshape(n, height, width, c)
    if columns is not None:
        x = torch.matmul(columns, x.reshape(n * height, width, c)).reshape(n, height, -1, c)
    return x.permute(0, 3, 1, 2)


def _linear(x: Tensor, rows: Tensor | None = None, columns: Tensor | None = None) -> Tensor:
    x = x if columns is None else F.linear(x, columns)
    return x if rows is None else F.linear(x.transpose(2, 3), rows).transpose(2, 3)


def _linear_channels_last(x: Tensor, rows: Tensor | None = None, columns: Tensor | None = None) -> Tensor:
    """Linear layers between transpositions of planes that lie channels-last in memory."""
    x = x.permute(0, 2, 3, 1)
    n, height, width, c = x.shape
    if rows is not None:
        height = rows.shape[0]
        x = F.linear(x.reshape(n, -1, width * c).transpose(1, 2), rows).transpose(1, 2).reshape(n, height, width, c)
    if columns is not None:
        x = F.linear(x.reshape(n * height, width, c).transpose(1, 2), columns).transpose(1, 2)
        x = x.reshape(n, height, -1, c)
    return x.permute(0, 3, 1, 2)


FORMS = {
    "channels_first": _channels_first,
    "channels_last": _channels_last,
    "linear": _linear,
    "linear_channels_last": _linear_channels_last,
}


def replace_by_products(module: GraphModule, node: Node, x: Node, form: str, matrices: Mapping[str, Tensor]) -> None:
    """Compute ``node`` from ``x`` by the matrices, ``"rows"`` and ``"columns"``; one that is left out leaves its
    axis."""
    constants = [add_constant(module, node, f"{node.name}_{axis}", matrix) for axis, matrix in matrices.items()]
    replace(node, lambda x, *held: FORMS[form](x, **dict(zip(matrices, held, strict=True))), x, *constants)
