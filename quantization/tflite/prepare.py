"""Rewrites of the float graph that lose less, or run faster, once quantized. All are exact in float up to rounding.

Affine maps: MUL by a constant per channel, then ADD of one (a batch normalization behind a concatenation, or the
preprocessing) becomes a 1x1 DEPTHWISE_CONV_2D: one rounding to 8 bits instead of four, and a weight scale per channel.
Behind a convolution it is folded in. Behind a CONCATENATION it is applied to each part, so that parts of different
ranges, which the map makes alike, need not share a scale before it.

Average pooling: AVERAGE_POOL_2D of a small window without implicit padding becomes a DEPTHWISE_CONV_2D with constant
weights. XNNPACK runs no quantized average pooling, and the kernel left for it demands one scale for input and output.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from mobileseg.quantization.tflite.flatbuffer import Graph

OUTPUT_AXIS = {"CONV_2D": 0, "DEPTHWISE_CONV_2D": 3}
"""Convolutions that an affine map behind them can be folded into, and their weights' axis of output channels."""

LARGEST_WINDOW = 25
"""Window elements up to which an average pooling is written as a convolution."""


def prepare(graph: Graph) -> None:
    """Rewrite in place; tensors keep their indices."""
    merge_affine(graph)
    pool_by_convolution(graph)


def merge_affine(graph: Graph) -> None:
    """Every MUL by a constant per channel followed by an ADD of one."""
    users, producers = graph.users(), graph.producers()
    operators: list[Any] = []
    for operator in graph.operators:
        found = _affine_ending_at(graph, operator, users, producers)
        if found is None:
            operators.append(operator)
            continue
        multiplication, affine = found
        operators.remove(multiplication)
        operators += _apply_affine(graph, affine, int(operator.outputs[0]), users, producers, operators)
    graph.subgraph.operators = operators


@dataclass(frozen=True)
class _Affine:
    """``activation(x * gain + offset)``, one number a channel."""

    x: int
    gain: NDArray[np.float32]
    offset: NDArray[np.float32]
    activation: int


def _affine_ending_at(
    graph: Graph, addition: Any, users: Mapping[int, int], producers: Mapping[int, Any]
) -> tuple[Any, _Affine] | None:
    """The MUL, and what it and this ADD compute."""
    if graph.kind(addition) != "ADD":
        return None
    added = _per_channel(graph, addition)
    multiplication = None if added is None else producers.get(added[0])
    if added is None or multiplication is None or graph.kind(multiplication) != "MUL":
        return None
    factored = _per_channel(graph, multiplication)
    if factored is None or users[added[0]] != 1 or _activation(multiplication) or len(graph.shape(factored[0])) != 4:
        return None
    return multiplication, _Affine(factored[0], factored[1], added[1], _activation(addition))


def _apply_affine(
    graph: Graph, affine: _Affine, y: int, users: Mapping[int, int], producers: Mapping[int, Any], operators: list[Any]
) -> list[Any]:
    """Operators that write the map of x to y; what they make needless is taken out of ``operators``."""
    producer = producers.get(affine.x)
    if producer is not None and users[affine.x] == 1 and not _activation(producer):
        if graph.kind(producer) == "CONCATENATION" and producer.builtinOptions.axis in (3, -1):
            operators.remove(producer)
            return _split(graph, affine, producer, y, users, producers, operators)
        if graph.kind(producer) in OUTPUT_AXIS and graph.constant(int(producer.inputs[1])) is not None:
            _scale_outputs(graph, affine, producer, y)
            return []
    gain = affine.gain[None, None, None, :]
    return [_depthwise(graph, affine.x, y, gain, affine.offset, (1, 1), affine.activation)]


