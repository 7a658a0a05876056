"""Core ML packages, read as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import cast

import numpy as np

from mobileseg import mlpackage
from mobileseg.validation.coreml.program import Constant, Operation, read_program, references
from mobileseg.validation.wiring.base import Operator, Value, Wiring

_CONSTANT = "const"
_EXPANDED = "constexpr_"
"""Prefix of the operators that stand for a compressed constant."""


def read(path: Path) -> Wiring:
    """Raises `UsageError` for a damaged package, `MissingExtraError` without coremltools."""
    spec, weights = mlpackage.read_spec(path)
    program = read_program(spec, weights, path)
    fixed = [o for o in program.operations if o.kind == _CONSTANT or o.kind.startswith(_EXPANDED)]
    constants = {value.name: o for o in fixed for value in o.outputs}
    plain = [o for o in program.operations if o.outputs and o.outputs[0].name not in constants]
    named = [*program.inputs, *(value for o in plain for value in o.outputs)]
    return Wiring(
        operators=tuple(_operator(o, constants) for o in plain),
        values={v.name: Value(tuple(n or 0 for n in v.type.shape or ()), v.type.kind) for v in named},
        outputs=program.outputs,
    )


def _operator(operation: Operation, constants: Mapping[str, Operation]) -> Operator:
    order = _order(operation, constants) if operation.kind == "transpose" else ()
    inputs = tuple(name for name in references(operation) if name not in constants)
    outputs = tuple(value.name for value in operation.outputs)
    return Operator(operation.kind, outputs[0], inputs, outputs, order)


def _order(operation: Operation, constants: Mapping[str, Operation]) -> tuple[int, ...]:
    (given,) = operation.arguments["perm"]
    if not isinstance(given, Constant):
        (given,) = constants[given.name].arguments["val"]
    axes = [int(axis) for axis in np.asarray(cast("Constant", given).value)]
    return tuple(axis % len(axes) for axis in axes)
