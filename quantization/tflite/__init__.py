"""Static int8 for .tflite files."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mobileseg.quantization.tflite.static import QuantizedModel, quantize_static
from mobileseg.types import Quantized

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

__all__ = ["QuantizedModel", "quantize_file", "quantize_static"]


def quantize_file(path: Path, precision: str, pictures: Iterable[NDArray[np.uint8]]) -> Quantized:
    """`quantize_static` of a float32 file, in place. Its one ``precision`` is ``"int8"``."""
    model = quantize_static(path.read_bytes(), pictures)
    path.write_bytes(model.content)
    return Quantized(model.recipe, model.kept_float)
