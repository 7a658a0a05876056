"""Core ML packages, read as plain data (`mobileseg.validation.coreml.program`)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from mobileseg import mlpackage
from mobileseg.types import NotRun
from mobileseg.validation.coreml.blobs import bytes_of
from mobileseg.validation.coreml.program import Constant, Operation, Program, Reference, TensorType, read_program
from mobileseg.validation.graphs.base import ANY_SIZE, Graph, Layer, counted, largest_first
from mobileseg.validation.graphs.costs import Call, Key, Listing, Tensor, counted_costs
from mobileseg.validation.graphs.rules import unknown
from mobileseg.validation.graphs.rules.coreml import RULES

_PLAIN, _EXPANDED = "const", "constexpr_"
"""The operator that is a constant, and the prefix of those that stand for a compressed one."""

_NUMBERS = ("int32", "uint32", "int64", "bool", "string")
"""Constants of these types say how the others are read, or configure an operator."""

_FLOATS = {"fp16": "float16", "fp32": "float32", "fp64": "float64"}


def read(path: Path) -> Graph:
    """Constants are the floating-point arrays, as stored; the numbers that configure an operator are none.

    Raises `UsageError` for a damaged package, `MissingExtraError` without coremltools.
    """
    spec, weights = mlpackage.read_spec(path)
    program = read_program(spec, weights, path)
    held = dict(_constants(program))
    plain = [operation for operation in program.operations if not _is_constant(operation)]
    layers, seen = [], dict[str, tuple[int, str]]()
    for operation in plain:
        own = {name: held[name] for name in _named(operation) if name in held and name not in seen}
        seen.update(own)
        if own:
            size = sum(stored for stored, _ in own.values())
            layers.append(Layer(operation.outputs[0].name, operation.kind, max(own.values())[1], size))
    operations, peak = counted_costs(listing(program))
    sizes_are_free = any(None in (value.type.shape or (None,)) for value in program.inputs)
    return Graph(
        operators=counted(operation.kind for operation in plain),
        weight_bytes=sum(size for size, _ in seen.values()),
        layers=largest_first(layers),
        quantization=counted(kind for _, kind in seen.values()),
        delegation=NotRun("which operators run on the Neural Engine is decided on the device"),
        operations=operations,
        peak=peak,
        notes=(ANY_SIZE,) if sizes_are_free else (),
    )


def listing(program: Program, *, delegated: bool | None = None) -> Listing:
    """A program's operators. Constants count as they are stored, without what says how compressed ones are read."""
    held = dict(_constants(program))
    values = [*program.inputs, *(value for operation in program.operations for value in operation.outputs)]
    tensors: dict[Key, Tensor] = {value.name: _tensor(value.type) for value in values}
    tensors |= {name: replace(tensors[name], stored=size) for name, (size, _) in held.items()}
    tensors |= {
        key: replace(_tensor(value.type), stored=_bytes(value))
        for operation in program.operations
        for _, key, value in _places(operation)
        if value is not None
    }
    configuring = {o.outputs[0].name for o in program.operations if _is_constant(o)} - set(held)
    return Listing(
        calls=tuple(
            Call(
                operator=operation.kind,
                name=next((value.name for value in operation.outputs), operation.kind),
                rule=unknown if operation.nested else RULES.get(operation.kind, unknown),
                inputs={place: key for place, key, _ in _places(operation) if key not in configuring},
                outputs=tuple(value.name for value in operation.outputs),
                delegated=delegated,
            )
            for operation in program.operations
            if not _is_constant(operation)
        ),
        tensors=tensors,
        inputs=tuple(value.name for value in program.inputs),
        outputs=program.outputs,
    )


def _is_constant(operation: Operation) -> bool:
    return operation.kind == _PLAIN or operation.kind.startswith(_EXPANDED)


def _places(operation: Operation) -> Iterator[tuple[str, Key, Constant | None]]:
    """A parameter, or one of its values; the key of the value; and the constant where it is one without a name."""
    for parameter, values in operation.arguments.items():
        for number, value in enumerate(values):
            place = parameter if len(values) == 1 else f"{parameter} {number}"
            if isinstance(value, Reference):
                yield place, value.name, None
            elif _bytes(value):
                yield place, (operation.index, place), value


def _named(operation: Operation) -> Iterator[str]:
    return (str(key) for _, key, constant in _places(operation) if constant is None)


def _constants(program: Program) -> Iterator[tuple[str, tuple[int, str]]]:
    """Each constant of numbers: its bytes in the file, and in what form they are."""
    plain: dict[str, Constant] = {}
    compressed: dict[str, int] = {}
    for operation in program.operations:
        if operation.kind == _PLAIN:
            plain.update(_plain(operation))
        elif operation.kind.startswith(_EXPANDED):
            name = operation.outputs[0].name
            parts = {parameter: _part(values[0], plain) for parameter, values in operation.arguments.items() if values}
            twice = sum(compressed.get(key, 0) for key in _named(operation))
            compressed[name] = twice + sum(_bytes(part) for part in parts.values())
            yield name, (compressed[name], _FORMS.get(operation.kind, _other)(parts))
    for name, found in plain.items():
        if found.type.kind in _FLOATS and isinstance(found.value, np.ndarray):
            yield name, (_bytes(found), _FLOATS[found.type.kind])


def _plain(operation: Operation) -> Iterator[tuple[str, Constant]]:
    for value in operation.arguments.get("val", ()):
        if isinstance(value, Constant):
            yield operation.outputs[0].name, value


def _part(value: Constant | Reference, plain: Mapping[str, Constant]) -> Constant | None:
    return plain.get(value.name) if isinstance(value, Reference) else value


def _bytes(part: Constant | None) -> int:
    """Of an array of weights, scales or levels; 0 for an axis or a shape, which says how the others are read."""
    if part is None or not isinstance(part.value, np.ndarray) or part.type.kind in _NUMBERS:
        return 0
    return bytes_of(part.type.kind, part.value.size)


def _tensor(kind: TensorType) -> Tensor:
    return Tensor(kind.shape, _FLOATS.get(kind.kind, kind.kind))


def _palette(parts: Mapping[str, Constant | None]) -> str:
    levels = _shape(parts.get("lut"))
    count = levels[0] if len(levels) == 1 else levels[-2]
    return f"palette {count.bit_length() - 1} bit"


def _integers(parts: Mapping[str, Constant | None]) -> str:
    data = parts.get("quantized_data") or parts.get("data")
    kind = data.type.kind if data is not None else "integers"
    axes = sum(length > 1 for length in _shape(parts.get("scale")))
    return f"{kind} per {('tensor', 'channel', 'block')[min(axes, 2)]}"


def _other(parts: Mapping[str, Constant | None]) -> str:
    return "compressed"


def _shape(part: Constant | None) -> tuple[int, ...]:
    return part.value.shape if part is not None and isinstance(part.value, np.ndarray) else (1,)


_FORMS = {
    "constexpr_affine_dequantize": _integers,
    "constexpr_blockwise_shift_scale": _integers,
    "constexpr_lut_to_dense": _palette,
}
