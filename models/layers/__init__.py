"""Keras layers that train what the converter reads, and what is done to whole networks of them."""
