"""MIL's operators, one module a family; what is not in `OPERATORS` is not implemented."""

from __future__ import annotations

from collections.abc import Mapping

from mobileseg.validation.coreml.operators import (
    activation,
    compression,
    convolution,
    elementwise,
    indexing,
    linear,
    normalization,
    pooling,
    quantization,
    reduction,
    resizing,
    shape,
)
from mobileseg.validation.coreml.operators.base import DTYPES, Operator, Value

__all__ = ["DTYPES", "OPERATORS", "Operator", "Value"]

OPERATORS: Mapping[str, Operator] = {
    **activation.OPERATORS,
    **compression.OPERATORS,
    **convolution.OPERATORS,
    **elementwise.OPERATORS,
    **indexing.OPERATORS,
    **linear.OPERATORS,
    **normalization.OPERATORS,
    **pooling.OPERATORS,
    **quantization.OPERATORS,
    **reduction.OPERATORS,
    **resizing.OPERATORS,
    **shape.OPERATORS,
}
