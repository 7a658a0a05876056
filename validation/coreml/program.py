"""MIL programs as plain data: from coremltools' protobuf messages and the files of weights to frozen dataclasses."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mobileseg.errors import UsageError
from mobileseg.validation.coreml.blobs import PACKED, WHOLE, BlobFile, bytes_of, decode, open_blobs

if TYPE_CHECKING:
    from numpy.typing import NDArray

_FLOATS = {"FLOAT16": "fp16", "FLOAT32": "fp32", "FLOAT64": "fp64"}

# Field of a TensorValue -> the element kinds whose immediate values stand there.
_IMMEDIATE = {
    "floats": ("fp32",),
    "ints": ("int32", "int16", "uint16", "uint32"),
    "bools": ("bool",),
    "strings": ("string",),
    "longInts": ("int64",),
    "bytes": ("fp16", "int8", "uint8", *PACKED, "int16", "uint16", "uint32"),
}
_NUMPY: Mapping[str, np.dtype[Any]] = {**WHOLE, "bool": np.dtype(np.bool_), "int64": np.dtype(np.int64)}


@dataclass(frozen=True)
class TensorType:
    """``kind``: MIL's name of the elements (``fp16``, ``int32``, ``bool``, ``string``, ...), or of a type that is no
    tensor (``stateType``, ...). ``shape``: None for a length known at run time only, or for all where not even their
    number is known."""

    kind: str
    shape: tuple[int | None, ...] | None


@dataclass(frozen=True)
class Named:
    """A value's name and type."""

    name: str
    type: TensorType


@dataclass(frozen=True)
class Constant:
    """``value``: an array of the type's shape (elements of fewer than 8 bits as int8 or uint8), or one text.

    None where the value is of a kind that is not read.
    """

    type: TensorType
    value: NDArray[Any] | str | None


@dataclass(frozen=True)
class Reference:
    """A value by name: an input's, or an earlier operation's output."""

    name: str


Argument = Constant | Reference


@dataclass(frozen=True)
class Operation:
    """``index``: its position in the block. ``arguments``: by parameter, one value or (``values`` of concat) several.

    ``nested``: the number of blocks inside it, which are not read.
    """

    index: int
    kind: str
    arguments: Mapping[str, tuple[Argument, ...]]
    outputs: tuple[Named, ...]
    nested: int


@dataclass(frozen=True)
class Program:
    """One function. ``opset``: the name of its operator set, ``CoreML5`` and on. ``outputs``: the names of what it
    returns."""

    function: str
    opset: str
    inputs: tuple[Named, ...]
    operations: tuple[Operation, ...]
    outputs: tuple[str, ...]


def read_program(spec: Any, weights: Path, path: Path) -> Program:
    """The program of a ``Model`` message; ``weights`` is the folder of its files of weights.

    Of several functions the one that the model names as its default, else ``main``, else the only one.
    Raises `UsageError`, naming ``path``, where the messages do not fit together or a weight cannot be read.
    """
    functions = dict(spec.mlProgram.functions)
    wanted = spec.description.defaultFunctionName or ("main" if len(functions) != 1 else next(iter(functions)))
    if wanted not in functions:
        raise UsageError(
            f"'{path}' holds the functions {', '.join(sorted(functions)) or 'none'}; expected '{wanted}'. "
            "Convert it again."
        )
    function = functions[wanted]
    if function.opset not in function.block_specializations:
        raise UsageError(f"'{path}' has no body for its operator set '{function.opset}'. Convert it again.")
    block = function.block_specializations[function.opset]
    reader = _Reader(path, cache(lambda name: open_blobs(weights / name)))
    program = Program(
        wanted,
        function.opset,
        tuple(Named(value.name, reader.type(value.type)) for value in function.inputs),
        tuple(reader.operation(index, operation) for index, operation in enumerate(block.operations)),
        tuple(block.outputs),
    )
    _check_names(program, path)
    return program


