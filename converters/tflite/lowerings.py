"""Operators that TFLite has and litert-torch takes apart: carried through it as torch operators of our own.

Each is a torch operator on channels-last tensors and a lowering that names the TFLite builtin; litert-torch's
converter turns a custom call named ``tfl.*`` into it.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from mobileseg.converters.passes.base import arguments_of, aten, is_call, replace
from mobileseg.converters.passes.blocks import DEPTH_TO_SPACE, SPACE_TO_DEPTH

if TYPE_CHECKING:
    from torch.fx import GraphModule, Node

NAMESPACE = "mobileseg_tflite"


@torch.library.custom_op(f"{NAMESPACE}::prelu", mutates_args=())
def prelu(x: Tensor, slopes: Tensor) -> Tensor:
    """PReLU of x (N, H, W, C) with slopes (1, 1, C)."""
    return torch.where(x >= 0, x, x * slopes)


@prelu.register_fake
def _(x: Tensor, slopes: Tensor) -> Tensor:
    return torch.empty_like(x)


def _prelu_channels_last(x: Tensor, slopes: Tensor) -> Tensor:
    operator = getattr(torch.ops, NAMESPACE).prelu.default
    result: Tensor = operator(x.permute(0, 2, 3, 1), slopes.reshape(1, 1, -1)).permute(0, 3, 1, 2)
    return result


def _pad_channels_last(x: Tensor, margins: Sequence[int], fill: float) -> Tensor:
    left, right, top, bottom, front, back = (*margins, *(0,) * (6 - len(margins)))
    padded = torch.nn.functional.pad(x.permute(0, 2, 3, 1), (front, back, left, right, top, bottom), value=fill)
    return padded.permute(0, 3, 1, 2)


def _repeated(x: Tensor, times: Sequence[int]) -> Tensor:
    for dim, n in enumerate(times):
        x = torch.cat([x] * n, dim=dim) if n > 1 else x
    return x


def keep_builtins(module: GraphModule) -> None:
    """Exchange the operators that litert-torch would take apart, or put between layout changes, for ours."""
    for node in list(module.graph.nodes):
        if is_call(node, aten.prelu.default) and node.meta["val"].ndim == 4:
            replace(node, _prelu_channels_last, *cast("tuple[Node, Node]", node.args))
        elif is_call(node, aten.argmax.default) and node.meta["val"].ndim == 3 and node.args[1:] == (1,):
            replace(node, lambda x: torch.argmax(x.permute(0, 2, 3, 1), dim=3), cast("Node", node.args[0]))
        elif is_call(node, aten.repeat.default) and len(node.args[1]) == cast("Node", node.args[0]).meta["val"].ndim:
            # litert-torch brings x into another order, and leaves the numbers of copies in this one.
            replace(node, lambda x, n=node.args[1]: _repeated(x, n), cast("Node", node.args[0]))
        elif is_call(node, aten.pad.default) and node.meta["val"].ndim == 4:
            # (constant_pad_nd is what the passes write on tensors that are channels-last already.)
            a = arguments_of(node)
            margins, fill = a["pad"], float(a.get("value") or 0.0)
            if a.get("mode", "constant") == "constant" and len(margins) <= 6:
                replace(node, lambda x, m=margins, v=fill: _pad_channels_last(x, m, v), cast("Node", node.args[0]))


@functools.cache
def register() -> None:
    """Tell litert-torch the lowerings, once per process."""
    from litert_converter.mlir import ir
    from litert_converter.mlir.dialects import stablehlo
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

    def lower_prelu(context: Any, x: Any, slopes: Any) -> Any:
        return builtin(context, "tfl.prelu", [x, slopes], {})

    def lower_depth_to_space(context: Any, x: Any, block: int) -> Any:
        return builtin(context, "tfl.depth_to_space", [x], block_size(block))

    def lower_space_to_depth(context: Any, x: Any, block: int) -> Any:
        return builtin(context, "tfl.space_to_depth", [x], block_size(block))

    registry.lower(getattr(torch.ops, NAMESPACE).prelu.default)(lower_prelu)
    registry.lower(DEPTH_TO_SPACE)(lower_depth_to_space)
    registry.lower(SPACE_TO_DEPTH)(lower_space_to_depth)
