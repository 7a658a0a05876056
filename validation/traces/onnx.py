"""ONNX files on ONNX Runtime, every operator's results made outputs of the graph."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from mobileseg.errors import MissingExtraError
from mobileseg.types import TensorSpec
from mobileseg.validation.traces.base import Kept, Step, Trace, fed

if TYPE_CHECKING:
    from numpy.typing import NDArray


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
    kept = Kept(folder)
    given = {inputs[0]: tensor, **results}
    for key, array in given.items():
        kept.write(key, array)
    return Trace(
        runtime=f"onnxruntime {onnxruntime.__version__}, without its optimizations",
        inputs=inputs[:1],
        outputs=outputs,
        steps=steps,
        specs={key: TensorSpec(key, array.shape, array.dtype.name, layout="") for key, array in given.items()},
        kept=kept,
    )
