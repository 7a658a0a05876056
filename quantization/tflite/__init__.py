"""Static int8 for .tflite files."""

from mobileseg.quantization.tflite.static import QuantizedModel, quantize_static

__all__ = ["QuantizedModel", "quantize_static"]
