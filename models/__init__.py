"""The model zoo: features, quantizers, training and export of keyword-spotting networks.

TensorFlow is imported only by what builds or trains a network: `layers`, `quantizers`, `training` and each
architecture's `model`. Features, data, export and scoring do without it.
"""
