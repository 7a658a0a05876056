"""What a file computes inside: each operator's results on one picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mobileseg.types import TensorSpec
from mobileseg.validation.runners.base import decode

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Step:
    """One operator of a file. ``index``: its position in the order of execution; ``operator``: in the file's own words
    (``CONV_2D``, ``Conv``, ``conv``); ``name``: what a person finds it by in the file.

    ``inputs``, ``outputs``: keys of the values that it reads, constants left out, and gives.
    """

    index: int
    operator: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class Trace:
    """A run. ``runtime``: what ran it, and how it differs from what runs the file otherwise. ``inputs``, ``outputs``:
    keys of the file's own. ``specs``: of each value, with its quantization; the layout is not known (``""``). A
    floating-point value with a scale stands on the steps of one, within ``range``: an integer's that was widened."""

    runtime: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    steps: tuple[Step, ...]
    specs: Mapping[str, TensorSpec]
    kept: Kept

    def value(self, key: str) -> NDArray[np.float32]:
        """What the value stands for (`decode`), in its own shape and layout."""
        spec, array = self.specs[key], self.kept.read(key)
        return array.astype(np.float32) if np.dtype(spec.dtype).kind == "f" else decode(array, spec)


@dataclass(frozen=True)
class Kept:
    """Arrays on disk, by key: a network's activations at full size are gigabytes."""

    folder: Path
    _names: dict[str, str] = field(default_factory=dict, repr=False)

    def write(self, key: str, array: NDArray[Any]) -> None:
        name = self._names.setdefault(key, f"{len(self._names)}.npy")
        np.save(self.folder / name, array)

    def read(self, key: str) -> NDArray[Any]:
        """The array, read when it is looked at."""
        array: NDArray[Any] = np.load(self.folder / self._names[key], mmap_mode="r")
        return array


def fed(steps: Sequence[Step], inputs: Set[str]) -> tuple[Step, ...]:
    """The steps that compute something of the picture, and of what they read the values that do: a file may also
    compute with constants. ``steps``: in the order of execution, ``inputs``: keys of the file's inputs."""
    known, found = set(inputs), list[Step]()
    for step in steps:
        read = tuple(key for key in step.inputs if key in known)
        if read:
            known.update(step.outputs)
            found.append(replace(step, inputs=read))
    return tuple(found)


def on_steps(spec: TensorSpec, integer: np.dtype[Any], scale: float | None, zero_point: int | None) -> TensorSpec:
    """Of a floating-point value that was an integer with this scale and zero point."""
    if scale is None:
        return spec
    bounds, zero = np.iinfo(integer), zero_point or 0
    span = ((int(bounds.min) - zero) * scale, (int(bounds.max) - zero) * scale)
    return replace(spec, scale=scale, zero_point=zero, range=span)
