"""The constants of XNNPACK's graph in other orders of their axes, made while the file is written.

In a graph a constant is a value with a number of ``constant_data``, whose entry names the bytes in ExecuTorch's store.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mobileseg.converters.executorch.delegates.xnnpack_orders import Order, identity, in_memory, tensor

# Bytes of an element, for types that have whole ones.
_BYTES = {
    "xnn_datatype_fp32": 4,
    "xnn_datatype_int32": 4,
    "xnn_datatype_qint32": 4,
    "xnn_datatype_fp16": 2,
    "xnn_datatype_bf16": 2,
    "xnn_datatype_qint8": 1,
    "xnn_datatype_quint8": 1,
}
_OFFSETS = "scale_buffer_idx"


@dataclass
class Constants:
    """``entries``: a graph's ``constant_data``, at whose end new ones appear. ``held``: the bytes by name, new ones
    among them."""

    entries: list[Any]
    held: dict[str, bytes]

    def turns(self, value: Any) -> bool:
        """Whether a constant can be had in every order: where its bytes are there, or are the same in each."""
        found = tensor(value)
        is_line = len([size for size in found.dims if size != 1]) <= 1
        named = self.entries[found.constant_buffer_idx].named_key
        return is_line or (found.datatype.name in _BYTES and named in self.held)

    def turned(self, value: Any, order: Order) -> int:
        """The number of a constant's bytes in an order, of all its axes or of more, the first of which it has not."""
        found = tensor(value)
        dims = aligned(found.dims, len(order))
        if in_memory(order, dims) == in_memory(identity(len(order)), dims):
            return int(found.constant_buffer_idx)
        old = self.entries[found.constant_buffer_idx]
        elements = np.frombuffer(self.held[old.named_key], f"u{_BYTES[found.datatype.name]}")
        content = elements.reshape(dims).transpose(order).tobytes()
        named = hashlib.sha256(content).hexdigest()
        numbers = [number for number, entry in enumerate(self.entries) if entry.named_key == named]
        if not numbers:
            self.held[named] = content
            self.entries.append(replace(old, named_key=named))
        return numbers[0] if numbers else len(self.entries) - 1


def aligned(dims: list[int], rank: int) -> list[int]:
    """With axes of one element in front, as operators on two values take one of fewer axes."""
    return [1] * (rank - len(dims)) + list(dims)


def without_unused(graph: Any) -> Any:
    """A graph whose constants' entries are those that its values name, numbered in turn."""
    used = {0, *(number for value in graph.xvalues for _, _, number in _named(value))}
    kept = [number for number in range(len(graph.constant_data)) if number in used]
    numbers = {old: new for new, old in enumerate(kept)}
    values = list(graph.xvalues)
    for place, value in enumerate(values):
        for part, name, number in _named(value):
            values[place] = _with(values[place], part, name, numbers[number])
    return replace(graph, xvalues=values, constant_data=[graph.constant_data[number] for number in kept])


def names(graph: Any) -> list[str]:
    """Of the bytes that a graph's constants are."""
    return [entry.named_key for entry in graph.constant_data if entry.named_key]


def _named(value: Any) -> Iterator[tuple[str, str, int]]:
    """Where a value names an entry: the table, the field, the number."""
    yield "", "constant_buffer_idx", tensor(value).constant_buffer_idx
    parameters = getattr(value.xvalue_union, "quant_params", None)
    if getattr(parameters, _OFFSETS, -1) >= 0:
        yield "quant_params", _OFFSETS, getattr(parameters, _OFFSETS)


def _with(value: Any, part: str, name: str, number: int) -> Any:
    union = value.xvalue_union
    if part:
        parameters = replace(getattr(union, part), **{name: number})
        return replace(value, xvalue_union=replace(union, **{part: parameters}))
    return changed(value, **{name: number})


def changed(value: Any, **changes: Any) -> Any:
    """A value with other fields of what all values have in common."""
    new = replace(tensor(value), **changes)
    union = value.xvalue_union
    return replace(value, xvalue_union=new if union is tensor(value) else replace(union, tensor_value=new))
