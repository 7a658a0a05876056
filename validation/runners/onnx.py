"""ONNX files on ONNX Runtime's CPU provider."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mobileseg.errors import MissingExtraError
from mobileseg.types import Placement, TensorSpec
from mobileseg.validation.runners.base import DYNAMIC, METADATA_KEY, Runner, does_not_load, does_not_run, make_runner

if TYPE_CHECKING:
    from numpy.typing import NDArray

_DTYPES = {"tensor(float)": "float32", "tensor(float16)": "float16", "tensor(double)": "float64"}


def open_runner(path: Path, placement: Placement) -> Runner:
    """Loads an ``.onnx`` file. Raises `UsageError` where it does not load, `MissingExtraError` without ONNX Runtime."""
    try:
        import onnxruntime
    except ModuleNotFoundError as error:
        raise MissingExtraError("onnx", "onnxruntime") from error
    faults = _faults()
    try:
        session = _open_session(onnxruntime, path, placement.threads)
        sources, outputs = session.get_inputs(), session.get_outputs()
        metadata = session.get_modelmeta().custom_metadata_map
    except faults as error:
        raise does_not_load(path, "an ONNX file", error) from error

    def invoke(tensor: NDArray[Any]) -> NDArray[Any]:
        try:
            return np.asarray(session.run([outputs[0].name], {sources[0].name: tensor})[0])
        except faults as error:
            raise does_not_run(path, error) from error

    return make_runner(
        path=path,
        runtime=f"onnxruntime {onnxruntime.__version__} (CPU)",
        inputs=tuple(_tensor_spec(node) for node in sources),
        outputs=tuple(_tensor_spec(node) for node in outputs),
        metadata_json=metadata.get(METADATA_KEY),
        invoke=invoke,
    )


def _open_session(onnxruntime: Any, path: Path, threads: int) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # The runtime repeats on stderr what its exception says; 4 is "fatal".
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _faults() -> tuple[type[Exception], ...]:
    """What the runtime raises for a file: its statuses, which have no base of their own, and what becomes of a name
    that is no text."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    found = (value for value in vars(state).values() if isinstance(value, type) and issubclass(value, Exception))
    return (*found, UnicodeDecodeError)


def _tensor_spec(node: Any) -> TensorSpec:
    """Named or absent axis lengths become `DYNAMIC`. The layout is not known yet."""
    dtype = _DTYPES.get(node.type, node.type.removeprefix("tensor(").removesuffix(")"))
    return TensorSpec(node.name, tuple(n if isinstance(n, int) else DYNAMIC for n in node.shape), dtype, layout="")
