"""int8 for .tflite files: of weights and activations, or of weights alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mobileseg.quantization.tflite.static import QuantizedModel, quantize_planned, quantize_static
from mobileseg.quantization.tflite.weights import compress_weights
from mobileseg.types import Quantized

if TYPE_CHECKING:
    from pathlib import Path

    from mobileseg.quantization.program import Planned

__all__ = ["QuantizedModel", "compress_weights", "quantize_file", "quantize_planned", "quantize_static"]


def quantize_file(path: Path, precision: str, planned: Planned) -> Quantized:
    """`quantize_planned` of a float32 file, in place. Its one ``precision`` is ``"int8"``."""
    model = quantize_planned(path.read_bytes(), planned.known(), planned.picture)
    path.write_bytes(model.content)
    return Quantized(planned.words, model.kept_float)
