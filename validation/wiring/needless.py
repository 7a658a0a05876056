"""Operators of a file that only move or retype numbers, and need not be there.

One that does nothing: a transposition that leaves all axes in their order, a reshaping to the same shape, a conversion
to the same type, scale and zero point, a copy. One behind another of its kind, for which one alone, or none, would do:
transposition behind transposition, reshaping behind reshaping, conversion behind conversion (unless the first narrows
and the second widens: those two round).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

from mobileseg.validation.wiring.base import Operator, Value, Wiring

TRANSPOSITIONS = frozenset(
    {"TRANSPOSE", "Transpose", "transpose", "StaticTranspose", "aten.permute_copy", "aten.permute_copy.default"}
)
RESHAPINGS = frozenset(
    {
        *("RESHAPE", "SQUEEZE", "EXPAND_DIMS"),
        *("Reshape", "Squeeze", "Unsqueeze", "Flatten"),
        *("reshape", "squeeze", "expand_dims"),
        "StaticReshape",
        *("aten.view_copy", "aten.squeeze_copy", "aten.unsqueeze_copy"),
        *("aten.view_copy.default", "aten.squeeze_copy.dims", "aten.unsqueeze_copy.default"),
    }
)
CONVERSIONS = frozenset(
    {
        *("QUANTIZE", "DEQUANTIZE", "CAST"),
        *("Cast", "QuantizeLinear", "DequantizeLinear"),
        *("cast", "quantize", "dequantize"),
        "Convert",
        *("aten._to_copy", "aten._to_copy.default", "dim_order_ops._to_dim_order_copy"),
        # Vulkan's, from one place or packing of a tensor in the GPU's memory to another.
        "aten.clone.default",
    }
)
COPIES = frozenset({"Copy", "Identity", "identity", "aten.clone", "dim_order_ops._clone_dim_order"})

MOVERS = frozenset(
    {
        *(TRANSPOSITIONS | RESHAPINGS | CONVERSIONS | COPIES),
        *("CONCATENATION", "SLICE", "STRIDED_SLICE", "SPLIT", "PAD", "PADV2", "SPACE_TO_DEPTH", "DEPTH_TO_SPACE"),
        *("Concat", "Slice", "Split", "Pad", "SpaceToDepth", "DepthToSpace", "Expand"),
        *("concat", "slice_by_index", "slice_by_size", "split", "pad", "crop", "stack"),
        *("pixel_shuffle", "pixel_unshuffle", "space_to_depth", "depth_to_space"),
        *(f"Concatenate{count}" for count in range(2, 6)),
        *("StaticSlice", "StaticConstantPad", "DepthToSpace"),
        *("aten.cat", "aten.slice_copy", "aten.constant_pad_nd", "aten.expand_copy", "aten.pixel_shuffle"),
        *("aten.cat.default", "aten.slice_copy.Tensor", "aten.constant_pad_nd.default", "aten.expand_copy.default"),
        *("aten.pixel_shuffle.default",),
    }
)
"""All that compute nothing, in the words of all kinds of files."""

_FAMILIES = (TRANSPOSITIONS, RESHAPINGS, CONVERSIONS)


def needless(wiring: Wiring) -> tuple[str, ...]:
    """A sentence for each operator that does nothing, and for each pair for which one, or none, would do."""
    return (*_idle(wiring), *_pairs(wiring))


def _idle(wiring: Wiring) -> Iterator[str]:
    for operator in wiring.operators:
        if operator.kind in COPIES:
            yield f"{_named(operator)} copies"
        elif operator.inputs and any(operator.kind in family for family in _FAMILIES):
            before, after = (wiring.values[key] for key in (operator.inputs[0], operator.outputs[0]))
            if before == after and list(operator.order) == sorted(operator.order):
                yield f"{_named(operator)} does nothing"


def _pairs(wiring: Wiring) -> Iterator[str]:
    maker = {key: operator for operator in wiring.operators for key in operator.outputs}
    readers = Counter(key for operator in wiring.operators for key in operator.inputs)
    readers.update(wiring.outputs)
    for second in wiring.operators:
        family = next((family for family in _FAMILIES if second.kind in family), None)
        first = maker.get(second.inputs[0]) if family is not None and second.inputs else None
        if family is None or first is None or first.kind not in family or not first.inputs:
            continue
        start, middle, end = (wiring.values[key] for key in (first.inputs[0], second.inputs[0], second.outputs[0]))
        if family is CONVERSIONS and _bits(middle) < min(_bits(start), _bits(end)):
            continue
        # Where others read what the first gives, too, it stays: the second is needless only if it undoes the first.
        if readers[first.outputs[0]] == 1 or _undoes(first, second, start, end):
            yield f"{_named(second)} follows {_named(first)}: one would do, or none"


def _undoes(first: Operator, second: Operator, start: Value, end: Value) -> bool:
    if second.kind in TRANSPOSITIONS:
        return [first.order[axis] for axis in second.order] == list(range(len(second.order)))
    return start == end


def _bits(value: Value) -> int:
    found = re.search(r"\d+", value.dtype)
    return int(found[0]) if found else 0


def _named(operator: Operator) -> str:
    return f"{operator.kind} '{operator.name}'"
