"""Weights of a float .tflite file in 8 bits; its activations stay float, or are rounded as the file runs.

w8       w (float32) -> CONV_2D     becomes     w (int8) -> DEQUANTIZE -> CONV_2D
dynamic  w (float32) -> CONV_2D     becomes     w (int8) -> CONV_2D

The first is smaller only: XNNPACK expands the weights when it takes the graph, TFLite's own kernels before the first
run, and both compute as the float32 file does. In the second the kernel finds the range of what it reads, rounds that
to 8 bits, and computes with integers; what it writes is float. XNNPACK has such kernels for convolutions and linear
layers, not for depthwise and transposed convolutions, whose weights are dequantized.

No pictures are needed. Exactness: a weight is within half a step of its channel's scale, an activation within half a
step of its tensor's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from mobileseg.channel_rounding import SMALLEST, round_channels
from mobileseg.errors import unknown_option
from mobileseg.quantization.tflite.flatbuffer import Graph
from mobileseg.quantization.tflite.operators import RULES, Weights
from mobileseg.types import Quantized

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

RECIPES = {
    "w8": "weights int8, symmetric, a scale per output channel; activations float32",
    "dynamic": "weights int8, symmetric, a scale per output channel; activations rounded to 8 bits by each convolution",
}

_HYBRID = {"CONV_2D": 5, "FULLY_CONNECTED": 12}
"""Operators that take int8 weights and a float input, and the version that declares scales per channel so."""

_DEQUANTIZE_VERSION = 5
"""With a scale per channel."""


def compress_weights(
    path: Path, precision: str, planned: None = None, options: Mapping[str, Any] | None = None
) -> Quantized:
    """Round the weights of the float32 file at ``path``, in place.

    ``precision``: ``"w8"`` or ``"dynamic"``. ``planned``: there is no plan of activations; none of the target's
    ``options`` changes anything. Raises `OptionError` for another precision, `UsageError` for a file that is none of
    TFLite's, `MissingExtraError` without the packages of extra ``tflite``.
    """
    if precision not in RECIPES:
        raise unknown_option("compression of TFLite weights", precision, RECIPES)
    rounding = _Rounding(Graph(path.read_bytes()), dynamic=precision == "dynamic")
    rounding.run()
    path.write_bytes(rounding.graph.to_bytes())
    return Quantized(RECIPES[precision], tuple(rounding.kept_float))


class _Rounding:
    def __init__(self, graph: Graph, *, dynamic: bool) -> None:
        self.graph, self.dynamic = graph, dynamic
        self.kept_float: list[str] = []
        self._rounded: dict[int, int] = {}
        self._expanded: dict[int, int] = {}
        self._expansions: list[Any] = []

    def run(self) -> None:
        for operator in self.graph.operators:
            rule = RULES.get(self.graph.kind(operator))
            if rule is not None and rule.weights is not None:
                self._take(operator, rule.weights)
        self.graph.subgraph.operators = [*self._expansions, *self.graph.operators]

    def _take(self, operator: Any, places: Weights) -> None:
        inputs, kind = [int(i) for i in operator.inputs], self.graph.kind(operator)
        weights = self.graph.constant(inputs[places.weights])
        if weights is None:
            return
        if weights.size < SMALLEST:
            self.kept_float.append(self.graph.label(operator))
            return
        rounded = self._round(inputs[places.weights], places.axis)
        if self.dynamic and kind in _HYBRID:
            inputs[places.weights] = rounded
            self.graph.raise_version(operator, _HYBRID[kind])
        else:
            inputs[places.weights] = self._expand(inputs[places.weights], rounded)
        operator.inputs = np.asarray(inputs, np.int32)

    def _round(self, tensor: int, axis: int) -> int:
        if tensor not in self._rounded:
            weights = self.graph.constant(tensor)
            if weights is None:
                raise TypeError("only constant weights can be rounded")
            numbers, scales = round_channels(weights, axis)
            index = self.graph.add_tensor(self._name(tensor, "int8"), weights.shape, "INT8", data=numbers)
            self.graph.set_quantization(index, "INT8", scales, np.zeros(len(scales), np.int64), axis)
            self._rounded[tensor] = index
        return self._rounded[tensor]

    def _expand(self, tensor: int, rounded: int) -> int:
        if tensor not in self._expanded:
            result = self.graph.add_tensor(self._name(tensor, "dequantized"), self.graph.shape(tensor), "FLOAT32")
            options = self.graph.schema.DequantizeOptionsT()
            self._expansions.append(
                self.graph.new_operator("DEQUANTIZE", [rounded], [result], options, _DEQUANTIZE_VERSION)
            )
            self._expanded[tensor] = result
        return self._expanded[tensor]

    def _name(self, tensor: int, suffix: str) -> str:
        return f"{self.graph.tensor(tensor).name.decode(errors='replace')}/{suffix}"
