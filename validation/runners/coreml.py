"""Core ML packages: on macOS by Core ML itself, everywhere else by the reference executor (`validation.coreml`).

Either way the package must be sound, and program, description and metadata must agree on names, types and shapes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mobileseg import mlpackage, resources
from mobileseg.errors import UsageError, unknown_option
from mobileseg.types import Placement, TensorSpec
from mobileseg.validation.runners.base import DYNAMIC, METADATA_KEY, Opened, Runner, make_runner
from mobileseg.validation.runners.coreml_native import COMPUTE_UNITS, is_here, open_natively

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mobileseg.validation.coreml import Executor, Feature
    from mobileseg.validation.coreml.program import TensorType

NOTE = (
    "The reference executor follows the file operator by operator in PyTorch and rounds float16 values after each. "
    "Core ML's Neural Engine, GPU and CPU sum in other orders and round in other places."
)

_IMAGE = "uint8"
"""What a `TensorSpec` calls the pixels of an image; the program sees them as float32."""

_DTYPES = {"fp32": "float32", "fp16": "float16", "fp64": "float64"}
_COLOURS = ("RGB", "BGR")
_NAMED_FAULTS = 3
"""How many operators that cannot be run are named."""


def open_runner(path: Path, placement: Placement) -> Runner:
    """Loads an ``.mlpackage`` folder. An image input is uint8, NCHW, RGB.

    Raises `UsageError` where it is damaged, holds no MIL program, or is not what its description and metadata say;
    `OptionError` for unknown compute units, `MissingExtraError` without coremltools.
    """
    if placement.compute_units not in COMPUTE_UNITS:
        raise unknown_option("choice of compute units", placement.compute_units, COMPUTE_UNITS)
    mlpackage.import_coremltools()
    from mobileseg.validation.coreml import load

    executor = load(path)
    inputs, outputs = _checked(executor)
    opened = (open_natively if is_here() else by_reference)(executor, placement)
    runner = make_runner(
        path=path,
        runtime=opened.runtime,
        inputs=inputs,
        outputs=outputs,
        metadata_json=executor.description.metadata.userDefined.get(METADATA_KEY),
        invoke=opened.invoke,
        notes=opened.notes,
        cannot_run=opened.cannot_run,
    )
    _check_metadata(runner, path)
    return runner


def as_the_program_has_it(source: Feature, tensor: NDArray[Any]) -> NDArray[Any]:
    """A runner's input tensor (`Runner.encoded`) for the executor: an image's channels in the program's order."""
    return tensor[:, ::-1] if source.picture is not None and source.picture.colours == "BGR" else tensor


def by_reference(executor: Executor, placement: Placement) -> Opened:
    """A package that was read, run by the reference executor."""
    import torch

    def invoke(tensor: NDArray[Any]) -> NDArray[Any]:
        source, result = executor.inputs[0], executor.outputs[0]
        with resources.torch_threads(placement.threads):
            return executor.run({source.name: as_the_program_has_it(source, tensor)})[result.name]

    units = placement.compute_units
    ignored = () if units == COMPUTE_UNITS[0] else (f"The compute units {units} exist on macOS alone.",)
    return Opened(
        f"mobileseg reference executor for Core ML (not Core ML itself: PyTorch {torch.__version__})",
        invoke,
        (NOTE, *ignored),
        _cannot_run(executor.unsupported),
    )


def _cannot_run(unsupported: Sequence[str]) -> str:
    if not unsupported:
        return ""
    more = len(unsupported) - _NAMED_FAULTS
    named = "; ".join(unsupported[:_NAMED_FAULTS]) + (f"; and {more} more" if more > 0 else "")
    return f"The reference executor for Core ML has not: {named}. A Mac runs the file, in Xcode or with mobileseg."


def _checked(executor: Executor) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Inputs and outputs as the description and the program both have them."""
    path, program = executor.path, executor.program
    given = {value.name: value.type for value in program.inputs}
    made = given | {value.name: value.type for o in program.operations for value in o.outputs}
    inputs = [_declared(feature, path, is_input=True) for feature in executor.inputs]
    outputs = [_declared(feature, path, is_input=False) for feature in executor.outputs]
    taken = [_computed(name, kind) for name, kind in given.items()]
    returned = [_computed(name, made[name]) for name in program.outputs]
    if not (_agree(inputs, taken) and _agree(outputs, returned)):
        raise UsageError(
            f"'{path}' is described as {_named([*inputs, *outputs])}, and its program has "
            f"{_named([*taken, *returned])}. Convert it again."
        )
    return _free(inputs, taken), _free(outputs, returned)


def _declared(feature: Feature, path: Path, *, is_input: bool) -> TensorSpec:
    """What the description says. The layout is not known yet."""
    if feature.picture is None:
        return TensorSpec(feature.name, feature.shape, feature.dtype, layout="")
    if not is_input:
        raise UsageError(f"'{path}' returns an image, '{feature.name}'; expected a multi-array of classes or logits.")
    if feature.picture.colours not in _COLOURS:
        raise UsageError(f"'{path}' takes {feature.picture.colours} images; expected {' or '.join(_COLOURS)}.")
    return TensorSpec(feature.name, feature.shape, _IMAGE, layout="")


def _computed(name: str, kind: TensorType) -> TensorSpec:
    shape = tuple(DYNAMIC if n is None else n for n in kind.shape or ())
    return TensorSpec(name, shape, _DTYPES.get(kind.kind, kind.kind), layout="")


def _agree(declared: Sequence[TensorSpec], computed: Sequence[TensorSpec]) -> bool:
    found = {spec.name: spec for spec in computed}
    return len(declared) == len(found) and all(d.name in found and _same(d, found[d.name]) for d in declared)


def _same(declared: TensorSpec, computed: TensorSpec) -> bool:
    """Of a file that takes more than one size the description has one, and none of the output."""
    dtype = "float32" if declared.dtype == _IMAGE else declared.dtype
    pairs = zip(declared.shape, computed.shape, strict=False)
    fits = len(declared.shape) == len(computed.shape) and all(c in (DYNAMIC, d) for d, c in pairs)
    return dtype == computed.dtype and (fits or (not declared.shape and DYNAMIC in computed.shape))


def _free(declared: Sequence[TensorSpec], computed: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
    """As declared, in the program's shapes."""
    shapes = {spec.name: spec.shape for spec in computed}
    return tuple(TensorSpec(d.name, shapes[d.name], d.dtype, layout="") for d in declared)


def _named(specs: Sequence[TensorSpec]) -> str:
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
