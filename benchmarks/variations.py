"""A network as a graph with operators exchanged, for latency_table.py: what a stranger would change so that the stock
tools take it, and what the network would cost without its bookkeeping (the floor)."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node
from torch.nn import functional

ATEN = torch.ops.aten
Change = Callable[[GraphModule, Node], None]


def floor(network: nn.Module, picture: Tensor) -> nn.Module:
    """Nearest upsampling in place of unpooling, ReLU in place of PReLU: wrong, and as fast as the graph can be."""
    return _changed(network, picture, {ATEN.max_unpool2d.default: _to_nearest, ATEN.prelu.default: _to_relu})


def loadable(network: nn.Module, picture: Tensor) -> nn.Module:
    """What litert-torch converts to a file that loads: unpooling by masks of equality (the first maximum counts), as
    such code is usually written, and a transposed convolution without padding of its output."""
    changes = {ATEN.max_unpool2d.default: _to_masks, ATEN.conv_transpose2d.input: _without_output_padding}
    return _changed(network, picture, changes)


def _changed(network: nn.Module, picture: Tensor, changes: Mapping[Any, Change]) -> nn.Module:
    with torch.no_grad():
        module: GraphModule = torch.export.export(network, (picture,)).module(check_guards=False)
    for node in list(module.graph.nodes):
        if node.target in changes:
            changes[node.target](module, node)
    module.graph.eliminate_dead_code()
    module.recompile()
    return module


def _replace(module: GraphModule, node: Node, target: Callable[..., Any], *args: Any) -> None:
    with module.graph.inserting_before(node):
        made = module.graph.call_function(target, args)
    made.meta = dict(node.meta)
    node.replace_all_uses_with(made)


def _to_relu(module: GraphModule, node: Node) -> None:
    _replace(module, node, ATEN.relu.default, node.args[0])


def _pooling_of(node: Node) -> Node:
    """Of an unpooling: the pooling whose indices it reads."""
    (indices,) = [read for read in node.all_input_nodes[1:] if read.target is operator.getitem]
    (pooling,) = indices.all_input_nodes
    return pooling


def _without_indices(module: GraphModule, pooling: Node) -> None:
    for values in [user for user in pooling.users if user.args[1] == 0]:
        _replace(module, values, ATEN.max_pool2d.default, *pooling.args)


def _to_nearest(module: GraphModule, node: Node) -> None:
    _without_indices(module, _pooling_of(node))
    _replace(module, node, ATEN.upsample_nearest2d.vec, node.args[0], node.args[2], None)


def _to_masks(module: GraphModule, node: Node) -> None:
    pooling = _pooling_of(node)
    x, kernel, stride, *_ = pooling.args
    if kernel != [2, 2] or stride != [2, 2]:
        raise NotImplementedError(f"masks for windows {kernel} with stride {stride}")
    _replace(module, node, unpool_by_masks, node.args[0], x)
    _without_indices(module, pooling)


def unpool_by_masks(y: Tensor, x: Tensor) -> Tensor:
    """Of 2x2 windows of ``x`` (N, C, 2H, 2W): ``y`` (N, C, H, W) where each has its first maximum."""
    phases = [x[:, :, row::2, column::2] for row in (0, 1) for column in (0, 1)]
    largest = functional.max_pool2d(x, 2)
    parts, taken = [], torch.zeros_like(largest, dtype=torch.bool)
    for phase in phases:
        here = (phase == largest) & ~taken
        taken = taken | here
        parts.append(torch.where(here, y, torch.zeros_like(y)))
    batch, channels, height, width = y.shape
    stacked = torch.stack(parts, dim=2).reshape(batch, 4 * channels, height, width)
    return functional.pixel_shuffle(stacked, 2)


def _without_output_padding(module: GraphModule, node: Node) -> None:
    """A kernel with a row and a column of zeros more gives the rows and columns that the padding added."""
    given: Any = [*node.args, *[None] * 6]
    x, weight, bias, stride, padding, output_padding = given[:6]
    if not any(output_padding or ()):
        return
    if list(output_padding) != [1, 1]:
        raise NotImplementedError(f"an output padding of {output_padding}")
    with module.graph.inserting_before(node):
        wide = module.graph.call_function(functional.pad, (weight, (0, 1, 0, 1)))
    node.args = (x, wide, bias, stride, padding, [0, 0], *node.args[6:])
