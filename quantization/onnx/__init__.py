"""Weights in 8 bits for .onnx files."""

from mobileseg.quantization.onnx.weights import compress_weights

__all__ = ["compress_weights"]
