"""Which form each rewrite takes, by target and precision: the one table where that choice stands.

Every form of a rewrite computes the same numbers; they differ in what a backend runs fast, or at all. A new target or
precision is one line of `TABLE`; a new form is one function in its pass and one word here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import inf
from typing import Literal

from mobileseg.errors import OptionError


@dataclass(frozen=True)
class Forms:
    """One word per rewrite.

    ``mask``: how "this element is not its window's maximum" becomes a number (`passes.rewrite_unpooling`). ``blocks``:
    how s x s blocks of pixels are taken apart and put together (`passes.blocks`). ``prelu``: a PReLU with one slope per
    channel (`passes.rewrite_prelu`, `passes.turn_signs`). ``transposed_convolution``: as it is, as a convolution and an
    interleaving, as one for each row of blocks, or as one only where its output padding exceeds its padding
    (`passes.rewrite_transposed_convolution`). ``adaptive_pooling`` (of resizings, too), ``channel_shuffle``: in which
    memory order, or at which rank, the matrix products and the transposition are written. ``average_pooling``: as it
    is, or what XNNPACK leaves as a depthwise convolution, or always as one (`passes.rewrite_average_pooling`).
    ``channel_reduction``: over which axis a softmax or argmax over the channels is taken
    (`passes.rewrite_channel_reduction`). ``expansion``: as it is, or as a repetition (`passes.rewrite_expansion`).
    ``nearest``: nearest resizing to a multiple as it is, or by blocks of copies (`passes.rewrite_nearest`).
    ``grouped_convolution``: of small groups, as it is, by depthwise ones or by one of all channels
    (`passes.rewrite_grouped_convolution`). ``max_pooling``: with its padding, or with its border repeated
    (`passes.rewrite_max_pooling`). ``affine``: a gain and an offset per channel as they are, as a depthwise
    convolution (of few channels by rows, or those, too, or as one for each part of a concatenation), or as one only
    before a ReLU (`passes.rewrite_affine`).
    ``smallest_gain``: what a convolution's weights may be multiplied by (`passes.move_affine`); halves become subnormal
    sooner.
    """

    mask: Literal["ceil", "sign", "scaled"]
    blocks: Literal["channels_last", "depth_to_space", "channels_first", "strided"]
    prelu: Literal["native", "maximum", "rows"]
    transposed_convolution: Literal["native", "convolution", "rows", "native_if_cropped"]
    adaptive_pooling: Literal["channels_last", "channels_first", "linear", "linear_channels_last"]
    channel_shuffle: Literal["channels_last", "channels_first", "rank_5"]
    average_pooling: Literal["native", "convolution", "always"] = "native"
    channel_reduction: Literal["native", "last_axis"] = "native"
    expansion: Literal["native", "repeat"] = "native"
    nearest: Literal["native", "blocks"] = "native"
    grouped_convolution: Literal["native", "depthwise", "dense"] = "native"
    max_pooling: Literal["native", "repeated_border"] = "native"
    affine: Literal["native", "depthwise", "convolution", "parts", "rectified"] = "native"
    smallest_gain: float = 0.0


_TFLITE = Forms(
    mask="ceil",
    blocks="depth_to_space",
    prelu="rows",
    transposed_convolution="rows",
    adaptive_pooling="channels_last",
    channel_shuffle="channels_last",
    expansion="repeat",
    average_pooling="convolution",
    nearest="blocks",
    grouped_convolution="depthwise",
    max_pooling="repeated_border",
    affine="depthwise",
)
# Quantized PReLU runs on no fast kernel, MAXIMUM does; it quantizes without a correlated pair of RELUs. Matrix products
# of two tensors and average pooling run on no fast kernel either, linear layers and convolutions do. The parts of a
# concatenation share a scale, so that gains and offsets behind it, which make their ranges alike, go in front
# (`benchmarks/int8_forms.py`).
_TFLITE_INT8 = replace(
    _TFLITE,
    prelu="maximum",
    adaptive_pooling="linear_channels_last",
    average_pooling="always",
    grouped_convolution="dense",
    affine="parts",
)
_ONNX = Forms(
    mask="sign",
    blocks="channels_first",
    prelu="native",
    transposed_convolution="native",
    adaptive_pooling="channels_first",
    channel_shuffle="channels_first",
    affine="rectified",
)
# The preprocessing stays one gain and one offset, in float32 in every precision, and the weights the network's. Each
# operator keeps the plane in its last two axes, where the Neural Engine wants it: strided slices, a concatenation
# that interleaves channels and pixel_shuffle take the place of transpositions. Core ML has PReLU and the transposed
# convolution itself; "sign" is one operator where "ceil" takes two.
_COREML = Forms(
    mask="sign",
    blocks="strided",
    prelu="native",
    transposed_convolution="native_if_cropped",
    adaptive_pooling="channels_first",
    channel_shuffle="rank_5",
    smallest_gain=inf,
)
# XNNPACK computes channels-last inside, so that channels-last blocks cost it no transposition; it has no sign, and
# nothing of what the last ones avoid. Its transposed convolution takes two to four times as long as convolutions and
# their interleaving (docs/rewriting.md): ENet's last layer 8.4 ms and 6.2, ERFNet's first 5.5 and 3.6.
_XNNPACK = Forms(
    mask="ceil",
    blocks="channels_last",
    prelu="rows",
    transposed_convolution="rows",
    adaptive_pooling="linear",
    channel_shuffle="channels_last",
    average_pooling="convolution",
    channel_reduction="last_axis",
    nearest="blocks",
    grouped_convolution="depthwise",
    affine="depthwise",
)
# ExecuTorch's own kernels take any form, none of them fast.
_PORTABLE = replace(_ONNX, affine="native")
# Vulkan has neither sign nor ceil, argmax over the last axis alone, and tensors of four axes at most.
_VULKAN = replace(_PORTABLE, mask="scaled", channel_reduction="last_axis")


def _of_halves(forms: Forms) -> Forms:
    """For weights that are stored as halves: 1/255 of one would be subnormal."""
    return replace(forms, smallest_gain=max(forms.smallest_gain, 0.0625))


TABLE: dict[tuple[str, str], Forms] = {
    ("tflite", "fp32"): _TFLITE,
    ("tflite", "fp16"): _of_halves(_TFLITE),
    # Rounded weights compute as float ones do, or in convolutions alone.
    ("tflite", "w8"): _TFLITE,
    ("tflite", "dynamic"): _TFLITE,
    ("tflite", "int8"): _TFLITE_INT8,
    # DEPTH_TO_SPACE and SPACE_TO_DEPTH take no numbers of 16 bits, transpositions do.
    ("tflite", "w8a16"): replace(_TFLITE_INT8, blocks="channels_last"),
    ("onnx", "fp32"): _ONNX,
    ("onnx", "fp16"): _of_halves(_ONNX),
    ("onnx", "int8"): _ONNX,
    ("onnx", "w8"): _ONNX,
    ("onnx", "dynamic"): _ONNX,
    ("coreml", "fp32"): _COREML,
    # Compressed weights are made from the fp16 file, and compute as it does.
    **{
        ("coreml", precision): _of_halves(_COREML)
        for precision in ("fp16", "int8", "w8", "w4", "palette4", "palette6", "palette8")
    },
    ("executorch", "fp32"): _XNNPACK,
    ("executorch", "fp16"): _of_halves(_XNNPACK),
    # Rows of constants would round once more, and XNNPACK has no fast maximum of int8.
    ("executorch", "int8"): replace(_XNNPACK, prelu="native", affine="convolution"),
    ("executorch", "dynamic"): _XNNPACK,
    ("executorch-coreml", "fp32"): _COREML,
    ("executorch-coreml", "fp16"): _of_halves(_COREML),
    ("executorch-portable", "fp32"): _PORTABLE,
    ("executorch-portable", "fp16"): _of_halves(_PORTABLE),
    ("executorch-vulkan", "fp32"): _VULKAN,
    ("executorch-vulkan", "fp16"): _of_halves(_VULKAN),
}


def forms_for(target: str, precision: str) -> Forms:
    """The line of the table. Raises `OptionError` where a backend (a delegate, say) has not that precision."""
    if (target, precision) not in TABLE:
        has = ", ".join(known for backend, known in TABLE if backend == target)
        raise OptionError(
            f"{target} has no precision {precision}; expected {has}. Choose one with --precision, or another target or "
            "--delegate."
        )
    return TABLE[target, precision]
