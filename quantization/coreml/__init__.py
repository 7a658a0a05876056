"""Compressed weights for Core ML packages; activations stay float16."""

from __future__ import annotations

from mobileseg.quantization.coreml.weights import compress_weights

__all__ = ["compress_weights"]
