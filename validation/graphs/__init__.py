"""Graph readers: one module an artifact kind, each of which says what is inside a file."""

from __future__ import annotations

import importlib
from pathlib import Path

from mobileseg.validation.graphs.base import Delegation, Graph, Layer

__all__ = ["GRAPHS", "Delegation", "Graph", "Layer", "read_graph"]

# Suffix of an artifact -> module with `read(path: Path) -> Graph`.
GRAPHS = {
    ".mlpackage": "mobileseg.validation.graphs.coreml",
    ".onnx": "mobileseg.validation.graphs.onnx",
    ".pte": "mobileseg.validation.graphs.executorch",
    ".tflite": "mobileseg.validation.graphs.tflite",
}


def read_graph(path: Path) -> Graph:
    """The graph of a file that is known to load. Raises `MissingExtraError` where what reads it is not installed."""
    graph: Graph = importlib.import_module(GRAPHS[path.suffix]).read(path)
    return graph
