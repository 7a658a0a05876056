"""The graph inside a call of XNNPACK: read, and written anew so that it hands out its inner values.

A payload is a header, a flatbuffer (``XNNGraph`` of ExecuTorch's ``schema.fbs``) and constants.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from mobileseg.errors import UnavailableError
from mobileseg.validation.traces.tables import tables

BACKEND = "XnnpackBackend"
# Four bytes of nothing, the magic word, the header's own length, start and length of the flatbuffer and the constants.
_HEADER = struct.Struct("<4x4sHIIIQ")
_MAGIC, _IDENTIFIER, _ALIGNMENT = b"XH00", slice(4, 8), 16
_NONE, _NO_HANDLE = 0xFFFFFFFF, 65535
_EXTERNAL_OUTPUT = 2
# XNNDatatype -> the element type in torch's words, for those that a tensor outside can have.
_DTYPES = {1: "float32", 2: "float16", 3: "int8", 4: "uint8", 5: "int32", 12: "int32"}
# The others: with scales of their own for each channel, row or block; packed.
_STORED = {6: "int8", 7: "int32", 8: "int4", 9: "int8", 10: "int4", 11: "int8", 13: "float32", 14: "bfloat16"}


@dataclass(frozen=True)
class Value:
    """A tensor. ``dtype``: None for what only XNNPACK itself can read (numbers that are quantized as they come, packed
    ones). ``external``: its place among the call's arguments, None inside. ``constant``: whether its numbers are in the
    file; ``stored``: the element type in which it is held, whoever can read it."""

    shape: tuple[int, ...]
    dtype: str | None
    scale: float | None
    zero_point: int | None
    external: int | None
    constant: bool = False
    stored: str = ""


@dataclass(frozen=True)
class Node:
    """An operator. ``handle``: ExecuTorch's number for it, by which an ETRecord finds it; None where it has none.
    ``inputs``, ``outputs``: keys of `Network.values`, the inputs with the constants. ``order``: of the axes, where it
    transposes."""

    operator: str
    handle: int | None
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    order: tuple[int, ...] = ()


@dataclass(frozen=True)
class Network:
    """A payload's graph; ``nodes`` in the order of execution."""

    nodes: tuple[Node, ...]
    values: Mapping[int, Value]


def read(payload: bytes) -> Network:
    """Raises `UnavailableError` for a payload in the form that the first versions of ExecuTorch wrote."""
    graph = _graph(_sections(payload)[0])
    names = {number: name for name, number in vars(_tables().XNodeUnion).items() if isinstance(number, int)}
    return Network(
        nodes=tuple(_node(names[node.xnodeUnionType].removeprefix("XNN"), node) for node in graph.xnodes),
        values={_tensor(value.xvalueUnion).idOut: _value(value.xvalueUnion) for value in graph.xvalues},
    )


def handing_out(payload: bytes, keys: Sequence[int]) -> bytes:
    """The payload with values from inside as further outputs, whose places among the call's arguments come after those
    that it has, in the order of ``keys``."""
    import flatbuffers

    old, constants = _sections(payload)
    graph = _graph(old)
    tensors = {tensor.idOut: tensor for tensor in (_tensor(value.xvalueUnion) for value in graph.xvalues)}
    for key in keys:
        tensors[key].flags |= _EXTERNAL_OUTPUT
        tensors[key].externalId = graph.numExterns
        graph.numExterns += 1
    graph.outputIds = [*(graph.outputIds if graph.outputIds is not None else ()), *keys]
    builder = flatbuffers.Builder(len(payload))
    builder.Finish(graph.Pack(builder), file_identifier=old[_IDENTIFIER])
    flatbuffer = bytes(builder.Output())
    start = _aligned(_HEADER.size)
    header = _HEADER.pack(
        _MAGIC, _HEADER.size, start, len(flatbuffer), start + _aligned(len(flatbuffer)), len(constants)
    )
    return header.ljust(start, b"\0") + flatbuffer.ljust(_aligned(len(flatbuffer)), b"\0") + constants


def _aligned(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT


def _sections(payload: bytes) -> tuple[bytes, bytes]:
    """The flatbuffer and the constants."""
    magic, _, start, length, constants, size = _HEADER.unpack_from(payload)
    if magic != _MAGIC:
        raise UnavailableError(
            "The file's call of XNNPACK cannot be looked into: it is in the form that the first versions of ExecuTorch "
            "wrote. Convert the network again."
        )
    return payload[start : start + length], payload[constants : constants + size]


def _graph(flatbuffer: bytes) -> Any:
    """An object that can be changed."""
    return _tables().XNNGraphT.InitFromPackedBuf(flatbuffer)


def _tables() -> ModuleType:
    return tables("backends/xnnpack/serialization/schema.fbs")


def _tensor(union: Any) -> Any:
    """What a value with and one without quantization have in common."""
    return getattr(union, "tensorValue", union)


def _value(union: Any) -> Value:
    tensor, parameters = _tensor(union), getattr(union, "quantParams", None)
    scale, zero_point = None, None
    if isinstance(parameters, _tables().PerTensorQuantT):
        scale, zero_point = float(parameters.scale), int(parameters.zeroPoint)
    # Other parameters are a scale for each channel or row, which a runtime outside has no place for.
    readable = parameters is None or scale is not None
    return Value(
        shape=tuple(int(n) for n in tensor.dims) if tensor.dims is not None else (),
        dtype=_DTYPES.get(tensor.datatype) if readable else None,
        scale=scale,
        zero_point=zero_point,
        external=None if tensor.externalId == _NONE else int(tensor.externalId),
        constant=tensor.constantBufferIdx != 0,
        stored=(_DTYPES | _STORED).get(tensor.datatype, ""),
    )


def _node(kind: str, node: Any) -> Node:
    fields = dict(_identified(node.xnodeUnion))
    inputs = [key for name, key in fields.items() if not name.startswith("output")]
    if kind.startswith("Concatenate"):
        # A file that is older than the fifth place has 0 there.
        inputs = inputs[: int(kind.removeprefix("Concatenate"))]
    return Node(
        # The value is what comes out of the clamp.
        operator=kind if node.outputMinMax is None or kind == "Clamp" else f"{kind}+Clamp",
        handle=None if node.debugHandle == _NO_HANDLE else int(node.debugHandle),
        inputs=tuple(inputs),
        outputs=tuple(key for name, key in fields.items() if name.startswith("output")),
        order=tuple(int(axis) for axis in getattr(node.xnodeUnion, "perm", ())),
    )


def _identified(table: Any) -> Iterator[tuple[str, int]]:
    """The values that an operator's table names: its fields ``inputId``, ``filterId``, ``outputId``, ..."""
    for name, content in vars(table).items():
        if name.endswith("Id") and content != _NONE:
            yield name, int(content)
