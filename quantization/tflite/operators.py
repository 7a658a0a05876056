"""How each TFLite operator is computed in int8: the one table where that stands. What is not in it stays in float.

The kernels' own rules are TFLite's 8-bit quantization specification (https://ai.google.dev/edge/litert/models/quantization_spec).
"""

from __future__ import annotations

from dataclasses import dataclass

from mobileseg.quantization.params import Params

PROBABILITY = Params(1 / 256, -128)
"""What the kernels of LOGISTIC and SOFTMAX demand of their output."""

FLAG = Params(1 / 255, -128)
"""For tensors of zeros and ones: both are exact, and so is a product with one of them."""


@dataclass(frozen=True)
class Weights:
    """Where a convolution has its input, weights and bias, and the weights' axis of output channels."""

    x: int = 0
    weights: int = 1
    bias: int = 2
    axis: int = 0


@dataclass(frozen=True)
class Rule:
    """``version``: the operator version that takes int8. ``shares``: inputs and output have one scale, because the
    kernel moves or compares numbers without rescaling. ``output``: the output's parameters, where the kernel dictates
    them. ``weights``: of convolutions.
    """

    version: int = 2
    shares: bool = False
    output: Params | None = None
    weights: Weights | None = None


_OWN = Rule()
_SHARED = Rule(shares=True)

RULES: dict[str, Rule] = {
    "CONV_2D": Rule(3, weights=Weights()),
    "DEPTHWISE_CONV_2D": Rule(3, weights=Weights(axis=3)),
    "FULLY_CONNECTED": Rule(4, weights=Weights()),
    "TRANSPOSE_CONV": Rule(3, weights=Weights(x=2, bias=3)),
    "ADD": _OWN,
    "SUB": _OWN,
    "MUL": _OWN,
    "MEAN": _OWN,
    "LEAKY_RELU": _OWN,
    "RELU": _OWN,  # written as a product with 1 that takes the limit in
    "PRELU": Rule(1),
    "ARG_MAX": _OWN,
    "BATCH_MATMUL": _OWN,
    "LOGISTIC": Rule(output=PROBABILITY),
    "SOFTMAX": Rule(output=PROBABILITY),
    "RESHAPE": Rule(1, shares=True),
    "SLICE": _SHARED,
    "STRIDED_SLICE": _SHARED,
    "TRANSPOSE": _SHARED,
    "CONCATENATION": _SHARED,
    "PAD": _SHARED,
    "PADV2": _SHARED,
    "MAX_POOL_2D": _SHARED,
    "AVERAGE_POOL_2D": _SHARED,
    "MAXIMUM": _SHARED,
    "MINIMUM": _SHARED,
    "RESIZE_BILINEAR": _SHARED,
    "RESIZE_NEAREST_NEIGHBOR": _SHARED,
    "SPACE_TO_DEPTH": _SHARED,
    "DEPTH_TO_SPACE": _SHARED,
}

FLOAT_AT_THE_END = frozenset({"RESIZE_BILINEAR"})
"""Operators that stay float where they write a file's float result: enlarging the dequantized logits takes less time
than dequantizing the enlarged ones (20 classes, 128x256 to 256x512: 1.1 ms and 1.5), and rounds them once less."""

MOVES = frozenset(
    {"RESHAPE", "SLICE", "STRIDED_SLICE", "TRANSPOSE", "CONCATENATION", "PAD", "SPACE_TO_DEPTH", "DEPTH_TO_SPACE"}
)
"""Operators whose output holds elements of their inputs, and zeros."""
