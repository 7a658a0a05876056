"""Weights that are to stay in float, and what ONNX Runtime makes of them.

Before: DequantizeLinear(q, scale, zero) -> Conv (weights float32)
After:  DequantizeLinear(q, [scale, ...], [zero, ...], axis=1) -> Conv (weights float32)

ONNX Runtime (`WeightBiasQuantization`, at its lowest level of optimization) rounds float weights of a convolution or
linear layer that reads a value with one scale, in 1.31 only where its result is rounded, too, to int8, with one scale
for all channels, as if they had been forgotten. ERFNet with one convolution in float kept 95.1 % of the pixels in place
of 98.2 %. It leaves alone what reads a value with a scale per channel: equal ones here, so that the numbers are the
same to the bit.
"""

from __future__ import annotations

from typing import Any

import numpy as np

_INPUT_CHANNELS = {"Conv": 1, "ConvTranspose": 0}
"""The axis of the weights that counts the input's channels, of one group in Conv."""


def keep_weights_float(model: Any) -> None:
    """In place. ``model``: a ModelProto without subgraphs."""
    from onnx import numpy_helper

    graph = model.graph
    constants = {held.name: numpy_helper.to_array(held) for held in graph.initializer}
    casts = {n.output[0]: n.input[0] for n in graph.node if n.op_type == "Cast" and n.input[0] in constants}
    widened = {n.output[0]: n for n in graph.node if n.op_type == "DequantizeLinear" and _is_scalar(n, constants)}
    added: dict[str, list[Any]] = {}
    for node in graph.node:
        weights = constants.get(casts.get(node.input[1], node.input[1])) if len(node.input) > 1 else None
        source = widened.get(node.input[0]) if node.input else None
        channels = None if weights is None else _channels(node, weights)
        if source is None or channels is None:
            continue
        own = f"{source.output[0]}/{channels}"
        if own not in added:
            added[own] = [source.output[0], _per_channel(source, own, channels, constants, graph)]
        node.input[0] = own
    read = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
    nodes = []
    for node in graph.node:
        if node.output[0] in read or node.output[0] not in widened:
            nodes.append(node)
        nodes += [made for behind, made in added.values() if behind == node.output[0]]
    graph.ClearField("node")
    graph.node.extend(nodes)


def _is_scalar(node: Any, constants: Any) -> bool:
    return node.input[1] in constants and constants[node.input[1]].ndim == 0


def _channels(node: Any, weights: Any) -> int | None:
    """How many the first input has along axis 1, where the node is of those whose weights are rounded."""
    from onnx import helper

    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    if node.op_type in _INPUT_CHANNELS:
        groups = attributes.get("group", 1) if node.op_type == "Conv" else 1
        return int(weights.shape[_INPUT_CHANNELS[node.op_type]]) * int(groups)
    if node.op_type == "Gemm" and not attributes.get("transA", 0):
        return int(weights.shape[1 if attributes.get("transB", 0) else 0])
    return None


def _per_channel(source: Any, name: str, channels: int, constants: Any, graph: Any) -> Any:
    """The conversion ``source`` with its scale once for each channel."""
    from onnx import helper, numpy_helper

    inputs = [source.input[0]]
    for scalar in source.input[1:]:
        vector = f"{scalar}/{channels}"
        if vector not in constants:
            constants[vector] = np.repeat(constants[scalar], channels)
            graph.initializer.append(numpy_helper.from_array(constants[vector], vector))
        inputs.append(vector)
    return helper.make_node("DequantizeLinear", inputs, [name], name=name, axis=1)
