"""Which operators of a MIL program compute in float16, between Casts that coremltools inserts.

All but:

- the preprocessing. It is one or two operators, and a gain such as 1 / 255 rounded to float16 would change the
  brightness of every picture by up to 0.05 %;
- softmax, whose small probabilities float16 cannot hold;
- operators with a constant that float16 holds only as subnormals (all below 6.1e-5), which the Neural Engine may flush
  to zero. (Constants beyond 65504 coremltools itself leaves in float32.);
- on demand the first layers, whose roundings grow through all the others (`mobileseg.making`). The Neural Engine has no
  float32: they run on the GPU or the CPU.

The comparison of a window's elements with its maximum (`passes.rewrite_unpooling`) is float16, or it would leave the
Neural Engine: the pooling and the subtraction read one tensor of already rounded numbers, and a maximum is one of them.
Where the pooling is among the first layers and the subtraction is not, both sides are rounded between them, which
keeps the order of numbers: the rounded maximum is the maximum of the rounded.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

_WIDE = frozenset({"softmax"})
_AFFINE = frozenset({"mul", "add", "sub", "real_div"})
_LAYERS = frozenset({"conv", "conv_transpose", "linear", "matmul"})
_EXCHANGE = (3, 3, 1, 1)
_EXPANDED = "constexpr_"
_ROUNDING = ("quantize", "dequantize")
_SMALLEST_NORMAL = float(np.finfo(np.float16).smallest_normal)


def chooser(float32_share: float) -> Callable[[Any], bool]:
    """For one use of `coremltools.transform.FP16ComputePrecision`: `computes_in_half` of all operations but the first
    ``float32_share`` of the layers, and what is computed before the next one."""
    leading: list[set[Any]] = []

    def chosen(operation: Any) -> bool:
        # Looked for at the first operation: from then on Casts are put between them.
        if not leading:
            leading.append(set(_leading(list(operation.enclosing_block.operations), float32_share)))
        return operation not in leading[0] and computes_in_half(operation)

    return chosen


def _leading(operations: list[Any], share: float) -> list[Any]:
    layers = [i for i, operation in enumerate(operations) if operation.op_type in _LAYERS]
    kept = math.ceil(share * len(layers))
    return operations[: [*layers, len(operations)][kept]] if kept else []


def computes_in_half(operation: Any) -> bool:
    """Whether this MIL operation may be float16."""
    return (
        operation.op_type not in _WIDE
        and operation not in _preprocessing(operation.enclosing_block)
        and all(_largest_is_normal(values) for values in _constants(operation))
    )


def _preprocessing(function: Any) -> list[Any]:
    """The operations that turn the picture into the network's input: gains, offsets, a 1x1 channel exchange; in an int8
    program the roundings between them, too, up to the one of the network's input, whose result is int8."""
    (picture,) = function.inputs.values()
    value, found = picture, []
    while len(value.child_ops) == 1:
        (user,) = value.child_ops
        affine = user.op_type in _AFFINE and any(v.val is not None for v in (user.x, user.y))
        exchange = user.op_type == "conv" and user.weight.shape == _EXCHANGE and user.weight.val is not None
        if not (affine or exchange or user.op_type in _ROUNDING):
            break
        found.append(user)
        (value,) = user.outputs
    while found and found[-1].op_type == _ROUNDING[1]:
        found.pop()
    return found


def _constants(operation: Any) -> Iterator[Any]:
    """float32 numbers that it reads. Of weights that an operator expands, the scales."""
    for value in operation.inputs.values():
        for var in value if isinstance(value, (list, tuple)) else (value,):
            if var.op is not None and var.op.op_type.startswith(_EXPANDED):
                yield from _constants(var.op)
            if var.val is not None and np.asarray(var.val).dtype == np.float32:
                yield np.asarray(var.val)


def _largest_is_normal(values: Any) -> bool:
    finite = np.abs(values[np.isfinite(values)])
    largest = float(finite.max(initial=0.0))
    return largest == 0.0 or largest >= _SMALLEST_NORMAL
