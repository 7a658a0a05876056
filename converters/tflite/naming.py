"""Names of a .tflite's tensors: litert-torch calls them all after the module that it is handed.

What is computed is called after its operator, by number: ``conv_2d_12``.

A constant is known by its numbers: TensorFlow's converter puts the axes of weights into another order, and changes no
number of them. What it computes anew (a factor that it moves into a convolution) keeps its name.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np

from mobileseg.converters.passes.base import constant, name_of

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch.fx import GraphModule

_FEWEST = 2
"""Numbers that tell a weight from any other."""


def name_constants(model: Any, module: GraphModule) -> None:
    """Call each constant of a ``ModelT`` after the weight of ``module`` that has its numbers, in place. Two weights of
    the same numbers are one constant of the file, and the first gives the name."""
    from ai_edge_litert import schema_py_generated as schema

    weights: dict[bytes, str] = {}
    for node in module.graph.nodes:
        held, name = constant(module, node), name_of(node)
        if held is not None and name is not None and held.is_floating_point() and held.numel() >= _FEWEST:
            weights.setdefault(_numbers(held.cpu().float().numpy()), name)
    taken = Counter[str]()
    for graph in model.subgraphs:
        for tensor in graph.tensors:
            data = model.buffers[tensor.buffer].data
            if data is None or tensor.type != schema.TensorType.FLOAT32:
                continue
            name = weights.get(_numbers(np.frombuffer(np.asarray(data, np.uint8).tobytes(), np.float32)))
            if name is not None:
                tensor.name = (f"{name}_{taken[name]}" if taken[name] else name).encode()
                taken[name] += 1


def name_values(model: Any, path: str) -> None:
    """Call each computed tensor of a ``ModelT`` whose name begins with ``path`` after the operator that computes it, in
    place."""
    from ai_edge_litert import schema_py_generated as schema

    kinds = {code: name.lower() for name, code in vars(schema.BuiltinOperator).items() if not name.startswith("_")}
    for graph in model.subgraphs:
        for number, operator in enumerate(graph.operators):
            code = model.operatorCodes[operator.opcodeIndex]
            kind = kinds[max(code.builtinCode, code.deprecatedBuiltinCode)]
            for index in operator.outputs:
                if graph.tensors[index].name.startswith(path.encode()):
                    graph.tensors[index].name = f"{kind}_{number}".encode()


def _numbers(values: NDArray[np.float32]) -> bytes:
    """The same for any order of the numbers."""
    return np.sort(values, axis=None).tobytes()
