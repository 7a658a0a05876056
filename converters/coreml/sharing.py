"""Equal small constants of a program made one.

coremltools writes each parameter of each operator as a constant of its own, a hundred bytes long: of an int8 ENet they
are three tenths of the program, and that is half as large as its weights. Weights it shares itself.
"""

from __future__ import annotations

from itertools import count
from typing import Any


def share_constants(spec: Any) -> None:
    """``spec``: coremltools' ``Model`` message, changed in place. Each constant that stands in the program itself, not
    in the file of weights, is kept once, where it first stands, under a short name; what the program returns stays."""
    for function in spec.mlProgram.functions.values():
        for block in function.block_specializations.values():
            _share(block)


def _share(block: Any) -> None:
    given = {output.name for operation in block.operations for output in operation.outputs}
    free = (name for number in count() if (name := f"c{number}") not in given)
    short: dict[bytes, str] = {}
    renamed: dict[str, str] = {}
    kept = []
    for operation in block.operations:
        key = _key(operation)
        if key is not None and operation.outputs[0].name not in block.outputs:
            is_known = key in short
            renamed[operation.outputs[0].name] = short[key] = short[key] if is_known else next(free)
            if is_known:
                continue
            _name(operation, short[key])
        for argument in operation.inputs.values():
            for binding in argument.arguments:
                if binding.name in renamed:
                    binding.name = renamed[binding.name]
        kept.append(type(operation).FromString(operation.SerializeToString()))
    del block.operations[:]
    block.operations.extend(kept)


def _name(operation: Any, name: str) -> None:
    operation.outputs[0].name = name
    operation.attributes["name"].immediateValue.tensor.strings.values[0] = name


def _key(operation: Any) -> bytes | None:
    """What two constants have in common that are one; None for what is no such constant."""
    if operation.type != "const" or operation.attributes["val"].WhichOneof("value") != "immediateValue":
        return None
    return bytes(operation.attributes["val"].SerializeToString(deterministic=True))
