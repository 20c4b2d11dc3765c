"""The model zoo: features, quantizers, training and export of keyword-spotting networks.

TensorFlow is imported only by the modules that build or train a network: `layers`, `quantizers`, `train` and
each architecture's `model`. Features, data, Lloyd-Max, export and evaluation do without it.
"""
