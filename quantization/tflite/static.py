"""Static int8 for a float .tflite file: weights per channel, activations per tensor, ranges from pictures.

A pass of our own over the flatbuffer. ai-edge-quantizer 0.10 knows no LEAKY_RELU, PRELU, MINIMUM or CEIL and surrounds
each with DEQUANTIZE and QUANTIZE (a third of ENet), and would quantize the masks of max-unpooling by range, which
breaks them (see `mobileseg.quantization.tflite.unpooling`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, get_args

from mobileseg.errors import unknown_option
from mobileseg.quantization.ranges import least_squares
from mobileseg.quantization.tflite.emitter import DType, Emitter
from mobileseg.quantization.tflite.flatbuffer import Graph
from mobileseg.quantization.tflite.match import match
from mobileseg.quantization.tflite.numbers import INT16
from mobileseg.quantization.tflite.observe import observe

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from mobileseg.quantization.prints import Known

RECIPE = (
    "static int8: weights symmetric per channel, activations asymmetric per tensor, "
    "ranges of least squared error over the calibration pictures"
)
WIDE = (
    "weights int8, symmetric per channel; activations int16, symmetric per tensor, of twice the extremes of the "
    "calibration pictures"
)
PLANNED = "static int8: by the plan of the program"
HEADROOM = 2.0
"""How far beyond the calibration pictures' extremes numbers of 16 bits reach: it takes one bit, of which they have
enough, and other pictures are not cut off."""


@dataclass(frozen=True)
class QuantizedModel:
    """``content``: the .tflite file. ``kept_float``: the operators that compute in float, ``"KIND: name"``.
    ``images``: how many pictures calibrated it.
    """

    content: bytes
    recipe: str
    kept_float: tuple[str, ...]
    images: int


def quantize_static(
    float_model: bytes,
    pictures: Iterable[NDArray[np.uint8]],
    *,
    input_dtype: DType = "float32",
    output_dtype: DType = "float32",
    progress: Callable[[int], None] | None = None,
) -> QuantizedModel:
    """Quantize a file whose input is the camera's picture, (1, H, W, 3) float32 in 0..255.

    ``pictures``: (H, W, 3) uint8 RGB of the file's size, taken one at a time; ``progress`` is called with the number
    done. The same pictures give the same bytes. ``input_dtype``, ``output_dtype``: of the file's tensors; integer ones
    carry scale and zero point, a uint8 input is the picture's bytes.

    Raises `OptionError` for another dtype, `PictureError` for no picture or one of another size, `UsageError` for bytes
    that are no .tflite file, `MissingExtraError` without the packages of extra ``tflite``.
    """
    _check(input_dtype, output_dtype)
    graph = Graph(float_model)
    statistics, images = observe(float_model, pictures, progress)
    # The classes' order is what counts in the output: cut off, the greatest would become equal.
    ranges = {i: (s.low, s.high) if i in graph.outputs else least_squares(s) for i, s in statistics.items()}
    emitted = Emitter(graph, ranges, input_dtype, output_dtype)
    emitted.run()
    return QuantizedModel(graph.to_bytes(), RECIPE, tuple(emitted.kept_float), images)


def quantize_wide(float_model: bytes, pictures: Iterable[NDArray[np.uint8]]) -> QuantizedModel:
    """Quantize a file to int8 weights and activations of 16 bits: symmetric, by the pictures' extremes and `HEADROOM`.
    Input and output stay float32.

    Raises as `quantize_static`.
    """
    graph = Graph(float_model)
    statistics, images = observe(float_model, pictures)
    ranges = {i: (HEADROOM * s.low, HEADROOM * s.high) for i, s in statistics.items()}
    emitted = Emitter(graph, ranges, "float32", "float32", numbers=INT16)
    emitted.run()
    return QuantizedModel(graph.to_bytes(), WIDE, tuple(emitted.kept_float), images)


def quantize_planned(
    float_model: bytes,
    known: Sequence[Known],
    picture: NDArray[np.uint8],
    *,
    input_dtype: DType = "float32",
    output_dtype: DType = "float32",
) -> QuantizedModel:
    """Quantize the file of a program by the program's plan: ``known`` is what it says of each value, with the value's
    print on ``picture`` ((H, W, 3) uint8), by which the file's tensors are recognised.

    ``input_dtype``, ``output_dtype``: as of `quantize_static`, which also says what is raised.
    """
    _check(input_dtype, output_dtype)
    graph = Graph(float_model)
    matched = match(graph, float_model, known, picture)
    emitted = Emitter(graph, matched.ranges, input_dtype, output_dtype, matched.floats)
    emitted.run()
    return QuantizedModel(graph.to_bytes(), PLANNED, tuple(emitted.kept_float), 1)


def _check(*dtypes: str) -> None:
    for dtype in dtypes:
        if dtype not in get_args(DType):
            raise unknown_option("tensor type", dtype, get_args(DType))
