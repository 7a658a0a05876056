"""Weights of a float16 Core ML package in 8 or 4 bits, or as indices into a palette of 4, 6 or 8 bits.

Only the file gets smaller: Core ML expands the weights before it computes, so nothing is calibrated. The steps are
coremltools' own passes on the loaded program; its pipeline of other passes is not run again, for it is not exact.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from math import gcd, log2
from pathlib import Path
from typing import Any

import numpy as np

from mobileseg import mlpackage
from mobileseg.errors import unknown_option
from mobileseg.quantization.coreml.palette import palette_of
from mobileseg.types import Quantized

SMALLEST = 1024
"""Weights of fewer numbers stay float16: scales, palette and their entries in the program would take what is saved."""

LEARNED = ("conv", "conv_transpose", "linear")
"""Operators whose ``weight`` is compressed. Matrices that a rewriting made are no learned weights."""

BLOCK = 32
"""How many 4-bit weights, about, share scale and zero point, which take 0.6 bits of each then. Of a convolution they
are those of one output channel and of neighbouring input channels, at all places of the window. Of ENet's weights
22.4 dB are left then; symmetrically, with 0.5 bits, 20.6 dB; with 64 in a block 21.7 dB."""

_STEPS = {"w8": 127, "w4": 7}
_OUTPUT_AXIS = {"conv_transpose": 1}


def compress_weights(
    path: Path, precision: str, planned: None = None, options: Mapping[str, Any] | None = None
) -> Quantized:
    """Compress the weights of the float16 package at ``path`` in place; its metadata and tensors stay as they are.

    ``precision``: ``"w8"`` (int8, symmetric, one scale per output channel), ``"w4"`` (int4, one scale and zero point
    per `BLOCK`; of a package for iOS 18 or later), ``"palette4"``, ``"palette6"``, ``"palette8"`` (one palette a
    weight). ``planned``: there is no plan of activations; none of the target's ``options`` changes anything. Raises
    `OptionError` for another precision, `UsageError` for a file that is no package, `MissingExtraError` without
    coremltools.
    """
    if precision not in _SCHEMES:
        raise unknown_option("compression of Core ML weights", precision, _SCHEMES)
    package = mlpackage.read(path)
    recipe, scheme = _SCHEMES[precision]
    steps = _STEPS.get(precision)
    holds = (lambda operation: True) if steps is None else functools.partial(_scales_hold, steps=steps)
    kept = tuple(_kept(package.function, holds))
    with mlpackage.quietly():
        scheme(package.program, kept)
        _rewrite(package)
    return Quantized(recipe, tuple(f"{operation.op_type}: {operation.outputs[0].name}" for operation in kept))


def _learned(function: Any) -> Iterator[Any]:
    return (o for o in function.operations if o.op_type in LEARNED and o.weight.val is not None)


def _kept(function: Any, holds: Callable[[Any], bool]) -> Iterator[Any]:
    return (o for o in _learned(function) if o.weight.val.size < SMALLEST or not holds(o))


def _scales_hold(operation: Any, steps: int) -> bool:
    """Whether the rounding of each channel's scale to float16 moves its largest weight by at most one step."""
    weight = operation.weight.val
    axis = _OUTPUT_AXIS.get(operation.op_type, 0)
    largest = np.abs(weight).max(axis=tuple(i for i in range(weight.ndim) if i != axis)).astype(np.float64)
    scale = (largest / steps).astype(np.float16).astype(np.float64)
    return bool((np.abs(scale * steps - largest) <= largest / steps).all())


def _linear(program: Any, kept: tuple[Any, ...]) -> None:
    from coremltools.optimize.coreml import OpLinearQuantizerConfig

    scheme = OpLinearQuantizerConfig(mode="linear_symmetric", dtype="int8", weight_threshold=SMALLEST - 1)
    _apply(program, "compression::linear_quantize_weights", scheme, kept)


def _blocks(program: Any, kept: tuple[Any, ...]) -> None:
    from coremltools.optimize.coreml import OpLinearQuantizerConfig

    def scheme(operation: Any) -> Any:
        return OpLinearQuantizerConfig(
            mode="linear",
            dtype="int4",
            granularity="per_block",
            block_size=_input_channels(operation),
            weight_threshold=SMALLEST - 1,
        )

    own = {o.weight.op.name: scheme(o) for o in _learned(program.functions["main"])}
    _apply(program, "compression::linear_quantize_weights", None, kept, own)


def _input_channels(operation: Any) -> int:
    """How many of them a block takes: a power of two that divides them."""
    shape = operation.weight.val.shape
    channels = shape[1 - _OUTPUT_AXIS.get(operation.op_type, 0)]
    window = max(1, operation.weight.val.size // (shape[0] * shape[1]))
    return gcd(channels, 1 << max(0, round(log2(BLOCK / window))))


def _palettes(program: Any, kept: tuple[Any, ...], *, bits: int) -> None:
    from coremltools.optimize.coreml import OpPalettizerConfig

    lookup = functools.partial(palette_of, bits=bits)
    scheme = OpPalettizerConfig(mode="custom", lut_function=lookup, weight_threshold=SMALLEST - 1)
    _apply(program, "compression::palettize_weights", scheme, kept)


def _apply(program: Any, name: str, scheme: Any, kept: tuple[Any, ...], own: Mapping[str, Any] | None = None) -> None:
    """``own``: schemes of single weights, by their names."""
    from coremltools.converters.mil.mil.passes.graph_pass import PassOption
    from coremltools.converters.mil.mil.passes.pass_registry import PASS_REGISTRY
    from coremltools.optimize.coreml import OptimizationConfig

    config = OptimizationConfig(
        op_type_configs=dict.fromkeys(LEARNED, scheme),
        op_name_configs={**(own or {}), **{operation.weight.op.name: None for operation in kept}},
    )
    compress = PASS_REGISTRY[name]
    compress.set_options([PassOption("config", config), PassOption("joint_compression", False)])
    compress.apply(program)


def _rewrite(package: mlpackage.Package) -> None:
    from coremltools import ComputeUnit, PassPipeline
    from coremltools.converters.mil.converter import mil_convert

    model = mil_convert(
        package.program,
        convert_from="milinternal",
        convert_to="mlprogram",
        specification_version=package.spec.specificationVersion,
        compute_units=ComputeUnit.ALL,
        main_pipeline=PassPipeline.EMPTY,
        model_description=package.spec.description,
        skip_model_load=True,
    )
    spec = model.get_spec()
    spec.description.CopyFrom(package.spec.description)
    mlpackage.write(spec, Path(model.weights_dir), package.path)


_SCHEMES: dict[str, tuple[str, Callable[[Any, tuple[Any, ...]], None]]] = {
    "w8": ("weights int8, symmetric, a scale per output channel; activations float16", _linear),
    "w4": (
        f"weights int4, a scale and zero point for about {BLOCK} of an output channel; activations float16",
        _blocks,
    ),
    **{
        f"palette{bits}": (
            f"weights as {bits}-bit indices into a palette each (k-means); activations float16",
            functools.partial(_palettes, bits=bits),
        )
        for bits in (4, 6, 8)
    },
}
