"""Static int8 for .tflite files."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mobileseg.quantization.tflite.static import QuantizedModel, quantize_planned, quantize_static
from mobileseg.types import Quantized

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from mobileseg.quantization.program import Planned

__all__ = ["QuantizedModel", "quantize_file", "quantize_planned", "quantize_static"]


def quantize_file(path: Path, precision: str, planned: Planned, options: Mapping[str, Any]) -> Quantized:
    """`quantize_planned` of a float32 file, in place. Its one ``precision`` is ``"int8"``; of the target's options it
    heeds ``input_dtype`` and ``output_dtype``."""
    dtypes = {name: options[name] for name in ("input_dtype", "output_dtype") if name in options}
    model = quantize_planned(path.read_bytes(), planned.known(), planned.picture, **dtypes)
    path.write_bytes(model.content)
    return Quantized(
        planned.words, planned.kept_float, replace(planned.findings, float_operators=len(model.kept_float))
    )
