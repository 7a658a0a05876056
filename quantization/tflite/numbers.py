"""The integers that activations become: 8 bits, or 16 beside weights of 8. What is not in `rules` stays in float.

The kernels' own rules are TFLite's quantization specification (https://ai.google.dev/edge/litert/models/quantization_spec
and, for 16 bits, https://ai.google.dev/edge/litert/conversion/tensorflow/quantization/post_training_integer_quant_16x8):
numbers of 16 bits are symmetric, their zero point is 0, and biases have 64 bits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobileseg.quantization.params import GREATEST, LARGEST_BIAS, LEAST, Params, params_of
from mobileseg.quantization.tflite.operators import FLAG, RULES, Rule


@dataclass(frozen=True)
class Numbers:
    """``name``, ``bias``: of the schema's ``TensorType``. ``least``, ``greatest``: of all numbers. ``rules``: how each
    operator computes with them. ``flag``: of tensors of zeros and ones. ``largest_bias``: leaves the products room in
    the accumulator. ``from_float``, ``to_float``: versions of QUANTIZE and DEQUANTIZE."""

    name: str
    dtype: type[np.signedinteger[Any]]
    bias: str
    bias_dtype: type[np.signedinteger[Any]]
    least: int
    greatest: int
    rules: Mapping[str, Rule]
    flag: Params
    largest_bias: float
    from_float: int
    to_float: int

    @property
    def is_symmetric(self) -> bool:
        return self.least == -self.greatest

    def params(self, low: float, high: float) -> Params:
        """Scale and zero point for a range, zero made exactly representable; finite for any range."""
        if not self.is_symmetric:
            return params_of(low, high)
        scale = max(abs(low), abs(high)) / self.greatest
        return Params(float(np.float32(max(scale, float(np.finfo(np.float32).tiny)))), 0)

    def of_differences(self, params: Params) -> Params:
        """For what is never negative, in steps of the same size: beyond its greatest number it saturates."""
        return Params(params.scale, 0 if self.is_symmetric else self.least)

    def quantize(self, values: NDArray[np.float32], params: Params) -> NDArray[Any]:
        """Nearest numbers; what lies outside, infinities included, goes to the nearest end."""
        q = np.round(values.astype(np.float64) / params.scale) + params.zero_point
        return np.clip(q, self.least, self.greatest).astype(self.dtype)


_VERSIONS_16 = {
    **{"CONV_2D": 4, "DEPTHWISE_CONV_2D": 5, "FULLY_CONNECTED": 7, "TRANSPOSE_CONV": 3, "BATCH_MATMUL": 3},
    **{"ADD": 3, "SUB": 5, "MUL": 4, "MEAN": 3, "LEAKY_RELU": 2, "RELU": 4},
    **{"RESHAPE": 1, "SLICE": 4, "STRIDED_SLICE": 4, "TRANSPOSE": 5, "CONCATENATION": 3, "PAD": 3, "PADV2": 3},
    **{"MAX_POOL_2D": 3, "AVERAGE_POOL_2D": 3, "MAXIMUM": 4, "MINIMUM": 4},
    **{"RESIZE_BILINEAR": 4, "RESIZE_NEAREST_NEIGHBOR": 4},
}

INT8 = Numbers("INT8", np.int8, "INT32", np.int32, LEAST, GREATEST, RULES, FLAG, LARGEST_BIAS, 1, 2)

INT16 = Numbers(
    name="INT16",
    dtype=np.int16,
    bias="INT64",
    bias_dtype=np.int64,
    least=-32767,
    greatest=32767,
    rules={kind: replace(RULES[kind], version=version) for kind, version in _VERSIONS_16.items()},
    flag=Params(float(np.float32(1 / 32767)), 0),
    # The kernels shift sums of at most 48 bits.
    largest_bias=2.0**46,
    from_float=2,
    to_float=3,
)
