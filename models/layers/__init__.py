"""Keras layers whose weights are quantized while they train, and what is done to whole networks of them."""
