"""Accuracy of an exported model, run in ONNX Runtime with its graph optimisations off."""

from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from kwsq.models.data import LabelledFeatures

BATCH = 64


def logits(path: Path, features: NDArray[np.float32]) -> NDArray[np.float32]:
    """Run a model on features.

    Args:
        path: ONNX file with input `features` (N, bands, frames).
        features: (N, frames, bands) float32, as `kwsq.models.features` computes them.

    Returns:
        (N, classes) float32.
    """
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    channels_first = np.ascontiguousarray(features.transpose(0, 2, 1))
    batches = [channels_first[start : start + BATCH] for start in range(0, len(channels_first), BATCH)]
    return np.concatenate([session.run(None, {"features": batch})[0] for batch in batches])


def accuracy(path: Path, examples: LabelledFeatures) -> float:
    """Return the share of clips, 0..1, whose largest logit is at the label."""
    predicted = logits(path, examples.features).argmax(axis=1)
    return float((predicted == examples.labels).mean())
