"""ONNX files on ONNX Runtime, every operator's results made outputs of the graph."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mobileseg.errors import MissingExtraError
from mobileseg.types import TensorSpec
from mobileseg.validation.traces.base import Kept, Step, Trace, fed, on_steps

if TYPE_CHECKING:
    from numpy.typing import NDArray

_NARROW, _WIDEN = "QuantizeLinear", "DequantizeLinear"


def trace(path: Path, tensor: NDArray[Any], folder: Path) -> Trace:
    """Raises `MissingExtraError` without the packages of the extra."""
    try:
        import onnx
        import onnxruntime
    except ModuleNotFoundError as error:
        raise MissingExtraError("onnx", error.name or "onnx") from error
    model = onnx.load(path)
    graph = model.graph
    constants = {initializer.name for initializer in graph.initializer}
    inputs = tuple(value.name for value in graph.input if value.name not in constants)
    outputs = tuple(value.name for value in graph.output)
    steps = fed(
        [
            Step(index, node.op_type, node.name or node.output[0], tuple(filter(None, node.input)), tuple(node.output))
            for index, node in enumerate(graph.node)
        ],
        set(inputs),
    )
    wanted = [key for step in steps for key in step.outputs if key]
    del graph.output[:]
    graph.output.extend(onnx.ValueInfoProto(name=key) for key in wanted)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    # Fusions leave values out; without them each operator is the file's own.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    results = dict(zip(wanted, session.run(wanted, {inputs[0]: tensor}), strict=True))
    given = {inputs[0]: tensor, **results}
    steps, widened = _without_integers(steps, graph, given)
    kept = Kept(folder)
    keys = [key for key in given if key in inputs or any(key in step.outputs for step in steps)]
    for key in keys:
        kept.write(key, given[key])
    return Trace(
        runtime=f"onnxruntime {onnxruntime.__version__}, without its optimizations",
        inputs=inputs[:1],
        outputs=outputs,
        steps=steps,
        specs={key: widened.get(key) or _spec(key, given[key]) for key in keys},
        kept=kept,
    )


def _spec(key: str, array: NDArray[Any]) -> TensorSpec:
    return TensorSpec(key, array.shape, array.dtype.name, layout="")


def _without_integers(
    steps: Sequence[Step], graph: Any, values: Mapping[str, NDArray[Any]]
) -> tuple[tuple[Step, ...], dict[str, TensorSpec]]:
    """A quantized file says of a value that it is made an integer and widened again: what goes on is the widened one,
    with its scale, and the operator that gives it is the one before both."""
    from onnx import numpy_helper

    constants = {i.name: numpy_helper.to_array(i) for i in graph.initializer}
    nodes = {node.output[0]: node for node in graph.node}
    made_by = {key: step for step in steps for key in step.outputs}
    readers = Counter(key for node in graph.node for key in node.input)
    gone, replaced, widened = set[int](), dict[int, Step](), dict[str, TensorSpec]()
    for step in steps:
        if step.operator != _WIDEN or step.inputs[0] not in made_by:
            continue
        narrow = made_by[step.inputs[0]]
        source = made_by.get(narrow.inputs[0]) if narrow.operator == _NARROW else None
        node = nodes[step.outputs[0]]
        if source is None or len(source.outputs) != 1 or not {*node.input[1:]} <= constants.keys():
            continue
        spec = _spec(step.outputs[0], values[step.outputs[0]])
        scale, *zero = (np.unique(constants[key]) for key in node.input[1:])
        if scale.size > 1 or any(z.size > 1 for z in zero):
            continue
        integer = values[step.inputs[0]].dtype
        widened[spec.name] = on_steps(spec, integer, float(scale[0]), int(zero[0][0]) if zero else 0)
        gone.add(narrow.index)
        if readers[source.outputs[0]] == 1:
            gone.add(step.index)
            # An integer may be widened twice: for readers that are to see one scale, and one for each channel.
            known = replaced[source.index].outputs if source.index in replaced else ()
            replaced[source.index] = replace(source, outputs=(*known, *step.outputs))
    left = (replaced.get(step.index, step) for step in steps if step.index not in gone)
    return tuple(left), widened
