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
    name (ONNX: ``opset``). ``float32_share``: of the layers of an fp16 file, from the picture on, those that stay
    float32, where the target is one that ``widens``.
    """

    precision: str
    head: Head
    metadata: Mapping[str, Any]
    options: Mapping[str, Any] = field(default_factory=dict)
    float32_share: float = 0.0


@dataclass(frozen=True)
class Target:
    """``lower`` writes the file of a float program. ``precisions`` that it lists beyond the float ones are made by its
    quantizer from the fp32 file.

    ``modules``: the Python packages it needs, ``extra``: the extra that brings them. ``forbidden``: ATen operators
    that must not be left.

    ``options`` are the names in `Lowering.options` that are this target's own, ``only``: the precisions that some of
    them are for; ``check`` raises `OptionError` for values of them that it cannot honour in a precision. ``label`` is
    what a choice of options adds to the file's name (a delegate that is not the default one); such a choice is a
    backend of its own in `converters.forms.TABLE`.
    ``companions`` are the suffixes of files that ``lower`` may write beside the file, under its name.
    ``widens``: ``lower`` heeds `Lowering.float32_share`.
    """

    name: str
    suffix: str
    extra: str
    modules: tuple[str, ...]
    precisions: tuple[str, ...]
    input_layout: str
    forbidden: frozenset[str]
    lower: Callable[[RewrittenProgram, Lowering, Path], None]
    options: tuple[str, ...] = ()
    only: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    check: Callable[[Mapping[str, Any], str], None] = lambda options, precision: None
    label: Callable[[Mapping[str, Any]], str] = lambda options: ""
    companions: tuple[str, ...] = ()
    widens: bool = False

    def backend(self, options: Mapping[str, Any]) -> str:
        """The row of `converters.forms.TABLE`: ``"onnx"``, ``"executorch-vulkan"``."""
        label = self.label(options)
        return f"{self.name}-{label}" if label else self.name

    def file_name(self, stem: str, precision: str, options: Mapping[str, Any]) -> str:
        """``enet.fp32.onnx``, ``enet.fp32.vulkan.pte``."""
        return ".".join(part for part in (stem, precision, self.label(options)) if part) + self.suffix
