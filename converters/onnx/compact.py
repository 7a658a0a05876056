"""An int8 file written in few bytes.

Its conversions, two for each value, take as much room as a small network's weights. They and their results get short
names (``q14``, ``dq14``) in place of the exporter's, lose the axis that only scales per channel have, and no type is
kept of their results, which are of the shape of what they read.

The large constants of what computes in float are stored in float16, each behind a Cast, which ONNX Runtime computes
once, when it loads the file.
"""

from __future__ import annotations

from typing import Any

from mobileseg.halves import in_half, pays_in_half

PREFIXES = {"QuantizeLinear": "q", "DequantizeLinear": "dq"}

HALVED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul", "Mul", "Add"})
"""Operators of which all inputs are numbers to compute with."""


def shorten(model: Any) -> None:
    """In place. ``model``: a ModelProto without subgraphs. Names of the graph's inputs and outputs stay."""
    graph = model.graph
    kept = {value.name for value in (*graph.input, *graph.output)}
    taken = kept | {i.name for i in graph.initializer} | {o for n in graph.node for o in n.output}
    per_tensor = {i.name for i in graph.initializer if not i.dims}
    renamed: dict[str, str] = {}
    for number, node in enumerate(graph.node):
        prefix = PREFIXES.get(node.op_type)
        if prefix is None:
            continue
        name = f"{prefix}{number}"
        if node.output[0] not in kept and name not in taken:
            renamed[node.output[0]] = name
        node.name = name
        if node.input[1] in per_tensor:
            node.ClearField("attribute")
    for node in graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        node.output[:] = [renamed.get(name, name) for name in node.output]


def without_types_of_conversions(model: Any) -> None:
    """In place, once shapes are inferred."""
    results = {o for node in model.graph.node if node.op_type in PREFIXES for o in node.output}
    kept = [value for value in model.graph.value_info if value.name not in results]
    model.graph.ClearField("value_info")
    model.graph.value_info.extend(kept)


def halve_constants(model: Any) -> None:
    """In place. Large float constants that only operators of `HALVED` read become float16."""
    from onnx import TensorProto, helper, numpy_helper

    graph = model.graph
    readers: dict[str, set[str]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, set()).add(node.op_type)
    casts = []
    for held in graph.initializer:
        if held.data_type != TensorProto.FLOAT or not readers.get(held.name, {""}) <= HALVED:
            continue
        values, name = numpy_helper.to_array(held), held.name
        if pays_in_half(values):
            held.CopyFrom(numpy_helper.from_array(in_half(values), f"{name}/half"))
            casts.append(helper.make_node("Cast", [held.name], [name], to=TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    graph.ClearField("node")
    graph.node.extend(nodes)
