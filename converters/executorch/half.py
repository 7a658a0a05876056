"""fp16 for ExecuTorch: weights and activations in float16, the picture and the result in float32.

Before: picture -> mul -> conv2d -> ... -> logits                                        all float32
After:  picture -> mul -> _to_copy(16) -> conv2d -> ... -> _to_copy(32) -> logits        all between them float16

Kept in float32, each between conversions:
- the preprocessing. It is one or two operators, and a gain such as 1 / 255 rounded to float16 would change the
  brightness of every picture by up to 0.05 %;
- softmax, whose small probabilities float16 cannot hold;
- operators with a constant that float16 cannot hold: a finite number beyond 65504, or a factor that is subnormal
  throughout (all below 6.1e-5). What is only added, such as a bias, may be: it is off by 2^-25 at most, and so is any
  float16 sum;
- on demand the first layers, whose roundings grow through all the others (`mobileseg.making`).

The comparison of a window's elements with its maximum (`passes.rewrite_unpooling`) is float16: every delegate keeps
float16 tensors as they are between operators, so that the maximum is one of the numbers it is compared with.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, cast

import torch

from mobileseg.converters.passes.base import add_constant, aten, constant, is_call

if TYPE_CHECKING:
    from torch import Tensor
    from torch.fx import GraphModule, Node

# What only moves numbers keeps the type it is given: probabilities stay float32 on their way out.
_MOVES = (
    aten.alias.default,
    aten.clone.default,
    aten.movedim.int,
    aten.permute.default,
    aten.reshape.default,
    aten.transpose.int,
    aten.view.default,
)
_WIDE = (aten.softmax.int, aten._softmax.default)
_AFFINE = (aten.mul.Tensor, aten.add.Tensor, aten.sub.Tensor, aten.div.Tensor)
_SUMS = (aten.add.Tensor, aten.sub.Tensor)
_LAYERS = (aten.conv2d.default, aten.conv2d.padding, aten.conv_transpose2d.input, aten.linear.default)
_EXCHANGE = (3, 3, 1, 1)
_HALF = torch.finfo(torch.float16)


def to_half(module: GraphModule, float32_share: float = 0.0) -> None:
    """Make a program's module compute in float16, in place, all but the first ``float32_share`` of its layers and what
    is computed before the next one."""
    _Conversion(module, {*preprocessing(module), *_leading(module, float32_share)}).run()
    module.graph.eliminate_dead_code()
    module.recompile()


def fits_half(tensor: Tensor, *, added: bool = False) -> bool:
    """Whether rounding to float16 keeps finite numbers finite and, unless the tensor is only ``added``, the largest
    one normal."""
    finite = tensor[tensor.isfinite()].abs()
    largest = float(finite.max()) if finite.numel() else 0.0
    return bool(finite.half().isfinite().all()) and (added or largest == 0.0 or largest >= _HALF.smallest_normal)


def _added(node: Node) -> list[Any]:
    """The operands that a node only adds: the bias of a layer, both sides of a sum."""
    if is_call(node, *_SUMS):
        return list(node.args)
    return [node.args[2]] if is_call(node, *_LAYERS) and len(node.args) > 2 else []


def _is_float(node: Node) -> bool:
    found = node.meta.get("val")
    return isinstance(found, torch.Tensor) and found.dtype in (torch.float32, torch.float16)


def preprocessing(module: GraphModule) -> Iterator[Node]:
    """The nodes that turn the picture into the network's input: gains, offsets, a 1x1 channel exchange."""
    value = next(n for n in module.graph.nodes if n.op == "placeholder")
    while len(value.users) == 1:
        (node,) = value.users
        others = [constant(module, a) for a in node.args if isinstance(a, torch.fx.Node) and a is not value]
        affine = is_call(node, *_AFFINE) and all(o is not None for o in others)
        exchange = is_call(node, aten.conv2d.default) and others[0] is not None and others[0].shape == _EXCHANGE
        if not (affine or exchange):
            return
        yield node
        value = node


def _leading(module: GraphModule, share: float) -> list[Node]:
    nodes = [n for n in module.graph.nodes if n.op == "call_function"]
    layers = [i for i, node in enumerate(nodes) if is_call(node, *_LAYERS)]
    kept = math.ceil(share * len(layers))
    return nodes[: [*layers, len(nodes)][kept]] if kept else []


class _Conversion:
    """One pass over the nodes in order. ``wide``: those that stay float32; ``halves``: those whose value is float16
    now; ``converted``: a node's value in the other type, where it is there already."""

    def __init__(self, module: GraphModule, wide: set[Node]) -> None:
        self.module = module
        self.wide = wide
        self.halves: set[Node] = set()
        self.converted: dict[Node, Node] = {}

    def run(self) -> None:
        for node in list(self.module.graph.nodes):
            if node.op == "output":
                self._type_inputs(node, torch.float32)
            elif node.op == "call_function":
                narrow = self._is_narrow(node)
                self._type_inputs(node, torch.float16 if narrow else torch.float32)
                if narrow:
                    self._narrow(node)

    def _is_narrow(self, node: Node) -> bool:
        if is_call(node, *_MOVES):
            return node.args[0] in self.halves
        return node not in self.wide and not is_call(node, *_WIDE) and self._fits(node)

    def _fits(self, node: Node) -> bool:
        added = set(_added(node))
        for source in node.all_input_nodes:
            held = constant(self.module, source)
            if held is not None and held.dtype == torch.float32 and not fits_half(held, added=source in added):
                return False
        numbers = torch.tensor([a for a in node.args if isinstance(a, float)])
        return fits_half(numbers, added=is_call(node, *_SUMS))

    def _narrow(self, node: Node) -> None:
        if node.kwargs.get("dtype") == torch.float32:
            node.kwargs = {**node.kwargs, "dtype": torch.float16}
        reads_halves = any(n in self.halves for n in node.all_input_nodes)
        makes_halves = _is_float(node) and node.kwargs.get("dtype") == torch.float16
        # A pooling with indices is a tuple, whose first part is float16.
        takes_halves = reads_halves and (_is_float(node) or isinstance(node.meta.get("val"), tuple))
        if makes_halves or takes_halves:
            self.halves.add(node)

    def _type_inputs(self, node: Node, dtype: torch.dtype) -> None:
        node.args = torch.fx.node.map_arg(node.args, lambda n: self._as(n, node, dtype))
        node.kwargs = torch.fx.node.map_arg(node.kwargs, lambda n: self._as(n, node, dtype))

    def _as(self, source: Node, user: Node, dtype: torch.dtype) -> Node:
        """The node that gives the value of ``source`` in this type."""
        if not _is_float(source) or (source in self.halves) == (dtype == torch.float16):
            return source
        if source not in self.converted:
            new = self._constant_half(source) if source.op == "get_attr" else self._conversion(source, dtype)
            self.converted[source] = new
            self.converted[new] = source
            if dtype == torch.float16:
                self.halves.add(new)
        return self.converted[source]

    def _constant_half(self, source: Node) -> Node:
        tensor = cast("Tensor", constant(self.module, source))
        return add_constant(self.module, source, str(source.target), tensor.half(), source)

    def _conversion(self, source: Node, dtype: torch.dtype) -> Node:
        with self.module.graph.inserting_after(source):
            new = self.module.graph.call_function(aten._to_copy.default, (source,), {"dtype": dtype})
        new.meta["val"] = cast("Any", source.meta["val"]).to(dtype)
        return new
