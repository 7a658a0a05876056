"""TFLite: NHWC float32 picture in, through litert-torch, rewritten operators kept as builtins."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mobileseg.converters.target import Target
from mobileseg.errors import unknown_option

if TYPE_CHECKING:
    from pathlib import Path

    from mobileseg.converters.export import RewrittenProgram
    from mobileseg.converters.target import Lowering


def _lower(rewritten: RewrittenProgram, lowering: Lowering, path: Path) -> None:
    from mobileseg.converters.tflite.lower import lower

    lower(rewritten, lowering, path)


DTYPES = ("float32", "int8", "uint8")
"""Of the input and the output of an int8 file."""


def check(options: Mapping[str, Any], precision: str) -> None:
    """Raises `OptionError` for a type that is none of `DTYPES`."""
    for name in ("input_dtype", "output_dtype"):
        if options.get(name, DTYPES[0]) not in DTYPES:
            raise unknown_option(f"type of --{name.replace('_', '-')}", str(options[name]), DTYPES)


TARGET = Target(
    name="tflite",
    suffix=".tflite",
    extra="tflite",
    modules=("litert_torch", "ai_edge_litert"),
    precisions=("fp32", "fp16", "int8", "w8a16", "w8", "dynamic"),
    input_layout="NHWC",
    forbidden=frozenset({"max_unpool2d", "max_pool2d_with_indices", "scatter", "index_put", "gather"}),
    lower=_lower,
    options=("input_dtype", "output_dtype"),
    only={"input_dtype": ("int8",), "output_dtype": ("int8",)},
    check=check,
)
