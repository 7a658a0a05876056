"""The graph inside a call of Vulkan.

A payload is a header, a flatbuffer (``VkGraph`` of ExecuTorch's ``schema.fbs``) and constants.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mobileseg.errors import UnavailableError
from mobileseg.validation.traces.tables import tables
from mobileseg.validation.wiring.base import Operator, Value, Wiring

# Four bytes of nothing, the magic word, the header's own length, start and length of the flatbuffer.
_HEADER, _MAGIC = struct.Struct("<4x4sHII"), b"VH00"
_SCHEMA = "backends/vulkan/serialization/schema.fbs"
_PREPACK = "et_vk.prepack.default"
_TRANSPOSE = "aten.permute_copy.default"


def read(payload: bytes) -> tuple[Wiring, tuple[str, ...]]:
    """The operators of a payload, without those that pack a constant, and the keys of its inputs, in the order of the
    call's arguments. A value's ``dtype`` says where and how it is packed, too: ``"float32, texture_3d,
    tensor_width_packed"``. Raises `UnavailableError` for a payload in another form."""
    magic, _, start, length = _HEADER.unpack_from(payload)
    if magic != _MAGIC:
        raise UnavailableError(
            "The file's call of Vulkan cannot be looked into: its form is unknown. Convert it again."
        )
    classes = tables(_SCHEMA)
    graph = classes.VkGraphT.InitFromPackedBuf(payload[start : start + length])
    values = {i: held.value for i, held in enumerate(graph.values)}
    tensors = {i: value for i, value in values.items() if isinstance(value, classes.VkTensorT)}
    constants = {i for i, tensor in tensors.items() if tensor.constantId >= 0}
    chain = [(call.name.decode(), [int(i) for i in call.args]) for call in graph.chain]
    constants |= {arguments[-1] for name, arguments in chain if name == _PREPACK}
    words = [_words(kind) for kind in (classes.VkDataType, classes.VkStorageType, classes.VkMemoryLayout)]

    def value(tensor: Any) -> Value:
        numbers = (tensor.datatype, tensor.storageType, tensor.memoryLayout)
        dtype = ", ".join(table[number] for table, number in zip(words, numbers, strict=True))
        return Value(tuple(int(n) for n in tensor.dims), dtype)

    wiring = Wiring(
        operators=tuple(
            Operator(
                name,
                f"operator {number}",
                tuple(str(i) for i in _tensors(values, arguments[:-1]) if i not in constants),
                tuple(map(str, _tensors(values, arguments[-1:]))),
                _order(values[arguments[1]].items) if name == _TRANSPOSE else (),
            )
            for number, (name, arguments) in enumerate(chain)
            if name != _PREPACK
        ),
        values={str(i): value(tensor) for i, tensor in tensors.items()},
        outputs=tuple(str(i) for i in graph.outputIds),
    )
    return wiring, tuple(str(i) for i in graph.inputIds)


def _tensors(values: Mapping[int, Any], arguments: Sequence[int]) -> Iterator[int]:
    for index in arguments:
        value = values[index]
        if hasattr(value, "constantId"):
            yield index
        elif type(value).__name__ == "ValueListT":
            yield from _tensors(values, [int(i) for i in value.items])


def _words(kind: Any) -> dict[int, str]:
    """Of an enumeration: number -> name."""
    return {number: name.lower() for name, number in vars(kind).items() if isinstance(number, int)}


def _order(axes: Sequence[int]) -> tuple[int, ...]:
    return tuple(int(axis) % len(axes) for axis in axes)
