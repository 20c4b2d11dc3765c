"""Accuracy of an exported model, run as it is written: in ONNX Runtime with its graph optimisations off.

Weights of one bit are exported in QONNX, whose operators ONNX Runtime does not know; kwsq's float executor runs such
a file, as the converter's parity does.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kwsq.converter.gate.model_pairs import load_runnable
from kwsq.ir.errors import Problem, UsageError
from kwsq.models.data.audio import CLIP_SAMPLES
from kwsq.models.data.clips import FRONT_ENDS, LabelledFeatures

BATCH = 64


def logits(path: Path, features: NDArray[np.float32]) -> NDArray[np.float32]:
    """Run a model on features.

    Args:
        path: ONNX file with input `features` (N, bands, frames) or (N, 1, frames, bands).
        features: (N, frames, bands) float32, as `kwsq.models.data.features` computes them.

    Returns:
        (N, classes) float32.

    Raises:
        ModelError: the file cannot be read or run.
        UsageError: it takes features of another shape.
    """
    model = load_runnable(path, "model")
    arranged = model_layout(features, rank=len(model.spec.shape))
    if arranged.shape[1:] != model.spec.shape[1:]:
        found, expected = (f"features of shape {shape}" for shape in (arranged.shape[1:], model.spec.shape[1:]))
        raise UsageError(Problem(path.name, found, expected, _remedy(model.spec.shape)))
    batches = [arranged[start : start + BATCH] for start in range(0, len(arranged), BATCH)]
    return np.concatenate([model.run(batch) for batch in batches]).astype(np.float32)


def _remedy(shape: tuple[int, ...]) -> str:
    """Name the front end whose features a model takes, if any."""
    for name, (compute, _) in FRONT_ENDS.items():
        one = compute(np.ones(CLIP_SAMPLES))[np.newaxis]
        if model_layout(one, rank=len(shape)).shape[1:] == shape[1:]:
            return f"name --features {name}"
    return "score it yourself and gate the score files: no front end gives these"


def model_layout(features: NDArray[np.float32], *, rank: int) -> NDArray[np.float32]:
    """Arrange (N, frames, bands) as a zoo model's input of this rank takes them.

    Args:
        features: (N, frames, bands) float32.
        rank: 3 for (N, bands, frames), 4 for (N, 1, frames, bands).

    Returns:
        Float32 of that shape.
    """
    return np.ascontiguousarray(features.transpose(0, 2, 1)) if rank == 3 else features[:, np.newaxis]


def accuracy(path: Path, examples: LabelledFeatures) -> float:
    """Return the share of clips, 0..1, whose largest logit is at the label.

    Args:
        path: ONNX file, as in `logits`.
        examples: N clips, at least one.

    Raises:
        ModelError: the file cannot be read or run.
    """
    predicted = logits(path, examples.features).argmax(axis=1)
    return float((predicted == examples.labels).mean())
