"""TFLite: NHWC float32 picture in, through litert-torch, rewritten operators kept as builtins."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mobileseg.converters.target import Target

if TYPE_CHECKING:
    from pathlib import Path

    from mobileseg.converters.export import RewrittenProgram
    from mobileseg.converters.target import Lowering


def _lower(rewritten: RewrittenProgram, lowering: Lowering, path: Path) -> None:
    from mobileseg.converters.tflite.lower import lower

    lower(rewritten, lowering, path)


TARGET = Target(
    name="tflite",
    suffix=".tflite",
    extra="tflite",
    modules=("litert_torch", "ai_edge_litert"),
    precisions=("fp32", "fp16", "int8", "w8a16", "w8", "dynamic"),
    input_layout="NHWC",
    forbidden=frozenset({"max_unpool2d", "max_pool2d_with_indices", "scatter", "index_put", "gather"}),
    lower=_lower,
)