def _check_names(program: Program, path: Path) -> None:
    known = {value.name for value in program.inputs}
    for operation in program.operations:
        for name in references(operation):
            if name not in known:
                raise UsageError(
                    f"'{path}' is damaged: operator {operation.index} '{operation.kind}' reads '{name}', which nothing "
                    "before it gives. Convert it again."
                )
        known |= {value.name for value in operation.outputs}
    missing = [name for name in program.outputs if name not in known]
    if missing:
        raise UsageError(f"'{path}' is damaged: nothing gives its output '{missing[0]}'. Convert it again.")


def references(operation: Operation) -> Iterator[str]:
    """Names of the values that an operation reads."""
    for values in operation.arguments.values():
        yield from (value.name for value in values if isinstance(value, Reference))


@dataclass(frozen=True)
class _Reader:
    path: Path
    blobs: Any
    """A file's name to its `BlobFile`; each is opened once."""

    def operation(self, index: int, message: Any) -> Operation:
        # Up to iOS 17, what a compressed constant is made of stands among the attributes; an argument all the same.
        arguments: dict[str, tuple[Argument, ...]] = {
            name: (self.constant(value),) for name, value in message.attributes.items() if name != "name"
        }
        for name, argument in message.inputs.items():
            arguments[name] = tuple(self._argument(binding) for binding in argument.arguments)
        outputs = tuple(Named(value.name, self.type(value.type)) for value in message.outputs)
        return Operation(index, message.type, arguments, outputs, len(message.blocks))

    def _argument(self, binding: Any) -> Argument:
        if binding.WhichOneof("binding") == "name":
            return Reference(binding.name)
        return self.constant(binding.value)

    def type(self, message: Any) -> TensorType:
        form = message.WhichOneof("type")
        if form != "tensorType":
            return TensorType(form or "no type", ())
        tensor = message.tensorType
        names = tensor.DESCRIPTOR.fields_by_name["dataType"].enum_type.values_by_number
        kind = names[tensor.dataType].name if tensor.dataType in names else f"type{tensor.dataType}"
        if tensor.rank != len(tensor.dimensions):
            raise self._damaged(f"a tensor has rank {tensor.rank} and {len(tensor.dimensions)} dimensions")
        shape = tuple(d.constant.size if d.WhichOneof("dimension") == "constant" else None for d in tensor.dimensions)
        variadic = any(d.unknown.variadic for d in tensor.dimensions)
        return TensorType(_FLOATS.get(kind, kind.lower()), None if variadic else shape)

    def constant(self, message: Any) -> Constant:
        declared = self.type(message.type)
        shape = tuple(n for n in declared.shape or () if n is not None)
        if declared.shape is None or len(shape) != len(declared.shape):
            raise self._damaged("a constant has a dimension of unknown length")
        if message.WhichOneof("value") == "blobFileValue":
            if declared.kind not in (*WHOLE, *PACKED):
                return Constant(declared, None)
            place = message.blobFileValue
            # '@model_path/weights/weight.bin': the files all lie in one folder.
            file: BlobFile = self.blobs(place.fileName.rpartition("/")[2])
            return Constant(declared, file.read(place.offset, declared.kind, shape))
        return Constant(declared, self._immediate(message.immediateValue, declared.kind, shape))

    def _immediate(self, message: Any, kind: str, shape: tuple[int, ...]) -> NDArray[Any] | str | None:
        if message.WhichOneof("value") != "tensor":
            return None
        field = message.tensor.WhichOneof("value")
        if kind not in _IMMEDIATE.get(field, ()):
            return None
        values = getattr(message.tensor, field).values
        count = int(np.prod(shape, dtype=np.int64))
        if kind == "string":
            if len(values) != 1:
                raise self._damaged(f"a text holds {len(values)} values")
            return str(values[0])
        if field == "bytes":
            if len(values) != bytes_of(kind, count):
                raise self._damaged(f"a constant of {count} elements of {kind} holds {len(values)} bytes")
            return decode(np.frombuffer(values, np.uint8), kind, shape)
        try:
            return np.array(values, _NUMPY[kind]).reshape(shape)
        except ValueError as error:
            raise self._damaged(f"a constant of {count} elements of {kind} holds others ({error})") from error

    def _damaged(self, why: str) -> UsageError:
        return UsageError(f"'{self.path}' is damaged: {why}. Convert it again.")
