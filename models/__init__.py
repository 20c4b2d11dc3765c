"""The model zoo: features, quantizers, training and export of keyword-spotting networks.

TensorFlow is imported only by what builds or trains a network: `layers`, `quantizers`, `training`, `table.row_training`
and each architecture's `model`, and by `data.record_shards`. Other data, export, scoring and the table do without it.
"""
