"""Core ML packages, loaded whole: the program with its weights, and what its description says of it.

Core ML itself exists on Apple's systems alone. What is checked elsewhere is that the package is sound, and that
program, description and metadata agree on names, types and shapes.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from mobileseg import mlpackage
from mobileseg.errors import UnavailableError, UsageError
from mobileseg.types import Placement, TensorSpec
from mobileseg.validation.runners.base import DYNAMIC, METADATA_KEY, Runner, make_runner

if TYPE_CHECKING:
    from numpy.typing import NDArray

CANNOT_RUN = (
    "Core ML exists on Apple's systems alone. A Mac runs the file: in Xcode, whose preview takes pictures, or with "
    "coremltools.models.MLModel(...).predict."
)

_IMAGE = "uint8"
"""What a `TensorSpec` calls the pixels of an image; the program sees them as float32."""

_DTYPES = {"fp32": "float32", "fp16": "float16", "fp64": "float64"}


def open_runner(path: Path, placement: Placement) -> Runner:
    """Loads an ``.mlpackage`` folder; `Runner.run` raises `UnavailableError`. An image input is uint8, NCHW.

    Raises `UsageError` where it is damaged, holds no MIL program, or is not what its description and metadata say;
    `MissingExtraError` without coremltools.
    """
    coremltools = mlpackage.import_coremltools()
    package = mlpackage.read(path)
    description, function = package.spec.description, package.function
    declared = [_declared(coremltools, feature, path) for feature in (*description.input, *description.output)]
    computed = [_computed(var) for var in (*function.inputs.values(), *function.outputs)]
    if len(declared) != len(computed) or not all(map(_agree, declared, computed)):
        raise UsageError(
            f"'{path}' is described as {_named(declared)}, and its program has {_named(computed)}. Convert it again."
        )
    split = len(description.input)

    def invoke(tensor: NDArray[Any]) -> NDArray[Any]:
        raise UnavailableError(CANNOT_RUN)

    runner = make_runner(
        path=path,
        runtime=f"coremltools {coremltools.__version__} (loads, does not run)",
        inputs=tuple(declared[:split]),
        outputs=tuple(declared[split:]),
        metadata_json=description.metadata.userDefined.get(METADATA_KEY),
        invoke=invoke,
        cannot_run=CANNOT_RUN,
    )
    _check_metadata(runner, path)
    return runner


def _declared(coremltools: Any, feature: Any, path: Path) -> TensorSpec:
    """What the description says. The layout is not known yet."""
    messages = coremltools.proto.FeatureTypes_pb2
    kind = feature.type.WhichOneof("Type")
    if kind == "imageType":
        image = feature.type.imageType
        if image.colorSpace != messages.ImageFeatureType.RGB:
            space = messages.ImageFeatureType.ColorSpace.Name(image.colorSpace)
            raise UsageError(f"'{path}' takes or gives {space} images; expected RGB. Convert it again.")
        return TensorSpec(feature.name, (1, 3, image.height, image.width), _IMAGE, layout="")
    if kind == "multiArrayType":
        array = feature.type.multiArrayType
        dtype = messages.ArrayFeatureType.ArrayDataType.Name(array.dataType).lower()
        return TensorSpec(feature.name, tuple(array.shape), "float64" if dtype == "double" else dtype, layout="")
    raise UsageError(f"'{feature.name}' of '{path}' is a {kind}; expected an image or a multi-array.")


def _computed(var: Any) -> TensorSpec:
    from coremltools.converters.mil.mil import types

    dtype = types.builtin_to_string(var.dtype)
    shape = tuple(n if isinstance(n, int) else DYNAMIC for n in var.shape)
    return TensorSpec(var.name, shape, _DTYPES.get(dtype, dtype), layout="")


def _agree(declared: TensorSpec, computed: TensorSpec) -> bool:
    dtype = "float32" if declared.dtype == _IMAGE else declared.dtype
    return (declared.name, declared.shape, dtype) == (computed.name, computed.shape, computed.dtype)


def _named(specs: list[TensorSpec]) -> str:
    return ", ".join(f"{spec.name} {spec.dtype} {spec.shape}" for spec in specs)


def _check_metadata(runner: Runner, path: Path) -> None:
    if not runner.metadata:
        return
    given, result = runner.metadata.get("input", {}), runner.outputs[0]
    size = given.get("size") if isinstance(given, dict) else None
    if size is not None and tuple(size) != runner.size:
        raise UsageError(f"The mobileseg metadata in '{path}' says {size}, its input is {runner.size}.")
    kinds = ("int32", 3) if runner.head == "argmax" else ("float32", 4)
    if (result.dtype, len(result.shape)) != kinds:
        raise UsageError(
            f"The mobileseg metadata in '{path}' says that it returns {runner.head}, its output is {_named([result])}. "
            "Convert it again."
        )
