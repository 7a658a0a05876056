"""ONNX: NCHW float32 picture in, one file of standard operators, through torch.onnx's exporter and onnxsim."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mobileseg.converters.target import Target

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from typing import Any

    from mobileseg.converters.export import RewrittenProgram
    from mobileseg.converters.target import Lowering


def _lower(rewritten: RewrittenProgram, lowering: Lowering, path: Path) -> None:
    from mobileseg.converters.onnx.lower import lower

    lower(rewritten, lowering, path)


def _check(options: Mapping[str, Any], precision: str) -> None:
    from mobileseg.converters.onnx.lower import opset_of

    opset_of(options)


TARGET = Target(
    name="onnx",
    suffix=".onnx",
    extra="onnx",
    modules=("onnx", "onnxscript", "onnxsim", "onnxruntime"),
    precisions=("fp32", "fp16", "int8", "w8", "dynamic"),
    input_layout="NCHW",
    # A pooling whose indices nothing rewrote stays legal ONNX; an unpooling becomes a scatter.
    forbidden=frozenset({"max_unpool2d"}),
    lower=_lower,
    options=("opset",),
    check=_check,
    widens=True,
)
