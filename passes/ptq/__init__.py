"""Post-training quantisation: a float graph and a few hundred unlabelled inputs in, quantisers and codes out."""

from kwsq.passes.ptq.options import PtqOptions, PtqRecord, PtqResult
from kwsq.passes.ptq.quantize import quantize_float_graph

__all__ = ["PtqOptions", "PtqRecord", "PtqResult", "quantize_float_graph"]
