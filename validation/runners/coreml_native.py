"""Core ML itself, which exists on macOS alone, through coremltools' binding to it."""

from __future__ import annotations

import importlib
import platform
import sys
from typing import TYPE_CHECKING, Any

import numpy as np

from mobileseg import mlpackage
from mobileseg.errors import UnavailableError, UsageError
from mobileseg.types import Placement
from mobileseg.validation.runners.base import Opened

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mobileseg.validation.coreml import Executor

COMPUTE_UNITS = ("all", "cpu_only", "cpu_and_gpu", "cpu_and_ne")
"""What Core ML may use, in coremltools' words; the first is the default."""

_BINDING = "coremltools.libcoremlpython"


def is_here() -> bool:
    """Whether this is macOS, and coremltools' binding to Core ML loads."""
    if sys.platform != "darwin":
        return False
    try:
        importlib.import_module(_BINDING)
    except ImportError:
        return False
    return True


def open_natively(executor: Executor, placement: Placement) -> Opened:
    """The package that ``executor`` has read, in Core ML. ``placement.compute_units`` is one of `COMPUTE_UNITS`.

    Raises `UsageError` where Core ML refuses it.
    """
    coremltools = mlpackage.import_coremltools()
    path, units = executor.path, placement.compute_units
    with mlpackage.quietly():
        model = coremltools.models.MLModel(str(path), compute_units=coremltools.ComputeUnit[units.upper()])
    if model._framework_error is not None:
        raise UsageError(f"Core ML does not load '{path}': {model._framework_error}. Convert it again.")

    def invoke(tensor: NDArray[Any]) -> NDArray[Any]:
        source, result = executor.inputs[0], executor.outputs[0]
        given = tensor if source.picture is None else _image(tensor)
        try:
            return np.asarray(model.predict({source.name: given})[result.name])
        except RuntimeError as error:
            raise UnavailableError(f"Core ML cannot run '{path}' with compute units {units}: {error}.") from error

    known = importlib.import_module(_BINDING)._MLModelProxy.maximum_supported_specification_version()
    version = model.get_spec().specificationVersion
    too_new = (
        f"It is of Core ML's version {version}, and this macOS knows {known} and older. Update macOS, or convert it "
        "with an older --deployment-target."
    )
    return Opened(
        f"Core ML of macOS {platform.mac_ver()[0]} (coremltools {coremltools.__version__}, compute units {units})",
        invoke,
        cannot_run=too_new if version > known else "",
    )


def _image(tensor: NDArray[Any]) -> Any:
    """``(1, 3, H, W) uint8`` as the picture that coremltools takes, in RGB whatever the program's order."""
    from PIL import Image

    return Image.fromarray(np.ascontiguousarray(tensor[0].transpose(1, 2, 0)))
