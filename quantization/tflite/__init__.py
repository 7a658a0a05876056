"""int8 for .tflite files: of weights and activations, or of weights alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mobileseg.quantization.tflite.static import QuantizedModel, quantize_planned, quantize_static, quantize_wide
from mobileseg.quantization.tflite.weights import compress_weights
from mobileseg.types import Quantized

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
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


def quantize_file(path: Path, precision: str, planned: Planned) -> Quantized:
    """`quantize_planned` of a float32 file, in place. Its one ``precision`` is ``"int8"``."""
    model = quantize_planned(path.read_bytes(), planned.known(), planned.picture)
    path.write_bytes(model.content)
    return Quantized(planned.words, model.kept_float)


def quantize_observed(path: Path, precision: str, pictures: Callable[[], Iterator[NDArray[np.uint8]]]) -> Quantized:
    """`quantize_wide` of a float32 file, in place. Its one ``precision`` is ``"w8a16"``."""
    model = quantize_wide(path.read_bytes(), pictures())
    path.write_bytes(model.content)
    return Quantized(model.recipe, model.kept_float)
