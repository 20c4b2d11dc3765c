"""How weights and activations are quantized while training: straight-through, on the grids of `kwsq.ir`."""
