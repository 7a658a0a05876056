"""ONNX files, read with the onnx package."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mobileseg.errors import MissingExtraError
from mobileseg.validation.wiring.base import Operator, Value, Wiring


def read(path: Path) -> Wiring:
    """Raises `MissingExtraError` without onnx."""
    try:
        import onnx
    except ModuleNotFoundError as error:
        raise MissingExtraError("onnx", error.name or "onnx") from error
    graph = onnx.shape_inference.infer_shapes(onnx.load(path)).graph
    constants = {initializer.name for initializer in graph.initializer}
    constants |= {name for node in graph.node if node.op_type == "Constant" for name in node.output}
    return Wiring(
        operators=tuple(_operator(node, constants) for node in graph.node if node.op_type != "Constant"),
        values={v.name: _value(v.type.tensor_type) for v in (*graph.input, *graph.value_info, *graph.output)},
        outputs=tuple(value.name for value in graph.output),
    )


def _operator(node: Any, constants: set[str]) -> Operator:
    order = next((tuple(a.ints) for a in node.attribute if a.name == "perm"), ())
    inputs = tuple(name for name in node.input if name and name not in constants)
    return Operator(node.op_type, node.name or node.output[0], inputs, tuple(node.output), order)


def _value(tensor: Any) -> Value:
    from onnx.helper import tensor_dtype_to_np_dtype

    dtype = str(tensor_dtype_to_np_dtype(tensor.elem_type)) if tensor.elem_type else ""
    return Value(tuple(d.dim_value for d in tensor.shape.dim), dtype)
