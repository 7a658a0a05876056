"""ONNX files, read with the onnx package."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mobileseg.errors import MissingExtraError
from mobileseg.types import NotRun
from mobileseg.validation.graphs.base import Graph, Layer, counted, largest_first


def read(path: Path) -> Graph:
    """Raises `MissingExtraError` without onnx."""
    try:
        import onnx
    except ModuleNotFoundError as error:
        raise MissingExtraError("onnx", "onnx") from error
    graph = onnx.load(path).graph
    constants = {i.name: np.asarray(onnx.numpy_helper.to_array(i)) for i in graph.initializer}
    layers, owned = [], set[str]()
    for node in graph.node:
        own = [name for name in node.input if name in constants and name not in owned]
        owned.update(own)
        if own:
            largest = max((constants[name] for name in own), key=lambda array: array.nbytes)
            size = sum(constants[name].nbytes for name in own)
            layers.append(Layer(node.name or node.output[0], node.op_type, largest.dtype.name, size))
    return Graph(
        operators=counted(node.op_type for node in graph.node),
        weight_bytes=sum(array.nbytes for array in constants.values()),
        layers=largest_first(layers),
        quantization=counted(array.dtype.name for array in constants.values()),
        delegation=NotRun("ONNX Runtime's CPU provider runs every operator itself"),
    )
