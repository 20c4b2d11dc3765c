"""What an emitted artefact says of features: a file converted by kwsq's own driver, run in LiteRT."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kwsq.converter.config import ConvertOptions
from kwsq.converter.driver import run_conversion
from kwsq.converter.gate.model_pairs import load_runnable
from kwsq.ir.errors import ParityError, Problem
from kwsq.models.evaluate import logits, model_layout

PARITY_INPUTS = 8


@dataclass(frozen=True, slots=True, eq=False)
class ScoredArtefact:
    """Outputs of a model as it ships.

    Args:
        runtime: what ran it.
        model_bytes: size of the file.
        logits: (n, classes) float64 of the artefact.
        source_logits: (n, classes) float32 of its ONNX source as written, see `kwsq.models.evaluate`.
    """

    runtime: str
    model_bytes: int
    logits: NDArray[np.float64]
    source_logits: NDArray[np.float32]


def scored_artefact(model: Path, features: NDArray[np.float32], *, weight_bits: int | None) -> ScoredArtefact:
    """Convert a model and run the artefact; a float model runs as it is, in ONNX Runtime.

    Args:
        model: annotated ONNX file of the zoo.
        features: (n, frames, bands) float32.
        weight_bits: width it declares; None for a float model.

    Raises:
        ParityError: the artefact does not compute what its integer reference says.
    """
    source = logits(model, features)
    if weight_bits is None:
        return ScoredArtefact("onnxruntime", model.stat().st_size, source.astype(np.float64), source)
    options = ConvertOptions(model=model, target="neon", weight_bits=weight_bits, parity_inputs=PARITY_INPUTS)
    conversion = run_conversion(options)
    if conversion.exit_code:
        remedy = "report this model as a defect of kwsq"
        raise ParityError(Problem(model.name, "parity failed", "an artefact equal to its reference", remedy))
    artefact = conversion.artefact.proven_bytes
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.tflite"
        path.write_bytes(artefact)
        runnable = load_runnable(path, "artefact")
        found = runnable.run(model_layout(features, rank=len(runnable.spec.shape)))
    return ScoredArtefact("litert", len(artefact), found, source)
