"""XNNPACK's graph with its operators in int8 where the program says so.

Before:  int8 -> convert -> transpose -> slice -> multiply -> convert -> int8
After:   int8 -> transpose -> slice -> multiply (in int8)            -> int8

ExecuTorch writes an operator between a dequantization and a quantization in int8 where its partitioner knows the
pattern: one reader, an operator of its list. XNNPACK runs more of them, and a program of ours has values that many
read. So all but the convolutions are handed over in float between conversions, and this takes the conversions out:

moved     a transposition, a slice, a padding, a maximum pooling of dequantized numbers moves the numbers themselves
computed  an operator of `COMPUTED` whose inputs are dequantized, and whose result is only quantized, computes in int8
joined    a concatenation likewise; its inputs are requantized to its result's scale where they have another

What else reads a dequantized number gets a conversion. Constants of one element become the number 127 (or -127) of a
scale that represents them exactly; an operator on others stays in float.

Exactness: the moves are exact; an operator in int8 rounds its result as the quantization behind it would, but for a
last level: XNNPACK multiplies by a rounded ratio of the scales. Of a conversion between two scales that ratio has
eight bits, of a product with one it has 24; so that is what requantizes.
"""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobileseg.converters.executorch.delegates.xnnpack_constants import changed, without_unused
from mobileseg.converters.executorch.delegates.xnnpack_layouts import swept
from mobileseg.converters.executorch.delegates.xnnpack_orders import (
    ABSENT,
    RESHAPE,
    SLICE,
    TRANSPOSITION,
    inputs,
    is_constant,
    kind,
    outputs,
    tensor,
)

_CONVERSION, _CEILING = "XNNConvert", "XNNCeiling"
_LEAST = -128
_FLAG = 1.0 / 255
_NO_HANDLE = 65535
# ExecuTorch's offset of a constant that is found by its name.
_NAMED = 2**64 - 1
# Of the scales of a product and its result; XNNPACK refuses others.
_RATIOS = (2.0**-16, 2.0**8)
MOVED = {TRANSPOSITION, RESHAPE, SLICE, "XNNStaticConstantPad", "XNNMaxPooling2d", "XNNCopy"}
COMPUTED = {
    f"XNN{name}"
    for name in (
        *("Add", "Subtract", "Multiply", "Maximum", "Minimum"),
        *("Clamp", "LeakyReLU", "Sigmoid", "Tanh", "ELU", "Hardswish", "Ceiling", "Abs", "Negate", "Square"),
        *("StaticResizeBilinear2D", "GlobalAvgPooling2d"),
    )
}
JOINED = {f"XNNConcatenate{count}" for count in range(2, 6)}
SAME_SCALE = {"XNNStaticResizeBilinear2D", *JOINED}
"""Operators whose inputs and result XNNPACK wants in one scale."""


def in_int8(graph: Any, data: dict[str, bytes]) -> Any:
    """An ``XNNGraph`` that computes the same in int8; the one given, unchanged, where it has no int8 value.

    ``data``: the bytes of its constants by their names; new ones are added.
    """
    if not any(_is_int8(value) for value in graph.xvalues):
        return graph
    return without_unused(swept(_Folding(graph, data).fold()))


def parameters(value: Any) -> Any:
    return getattr(value.xvalue_union, "quant_params", None)


def _is_int8(value: Any) -> bool:
    return bool(tensor(value).datatype.name == "xnn_datatype_qint8")