def _split(
    graph: Graph,
    affine: _Affine,
    concatenation: Any,
    y: int,
    users: Mapping[int, int],
    producers: Mapping[int, Any],
    operators: list[Any],
) -> list[Any]:
    new, parts, start = [], [], 0
    for source in (int(i) for i in concatenation.inputs):
        end = start + graph.shape(source)[3]
        part = graph.add_tensor(f"affine_{y}_{start}", graph.shape(source), "FLOAT32")
        piece = _Affine(source, affine.gain[start:end], affine.offset[start:end], affine.activation)
        new += _apply_affine(graph, piece, part, users, producers, operators)
        parts.append(part)
        start = end
    options = concatenation.builtinOptions
    return [*new, graph.new_operator("CONCATENATION", parts, [y], options)]


def _scale_outputs(graph: Graph, affine: _Affine, convolution: Any, y: int) -> None:
    """Fold the map into the convolution before it."""
    weights, bias = (graph.constant(int(i)) for i in convolution.inputs[1:3])
    if weights is None or bias is None:
        raise TypeError("only convolutions of constant weights and bias can take a map in")
    shape = [1] * 4
    shape[OUTPUT_AXIS[graph.kind(convolution)]] = -1
    scaled = (weights * affine.gain.reshape(shape)).astype(np.float32)
    moved = (bias * affine.gain + affine.offset).astype(np.float32)
    w = graph.add_tensor(f"scaled_{y}/weights", scaled.shape, "FLOAT32", data=scaled)
    b = graph.add_tensor(f"scaled_{y}/bias", moved.shape, "FLOAT32", data=moved)
    convolution.inputs = np.asarray([int(convolution.inputs[0]), w, b], np.int32)
    convolution.outputs = np.asarray([y], np.int32)
    convolution.builtinOptions.fusedActivationFunction = affine.activation


def pool_by_convolution(graph: Graph) -> None:
    operators = []
    for operator in graph.operators:
        replaced = operator
        if graph.kind(operator) == "AVERAGE_POOL_2D":
            options = operator.builtinOptions
            h, w = int(options.filterHeight), int(options.filterWidth)
            if options.padding == graph.schema.Padding.VALID and h * w <= LARGEST_WINDOW:
                x, y = int(operator.inputs[0]), int(operator.outputs[0])
                channels = graph.shape(x)[3]
                weights = np.full((1, h, w, channels), 1 / (h * w), np.float32)
                strides = int(options.strideH), int(options.strideW)
                bias = np.zeros(channels, np.float32)
                replaced = _depthwise(graph, x, y, weights, bias, strides, options.fusedActivationFunction)
        operators.append(replaced)
    graph.subgraph.operators = operators


def _activation(operator: Any) -> int:
    return int(getattr(operator.builtinOptions, "fusedActivationFunction", 0))


def _per_channel(graph: Graph, operator: Any) -> tuple[int, NDArray[np.float32]] | None:
    """The computed operand, and the constant one as a vector of the last axis' length."""
    for x, c in (operator.inputs, operator.inputs[::-1]):
        constant = graph.constant(int(c))
        if constant is None or graph.constant(int(x)) is not None:
            continue
        channels = graph.shape(int(x))[-1] if graph.shape(int(x)) else 0
        if constant.size == 1 or (constant.size == channels and constant.shape[-1] == channels):
            return int(x), np.broadcast_to(constant.reshape(-1), channels).astype(np.float32)
    return None


def _depthwise(
    graph: Graph,
    x: int,
    y: int,
    weights: NDArray[np.float32],
    bias: NDArray[np.float32],
    strides: tuple[int, int],
    activation: int,
) -> Any:
    options = graph.schema.DepthwiseConv2DOptionsT()
    options.padding = graph.schema.Padding.VALID
    options.strideH, options.strideW = strides
    options.depthMultiplier = 1
    options.fusedActivationFunction = activation
    name = f"depthwise_{y}"
    w = graph.add_tensor(f"{name}/weights", weights.shape, "FLOAT32", data=weights)
    b = graph.add_tensor(f"{name}/bias", bias.shape, "FLOAT32", data=bias)
    return graph.new_operator("DEPTHWISE_CONV_2D", [x, w, b], [y], options)
