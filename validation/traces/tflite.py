"""TFLite files on LiteRT with XNNPACK, each operator a delegate's call of its own.

A delegate keeps what goes in and out of it; handed one operator at a time it keeps everything, and computes the same as
when it is handed the whole graph.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata as installed
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mobileseg.errors import MissingExtraError
from mobileseg.types import TensorSpec
from mobileseg.validation.graphs.tflite import DELEGATE
from mobileseg.validation.runners.tflite import tensor_spec
from mobileseg.validation.traces.base import Kept, Step, Trace, fed, on_steps

if TYPE_CHECKING:
    from numpy.typing import NDArray

_WIDEN = "DEQUANTIZE"
_OPTIONAL = -1
"""The index of an input that is left out."""


def trace(path: Path, tensor: NDArray[Any], folder: Path) -> Trace:
    """Raises `MissingExtraError` without ai-edge-litert: the older runtime does not list its operators."""
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ModuleNotFoundError as error:
        raise MissingExtraError("tflite", error.name or "ai_edge_litert") from error
    with warnings.catch_warnings():
        # That keeping all tensors takes memory.
        warnings.simplefilter("ignore")
        interpreter = Interpreter(
            model_content=path.read_bytes(),
            num_threads=1,
            experimental_preserve_all_tensors=True,
            experimental_disable_delegate_node_fusion=True,
        )
    interpreter.allocate_tensors()
    source = interpreter.get_input_details()[0]["index"]
    interpreter.set_tensor(source, tensor)
    interpreter.invoke()
    details = {int(d["index"]): d for d in interpreter.get_tensor_details()}
    steps = fed(
        [
            Step(
                index=operator["index"],
                operator=operator["op_name"],
                name=details[int(operator["outputs"][0])]["name"],
                inputs=tuple(str(i) for i in operator["inputs"] if i != _OPTIONAL),
                outputs=tuple(str(i) for i in operator["outputs"]),
            )
            for operator in interpreter._get_ops_details()
            if operator["op_name"] != DELEGATE
        ],
        {str(source)},
    )
    kept = Kept(folder)
    keys = [str(source), *(key for step in steps for key in step.outputs)]
    for key in keys:
        kept.write(key, interpreter.get_tensor(int(key)))
    return Trace(
        runtime=f"ai-edge-litert {installed.version('ai-edge-litert')} (XNNPACK, one operator at a time)",
        inputs=(str(source),),
        outputs=tuple(str(d["index"]) for d in interpreter.get_output_details()),
        steps=steps,
        specs={key: tensor_spec(details[int(key)]) for key in keys} | dict(_widened(steps, details)),
        kept=kept,
    )


def _widened(steps: Sequence[Step], details: Mapping[int, Any]) -> Iterator[tuple[str, TensorSpec]]:
    """Floating-point values that stand on the steps of the integers that they were."""
    for step in steps:
        if step.operator == _WIDEN:
            integer, spec = (tensor_spec(details[int(key)]) for key in (step.inputs[0], step.outputs[0]))
            yield step.outputs[0], on_steps(spec, np.dtype(integer.dtype), integer.scale, integer.zero_point)
