"""Core ML packages, read into a MIL program with coremltools."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mobileseg import mlpackage
from mobileseg.types import NotRun
from mobileseg.validation.graphs.base import Graph, Layer, counted, largest_first

_EXPANDED = "constexpr_"
"""Prefix of the operators that stand for a compressed constant."""

_NO_WEIGHTS = ("int32", "uint32")
_FLOATS = {"fp16": "float16", "fp32": "float32"}


def read(path: Path) -> Graph:
    """Constants are the floating-point arrays, as stored; the numbers that configure an operator are none.

    Raises `UsageError` for a damaged package, `MissingExtraError` without coremltools.
    """
    operations = list(mlpackage.read(path).function.operations)
    plain = [o for o in operations if o.op_type != "const" and not o.op_type.startswith(_EXPANDED)]
    layers, seen = [], dict[str, tuple[int, str]]()
    for operation in plain:
        own = {var.name: _stored(var) for var in _constants(operation) if var.name not in seen}
        seen.update(own)
        if own:
            size = sum(stored for stored, _ in own.values())
            layers.append(Layer(operation.outputs[0].name, operation.op_type, max(own.values())[1], size))
    return Graph(
        operators=counted(o.op_type for o in plain),
        weight_bytes=sum(size for size, _ in seen.values()),
        layers=largest_first(layers),
        quantization=counted(kind for _, kind in seen.values()),
        delegation=NotRun("which operators run on the Neural Engine is decided on the device"),
    )


def _inputs(operation: Any) -> Iterator[Any]:
    for value in operation.inputs.values():
        yield from value if isinstance(value, (list, tuple)) else (value,)


def _constants(operation: Any) -> Iterator[Any]:
    for var in _inputs(operation):
        compressed = var.op is not None and var.op.op_type.startswith(_EXPANDED)
        if compressed or (isinstance(var.val, np.ndarray) and _type(var) in _FLOATS):
            yield var


def _stored(var: Any) -> tuple[int, str]:
    """Bytes in the file, and in what form."""
    if not var.op.op_type.startswith(_EXPANDED):
        return var.val.nbytes, _FLOATS[_type(var)]
    size = sum(_bits(part) for part in _inputs(var.op)) // 8
    return size, _FORMS[var.op.op_type](var.op)


def _bits(var: Any) -> int:
    """Of an array of weights, scales or levels; 0 for an axis or a shape, which says how the others are read."""
    if not isinstance(var.val, np.ndarray) or _type(var) in _NO_WEIGHTS:
        return 0
    return int(var.val.size * var.dtype.get_bitwidth())


def _type(var: Any) -> str:
    from coremltools.converters.mil.mil import types

    return str(types.builtin_to_string(var.dtype))


def _palette(operation: Any) -> str:
    levels = operation.lut.val.shape
    return f"palette {(levels[0] if len(levels) == 1 else levels[-2]).bit_length() - 1} bit"


def _integers(data: Any, scale: Any) -> str:
    return f"{_type(data)} per {'channel' if np.size(scale.val) > 1 else 'tensor'}"


_FORMS = {
    "constexpr_affine_dequantize": lambda o: _integers(o.quantized_data, o.scale),
    "constexpr_blockwise_shift_scale": lambda o: _integers(o.data, o.scale),
    "constexpr_lut_to_dense": _palette,
}
