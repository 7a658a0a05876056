"""What TFLite's XNNPACK delegate takes, and why it leaves an operator to TFLite's own kernels.

The delegate of the published packages says nothing about it: its messages are compiled in under
``XNNPACK_DELEGATE_ENABLE_LOGGING`` alone. What stands here are its conditions, as LiteRT's source has them
(``tflite/delegates/xnnpack/xnnpack_delegate.cc``: ``VisitNode`` and what it calls), those that were met in practice.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

_CLAMP = "Clamp"

# TFLite's operators that XNNPACK takes (VisitNode's cases) -> its words for what it makes of one, up to the first " (".
KERNELS = {
    "ABS": {"Abs"},
    "ADD": {"Add"},
    "ASSIGN_VARIABLE": {"Copy"},
    "AVERAGE_POOL_2D": {"Average Pooling"},
    "BATCH_MATMUL": {"Batch Matrix Multiply"},
    "CEIL": {"Ceiling"},
    "CONCATENATION": {"Copy"},
    "CONV_2D": {"Convolution", "Fully Connected"},
    "COS": {"Cosine"},
    "DEPTHWISE_CONV_2D": {"Convolution", "Fully Connected"},
    "DEPTH_TO_SPACE": {"Depth To Space", "Transpose"},
    "DEQUANTIZE": {"Convert", "Copy"},
    "DIV": {"Divide"},
    "ELU": {"ELU"},
    "EXP": {"Exp"},
    "EXPAND_DIMS": {"Static Expand Dims", "Static Reshape", "Copy"},
    "FLOOR": {"Floor"},
    "FULLY_CONNECTED": {"Fully Connected", "Dynamic Fully Connected"},
    "GELU": {"GELU", "ApproxGELU"},
    "HARD_SWISH": {"HardSwish"},
    "LEAKY_RELU": {"LeakyReLU"},
    "LOGISTIC": {"Sigmoid"},
    "MAXIMUM": {"Maximum", _CLAMP},
    "MAX_POOL_2D": {"Max Pooling"},
    "MEAN": {"Mean", "Average Pooling"},
    "MINIMUM": {"Minimum", _CLAMP},
    "MUL": {"Multiply"},
    "NEG": {"Negate"},
    "PAD": {"Constant Pad"},
    "PRELU": {"PReLU"},
    "QUANTIZE": {"Convert", "Copy"},
    "READ_VARIABLE": {"Copy"},
    "REDUCE_MAX": {"Reduce Max"},
    "REDUCE_MIN": {"Reduce Min"},
    "RELU": {_CLAMP},
    "RELU6": {_CLAMP},
    "RELU_0_TO_1": {_CLAMP},
    "RELU_N1_TO_1": {_CLAMP},
    "RESHAPE": {"Static Reshape", "Copy"},
    "RESIZE_BILINEAR": {"Resize Bilinear"},
    "ROUND": {"Bankders Rounding", "Bankers Rounding"},
    "RSQRT": {"Reciprocal Square Root"},
    "SIN": {"Sine"},
    "SLICE": {"Slice"},
    "SOFTMAX": {"Softmax"},
    "SPACE_TO_DEPTH": {"Space To Depth", "Transpose"},
    "SPLIT": {"Slice", "Copy"},
    "SQRT": {"Square Root"},
    "SQUARE": {"Square"},
    "SQUARED_DIFFERENCE": {"Squared Difference"},
    "STRIDED_SLICE": {"Slice"},
    "SUB": {"Subtract"},
    "SUM": {"Sum"},
    "TANH": {"TanH"},
    "TRANSPOSE": {"Transpose"},
    "TRANSPOSE_CONV": {"Deconvolution"},
}
_CLAMPS = ("RELU", "RELU6", "RELU_N1_TO_1", "RELU_0_TO_1")
_FLOAT_ONLY = ("AVERAGE_POOL_2D", "BATCH_MATMUL", "MAXIMUM", "MINIMUM", "PRELU", *_CLAMPS)
_WITH_WEIGHTS = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV")
_TYPES = ("float32", "int8", "uint8")
_MOST_AXES = 6
_LEAST_SCALE = np.finfo(np.float32).tiny
_UNKNOWN = "XNNPACK does not say why"


def reason(operator: str, inputs: Sequence[Mapping[str, Any]], outputs: Sequence[Mapping[str, Any]]) -> str:
    """Of an operator that XNNPACK leaves. ``inputs``, ``outputs``: as the interpreter details its tensors; left-out
    inputs are not among them."""
    return next(_reasons(operator, inputs, outputs), _UNKNOWN)


def _reasons(operator: str, inputs: Sequence[Mapping[str, Any]], outputs: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    if operator not in KERNELS:
        yield f"XNNPACK has no {operator}"
    # The first input of a transposed convolution is the result's size.
    values = [*(inputs[2:3] if operator == "TRANSPOSE_CONV" else inputs[:1]), *outputs]
    types = [np.dtype(value["dtype"]).name for value in values]
    for name in types:
        if name not in _TYPES:
            yield f"XNNPACK's {operator} does not take {name}"
    if operator in _FLOAT_ONLY and any(name != "float32" for name in types):
        yield f"XNNPACK's {operator} takes float32 alone, and this one computes with {types[0]}"
    if operator in _WITH_WEIGHTS:
        yield from _of_scales(inputs)
    most = max(len(value["shape"]) for value in values)
    if most > _MOST_AXES:
        yield f"XNNPACK takes at most {_MOST_AXES} axes, and this one has {most}"


def _of_scales(inputs: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for value in inputs:
        scales = np.asarray(value["quantization_parameters"]["scales"], np.float64)
        small = int((scales < _LEAST_SCALE).sum())
        if small:
            yield (
                f"{small} of {scales.size} channels have a scale below {_LEAST_SCALE:.1e} "
                f"({scales.min():.1e}, in {value['name']}): weights that are all but zero"
            )