@dataclass
class _Folding:
    """``values``: the graph's by number, new ones among them. ``numbers``: a float value -> the int8 value whose
    dequantization it is, or an int8 one -> the one in its place. ``same``: a value that is another one now.
    ``written``: values that are there. ``twins``: an int8 value -> its dequantization."""

    graph: Any
    data: dict[str, bytes]
    values: dict[int, Any] = field(default_factory=dict)
    readers: Mapping[int, list[Any]] = field(default_factory=dict)
    entries: list[Any] = field(default_factory=list)
    nodes: list[Any] = field(default_factory=list)
    numbers: dict[int, int] = field(default_factory=dict)
    same: dict[int, int] = field(default_factory=dict)
    written: set[int] = field(default_factory=set)
    exact: dict[int, int] = field(default_factory=dict)
    flags: set[int] = field(default_factory=set)
    makers: dict[int, Any] = field(default_factory=dict)
    twins: dict[int, int] = field(default_factory=dict)

    def fold(self) -> Any:
        self.values = {tensor(value).id_out: value for value in self.graph.xvalues}
        self.entries = list(self.graph.constant_data)
        readers: dict[int, list[Any]] = defaultdict(list)
        for node in self.graph.xnodes:
            for _, key in inputs(node):
                readers[key].append(node)
        self.readers = readers
        self.makers = {key: node for node in self.graph.xnodes for _, key in outputs(node)}
        for node in self.graph.xnodes:
            self._take(node)
        for key in self.graph.output_ids:
            self._as_float(key)
        return replace(self.graph, xnodes=self.nodes, xvalues=list(self.values.values()), constant_data=self.entries)

    def _take(self, node: Any) -> None:
        if kind(node) == _CONVERSION:
            self._convert(node)
        elif kind(node) in MOVED and self._is_number(node.xnode_union.input_id):
            self._move(node)
        elif kind(node) == _CEILING and self._difference(node) is not None:
            self._flag(node, self._difference(node))
        elif kind(node) == "XNNMultiply" and all(key in self.flags for _, key in inputs(node)):
            self._both(node)
        else:
            result = self._result(node)
            if result is None:
                self._leave(node)
            else:
                self._compute(node, result)

    def _is_number(self, key: int) -> bool:
        return key in self.numbers and tensor(self.values[key]).external_id == ABSENT

    def _convert(self, node: Any) -> None:
        source, result = node.xnode_union.input_id, node.xnode_union.output_id
        if _is_int8(self.values[source]) and not _is_int8(self.values[result]):
            self.numbers[result] = self.numbers.get(source, self.same.get(source, source))
            return
        number = self.numbers.get(source)
        if not _is_int8(self.values[result]) or number is None:
            self._leave(node)
        elif parameters(self.values[number]) == parameters(self.values[result]):
            self.same[result] = number
        else:
            self._requantize(number, result)

    def _requantize(self, number: int, result: int) -> None:
        """Into another scale: by a conversion where the ratio is beyond what a product can have."""
        from executorch.backends.xnnpack.serialization import xnnpack_graph_schema as schema

        ratio = parameters(self.values[number]).scale / parameters(self.values[result]).scale
        union: Any = schema.XNNConvert(input_id=number, output_id=result, flags=0)
        if _RATIOS[0] <= ratio < _RATIOS[1]:
            union = schema.XNNMultiply(input1_id=number, input2_id=self._one(), output_id=result, flags=0)
        self._write(schema.XNode(xnode_union=union, debug_handle=_NO_HANDLE))

    def _move(self, node: Any) -> None:
        union = node.xnode_union
        number = self.numbers[union.input_id]
        new = self._new(number, tensor(self.values[union.output_id]).dims)
        self.numbers[union.output_id] = new
        if union.input_id in self.flags:
            self.flags.add(union.output_id)
        self._write(replace(node, xnode_union=replace(union, input_id=number, output_id=new)))

    def _difference(self, ceiling: Any) -> Any:
        """The subtraction of two numbers of one scale behind ceil(min(a - b, 1))."""
        limit = self.makers.get(ceiling.xnode_union.input_id)
        if limit is None:
            return None
        if kind(limit) == "XNNMinimum":
            sources = [key for _, key in inputs(limit) if not self._is_one(key)]
        elif kind(limit) == "XNNClamp" and float(limit.output_min_max.output_max) == 1.0:
            sources = [limit.xnode_union.input_id]
        else:
            return None
        found = self.makers.get(sources[0]) if len(sources) == 1 else None
        if found is None or kind(found) != "XNNSubtract" or not all(key in self.numbers for _, key in inputs(found)):
            return None
        first, second = (parameters(self.values[self.numbers[key]]) for _, key in inputs(found))
        return found if first == second else None

    def _is_one(self, key: int) -> bool:
        value = self.values[key]
        if not is_constant(value) or math.prod(tensor(value).dims) != 1:
            return False
        held = self.data[self.entries[tensor(value).constant_buffer_idx].named_key]
        return bool(np.frombuffer(held, np.float32)[0] == 1.0)

    def _flag(self, node: Any, subtraction: Any) -> None:
        """One level of difference is at least 1 after the ceiling, and 1 is the last level of what it writes."""
        first, second = (self.numbers[key] for _, key in inputs(subtraction))
        dims = tensor(self.values[node.xnode_union.output_id]).dims
        scale = replace(parameters(self.values[first]), zero_point=_LEAST)
        difference = self._with_scale(self._new(first, dims), scale)
        union = replace(subtraction.xnode_union, input1_id=first, input2_id=second, output_id=difference)
        self._write(replace(subtraction, xnode_union=union))
        flag = self._with_scale(self._new(first, dims), replace(scale, scale=_FLAG))
        self._write(replace(node, xnode_union=replace(node.xnode_union, input_id=difference, output_id=flag)))
        self._is_flag(node.xnode_union.output_id, flag)

    def _both(self, node: Any) -> None:
        first, second = (self.numbers[key] for _, key in inputs(node))
        new = self._new(first, tensor(self.values[node.xnode_union.output_id]).dims)
        union = replace(node.xnode_union, input1_id=first, input2_id=second, output_id=new)
        self._write(replace(node, xnode_union=union))
        self._is_flag(node.xnode_union.output_id, new)

    def _is_flag(self, key: int, number: int) -> None:
        self.numbers[key] = number
        self.flags.add(key)

    def _with_scale(self, key: int, scale: Any) -> int:
        value = self.values[key]
        self.values[key] = replace(value, xvalue_union=replace(value.xvalue_union, quant_params=scale))
        return key

    def _result(self, node: Any) -> int | None:
        """The int8 value that an operator can write at once; None where it stays in float."""
        if kind(node) not in COMPUTED | JOINED:
            return None
        ((_, key),) = outputs(node)
        reached = None if _is_int8(self.values[key]) else self._reached(key)
        if not reached or any(parameters(self.values[n]) != parameters(self.values[reached[0]]) for n in reached):
            return None
        for _, source in inputs(node):
            if source not in self.numbers and not self._is_exact(source):
                return None
        if any(kind(n) == _CONVERSION for n in self.readers[key]):
            return reached[0]
        return self._new(reached[0], tensor(self.values[key]).dims)

    def _reached(self, key: int) -> list[int] | None:
        """The int8 values that a float one becomes, at once (these first) or moved; None where anything else reads
        it."""
        if tensor(self.values[key]).external_id != ABSENT:
            return None
        found: list[int] = []
        for node in sorted(self.readers[key], key=lambda node: kind(node) != _CONVERSION):
            result = node.xnode_union.output_id
            if kind(node) == _CONVERSION and _is_int8(self.values[result]):
                found.append(result)
                continue
            further = self._reached(result) if kind(node) in MOVED else None
            if not further:
                return None
            found += further
        return found

    def _is_exact(self, key: int) -> bool:
        """Whether this is a constant of one number."""
        value = self.values[key]
        is_float = is_constant(value) and tensor(value).datatype.name == "xnn_datatype_fp32"
        return is_float and math.prod(tensor(value).dims) == 1

    def _compute(self, node: Any, result: int) -> None:
        ((name, key),) = outputs(node)
        new = {name: result}
        for source_name, source in inputs(node):
            number = self.numbers[source] if source in self.numbers else self._constant(source)
            if kind(node) in SAME_SCALE:
                number = self._in_scale_of(number, result)
            new[source_name] = number
        self.numbers[key] = result
        self._write(replace(node, xnode_union=replace(node.xnode_union, **new)))

    def _in_scale_of(self, number: int, result: int) -> int:
        if parameters(self.values[number]) == parameters(self.values[result]):
            return number
        new = self._new(result, tensor(self.values[number]).dims)
        self._requantize(number, new)
        return new

    def _constant(self, key: int) -> int:
        if key not in self.exact:
            old = tensor(self.values[key])
            numbers = np.frombuffer(self.data[self.entries[old.constant_buffer_idx].named_key], np.float32)
            step = float(np.float32(np.abs(numbers).max() / 127)) or 1.0
            self.exact[key] = self._written_constant(np.round(numbers / step).astype(np.int8), step, old.dims)
        return self.exact[key]

    def _one(self) -> int:
        if ABSENT not in self.exact:
            self.exact[ABSENT] = self._written_constant(np.ones(1, np.int8), 1.0, [1])
        return self.exact[ABSENT]

    def _written_constant(self, numbers: NDArray[np.int8], step: float, dims: list[int]) -> int:
        from executorch.backends.xnnpack.serialization import xnnpack_graph_schema as schema

        content = numbers.tobytes()
        named = hashlib.sha256(content).hexdigest()
        self.data[named] = content
        self.entries.append(schema.ConstantDataOffset(offset=_NAMED, size=len(content), named_key=named))
        key = max(self.values) + 1
        kind_of = schema.XNNDatatype.xnn_datatype_qint8
        value = schema.XNNTensorValue(kind_of, len(dims), list(dims), len(self.entries) - 1, ABSENT, 0, key)
        self.values[key] = schema.XValue(schema.XNNQuantizedTensorValue(value, schema.PerTensorQuant(step, 0)))
        return key

    def _leave(self, node: Any) -> None:
        in_int8 = all(_is_int8(self.values[key]) for _, key in outputs(node))
        renamed = {}
        for name, key in inputs(node):
            if key in self.numbers and _is_int8(self.values[key]):
                renamed[name] = self.numbers[key] if in_int8 else self._twin(key)
                continue
            self._as_float(key)
            renamed[name] = self.same.get(key, key)
        self._write(replace(node, xnode_union=replace(node.xnode_union, **renamed)))

    def _twin(self, key: int) -> int:
        """The float value of a padding that ExecuTorch has written in int8, whatever reads it."""
        from executorch.backends.xnnpack.serialization import xnnpack_graph_schema as schema

        if key not in self.twins:
            self.twins[key] = twin = max(self.values) + 1
            of_floats = schema.XNNDatatype.xnn_datatype_fp32
            value = replace(tensor(self.values[key]), datatype=of_floats, external_id=ABSENT, flags=0, id_out=twin)
            self.values[twin] = schema.XValue(value)
            union = schema.XNNConvert(input_id=self.numbers[key], output_id=twin, flags=0)
            self._write(schema.XNode(xnode_union=union, debug_handle=_NO_HANDLE))
        return self.twins[key]

    def _as_float(self, key: int) -> None:
        if key not in self.numbers or key in self.written:
            return
        from executorch.backends.xnnpack.serialization.xnnpack_graph_schema import XNNConvert, XNode

        union = XNNConvert(input_id=self.numbers[key], output_id=key, flags=0)
        self._write(XNode(xnode_union=union, debug_handle=_NO_HANDLE))

    def _write(self, node: Any) -> None:
        self.nodes.append(node)
        self.written.update(key for _, key in outputs(node))

    def _new(self, like: int, dims: list[int]) -> int:
        key = max(self.values) + 1
        self.values[key] = changed(
            self.values[like], num_dims=len(dims), dims=list(dims), external_id=ABSENT, flags=0, id_out=key
        )
        return key
