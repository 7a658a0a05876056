"""A plan written into the program: each rounded value goes through a quantization and back.

Before:  y = conv(x, w, b)
After:   y = dequantize(quantize(conv(x, dequantize(w8), b)))

with the operators of `torch.ao` (``quantized_decomposed``), which ExecuTorch's XNNPACK delegate, torch.onnx and
coremltools read. Values that are moved get the pair of the value whose numbers they hold, so that a backend sees
int8 on both sides of a move; between zeros and ones there is none. A bias has the scale of its convolution's products:
of one that several read, each int8 convolution gets a copy (XNNPACK's serializer writes a constant once, in the scale
of its first reader).
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, cast

import torch

from mobileseg.quantization.params import GREATEST, LEAST
from mobileseg.quantization.program.simulate import round_weights
from mobileseg.quantization.program.values import CONVOLUTIONS, constant, name_of, weight_axis

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch.fx import GraphModule, Node

    from mobileseg.quantization.params import Params
    from mobileseg.quantization.program.plan import Plan


def inserted(module: GraphModule, plan: Plan) -> GraphModule:
    """A copy of the program with the plan in it; weights of int8 convolutions are int8, a scale per output channel."""
    from torch.ao.quantization.fx import _decomposed  # noqa: F401  registers the operators

    changed = copy.deepcopy(module)
    twins = dict(zip(module.graph.nodes, changed.graph.nodes, strict=True))
    for node in module.graph.nodes:
        if name_of(node) in CONVOLUTIONS and plan.is_int8(node):
            _quantize_weights(changed, twins[node])
            _own_bias(changed, twins[node])
    readers: dict[Node, list[Node]] = {}
    for reader, arguments in plan.read_rounded().items():
        for node in arguments:
            readers.setdefault(node, []).append(twins[reader])
    for node in module.graph.nodes:
        scale = plan.scale_held(node)
        if scale is None or node in plan.values.fused or node.op == "get_attr":
            continue
        if node in plan.floats:
            _quantize_value(changed, twins[node], scale, readers.get(node, ()))
        else:
            _quantize_value(changed, twins[node], scale, tuple(twins[node].users))
    changed.graph.eliminate_dead_code()
    changed.graph.lint()
    changed.recompile()
    return changed


def _quantize_value(module: GraphModule, node: Node, scale: Params, readers: Sequence[Node]) -> None:
    operators: Any = torch.ops.quantized_decomposed
    figures = (scale.scale, scale.zero_point, LEAST, GREATEST, torch.int8)
    with module.graph.inserting_after(node):
        quantized = module.graph.call_function(operators.quantize_per_tensor.default, (node, *figures))
    with module.graph.inserting_after(quantized):
        back = module.graph.call_function(operators.dequantize_per_tensor.default, (quantized, *figures))
    value = cast("torch.Tensor", node.meta["val"])
    quantized.meta["val"], back.meta["val"] = value.to(torch.int8), value
    for reader in readers:
        reader.replace_input_with(node, back)


def _own_bias(module: GraphModule, node: Node) -> None:
    bias = node.args[2] if len(node.args) > 2 else None
    tensor = constant(module, bias)
    if tensor is None or len(cast("Node", bias).users) == 1:
        return
    name = f"{str(cast('Node', bias).target).replace('.', '_')}_{node.name}"
    module.register_buffer(name, tensor.clone())
    with module.graph.inserting_before(node):
        own = module.graph.get_attr(name)
    own.meta["val"] = tensor.to("meta")
    node.update_arg(2, own)


def _quantize_weights(module: GraphModule, node: Node) -> None:
    weights = constant(module, node.args[1])
    if weights is None:
        raise TypeError("only convolutions of constant weights are quantizable")
    operators: Any = torch.ops.quantized_decomposed
    axis = weight_axis(node)
    numbers, scales = round_weights(weights, axis)
    stem = str(cast("Node", node.args[1]).target).replace(".", "_")
    tensors = {
        "int8": numbers.to(torch.int8),
        "scales": scales.flatten(),
        "zeros": torch.zeros(scales.numel(), dtype=torch.int64),
    }
    with module.graph.inserting_before(node):
        nodes = []
        for role, tensor in tensors.items():
            name = f"{stem}_{node.name}_{role}"
            module.register_buffer(name, tensor.contiguous())
            nodes.append(module.graph.get_attr(name))
            nodes[-1].meta["val"] = tensor.to("meta")
        figures = (axis, -GREATEST, GREATEST, torch.int8)
        back = module.graph.call_function(operators.dequantize_per_channel.default, (*nodes, *figures))
        back.meta["val"] = weights.to("meta")
    node.update_arg(1, back)
