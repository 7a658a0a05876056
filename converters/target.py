"""What a target is: how a rewritten program becomes its file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from mobileseg.converters.export import RewrittenProgram
    from mobileseg.types import Head


@dataclass(frozen=True)
class Lowering:
    """What a target needs to know beside the program.

    ``metadata``: the JSON object to embed (its keys are the pipeline's). ``options``: what only one target has, by
    name (ONNX: ``opset``).
    """

    precision: str
    head: Head
    metadata: Mapping[str, Any]
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Target:
    """``lower`` writes the file of a float program. ``precisions`` that it lists beyond the float ones are made by its
    quantizer from the fp32 file.

    ``modules``: the Python packages it needs, ``extra``: the extra that brings them. ``forbidden``: ATen operators
    that must not be left. ``check`` raises `OptionError` for `Lowering.options` that the target cannot honour.
    """

    name: str
    suffix: str
    extra: str
    modules: tuple[str, ...]
    precisions: tuple[str, ...]
    input_layout: str
    forbidden: frozenset[str]
    lower: Callable[[RewrittenProgram, Lowering, Path], None]
    check: Callable[[Mapping[str, Any]], None] = lambda options: None
