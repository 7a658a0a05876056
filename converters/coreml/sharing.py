"""Equal small constants of a program made one, and names made short.

coremltools writes each parameter of each operator as a constant of its own, a hundred bytes long, and names grow by a
suffix with each of its passes, read or not: of an int8 ENet both are a half of the program, which is half as large as
the weights. Weights it shares itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import count
from typing import Any

_SUFFIXES = re.compile("_cast_fp16|_to_fp16|_per_tensor|_has_output_shape")
_WEIGHTS = "dequantize_per_channel"


def share_constants(spec: Any) -> None:
    """``spec``: coremltools' ``Model`` message, changed in place. Each constant that stands in the program itself, not
    in the file of weights, is kept once, where it first stands; names of inputs and outputs stay."""
    for function in spec.mlProgram.functions.values():
        kept = {value.name for value in function.inputs}
        for block in function.block_specializations.values():
            _share(block, kept | set(block.outputs))


def _share(block: Any, kept: set[str]) -> None:
    named = [output.name for operation in block.operations for output in operation.outputs]
    renamed = dict(_shortened(named, kept))
    taken = {*named, *renamed.values(), *kept}
    free = filter(lambda short: short not in taken, (f"c{number}" for number in count()))
    first: dict[bytes, str] = {}
    operations = []
    for operation in block.operations:
        key = _key(operation)
        name = operation.outputs[0].name if operation.outputs else ""
        if key is not None and name not in kept:
            if key in first:
                renamed[name] = first[key]
                continue
            renamed[name] = first[key] = next(free)
        _rename(operation, renamed)
        operations.append(type(operation).FromString(operation.SerializeToString()))
    del block.operations[:]
    block.operations.extend(operations)


def _shortened(names: Iterable[str], kept: set[str]) -> Iterator[tuple[str, str]]:
    """Each name and a shorter one, where nothing else has that."""
    names = list(names)
    taken = {*names, *kept}
    for name in names:
        short = _SUFFIXES.sub("", name).replace(_WEIGHTS, "weights")
        if name not in kept and short not in taken:
            taken.add(short)
            yield name, short


def _rename(operation: Any, renamed: Mapping[str, str]) -> None:
    for output in operation.outputs:
        output.name = renamed.get(output.name, output.name)
    for argument in operation.inputs.values():
        for binding in argument.arguments:
            if binding.name in renamed:  # one that holds a value has no name
                binding.name = renamed[binding.name]
    if "name" in operation.attributes:
        held = operation.attributes["name"].immediateValue.tensor.strings.values
        held[0] = renamed.get(held[0], held[0])


def _key(operation: Any) -> bytes | None:
    """What two constants have in common that are one; None for what is no such constant."""
    if operation.type != "const" or operation.attributes["val"].WhichOneof("value") != "immediateValue":
        return None
    return bytes(operation.attributes["val"].SerializeToString(deterministic=True))
