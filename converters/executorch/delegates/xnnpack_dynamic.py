"""XNNPACK's graph with its convolutions in integers, by ranges that are found while the file runs.

Before:  x -> convolution (w float32) -> y
After:   x -> convert (to int8, by the range of x) -> convolution (w int8, a scale per output channel) -> y

What a convolution reads and its weights are integers, its bias and what it writes float32. ExecuTorch's own way, a
program with ``choose_qparams`` before each convolution, puts the transposition for a convolution whose input is not
channels-last at the program's start (1.5.1: `ChannelsLastTaggedReshapePass.input_to_nhwc` goes back until there is no
argument any more), and the file does not run. Here the float graph is changed when it is written.

Exactness: a weight is within half a step of its channel's scale, what is read within half a step of its tensor's.
Depthwise and transposed convolutions, linear layers and weights of fewer than `SMALLEST` numbers stay as they are.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from mobileseg.channel_rounding import SMALLEST, round_channels
from mobileseg.converters.executorch.delegates.xnnpack_constants import without_unused
from mobileseg.converters.executorch.delegates.xnnpack_orders import ABSENT, inputs, kind, tensor

if TYPE_CHECKING:
    from torch.fx import Node

_CONVOLUTION = "XNNConv2d"
_NO_HANDLE = 65535
# ExecuTorch's offset of a constant that is found by its name.
_NAMED = 2**64 - 1
# Of a picture's axes, height, width and channels share a range: all but the batch.
_TOGETHER = 3


def in_integers(graph: Any, data: dict[str, bytes]) -> Any:
    """An ``XNNGraph`` that computes the same with rounded numbers. ``data``: the bytes of its constants by their names;
    new ones are added."""
    return without_unused(_Rounding(graph, data, list(graph.constant_data)).run())


def rounded(node: Node) -> Node | None:
    """The weights of a node of ExecuTorch's edge dialect that `in_integers` rounds; None where it leaves them."""
    if getattr(node.target, "__name__", "") != "aten.convolution.default":
        return None
    weights, is_transposed, groups = node.args[1], node.args[6], node.args[8]
    value = weights.meta["val"]  # type: ignore[union-attr]  # a convolution's second argument is a node
    taken = not is_transposed and groups == 1 and value.numel() >= SMALLEST and value.element_size() == 4
    return weights if taken else None  # type: ignore[return-value]


@dataclass
class _Rounding:
    """``values``: the graph's by number, new ones among them. ``numbers``: a value -> its integers. ``weights``: a
    constant -> its integers."""

    graph: Any
    data: dict[str, bytes]
    entries: list[Any]
    values: dict[int, Any] = field(default_factory=dict)
    nodes: list[Any] = field(default_factory=list)
    numbers: dict[int, int] = field(default_factory=dict)
    weights: dict[int, int] = field(default_factory=dict)

    def run(self) -> Any:
        self.values = {tensor(value).id_out: value for value in self.graph.xvalues}
        for node in self.graph.xnodes:
            union = node.xnode_union
            if kind(node) == _CONVOLUTION and union.groups == 1 and self._is_large(union.filter_id):
                inside = {"input1_id": self._converted(union.input1_id), "filter_id": self._rounded(union.filter_id)}
                self.nodes.append(replace(node, xnode_union=replace(union, **inside)))
            else:
                self.nodes.append(node)
        read = {key for node in self.nodes for _, key in inputs(node)}
        values = [value for key, value in self.values.items() if key in read or key not in self.weights]
        return replace(self.graph, xnodes=self.nodes, xvalues=values, constant_data=self.entries)

    def _is_large(self, key: int) -> bool:
        found = tensor(self.values[key])
        is_float = found.datatype.name == "xnn_datatype_fp32" and found.constant_buffer_idx != 0
        return bool(is_float and math.prod(found.dims) >= SMALLEST)

    def _converted(self, key: int) -> int:
        """The integers of what is read, once for all who read it."""
        from executorch.backends.xnnpack.serialization import xnnpack_graph_schema as schema

        if key not in self.numbers:
            number = self._new(key, schema.XNNDatatype.xnn_datatype_qdint8, schema.PerTokenDynamicQuant(_TOGETHER))
            union = schema.XNNConvert(input_id=key, output_id=number, flags=0)
            self.nodes.append(schema.XNode(xnode_union=union, debug_handle=_NO_HANDLE))
            self.numbers[key] = number
        return self.numbers[key]

    def _rounded(self, key: int) -> int:
        from executorch.backends.xnnpack.serialization import xnnpack_graph_schema as schema

        if key not in self.weights:
            found = tensor(self.values[key])
            held = self.data[self.entries[found.constant_buffer_idx].named_key]
            numbers, scales = round_channels(np.frombuffer(held, np.float32).reshape(found.dims), 0)
            scaled = schema.PerChannelQuant([], 0, self._entry(scales.tobytes()), len(scales))
            new = self._new(key, schema.XNNDatatype.xnn_datatype_qcint8, scaled, self._entry(numbers.tobytes()))
            self.weights[key] = new
        return self.weights[key]

    def _new(self, like: int, datatype: Any, parameters: Any, buffer: int = 0) -> int:
        from executorch.backends.xnnpack.serialization import xnnpack_graph_schema as schema

        key = max(self.values) + 1
        plain = replace(
            tensor(self.values[like]),
            datatype=datatype,
            constant_buffer_idx=buffer,
            external_id=ABSENT,
            flags=0,
            id_out=key,
        )
        self.values[key] = schema.XValue(schema.XNNQuantizedTensorValue(plain, parameters))
        return key

    def _entry(self, content: bytes) -> int:
        from executorch.backends.xnnpack.serialization import xnnpack_graph_schema as schema

        named = hashlib.sha256(content).hexdigest()
        self.data[named] = content
        self.entries.append(schema.ConstantDataOffset(offset=_NAMED, size=len(content), named_key=named))
        return len(self.entries) - 1
