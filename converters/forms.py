"""Which form each rewrite takes, by target and precision: the one table where that choice stands.

Every form of a rewrite computes the same numbers; they differ in what a backend runs fast, or at all. A new target or
precision is one line of `TABLE`; a new form is one function in its pass and one word here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal


@dataclass(frozen=True)
class Forms:
    """One word per rewrite.

    ``mask``: how "this element is not its window's maximum" becomes a number (`passes.rewrite_unpooling`). ``blocks``:
    how s x s blocks of pixels are taken apart and put together (`passes.blocks`). ``prelu``: a PReLU with one slope
    per channel (`passes.rewrite_prelu`). ``transposed_convolution``: as it is, or as a convolution and an interleaving
    (`passes.rewrite_transposed_convolution`). ``adaptive_pooling``, ``channel_shuffle``: in which memory order the
    matrix products and the transposition are written.
    """

    mask: Literal["ceil", "sign"]
    blocks: Literal["channels_last", "channels_first"]
    prelu: Literal["native", "maximum"]
    transposed_convolution: Literal["native", "convolution"]
    adaptive_pooling: Literal["channels_last", "channels_first"]
    channel_shuffle: Literal["channels_last", "channels_first"]


_TFLITE = Forms(
    mask="ceil",
    blocks="channels_last",
    prelu="native",
    transposed_convolution="convolution",
    adaptive_pooling="channels_last",
    channel_shuffle="channels_last",
)
_ONNX = Forms(
    mask="sign",
    blocks="channels_first",
    prelu="native",
    transposed_convolution="native",
    adaptive_pooling="channels_first",
    channel_shuffle="channels_first",
)

TABLE: dict[tuple[str, str], Forms] = {
    ("tflite", "fp32"): _TFLITE,
    ("tflite", "fp16"): _TFLITE,
    # Quantized PReLU runs on no fast kernel, MAXIMUM does; it quantizes without a correlated pair of RELUs.
    ("tflite", "int8"): replace(_TFLITE, prelu="maximum"),
    ("onnx", "fp32"): _ONNX,
    ("onnx", "fp16"): _ONNX,
}


def forms_for(target: str, precision: str) -> Forms:
    """The line of the table; a KeyError is a target that forgot to add its own."""
    return TABLE[target, precision]
