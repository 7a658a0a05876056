"""Post-training quantization: calibration pictures and one quantizer per target."""
