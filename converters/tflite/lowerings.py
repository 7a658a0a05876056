"""Operators that TFLite has and litert-torch takes apart: carried through it as torch operators of our own.

Each is a torch operator and a lowering that names the TFLite builtin; litert-torch's converter turns a custom call
named ``tfl.*`` into it. litert-torch's pass for memory orders is told that they are channels-last operators; from
permutations around them TensorFlow's converter would move some behind an addition or a padding that follows, and leave
them there.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from mobileseg.converters.passes.base import arguments_of, aten, is_call, pair, replace
from mobileseg.converters.passes.blocks import DEPTH_TO_SPACE, SPACE_TO_DEPTH

if TYPE_CHECKING:
    from torch.fx import GraphModule, Node

NAMESPACE = "mobileseg_tflite"


@torch.library.custom_op(f"{NAMESPACE}::prelu", mutates_args=())
def prelu(x: Tensor, slopes: Tensor, axis: int) -> Tensor:
    """PReLU of x, 4-D, with slopes (1, 1, C) for its channels, which are this axis."""
    return torch.where(x >= 0, x, x * slopes.reshape([-1 if dim == axis else 1 for dim in range(4)]))


@prelu.register_fake
def _(x: Tensor, slopes: Tensor, axis: int) -> Tensor:
    return torch.empty_like(x)


@torch.library.custom_op(f"{NAMESPACE}::pool", mutates_args=())
def pool(x: Tensor, kind: str, kernel: Sequence[int], stride: Sequence[int], axis: int) -> Tensor:
    """The ``"max"`` or ``"average"`` of x, 4-D with its channels in this axis, in windows without padding."""
    pooling = torch.max_pool2d if kind == "max" else torch.nn.functional.avg_pool2d
    return pooling(x.movedim(axis, 1), list(kernel), list(stride)).movedim(1, axis).contiguous()


@pool.register_fake
def _(x: Tensor, kind: str, kernel: Sequence[int], stride: Sequence[int], axis: int) -> Tensor:
    n, c, h, w = x.movedim(axis, 1).shape
    pooled = (n, c, (h - kernel[0]) // stride[0] + 1, (w - kernel[1]) // stride[1] + 1)
    return x.new_empty(pooled).movedim(1, axis).contiguous()


PRELU, POOL = (getattr(torch.ops, NAMESPACE).prelu.default, getattr(torch.ops, NAMESPACE).pool.default)


def _plain_pool(node: Node) -> tuple[str, tuple[int, int], tuple[int, int]] | None:
    """Kind, kernel and stride of a pooling that TFLite's own operator computes without padding."""
    if not is_call(node, aten.max_pool2d.default, aten.avg_pool2d.default) or node.meta["val"].ndim != 4:
        return None
    a = arguments_of(node)
    kernel, padding, dilation = pair(a["kernel_size"]), pair(a["padding"]), pair(a.get("dilation", 1))
    stride = pair(a["stride"]) if a["stride"] else kernel
    size = zip(a["self"].meta["val"].shape[-2:], kernel, stride, node.meta["val"].shape[-2:], strict=True)
    fits = all((n - k) // s + 1 == out for n, k, s, out in size)
    if padding != (0, 0) or dilation != (1, 1) or not fits or a.get("divisor_override") is not None:
        return None
    return ("max" if is_call(node, aten.max_pool2d.default) else "average"), kernel, stride


def _pad_channels_last(node: Node) -> None:
    """Of a ``constant_pad_nd`` that litert-torch moves into channels-last order: its margins in that order.

    Without it litert-torch puts transpositions around the padding, which TensorFlow's converter then moves behind the
    operators that follow: a residual network with ReLU is left with one for each addition.
    """
    x, margins, *fill = cast("tuple[Node, list[int], float]", node.args)
    left, right, top, bottom, front, back, *batch = (*margins, *(0,) * (8 - len(margins)))
    node.args = (x, [front, back, left, right, top, bottom, *batch], *fill)


def _repeated(x: Tensor, times: Sequence[int]) -> Tensor:
    for dim, n in enumerate(times):
        x = torch.cat([x] * n, dim=dim) if n > 1 else x
    return x


def keep_builtins(module: GraphModule) -> None:
    """Exchange the operators that litert-torch would take apart, or put between layout changes, for ours."""
    for node in list(module.graph.nodes):
        plain = _plain_pool(node)
        if plain is not None:
            replace(node, lambda x, plain=plain: POOL(x, *plain, 1), cast("Node", node.args[0]))
        elif is_call(node, aten.prelu.default) and node.meta["val"].ndim == 4:
            replace(
                node, lambda x, slopes: PRELU(x, slopes.reshape(1, 1, -1), 1), *cast("tuple[Node, Node]", node.args)
            )
        elif is_call(node, aten.argmax.default) and node.meta["val"].ndim == 3 and node.args[1:] == (1,):
            replace(node, lambda x: torch.argmax(x.permute(0, 2, 3, 1), dim=3), cast("Node", node.args[0]))
        elif is_call(node, aten.repeat.default) and len(node.args[1]) == cast("Node", node.args[0]).meta["val"].ndim:
            # litert-torch brings x into another order, and leaves the numbers of copies in this one.
            replace(node, lambda x, n=node.args[1]: _repeated(x, n), cast("Node", node.args[0]))


@functools.cache
def register() -> None:
    """Tell litert-torch the lowerings, once per process."""
    from litert_converter.mlir import ir
    from litert_converter.mlir.dialects import stablehlo
    from litert_torch._convert.fx_passes.optimize_layout_transposes_pass import layout_check, layout_rewrite
    from litert_torch.backend.lowerings import registry, utils

    def builtin(context: Any, name: str, inputs: Sequence[Any], options: dict[str, Any]) -> Any:
        return stablehlo.custom_call(
            result=utils.node_meta_to_ir_types(context.node),
            inputs=list(inputs),
            call_target_name=ir.StringAttr.get(name),
            has_side_effect=ir.BoolAttr.get(False),
            backend_config=ir.StringAttr.get(str(ir.DictAttr.get(options))),
        )

    def block_size(block: int) -> dict[str, Any]:
        return {"block_size": ir.IntegerAttr.get(ir.IntegerType.get_signless(32), block)}

    def lower_prelu(context: Any, x: Any, slopes: Any, axis: int) -> Any:
        return builtin(context, "tfl.prelu", [x, slopes], {})

    def lower_depth_to_space(context: Any, x: Any, block: int) -> Any:
        return builtin(context, "tfl.depth_to_space", [x], block_size(block))

    def lower_space_to_depth(context: Any, x: Any, block: int) -> Any:
        return builtin(context, "tfl.space_to_depth", [x], block_size(block))

    def lower_pool(context: Any, x: Any, kind: str, kernel: Sequence[int], stride: Sequence[int], axis: int) -> Any:
        sizes = {"filter_height": kernel[0], "filter_width": kernel[1], "stride_h": stride[0], "stride_w": stride[1]}
        options = {name: ir.IntegerAttr.get(ir.IntegerType.get_signless(32), size) for name, size in sizes.items()}
        words = {"padding": ir.StringAttr.get("VALID"), "fused_activation_function": ir.StringAttr.get("NONE")}
        return builtin(context, f"tfl.{kind}_pool_2d", [x], options | words)

    def to_channels_last(node: Any) -> None:
        node.args = (*node.args[:-1], 3)

    for operator, lowering in ((PRELU, lower_prelu), (POOL, lower_pool)):
        registry.lower(operator)(lowering)
        layout_rewrite.rewriters[operator] = to_channels_last
        layout_check.layout_sensitive_inputs_getters[operator] = lambda node: [node.args[0]]
        layout_check.nhwcable_node_checkers[operator] = lambda node: layout_check.NHWCable(True, must_be=True)
    registry.lower(DEPTH_TO_SPACE)(lower_depth_to_space)
    registry.lower(SPACE_TO_DEPTH)(lower_space_to_depth)


@contextmanager
def padding_channels_last() -> Iterator[None]:
    """While it lasts, litert-torch moves paddings into channels-last order, too."""
    from litert_torch._convert.fx_passes.optimize_layout_transposes_pass.layout_rewrite import rewriters

    rewriters[aten.constant_pad_nd.default] = _pad_channels_last
    try:
        yield
    finally:
        del rewriters[aten.constant_pad_nd.default]
