"""What all runners share: from pictures to an artifact's input tensor, from its output tensor to logits or classes."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from mobileseg.errors import SizeError, UnavailableError, UsageError
from mobileseg.types import Artifact, Head, TensorSpec

if TYPE_CHECKING:
    from numpy.typing import NDArray

METADATA_KEY = "mobileseg"
"""Name under which every artifact carries its JSON description."""

DYNAMIC = -1
"""An axis of a `TensorSpec` whose length is set at run time."""

PIXEL_RANGE = (0.0, 255.0)

LAYOUTS = {3: ("NHW",), 4: ("NCHW", "NHWC")}
"""Layouts that a tensor of so many axes can have."""


@dataclass(frozen=True)
class Runner:
    """A loaded artifact. ``runtime``: its name and version; ``notes``: what had to be assumed about the file.

    ``invoke`` takes the input tensor and returns the first output tensor, both as the file declares them.
    ``cannot_run``: why this machine loads the file and does not run it, and what does; then `run` raises
    `UnavailableError` with it.
    """

    artifact: Artifact
    runtime: str
    notes: tuple[str, ...]
    invoke: Callable[[NDArray[Any]], NDArray[Any]]
    cannot_run: str = ""

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        return self.artifact.inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        return self.artifact.outputs

    @property
    def metadata(self) -> Mapping[str, Any]:
        return self.artifact.metadata

    @property
    def head(self) -> Head:
        """What the file returns: ``"logits"``, ``"softmax"`` or ``"argmax"``."""
        declared: Head = self.metadata.get("head", _infer_head(self.outputs[0]))
        return declared

    @property
    def raw_input(self) -> bool:
        """Whether the file takes the network's preprocessed input instead of the camera's picture."""
        return bool(self.metadata.get("raw_input", False))

    @property
    def size(self) -> tuple[int, int]:
        """Height and width that the file takes; `DYNAMIC` where any will do."""
        shape = self.inputs[0].shape
        return (shape[1], shape[2]) if self.inputs[0].layout == "NHWC" else (shape[2], shape[3])

    def run(self, pictures: NDArray[np.uint8] | NDArray[np.float32]) -> NDArray[Any]:
        """``(N, H, W, 3) uint8`` RGB pictures, or ``(N, 3, H, W) float32`` network input where `raw_input`.

        Returns ``(N, C, H', W') float32`` logits or probabilities, dequantized; ``(N, H', W') int64`` classes where
        `head` is ``"argmax"``. Raises `UsageError` for the other kind of input, `SizeError` for another size,
        `UnavailableError` where `cannot_run`.
        """
        if self.cannot_run:
            raise UnavailableError(f"'{self.artifact.path}' cannot be run here: {self.cannot_run}")
        spec, tensor = self.inputs[0], self.encoded(pictures)
        step = tensor.shape[0] if spec.shape[0] == DYNAMIC else spec.shape[0]
        if tensor.shape[0] % step:
            raise SizeError(f"'{self.artifact.path}' takes {step} pictures at a time; got {tensor.shape[0]}.")
        parts = [self.invoke(tensor[i : i + step]) for i in range(0, tensor.shape[0], step)]
        return _decode_output(np.concatenate(parts), self.outputs[0], self.head)

    def encoded(self, pictures: NDArray[np.uint8] | NDArray[np.float32]) -> NDArray[Any]:
        """What `run` feeds the file: its input tensor, as the file declares it. Raises as `run` does."""
        spec, nchw = self.inputs[0], self._as_nchw(pictures)
        if not self.raw_input and spec.range not in (None, PIXEL_RANGE):
            low, high = spec.range
            nchw = nchw * ((high - low) / PIXEL_RANGE[1]) + low
        return encode(np.ascontiguousarray(nchw.transpose(0, 2, 3, 1)) if spec.layout == "NHWC" else nchw, spec)

    def _as_nchw(self, pictures: NDArray[Any]) -> NDArray[Any]:
        expected, layout = (np.float32, "(N, 3, H, W)") if self.raw_input else (np.uint8, "(N, H, W, 3)")
        channels = 1 if self.raw_input else 3
        if pictures.ndim != 4 or pictures.dtype != expected or pictures.shape[channels] != 3:
            raise UsageError(
                f"'{self.artifact.path}' takes {np.dtype(expected)} {layout}; got {pictures.dtype} {pictures.shape}."
            )
        nchw = pictures if self.raw_input else pictures.transpose(0, 3, 1, 2)
        if any(want not in (DYNAMIC, got) for want, got in zip(self.size, nchw.shape[2:], strict=True)):
            raise SizeError(
                f"'{self.artifact.path}' takes pictures of {self.size[0]}x{self.size[1]} (height x width); "
                f"got {nchw.shape[2]}x{nchw.shape[3]}. Resize the pictures, or convert with --size."
            )
        return np.ascontiguousarray(nchw)


@dataclass(frozen=True)
class Opened:
    """What runs a file, where there is more than one that can: the parts of a `Runner` of the same names."""

    runtime: str
    invoke: Callable[[NDArray[Any]], NDArray[Any]]
    notes: tuple[str, ...] = ()
    cannot_run: str = ""


def does_not_load(path: Path, kind: str, why: object) -> UsageError:
    """The error for a file that its runtime refuses; ``why``: what the runtime says, of however many lines."""
    return UsageError(f"'{path}' does not load as {kind}: {_one_line(why)}. Convert it again.")


def does_not_run(path: Path, why: object) -> UsageError:
    """The error for a file that loads, and that its runtime gives up on a picture."""
    return UsageError(f"'{path}' loads and does not run: {_one_line(why)}. It may be damaged: convert it again.")


def _one_line(why: object) -> str:
    if isinstance(why, UnicodeDecodeError):
        return "a name in it is not text"
    return " ".join(str(why).split()).rstrip(".")


def described(
    runner: Runner,
    *,
    input_layout: str | None = None,
    input_range: tuple[float, float] | None = None,
    output_layout: str | None = None,
    head: Head | None = None,
    raw_input: bool | None = None,
    precision: str | None = None,
) -> Runner:
    """The runner of a file that does not say, or says wrongly, how it is fed and read. ``input_range``: what black and
    white are to the file. None leaves what is known.

    Raises `UsageError` for a layout that the tensor cannot have.
    """
    artifact = runner.artifact
    source, result = artifact.inputs[0], artifact.outputs[0]
    told = {"head": head, "raw_input": raw_input, "precision": precision}
    given = {key: value for key, value in told.items() if value is not None}
    changed = replace(
        artifact,
        inputs=(replace(_relaid(source, input_layout, artifact.path), range=input_range or source.range),),
        outputs=(_relaid(result, output_layout, artifact.path), *artifact.outputs[1:]),
        precision=precision or artifact.precision,
        metadata={**artifact.metadata, **given},
    )
    notes = tuple(f"{key.replace('_', ' ')} {value}: as told, not as the file says." for key, value in given.items())
    return replace(runner, artifact=changed, notes=(*runner.notes, *notes))


def _relaid(spec: TensorSpec, layout: str | None, path: Path) -> TensorSpec:
    possible = LAYOUTS.get(len(spec.shape), ())
    if layout is not None and layout not in possible:
        raise UsageError(
            f"Tensor '{spec.name}' of '{path}' has shape {spec.shape}, which cannot be {layout}; expected "
            f"{' or '.join(possible)}."
        )
    return spec if layout is None else replace(spec, layout=layout)


def encode(values: NDArray[Any], spec: TensorSpec) -> NDArray[Any]:
    """Real values to the tensor's dtype, rounding halves away from zero and saturating as TFLite's QUANTIZE does.

    An unsigned tensor without quantization parameters holds the values themselves.
    Raises `UsageError` for a signed integer tensor without them.
    """
    dtype = np.dtype(spec.dtype)
    if dtype.kind == "f":
        return values.astype(dtype)
    if spec.scale is None and dtype.kind != "u":
        raise UsageError(
            f"Input '{spec.name}' is {dtype} without a scale and zero point; convert it again, or use float."
        )
    scaled = values.astype(np.float64) / (spec.scale or 1.0)
    bounds = np.iinfo(dtype)
    rounded = np.trunc(scaled + np.copysign(0.5, scaled)) + (spec.zero_point or 0)
    quantized: NDArray[Any] = np.clip(rounded, bounds.min, bounds.max).astype(dtype)
    return quantized


def decode(tensor: NDArray[Any], spec: TensorSpec) -> NDArray[np.float32]:
    """A tensor to the real values that it stands for: ``scale * (q - zero_point)``, or the values themselves."""
    if spec.scale is None:
        return tensor.astype(np.float32)
    return ((tensor.astype(np.float64) - (spec.zero_point or 0)) * spec.scale).astype(np.float32)


def make_runner(
    path: Path,
    runtime: str,
    inputs: tuple[TensorSpec, ...],
    outputs: tuple[TensorSpec, ...],
    metadata_json: str | bytes | None,
    invoke: Callable[[NDArray[Any]], NDArray[Any]],
    notes: tuple[str, ...] = (),
    cannot_run: str = "",
) -> Runner:
    """Joins what a runtime knows of the tensors with what the file says of itself.

    Layouts come from the metadata, else from the shapes, and then the runner's notes say so.
    Raises `UsageError` for metadata that is not ours or a file that is not one picture in, one segmentation out.
    """
    if len(inputs) != 1 or len(inputs[0].shape) != 4:
        shapes = ", ".join(str(spec.shape) for spec in inputs)
        raise UsageError(f"'{path}' has inputs of shapes {shapes or 'none'}; expected one, of four axes (a picture).")
    if not outputs or len(outputs[0].shape) not in (3, 4):
        shapes = ", ".join(str(spec.shape) for spec in outputs)
        raise UsageError(f"'{path}' has outputs of shapes {shapes or 'none'}; expected a map of classes or logits.")
    metadata = _parse_metadata(metadata_json, path)
    layout_in = _declared_layout(metadata, "input") or _infer_input_layout(inputs[0], path)
    source = _with_layout(inputs[0], layout_in, path)
    if not metadata.get("raw_input"):
        source = replace(source, range=PIXEL_RANGE)
    layout_out = _declared_layout(metadata, "output") or _infer_output_layout(outputs[0], source)
    if not metadata:
        notes += (
            f"The file has no mobileseg metadata: layouts {layout_in} and {layout_out} are inferred from its shapes.",
        )
    if len(outputs) > 1:
        notes += (f"The file has {len(outputs)} outputs; the first, '{outputs[0].name}', is read.",)
    artifact = Artifact(
        path=path,
        target=str(metadata.get("target", path.suffix[1:])),
        precision=str(metadata.get("precision", "unknown")),
        inputs=(source,),
        outputs=(_with_layout(outputs[0], layout_out, path), *outputs[1:]),
        metadata=metadata,
    )
    return Runner(artifact, runtime, notes, invoke, cannot_run)


def _parse_metadata(text: str | bytes | None, path: Path) -> Mapping[str, Any]:
    if text is None:
        return {}
    try:
        metadata = json.loads(text)
    except ValueError as error:
        raise UsageError(
            f"The mobileseg metadata in '{path}' is not JSON ({error}); convert the file again."
        ) from error
    if not isinstance(metadata, dict) or metadata.get("head", "logits") not in get_args(Head):
        raise UsageError(f"The mobileseg metadata in '{path}' is not what mobileseg writes; convert the file again.")
    return metadata


def _declared_layout(metadata: Mapping[str, Any], tensor: str) -> str | None:
    declared = metadata.get(tensor, {})
    return declared.get("layout") if isinstance(declared, dict) else None


def _infer_input_layout(spec: TensorSpec, path: Path) -> str:
    """Three channels last is NHWC, three channels second is NCHW; last where both are."""
    if spec.shape[3] == 3:
        return "NHWC"
    if spec.shape[1] == 3:
        return "NCHW"
    raise UsageError(f"Input '{spec.name}' of '{path}' has shape {spec.shape}; expected 3 channels, second or last.")


def _infer_output_layout(spec: TensorSpec, source: TensorSpec) -> str:
    """The layout under which the output's height and width stand in the input's proportion; else the input's layout."""
    if len(spec.shape) == 3:
        return "NHW"
    height, width = source.shape[1:3] if source.layout == "NHWC" else source.shape[2:4]
    fits = {
        "NHWC": spec.shape[1] * width == spec.shape[2] * height,
        "NCHW": spec.shape[2] * width == spec.shape[3] * height,
    }
    fitting = [layout for layout, fit in fits.items() if fit]
    return fitting[0] if len(fitting) == 1 and DYNAMIC not in spec.shape[1:] else source.layout


def _infer_head(spec: TensorSpec) -> Head:
    return "argmax" if len(spec.shape) == 3 or (np.dtype(spec.dtype).kind in "ui" and spec.scale is None) else "logits"


def _with_layout(spec: TensorSpec, layout: str, path: Path) -> TensorSpec:
    if layout not in LAYOUTS.get(len(spec.shape), ()):
        raise UsageError(
            f"The mobileseg metadata in '{path}' gives tensor '{spec.name}' of shape {spec.shape} the layout "
            f"'{layout}'; convert the file again."
        )
    return replace(spec, layout=layout)


def _decode_output(tensor: NDArray[Any], spec: TensorSpec, head: Head) -> NDArray[Any]:
    if head == "argmax":
        classes = tensor if tensor.ndim == 3 else tensor.squeeze(axis=3 if spec.layout == "NHWC" else 1)
        return classes.astype(np.int64)
    values = decode(tensor, spec)
    return np.ascontiguousarray(values.transpose(0, 3, 1, 2)) if spec.layout == "NHWC" else values
