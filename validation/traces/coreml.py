"""Core ML packages on the reference executor."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mobileseg.types import TensorSpec
from mobileseg.validation.runners.coreml import as_the_program_has_it
from mobileseg.validation.traces.base import Kept, Step, Trace, fed

if TYPE_CHECKING:
    from numpy.typing import NDArray


def trace(path: Path, tensor: NDArray[Any], folder: Path) -> Trace:
    """Raises as `mobileseg.validation.coreml.load` does."""
    from mobileseg.validation import coreml
    from mobileseg.validation.coreml.program import references

    executor = coreml.load(path)
    source = executor.inputs[0]
    kept, specs = Kept(folder), dict[str, TensorSpec]()

    def keep(name: str, array: NDArray[Any]) -> None:
        kept.write(name, array)
        specs[name] = TensorSpec(name, array.shape, array.dtype.name, layout="")

    pixels = as_the_program_has_it(source, tensor).astype(np.dtype(source.dtype))
    keep(source.name, pixels)
    executor.run({source.name: pixels}, watch=keep)
    steps = fed(
        [
            Step(o.index, o.kind, o.outputs[0].name, tuple(references(o)), tuple(value.name for value in o.outputs))
            for o in executor.program.operations
        ],
        {source.name},
    )
    return Trace(
        runtime="the reference executor for Core ML",
        inputs=(source.name,),
        outputs=executor.program.outputs,
        steps=steps,
        specs=specs,
        kept=kept,
    )
