"""ONNX files on ONNX Runtime's CPU provider."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mobileseg.errors import MissingExtraError, UsageError
from mobileseg.types import Placement, TensorSpec
from mobileseg.validation.runners.base import DYNAMIC, METADATA_KEY, Runner, make_runner

if TYPE_CHECKING:
    from numpy.typing import NDArray

_DTYPES = {"tensor(float)": "float32", "tensor(float16)": "float16", "tensor(double)": "float64"}


def open_runner(path: Path, placement: Placement) -> Runner:
    """Loads an ``.onnx`` file. Raises `UsageError` where it does not load, `MissingExtraError` without ONNX Runtime."""
    try:
        import onnxruntime
    except ModuleNotFoundError as error:
        raise MissingExtraError("onnx", "onnxruntime") from error
    session = _open_session(onnxruntime, path, placement.threads)
    outputs = session.get_outputs()
    input_names = [node.name for node in session.get_inputs()]

    def invoke(tensor: NDArray[Any]) -> NDArray[Any]:
        return np.asarray(session.run([outputs[0].name], {input_names[0]: tensor})[0])

    return make_runner(
        path=path,
        runtime=f"onnxruntime {onnxruntime.__version__} (CPU)",
        inputs=tuple(_tensor_spec(node) for node in session.get_inputs()),
        outputs=tuple(_tensor_spec(node) for node in outputs),
        metadata_json=session.get_modelmeta().custom_metadata_map.get(METADATA_KEY),
        invoke=invoke,
    )


def _open_session(onnxruntime: Any, path: Path, threads: int) -> Any:
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # The runtime repeats on stderr what its exception says; 4 is "fatal".
    options.log_severity_level = 4
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    # ONNX Runtime's exceptions have no base of their own.
    except (
        state.Fail,
        state.InvalidArgument,
        state.InvalidGraph,
        state.InvalidProtobuf,
        state.NoSuchFile,
        state.NotImplemented,
        state.RuntimeException,
    ) as error:
        raise UsageError(f"'{path}' does not load as an ONNX file: {error}. Convert it again.") from error


def _tensor_spec(node: Any) -> TensorSpec:
    """Named or absent axis lengths become `DYNAMIC`. The layout is not known yet."""
    dtype = _DTYPES.get(node.type, node.type.removeprefix("tensor(").removesuffix(")"))
    return TensorSpec(node.name, tuple(n if isinstance(n, int) else DYNAMIC for n in node.shape), dtype, layout="")
