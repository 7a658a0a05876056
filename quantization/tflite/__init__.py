"""int8 for .tflite files: of weights and activations, or of weights alone."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mobileseg.quantization.tflite.static import QuantizedModel, quantize_planned, quantize_static, quantize_wide
from mobileseg.quantization.tflite.weights import compress_weights
from mobileseg.types import Quantized

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from mobileseg.quantization.program import Planned

__all__ = [
    "QuantizedModel",
    "compress_weights",
    "quantize_file",
    "quantize_observed",
    "quantize_planned",
    "quantize_static",
    "quantize_wide",
]


def quantize_file(path: Path, precision: str, planned: Planned, options: Mapping[str, Any]) -> Quantized:
    """`quantize_planned` of a float32 file, in place. Its one ``precision`` is ``"int8"``; of the target's options it
    heeds ``input_dtype`` and ``output_dtype``."""
    dtypes = {name: options[name] for name in ("input_dtype", "output_dtype") if name in options}
    model = quantize_planned(path.read_bytes(), planned.known(), planned.picture, **dtypes)
    path.write_bytes(model.content)
    return Quantized(
        planned.words, planned.kept_float, replace(planned.findings, float_operators=len(model.kept_float))
    )


def quantize_observed(
    path: Path,
    precision: str,
    pictures: Callable[[], Iterator[NDArray[np.uint8]]],
    options: Mapping[str, Any] | None = None,
) -> Quantized:
    """`quantize_wide` of a float32 file, in place. Its one ``precision`` is ``"w8a16"``, and it has no options."""
    model = quantize_wide(path.read_bytes(), pictures())
    path.write_bytes(model.content)
    return Quantized(model.recipe, model.kept_float)
