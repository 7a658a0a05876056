"""TFLite files on the LiteRT interpreter, with its default XNNPACK delegate."""

from __future__ import annotations

import importlib
from importlib import metadata as installed
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mobileseg.errors import MissingExtraError
from mobileseg.types import Placement, TensorSpec
from mobileseg.validation.runners.base import METADATA_KEY, Runner, does_not_load, does_not_run, make_runner
from mobileseg.validation.runners.tflite_metadata import metadata_entry

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Distribution -> module with `Interpreter`; the first that is installed is used. Boards often have only the second.
INTERPRETERS = {
    "ai-edge-litert": "ai_edge_litert.interpreter",
    "tflite-runtime": "tflite_runtime.interpreter",
}


def open_runner(path: Path, placement: Placement) -> Runner:
    """Loads a ``.tflite`` file. Raises `UsageError` where it does not load, `MissingExtraError` with no interpreter."""
    distribution, interpreter_class = _find_interpreter()
    content = path.read_bytes()
    try:
        interpreter = interpreter_class(model_content=content, num_threads=placement.threads)
        interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        raise does_not_load(path, "a TFLite file", error) from error
    inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()

    def invoke(tensor: NDArray[Any]) -> NDArray[Any]:
        try:
            interpreter.set_tensor(inputs[0]["index"], tensor)
            interpreter.invoke()
        except (ValueError, RuntimeError) as error:
            raise does_not_run(path, error) from error
        return np.asarray(interpreter.get_tensor(outputs[0]["index"]))

    return make_runner(
        path=path,
        runtime=f"{distribution} {installed.version(distribution)} (XNNPACK)",
        inputs=tuple(tensor_spec(details) for details in inputs),
        outputs=tuple(tensor_spec(details) for details in outputs),
        metadata_json=metadata_entry(content, METADATA_KEY),
        invoke=invoke,
    )


def _find_interpreter() -> tuple[str, Any]:
    for distribution, module in INTERPRETERS.items():
        try:
            return distribution, importlib.import_module(module).Interpreter
        except ModuleNotFoundError:
            continue
    raise MissingExtraError("tflite", "ai_edge_litert")


def tensor_spec(details: dict[str, Any]) -> TensorSpec:
    """``scale`` and ``zero_point`` are None for a tensor not quantized as a whole. The layout is not known yet."""
    quantization = details["quantization_parameters"]
    quantized = len(quantization["scales"]) == 1
    return TensorSpec(
        name=details["name"],
        shape=tuple(int(n) for n in details["shape"]),
        dtype=np.dtype(details["dtype"]).name,
        layout="",
        scale=float(quantization["scales"][0]) if quantized else None,
        zero_point=int(quantization["zero_points"][0]) if quantized else None,
    )
