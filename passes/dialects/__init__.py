"""One file per ONNX quantization dialect, each rewriting its pattern to one canonical fake-quant."""
