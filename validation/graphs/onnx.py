"""ONNX files, read with the onnx package."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mobileseg.errors import MissingExtraError
from mobileseg.types import NotRun
from mobileseg.validation.graphs.base import ANY_SIZE, ONE_PICTURE, Graph, Layer, counted, largest_first
from mobileseg.validation.graphs.costs import Call, Listing, Tensor, constant, counted_costs
from mobileseg.validation.graphs.rules import unknown
from mobileseg.validation.graphs.rules.onnx import DOMAINS, RULES


def read(path: Path) -> Graph:
    """Raises `MissingExtraError` without onnx."""
    try:
        import onnx
    except ModuleNotFoundError as error:
        raise MissingExtraError("onnx", "onnx") from error
    model = onnx.load(path)
    graph = model.graph
    constants = {i.name: np.asarray(onnx.numpy_helper.to_array(i)) for i in graph.initializer}
    layers, owned = [], set[str]()
    for node in graph.node:
        own = [name for name in node.input if name in constants and name not in owned]
        owned.update(own)
        if own:
            largest = max((constants[name] for name in own), key=lambda array: array.nbytes)
            size = sum(constants[name].nbytes for name in own)
            layers.append(Layer(node.name or node.output[0], node.op_type, largest.dtype.name, size))
    listed, notes = listing(model)
    operations, peak = counted_costs(listed)
    return Graph(
        operators=counted(node.op_type for node in graph.node),
        weight_bytes=sum(array.nbytes for array in constants.values()),
        layers=largest_first(layers),
        quantization=counted(array.dtype.name for array in constants.values()),
        delegation=NotRun("ONNX Runtime's CPU provider runs every operator itself"),
        operations=operations,
        peak=peak,
        notes=notes,
    )


def listing(model: Any) -> tuple[Listing, tuple[str, ...]]:
    """The operators of a model, its own functions written out, and what has to be said of them. Shapes are those that
    onnx infers."""
    import onnx
    import onnx.inliner

    if model.functions:
        model = onnx.inliner.inline_local_functions(model)
    notes = tuple(_with_one_picture(model))
    graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    tensors = {name: Tensor(None, "") for node in graph.node for name in (*node.input, *node.output)}
    tensors |= {v.name: _tensor(v.type.tensor_type) for v in (*graph.input, *graph.value_info, *graph.output)}
    held = {i.name: constant(i.dims, _dtype(i.data_type)) for i in graph.initializer}
    held |= {n.output[0]: _value(n, tensors[n.output[0]]) for n in graph.node if n.op_type == "Constant"}
    listed = Listing(
        calls=tuple(
            Call(
                operator=node.op_type,
                name=node.name or next(iter(node.output), ""),
                rule=RULES.get(node.op_type, unknown) if node.domain in DOMAINS else unknown,
                inputs={place: name for place, name in enumerate(node.input) if name},
                outputs=tuple(filter(None, node.output)),
                delegated=None,
            )
            for node in graph.node
        ),
        tensors=tensors | held,
        inputs=tuple(value.name for value in graph.input if value.name not in held),
        outputs=tuple(value.name for value in graph.output),
    )
    return listed, notes


def _with_one_picture(model: Any) -> Iterator[str]:
    """Makes the batch one where it is free."""
    held = {i.name for i in model.graph.initializer}
    free = set[bool]()
    for value in model.graph.input:
        for axis, length in enumerate(value.type.tensor_type.shape.dim):
            if value.name not in held and length.WhichOneof("value") != "dim_value":
                free.add(axis == 0)
                if axis == 0:
                    length.dim_value = 1
    if True in free:
        yield ONE_PICTURE
    if False in free:
        yield ANY_SIZE


def _tensor(kind: Any) -> Tensor:
    if not kind.HasField("shape"):
        return Tensor(None, _dtype(kind.elem_type))
    lengths = (d.dim_value if d.WhichOneof("value") == "dim_value" else None for d in kind.shape.dim)
    return Tensor(tuple(lengths), _dtype(kind.elem_type))


def _value(node: Any, inferred: Tensor) -> Tensor:
    """Of a node that is a constant: a tensor in most files, else numbers or texts, of few bytes."""
    found = next((a.t for a in node.attribute if a.name == "value"), None)
    if found is not None:
        return constant(found.dims, _dtype(found.data_type))
    return Tensor(inferred.shape, inferred.dtype, inferred.bytes or 0)


def _dtype(number: int) -> str:
    """NumPy's name of an element type; empty for an unknown one."""
    from onnx import TensorProto, helper

    if number in (TensorProto.UNDEFINED, TensorProto.STRING) or number not in TensorProto.DataType.values():
        return ""
    return str(helper.tensor_dtype_to_np_dtype(number))
