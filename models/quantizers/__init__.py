"""Weights and activations quantized while training, on the grids of `kwsq.ir`, and penalties that draw to them."""
