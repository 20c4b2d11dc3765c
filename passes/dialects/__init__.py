"""One file per ONNX quantization dialect, each rewriting its pattern to one canonical fake-quant."""

from kwsq.passes.dialects.normalize import DIALECTS, Normalized, normalize

__all__ = ["DIALECTS", "Normalized", "normalize"]
