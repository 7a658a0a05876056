"""Which values of a program Core ML rounds: fewer than `quantization.program.values` finds.

Core ML has no int8 operators but quantize and dequantize; what stands between them is float16, and a device computes a
convolution in int8 where it finds a dequantize before it and a quantize behind it. What is computed number by number
runs in the same pass. So of ``conv -> PReLU``, or of a gain and an offset, only the end is rounded: less is lost, the
file is smaller, and the pattern is the one that coremltools' own quantizer writes.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from mobileseg.quantization.program.values import BEFORE_LIMITS, LIMITS, name_of, sources

if TYPE_CHECKING:
    from torch.fx import Node

    from mobileseg.quantization.program.values import Values

ACTIVATIONS = LIMITS | {"elu", "hardsigmoid", "hardswish", "leaky_relu", "prelu", "sigmoid", "silu", "tanh"}
_AFFINE = frozenset({"add", "mul", "sub"})


def values_for_core_ml(values: Values) -> Values:
    """The values with those as fused, too, that only an activation, a gain or an offset reads."""
    fused = dict(values.fused)
    rounded = frozenset(values.rounded)
    for node in values.rounded:
        reader = next(iter(node.users), None)
        if reader is not None and len(node.users) == 1 and reader in rounded | fused.keys() and _joins(node, reader):
            fused[node] = reader
    return replace(values, rounded=tuple(n for n in values.rounded if n not in fused), fused=fused)


def _joins(node: Node, reader: Node) -> bool:
    if name_of(node) not in BEFORE_LIMITS | ACTIVATIONS or sources(reader) != [node]:
        return False
    # x + x reads one value, twice.
    return name_of(reader) in ACTIVATIONS or (name_of(reader) in _AFFINE and _arguments(reader).count(node) == 1)


def _arguments(node: Node) -> list[object]:
    return [*node.args, *node.kwargs.values()]
