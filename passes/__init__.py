"""From ONNX bytes to an integer-only graph: load, normalise, fold, quantize, lower."""
